"""Panels: groups of tile columns, worked through one after the other, and the band of rows of each."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiledseg._validate import instance_of, invalid
from tiledseg.errors import StitchError
from tiledseg.tiling.grid import TileGrid
from tiledseg.tiling.windows import axis_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, Sink
    from tiledseg.tiling.windows import AxisWindow

__all__ = [
    "Band",
    "Carry",
    "PanelPlan",
    "Panels",
    "add_weighted",
    "needed_tiles",
    "plan_panels",
    "sums_dtype",
]

# A band across the whole width costs memory in proportion to it. Where the sink stores blocks, the map is
# cut into panels of at most a few thousand px, each worked from top to bottom. What the last tiles of a panel
# reach beyond it, the carry, is summed up in a temporary file until the next panel takes it in: no tile is
# computed twice, and no weight changes.

_DEEPEST_IN_FLOAT32 = 32  # tiles on one px; sums of more would drift by over 1e-6 in float32
_PANEL = 4096  # px: a band of tiles of 512 px has 8 MB per channel


@dataclass(frozen=True, slots=True)
class PanelPlan:
    """One panel."""

    start: int  # first column of px that becomes final in it
    stop: int  # the column after the last
    reach: int  # where the support of its tiles ends, at or beyond `stop`
    columns: range  # the tile columns that begin in it; may be empty
    step: int  # rows leave in multiples of this many px
    done: int  # rows that stand in the sink already
    carried: int  # first row for which the next panel wants the carry; the height where it wants none
    top: int  # first row that is summed up


def plan_panels(grid: TileGrid, columns: list[AxisWindow], out: Any) -> list[PanelPlan]:  # noqa: ANN401
    """Cut a map into panels that suit a sink."""
    height, width = grid.shape
    block = getattr(out, "block_shape", None)
    wide = width if block is None else _panel_width(grid, block[1])
    step = 1 if block is None else int(block[0])
    starts = [window.start for window in columns]
    borders = [*range(0, width, wide), width]
    plans: list[PanelPlan] = []
    for start, stop in reversed(list(pairwise(borders))):
        own = [place for place, first in enumerate(starts) if start <= first < stop]
        before = [window.stop for window in columns if window.start < stop]
        reach = max(stop, *before)
        done = out.finished_rows(start, stop) if hasattr(out, "finished_rows") else 0
        carried = _wanted(plans[0], plans[1:], reach) if plans and reach > stop else height
        top = min(done, carried) if reach > stop else done
        plans.insert(0, PanelPlan(start, stop, reach, _range(own), step, done, carried, top))
    return plans


def _panel_width(grid: TileGrid, block: int) -> int:
    """Choose a multiple of the block's width that holds the start of at least one tile."""
    least = max(_PANEL, grid.x.tile)
    return -(-least // block) * block


def _range(places: list[int]) -> range:
    return range(places[0], places[-1] + 1) if places else range(0)


def _wanted(plan: PanelPlan, others: list[PanelPlan], reach: int) -> int:
    """Say from which row on a panel needs the carry: also for what only passes through it."""
    passing = others and reach > plan.stop
    return min(plan.done, _wanted(others[0], others[1:], reach)) if passing else plan.done


def needed_tiles(
    plans: list[PanelPlan], rows: list[AxisWindow], columns: list[AxisWindow]
) -> NDArray[np.bool_]:
    """Say which tiles touch a px that the sink lacks."""
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
    """How a map is worked through: windows of both axes, panels, and the tiles that a sink lacks."""

    rows: list[AxisWindow]
    columns: list[AxisWindow]
    plans: list[PanelPlan]
    needed: NDArray[np.bool_]  # by row and column of tiles

    @classmethod
    def of(cls, grid: TileGrid, out: Any = None) -> Panels:  # noqa: ANN401
        """Cut the map of a grid into panels that suit a sink; None for one that takes rows."""
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
    """Choose in which precision tiles are summed up."""
    return np.dtype(np.float32 if _depth(rows) * _depth(columns) <= _DEEPEST_IN_FLOAT32 else np.float64)


def _depth(windows: list[AxisWindow]) -> int:
    """Count the tiles on the px of an axis that has most of them."""
    starts = [window.start for window in windows]
    return max(bisect_left(starts, window.stop) - place for place, window in enumerate(windows))


class Carry:
    """Sums of what reaches beyond a panel, in a temporary file."""

    def __init__(self, floats: int, dtype: np.dtype[Any]) -> None:
        self.floats: int = floats
        self._dtype = dtype
        self._file = tempfile.TemporaryFile(prefix="tiledseg-", buffering=0)  # noqa: SIM115  closed below
        self._close = weakref.finalize(self, self._file.close)

    def write(self, row: int, sums: AnyArray) -> None:
        """Store rows."""
        try:
            self._file.seek(row * self.floats * self._dtype.itemsize)
            left = np.ascontiguousarray(sums, self._dtype).data.cast("B")
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            fix = "Free some space, or let TMPDIR name a folder that has some."
            got = error.strerror or str(error)
            raise invalid(StitchError, tempfile.gettempdir(), must="be writable", got=got, fix=fix) from error

    def read(self, row: int, count: int) -> AnyArray:
        """Read rows; zeros where none was stored."""
        size = count * self.floats * self._dtype.itemsize
        self._file.seek(row * self.floats * self._dtype.itemsize)
        data = bytearray(size)
        self._file.readinto(data)
        return np.frombuffer(data, self._dtype).reshape(count, self.floats)

    def close(self) -> None:
        """Remove the file."""
        self._close()


_FLOATS_HANDED_OVER = 4 << 20  # to a sink at once
_FLOATS_AT_ONCE = 65_536  # of one tile: what is multiplied stays in the processor's cache


class Band:
    """Sums of weighted tiles in one panel; rows that are final leave it."""

    def __init__(
        self,
        plan: PanelPlan,
        rows: list[AxisWindow],
        height: int,
        channels: int,
        dtype: np.dtype[Any],
        left: Band | None,
    ) -> None:
        self.plan: PanelPlan = plan
        self.top: int = plan.top
        self._rows, self._height, self._channels, self._dtype = rows, height, channels, dtype
        self._left = left
        self._carry = Carry((plan.reach - plan.stop) * channels, dtype) if plan.reach > plan.stop else None
        self._sums: AnyArray = np.zeros((0, (plan.reach - plan.start) * channels), dtype)

    def blend(self, down: AxisWindow, across: AxisWindow, weights: FloatArray, output: FloatArray) -> None:
        """Add a weighted tile."""
        k, skipped = self._channels, max(0, self.top - down.start)
        self._make_room(down.stop)
        pixels = output[down.in_tile, across.in_tile].reshape(len(down.weights), -1)[skipped:]
        first_row, first = down.start + skipped - self.top, (across.start - self.plan.start) * k
        target = self._sums[first_row : down.stop - self.top, first : first + pixels.shape[1]]
        step = max(1, _FLOATS_AT_ONCE // target.shape[1])
        for start in range(0, len(pixels), step):
            some = slice(start, start + step)
            both = np.multiply.outer(down.weights[skipped:][some], weights)
            add_weighted(target[some], pixels[some], both)

    def _make_room(self, stop: int) -> None:
        lacking = stop - self.top - len(self._sums)
        if lacking > 0:
            usual = self._rows[0].stop + self.plan.step
            sums = _zeros(max(len(self._sums) + lacking, usual), self._sums.shape[1], self._dtype)
            sums[: len(self._sums)] = self._sums
            self._sums = sums

    def release(self, first_open: int, sink: Sink, *, alone: bool) -> bool:
        """Hand rows that no open tile can touch to the sink."""
        stop = self._height if first_open == len(self._rows) else self._rows[first_open].start
        stop = stop if self._left is None else min(stop, self._left.top)
        if stop < self._height:
            stop -= stop % self.plan.step
        if stop <= self.top:
            return False
        self._make_room(stop)
        done = stop - self.top
        sums = self._sums[:done]
        if self._left is not None and self._left._carry is not None:
            taken = self._left._carry.read(self.top, done)
            sums[:, : taken.shape[1]] += taken
        final = (self.plan.stop - self.plan.start) * self._channels
        self._hand_over(sums[:, :final], max(self.top, self.plan.done), stop, sink, alone=alone)
        if self._carry is not None:
            self._carry.write(self.top, sums[:, final:])
        self._shift(done)
        return True

    def _hand_over(self, sums: AnyArray, start: int, stop: int, sink: Sink, *, alone: bool) -> None:
        """Write rows, a few at once: what a sink makes of them takes memory as well."""
        few = max(1, _FLOATS_HANDED_OVER // (sums.shape[1] * self.plan.step)) * self.plan.step
        for first in range(start, stop, few):
            some = slice(first, min(first + few, stop))
            where = some if alone else (some, slice(self.plan.start, self.plan.stop))
            rows = sums[some.start - self.top : some.stop - self.top].astype(np.float32, copy=False)
            sink[where] = rows.reshape(len(rows), -1, self._channels)

    def _shift(self, done: int) -> None:
        self.top += done
        kept = len(self._sums) - done
        if self.top == self._height:
            self._sums = self._sums[:0].copy()
            if self._left is not None and self._left._carry is not None:
                self._left._carry.close()
            return
        for start in range(0, kept, done):  # pieces that do not overlap: NumPy would copy all of them first
            some = slice(start, min(start + done, kept))
            self._sums[some] = self._sums[some.start + done : some.stop + done]
        self._sums[kept:] = 0


def _zeros(rows: int, floats: int, dtype: np.dtype[Any]) -> AnyArray:
    """Take memory that goes back to the system as soon as it is let go, whatever lies around it."""
    count = rows * floats
    return np.frombuffer(mmap.mmap(-1, max(1, count) * dtype.itemsize), dtype)[:count].reshape(rows, floats)


def add_weighted(target: AnyArray, pixels: FloatArray, weights: FloatArray) -> None:
    """Add pixels times weights to a part of the band, in place; each of them (h, w * K)."""
    if pixels.strides[1] != pixels.itemsize or pixels.strides[0] < pixels.shape[1] * pixels.itemsize:
        pixels = pixels.copy()  # OpenCV reads beyond the end of a broadcast view
    if target.dtype == np.float32:
        cv2.accumulateProduct(pixels, weights, target)  # one pass over memory; NumPy needs two
    else:
        target += pixels * weights
