"""Runs of px with one label, joined to components while the rows of a map arrive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tiledseg._validate import raised_as
from tiledseg.errors import ArrayError
from tiledseg.objects.spool import RunSpool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, Sink

_Ints: TypeAlias = "NDArray[np.int64]"
_Band: TypeAlias = "tuple[AnyArray, AnyArray, AnyArray]"
_STRIP_PX = 1 << 18
_CHUNK = 1 << 23  # px that are worked on at a time: parts of the map, so that no sum depends on bands


def chunks(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Divide the rows of a map."""
    step = max(1, _CHUNK // width)
    return ((first, min(first + step, height)) for first in range(0, height, step))


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Components of a map in reading order: their runs, and what is known without their px."""

    shape: tuple[int, int]  # of the map
    spool: RunSpool
    number: NDArray[np.int64]  # component of each id in the spool, or -1
    label: _Ints
    area: _Ints
    box: NDArray[np.int32]  # (n, 4): first row and column, and those after the last

    @classmethod
    def of(cls, shape: tuple[int, int], spool: RunSpool, number: _Ints, label: _Ints) -> Components:
        """Sum up what runs say of their components."""
        n = len(label)
        area, bottom, right = np.zeros(n, np.int64), np.zeros(n, np.int32), np.zeros(n, np.int32)
        top, left = (np.full(n, np.iinfo(np.int32).max, np.int32) for _ in range(2))
        for first, last in chunks(*shape):
            y, x0, x1, ids = spool.rows(first, last)
            of = number[ids]
            if len(of) and of.min() < 0:
                y, x0, x1, of = (values[of >= 0] for values in (y, x0, x1, of))
            np.add.at(area, of, (x1 - x0).astype(np.int64))
            bottom[of] = y + 1  # of several values the last one stays
            of_last = of[::-1]
            top[of_last] = np.minimum(top[of_last], y[::-1])
            np.minimum.at(left, of, x0)
            np.maximum.at(right, of, x1)
        return cls(shape, spool, number, label, area, np.stack([top, left, bottom, right], axis=1))

    def __len__(self) -> int:
        return len(self.label)

    def chosen(self, keep: NDArray[np.bool_]) -> Components:
        """Leave out components, and renumber the rest."""
        if keep.all():
            return self
        new = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)  # -1 stays
        label, area, box = self.label[keep], self.area[keep], self.box[keep]
        return Components(self.shape, self.spool, new[self.number], label, area, box)

    def digest(self) -> str:
        """Return the SHA-256 of the labels, by their runs."""
        digest = hashlib.sha256()
        for first, last in chunks(*self.shape):
            *runs, ids = self.spool.rows(first, last)
            own = self.number[ids] >= 0
            for part in (*runs, self.number[ids]):
                digest.update(np.ascontiguousarray(part[own]).data)
        return digest.hexdigest()

    def on_border(self) -> NDArray[np.bool_]:
        """Mark the components that touch the border of the map."""
        y0, x0, y1, x1 = self.box.T
        at_border: NDArray[np.bool_] = (y0 == 0) | (x0 == 0) | (y1 == self.shape[0]) | (x1 == self.shape[1])
        return at_border


class RunJoiner:
    """Joins the runs of a map to components, band by band."""

    def __init__(self, width: int, connectivity: int, *, holes: bool = False, joined: int = 0) -> None:
        self._joined = joined  # the label of areas of any labels, whose runs keep their own as marks
        self.spool = RunSpool()
        self._width = width
        self._reach = {4: 0, 8: 1}[connectivity]
        self._holes = holes  # the background has runs of its own, by the other connectivity
        self._row = 0
        none = _no_ints()
        self._last = none, none, none, none, np.zeros(0, bool)  # x0, x1, label, id, outside of the last row
        self._labels: list[_Ints] = []
        self._united: list[tuple[_Ints, _Ints]] = []
        self._touching: list[_Ints] = []  # (background, object) as one number
        self._outside: list[_Ints] = []  # ids of background that reaches the border
        self._n_ids = 0

    def feed(self, band: AnyArray, marks: AnyArray | None = None) -> _Band:
        """Take the next rows of a map of labels, (h, W); return row, x0 and x1 of the runs that count."""
        start, length, label = runs_of(band, background=self._holes)
        mark = label if marks is None else marks.ravel()[start]
        if self._joined:
            label = np.where(label > 0, self._joined, 0)
        row, x = _rows_of(start, band.shape)
        padded = self._width + 1  # a column of its own, so that no run ends where the next row starts
        x0, x1, labels, ids, outside = self._last
        starts = np.concatenate([x0, (row + 1) * padded + x])
        ends = np.concatenate([x1, (row + 1) * padded + x + length])
        labels = np.concatenate([labels, label])
        links = self._links(starts, ends, labels)
        if self._joined:
            links = links.with_neighbours(starts, ends)
        ids, root = self._numbered(ids, links, labels)
        n_before = len(x0)
        if self._holes:
            outside = self._spread(outside, root, (row, x, x + length), label)
            self._meet(links.touching(starts, ends), ids, labels, outside)
        else:
            outside = np.zeros(len(ids), bool)
        counts = ~outside[n_before:]
        found = row[counts], x[counts], (x + length)[counts]
        self.spool.append(*found, ids[n_before:][counts], len(band))
        if self._joined:
            self.spool.marks.append(mark[counts])
        self._row += len(band)
        below = slice(int(np.searchsorted(starts, len(band) * padded)), None)
        shift = len(band) * padded
        self._last = starts[below] - shift, ends[below] - shift, labels[below], ids[below], outside[below]
        return found

    def close(self) -> Components:
        """Join what bands have in common, fill holes, and number the components in reading order."""
        later = np.concatenate([_no_ints(), *(ids for ids, _ in self._united)])
        earlier = np.concatenate([_no_ints(), *(ids for _, ids in self._united)])
        root = least_connected(self._n_ids, later, earlier)
        is_root = root == np.arange(self._n_ids)
        number = (np.cumsum(is_root) - 1)[root]
        label = np.concatenate([_no_ints(), *self._labels])[is_root]
        if self._holes:
            owner = self._owners(number, label)
            new = np.append(np.where(label > 0, np.cumsum(label > 0) - 1, -1), -1)
            number, label = new[owner[number]], label[label > 0]
        return Components.of((self._row, self._width), self.spool, number, label)

    def _links(self, starts: _Ints, ends: _Ints, labels: _Ints) -> _Links:
        padded = self._width + 1
        reach: int | _Ints = self._reach
        if self._holes:
            reach = np.where(labels == 0, 1 - self._reach, self._reach)
        return _Links(*touching_above(starts, ends, padded, reach), padded, labels)

    def _numbered(self, known: _Ints, links: _Links, labels: _Ints) -> tuple[_Ints, _Ints]:
        """Return the id of each run of a band and its root in it, and note which earlier ids are one."""
        same = links.same_label()
        root = least_connected(len(labels), links.later[same], links.earlier[same])
        new = root == np.arange(len(labels))
        new[: len(known)] = False
        ids = np.empty(len(labels), np.int64)
        ids[: len(known)] = known
        ids[new] = self._n_ids + np.arange(np.count_nonzero(new))
        self._labels.append(labels[new])
        self._n_ids += int(np.count_nonzero(new))
        above = root[: len(known)]
        united = known != known[above]
        self._united.append((known[united], known[above][united]))
        return ids[root], root

    def _spread(self, known: NDArray[np.bool_], root: _Ints, runs: _Band, label: _Ints) -> NDArray[np.bool_]:
        """Mark the background that reaches the border, as far as it is known: it is no hole."""
        row, x0, x1 = runs
        at_border = (x0 == 0) | (x1 == self._width) | (row + self._row == 0)
        marked = np.zeros(len(root), bool)
        marked[root[np.concatenate([known, at_border & (label == 0)])]] = True
        return marked[root]

    def _meet(self, touching: tuple[_Ints, _Ints], ids: _Ints, labels: _Ints, outside: AnyArray) -> None:
        """Note which areas of background touch which objects, and which reach the border."""
        self._outside.append(np.unique(ids[outside]))
        a, b = (
            np.concatenate([side, swapped]) for side, swapped in zip(touching, touching[::-1], strict=True)
        )
        mixed = (labels[a] == 0) & (labels[b] > 0) & ~outside[a]
        self._touching.append(np.unique((ids[a[mixed]] << 32) | ids[b[mixed]]))

    def _owners(self, number: _Ints, label: _Ints) -> _Ints:
        """Return the component that each belongs to: of a hole, the only object that it touches."""
        keys = np.concatenate([_no_ints(), *self._touching])
        area, neighbour = number[keys >> 32], number[keys & 0xFFFFFFFF]
        n = len(label)
        least, most = np.full(n, n), np.full(n, -1)
        np.minimum.at(least, area, neighbour)
        np.maximum.at(most, area, neighbour)
        inside = (label == 0) & (least == most)
        inside[number[np.concatenate([_no_ints(), *self._outside])]] = False
        last = self._last
        inside[number[last[3][last[2] == 0]]] = False  # the lower border
        return np.where(inside, most, np.arange(n))


@dataclass(frozen=True, slots=True, eq=False)
class _Links:
    """Pairs of runs of neighbouring rows, by their places."""

    later: _Ints
    earlier: _Ints  # of the row above
    padded: int  # px from a row to the next
    labels: _Ints

    def with_neighbours(self, starts: _Ints, ends: _Ints) -> _Links:
        """Add the pairs that follow each other in a row."""
        beside = np.flatnonzero(ends[:-1] == starts[1:])
        later, earlier = np.append(self.later, beside + 1), np.append(self.earlier, beside)
        return _Links(later, earlier, self.padded, self.labels)

    def same_label(self) -> NDArray[np.bool_]:
        """Mark the pairs that belong together."""
        return np.equal(self.labels[self.later], self.labels[self.earlier])

    def touching(self, starts: _Ints, ends: _Ints) -> tuple[_Ints, _Ints]:
        """Return the pairs, of a row and of neighbouring rows, that share the edge of a px."""
        below, above = starts[self.later] - self.padded, ends[self.later] - self.padded
        edge = (starts[self.earlier] < above) & (ends[self.earlier] > below)
        beside = np.flatnonzero(ends[:-1] == starts[1:])
        later = np.concatenate([self.later[edge], beside + 1])
        return later, np.concatenate([self.earlier[edge], beside])


def painted(
    first: int, last: int, width: int, runs: tuple[AnyArray, AnyArray, AnyArray], values: AnyArray
) -> AnyArray:
    """Return rows [first, last) with the value of each run (row, x0, x1); the background is 0."""
    row, x0, x1 = runs
    edges = np.empty(2 * len(row) + 2, np.int64)
    edges[0], edges[-1] = 0, (last - first) * width
    start = (row - first).astype(np.int64) * width
    np.add(start, x0, out=edges[1:-1:2])
    np.add(start, x1, out=edges[2:-1:2])
    colours = np.zeros(len(edges) - 1, values.dtype)
    colours[1::2] = values
    return np.repeat(colours, np.diff(edges)).reshape(last - first, width)


def paint(
    out: Sink, first: int, last: int, runs: tuple[AnyArray, AnyArray, AnyArray], values: AnyArray
) -> None:
    """Write rows [first, last) into a sink."""
    width = out.shape[1]
    # an array is painted in strips that stay in the processor's cache; a file takes more rows at a time
    step = max(1, _STRIP_PX // width) if isinstance(out, np.ndarray) else last - first
    tops = np.arange(first, last, step)
    begin = [*np.searchsorted(runs[0], tops).tolist(), len(runs[0])]
    for place, top in enumerate(tops.tolist()):
        part = slice(begin[place], begin[place + 1])
        bottom = min(top + step, last)
        row, x0, x1 = (one[part] for one in runs)
        rows = painted(top, bottom, width, (row, x0, x1), values[part])
        with raised_as(ArrayError, "`out` cannot be written", "Correct it, or give it more space."):
            out[top:bottom, :] = rows


def _rows_of(start: _Ints, shape: tuple[int, ...]) -> tuple[_Ints, _Ints]:
    """Return row and column of places in a flat map; places ascend."""
    first = np.searchsorted(start, np.arange(shape[0] + 1) * shape[1])
    row = np.repeat(np.arange(shape[0]), np.diff(first))
    return row, start - row * shape[1]


def _no_ints() -> _Ints:
    return np.empty(0, np.int64)


def runs_of(band: AnyArray, *, background: bool) -> tuple[_Ints, _Ints, _Ints]:
    """Return the place of the first px, the length and the label of each run."""
    changes = np.empty(band.shape, bool)
    changes[:, 0] = True
    np.not_equal(band[:, 1:], band[:, :-1], out=changes[:, 1:])
    start = np.flatnonzero(changes)
    length = np.diff(start, append=band.size)
    label = band.ravel()[start].astype(np.int64)
    if not background:
        shown = label != 0
        start, length, label = start[shown], length[shown], label[shown]
    return start, length, label


def ranges(start: AnyArray, length: AnyArray) -> AnyArray:
    """List the members of ranges one after the other, for example the px of runs."""
    places = np.repeat(start - (np.cumsum(length) - length), length)
    places += np.arange(len(places))
    return places


def touching_above(starts: _Ints, ends: _Ints, padded: int, reach: int | _Ints = 0) -> tuple[_Ints, _Ints]:
    """Pair each run with those of the row above that it touches; places count `padded` px for each row."""
    low = np.searchsorted(ends, starts - padded - reach, side="right")
    high = np.searchsorted(starts, ends - padded + reach, side="left")
    n_above = np.maximum(high - low, 0)
    return np.repeat(np.arange(len(starts)), n_above), ranges(low, n_above)


def least_connected(n: int, later: _Ints, earlier: _Ints) -> _Ints:
    """Return the least node that each of n nodes is connected with."""
    # The least root hooks the larger ones, then each node points at its root: both for all nodes at once.
    parent = np.arange(n)
    parent[later[::-1]] = np.minimum(earlier[::-1], parent[later[::-1]])
    while True:
        while not np.array_equal(up := parent[parent], parent):
            parent = up
        a, b = parent[later], parent[earlier]
        apart = a != b
        if not apart.any():
            return parent
        later, earlier, a, b = later[apart], earlier[apart], a[apart], b[apart]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
