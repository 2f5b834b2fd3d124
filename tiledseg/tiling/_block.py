"""One block of a map from the tiles that touch it: what one of many machines needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import instance_of, real_number, whole_number
from tiledseg.tiling._band import add_weighted
from tiledseg.tiling._panels import sums_dtype
from tiledseg.tiling.grid import Box, TileGrid
from tiledseg.tiling.windows import axis_windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tiledseg._types import FloatArray

__all__ = ["stitch_block", "touching_tiles"]


def touching_tiles(grid: TileGrid, box: Box) -> list[int]:
    """List the tiles that count in a block."""
    instance_of(TileGrid, grid, "grid", "Make one with Tiler.grid.")
    instance_of(Box, box, "box")
    rows, columns = axis_windows(grid.y, grid.blend), axis_windows(grid.x, grid.blend)
    down = [place for place, one in enumerate(rows) if one.start < box.y1 and one.stop > box.y0]
    across = [place for place, one in enumerate(columns) if one.start < box.x1 and one.stop > box.x0]
    return [row * len(columns) + column for row in down for column in across]


def stitch_block(
    grid: TileGrid, box: Box, outputs: Mapping[int, FloatArray], classes: int, fill_value: float = 0.0
) -> FloatArray:
    """Blend the tiles that touch a block."""
    ids, classes = touching_tiles(grid, box), whole_number("classes", classes)
    fill_value = real_number("fill_value", fill_value)
    rows, columns = axis_windows(grid.y, grid.blend), axis_windows(grid.x, grid.blend)
    sums = np.zeros((box.shape[0], box.shape[1] * classes), sums_dtype(rows, columns))
    flat = np.broadcast_to(np.float32(fill_value), (*grid.tile_shape, classes))
    for tile_id in ids:
        if tile_id not in outputs and not fill_value:
            continue
        row, column = divmod(tile_id, len(columns))
        down, across = rows[row], columns[column]
        y0, y1 = max(down.start, box.y0), min(down.stop, box.y1)
        x0, x1 = max(across.start, box.x0), min(across.stop, box.x1)
        output = outputs.get(tile_id, flat)[down.in_tile, across.in_tile]
        part = output[y0 - down.start : y1 - down.start, x0 - across.start : x1 - across.start]
        wide = np.repeat(across.weights[x0 - across.start : x1 - across.start], classes)
        weights = np.multiply.outer(down.weights[y0 - down.start : y1 - down.start], wide)
        target = sums[y0 - box.y0 : y1 - box.y0, (x0 - box.x0) * classes : (x1 - box.x0) * classes]
        add_weighted(target, np.ascontiguousarray(part.reshape(y1 - y0, -1)), weights)
    return sums.astype(np.float32, copy=False).reshape(*box.shape, classes)
