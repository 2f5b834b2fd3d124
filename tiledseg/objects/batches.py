"""Runs of many objects: held until each is complete, grouped by object, packed into one small picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray

_PX = 1 << 18  # of the boxes of an atlas, so that it stays in the cache of a processor
_LEAST_WIDTH = 512


Lines: TypeAlias = "tuple[AnyArray, ...]"
"""Row, x0, x1 and object of runs, and what else they have."""


class OpenRuns:
    """Runs of objects that are not complete."""

    def __init__(self, end: AnyArray) -> None:
        self._end = end  # the row after the last, of each object
        self._runs: Lines | None = None

    def closed(self, last: int, new: Lines) -> Lines | None:
        """Take the runs up to a row; return those of the objects that end there, None without such."""
        runs = new
        if self._runs is not None:
            runs = tuple(np.concatenate([old, more]) for old, more in zip(self._runs, new, strict=True))
        closed = self._end[runs[3]] <= last
        self._runs = tuple(part[~closed] for part in runs)
        return tuple(part[closed] for part in runs) if closed.any() else None

    def first_row(self, last: int) -> int:
        """Return the first row of a run that is held, or `last`."""
        return last if self._runs is None else int(self._runs[0].min(initial=last))


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """Runs sorted by object, and in reading order in each; px count from the corner of its box."""

    of: NDArray[np.int64]  # object, from 0
    y: NDArray[np.int64]
    x0: NDArray[np.int64]
    x1: NDArray[np.int64]
    first: NDArray[np.int64]  # first run of each object
    height: NDArray[np.int64]
    width: NDArray[np.int64]

    @classmethod
    def of_runs(cls, runs: Lines, boxes: AnyArray) -> tuple[Grouped, AnyArray, Lines]:
        """Group runs (y, x0, x1, number, ...); also return the numbers, and the runs as sorted."""
        order = _stable_order(runs[3])
        runs = tuple(part[order] for part in runs)
        y, x0, x1, number = runs[:4]
        new = np.ones(len(number), bool)
        new[1:] = number[1:] != number[:-1]
        first = np.flatnonzero(new)
        objects, of = number[first], np.cumsum(new) - 1
        box = boxes[objects].astype(np.int64)
        lines = y - box[of, 0], x0 - box[of, 1], x1 - box[of, 1]
        return cls(of, *lines, first, box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]), objects, runs

    def part(self, first: int, last: int) -> Grouped:
        """Select objects."""
        begin = self.first[first]
        end = self.first[last] if last < len(self.first) else len(self.of)
        runs = slice(int(begin), int(end))
        lines = self.of[runs] - first, self.y[runs], self.x0[runs], self.x1[runs]
        return Grouped(
            *lines, self.first[first:last] - begin, self.height[first:last], self.width[first:last]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """A picture in which objects do not touch each other, nor its border."""

    shape: tuple[int, int]
    y: NDArray[np.int64]  # of each object: first row of its box
    x: NDArray[np.int64]

    @classmethod
    def of(cls, height: AnyArray, width: AnyArray) -> Atlas:
        """Place boxes side by side, the tallest first."""
        order = np.argsort(-height, kind="stable")
        ends = np.cumsum(width[order] + 1)
        wide = max(_LEAST_WIDTH, int(width.max()) + 1)
        y, x, first, top = np.empty_like(ends), np.empty_like(ends), 0, 1
        while first < len(order):
            before = ends[first - 1] if first else 0
            last = int(np.searchsorted(ends, before + wide, side="right"))
            shelf = order[first:last]
            y[shelf], x[shelf] = top, ends[first:last] - width[shelf] - before
            top += int(height[order[first]]) + 1
            first = last
        return cls((top, wide + 1), y, x)

    def places(self, of: AnyArray, y: AnyArray, x: AnyArray) -> NDArray[np.int64]:
        """Return where px of objects lie in the flat picture; (y, x) counts from the corner of the box."""
        return np.asarray((self.y[of] + y) * self.shape[1] + self.x[of] + x)

    def painted(self, runs: Grouped, values: AnyArray) -> NDArray[np.int32]:
        """Paint each run with a value."""
        steps = np.zeros(self.shape[0] * self.shape[1], np.int32)
        steps[self.places(runs.of, runs.y, runs.x0)] = values
        steps[self.places(runs.of, runs.y, runs.x1)] -= values.astype(np.int32)  # others may begin there
        return np.cumsum(steps, out=steps).reshape(self.shape)


def groups(height: AnyArray, width: AnyArray) -> Iterator[tuple[int, int]]:
    """Divide objects into as many as fit into an atlas."""
    used = np.cumsum((height + 1) * (width + 1))
    first = 0
    while first < len(used):
        before = used[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(used, before + _PX, side="right")))
        yield first, last
        first = last


def _stable_order(number: AnyArray) -> AnyArray:
    """Sort by number; few numbers are sorted faster."""
    least, most = number.min(), number.max()
    if most - least < 1 << 16:
        number = (number - least).astype(np.uint16)
    return np.argsort(number, kind="stable")
