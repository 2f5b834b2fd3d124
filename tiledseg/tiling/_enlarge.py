"""A sink that enlarges a map to the image's own size, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from tiledseg._validate import invalid
from tiledseg.errors import StitchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import FloatArray, Sink

__all__ = ["EnlargingSink"]

_ROWS_AT_ONCE = 256
_CHANNELS_AT_ONCE = 4  # what OpenCV resizes in one call


class EnlargingSink:
    """Takes the rows of a small map in order, and writes those of the large one.

    Bilinear, with px centres at halves, as OpenCV and TensorFlow do it. The rows written do not
    depend on how the small ones were cut into pieces.
    """

    def __init__(self, out: Sink, shape: tuple[int, int, int]) -> None:
        self.out: Sink = out
        self.shape: tuple[int, int, int] = shape
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        height = out.shape[0]
        place = (np.arange(height) + 0.5) * (shape[0] / height) - 0.5
        place = np.clip(place, 0, shape[0] - 1)
        self._upper: NDArray[np.intp] = np.floor(place).astype(np.intp)
        self._lower: NDArray[np.intp] = np.minimum(self._upper + 1, shape[0] - 1)
        self._share = (place - self._upper).astype(np.float32)[:, None, None]
        self._held = np.empty((0, *shape[1:]), np.float32)
        self._first = 0  # row of the small map that `_held` begins with
        self.written_rows: int = 0  # of the large map, final

    def __setitem__(self, rows: slice, probs: FloatArray) -> None:
        if rows.start != self._first + len(self._held):
            raise invalid(
                StitchError,
                "rows",
                must=f"follow row {self._first + len(self._held)}",
                got=f"row {rows.start}",
                fix="Write the rows in order.",
            )
        self._held = np.concatenate([self._held, probs])
        ready = int(np.searchsorted(self._lower, rows.stop))
        for start in range(self.written_rows, ready, _ROWS_AT_ONCE):
            self._write(start, min(start + _ROWS_AT_ONCE, ready))
        self.written_rows = ready
        if ready < len(self._upper):
            drop = int(self._upper[ready]) - self._first
            self._held, self._first = self._held[drop:].copy(), self._first + drop

    def _write(self, start: int, stop: int) -> None:
        first, last = int(self._upper[start]), int(self._lower[stop - 1]) + 1
        wide = _widened(self._held[first - self._first : last - self._first], self.out.shape[1])
        share = self._share[start:stop]
        mixed = wide[self._upper[start:stop] - first] * (1 - share)
        mixed += wide[self._lower[start:stop] - first] * share
        self.out[start:stop] = mixed


def _widened(rows: FloatArray, width: int) -> FloatArray:
    height, _, channels = rows.shape
    wide = np.empty((height, width, channels), np.float32)
    for first in range(0, channels, _CHANNELS_AT_ONCE):
        some = slice(first, first + _CHANNELS_AT_ONCE)
        part = cv2.resize(
            np.ascontiguousarray(rows[..., some]), (width, height), interpolation=cv2.INTER_LINEAR
        )
        wide[..., some] = part.reshape(height, width, -1)
    return wide
