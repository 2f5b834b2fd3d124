"""One map from the outputs of tiles, accumulated in a band of rows that moves down the image."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import instance_of, invalid, items_of, real_number, whole_number
from tiledseg.errors import StitchError
from tiledseg.tiling.grid import Box, TileGrid
from tiledseg.tiling.panels import Band, Panels, add_weighted, sums_dtype
from tiledseg.tiling.sinks import Output, OutputSink, map_dtype, map_shape
from tiledseg.tiling.windows import axis_windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tiledseg._types import AnyArray, FloatArray, Sink

_MOST_CHANNELS = 65536  # labels are 16 bits wide


class Stitcher:
    """Blends the outputs of tiles into one map, and writes rows to a sink as soon as they are finished.

    Tiles are weighted by windows whose sum is exactly one, so that no division is needed and
    outputs in [0, 1] stay there. They accumulate in a band of rows, in float32 (in float64 where
    more than 32 tiles lie on one px); once no missing tile can touch a row, it goes to the sink.
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
        out: Any = None,  # noqa: ANN401
        *,
        output: Output = "probabilities",
        threshold: float = 0.5,
        panels: Panels | None = None,
    ) -> None:
        instance_of(TileGrid, grid, "grid", "Make one with Tiler.grid.")
        n_channels = whole_number("n_channels", n_channels, most=_MOST_CHANNELS)
        shape = (*grid.shape, n_channels)
        if out is None:
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
        self._bands: list[Band] = []
        for plan in plans:
            left = self._bands[-1] if self._bands else None
            self._bands.append(Band(plan, self._rows, grid.shape[0], n_channels, precise, left))
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
        output = np.broadcast_to(np.float32(fill_value), (*self.grid.tile_shape, self.n_channels))
        with self._lock:
            self._check(ids)
            for tile_id in ids:
                if fill_value:
                    self._blend(tile_id, output)
                self._count(tile_id)

    def merge(self) -> Any:  # noqa: ANN401
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
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = np.ascontiguousarray(outputs, np.float32)
            if not math.isfinite(float(outputs.sum())):  # one pass; a finite sum needs no further check
                for tile_id, output in zip(ids, outputs, strict=True):
                    if not np.isfinite(output).all():
                        self._refuse(tile_id, output)
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

    def _refuse(self, tile_id: int, output: FloatArray) -> None:
        box = self.grid[tile_id].read_box
        raise invalid(
            StitchError,
            "outputs",
            must="be finite",
            got=f"{int((~np.isfinite(output)).sum())} NaN or infinite values in tile {tile_id} at "
            f"(y, x) = ({box.y0}, {box.x0})",
            fix="Check the network's weights and the range of its input.",
        )

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


def touching_tiles(grid: TileGrid, box: Box) -> list[int]:
    """List the tiles whose weights in a block are not zero."""
    instance_of(TileGrid, grid, "grid", "Make one with Tiler.grid.")
    instance_of(Box, box, "box")
    rows, columns = axis_windows(grid.y, grid.blend), axis_windows(grid.x, grid.blend)
    down = [place for place, one in enumerate(rows) if one.start < box.y1 and one.stop > box.y0]
    across = [place for place, one in enumerate(columns) if one.start < box.x1 and one.stop > box.x0]
    return [row * len(columns) + column for row in down for column in across]


def stitch_block(
    grid: TileGrid, box: Box, outputs: Mapping[int, FloatArray], classes: int, fill_value: float = 0.0
) -> FloatArray:
    """Blend the tiles that touch a block; a tile without outputs has the fill value."""
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
