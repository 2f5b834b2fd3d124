"""One image of any size through a network: source, preprocess, Tiler, network, Stitcher, sink."""

from __future__ import annotations

import logging
import os
import time
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any, Never, cast

import numpy as np

from tiledseg._arrays import check_finite, check_image
from tiledseg._memory import is_out_of_memory
from tiledseg._progress import progress_bar
from tiledseg._validate import (
    ELSEWHERE,
    check_arguments,
    check_callable,
    invalid,
    raised_as,
    reason_of,
    shown,
)
from tiledseg.config import RuntimeConfig, StepsConfig, TilingConfig
from tiledseg.errors import ArrayError, CancelledError, ModelError, SettingError, TiledSegError
from tiledseg.io import ImageSource, advised, as_array, check_own_memory, open_image
from tiledseg.predict.dask import is_dask, lazy_map
from tiledseg.predict.plan import Plan, make_plan
from tiledseg.preprocess import ResizingSink, Stepped, prepare
from tiledseg.tiling import OutputSink, Panels, Stitcher, map_dtype, map_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tiledseg._types import FloatArray, PathLike, Source
    from tiledseg.config import TTA
    from tiledseg.io import PixelSize
    from tiledseg.predict.roi import Roi
    from tiledseg.tiling import Output, Tile

_log = logging.getLogger("tiledseg")
_WHERE = f"Open it with tiledseg.open_image, {ELSEWHERE}, and pass what it returns."
_ROWS_AT_ONCE = 256


def plan(  # noqa: PLR0913  what `tiled_predict` takes, less what needs px
    model: object,
    image: Source | Sequence[int] | PathLike,
    tiling: TilingConfig | dict[str, Any] | None = None,
    *,
    batch_size: int | None = None,
    roi: Roi | None = None,
    output: Output = "probabilities",
    tta: TTA | None = None,
    runtime: RuntimeConfig | dict[str, Any] | None = None,
    pixel_size: PixelSize | float | tuple[float, float] | None = None,
    streamed: bool = False,
    **unknown: Never,
) -> Plan:
    """Say what `tiled_predict` will do with an image, without doing it.

    Parameters
    ----------
    model : Segmenter, keras.Model, PyTorch module, callable, BundleReference or path of an ONNX file
        The network; a callable maps tiles (N, h, w, C) float32 to outputs (N, h, w, K).
    image : array_like, path or sequence of int
        The image, its file, or its shape in px, (H, W) or (H, W, C).
    tiling : TilingConfig or dict, optional
        How the image is tiled; as for `tiled_predict` where it is None.
    batch_size : int, optional
        Tiles per call of the network; chosen by memory where it is None.
    roi : array_like, "tissue" or path, optional
        Where to predict, as for `tiled_predict`; ``"tissue"`` needs an image.
    output : {"probabilities", "mask", "labels", "uint8"}
        What the map holds.
    tta : {"flips", "d4"}, optional
        Test-time augmentation.
    runtime : RuntimeConfig or dict, optional
        Engine, precision, devices and memory.
    pixel_size : PixelSize, float or tuple of float, optional
        Height and width of a px in µm, where `image` is a shape, which does not state it.
    streamed : bool
        Whether the map is written while it is computed (`out` of `tiled_predict`), and not held in
        memory.
    **unknown : Never
        No other argument is accepted; the error says where it belongs, as ``tile_size`` in `tiling`.

    Returns
    -------
    Plan
        Tiles, redundancy, calls, output size, memory, and whether tiled equals whole.

    Raises
    ------
    ArrayError
        If `image` or `roi` cannot be used with this network.
    FileError
        If the file cannot be read.
    ModelError
        If `model` cannot be tiled.
    SettingError
        If the tiling does not fit the network, or a px size is not known that counts.

    Examples
    --------
    >>> print(plan(lambda tiles: tiles, (1920, 2560, 3), batch_size=4))  # doctest: +ELLIPSIS
    image           1920 x 2560 px
    tiles           35 of 512 x 512 px (5 down, 7 across)
    overlap         at least 128 px down, 128 px across, gaussian
    alignment       1 px down, 1 px across
    redundancy      1.87 px computed per image px
    network calls   9 of 4 tiles
    output          1920 x 2560 px, ? channels, float32, 18.8 MiB
    memory          about ... MiB of the process at its peak: now ..., network 38.4 MiB, reading 48.0 MiB, ...
    verdict         approximate: the receptive field of a callable is not known
    """
    check_arguments(unknown, plan, tiling=TilingConfig, runtime=RuntimeConfig)
    with opened(image) as found:
        job = make_plan(
            model,
            found,
            tiling,
            batch_size=batch_size,
            roi=roi,
            output=output,
            tta=tta,
            runtime=runtime,
            pixel_size=pixel_size,
        )
    return replace(job, streamed=streamed)


def tiled_predict(  # noqa: PLR0913  one call with the field's usual options
    model: object,
    image: Source | PathLike,
    tiling: TilingConfig | dict[str, Any] | None = None,
    *,
    batch_size: int | None = None,
    roi: Roi | None = None,
    fill_value: float = 0.0,
    out: Any = None,  # numpy, zarr and others' arrays share no type
    output: Output = "probabilities",
    tta: TTA | None = None,
    runtime: RuntimeConfig | dict[str, Any] | None = None,
    progress: bool = False,
    callback: Callable[[Tile, int, int], bool | None] | None = None,
    **unknown: Never,
) -> Any:
    """Run a network over an image of any size, and blend its outputs into one map.

    The image is cut into overlapping tiles, the network is run on batches of them, and what it
    returns is blended into a map of the image's own height and width.

    Parameters
    ----------
    model : Segmenter, keras.Model, PyTorch module, callable, BundleReference or path of an ONNX file
        A Segmenter prepares the image first; a bare network or a callable, which maps tiles
        (N, h, w, C) float32 to outputs (N, h, w, K), gets the pixel values as they are, cast to
        float32. It is called in a thread of its own, one call at a time: what holds only for
        the calling thread, as ``torch.no_grad()`` does, belongs inside the callable.
    image : array_like or path
        (H, W) or (H, W, C), any boolean, integer or real dtype: a NumPy array, memmap, zarr or
        Dask array, or anything with ``shape``, ``dtype`` and slicing; an image of Pillow or xarray, a
        tensor of PyTorch, JAX or TensorFlow; or a file, as for `open_image`. It is read region by
        region and never changed. For a Dask array without `out` the map is a Dask array as well:
        computed when it is asked for, tile by tile, wherever Dask
        runs. Where the Segmenter states the px size that it was trained at, the image is brought to
        that size, from the level of its file that is fine enough and nearest to it, and the map comes
        back at the image's own size; ``open_image(image, pixel_size=0.25)`` states the px size of an
        array or of a file that does not.
    tiling : TilingConfig or dict, optional
        Where it is None: the Segmenter's own tiling, else tiles of the network's fixed input
        size, else of 512 px, with a quarter of the tile as overlap, or what the stride leaves of
        it, and gaussian blending. A network of free size gets no larger tile than the image
        rounded up to its stride. Only a Segmenter's own tiling stays as it is: that is the context
        that it was trained with, and small images are padded to it.
    batch_size : int, optional
        Tiles per call of the network; chosen by memory where it is None.
    roi : array_like, "tissue" or path, optional
        (H, W), boolean or integer: where to predict, which is where it is above 0. Tiles that it
        leaves out altogether are not computed and count as ones whose output is `fill_value`.
        ``"tissue"`` finds it on a thumbnail of a bright-field image. A path is that of outlines
        (GeoJSON of QuPath, ImageJ ROI, COCO; in px of level 0), or of a mask.
    fill_value : float
        Output of the tiles that `roi` leaves out.
    out : array_like, optional
        Where the map is written while it is computed: anything with shape, dtype and slice
        assignment, of the map's shape; (H, W) is accepted for one channel. A new array where it
        is None.
    output : {"probabilities", "mask", "labels", "uint8"}
        What the map holds. ``probabilities``: the outputs, float32 (H, W, K). ``mask``: (H, W)
        uint8, 1 where the one class is at or above the Segmenter's threshold (0.5 for other
        models); of several classes the ``labels``. ``labels``: (H, W) number of the largest
        channel, uint8, uint16 above 256 classes; of one class its ``mask``. ``uint8``: the outputs
        times 255, (H, W, K).
    tta : {"flips", "d4"}, optional
        Test-time augmentation: the outputs of a tile and its mirror images are averaged.
        ``flips`` are 4, ``d4`` are 8 and take square tiles. A Segmenter's own where it is None.
    runtime : RuntimeConfig or dict, optional
        Engine, precision, devices and memory.
    progress : bool
        Whether to show a progress bar, or log lines where there is no terminal.
    callback : callable, optional
        Called in the calling thread as ``callback(tile, done, total)`` after each tile, a `Tile`
        in px of `image`; what it returns is ignored except for False, which cancels.
    **unknown : Never
        No other argument is accepted; the error says where it belongs, as ``tile_size`` in `tiling`.

    Returns
    -------
    array_like
        What `output` says; `out` itself where it was given; a Dask array of a Dask array.

    Raises
    ------
    ArrayError
        If `image`, `roi` or `out` has the wrong shape, dtype or values.
    CancelledError
        If `callback` returned False; ``error.result`` is the map, its first
        ``error.finished_rows`` rows are final and the others `fill_value`.
    FileError
        If `image` is a path that cannot be read.
    ModelError
        If `model` cannot be tiled, or returns something else than a map; for a Segmenter also if
        the map does not hold probabilities.
    StitchError
        If the network returns NaN or infinity; the message names the tile.
    SettingError
        If the tiling does not fit the network, an option is out of its range, or the Segmenter states a
        px size and that of the image is not known.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    >>> probs = tiled_predict(lambda tiles: tiles.mean(axis=-1, keepdims=True) / 255, image)
    >>> probs.shape, probs.dtype, bool(np.allclose(probs[..., 0], image.mean(axis=-1) / 255))
    ((700, 900, 1), dtype('float32'), True)
    """
    check_arguments(unknown, tiled_predict, tiling=TilingConfig, runtime=RuntimeConfig)
    check_callable("callback", callback)
    with opened(image) as source:
        check_image(source)
        job = make_plan(
            model,
            source,
            tiling,
            batch_size=batch_size,
            roi=roi,
            fill_value=fill_value,
            output=output,
            tta=tta,
            runtime=runtime,
        )
        array = source.array if isinstance(source, ImageSource) else source
        if out is None and not isinstance(array, np.ndarray) and is_dask(array):
            return lazy_map(job, array, callback)
        return run_plan(job, source, out, progress=progress, callback=callback)


def run_plan(
    job: Plan,
    image: Source,
    out: Any = None,
    *,
    progress: bool = False,
    callback: Callable[[Tile, int, int], bool | None] | None = None,
    watch: Callable[[int, FloatArray], None] | None = None,
) -> Any:
    """Predict one image as planned; `watch` is given the output of each tile."""
    try:
        with prepared(image, job, out) as source:
            return _run(job, source, out, progress, callback, watch)
    except Exception as error:
        if isinstance(error, TiledSegError) or not is_out_of_memory(error):
            raise
        fix = "Let `out` be on disk, use smaller tiles or batch_size=1, or free memory."
        text = f"Memory ran out in a prediction: {shown(reason_of(error))}. {fix}"
        raise ModelError(text) from error


def _run(
    job: Plan,
    source: Source,
    out: Any,
    progress: bool,  # noqa: FBT001
    callback: Callable[[Tile, int, int], bool | None] | None,
    watch: Callable[[int, FloatArray], None] | None,
) -> Any:
    panels = Panels.of(job.grid, None if job.is_scaled else out)
    order = panels.order()
    wanted = order if job.in_roi is None else [one for one in order if job.in_roi[one]]
    network, size = job.network, job.batch_size
    batches = job.tiler.batches(
        source, size, grid=job.grid, ids=wanted, dtype=network.tile_dtype, copy=network.writes_tiles
    )
    checked = job.needs_probabilities or getattr(out, "needs_probabilities", False)
    running = network.run(batches, size, checked=checked)
    started = time.perf_counter()
    bar = progress_bar(len(wanted), "tiles", shown=True) if progress else nullcontext()
    with closing(running), bar as advance:
        outputs, classes = _with_classes(running, job)
        stitcher, out = _stitcher(job, panels, classes, out)
        remaining = iter(order)
        for done, (tile_id, probs) in enumerate(outputs, 1):
            if before := list(takewhile(tile_id.__ne__, remaining)):  # outside the roi
                stitcher.skip(before, job.fill_value)
            stitcher.add([tile_id], probs[None])
            if watch is not None:
                watch(tile_id, probs)
            if advance is not None:
                advance(1)
            if callback is not None:
                with raised_as(SettingError, "`callback` failed", "Correct it; it returns False to stop."):
                    answer = callback(job.tile(tile_id), done, len(wanted))
                if answer is False:
                    raise _cancelled(job, out, stitcher, f"{done} of {len(wanted)}")
        if after := list(remaining):
            stitcher.skip(after, job.fill_value)
        stitcher.merge()
    _log.debug("%d tiles in %.2f s", len(wanted), time.perf_counter() - started)
    return out


@contextmanager
def opened(image: Any) -> Iterator[Any]:  # arrays of all libraries, shapes and paths
    """Open an image that is given as a path, to be read by region; give an array as such."""
    if isinstance(image, str | os.PathLike):
        with advised(_WHERE), open_image(cast("str", image)) as source:
            yield source
            source.check_unchanged()
    else:
        yield image if isinstance(image, np.ndarray) else as_array(image)


@contextmanager
def prepared(image: Source, job: Plan, out: object = None) -> Iterator[Source]:
    """Open the level of an image that a plan reads, and prepare its px as the network wants them."""
    level: AbstractContextManager[Source] = nullcontext(image)
    if isinstance(image, ImageSource):
        if image.array is not None:
            level = nullcontext(image.array)
        elif job.level is not None and job.level != image.level:
            level = image.at_level(job.level)
    with level as pixels:
        if out is not None:
            check_own_memory(out, pixels)
        settings = job.network.preprocessing
        if settings is not None and isinstance(pixels, np.ndarray) and not isinstance(pixels, np.memmap):
            check_finite(pixels, "image")  # at once where it costs little; else tile by tile
        if settings is None:
            yield pixels  # the Tiler checks them
        elif isinstance(settings, StepsConfig):
            yield Stepped(pixels, settings)
        else:
            yield prepare(pixels, settings, shape=job.grid.shape)


def _with_classes(
    outputs: Iterator[tuple[int, FloatArray]], job: Plan
) -> tuple[Iterator[tuple[int, FloatArray]], int]:
    """Give the number of channels: the network's own, else that of the first output."""
    if job.classes is not None:
        return outputs, job.classes
    first = next(outputs, None)
    if first is None:
        must = "contain at least one px, since the model shows its channels only when it is called"
        raise invalid(ArrayError, "roi", must=must, got="an empty roi", fix="Skip the image.")
    return chain([first], outputs), first[1].shape[-1]


def _stitcher(job: Plan, panels: Panels, classes: int, out: Any) -> tuple[Stitcher, Any]:
    """Make what blends the tiles into the map, enlarged where the network saw fewer px; and the map."""
    shape, threshold = (*job.shape, classes), job.network.threshold
    if not job.is_scaled:
        made = Stitcher(job.grid, classes, out, output=job.output, threshold=threshold, panels=panels)
        return made, made.out
    if out is None:
        out = np.zeros(map_shape(shape, job.output), map_dtype(job.output, classes))
    whole = ResizingSink(OutputSink(out, shape, job.output, threshold), (*job.grid.shape, classes))
    return Stitcher(job.grid, classes, whole, panels=panels), out


def _cancelled(job: Plan, out: Any, stitcher: Stitcher, done: str) -> CancelledError:
    """Fill the rows that are not final, reduced as all others, and say so."""
    rows = getattr(stitcher.out, "written_rows", stitcher.finished_rows)
    shape = (*job.shape, stitcher.n_channels)
    if not hasattr(out, "finished_rows"):  # what is resumed later stays as it is
        sink = OutputSink(out, shape, job.output, job.network.threshold)
        for start in range(rows, shape[0], _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, shape[0])
            sink[start:stop] = np.full((stop - start, *shape[1:]), job.fill_value, np.float32)
    text = f"Cancelled after {done} tiles; the first {rows} rows are final."
    return CancelledError(text, result=out, finished_rows=rows)
