"""What a worker does: pure functions of their arguments, so that another can do it again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg.engine import ModelReference, networks_for, predictor_for
from tiledseg.errors import ModelError, TiledSegError
from tiledseg.preprocess import prepare
from tiledseg.tiling import ReducingSink, Tiler, reduced_dtype, reduced_shape, stitch_block, touching_tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import PreprocessingConfig, TilingConfig
    from tiledseg.engine import Way
    from tiledseg.tiling import Box, Reduction, TileGrid

__all__ = ["BlockJob", "TileJob", "block_of", "outputs_of", "resolved"]

_MOST_READY = 4
_READY: OrderedDict[str, tuple[Callable[[AnyArray], FloatArray], threading.Lock]] = OrderedDict()
_MAKING = threading.Lock()


@dataclass(frozen=True, slots=True)
class TileJob:
    """How the tiles of one image are computed."""

    grid: TileGrid  # the tiles
    shape: tuple[int, ...]  # shape of the image
    tiling: TilingConfig  # how it is padded
    preprocessing: PreprocessingConfig | None  # how px are prepared
    way: Way  # how the network is run
    token: str  # tells this network and way from all others; each process makes it ready once


@dataclass(frozen=True, slots=True)
class BlockJob:
    """How the blocks of one map are put together."""

    grid: TileGrid  # the tiles
    classes: int  # channels of the network's output
    fill_value: float  # output of tiles that were left out
    reduction: Reduction | None  # what is stored
    threshold: float  # where one class is cut


def resolved(model: object) -> object:
    """Load what is referred to, and give anything else back."""
    return model.load() if isinstance(model, ModelReference) else model


def outputs_of(
    model: object, region: AnyArray, corner: tuple[int, int], job: TileJob, tile_id: int
) -> FloatArray:
    """Compute one tile."""
    box = job.grid[tile_id].read_box
    where = f"tile {tile_id} at (y, x) = ({box.y0}, {box.x0})"
    try:
        window: Any = _Window(np.asarray(region), corner, job.shape)
        source = window if job.preprocessing is None else prepare(window, job.preprocessing)
        tile = Tiler(job.tiling).read(source, box)
        network, lock = _ready(model, job)
        with lock:
            outputs = network(tile[None])[0]
    except Exception as error:
        text = str(error) if isinstance(error, TiledSegError) else f"{type(error).__name__}: {error}"
        raise ModelError(f"The network failed on {where}: {text}") from error
    if not np.isfinite(outputs).all():
        raise ModelError(
            f"The network returned NaN or infinity for {where}. Check its weights and its input."
        )
    return np.ascontiguousarray(outputs, np.float32)


def _ready(model: object, job: TileJob) -> tuple[Callable[[AnyArray], FloatArray], threading.Lock]:
    """Make the network ready, once in each process for each way."""
    with _MAKING:
        if job.token not in _READY:
            predictor = predictor_for(resolved(model))
            network = networks_for(predictor, job.way, job.grid.tile_shape, len(job.grid), 1)[0]
            _READY[job.token] = (network, threading.Lock())
            while len(_READY) > _MOST_READY:
                _READY.popitem(last=False)
        return _READY[job.token]


def block_of(job: BlockJob, box: Box, ids: list[int], *outputs: FloatArray) -> AnyArray:
    """Put one block of the map together."""
    known = dict(zip(ids, outputs, strict=True))
    missing = [one for one in ids if one not in touching_tiles(job.grid, box)]
    if missing:
        raise ModelError(f"Tiles {missing} do not touch the block at (y, x) = ({box.y0}, {box.x0}).")
    probs = stitch_block(job.grid, box, known, job.classes, job.fill_value)
    out = np.zeros(reduced_shape(probs.shape, job.reduction), reduced_dtype(job.reduction, job.classes))
    ReducingSink(out, probs.shape, job.reduction, job.threshold)[0 : box.shape[0]] = probs
    return out


class _Window:
    """A part of an image that is sliced in the frame of the whole."""

    def __init__(self, region: AnyArray, corner: tuple[int, int], shape: tuple[int, ...]) -> None:
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = region.dtype
        self._region, self._corner = region, corner

    def __getitem__(self, key: tuple[slice, slice]) -> AnyArray:
        rows, columns = key
        y, x = self._corner
        return self._region[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
