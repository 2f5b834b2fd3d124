"""The second pass: runs of final numbers become labels, and objects are measured when they are complete."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._arrays import check_unmasked, dtype_of
from tiledseg._progress import progress_bar
from tiledseg._storage import check_writable
from tiledseg._validate import invalid, path_text
from tiledseg.errors import ArrayError
from tiledseg.io import create_image, pixel_size_from
from tiledseg.objects.measure import (
    ImageValues,
    ValueSums,
    box_columns,
    convex_areas,
    extents,
    geometry,
    in_um,
    measured,
    moments,
    outline_px,
)
from tiledseg.objects.runs import Components, chunks, paint, painted, ranges, runs_of
from tiledseg.objects.spool import Grouped, OpenRuns, RunSpool, zeros
from tiledseg.objects.table import Objects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike, Sink, Source
    from tiledseg.io import PixelSize
    from tiledseg.objects.measure import Table, Values

_LARGE_PX = 1 << 22  # an object with a larger box is measured row by row, not in an atlas
_LARGE_SIDE = 1 << 16
_STRIP_PX = 1 << 22
_VALUES = 1 << 17  # px whose values are summed up at a time
_MOST_RUNS = 1 << 22  # an object of more runs is passed on without them


@dataclass(frozen=True, slots=True, eq=False)
class ObjectBatch:
    """Objects that are complete, with their rows of the table and their px as runs.

    Attributes
    ----------
    table : dict of str to numpy.ndarray
        Columns by name, with a row for each object, ascending by ``label``.
    first : ndarray of int64, shape (n + 1,)
        Where the runs of each object begin; the last entry is the number of runs.
    y, x0, x1 : ndarray of int32
        Row, first px and px after the last of each run, in reading order for each object.
    """

    table: Table
    first: NDArray[np.int64]
    y: NDArray[np.int32]
    x0: NDArray[np.int32]
    x1: NDArray[np.int32]


class Collector:
    """Measures objects from runs that arrive in reading order."""

    def __init__(
        self,
        found: Components,
        values: Sequence[Values],
        pixel_size: PixelSize | None,
        each: Callable[[ObjectBatch], object] | None,
        *,
        measure: bool = True,
    ) -> None:
        self._found, self._values, self._pixel_size, self._each = found, values, pixel_size, each
        self._measure = measure  # more than what the components know
        self.table: Table = {}
        if not measure:
            self._values = []
        self._sums = [[ValueSums(len(found), part.dtype) for _ in part.names] for part in self._values]
        size = (found.box[:, 2:] - found.box[:, :2]).astype(np.int64)
        is_large = (size.prod(axis=1) > _LARGE_PX) | (size.max(axis=1, initial=0) > _LARGE_SIDE)
        self._is_large = is_large & measure
        self._large: dict[int, _Large] = {}
        self._open = OpenRuns(found.box[:, 2])

    def run(self, out: Sink | None, progress: Callable[[int], object]) -> Table:
        """Go through all runs; write the labels where they are wanted."""
        height, width = self._found.shape
        for first, last in chunks(height, width):
            y, x0, x1, ids = self._found.spool.rows(first, last)
            number = self._found.number[ids]
            if out is not None:
                paint(out, first, last, (y, x0, x1), (number + 1).astype(np.uint32))
            self._add_values(first, last, number, (x1 - x0).astype(np.int64))
            if self._measure or self._each is not None:
                self._add_runs(last, *_merged(y, x0, x1, number))
            progress(last - first)
        if not self._measure:
            return self._known(np.arange(len(self._found)))
        if not self.table:
            self._put(np.zeros(0, np.int64), _no_rows(), np.zeros(1, np.int64), ())
        return self.table

    def _known(self, objects: AnyArray) -> Table:
        """Return what is known of objects without measuring them."""
        found, box = self._found, self._found.box[objects].astype(np.int64)
        known: Table = {"label": (objects + 1).astype(np.uint32), "class": found.label[objects]}
        return known | box_columns(box) | {"area": found.area[objects]}

    def _add_values(self, first: int, last: int, number: AnyArray, length: AnyArray) -> None:
        if not self._values:
            return
        begin, ends = self._found.spool.px(first, last)[0], np.cumsum(length)
        label = np.append(self._found.label, 0)[number]
        low = 0
        while low < len(ends):  # a part at a time, which stays in the cache
            before = int(ends[low - 1]) if low else 0
            high = max(low + 1, int(np.searchsorted(ends, before + _VALUES)))
            runs, where = slice(low, high), (begin + before, begin + int(ends[high - 1]))
            starts = ends[runs] - length[runs] - before
            for part, sums in zip(self._values, self._sums, strict=True):
                for one, px in zip(sums, part.read(where, label[runs], length[runs]), strict=True):
                    one.add(number[runs], px, starts, length[runs])
            low = high

    def _add_runs(self, last: int, y: AnyArray, x0: AnyArray, x1: AnyArray, number: AnyArray) -> None:
        large = self._is_large[number]
        for one in np.unique(number[large]).tolist():
            here = number == one
            self._add_large(one, last, y[here], x0[here], x1[here])
        small = ~large
        closed = self._open.closed(last, (y[small], x0[small], x1[small], number[small]))
        if closed is not None:
            grouped, objects, runs = Grouped.of_runs(closed, self._found.box)
            first = np.append(grouped.first, len(runs[0]))
            if self._measure:
                form = geometry(grouped, self._found.box[objects].astype(np.int64))
                self._put(objects, form, first, runs[:3])
            elif self._each is not None:
                self._each(ObjectBatch(self._known(objects), first, *runs[:3]))

    def _add_large(self, one: int, last: int, y: AnyArray, x0: AnyArray, x1: AnyArray) -> None:
        box = self._found.box[one].astype(np.int64)
        if one not in self._large:
            self._large[one] = _Large(box, keep_runs=self._each is not None)
        large = self._large[one]
        large.add(y, x0, x1)
        if box[2] <= last:
            runs = large.runs()
            self._put(np.array([one]), large.measured(), np.array([0, len(runs[0])]), runs)
            del self._large[one]

    def _put(self, objects: AnyArray, form: Table, first: AnyArray, runs: tuple[AnyArray, ...]) -> None:
        """Store rows of the table, and pass the batch on."""
        numbers = (objects + 1).astype(np.uint32)
        rows: Table = {"label": numbers, "class": self._found.label[objects], **form}
        if self._pixel_size is not None:
            rows |= in_um(rows, self._pixel_size)
        for part, sums in zip(self._values, self._sums, strict=True):
            for name, one in zip(part.names, sums, strict=True):
                rows |= {f"{name}_{key}": column for key, column in one.of(objects).items()}
        for name, column in rows.items():
            if name not in self.table:
                self.table[name] = zeros(len(self._found), column.dtype)
            self.table[name][objects] = column
        if self._each is not None and len(objects):
            self._each(ObjectBatch(rows, first, *runs))


def collected(  # noqa: PLR0913  what is measured, and where it goes
    found: Components,
    values: Sequence[Values],
    pixel_size: PixelSize | None,
    out: Sink | PathLike | None,
    settings: dict[str, Any],
    n_unsplit: int = 0,
    *,
    each: Callable[[ObjectBatch], object] | None,
    measure: bool,
    progress: bool,
    notes: Mapping[str, str] | None = None,
) -> Objects:
    """Measure objects and write their labels; a file of labels resumes that of the same objects."""
    collector = Collector(found, values, pixel_size, each, measure=measure)
    with ExitStack() as stack:
        step = stack.enter_context(progress_bar(found.shape[0], "objects", shown=progress))
        sink: Any = out
        if isinstance(out, str | os.PathLike):
            fingerprint = {"objects": found.digest(), "settings": settings}
            options: dict[str, Any] = {"pixel_size": pixel_size, "fingerprint": fingerprint}
            file = create_image(out, found.shape, np.uint32, labels=True, provenance=notes, **options)
            file.keep_failed = False  # nobody asked to resume it; a kill leaves it
            sink = stack.enter_context(file)
        table = collector.run(sink, step)
    return Objects(out, table, n_unsplit, pixel_size)


def check_out(out: Sink | PathLike | None, size: tuple[int, int]) -> None:
    """Check, before anything is computed, that labels can be written."""
    if isinstance(out, str | os.PathLike):
        create_image(out, size, np.uint32, labels=True)  # nothing is opened yet
        check_writable(Path(path_text(out)).parent, keep=False)
        return
    check_unmasked(out, "out")
    if out is not None and not all(hasattr(out, name) for name in ("shape", "dtype", "__setitem__")):
        must, fix = "be an array with shape, dtype and slice assignment", "Pass a NumPy array, or a path."
        raise invalid(ArrayError, "out", must=must, got=out, fix=fix)
    if out is not None and (tuple(out.shape), dtype_of(out.dtype)) != (size, np.dtype(np.uint32)):
        must, got = f"have shape {size} and dtype uint32", f"{tuple(out.shape)} {out.dtype}"
        raise invalid(ArrayError, "out", must=must, got=got, fix="Give one that belongs to the map.")


def _merged(y: AnyArray, x0: AnyArray, x1: AnyArray, number: AnyArray) -> tuple[AnyArray, ...]:
    """Leave out runs without an object, and join those that a filled hole lies between."""
    own = number >= 0
    if not own.all():
        y, x0, x1, number = y[own], x0[own], x1[own], number[own]
    new = np.ones(len(y), bool)
    new[1:] = (x0[1:] != x1[:-1]) | (number[1:] != number[:-1]) | (y[1:] != y[:-1])
    if new.all():
        return y, x0, x1, number
    last = np.append(new[1:], True)
    return y[new], x0[new], x1[last], number[new]


def _no_rows() -> Table:
    """Return the columns of the geometry without an object: those of one px, emptied."""
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    px = Grouped(zero, zero, zero, one, zero, one, one)
    return {name: column[:0] for name, column in geometry(px, np.array([[0, 0, 1, 1]])).items()}


class _Large:
    """One object that is too large for an atlas: sums over parts of it, exact at any size."""

    def __init__(self, box: NDArray[np.int64], *, keep_runs: bool) -> None:
        self._box, self._keep = box, keep_runs
        height = int(box[2] - box[0])
        self._sums: tuple[AnyArray, ...] = tuple(np.zeros(1, object) for _ in range(6))
        self._outline = np.zeros(3, np.int64)
        self._left, self._right = np.zeros(height, np.int64), np.zeros(height, np.int64)
        none = np.zeros(0, np.int64)
        self._tail = none, none, none  # the runs of rows that the next ones need
        self._n_runs = 0
        self._done = 0  # rows whose outline is counted
        self._parts: list[tuple[AnyArray, ...]] = []

    def add(self, y: AnyArray, x0: AnyArray, x1: AnyArray) -> None:
        """Take the next runs, of whole rows."""
        self._n_runs += len(y)
        if self._keep and self._n_runs <= _MOST_RUNS:
            self._parts.append((y, x0, x1))
        else:
            self._parts = []
        box = self._box
        lines = (y - box[0], x0 - box[1], x1 - box[1])
        size = np.array([box[2] - box[0]]), np.array([box[3] - box[1]])
        grouped = Grouped(np.zeros(len(y), np.int64), *lines, np.zeros(1, np.int64), *size)
        found = moments(grouped)
        self._sums = tuple(sum_ + part.astype(object) for sum_, part in zip(self._sums, found, strict=True))
        rows = slice(int(lines[0][0]), int(lines[0][-1]) + 1)
        self._left[rows], self._right[rows] = extents(grouped)
        self._add_outline(*lines)

    def _add_outline(self, *new: AnyArray) -> None:
        y, x0, x1 = (np.concatenate(pair) for pair in zip(self._tail, new, strict=True))
        last = int(y[-1]) + 1
        final = last if last == len(self._left) else last - 2
        width = int(self._box[3] - self._box[1])
        step = max(1, _STRIP_PX // width)
        for top in range(self._done, final, step):
            bottom = min(top + step, final)
            a, b = np.searchsorted(y, (top - 2, bottom + 2))
            ones = np.ones(b - a, np.int32)
            strip = painted(top - 2, bottom + 2, width + 2, (y[a:b], x0[a:b] + 1, x1[a:b] + 1), ones)
            kinds = outline_px(strip, margin=2)[1]  # without the two rows above and below
            self._outline += np.bincount(kinds, minlength=4)[:3]
        self._done = max(self._done, final)
        stay = y >= self._done - 2
        self._tail = y[stay], x0[stay], x1[stay]

    def measured(self) -> Table:
        """Return the columns of the geometry."""
        hull = convex_areas(self._left, self._right, np.array([len(self._left)]))
        return measured(self._sums, self._box[None], hull, self._outline[None])

    def runs(self) -> tuple[AnyArray, ...]:
        """Return the runs, where they are kept."""
        none = (np.zeros(0, np.int32),) * 3
        return tuple(np.concatenate(parts) for parts in zip(none, *self._parts, strict=True))


class Instances:
    """Takes rows of a map in which each label is one object: there is nothing to join."""

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        image: Source | None = None,
        pixel_size: PixelSize | float | tuple[float, float] | None = None,
    ) -> None:
        self.shape: tuple[int, int] = (int(shape[0]), int(shape[1]))
        self._pixel_size = pixel_size_from(pixel_size) or getattr(image, "pixel_size", None)
        self._spool = RunSpool()
        self._labels = np.empty(0, np.int64)  # ascending, and the number of each in reading order
        self._numbers = np.empty(0, np.int64)
        self._values = [] if image is None else [ImageValues(image)]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The label of each object in the map that was given."""
        return self._labels[np.argsort(self._numbers)]

    def __setitem__(self, rows: slice, band: AnyArray) -> None:
        """Take the next rows, (h, W)."""
        start, length, label = runs_of(band, background=False)
        row, x0 = np.divmod(start, self.shape[1])
        self._spool.append(row, x0, x0 + length, self._numbered(label), len(band))
        for values in self._values:
            values.take(rows.start, len(band), ranges(start, length))

    def finish(
        self,
        out: Sink | PathLike | None = None,
        *,
        each: Callable[[ObjectBatch], object] | None = None,
        measure: bool = True,
        progress: bool = False,
    ) -> Objects:
        """Measure the objects, and write their labels, as `ObjectsSink.finish` does."""
        check_out(out, self.shape)
        n = len(self._labels)
        found = Components.of(self.shape, self._spool, np.arange(n), np.ones(n, np.int64))
        options: dict[str, Any] = {"each": each, "measure": measure, "progress": progress}
        return collected(found, self._values, self._pixel_size, out, {}, **options)

    def _numbered(self, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each label; new ones are numbered as they come."""
        known, first = np.unique(label, return_index=True)
        places = np.minimum(np.searchsorted(self._labels, known), max(len(self._labels) - 1, 0))
        is_new = np.ones(len(known), bool) if not len(self._labels) else self._labels[places] != known
        new = known[is_new][np.argsort(first[is_new])]
        labels = np.concatenate([self._labels, new])
        numbers = np.concatenate([self._numbers, len(self._labels) + np.arange(len(new))])
        order = np.argsort(labels, kind="stable")
        self._labels, self._numbers = labels[order], numbers[order]
        return np.asarray(self._numbers[np.searchsorted(self._labels, label)])
