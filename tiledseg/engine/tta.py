"""Test-time augmentation: the mean of the outputs of mirrored and transposed copies of each tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import TTA

COPIES: dict[TTA | None, int] = {None: 1, "flips": 4, "d4": 8}
"""Number of copies of each tile."""


class Augmented:
    """Runs a network on all copies of each tile, in full batches, and averages the outputs."""

    def __init__(self, network: Callable[[AnyArray], FloatArray], tta: TTA, batch_size: int) -> None:
        self._network, self._number, self._batch_size = network, COPIES[tta], batch_size

    def __call__(self, tiles: AnyArray) -> FloatArray:
        """Map tiles (N, h, w, C) to the mean of the outputs (N, h, w, K) float32."""
        total: FloatArray | None = None
        wanted = [(copy, place) for copy in range(self._number) for place in range(len(tiles))]
        for first in range(0, len(wanted), self._batch_size):
            some = wanted[first : first + self._batch_size]
            outputs = self._network(np.stack([_transformed(tiles[place], copy) for copy, place in some]))
            if total is None:
                total = np.zeros((*tiles.shape[:3], outputs.shape[3]), np.float32)
            for (copy, place), output in zip(some, outputs, strict=True):
                total[place] += _restored(output, copy)
        if total is None:
            return np.zeros((*tiles.shape[:3], 0), np.float32)
        total /= self._number
        return total


def _transformed(tile: AnyArray, copy: int) -> AnyArray:
    """Return one of eight copies of a tile: bit 0 mirrors y, bit 1 mirrors x, bit 2 then transposes."""
    down, across = slice(None, None, -1 if copy & 1 else 1), slice(None, None, -1 if copy & 2 else 1)
    copied = tile[down, across]
    return copied.swapaxes(0, 1) if copy & 4 else copied


def _restored(output: FloatArray, copy: int) -> FloatArray:
    """Undo `_transformed`."""
    return _transformed(output.swapaxes(0, 1) if copy & 4 else output, copy & 3)
