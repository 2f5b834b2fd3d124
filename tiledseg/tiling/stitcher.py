"""One map from the outputs of tiles, accumulated in a band of rows that moves down the image.

Finished rows go to a sink through `OutputSink`, which converts probabilities to what the map holds.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from tiledseg._arrays import check_unit_interval, check_unmasked, dtype_of, is_finite
from tiledseg._validate import (
    fraction,
    instance_of,
    invalid,
    items_of,
    one_of,
    raised_as,
    real_number,
    whole_number,
)
from tiledseg.errors import ArrayError, SettingError, StitchError
from tiledseg.tiling.grid import TileGrid
from tiledseg.tiling.panels import Band, Panels, sums_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tiledseg._types import AnyArray, FloatArray, Sink

Output: TypeAlias = Literal["probabilities", "mask", "labels", "uint8"]
"""Float32 probabilities, one label for each px (mask, labels), or probabilities times 255 as uint8."""

_MOST_CHANNELS = 65536  # labels are 16 bits wide
_EVEN = 0.5  # the threshold that two classes have without one
_THRESHOLD_FIX = "Use 0.5, for example."
_MOST_BYTE_LABELS = 256


class Stitcher:
    """Blends the outputs of tiles into one map, and writes rows to a sink as soon as they are finished.

    Tiles are weighted by windows whose sum is exactly one, so that no division is needed and
    outputs in [0, 1] stay there. They accumulate in a band of rows, in float32 (in float64 where
    more than 32 tiles lie on one px); once no missing tile can touch a row, it goes to the sink.
    A new array of probabilities is its own band.
    Tiles in the grid's order need a band as high as one tile; any other order gives the same map
    with a higher band. `add` and
    `skip` may be called from several threads.

    A sink that takes blocks (one with ``block_shape``, as `tiledseg.io.create_image` gives) is
    filled panel by panel: tiles in the order of `Panels.order` then need memory that depends
    neither on the image's height nor on its width. A sink with ``finished_rows`` is resumed:
    tiles that touch only px which it already has count as added.

    Parameters
    ----------
    grid : TileGrid
        The tiles, as `Tiler.grid` lays them out.
    n_channels : int
        Output channels K of the network.
    out : array_like, optional
        The sink: anything with shape, dtype and slice assignment, of the map's shape; (H, W) is
        accepted for one channel. A new array where it is None.
    output : {"probabilities", "mask", "labels", "uint8"}
        What the map holds, as for `tiled_predict`.
    threshold : float
        Probability at or above which a px of one channel is foreground, in (0, 1).
    panels : Panels, optional
        The panels of this grid for this sink, if they are computed already.

    Raises
    ------
    ArrayError
        If `out` has the wrong shape or dtype.
    SettingError
        If `grid`, `n_channels`, `output` or `threshold` cannot be used.

    Examples
    --------
    >>> from tiledseg import TilingConfig, Tiler
    >>> image = np.arange(35, dtype=np.uint8).reshape(5, 7, 1)
    >>> tiler = Tiler(TilingConfig(tile_size=4, overlap=2))
    >>> stitcher = Stitcher(tiler.grid(image.shape), n_channels=1)
    >>> for batch in tiler.batches(image, batch_size=2):
    ...     stitcher.add(batch.ids, batch.tiles)
    >>> bool(np.allclose(stitcher.merge(), image))
    True
    """

    def __init__(
        self,
        grid: TileGrid,
        n_channels: int,
        out: Any = None,
        *,
        output: Output = "probabilities",
        threshold: float = 0.5,
        panels: Panels | None = None,
    ) -> None:
        instance_of(TileGrid, grid, "grid", "Make one with Tiler.grid.")
        n_channels = whole_number("n_channels", n_channels, most=_MOST_CHANNELS)
        one_of("output", output, get_args(Output))
        shape, is_new = (*grid.shape, n_channels), out is None
        if is_new:
            out = np.zeros(map_shape(shape, output), map_dtype(output, n_channels))
        self.grid: TileGrid = grid
        self.n_channels: int = n_channels
        self.out: Any = out
        self._sink: Sink = OutputSink(out, shape, output, threshold)
        panels = panels or Panels.of(grid, out)
        self._rows, self._columns, plans = panels.rows, panels.columns, panels.plans
        self._across = [np.repeat(window.weights, n_channels) for window in self._columns]
        precise = sums_dtype(self._rows, self._columns)
        self._seen = ~panels.needed
        in_place = is_new and output == "probabilities" and precise == np.float32
        whole = out.reshape(grid.shape[0], -1) if in_place else None
        self._bands: list[Band] = []
        for plan in plans:
            left = self._bands[-1] if self._bands else None
            self._bands.append(Band(plan, self._rows, n_channels, precise, left, whole))
        self._panel_of = [place for place, plan in enumerate(plans) for _ in plan.columns]
        self._first_open = [0] * len(plans)  # of each panel: the first row of tiles that lacks one
        self._lock = threading.Lock()
        for place in range(len(plans)):
            self._release(place)

    @property
    def finished_rows(self) -> int:
        """Rows of the map that are final and in the sink."""
        return min(band.top for band in self._bands)

    def add(self, ids: Iterable[int], outputs: AnyArray) -> None:
        """Add the outputs of some tiles.

        Parameters
        ----------
        ids : iterable of int
            Positions of the tiles in the grid, (N,).
        outputs : ndarray
            (N, h, w, K), any real dtype.

        Raises
        ------
        StitchError
            If `outputs` has another shape than the tiles, a tile was added before or is not in
            the grid, or an output is NaN or infinite.
        """
        ids = _whole(ids)
        check_unmasked(outputs, "outputs")
        with raised_as(StitchError, "`outputs` cannot be read", "Convert them to a NumPy array first."):
            outputs = np.asarray(outputs)
        wanted = (len(ids), *self.grid.tile_shape, self.n_channels)
        if outputs.shape != wanted:
            raise invalid(
                StitchError,
                "outputs",
                must=f"have shape (N, h, w, K) = {wanted}",
                got=outputs.shape,
                fix="Give one output of the tile's own size for each id.",
            )
        with self._lock:
            self._check(ids)
            for tile_id, output in zip(ids, self._finite(ids, outputs), strict=True):
                self._blend(tile_id, output)
                self._count(tile_id)

    def skip(self, ids: Iterable[int], fill_value: float = 0.0) -> None:
        """Add some tiles whose output is the same in each px, without an array.

        Parameters
        ----------
        ids : iterable of int
            Positions of the tiles in the grid.
        fill_value : float
            Their output in each px and channel; finite.

        Raises
        ------
        StitchError
            If a tile was added before or is not in the grid, or `fill_value` is not finite.
        """
        ids = _whole(ids)
        fill_value = real_number("fill_value", fill_value, "Use 0, for example.")
        if not ids:
            return
        output = np.broadcast_to(np.float32(fill_value), (*self.grid.tile_shape, self.n_channels))
        with self._lock:
            self._check(ids)
            for tile_id in ids:
                if fill_value:
                    self._blend(tile_id, output)
                self._count(tile_id)

    def merge(self) -> Any:
        """Return the finished map.

        Returns
        -------
        array_like
            `out`, or a new array; `output` says what it holds.

        Raises
        ------
        StitchError
            If tiles are missing; the message states how many, and the first.
        """
        missing = np.flatnonzero(~self._seen)
        if len(missing):
            first = self.grid[int(missing[0])].read_box
            raise StitchError(
                f"{len(missing)} of {len(self.grid)} tiles are missing, the first with id {missing[0]} at "
                f"(y, x) = ({first.y0}, {first.x0}). Add each tile once, or skip it."
            )
        return self.out

    def _finite(self, ids: list[int], outputs: AnyArray) -> FloatArray:
        """Make outputs float32; refuse NaN and infinity before anything is added."""
        if outputs.dtype.kind not in set("biuf"):
            raise invalid(
                StitchError,
                "outputs",
                must="be boolean, integer or real",
                got=str(outputs.dtype),
                fix="Let the network return probabilities.",
            )
        with np.errstate(over="ignore"):
            outputs = np.ascontiguousarray(outputs, np.float32)
        for tile_id, output in zip(ids, outputs, strict=True):
            if not is_finite(output):
                box = self.grid[tile_id].read_box
                raise invalid(
                    StitchError,
                    "outputs",
                    must="be finite",
                    got=f"{int((~np.isfinite(output)).sum())} NaN or infinite values in tile {tile_id} at "
                    f"(y, x) = ({box.y0}, {box.x0})",
                    fix="Check the network's weights and the range of its input.",
                )
        return outputs

    def _check(self, ids: list[int]) -> None:
        flat = self._seen.reshape(-1)
        for place, tile_id in enumerate(ids):
            if not 0 <= tile_id < len(flat):
                raise invalid(
                    StitchError,
                    "ids",
                    must=f"be in [0, {len(flat)})",
                    got=tile_id,
                    fix="Use the ids of this grid.",
                )
            if flat[tile_id] or tile_id in ids[:place]:
                raise invalid(
                    StitchError,
                    "ids",
                    must="name each tile once",
                    got=f"tile {tile_id} a second time",
                    fix="Make a new Stitcher for each map.",
                )

    def _blend(self, tile_id: int, output: FloatArray) -> None:
        row, column = divmod(tile_id, len(self._columns))
        band = self._bands[self._panel_of[column]]
        band.blend(self._rows[row], self._columns[column], self._across[column], output)

    def _count(self, tile_id: int) -> None:
        """Count a tile as done, and write rows that no missing tile can touch to the sink."""
        self._seen.reshape(-1)[tile_id] = True
        place = self._panel_of[tile_id % len(self._columns)]
        while place < len(self._bands) and self._release(place):
            place += 1  # the next panel may wait for the carry

    def _release(self, place: int) -> bool:
        band = self._bands[place]
        own = slice(band.plan.columns.start, band.plan.columns.stop)
        row = self._first_open[place]
        while row < len(self._rows) and self._seen[row, own].all():
            row += 1
        self._first_open[place] = row
        return band.release(row, self._sink, alone=len(self._bands) == 1)


def _whole(ids: Iterable[int]) -> list[int]:
    """Return ids as ints; refuse what is not a whole number."""
    items = items_of(ids, "ids", "be a sequence of whole numbers", "Pass batch.ids.", StitchError)
    return [whole_number("ids", one, least=0) for one in items]


def map_shape(shape: tuple[int, int, int], output: Output) -> tuple[int, ...]:
    """Return the stored shape of a map of probabilities (H, W, K)."""
    return shape[:2] if output in {"mask", "labels"} else shape


def map_dtype(output: Output, n_channels: int) -> np.dtype[Any]:
    """Return the stored dtype of a map."""
    wide = n_channels > _MOST_BYTE_LABELS and output in {"mask", "labels"}
    return np.dtype(np.float32 if output == "probabilities" else np.uint16 if wide else np.uint8)


def labels_of(probs: FloatArray, threshold: float = 0.5) -> AnyArray:
    """Return the label of each px: the foreground is cut at the threshold, of several classes the largest."""
    if getattr(probs, "ndim", None) != 3:
        got, fix = getattr(probs, "shape", probs), "Give one channel as probs[..., numpy.newaxis]."
        raise invalid(ArrayError, "probs", must="be an array (H, W, K)", got=got, fix=fix)
    cut = np.float32(check_threshold(threshold, probs.shape[2]))
    if probs.shape[2] == 1 or (probs.shape[2] == 2 and cut != _EVEN):
        return np.greater_equal(probs[..., -1], cut).astype(np.uint8)
    labels: AnyArray = probs.argmax(axis=-1)
    return labels.astype(map_dtype("labels", probs.shape[2]))


def check_threshold(threshold: float, classes: int | None, *, stated: bool = False) -> float:
    """Check a threshold; of more than two classes the most probable counts, so that it cannot be used."""
    threshold = fraction("threshold", threshold, _THRESHOLD_FIX)
    if classes is not None and classes > 2 and (stated or threshold != _EVEN):
        must, fix = f"be left out with {classes} classes", "The most probable class of each px counts."
        raise invalid(SettingError, "threshold", must=must, got=threshold, fix=fix)
    return threshold


class OutputSink:
    """Takes rows of probabilities, and writes them to another sink in the form of the output."""

    def __init__(
        self,
        out: Sink,
        shape: tuple[int, int, int],
        output: Output = "probabilities",
        threshold: float = 0.5,
    ) -> None:
        wanted, dtype = map_shape(shape, output), map_dtype(output, shape[2])
        threshold = fraction("threshold", threshold, _THRESHOLD_FIX)
        self._axes = _check_out(out, wanted, output, dtype)
        self.out: Sink = out
        self.shape: tuple[int, int, int] = shape
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self._output, self._threshold = output, threshold

    def __setitem__(self, rows: slice, probs: FloatArray) -> None:
        stored = self._stored(probs)
        stored = stored if stored.ndim == self._axes else stored.reshape(stored.shape[: self._axes])
        with raised_as(ArrayError, "`out` cannot be written", "Correct it, or give it more space."):
            self.out[rows] = stored

    def _stored(self, probs: FloatArray) -> AnyArray:
        if self._output == "probabilities":
            return probs
        if self._output != "uint8":
            return labels_of(probs, self._threshold)
        must = "be in [0, 1] to be stored as uint8"
        fix = "Let the network end in a sigmoid or softmax, or store probabilities."
        check_unit_interval(probs, "outputs", must, fix)
        return np.rint(probs * 255).astype(np.uint8)  # what lies outside is less than half a step


def _check_out(out: Sink, wanted: tuple[int, ...], output: Output, dtype: np.dtype[Any]) -> int:
    """Check that a sink can hold a map; return the number of its axes (2 are enough for one channel)."""
    check_unmasked(out, "out")
    if not all(hasattr(out, name) for name in ("shape", "dtype", "__setitem__")):
        raise invalid(
            ArrayError,
            "out",
            must="be an array with shape, dtype and slice assignment",
            got=type(out).__name__,
            fix="Pass a NumPy array or a memmap, or for a file what tiledseg.io.create_image opens.",
        )
    found = tuple(out.shape)
    if found != wanted and not (found == wanted[:2] and wanted[2:] == (1,)):
        raise invalid(
            ArrayError, "out", must=f"have shape {wanted}", got=found, fix="Allocate it with that shape."
        )
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        got, fix = "a read-only array", "Pass a copy of it."
        raise invalid(ArrayError, "out", must="be writable", got=got, fix=fix)
    held = dtype_of(out.dtype)
    known = held.kind in set("biuf" if output in {"mask", "labels"} else "iuf")
    fits = held.kind == "f" if output == "probabilities" else known and np.can_cast(dtype, held, "safe")
    if not fits:
        raise invalid(
            ArrayError,
            "out",
            must="hold probabilities" if output == "probabilities" else f"hold {dtype} values",
            got=str(out.dtype),
            fix=f"Use {dtype}, or another `output`.",
        )
    return len(found)
