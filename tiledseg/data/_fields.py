"""Fields that bend a crop: random ones, smoothed, and lenses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import FloatArray
    from tiledseg.config import ElasticConfig, LensConfig, WarpConfig

__all__ = ["FIELDS", "Bend", "step_of"]

_COARSEST = 8
_STEPS_PER_RADIUS = 24

Bend: TypeAlias = "Callable[[FloatArray], FloatArray]"
"""From places (..., 2), (x, y) in px from the crop's middle, to where their px come from."""


def step_of(config: Any, shape: tuple[int, int]) -> int:  # noqa: ANN401
    """Say how coarse a grid still holds a field."""
    fine = config.radius * min(shape) / _STEPS_PER_RADIUS if config.name == "lens" else config.sigma / 4
    return max(1, min(_COARSEST, int(fine)))


def _elastic(
    config: ElasticConfig, shape: tuple[int, int], grid: FloatArray, step: int, rng: np.random.Generator
) -> Bend:
    """Smooth one number per grid point as strongly as one per px: each stands for `step` of them a side."""
    del shape
    field = _smooth(grid.shape, config.sigma / step, rng) * np.float32(config.alpha / step)
    return lambda places: places + field


def _warp(
    config: WarpConfig, shape: tuple[int, int], grid: FloatArray, step: int, rng: np.random.Generator
) -> Bend:
    field = _smooth(grid.shape, config.sigma / step, rng)
    height = max(-field.min(), field.max(), 1e-12)
    field *= np.float32(config.magnitude * min(shape) / height)
    return lambda places: places + field


def _smooth(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> FloatArray:
    noise = rng.random(shape, np.float32) * 2 - 1
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)


def _lens(
    config: LensConfig, shape: tuple[int, int], grid: FloatArray, step: int, rng: np.random.Generator
) -> Bend:
    del grid, step
    amount = rng.uniform(*config.amounts)
    y, x = config.centres[int(rng.integers(len(config.centres)))]
    middle = np.array([(x - 0.5) * shape[1], (y - 0.5) * shape[0]], np.float32)
    radius = config.radius * min(shape)

    def bend(places: FloatArray) -> FloatArray:
        off = places - middle
        share = np.minimum(np.hypot(off[..., 0], off[..., 1]) / radius, 1)
        factor = np.sin(math.pi / 2 * np.maximum(share, 1e-6)) ** amount
        return np.asarray(middle + off * factor[..., None], np.float32)

    return bend


FIELDS: dict[str, Callable[[Any, tuple[int, int], FloatArray, int, np.random.Generator], Bend]] = {
    "elastic": _elastic,
    "warp": _warp,
    "lens": _lens,
}
"""How each bend is drawn."""
