"""An image shrunk by the mean of areas, and sharpened, region by region; and its map enlarged again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiledseg._validate import check_finite, invalid, read_region, real_number, whole_number
from tiledseg.errors import StitchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import FloatArray, Sink, Source
    from tiledseg.config import PreprocessingConfig

_ROWS_AT_ONCE = 128
_LARGE_ROWS_AT_ONCE = 256
_PARTS = 4096  # shares of neighbours are multiples of 1/4096, which float32 adds exactly
_CHANNELS_AT_ONCE = 4  # OpenCV takes at most 128
_SIGMAS = 4  # beyond this, a Gaussian changes an 8-bit value by less than half a level


def scaled_length(length: int, scale: float) -> int:
    """Return the length of an axis after shrinking."""
    return max(1, round(whole_number("length", length) * real_number("scale", scale)))


class Shrunk:
    """A shrunk image, computed in bands of rows; the last rows read are cached."""

    # Along x OpenCV averages whole rows; along y the band's rows are a product with the matrix of area
    # shares, so that a px does not depend on the band that it was computed in.

    def __init__(self, image: Source, shape: tuple[int, int, int]) -> None:
        self._image, self._shape = image, shape
        self.shape, self.dtype = shape, np.dtype(np.float32)
        self._start = 0
        self._cached = np.empty((0, *shape[1:]), np.float32)

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        rows, columns = key
        start, stop, _ = rows.indices(self._shape[0])
        if not self._start <= start <= self._start + len(self._cached):
            self._start, self._cached = start, self._cached[:0]
        self._cached, self._start = self._cached[start - self._start :], start
        missing = range(start + len(self._cached), stop, _ROWS_AT_ONCE)
        bands = [self._band(first, min(first + _ROWS_AT_ONCE, stop)) for first in missing]
        if bands:
            self._cached = np.concatenate([self._cached, *bands])
        return self._cached[: stop - start, columns]

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
    """Average along x, a few channels at a time."""
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
    """Return the first large px, and the share of each large px in each small px."""
    edges = np.arange(start, stop + 1) * (large / small)
    first, last = int(edges[0]), min(large, int(np.ceil(edges[-1] - 1e-9)))
    place = np.arange(first, last)
    covered = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
    shares = np.clip(covered, 0, None)
    return first, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def sharpen_margin(config: PreprocessingConfig) -> int:
    """Return how many px around a region its sharpening depends on."""
    return math.ceil(_SIGMAS * config.sharpen_sigma) if config.sharpen else 0


class Sharpened:
    """An image plus its difference from the blurred image, computed where it is sliced."""

    # A margin is read around each region, so that regions join as in the whole image. At its edges the image
    # is mirrored for the blur. Integers stay in the range of their dtype.

    def __init__(self, image: Source, config: PreprocessingConfig, largest: float | None) -> None:
        self.shape: tuple[int, ...] = tuple(image.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._image, self._largest = image, largest
        self._amount, self._sigma, self._margin = config.sharpen, config.sharpen_sigma, sharpen_margin(config)

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        regions = [
            slice(max(0, one.start - self._margin), min(length, one.stop + self._margin))
            for one, length in zip(key, self.shape, strict=False)
        ]
        around = read_region(self._image, regions[0], regions[1])
        check_finite(around, "image", (regions[0].start, regions[1].start))
        inside = tuple(
            slice(one.start - region.start, one.stop - region.start)
            for one, region in zip(key, regions, strict=True)
        )
        around = around.astype(np.float32)
        smooth = blurred(around, self._sigma, 2 * self._margin + 1)[inside]
        plain = around[inside]
        sharp: FloatArray = plain + np.float32(self._amount) * (plain - smooth)
        return sharp if self._largest is None else np.clip(sharp, 0, self._largest, out=sharp)


def blurred(pixels: FloatArray, sigma: float, size: int = 0) -> FloatArray:
    """Blur each channel with a Gaussian, mirrored at the edges; the size of its kernel follows from sigma."""
    wide = pixels.reshape(*pixels.shape[:2], -1)
    smooth = np.empty_like(wide)
    for first in range(0, wide.shape[2], _CHANNELS_AT_ONCE):
        some = slice(first, first + _CHANNELS_AT_ONCE)
        part = np.ascontiguousarray(wide[..., some])
        smooth[..., some] = cv2.GaussianBlur(
            part, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101
        ).reshape(part.shape)
    return smooth.reshape(pixels.shape)


class EnlargingSink:
    """Takes the rows of a small map in order, in pieces of any size, and writes those of the large map."""

    def __init__(self, out: Sink, shape: tuple[int, int, int]) -> None:
        self.out: Sink = out
        self.shape: tuple[int, int, int] = shape
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self._upper, self._lower, share = _neighbours(shape[0], out.shape[0])
        self._left, self._right, across = _neighbours(shape[1], out.shape[1])
        self._share, self._across = share[:, None, None], across[None, :, None]
        self._held = np.empty((0, *shape[1:]), np.float32)
        self._first = 0  # row of the small map at the start of `_held`
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
        for start in range(self.written_rows, ready, _LARGE_ROWS_AT_ONCE):
            self._write(start, min(start + _LARGE_ROWS_AT_ONCE, ready))
        self.written_rows = ready
        if ready < len(self._upper):
            drop = int(self._upper[ready]) - self._first
            self._held, self._first = self._held[drop:].copy(), self._first + drop

    def _write(self, start: int, stop: int) -> None:
        first, last = int(self._upper[start]), int(self._lower[stop - 1]) + 1
        rows = self._held[first - self._first : last - self._first]
        wide = _mixed(rows[:, self._left], rows[:, self._right], self._across)
        upper, lower = self._upper[start:stop] - first, self._lower[start:stop] - first
        self.out[start:stop] = _mixed(wide[upper], wide[lower], self._share[start:stop])


def _neighbours(small: int, large: int) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """Return, for each px of a large axis, the two nearest px of a small one and the share of the second."""
    # Px centres are at halves, as in OpenCV and TensorFlow. Shares are multiples of 1/4096, so that the
    # mixture of two values in [0, 1] stays there.
    place = np.clip((np.arange(large) + 0.5) * (small / large) - 0.5, 0, small - 1)
    first = np.floor(place).astype(np.intp)
    share = np.rint((place - first) * _PARTS) / _PARTS
    return first, np.minimum(first + 1, small - 1), share.astype(np.float32)


def _mixed(one: FloatArray, other: FloatArray, share: FloatArray) -> FloatArray:
    one *= 1 - share  # in place: both are copies already
    other *= share
    one += other
    return one
