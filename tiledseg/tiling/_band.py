"""The band of rows of one panel that missing tiles can still touch."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiledseg.tiling._panels import Carry

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray, Sink
    from tiledseg.tiling._panels import PanelPlan
    from tiledseg.tiling.windows import AxisWindow

__all__ = ["Band", "add_weighted"]

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
        lacking = slice(max(self.top, self.plan.done), stop)
        if lacking.start < stop:
            where = lacking if alone else (lacking, slice(self.plan.start, self.plan.stop))
            rows = sums[lacking.start - self.top :, :final].astype(np.float32, copy=False)
            sink[where] = rows.reshape(len(rows), -1, self._channels)
        if self._carry is not None:
            self._carry.write(self.top, sums[:, final:])
        self._shift(done)
        return True

    def _shift(self, done: int) -> None:
        self.top += done
        kept = len(self._sums) - done
        if self.top == self._height:
            self._sums = self._sums[:0].copy()
            if self._left is not None and self._left._carry is not None:
                self._left._carry.close()
            return
        self._sums[:kept] = self._sums[done:]
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
