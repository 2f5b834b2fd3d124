"""The one geometric map of a crop: where in the image each of its px comes from.

All transforms are folded into one affine matrix and, where any of them bends, into what the bent
px deviate from it. Such deviations are smooth: they are worked out on a coarse grid and enlarged.
Px are then taken once, whatever the number of transforms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiledseg.data._fields import FIELDS, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import FloatArray
    from tiledseg.config import FlipConfig, RotateConfig, ShearConfig, ZoomConfig

__all__ = ["GEOMETRIC", "STILL", "CropMap", "drawn_map"]

_Matrix = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class CropMap:
    """Where the px of a crop come from, in px from the crop's middle."""

    matrix: _Matrix  # (2, 3): from a place (x, y) in the crop to one in the image
    # (h, w, 2) float32: what is added to that, along x and y; None where nothing bends
    bend: FloatArray | None

    @property
    def still(self) -> bool:
        """Whether every px stays where it is."""
        return self.bend is None and np.array_equal(self.matrix, np.eye(2, 3))


STILL = CropMap(np.eye(2, 3), None)
"""The map that moves nothing."""


def drawn_map(transforms: Sequence[Any], shape: tuple[int, int], rng: np.random.Generator) -> CropMap:
    """Draw each transform and fold them into one map."""
    bends = [one for one in transforms if one.name in FIELDS]
    step = min((step_of(one, shape) for one in bends), default=1)
    grid = _coarse_grid(shape, step)
    moves = [_drawn(one, shape, grid, step, rng) for one in transforms]
    straight, places = np.eye(3), grid if any(callable(move) for move in moves) else None
    for move in reversed(moves):  # the last transform is the first on the way back to the image
        if callable(move):
            places = None if places is None else move(places)
        elif move is not None:
            straight = move @ straight
            places = None if places is None else _moved(places, move)
    if places is None:
        return CropMap(straight[:2], None)
    bend = _enlarged(places - _moved(grid, straight), shape, step)
    return CropMap(straight[:2], bend)


def _drawn(
    config: Any,  # noqa: ANN401
    shape: tuple[int, int],
    grid: FloatArray,
    step: int,
    rng: np.random.Generator,
) -> _Matrix | Callable[[FloatArray], FloatArray] | None:
    """Draw one transform: a matrix, a bend, or None where chance leaves it out."""
    if config.name != "flip" and rng.random() >= config.probability:
        return None
    if config.name in FIELDS:
        return FIELDS[config.name](config, shape, grid, step, rng)
    return _MATRICES[config.name](config, rng)


def _flip(config: FlipConfig, rng: np.random.Generator) -> _Matrix:
    x, y = rng.random(2) < (config.horizontal, config.vertical)
    return np.diag([-1.0 if x else 1.0, -1.0 if y else 1.0, 1.0])


def _rotate(config: RotateConfig, rng: np.random.Generator) -> _Matrix:
    degrees = rng.choice(config.angles) if config.angles else rng.uniform(-config.most, config.most)
    turn = math.radians(degrees)
    cos, sin = round(math.cos(turn), 12), round(math.sin(turn), 12)  # quarter turns are exact
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _zoom(config: ZoomConfig, rng: np.random.Generator) -> _Matrix:
    factor = math.exp(rng.uniform(*np.log(config.factors)))
    stretch = math.exp(rng.uniform(-1, 1) * math.log(config.stretch) / 2)
    return np.diag([stretch / factor, 1 / (factor * stretch), 1])


def _shear(config: ShearConfig, rng: np.random.Generator) -> _Matrix:
    slant = math.tan(math.radians(rng.uniform(*config.degrees)))
    matrix = np.eye(3)
    matrix[(0, 1) if rng.random() < 0.5 else (1, 0)] = slant
    return matrix


_MATRICES: dict[str, Callable[[Any, np.random.Generator], _Matrix]] = {
    "flip": _flip,
    "rotate": _rotate,
    "zoom": _zoom,
    "shear": _shear,
}
GEOMETRIC = frozenset({*_MATRICES, *FIELDS})
"""Names of the transforms that move px."""


def _coarse_grid(shape: tuple[int, int], step: int) -> FloatArray:
    """Give the middles (x, y) of cells of `step` px that cover a crop, and one cell more all around."""
    y, x = (
        np.arange(-1, math.ceil(length / step) + 1, dtype=np.float32) * step + (step - length) / 2
        for length in shape
    )
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)


def _moved(places: FloatArray, matrix: _Matrix) -> FloatArray:
    moved = places @ matrix[:2, :2].T + matrix[:2, 2]
    return np.asarray(moved, np.float32)


def _enlarged(bend: FloatArray, shape: tuple[int, int], step: int) -> FloatArray:
    height, width = bend.shape[:2]
    large = cv2.resize(bend, (width * step, height * step), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large[step : step + shape[0], step : step + shape[1]])
