"""The self-check: a few tiles against crops of the whole."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import invalid
from tiledseg.errors import ModelError, SettingError
from tiledseg.predict._exact import judge, receptive_field_of
from tiledseg.tiling import Box

if TYPE_CHECKING:
    from tiledseg._types import FloatArray, Source
    from tiledseg.predict._plan import Layout
    from tiledseg.tiling import AxisGrid, Tile

__all__ = ["verify_tiles"]

_log = logging.getLogger("tiledseg")
_TOLERANCE = 1e-5


def verify_tiles(layout: Layout, source: Source, wanted: list[int]) -> None:
    """Check on a few tiles that tiled equals whole.

    The first and the last tile and the one nearest to the grid's middle are compared, where the
    blend takes px from them, with what the network gives for a crop that reaches further by a tile
    or by the halo, whichever is more, on each side, and ends with the padded image.
    """
    grid = layout.grid
    if len(grid) == 1 or not wanted:
        return
    if layout.predictor.tile_size != (None, None):
        raise invalid(
            SettingError,
            "verify",
            must="be False for a network of a fixed input size",
            got=layout.predictor.tile_size,
            fix="Build it with keras.Input((None, None, channels)) and set its weights to compare.",
        )
    middle = min(wanted, key=lambda one: _from_middle(layout, grid[one]))
    worst = max(_difference(layout, source, grid[one]) for one in sorted({wanted[0], middle, wanted[-1]}))
    _log.info("Tiled equals whole within %.1e of the outputs' range.", worst)


def _from_middle(layout: Layout, tile: Tile) -> float:
    rows, columns = len(layout.grid.y.origins), len(layout.grid.x.origins)
    return abs(tile.row - rows // 2) + abs(tile.column - columns // 2)


def _difference(layout: Layout, source: Source, tile: Tile) -> float:
    grid, box = layout.grid, tile.read_box
    halo = receptive_field_of(layout.predictor).halo or ((0, 0), (0, 0))
    y, x = _wider(grid.y, box.y0, max(halo[0])), _wider(grid.x, box.x0, max(halo[1]))
    crop = Box(*y, *x)
    used = tile.core_box if grid.blend == "crop" else _inside(box, grid.shape)
    part = _outputs(layout, source, box, used)
    whole = _outputs(layout, source, crop, used)
    worst = float(np.abs(part - whole).max()) / max(1.0, float(np.abs(whole).max()))
    if worst > _TOLERANCE:
        verdict, reason = judge(grid, layout.predictor)
        raise invalid(
            ModelError,
            "model",
            must=f"give the same for a tile and for the whole, within {_TOLERANCE:g}",
            got=f"a difference of {worst:.2g} in tile {tile.id}",
            fix=f'The plan says {verdict}: {reason}. Use overlap="exact" where the network allows it.',
        )
    return worst


def _wider(axis: AxisGrid, origin: int, halo: int) -> tuple[int, int]:
    """Widen a tile by aligned px on both sides, no further than the padded image."""
    more = -(-max(axis.tile, halo) // axis.alignment) * axis.alignment
    return max(origin - more, 0), min(origin + axis.tile + more, axis.padded_length)


def _inside(box: Box, shape: tuple[int, int]) -> Box:
    return Box(box.y0, min(box.y1, shape[0]), box.x0, min(box.x1, shape[1]))


def _outputs(layout: Layout, source: Source, box: Box, used: Box) -> FloatArray:
    """Give the network's outputs for a box, cut to the px that are used."""
    outputs = layout.predictor(layout.tiler.read(source, box)[None])
    return outputs[0, used.y0 - box.y0 : used.y1 - box.y0, used.x0 - box.x0 : used.x1 - box.x0]
