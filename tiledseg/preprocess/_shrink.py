"""Shrinking by the mean of the area that each px covers, band by band."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from tiledseg._validate import check_finite, read_region, real_number, whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import FloatArray, Source

__all__ = ["Shrunk", "scaled_length"]

_ROWS_AT_ONCE = 128
_CHANNELS_AT_ONCE = 4


def scaled_length(length: int, scale: float) -> int:
    """Give the length of an axis after shrinking."""
    return max(1, round(whole_number("length", length) * real_number("scale", scale)))


class Shrunk:
    """A shrunk image that is computed in bands of rows and keeps the last one."""

    # Along x OpenCV averages whole rows; along y the band's rows are a product with the matrix of area
    # shares, so that a px does not depend on the band that it was computed in.

    def __init__(self, image: Source, shape: tuple[int, int, int]) -> None:
        self._image, self._shape = image, shape
        self.shape, self.dtype = shape, np.dtype(np.float32)
        self._start = 0
        self._kept = np.empty((0, *shape[1:]), np.float32)

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        rows, columns = key
        start, stop, _ = rows.indices(self._shape[0])
        if not self._start <= start <= self._start + len(self._kept):
            self._start, self._kept = start, self._kept[:0]
        self._kept, self._start = self._kept[start - self._start :], start
        missing = range(start + len(self._kept), stop, _ROWS_AT_ONCE)
        bands = [self._band(first, min(first + _ROWS_AT_ONCE, stop)) for first in missing]
        if bands:
            self._kept = np.concatenate([self._kept, *bands])
        return self._kept[: stop - start, columns]

    def _band(self, start: int, stop: int) -> FloatArray:
        height, (small, width, channels) = self._image.shape[0], self._shape
        first, shares = _area_shares(start, stop, small, height)
        every = slice(0, self._image.shape[1])
        pixels = read_region(self._image, slice(first, first + shares.shape[1]), every)
        check_finite(pixels, "image", (first, 0))
        pixels = pixels.astype(np.float32)
        narrow = _narrowed(pixels.reshape(*pixels.shape[:2], -1), width)
        return (shares @ narrow.reshape(len(pixels), -1)).reshape(stop - start, width, channels)


def _narrowed(pixels: FloatArray, width: int) -> FloatArray:
    """Average along x, a few channels at a time: OpenCV takes no more than 128 of them."""
    height, _, channels = pixels.shape
    narrow = np.empty((height, width, channels), np.float32)
    for first in range(0, channels, _CHANNELS_AT_ONCE):
        some = slice(first, first + _CHANNELS_AT_ONCE)
        part = np.ascontiguousarray(pixels[..., some])
        narrow[..., some] = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA).reshape(
            height, width, -1
        )
    return narrow


def _area_shares(start: int, stop: int, small: int, large: int) -> tuple[int, NDArray[np.float32]]:
    """Say how much of each small px each large px covers: the first large px, and the shares."""
    edges = np.arange(start, stop + 1) * (large / small)
    first, last = int(edges[0]), min(large, int(np.ceil(edges[-1] - 1e-9)))
    place = np.arange(first, last)
    covered = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
    shares = np.clip(covered, 0, None)
    return first, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
