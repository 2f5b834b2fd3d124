"""How much memory a planned prediction takes, part by part."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil

from tiledseg.tiling import map_dtype, map_shape

_MIB = 1 << 20
_BATCHES = 4  # of tiles: read, waiting, run, stitched
_RESAMPLED = (1024, 32 * _MIB, 27 * _MIB)  # rows of the cache, its limit, and a block with its source
_USED = 0.6  # of the upper bound of a network's activations
_LIBRARIES = 30 * _MIB  # that write files
_TILE_ROWS = 2 * 512  # of a pyramid, all levels together
_PANEL = 5120  # px: width of a panel with what its last tiles extend beyond it


def memory_of(plan: Any) -> dict[str, int]:  # noqa: ANN401  a Plan, whose module imports this one
    """Estimate the bytes of each part of a prediction, and those that the process has now."""
    classes = plan.classes or 1
    tile = int(np.prod(plan.grid.tile_shape)) * (plan.channels or 1) * 4
    reading = plan.source_bytes + _BATCHES * min(plan.batch_size, plan.n_tiles) * tile
    if plan.is_scaled:
        rows, most, block = _RESAMPLED
        reading += min(rows * 4 * plan.grid.shape[1] * (plan.channels or 1), most) + block
    return {
        "now": psutil.Process().memory_info().rss,
        "engine": plan.network.engine_bytes,
        "network": int(_USED * plan.network_bytes),
        "reading": reading,
        "band of rows": 4 * classes * min(plan.grid.y.tile, plan.grid.shape[0]) * plan.grid.shape[1],
        "files": plan.files_bytes,
        "map": _written_bytes(plan, classes) if plan.streamed else plan.output_bytes,
    }


def _written_bytes(plan: Any, classes: int) -> int:  # noqa: ANN401
    """Estimate what a map takes that is written while it is computed."""
    width = plan.shape[1] if plan.is_scaled else min(plan.shape[1], _PANEL)
    row = map_shape((1, width, classes), plan.output)
    whole = _TILE_ROWS * int(np.prod(row)) * map_dtype(plan.output, classes).itemsize
    return _LIBRARIES + min(whole, int(plan.output_bytes))
