"""Batches of crops in the form in which Keras takes them, cut ahead by threads."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from math import ceil
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from tiledseg._backend import keras
from tiledseg._validate import invalid
from tiledseg.errors import ArrayError, TiledSegError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import FloatArray

__all__ = ["CropSource", "Feed"]

_Batch: TypeAlias = "tuple[FloatArray, FloatArray]"


class CropSource(Protocol):
    """Crops by epoch and place, the same whenever they are asked for."""

    def __len__(self) -> int:
        """Count the crops of an epoch."""
        ...

    def batch(self, epoch: int, ids: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Cut images (N, h, w, C) and masks (N, h, w, K)."""
        ...


class Feed(keras.utils.PyDataset):
    """Hands crops to Keras, batch by batch, in order; threads cut the next ones meanwhile."""

    def __init__(self, source: CropSource, batch_size: int, threads: int = 1) -> None:
        super().__init__()
        self._source, self._batch_size, self._epoch = source, batch_size, 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tiledseg-feed")
        self._ahead: dict[int, Future[_Batch]] = {}
        self._reach = 2 * threads
        self.error: TiledSegError | None = None

    def start(self, epoch: int) -> None:
        """Go to an epoch, counted from 0."""
        self._drop()
        self._epoch = epoch

    def close(self) -> None:
        """Let the threads end."""
        self._drop()
        self._pool.shutdown()

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return ceil(len(self._source) / self._batch_size)

    def __getitem__(self, place: int) -> _Batch:
        """Give a batch, and have the next ones cut."""
        for number in range(place, min(place + 1 + self._reach, len(self))):
            if number not in self._ahead:
                self._ahead[number] = self._pool.submit(self._cut, self._epoch, number)
        try:
            return self._ahead.pop(place).result()
        except TiledSegError as error:  # Keras turns it into one of the backend's own
            self.error = error
            raise

    def _cut(self, epoch: int, place: int) -> _Batch:
        end = len(self._source) - (len(self) - 1 - place) * self._batch_size
        ids = range(max(0, end - self._batch_size), end)
        images, masks = self._source.batch(epoch, ids)
        if not np.isfinite(images.min() + images.max()):
            raise invalid(
                ArrayError,
                "images",
                must="be finite in training",
                got=f"NaN or infinity in batch {place + 1} of epoch {epoch + 1}",
                fix="Check the images, and the transforms of `augment`.",
            )
        return images, masks

    def _drop(self) -> None:
        for future in self._ahead.values():
            future.cancel()
        self._ahead.clear()
