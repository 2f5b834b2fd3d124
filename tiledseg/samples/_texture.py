"""Smooth noise and round outlines: what cells and film are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray

__all__ = ["blurred", "filled", "outline", "texture"]


def texture(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> FloatArray:
    """Draw smooth noise of mean 0 and standard deviation of about 1."""
    step = max(grain / 2, 1.0)
    coarse = [math.ceil(length / step) + 3 for length in shape]
    noise = cv2.GaussianBlur(rng.standard_normal(coarse, dtype=np.float32), (0, 0), 0.9)
    y, x = rng.uniform(0, step, 2)  # so that the lattice shows at no fixed place
    warp = np.array([[1 / step, 0, 1 + x / step], [0, 1 / step, 1 + y / step]])
    smooth = cv2.warpAffine(noise, warp, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.asarray(smooth / 0.31, np.float32)  # the blur leaves 0.31 of a standard deviation of 1


def outline(rng: np.random.Generator, radius: float, wobble: float, stretch: float) -> FloatArray:
    """Draw a closed, smooth, roughly round line around (0, 0)."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    order = np.arange(2, 8)
    size = rng.normal(0, wobble, order.size) * 1.6 / order
    waves = size * np.cos(np.outer(angle, order) + rng.uniform(0, 2 * np.pi, order.size))
    reach = radius * np.clip(1 + waves.sum(1), 0.55, 1.6)
    tilt = rng.uniform(0, np.pi)
    long, short = reach * np.cos(angle) * math.sqrt(stretch), reach * np.sin(angle) / math.sqrt(stretch)
    points = (long * np.sin(tilt) + short * np.cos(tilt), long * np.cos(tilt) - short * np.sin(tilt))
    return np.stack(points, axis=1).astype(np.float32)


def filled(outlines: list[FloatArray], half: int) -> FloatArray:
    """Fill outlines, with an edge of one px."""
    cover = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    for points in outlines:
        fixed = np.round((points[:, ::-1] + half) * 16).astype(np.int32)
        cv2.fillPoly(cover, [fixed], 255, lineType=cv2.LINE_AA, shift=4)
    return cover.astype(np.float32) / np.float32(255)


def blurred(array: AnyArray, sigma: float) -> FloatArray:
    """Blur, or leave as it is where there is next to nothing to blur."""
    return np.asarray(cv2.GaussianBlur(array, (0, 0), sigma) if sigma > 0.25 else array, np.float32)
