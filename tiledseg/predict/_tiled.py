"""One image of any size through a network, tile by tile."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._progress import progress_bar
from tiledseg._validate import check_callable, check_finite, check_image, invalid
from tiledseg.engine import SegmenterLike, Way, n_views, networks_for, own_views
from tiledseg.errors import ArrayError, SettingError
from tiledseg.predict._lazy import Lazy, is_dask, lazy_map
from tiledseg.predict._pipeline import pipelined
from tiledseg.predict._plan import Layout, chosen_batch, lay_out
from tiledseg.predict._remote import resolved
from tiledseg.predict._run import Run, Target
from tiledseg.predict._seams import SeamWatch
from tiledseg.predict._verify import verify_tiles
from tiledseg.predict._where import wanted_tiles
from tiledseg.preprocess import prepare
from tiledseg.tiling import tile_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import Source
    from tiledseg.config import TilingConfig
    from tiledseg.engine import Engine, Precision, Views
    from tiledseg.predict._where import Where
    from tiledseg.tiling import Reduction, Tile

__all__ = ["tiled_predict"]

_log = logging.getLogger("tiledseg")


def tiled_predict(  # noqa: PLR0913  one call with the field's usual options
    model: object,
    image: Source,
    tiling: TilingConfig | None = None,
    *,
    batch_size: int | None = None,
    mask: Where | None = None,
    fill_value: float = 0.0,
    out: Any = None,  # noqa: ANN401  numpy, zarr and others' arrays share no type
    reduction: Reduction | None = None,
    threshold: float | None = None,
    progress: bool = False,
    callback: Callable[[Tile, int, int], bool | None] | None = None,
    memory_budget: int | None = None,
    engine: Engine = "auto",
    precision: Precision = "f32",
    views: Views | None = None,
    devices: Sequence[str] | None = None,
    verify: bool = False,
    return_report: bool = False,
) -> Any:  # noqa: ANN401
    """Run a network over an image of any size, and blend its outputs into one map.

    The image is cut into overlapping tiles, the network is run on batches of them, and what it
    returns is blended into a map of the image's own height and width.

    Parameters
    ----------
    model : Segmenter, keras.Model, callable or BundleReference
        A Segmenter prepares the image first; a bare network or a callable, which maps tiles
        (N, h, w, C) float32 to outputs (N, h, w, K), gets the pixel values as they are, cast to
        float32. It is called in a thread of its own, one call at a time: what holds for the
        calling thread alone, as ``torch.no_grad()`` does, belongs inside the callable.
    image : array_like
        (H, W) or (H, W, C), any boolean, integer or real dtype: a NumPy array, memmap, zarr or
        Dask array, or anything with ``shape``, ``dtype`` and slicing. It is read region by region
        and never changed. Of a Dask array without `out` the map is a Dask array as well: computed
        when it is asked for, tile by tile, wherever Dask runs.
    tiling : TilingConfig, optional
        Where it is None: the Segmenter's own tiling, else tiles of the network's fixed input
        size, else of 512 px, with a quarter of the tile as overlap and gaussian blending.
    batch_size : int, optional
        Tiles per call of the network; chosen by memory where it is None.
    mask : array_like or "tissue", optional
        (H, W), boolean or integer: where to predict. Tiles that it leaves out altogether are
        not computed and count as ones whose output is `fill_value`. ``"tissue"`` finds it on a
        thumbnail of a bright-field image, by Otsu's threshold of the saturation (RGB) or darkness.
    fill_value : float
        Output of the tiles that `mask` leaves out.
    out : array_like, optional
        Where the map is written while it is computed: anything with shape, dtype and slice
        assignment, of shape (H, W, K), or (H, W) for one channel or ``argmax``. A new array where
        it is None.
    reduction : {"threshold", "argmax", "uint8"}, optional
        What is stored in place of float32 outputs: ``threshold`` 0 or 1 (uint8), ``argmax`` the
        label of the largest channel (uint8 or uint16, (H, W)), ``uint8`` the output times 255.
    threshold : float, optional
        For ``reduction="threshold"``, in (0, 1); the Segmenter's own, or 0.5, where it is None.
    progress : bool
        Whether to show a progress bar, or log lines where there is no terminal.
    callback : callable, optional
        Called in the calling thread as ``callback(tile, done, total)`` after each tile; what it
        returns is ignored except for False, which cancels.
    memory_budget : int, optional
        Bytes that the network may take for its activations when the batch size is chosen; half
        of the free memory where it is None.
    engine : {"auto", "keras", "openvino"}
        What runs a Keras network. ``auto`` takes OpenVINO (``pip install 'tiledseg[fast]'``) on a
        processor without GPU where the work is worth a conversion, which is kept on disk, and
        where its first batch agrees with Keras' within 1e-4 of the largest output, or 1e-4.
    precision : {"f32", "bf16"}
        ``bf16`` multiplies in 16 bits by OpenVINO; 99.9 % of its first batch have to agree with
        Keras' within 0.05 of the largest output, or 0.05.
    views : {"flips", "d4"}, optional
        Sides from which the network sees each tile; its outputs are averaged. ``flips`` are 4,
        ``d4`` are 8 and take square tiles. A Segmenter's own where it is None.
    devices : sequence of str, optional
        TensorFlow's names of the devices that run copies of a Keras network at the same time,
        ``("GPU:0", "GPU:1")``, say; all GPUs where it is None.
    verify : bool
        Whether to check first, on three tiles, that tiled equals whole: what the blend takes of
        them is compared with what the network gives for a crop of the image with a tile more on
        each side. It takes the memory of nine tiles at once.
    return_report : bool
        Whether to return, beside the map, how far neighbouring tiles disagree where they overlap.

    Returns
    -------
    array_like
        float32 (H, W, K), or what `reduction` says; `out` itself where it was given; a Dask array
        of a Dask array.
    SeamReport
        With `return_report` alone: the second of a tuple.

    Raises
    ------
    ArrayError
        If `image`, `mask` or `out` has the wrong shape, dtype or values.
    CancelledError
        If `callback` returned False; ``error.result`` is the map, its first
        ``error.finished_rows`` rows are final and the others `fill_value`.
    ModelError
        If `model` cannot be tiled, or returns something else than a map; for a Segmenter also if
        the map does not hold probabilities; with `verify` also if a px differs from the whole by
        more than 1e-5, or 1e-5 of the largest output where that is above 1.
    StitchError
        If the network returns NaN or infinity; the message names the tile.
    SettingError
        If the tiling does not fit the network, an option is out of its range, or `verify` meets
        a network that takes tiles of one size alone.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    >>> probs = tiled_predict(lambda tiles: tiles.mean(axis=-1, keepdims=True) / 255, image)
    >>> probs.shape, probs.dtype, bool(np.allclose(probs[..., 0], image.mean(axis=-1) / 255))
    ((700, 900, 1), dtype('float32'), True)
    """
    check_image(image)
    check_callable("callback", callback)
    reference, model = model, resolved(model)
    layout = lay_out(model, tuple(image.shape), tiling, memory_budget)
    check_image(image, layout.predictor.channels)
    if threshold is None:
        threshold = model.threshold if isinstance(model, SegmenterLike) else 0.5
    way = Way(engine, precision, own_views(model) if views is None else views, devices)
    if out is None and is_dask(image):
        _check_lazy(callback=callback, verify=verify, return_report=return_report)
        wanted = wanted_tiles(layout, mask, image, list(range(len(layout.grid))))
        return lazy_map(reference, image, layout, Lazy(wanted, way, fill_value, reduction, threshold))
    _check_apart(image, out)
    source = _source(layout, image)
    order = tile_order(layout.grid, out if layout.grid.shape == layout.shape else None)
    wanted = wanted_tiles(layout, mask, image, order)
    size = chosen_batch(layout, batch_size, len(wanted) * n_views(way.views), memory_budget)
    networks = networks_for(layout.predictor, way, layout.grid.tile_shape, len(wanted), size)
    if verify:
        verify_tiles(layout, source, wanted)
    target = Target(layout, out, reduction, threshold, fill_value)
    seams = SeamWatch(layout.grid) if return_report else None
    run = Run(layout, target, order, wanted, callback, isinstance(model, SegmenterLike), seams)
    batches = layout.tiler.batches(source, size, grid=layout.grid, ids=wanted)
    started = time.perf_counter()
    with (
        progress_bar(len(wanted), "tiles", shown=progress) as advance,
        closing(pipelined(((batch.ids, batch.tiles) for batch in batches), networks)) as outputs,
    ):
        for ids, probs in outputs:
            run.add(ids, probs)
            advance(len(ids))
    result = run.finish()
    _log.debug("%d tiles in %.2f s", len(wanted), time.perf_counter() - started)
    return result if seams is None else (result, seams.report())


def _check_lazy(**options: object) -> None:
    """Refuse what takes an answer at once where there is none yet."""
    given = [name for name, value in options.items() if value]
    if given:
        raise invalid(
            SettingError,
            given[0],
            must="be left out for a Dask array, which is computed later",
            got=options[given[0]],
            fix="Pass `out`, which is filled at once.",
        )


def _check_apart(image: Source, out: object) -> None:
    """Refuse a map that would be written over pixels that are still to be read."""
    if isinstance(image, np.ndarray) and isinstance(out, np.ndarray) and np.may_share_memory(image, out):
        raise invalid(
            ArrayError,
            "out",
            must="have memory of its own",
            got="some of the image's",
            fix="Pass a new array: rows are written while others are still to be read.",
        )


def _source(layout: Layout, image: Source) -> Source:
    """Prepare the image as the network wants it."""
    if isinstance(image, np.ndarray) and not isinstance(image, np.memmap):
        check_finite(image, "image")  # at once where it costs little; else tile by tile
    return image if layout.preprocessing is None else prepare(image, layout.preprocessing)
