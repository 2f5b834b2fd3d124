"""Sums of weighted tiles: panels of tile columns, the band of rows of each, and a block alone."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import cv2
from tiledseg._storage import ScratchFile
from tiledseg._validate import instance_of, real_number, whole_number
from tiledseg.tiling.grid import Box, TileGrid, axis_windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, Sink
    from tiledseg.tiling.grid import AxisWindow

# A band across the whole width takes memory in proportion to it. Where the sink stores blocks, the map is
# divided into panels of a few thousand px, each stitched from top to bottom. The last tiles of a panel extend
# beyond it; their part there, the carry, is summed up in a temporary file until the next panel adds it: no
# tile is computed twice, and no weight changes.

_DEEPEST_IN_FLOAT32 = 32  # tiles on one px; the error of larger sums in float32 exceeds 1e-6
_PANEL = 4096  # px: a band of tiles of 512 px has 8 MB per channel


@dataclass(frozen=True, slots=True)
class PanelPlan:
    """One panel."""

    start: int  # first column of px that becomes final in it
    stop: int  # the column after the last
    end: int  # column after the last px of its tiles, at or beyond `stop`
    columns: range  # the tile columns that begin in it; may be empty
    step: int  # rows leave in multiples of this many px
    done: int  # rows that are in the sink already
    carried: int  # first row for which the next panel needs the carry; the height where it needs none
    top: int  # first row that is summed up here


def plan_panels(grid: TileGrid, columns: list[AxisWindow], out: Any) -> list[PanelPlan]:
    """Divide a map into panels that suit a sink."""
    height, width = grid.shape
    block = getattr(out, "block_shape", None)
    wide = width if block is None else _panel_width(grid, block[1])
    step = 1 if block is None else int(block[0])
    starts = [window.start for window in columns]
    borders = [*range(0, width, wide), width]
    plans: list[PanelPlan] = []
    for start, stop in reversed(list(pairwise(borders))):
        own = range(bisect_left(starts, start), bisect_left(starts, stop))
        before = [window.stop for window in columns if window.start < stop]
        end = max(stop, *before)
        done = out.finished_rows(start, stop) if hasattr(out, "finished_rows") else 0
        carried = _carry_start(plans[0], plans[1:], end) if end > stop else height
        top = min(done, carried)
        plans.insert(0, PanelPlan(start, stop, end, own, step, done, carried, top))
    return plans


def _panel_width(grid: TileGrid, block: int) -> int:
    """Choose a multiple of the block's width in which at least one tile starts."""
    least = max(_PANEL, grid.x.tile)
    return -(-least // block) * block


def _carry_start(plan: PanelPlan, others: list[PanelPlan], end: int) -> int:
    """Return the first row for which a panel needs the carry, or passes it on to the others."""
    passed_on = others and end > plan.stop
    return min(plan.done, _carry_start(others[0], others[1:], end)) if passed_on else plan.done


def needed_tiles(
    plans: list[PanelPlan], rows: list[AxisWindow], columns: list[AxisWindow]
) -> NDArray[np.bool_]:
    """Return which tiles (row, column) touch a px that the sink lacks."""
    stops = np.array([window.stop for window in rows])
    needed = np.zeros((len(rows), len(columns)), bool)
    for plan in plans:
        for column in plan.columns:
            needed[:, column] = stops > plan.done
            if columns[column].stop > plan.stop:
                needed[:, column] |= stops > plan.carried
    return needed


@dataclass(frozen=True, slots=True, eq=False)
class Panels:
    """The order in which a map is stitched: windows of both axes, panels, and the tiles that a sink lacks."""

    rows: list[AxisWindow]
    columns: list[AxisWindow]
    plans: list[PanelPlan]
    needed: NDArray[np.bool_]  # by row and column of tiles

    @classmethod
    def of(cls, grid: TileGrid, out: Any = None) -> Panels:
        """Divide the map of a grid into panels for a sink; None for a sink that takes rows."""
        instance_of(TileGrid, grid, "grid", "Make one with Tiler.grid.")
        rows, columns = axis_windows(grid.y, grid.blend), axis_windows(grid.x, grid.blend)
        plans = plan_panels(grid, columns, out)
        return cls(rows, columns, plans, needed_tiles(plans, rows, columns))

    def order(self) -> list[int]:
        """List the tiles that the sink lacks, in the order that needs the least memory."""
        return [
            row * len(self.columns) + column
            for plan in self.plans
            for row in range(len(self.rows))
            for column in plan.columns
            if self.needed[row, column]
        ]


def sums_dtype(rows: list[AxisWindow], columns: list[AxisWindow]) -> np.dtype[Any]:
    """Choose the precision in which tiles are summed up."""
    return np.dtype(np.float32 if _depth(rows) * _depth(columns) <= _DEEPEST_IN_FLOAT32 else np.float64)


def _depth(windows: list[AxisWindow]) -> int:
    """Return the largest number of tiles on one px of an axis."""
    starts = [window.start for window in windows]
    return max(bisect_left(starts, window.stop) - place for place, window in enumerate(windows))


class Carry:
    """Sums of the px beyond a panel, in a temporary file."""

    def __init__(self, floats: int, dtype: np.dtype[Any]) -> None:
        self.floats: int = floats
        self._dtype = dtype
        self._file = ScratchFile()

    def write(self, row: int, sums: AnyArray) -> None:
        """Store rows."""
        data = np.ascontiguousarray(sums, self._dtype).data.cast("B")
        self._file.write(row * self.floats * self._dtype.itemsize, data)

    def read(self, row: int, count: int) -> AnyArray:
        """Read rows; zeros where none was stored."""
        size = count * self.floats * self._dtype.itemsize
        data = self._file.read(row * self.floats * self._dtype.itemsize, size)
        return np.frombuffer(data.ljust(size, b"\0"), self._dtype).reshape(count, self.floats)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


_FLOATS_PER_WRITE = 1 << 20  # to a sink: what it makes of them takes memory as well
_FLOATS_AT_ONCE = 1 << 18  # of one tile: its products take 1 MB, and stay in the cache of most processors


class Band:
    """Sums of weighted tiles in one panel; rows that are final leave it."""

    def __init__(
        self,
        plan: PanelPlan,
        rows: list[AxisWindow],
        channels: int,
        dtype: np.dtype[Any],
        left: Band | None,
        whole: FloatArray | None = None,
    ) -> None:
        self.plan: PanelPlan = plan
        self.top: int = plan.top
        self._whole = whole  # a map of zeros in memory, in which tiles are summed up at once
        self._rows, self._height, self._channels, self._dtype = rows, rows[-1].stop, channels, dtype
        self._left = left
        self._carry = Carry((plan.end - plan.stop) * channels, dtype) if plan.end > plan.stop else None
        self._sums: AnyArray = np.zeros((0, (plan.end - plan.start) * channels), dtype)

    def blend(self, down: AxisWindow, across: AxisWindow, weights: FloatArray, output: FloatArray) -> None:
        """Add a weighted tile."""
        k, skipped = self._channels, max(0, self.top - down.start)
        if self._whole is None:
            self._grow(down.stop)
        pixels = output[down.in_tile, across.in_tile].reshape(len(down.weights), -1)[skipped:]
        first = (across.start - self.plan.start) * k
        sums, top = (self._sums, self.top) if self._whole is None else (self._whole, 0)
        target = sums[down.start + skipped - top : down.stop - top, first : first + pixels.shape[1]]
        if down.weights.min() == 1 == weights.min():  # no other tile has a weight here
            target[...] = pixels
            return
        step = max(1, _FLOATS_AT_ONCE // target.shape[1])
        for start in range(0, len(pixels), step):
            some = slice(start, start + step)
            both = np.einsum("i,j->ij", down.weights[skipped:][some], weights)  # NumPy's outer is slower
            add_weighted(target[some], pixels[some], both)

    def _grow(self, stop: int) -> None:
        lacking = stop - self.top - len(self._sums)
        if lacking > 0:
            usual = self._rows[0].stop + self.plan.step
            sums = _zeros(max(len(self._sums) + lacking, usual), self._sums.shape[1], self._dtype)
            sums[: len(self._sums)] = self._sums
            self._sums = sums

    def release(self, first_open: int, sink: Sink, *, alone: bool) -> bool:
        """Write rows that no missing tile can touch to the sink; return whether there were any."""
        stop = self._height if first_open == len(self._rows) else self._rows[first_open].start
        stop = stop if self._left is None else min(stop, self._left.top)
        if stop < self._height:
            stop -= stop % self.plan.step
        if stop <= self.top:
            return False
        if self._whole is not None:
            self.top = stop
            return True
        self._grow(stop)
        done = stop - self.top
        sums = self._sums[:done]
        if self._left is not None and self._left._carry is not None:
            taken = self._left._carry.read(self.top, done)
            sums[:, : taken.shape[1]] += taken
        final = (self.plan.stop - self.plan.start) * self._channels
        self._write_rows(sums[:, :final], max(self.top, self.plan.done), stop, sink, alone=alone)
        if self._carry is not None:
            self._carry.write(self.top, sums[:, final:])
        self._shift(done)
        return True

    def _write_rows(self, sums: AnyArray, start: int, stop: int, sink: Sink, *, alone: bool) -> None:
        """Write rows to the sink, a few at once, to bound the memory that the sink needs."""
        few = max(1, _FLOATS_PER_WRITE // (sums.shape[1] * self.plan.step)) * self.plan.step
        for first in range(start, stop, few):
            some = slice(first, min(first + few, stop))
            region = some if alone else (some, slice(self.plan.start, self.plan.stop))
            rows = sums[some.start - self.top : some.stop - self.top].astype(np.float32, copy=False)
            sink[region] = rows.reshape(len(rows), -1, self._channels)

    def _shift(self, done: int) -> None:
        self.top += done
        remaining = len(self._sums) - done
        if self.top == self._height:
            self._sums = self._sums[:0].copy()
            if self._left is not None and self._left._carry is not None:
                self._left._carry.close()
            return
        for start in range(0, remaining, done):  # without overlap, so that NumPy makes no copy
            some = slice(start, min(start + done, remaining))
            self._sums[some] = self._sums[some.start + done : some.stop + done]
        self._sums[remaining:] = 0


def _zeros(rows: int, floats: int, dtype: np.dtype[Any]) -> AnyArray:
    """Allocate memory that is returned to the system as soon as it is freed."""
    count = rows * floats
    memory = _memory(max(1, count) * dtype.itemsize)
    return np.frombuffer(memory, dtype)[:count].reshape(rows, floats)


def _memory(size: int) -> mmap.mmap:
    """Map memory, in large pages where the system has them: small ones take longer than the sums."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def add_weighted(target: AnyArray, pixels: FloatArray, weights: FloatArray) -> None:
    """Add pixels times weights to a part of the band, in place; all are (h, w * K)."""
    if 0 in pixels.strides:
        pixels = pixels.copy()  # OpenCV reads beyond the end of a broadcast view
    if target.dtype == np.float32:
        cv2.accumulateProduct(pixels, weights, target)  # one pass over memory; NumPy needs two
    else:
        target += pixels * weights


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
