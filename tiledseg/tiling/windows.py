"""Blending windows: for each axis a partition of unity over its tiles.

A tile's weight in the image is the outer product of its two windows. Because the windows of one
axis sum to one at each of its px, the weights sum to one at each px of the image: no count map
and no division by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from tiledseg._validate import instance_of, one_of
from tiledseg.config import Blend
from tiledseg.tiling.grid import AxisGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import FloatArray

__all__ = ["AxisWindow", "axis_windows"]

_SIGMAS_PER_TILE = 8  # nnU-Net's and MONAI's sigma of an eighth of the tile


@dataclass(frozen=True, slots=True, eq=False)
class AxisWindow:
    """The part of one tile that counts along one axis, and how much."""

    start: int  # support in px of the image, half-open; never beyond the image
    stop: int  # support in px of the image, half-open; never beyond the image
    in_tile: slice  # the support in px of the tile
    weights: FloatArray  # float32 (stop - start,), in (0, 1]


def axis_windows(axis: AxisGrid, blend: Blend) -> list[AxisWindow]:
    """Compute the windows of all tiles along one axis.

    ``constant`` weighs all tiles alike, ``linear`` by the distance from the tile's end, ``hann``
    by the squared sine of it, ``gaussian`` with a sigma of an eighth of the tile; ``crop`` takes
    each px from the tile whose centre is nearest.
    """
    instance_of(AxisGrid, axis, "axis")
    one_of("blend", blend, get_args(Blend))
    if blend == "crop":
        return [
            AxisWindow(start, stop, slice(start - origin, stop - origin), np.ones(stop - start, np.float32))
            for origin, (start, stop) in zip(axis.origins, axis.cores, strict=True)
        ]
    shape = _shape(axis.tile, blend)
    total = np.zeros(axis.padded_length)
    for origin in axis.origins:
        total[origin : origin + axis.tile] += shape
    return [_share(origin, axis, shape, total) for origin in axis.origins]


def _share(origin: int, axis: AxisGrid, shape: NDArray[np.float64], total: NDArray[np.float64]) -> AxisWindow:
    stop = min(origin + axis.tile, axis.length)
    weights = shape[: stop - origin] / total[origin:stop]
    return AxisWindow(origin, stop, slice(0, stop - origin), weights.astype(np.float32))


def _shape(tile: int, blend: Blend) -> NDArray[np.float64]:
    """Give one tile's window before it is normalised: positive and symmetric."""
    place = np.arange(0.5, tile, dtype=np.float64)
    if blend == "linear":
        return np.minimum(place, tile - place, dtype=np.float64)
    if blend == "hann":
        return np.square(np.sin(np.pi * np.minimum(place, tile - place) / tile))
    if blend == "gaussian":
        return np.exp(-0.5 * ((place - tile / 2) * _SIGMAS_PER_TILE / tile) ** 2)
    return np.ones(tile)
