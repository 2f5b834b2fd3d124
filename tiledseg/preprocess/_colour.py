"""Gamma and colour, px by px: values in [0, 1] before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import FloatArray

__all__ = ["converted", "with_gamma"]

_LAB_SPAN = np.array([100, 255, 255], np.float32)
_LAB_LEAST = np.array([0, -128, -128], np.float32)


def with_gamma(image: FloatArray, gamma: float) -> FloatArray:
    """Raise shares of white to a power."""
    if gamma == 1:
        return image
    return np.copysign(np.power(np.abs(image), np.float32(gamma)), image)


def converted(image: FloatArray, colour: str) -> FloatArray:
    """Convert RGB."""
    return _CONVERSIONS[colour](image)


def _hsv(image: FloatArray) -> FloatArray:
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.float32)
    hsv[..., 0] /= 360
    return hsv


def _lab(image: FloatArray) -> FloatArray:
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2Lab), np.float32)
    return (lab - _LAB_LEAST) / _LAB_SPAN


def _grey(image: FloatArray) -> FloatArray:
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    return np.repeat(grey[..., None], 3, axis=2)


_CONVERSIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "rgb": lambda image: image,
    "bgr": lambda image: np.ascontiguousarray(image[..., ::-1]),
    "hsv": _hsv,
    "lab": _lab,
    "grey3": _grey,
}
