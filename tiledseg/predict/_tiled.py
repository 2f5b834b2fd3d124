"""One image of any size through a network, tile by tile."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._arrays import check_finite, check_image
from tiledseg._checks import broken, real_number
from tiledseg._progress import progress_bar
from tiledseg._types import SegmenterLike
from tiledseg.engine import fastest
from tiledseg.errors import ArrayError, CancelledError, ModelError, SettingError
from tiledseg.predict._pipeline import pipelined
from tiledseg.predict._plan import Layout, chosen_batch, lay_out
from tiledseg.predict._verify import verify_tiles
from tiledseg.preprocess import prepare
from tiledseg.stitcher import EnlargingSink, ReducingSink, Stitcher, reduced_dtype, reduced_shape, tile_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tiledseg._types import FloatArray, Source
    from tiledseg.config import TilingConfig
    from tiledseg.engine import Engine, Precision
    from tiledseg.grid import Tile
    from tiledseg.stitcher import Reduction

__all__ = ["tiled_predict"]

_log = logging.getLogger("tiledseg")
_TOLERANCE = 1e-3
_ROWS_AT_ONCE = 256


def tiled_predict(  # noqa: PLR0913  one call with the field's usual options
    model: object,
    image: Source,
    tiling: TilingConfig | None = None,
    *,
    batch_size: int | None = None,
    mask: Source | None = None,
    fill_value: float = 0.0,
    out: Any = None,  # noqa: ANN401  numpy, zarr and others' arrays share no type
    reduction: Reduction | None = None,
    threshold: float | None = None,
    progress: bool = False,
    callback: Callable[[Tile, int, int], bool | None] | None = None,
    memory_budget: int | None = None,
    engine: Engine = "auto",
    precision: Precision = "f32",
    verify: bool = False,
) -> Any:  # noqa: ANN401
    """Run a network over an image of any size, and blend its outputs into one map.

    The image is cut into overlapping tiles, the network is run on batches of them, and what it
    returns is blended into a map of the image's own height and width.

    Parameters
    ----------
    model : Segmenter, keras.Model or callable
        A Segmenter prepares the image first; a bare network or a callable, which maps tiles
        (N, h, w, C) float32 to outputs (N, h, w, K), gets the pixel values as they are, cast to
        float32. It is called in a thread of its own, one call at a time: what holds for the
        calling thread alone, as ``torch.no_grad()`` does, belongs inside the callable.
    image : array_like
        (H, W) or (H, W, C), any boolean, integer or real dtype: a NumPy array, memmap, zarr or
        Dask array, or anything with ``shape``, ``dtype`` and slicing. It is read region by region
        and never changed.
    tiling : TilingConfig, optional
        Where it is None: the Segmenter's own tiling, else tiles of the network's fixed input
        size, else of 512 px, with a quarter of the tile as overlap and gaussian blending.
    batch_size : int, optional
        Tiles per call of the network; chosen by memory where it is None.
    mask : array_like, optional
        (H, W), boolean or integer: where to predict. Tiles that it leaves out altogether are
        not computed and count as ones whose output is `fill_value`.
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
    verify : bool
        Whether to check first, on three tiles, that tiled equals whole: what the blend takes of
        them is compared with what the network gives for a crop of the image with a tile more on
        each side. It takes the memory of nine tiles at once.

    Returns
    -------
    array_like
        float32 (H, W, K), or what `reduction` says; `out` itself where it was given.

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
    layout = lay_out(model, tuple(image.shape), tiling)
    check_image(image, layout.predictor.channels)
    if isinstance(image, np.ndarray) and isinstance(out, np.ndarray) and np.may_share_memory(image, out):
        raise broken(
            ArrayError,
            "out",
            must="have memory of its own",
            got="some of the image's",
            fix="Pass a new array: rows are written while others are still to be read.",
        )
    source = _source(layout, image)
    order = tile_order(layout.grid, out if layout.grid.shape == layout.shape else None)
    wanted = _wanted(layout, mask, order)
    size = chosen_batch(layout, batch_size, len(wanted), memory_budget)
    predictor = fastest(layout.predictor, len(wanted) * prod(layout.grid.tile_shape), engine, precision)
    if verify:
        verify_tiles(layout, source, wanted)
    if threshold is None:
        threshold = model.threshold if isinstance(model, SegmenterLike) else 0.5
    target = _Target(layout, out, reduction, threshold, fill_value)
    run = _Run(layout, target, order, wanted, callback, probabilities=isinstance(model, SegmenterLike))
    tiles = (
        (batch.ids, batch.tiles) for batch in layout.tiler.batches(source, size, grid=layout.grid, ids=wanted)
    )
    started = time.perf_counter()
    with (
        progress_bar(len(wanted), "tiles", shown=progress) as advance,
        closing(pipelined(tiles, [predictor])) as outputs,
    ):
        for ids, probs in outputs:
            run.add(ids, probs)
            advance(len(ids))
    result = run.finish()
    _log.debug("%d tiles in %.2f s", len(wanted), time.perf_counter() - started)
    return result


def _source(layout: Layout, image: Source) -> Source:
    """Prepare the image as the network wants it."""
    if isinstance(image, np.ndarray) and not isinstance(image, np.memmap):
        check_finite(image, "image")  # at once where it costs little; else tile by tile
    return image if layout.preprocessing is None else prepare(image, layout.preprocessing)


def _wanted(layout: Layout, mask: Source | None, order: list[int]) -> list[int]:
    """List those of the tiles that the mask touches; all of them without a mask."""
    if mask is None:
        return order
    if not all(hasattr(mask, name) for name in ("shape", "dtype", "__getitem__")):
        raise broken(
            ArrayError,
            "mask",
            must="be an array with shape and dtype",
            got=type(mask).__name__,
            fix="Convert it with numpy.asarray.",
        )
    if tuple(mask.shape) != layout.shape:
        raise broken(
            ArrayError,
            "mask",
            must=f"have the image's height and width {layout.shape}",
            got=tuple(mask.shape),
            fix="Resize it with nearest-neighbour interpolation.",
        )
    if np.dtype(mask.dtype).kind not in "biu":
        raise broken(
            ArrayError, "mask", must="be boolean or integer", got=str(mask.dtype), fix="Use mask > 0.5."
        )
    down, across = (large / small for large, small in zip(layout.shape, layout.grid.shape, strict=True))

    def touched(tile: Tile) -> bool:
        box = tile.read_box
        rows = slice(int(box.y0 * down), int(np.ceil(box.y1 * down)))
        columns = slice(int(box.x0 * across), int(np.ceil(box.x1 * across)))
        return bool(np.asarray(mask[rows, columns]).any())

    return [tile_id for tile_id in order if touched(layout.grid[tile_id])]


@dataclass(slots=True)
class _Target:
    """Where the map goes; opened once the number of channels is known."""

    layout: Layout
    out: Any
    reduction: Reduction | None
    threshold: float
    fill_value: float
    enlarging: EnlargingSink | None = None

    def open(self, classes: int) -> Stitcher:
        """Make the Stitcher, and the map where none was given."""
        shape = (*self.layout.shape, classes)
        if self.out is None:
            self.out = np.zeros(reduced_shape(shape, self.reduction), reduced_dtype(self.reduction, classes))
        if self.layout.grid.shape == self.layout.shape:
            return Stitcher(
                self.layout.grid, classes, self.out, reduction=self.reduction, threshold=self.threshold
            )
        reducing = ReducingSink(self.out, shape, self.reduction, self.threshold)
        self.enlarging = EnlargingSink(reducing, (*self.layout.grid.shape, classes))
        return Stitcher(self.layout.grid, classes, self.enlarging)

    def fill_from(self, row: int, classes: int) -> None:
        """Write the fill value into the rows that were not finished, reduced as all others."""
        height, width = self.layout.shape
        sink = ReducingSink(self.out, (height, width, classes), self.reduction, self.threshold)
        for start in range(row, height, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, height)
            sink[start:stop] = np.full((stop - start, width, classes), self.fill_value, np.float32)

    def finished_rows(self, stitcher: Stitcher) -> int:
        """Count the rows of the map that are final."""
        return self.enlarging.written_rows if self.enlarging else stitcher.finished_rows


@dataclass(slots=True)
class _Run:
    """One prediction under way."""

    layout: Layout
    target: _Target
    order: list[int]
    wanted: list[int]
    callback: Callable[[Tile, int, int], bool | None] | None
    probabilities: bool
    stitcher: Stitcher | None = None
    done: int = 0
    place: int = 0  # in the order: tiles before it were added or skipped

    def __post_init__(self) -> None:
        self.target.fill_value = real_number("fill_value", self.target.fill_value, "Use 0, say.")
        if self.callback is not None and not callable(self.callback):
            raise broken(
                SettingError,
                "callback",
                must="be callable",
                got=self.callback,
                fix="Pass a function or None.",
            )
        if self.layout.predictor.classes is not None:  # else the first outputs tell
            self.stitcher = self.target.open(self.layout.predictor.classes)

    def add(self, ids: NDArray[np.int64], outputs: FloatArray) -> None:
        """Stitch a batch, and the tiles before it that are left out."""
        if self.done == 0 and self.probabilities:
            _check_probabilities(outputs)
        if self.stitcher is None:
            self.stitcher = self.target.open(outputs.shape[3])
        for place, tile_id in enumerate(ids.tolist()):
            self._skip_before(tile_id)
            self.place += 1
            self.stitcher.add([tile_id], outputs[place : place + 1])
            self.done += 1
            self._tell(tile_id)

    def finish(self) -> Any:  # noqa: ANN401
        """Give the finished map."""
        if not self.order:
            return self.target.out  # it had everything already
        if self.stitcher is None:
            raise broken(
                ArrayError,
                "mask",
                must="leave at least one tile where the model's channels are not known beforehand",
                got="a mask without a px set",
                fix="Skip the image.",
            )
        self._skip_before(None)
        self.stitcher.merge()
        return self.target.out

    def _skip_before(self, tile_id: int | None) -> None:
        """Skip the tiles left out that come before another: in order, so that rows can leave."""
        while (
            self.stitcher is not None and self.place < len(self.order) and self.order[self.place] != tile_id
        ):
            self.stitcher.skip([self.order[self.place]], self.target.fill_value)
            self.place += 1

    def _tell(self, tile_id: int) -> None:
        if self.callback is None or self.stitcher is None:
            return
        if self.callback(self.layout.grid[tile_id], self.done, len(self.wanted)) is False:
            rows = self.target.finished_rows(self.stitcher)
            if not hasattr(self.target.out, "finished_rows"):  # what goes on later is left as it is
                self.target.fill_from(rows, self.stitcher.n_channels)
            raise CancelledError(
                f"Cancelled after {self.done} of {len(self.wanted)} tiles; the first {rows} rows are final.",
                result=self.target.out,
                finished_rows=rows,
            )


def _check_probabilities(outputs: FloatArray) -> None:
    low, high = float(outputs.min()), float(outputs.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise broken(
            ModelError,
            "network",
            must="return probabilities in [0, 1]",
            got=f"values from {low:.4g} to {high:.4g}",
            fix="End it in a sigmoid or softmax; these look like logits.",
        )
