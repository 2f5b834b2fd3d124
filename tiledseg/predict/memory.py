"""How much memory a planned prediction takes, part by part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from tiledseg.io import ImageSource
from tiledseg.predict.products import needs_whole
from tiledseg.tiling import map_dtype, map_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import Source
    from tiledseg.config import PredictConfig
    from tiledseg.predict.plan import Plan

_MIB = 1 << 20
_BATCHES = 4  # of tiles: read, waiting, run, stitched
_RESAMPLED = (1024, 32 * _MIB, 27 * _MIB)  # rows of the cache, its limit, and a block with its source
_USED = 0.6  # of the upper bound of a network's activations
_FILE_PX = {"overlay": 14, "coloured": 8, "mask": 3, "probs": 4}  # bytes per px of files made of a whole map
_LIBRARIES = 30 * _MIB  # that write files
_TILE_ROWS = 2 * 512  # of a pyramid, all levels together
_PANEL = 5120  # px: width of a panel with what its last tiles extend beyond it


def memory_of(plan: Plan) -> dict[str, int]:
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


def _written_bytes(plan: Plan, classes: int) -> int:
    """Estimate what a map takes that is written while it is computed."""
    width = plan.shape[1] if plan.is_scaled else min(plan.shape[1], _PANEL)
    row = map_shape((1, width, classes), plan.output)
    whole = _TILE_ROWS * int(np.prod(row)) * map_dtype(plan.output, classes).itemsize
    return _LIBRARIES + min(whole, plan.output_bytes)


def as_files(plan: Plan, config: PredictConfig, dtype: Any) -> Plan:  # noqa: ANN401  as NumPy takes it
    """Plan for the files that `predict_files` writes, of an image of a dtype."""
    whole = [what for what in config.write if needs_whole(what, config)]
    if whole:
        largest = max(_FILE_PX.get(what, 0) for what in whole) * int(np.prod(plan.shape))
        image = int(np.prod(plan.shape)) * (plan.channels or 1) * np.dtype(dtype).itemsize
        size = max(image, plan.source_bytes)
        return replace(plan, output="probabilities", source_bytes=size, files_bytes=largest)
    return replace(plan, output="mask" if set(config.write) == {"mask"} else "probabilities", streamed=True)


def source_bytes(image: Source | Sequence[int]) -> int:
    """Estimate what reading an image takes: the cached blocks of a file, or all of it."""
    if not isinstance(image, ImageSource):
        return 0
    whole = int(np.prod(image.shape)) * image.dtype.itemsize
    return whole if image.is_whole else min(whole, image.cache_bytes)
