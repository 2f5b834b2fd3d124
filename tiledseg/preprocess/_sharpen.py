"""Sharpening, region by region: a margin is read around each, so that regions join as in the whole image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiledseg._validate import check_finite, read_region

if TYPE_CHECKING:
    from tiledseg._types import FloatArray, Source
    from tiledseg.config import PreprocessingConfig

__all__ = ["Sharpened", "reach_of"]

_CHANNELS_AT_ONCE = 4
_SIGMAS = 4  # beyond, a Gaussian has less than a half of a grey level in 8 bits


def reach_of(config: PreprocessingConfig) -> int:
    """Say how far around a region lie the px that its sharpening looks at."""
    return math.ceil(_SIGMAS * config.sharpen_sigma) if config.sharpen else 0


class Sharpened:
    """An image to which its difference from the blurred image is added, computed where it is sliced."""

    # At the image's edges it is mirrored for the blur. Integers stay in the range of their dtype.

    def __init__(self, image: Source, config: PreprocessingConfig, largest: float | None) -> None:
        self.shape: tuple[int, ...] = tuple(image.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._image, self._largest = image, largest
        self._amount, self._sigma, self._reach = config.sharpen, config.sharpen_sigma, reach_of(config)

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        regions = [
            slice(max(0, one.start - self._reach), min(length, one.stop + self._reach))
            for one, length in zip(key, self.shape, strict=False)
        ]
        around = read_region(self._image, regions[0], regions[1])
        check_finite(around, "image", (regions[0].start, regions[1].start))
        inside = tuple(
            slice(one.start - region.start, one.stop - region.start)
            for one, region in zip(key, regions, strict=True)
        )
        around = around.astype(np.float32)
        blurred = self._blurred(around.reshape(*around.shape[:2], -1)).reshape(around.shape)[inside]
        plain = around[inside]
        sharp: FloatArray = plain + np.float32(self._amount) * (plain - blurred)
        return sharp if self._largest is None else np.clip(sharp, 0, self._largest, out=sharp)

    def _blurred(self, pixels: FloatArray) -> FloatArray:
        """Blur a few channels at a time: OpenCV takes no more than 128 of them."""
        size = 2 * self._reach + 1
        blurred = np.empty_like(pixels)
        for first in range(0, pixels.shape[2], _CHANNELS_AT_ONCE):
            some = slice(first, first + _CHANNELS_AT_ONCE)
            part = np.ascontiguousarray(pixels[..., some])
            blurred[..., some] = cv2.GaussianBlur(
                part, (size, size), self._sigma, borderType=cv2.BORDER_REFLECT_101
            ).reshape(part.shape)
        return blurred
