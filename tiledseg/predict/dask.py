"""Dask: a lazy map from a Dask array, and files spread over the workers of a cluster.

What a worker does are pure functions of their arguments, so that another one can do it again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tiledseg._arrays import check_unmasked
from tiledseg._lazy import extra
from tiledseg._validate import instance_of, invalid, shown
from tiledseg.config import StepsConfig
from tiledseg.engine import ModelReference, check_probabilities
from tiledseg.errors import ModelError, SettingError, TiledSegError
from tiledseg.predict.plan import classes_of
from tiledseg.preprocess import prepare, sharpen_margin
from tiledseg.tiling import Box, OutputSink, map_dtype, map_shape, stitch_block, touching_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.predict.plan import Plan
    from tiledseg.tiling import AxisGrid

_Result = TypeVar("_Result")
_BLOCK = 2048  # px of an output chunk along one axis, about
_MOST_READY = 4
_READY: OrderedDict[str, tuple[Callable[[AnyArray], FloatArray], threading.Lock]] = OrderedDict()
_MAKING = threading.Lock()


def is_dask(image: object) -> bool:
    """Recognise a Dask array without loading Dask."""
    return any(kind.__module__.startswith("dask.array") for kind in type(image).__mro__)


def lazy_map(job: Plan, image: Any, callback: object) -> Any:
    """Build the graph of a map: a task for each tile, and one for each chunk of the map."""
    # A tile's task takes the px that it needs, halo included, out of whatever chunks of the image contain
    # them, and is keyed by the tile's place; no tile is computed twice.
    array, dask = extra("dask.array", "dask"), extra("dask", "dask")
    delayed, tokenize = dask.delayed, dask.base.tokenize
    _check(job, callback)
    network, grid = job.network, job.grid
    name = network.reference.digest if network.reference else tokenize(network.model)
    token = tokenize(name, str(network.runtime), network.tta, network.activation, grid.tile_shape)
    classes = classes_of(job, image.dtype)
    run = tokenize(token, image.name, grid, job.tiling.model_dump_json(), str(network.preprocessing))
    shared = delayed(job, name=f"tiledseg-plan-{run}", traverse=False, pure=True)
    tiles = {}
    for tile_id in range(len(grid)):
        if job.in_roi is not None and not job.in_roi[tile_id]:
            continue
        box = grid[tile_id].read_box
        region = _region(box, job)
        arguments = (shared, token, image[region.slices], (region.y0, region.x0), image.shape, tile_id)
        key = f"tiledseg-tile-{tile_id}-y{box.y0}-x{box.x0}-{run}"
        tiles[tile_id] = delayed(_tile_outputs, pure=True)(*arguments, dask_key_name=key)
    how = (classes, job.fill_value, job.output, network.threshold)
    whole, dtype = map_shape((*job.shape, classes), job.output), map_dtype(job.output, classes)

    def chunk(box: Box) -> Any:
        ids = [one for one in touching_tiles(grid, box) if one in tiles]
        key = f"tiledseg-block-y{box.y0}-x{box.x0}-{tokenize(run, how, ids)}"
        outputs = (tiles[one] for one in ids)
        made = delayed(_block, pure=True)(shared, classes, box, ids, *outputs, dask_key_name=key)
        shape = box.shape + whole[2:]
        return array.from_delayed(made, shape, dtype, meta=np.empty((0,) * len(shape), dtype))

    columns = _borders(grid.x)
    lines = [
        array.concatenate([chunk(Box(*rows, *across)) for across in columns], axis=1)
        for rows in _borders(grid.y)
    ]
    return array.concatenate(lines, axis=0)


def _check(job: Plan, callback: object) -> None:
    """Refuse what takes the whole image, or an answer at once, where there is neither yet."""
    if callback is not None:
        must, fix = (
            "be left out for a Dask array, which is computed later",
            "Pass `out`, which is filled at once.",
        )
        raise invalid(SettingError, "callback", must=must, got=callback, fix=fix)
    preprocessing = job.network.preprocessing
    if (
        job.is_scaled
        or isinstance(preprocessing, StepsConfig)
        or (preprocessing and preprocessing.percentiles)
    ):
        raise invalid(
            SettingError,
            "image",
            must="be an array in memory or a file, to be scaled or normalised as a whole",
            got="a Dask array",
            fix="Pass `out`, which is filled at once, or shrink the image by Dask before.",
        )


def _region(box: Box, job: Plan) -> Box:
    """Say which px of the image a tile needs: itself, what its padding repeats, and what sharpens both."""
    height, width = job.shape
    whole = job.tiling.pad_mode == "wrap"
    y0, y1 = _needed(box.y0, box.y1, height, whole=whole)
    x0, x1 = _needed(box.x0, box.x1, width, whole=whole)
    around = 0 if job.network.preprocessing is None else sharpen_margin(job.network.preprocessing)
    return Box(max(0, y0 - around), min(height, y1 + around), max(0, x0 - around), min(width, x1 + around))


def _needed(start: int, stop: int, length: int, *, whole: bool) -> tuple[int, int]:
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


def _tile_outputs(
    job: Plan, token: str, region: AnyArray, corner: tuple[int, int], shape: tuple[int, ...], tile_id: int
) -> FloatArray:
    """Compute one tile."""
    box = job.grid[tile_id].read_box
    where = f"tile {tile_id} at (y, x) = ({box.y0}, {box.x0})"
    try:
        check_unmasked(region, "image")
        window: Any = _Window(np.asarray(region), corner, shape)
        preprocessing = job.network.preprocessing
        source = window if preprocessing is None else prepare(window, preprocessing, shape=job.grid.shape)
        tile = job.tiler.read(source, box)
        call, lock = _ready(job, token)
        with lock:
            outputs = call(tile[None])[0]
    except Exception as error:
        text = str(error) if isinstance(error, TiledSegError) else f"{type(error).__name__}: {error}"
        raise ModelError(f"The network failed on {where}: {text}") from error
    if job.needs_probabilities:
        check_probabilities(outputs)
    if not np.isfinite(outputs).all():
        raise ModelError(
            f"The network returned NaN or infinity for {where}. Check its weights and its input."
        )
    return np.ascontiguousarray(outputs, np.float32)


def _ready(job: Plan, token: str) -> tuple[Callable[[AnyArray], FloatArray], threading.Lock]:
    """Make the network ready, once in each process for each token."""
    with _MAKING:
        if token not in _READY:
            call = job.network.ready(1, job.network.tta)[0]
            _READY[token] = (call, threading.Lock())
            while len(_READY) > _MOST_READY:
                _READY.popitem(last=False)
        return _READY[token]


def _block(job: Plan, classes: int, box: Box, ids: list[int], *outputs: FloatArray) -> AnyArray:
    """Put one block of the map together."""
    known = dict(zip(ids, outputs, strict=True))
    foreign = [one for one in ids if one not in touching_tiles(job.grid, box)]
    if foreign:
        raise ModelError(f"Tiles {foreign} do not touch the block at (y, x) = ({box.y0}, {box.x0}).")
    probs = stitch_block(job.grid, box, known, classes, job.fill_value)
    out = np.zeros(map_shape(probs.shape, job.output), map_dtype(job.output, classes))
    sink = OutputSink(out, probs.shape, job.output, job.network.threshold)
    sink[0 : box.shape[0]] = probs
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


def check_client(client: object, model: object) -> None:
    """Check that a client is Dask's, and that a model can be sent to its workers."""
    kind: type[object] = extra("distributed", "dask").Client
    instance_of(kind, client, "client", "Pass distributed.Client(...), or leave it out.")
    if not (isinstance(model, ModelReference) or callable(model)):
        raise invalid(
            SettingError,
            "model",
            must="be a BundleReference or a callable with `client`",
            got=type(model).__name__,
            fix="Save it, and pass tiledseg.models.BundleReference.of(folder).",
        )


def spread(
    client: Any,  # Dask has no types
    run: Callable[..., _Result],
    jobs: Sequence[tuple[str, tuple[Any, ...]]],
    shared: object,
) -> Iterator[tuple[int, _Result | str]]:
    """Run a function once for each job, on whichever worker is free."""
    # A job whose worker dies is run again elsewhere; one that has killed several workers is given up, and
    # its name comes back with the reason. Several such jobs are run again, each alone: some may only have
    # waited on the workers that another one killed.
    distributed = extra("distributed", "dask")
    token = extra("dask.base", "dask").tokenize(object())
    # a task, not scattered data: that is lost for good with the last worker that holds it
    sent = client.submit(_itself, shared, key=f"tiledseg-model-{token}", pure=False)
    futures = {
        client.submit(run, sent, *arguments, key=f"tiledseg-file-{place}-{name}-{token}", pure=False): place
        for place, (name, arguments) in enumerate(jobs)
    }
    killed: dict[int, _Result | str] = {}
    try:
        for future in distributed.as_completed(futures):
            place = futures[future]
            if _is_killed(future):
                killed[place] = _outcome(future)
            else:
                yield place, _outcome(future)
            future.release()
        for place, reason in killed.items():
            if len(killed) > 1:
                key = f"tiledseg-alone-{place}-{jobs[place][0]}-{token}"
                future = client.submit(run, sent, *jobs[place][1], key=key, pure=False)
                futures[future] = place
                distributed.wait(future)
                yield place, _outcome(future)
            else:
                yield place, reason
    finally:
        client.cancel(list(futures))


def _itself(shared: object) -> object:
    return shared


def _is_killed(future: Any) -> bool:
    return bool(future.status == "error") and type(future.exception()).__name__ == "KilledWorker"


def _outcome(future: Any) -> Any:
    """Return the result of a job, or why it has none."""
    return future.result() if future.status == "finished" else _reason(future)


def _reason(future: Any) -> str:
    if future.status == "cancelled":
        return "The cluster cancelled it."
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return f"It killed the workers that tried it, or they were killed under it: {shown(str(error))}"
    return f"{type(error).__name__}: {error}"
