"""The one preparation of pixels, the same in training and prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiledseg._arrays import check_finite, check_image, read_region
from tiledseg._checks import broken
from tiledseg.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, Source
    from tiledseg.config import PreprocessingConfig

__all__ = ["Prepared", "percentiles_of", "prepare", "scaled_length", "shrunk"]

_ROWS_AT_ONCE = 128
_CHANNELS_AT_ONCE = 4
_HISTOGRAM_BLOCK = (512, 4096)
_LARGEST = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


def prepare(image: Source, config: PreprocessingConfig) -> Prepared:
    """Prepare an image for a network: shrink it, and bring its values into range.

    Integers are divided by the largest value of their dtype, or two percentiles of the whole image
    become 0 and 1; then the mean is subtracted and the
    result divided by the standard deviation, per channel. Shrinking takes the mean of the area
    that each new px covers, so that nothing aliases.

    Parameters
    ----------
    image : array_like
        (H, W) or (H, W, C) in the configured dtype; read region by region, never changed.
    config : PreprocessingConfig
        What the network was trained with.

    Returns
    -------
    Prepared
        The prepared image, computed where it is sliced; ``numpy.asarray`` gives all of it.

    Raises
    ------
    ArrayError
        If `image` is not an image of the configured channels and dtype.

    Examples
    --------
    >>> from tiledseg.config import PreprocessingConfig
    >>> image = np.full((4, 6), 51, np.uint8)
    >>> prepared = prepare(image, PreprocessingConfig(channels=1, scale=0.5))
    >>> prepared.shape, round(float(prepared[0:1, 0:1].item()), 3)
    ((2, 3, 1), 0.2)
    """
    return Prepared(image, config)


def shrunk(image: Source, config: PreprocessingConfig) -> AnyArray:
    """Do the first half of `prepare`: shrink an image, its values left as they are.

    Parameters
    ----------
    image : array_like
        As of `prepare`.
    config : PreprocessingConfig
        As of `prepare`.

    Returns
    -------
    ndarray
        (h, w, C) in the configured dtype; integers are rounded, so that what `prepare` makes of it
        at scale 1 differs from what it makes of `image` by half a grey level at most, and by
        nothing where `image` is not shrunk.

    Raises
    ------
    ArrayError
        If `image` is not an image of the configured channels and dtype.
    """
    return Prepared(image, config).pixels()


def scaled_length(length: int, scale: float) -> int:
    """Give the length of an axis after shrinking.

    Parameters
    ----------
    length : int
        Length in px.
    scale : float
        Factor in (0, 1].

    Returns
    -------
    int
        Rounded to the nearest whole px, at least 1.
    """
    return max(1, round(length * scale))


def percentiles_of(
    image: Source, percentiles: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find two percentiles of each channel of a whole image, exactly, by its histogram.

    A percentile q is the least value that at least q per cent of the px do not exceed.

    Parameters
    ----------
    image : array_like
        (H, W) or (H, W, C) uint8 or uint16; read block by block.
    percentiles : sequence of float
        Two of them, in [0, 100].

    Returns
    -------
    ndarray
        float64 (C,): the lower.
    ndarray
        float64 (C,): the upper.

    Examples
    --------
    >>> image = np.arange(100, dtype=np.uint8).reshape(10, 10)
    >>> [values.tolist() for values in percentiles_of(image, (1, 99))]
    [[0.0], [98.0]]
    """
    height, width = image.shape[:2]
    channels = image.shape[2] if len(image.shape) == 3 else 1
    counts = np.zeros((channels, 1 << 8 * np.dtype(image.dtype).itemsize), np.int64)
    for y in range(0, height, _HISTOGRAM_BLOCK[0]):
        for x in range(0, width, _HISTOGRAM_BLOCK[1]):
            rows, columns = _spelt(
                slice(y, y + _HISTOGRAM_BLOCK[0]), slice(x, x + _HISTOGRAM_BLOCK[1]), image.shape
            )
            block = read_region(image, rows, columns).reshape(-1, channels)
            for channel in range(channels):
                counts[channel] += np.bincount(block[:, channel], minlength=counts.shape[1])
    sums = counts.cumsum(axis=1)
    places = [np.ceil(np.float64(one) / 100 * height * width) for one in percentiles]
    low, high = (
        np.array([np.searchsorted(line, max(place, 1)) for line in sums], np.float64) for place in places
    )
    return low, high


class Prepared:
    """A prepared image: float32 (h, w, C), computed where it is sliced.

    Parameters
    ----------
    image : array_like
        The image as it is.
    config : PreprocessingConfig
        How to prepare it.
    """

    def __init__(self, image: Source, config: PreprocessingConfig) -> None:
        height, width, channels = check_image(image, config.channels)
        found = np.dtype(image.dtype)
        if (found.kind == "f") != (config.dtype == "float32") or (
            found.kind != "f" and found.newbyteorder("=") != np.dtype(config.dtype)
        ):
            raise broken(
                ArrayError,
                "image",
                must=f"have dtype {config.dtype}, as the network was trained on",
                got=str(found),
                fix="Bring its values into that range yourself, or declare another `preprocessing.dtype`.",
            )
        small = (scaled_length(height, config.scale), scaled_length(width, config.scale))
        self.shape: tuple[int, int, int] = (*small, channels)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        low, high = np.zeros(1), np.array([_LARGEST[config.dtype]])
        if config.percentiles is not None:
            low, high = percentiles_of(image, config.percentiles)
        wide = np.where(high > low, high - low, 1)  # a channel of one value is moved to 0, not divided by 0
        mean, std = np.array(config.mean), np.array(config.std)
        self._factor = (1 / (wide * std)).astype(np.float32)
        self._shift = (-(low / wide + mean) / std).astype(np.float32)
        self._rows = _Shrunk(image, self.shape) if self.shape[:2] != (height, width) else None
        self._image, self._dtype = image, np.dtype(config.dtype)

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        prepared = self._read(*key).astype(np.float32)
        prepared *= self._factor
        prepared += self._shift
        return prepared

    def pixels(self) -> AnyArray:
        """Read the image shrunk, its values as they are.

        Returns
        -------
        ndarray
            (h, w, C) in the configured dtype, integers rounded.
        """
        pixels = self._read(slice(None), slice(None))
        rounded = np.rint(pixels) if self._dtype.kind != "f" and self._rows is not None else pixels
        return np.ascontiguousarray(rounded, self._dtype)

    def _read(self, rows: slice, columns: slice) -> AnyArray:
        source = self._image if self._rows is None else self._rows
        pixels = read_region(source, *_spelt(rows, columns, self.shape))
        return pixels.reshape(*pixels.shape[:2], self.shape[2])

    def __array__(self, dtype: Any = None, copy: Any = None) -> AnyArray:  # noqa: ANN401
        return self[0 : self.shape[0], 0 : self.shape[1]].astype(dtype or np.float32, copy=False)


class _Shrunk:
    """A shrunk image that is computed in bands of rows and keeps the last one.

    Along x OpenCV averages whole rows; along y the band's rows are a product with the matrix of
    area shares, so that a px does not depend on the band that it was computed in.
    """

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


def _spelt(rows: slice, columns: slice, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Spell a region's slices out."""
    return slice(*rows.indices(shape[0])[:2]), slice(*columns.indices(shape[1])[:2])


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
