"""What waits for its turn: arrays and rows in temporary files; runs of objects, until each is complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._arrays import array_of
from tiledseg._storage import ScratchFile, scratch_array
from tiledseg._validate import invalid
from tiledseg.errors import ArrayError
from tiledseg.io import check_values, rows_and_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray

_IN_MEMORY = 1 << 26  # bytes of a spool that stay in memory
_BAND = 256  # rows that are passed on at a time
_PX = 1 << 18  # of the boxes of an atlas, so that it stays in the cache of a processor
_LEAST_WIDTH = 512

Lines: TypeAlias = "tuple[AnyArray, ...]"
"""Row, x0, x1 and object of runs, and what else they have."""


def zeros(n: int, dtype: object) -> AnyArray:
    """Make a column of zeros; a long one lies in a temporary file, from which memory can be taken back."""
    kind: np.dtype[Any] = np.dtype(dtype)  # type: ignore[call-overload]
    if n * kind.itemsize <= _IN_MEMORY:
        return np.zeros(n, kind)
    return scratch_array(n, kind)


class Spool:
    """An array (N, ...) that grows at its end, and is read by ranges."""

    def __init__(self, dtype: object, item: tuple[int, ...] = ()) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)  # type: ignore[call-overload]
        self._item = item
        self._bytes = self.dtype.itemsize * int(np.prod(item, dtype=int))
        self._file = ScratchFile(_IN_MEMORY)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, values: AnyArray) -> None:
        """Add items at the end."""
        data = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data
        self._file.write(self._length * self._bytes, data)
        self._length += len(values)

    def read(self, first: int, last: int) -> AnyArray:
        """Return items [first, last)."""
        data = self._file.read(first * self._bytes, (last - first) * self._bytes)
        return np.frombuffer(data, self.dtype).reshape(last - first, *self._item)


class RunSpool:
    """Runs of px in reading order, each with an id."""

    def __init__(self) -> None:
        self.x0, self.x1, self.ids = Spool(np.int32), Spool(np.int32), Spool(np.int32)
        self.marks = Spool(np.int32)  # of each run, or of none
        self._first = [np.zeros(1, np.int64)]  # of each row: its first run
        self._first_px = [np.zeros(1, np.int64)]  # and the number of px before it

    def append(self, row: AnyArray, x0: AnyArray, x1: AnyArray, ids: AnyArray, n_rows: int) -> None:
        """Add the runs of the next rows; `row` counts from the first of them."""
        for spool, values in ((self.x0, x0), (self.x1, x1), (self.ids, ids)):
            spool.append(values)
        px = np.bincount(row, x1 - x0, n_rows).astype(np.int64)
        self._first.append(np.cumsum(np.bincount(row, minlength=n_rows)) + self._first[-1][-1])
        self._first_px.append(np.cumsum(px) + self._first_px[-1][-1])

    def rows(self, first: int, last: int) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:
        """Return row, x0, x1 and id of the runs in rows [first, last)."""
        starts = self._joined(self._first)[first : last + 1]
        row = np.repeat(np.arange(first, last, dtype=np.int32), np.diff(starts))
        a, b = int(starts[0]), int(starts[-1])
        return row, self.x0.read(a, b), self.x1.read(a, b), self.ids.read(a, b)

    def marks_of(self, first: int, last: int) -> AnyArray:
        """Return the mark of each run in rows [first, last); 0 where runs have none."""
        a, b = self._joined(self._first)[[first, last]].tolist()
        return self.marks.read(a, b) if len(self.marks) else np.zeros(b - a, np.int32)

    def px(self, first: int, last: int) -> tuple[int, int]:
        """Return how many px the runs above rows [first, last) have, and those up to their end."""
        starts = self._joined(self._first_px)
        return int(starts[first]), int(starts[last])

    @staticmethod
    def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0]


class Arrival:
    """Passes whole rows on in order; what comes before its turn waits in a temporary file."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], take: Callable[[int, AnyArray], None]
    ) -> None:
        self._shape, self._dtype, self._take = shape, dtype, take
        self._next = 0  # first row that was not passed on
        self._arrived = np.zeros(shape[0], np.int64)  # px of each row
        self._waiting: AnyArray | None = None

    def put(self, region: object, px: object) -> None:
        """Take a region; it belongs to the map and no px of it came before."""
        rows, columns = rows_and_columns(region, self._shape, "Index sink[y0:y1, x0:x1].")
        block = array_of(px, "px")
        wanted = (rows.stop - rows.start, columns.stop - columns.start, *self._shape[2:])
        if block.shape not in {wanted, wanted[:2], (*wanted, 1)} or block.size != np.prod(wanted, dtype=int):
            raise invalid(
                ArrayError, "px", must=f"have shape {wanted}", got=block.shape, fix="Check the region."
            )
        if not block.size:
            return
        check_values(block, self._dtype, "px")
        block = block.reshape(wanted).astype(self._dtype, copy=False)
        self._arrived[rows] += wanted[1]
        if (self._arrived[rows] > self._shape[1]).any() or rows.start < self._next:
            must, got = "arrive once", f"rows {rows.start} to {rows.stop} once more"
            raise invalid(ArrayError, "px", must=must, got=got, fix="Write each px of the map once.")
        if rows.start == self._next and wanted[1] == self._shape[1]:
            self._take(rows.start, block)
            self._next = rows.stop
        else:
            self._wait()[rows, columns] = block
        self._pass_on()

    def check_complete(self) -> None:
        """Check that all px arrived."""
        if self._next < self._shape[0]:
            got = f"none or a part of row {self._next}"
            fix = "Write all of the map first."
            raise invalid(ArrayError, "map", must=f"have {self._shape[0]} whole rows", got=got, fix=fix)

    def _wait(self) -> AnyArray:
        if self._waiting is None:
            self._waiting = scratch_array(self._shape, self._dtype)
        return self._waiting

    def _pass_on(self) -> None:
        """Pass on the rows that became complete."""
        while self._waiting is not None and self._next < self._shape[0]:
            band = self._arrived[self._next : self._next + _BAND] == self._shape[1]
            n = len(band) if band.all() else int(band.argmin())
            if not n:
                return
            self._take(self._next, np.asarray(self._waiting[self._next : self._next + n]))
            self._next += n


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

    def first_of_rows(self) -> NDArray[np.int64]:
        """Return where each row of each object begins."""
        return np.flatnonzero(np.append(True, (self.y[1:] != self.y[:-1]) | (self.of[1:] != self.of[:-1])))

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
