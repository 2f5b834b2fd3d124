"""An image sharpened, region by region."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiledseg._validate import check_finite, read_region

if TYPE_CHECKING:
    from tiledseg._types import FloatArray, Source
    from tiledseg.config import PreprocessingConfig

_CHANNELS_AT_ONCE = 4  # OpenCV takes at most 128
_SIGMAS = 4  # beyond this, a Gaussian changes an 8-bit value by less than half a level


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
