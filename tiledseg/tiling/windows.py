"""Blending windows: for each axis, a partition of unity over its tiles."""

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

# A tile's weight in the image is the outer product of its two windows. The windows of one axis sum to one
# at each of its px, so the weights sum to one at each px of the image: no count map and no division. Weights
# are multiples of 1/4096, so their products and the sums of these are exact in float32. Rounding is
# monotonic: outputs in [0, 1] stay there, and a map of ones comes back as ones.
_PARTS = 4096
_SIGMAS_PER_TILE = 8  # nnU-Net's and MONAI's sigma of an eighth of the tile


@dataclass(frozen=True, slots=True, eq=False)
class AxisWindow:
    """The px of one tile that contribute to the map along one axis, and their weights."""

    start: int  # first px, in the image
    stop: int  # px after the last; never beyond the image
    in_tile: slice  # the same px, in the tile
    weights: FloatArray  # float32 (stop - start,), multiples of 1/4096 in [0, 1]


def axis_windows(axis: AxisGrid, blend: Blend) -> list[AxisWindow]:
    """Compute the windows of all tiles along one axis."""
    instance_of(AxisGrid, axis, "axis")
    one_of("blend", blend, get_args(Blend))
    if blend == "crop":  # each px comes from the tile with the nearest centre
        return [
            AxisWindow(start, stop, slice(start - origin, stop - origin), np.ones(stop - start, np.float32))
            for origin, (start, stop) in zip(axis.origins, axis.cores, strict=True)
        ]
    shape = _shape(axis.tile, blend)
    total = np.zeros(axis.padded_length)
    for origin in axis.origins:
        total[origin : origin + axis.tile] += shape
    passed = np.zeros(axis.padded_length)  # sum of the shares of earlier tiles
    return [
        _share(origin, axis, shape / total[origin : origin + axis.tile], passed) for origin in axis.origins
    ]


def _share(
    origin: int, axis: AxisGrid, share: NDArray[np.float64], passed: NDArray[np.float64]
) -> AxisWindow:
    """Weight a tile by the increase of the rounded sum of shares, so that all weights sum to one."""
    here = passed[origin : origin + axis.tile]
    before = np.rint(here * _PARTS)
    here += share
    stop = min(origin + axis.tile, axis.length)
    weights = ((np.rint(here * _PARTS) - before) / _PARTS)[: stop - origin]
    return AxisWindow(origin, stop, slice(0, stop - origin), weights.astype(np.float32))


def _shape(tile: int, blend: Blend) -> NDArray[np.float64]:
    """Return the window of one tile before it is normalised: positive and symmetric."""
    place = np.arange(0.5, tile, dtype=np.float64)
    if blend == "linear":
        return np.minimum(place, tile - place, dtype=np.float64)
    if blend == "hann":
        return np.square(np.sin(np.pi * np.minimum(place, tile - place) / tile))
    if blend == "gaussian":
        return np.exp(-0.5 * ((place - tile / 2) * _SIGMAS_PER_TILE / tile) ** 2)
    return np.ones(tile)
