"""A Dask array in, a Dask array out: nothing is computed until somebody asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._extras import extra
from tiledseg._validate import invalid
from tiledseg.engine import ModelReference, SegmenterLike
from tiledseg.errors import SettingError
from tiledseg.predict._remote import BlockJob, TileJob, block_of, outputs_of
from tiledseg.preprocess import reach_of
from tiledseg.tiling import Box, reduced_dtype, reduced_shape, touching_tiles

if TYPE_CHECKING:
    from tiledseg.engine import Way
    from tiledseg.predict._plan import Layout
    from tiledseg.tiling import AxisGrid, Reduction

__all__ = ["Lazy", "is_dask", "lazy_map"]

_BLOCK = 2048  # px of an output chunk along one axis, about


@dataclass(frozen=True, slots=True)
class Lazy:
    """What a map depends on besides the image and the network."""

    wanted: list[int]  # tiles to be computed
    way: Way  # how the network is run
    fill_value: float  # output of the others
    reduction: Reduction | None  # what is stored
    threshold: float  # where one class is cut


def is_dask(image: object) -> bool:
    """Recognise a Dask array without loading Dask."""
    return any(kind.__module__.startswith("dask.array") for kind in type(image).__mro__)


def lazy_map(model: object, image: Any, layout: Layout, lazy: Lazy) -> Any:  # noqa: ANN401
    """Build the graph of a map: a task for each tile, and one for each chunk of the map.

    A tile's task takes the px that it needs, halo included, out of whatever chunks of the image
    hold them, and is keyed by the tile's place; no tile is computed twice.
    """
    array, dask = extra("dask.array", "dask"), extra("dask", "dask")
    delayed, tokenize = dask.delayed, dask.base.tokenize
    _check(layout)
    name = model.digest if isinstance(model, ModelReference) else tokenize(_plain(model))
    token = tokenize(name, lazy.way, layout.grid.tile_shape)
    classes = layout.predictor.classes or _found_classes(layout, image)
    job = TileJob(layout.grid, image.shape, layout.tiler.config, layout.preprocessing, lazy.way, token)
    run = tokenize(token, image.name, job.grid, job.tiling.model_dump_json(), str(job.preprocessing))
    shared = delayed(model, name=f"tiledseg-model-{token}", traverse=False)
    tiles = {}
    for tile_id in lazy.wanted:
        box = layout.grid[tile_id].read_box
        region = _region(box, layout)
        arguments = (shared, image[region.slices], (region.y0, region.x0), job, tile_id)
        key = f"tiledseg-tile-{tile_id}-y{box.y0}-x{box.x0}-{run}"
        tiles[tile_id] = delayed(outputs_of, pure=True)(*arguments, dask_key_name=key)
    block = BlockJob(layout.grid, classes, lazy.fill_value, lazy.reduction, lazy.threshold)
    dtype = reduced_dtype(lazy.reduction, classes)

    def chunk(box: Box) -> Any:  # noqa: ANN401
        ids = [one for one in touching_tiles(layout.grid, box) if one in tiles]
        key = f"tiledseg-block-y{box.y0}-x{box.x0}-{tokenize(run, block, ids)}"
        made = delayed(block_of, pure=True)(block, box, ids, *(tiles[one] for one in ids), dask_key_name=key)
        shape = reduced_shape((*box.shape, classes), lazy.reduction)
        return array.from_delayed(made, shape, dtype, meta=np.empty((0,) * len(shape), dtype))

    columns = _borders(layout.grid.x)
    lines = [
        array.concatenate([chunk(Box(*rows, *across)) for across in columns], axis=1)
        for rows in _borders(layout.grid.y)
    ]
    return array.concatenate(lines, axis=0)


def _check(layout: Layout) -> None:
    preprocessing = layout.preprocessing
    if layout.grid.shape != layout.shape or (preprocessing and preprocessing.percentiles):
        raise invalid(
            SettingError,
            "image",
            must="be an array in memory or a file, where it is scaled or normalised as a whole",
            got="a Dask array",
            fix="Pass `out`, which is filled at once, or shrink the image by Dask before.",
        )


def _plain(model: object) -> object:
    """Name a network by what Dask can tell from others."""
    return model.network if isinstance(model, SegmenterLike) else model


def _found_classes(layout: Layout, image: Any) -> int:  # noqa: ANN401
    """Count the channels of a callable's output, by running it on zeros."""
    channels = image.shape[2] if image.ndim == 3 else 1
    tile = np.zeros((1, *layout.grid.tile_shape, channels), image.dtype)
    return int(layout.predictor(tile).shape[3])


def _region(box: Box, layout: Layout) -> Box:
    """Say which px of the image a tile needs: itself, what its padding repeats, and what sharpens both."""
    height, width = layout.shape
    whole = layout.tiler.config.pad_mode == "wrap"
    y0, y1 = _reach(box.y0, box.y1, height, whole=whole)
    x0, x1 = _reach(box.x0, box.x1, width, whole=whole)
    around = 0 if layout.preprocessing is None else reach_of(layout.preprocessing)
    return Box(max(0, y0 - around), min(height, y1 + around), max(0, x0 - around), min(width, x1 + around))


def _reach(start: int, stop: int, length: int, *, whole: bool) -> tuple[int, int]:
    if stop <= length:
        return start, stop
    return (0 if whole else max(0, min(start, 2 * length - stop - 1)), length)


def _borders(axis: AxisGrid) -> list[tuple[int, int]]:
    """Cut an axis where cores meet, into chunks of about a fixed length."""
    cuts = [0]
    for border in axis.borders:
        if border - cuts[-1] >= _BLOCK:
            cuts.append(border)
    cuts.append(axis.length)
    return list(pairwise(cuts))
