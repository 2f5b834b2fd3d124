"""Batches of crops in the form in which Keras takes them."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Protocol

from tiledseg._backend import keras

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import FloatArray

__all__ = ["CropSource", "Feed"]


class CropSource(Protocol):
    """Crops by epoch and place, the same whenever they are asked for."""

    def __len__(self) -> int:
        """Count the crops of an epoch."""
        ...

    def batch(self, epoch: int, ids: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Cut images (N, h, w, C) and masks (N, h, w, K)."""
        ...


class Feed(keras.utils.PyDataset):
    """Hands crops to Keras, batch by batch; Keras asks ahead in a thread of its own.

    Parameters
    ----------
    source : CropSource
        Where crops come from.
    batch_size : int
        Crops per batch; the last one may have fewer.
    """

    def __init__(self, source: CropSource, batch_size: int) -> None:
        super().__init__()
        self._source, self._batch_size, self._epoch = source, batch_size, 0

    def start(self, epoch: int) -> None:
        """Go to an epoch, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return ceil(len(self._source) / self._batch_size)

    def __getitem__(self, place: int) -> tuple[FloatArray, FloatArray]:
        """Cut a batch."""
        first = place * self._batch_size
        return self._source.batch(self._epoch, range(first, min(first + self._batch_size, len(self._source))))
