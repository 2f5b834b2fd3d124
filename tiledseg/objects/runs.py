"""Runs of px with one label, joined to components while the rows of a map arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray

_Ints: TypeAlias = "NDArray[np.int64]"


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Parts of rows in reading order, each with the number of its component."""

    width: int  # of the map
    start: _Ints  # place of the first px in the flat map
    length: NDArray[np.int32]
    number: _Ints  # of the component, in reading order, from 0
    label: _Ints  # of each component
    holes: _Ints  # for each component the one that encloses it as a hole, or -1

    def between(self, first: int, last: int) -> slice:
        """Select the runs of rows [first, last)."""
        low, high = np.searchsorted(self.start, (first * self.width, last * self.width))
        return slice(int(low), int(high))

    def painted(self, first: int, last: int, values: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return rows [first, last) with a value for each component; the background is 0."""
        part, width = self.between(first, last), self.width
        start = self.start[part] - first * width
        edges = np.empty(2 * len(start) + 2, np.int64)
        edges[0], edges[-1] = 0, (last - first) * width
        edges[1:-1:2], edges[2:-1:2] = start, start + self.length[part]
        colours = np.zeros(len(edges) - 1, np.uint32)
        colours[1::2] = values[self.number[part]]
        return np.repeat(colours, np.diff(edges)).reshape(last - first, width)


class RunJoiner:
    """Joins the runs of a map to components, band by band."""

    def __init__(self, width: int, connectivity: int, *, holes: bool = False) -> None:
        self._width = width
        self._reach = {4: 0, 8: 1}[connectivity]
        self._holes = holes  # the background has runs of its own, by the other connectivity
        self._row = 0
        self._last = _no_ints(), _no_ints(), _no_ints(), _no_ints()  # x0, x1, label, id of the last row
        self._starts: list[_Ints] = []
        self._lengths: list[NDArray[np.int32]] = []
        self._ids: list[NDArray[np.int32]] = []
        self._labels: list[_Ints] = []
        self._united: list[tuple[_Ints, _Ints]] = []
        self._touching: list[_Ints] = []  # (background, object) as one number
        self._n_ids = 0

    def feed(self, band: AnyArray) -> None:
        """Take the next rows of a map of labels, (h, W)."""
        start, length, label = _runs_of(band, background=self._holes)
        row, x = np.divmod(start, self._width)
        padded = self._width + 1  # a column of its own, so that no run ends where the next row starts
        x0, x1, labels, ids = self._last
        starts = np.concatenate([x0, (row + 1) * padded + x])
        ends = np.concatenate([x1, (row + 1) * padded + x + length])
        labels = np.concatenate([labels, label])
        pairs = self._links(starts, ends, labels)
        ids = self._numbered(ids, pairs, labels)
        if self._holes:
            self._meet(pairs.touching(starts, ends), ids, labels)
        n_before = len(x0)
        self._starts.append(start + self._row * self._width)
        self._lengths.append(length.astype(np.int32))
        self._ids.append(ids[n_before:].astype(np.int32))
        self._row += len(band)
        below = slice(int(np.searchsorted(starts, len(band) * padded)), None)
        shift = len(band) * padded
        self._last = starts[below] - shift, ends[below] - shift, labels[below], ids[below]

    def close(self) -> Runs:
        """Join what bands have in common, and number the components in reading order."""
        later = np.concatenate([_no_ints(), *(ids for ids, _ in self._united)])
        earlier = np.concatenate([_no_ints(), *(ids for _, ids in self._united)])
        root = _least_of_component(self._n_ids, later, earlier)
        is_root = root == np.arange(self._n_ids)
        number = (np.cumsum(is_root) - 1)[root]
        label = np.concatenate([_no_ints(), *self._labels])[is_root]
        start = np.concatenate([_no_ints(), *self._starts])
        length = np.concatenate([np.empty(0, np.int32), *self._lengths])
        of_run = number[np.concatenate([np.empty(0, np.int32), *self._ids])]
        self._starts, self._lengths, self._ids = [], [], []
        holes = np.full(len(label), -1, np.int64)
        runs = Runs(self._width, start, length, of_run, label, holes)
        if self._holes:
            holes[:] = self._enclosing(runs, number)
        return runs

    def _links(self, starts: _Ints, ends: _Ints, labels: _Ints) -> _Links:
        padded = self._width + 1
        reach: int | _Ints = self._reach
        if self._holes:
            reach = np.where(labels == 0, 1 - self._reach, self._reach)
        low = np.searchsorted(ends, starts - padded - reach, side="right")
        high = np.searchsorted(starts, ends - padded + reach, side="left")
        n_above = np.maximum(high - low, 0)
        later = np.repeat(np.arange(len(starts)), n_above)
        first = np.cumsum(n_above) - n_above
        earlier = np.arange(len(later)) - first[later] + low[later]
        return _Links(later, earlier, padded, labels)

    def _numbered(self, known: _Ints, links: _Links, labels: _Ints) -> _Ints:
        """Return the id of each run of a band, and note which earlier ids are one."""
        same = links.same_label()
        root = _least_of_component(len(labels), links.later[same], links.earlier[same])
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
        return ids[root]

    def _meet(self, touching: tuple[_Ints, _Ints], ids: _Ints, labels: _Ints) -> None:
        """Note which areas of background touch which objects."""
        a, b = (
            np.concatenate([side, swapped]) for side, swapped in zip(touching, touching[::-1], strict=True)
        )
        mixed = (labels[a] == 0) & (labels[b] > 0)
        self._touching.append(np.unique((ids[a[mixed]] << 32) | ids[b[mixed]]))

    def _enclosing(self, runs: Runs, number: _Ints) -> _Ints:
        """Find the one object that an area of background touches; -1 where there is no such."""
        keys = np.concatenate([_no_ints(), *self._touching])
        area, neighbour = number[keys >> 32], number[keys & 0xFFFFFFFF]
        n = len(runs.label)
        least, most = np.full(n, n), np.full(n, -1)
        np.minimum.at(least, area, neighbour)
        np.maximum.at(most, area, neighbour)
        inside = (runs.label == 0) & ~on_border(runs, self._row) & (least == most)
        return np.where(inside, most, -1)


@dataclass(frozen=True, slots=True, eq=False)
class _Links:
    """Pairs of runs of neighbouring rows, by their places."""

    later: _Ints
    earlier: _Ints  # of the row above
    padded: int  # px from a row to the next
    labels: _Ints

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


def on_border(runs: Runs, height: int) -> NDArray[np.bool_]:
    """Mark the components that touch the border of a map of so many rows."""
    row, x = np.divmod(runs.start, runs.width)
    at_border = (row == 0) | (row == height - 1) | (x == 0) | (x + runs.length == runs.width)
    marked = np.zeros(len(runs.label), bool)
    marked[runs.number[at_border]] = True
    return marked


def _no_ints() -> _Ints:
    return np.empty(0, np.int64)


def _runs_of(band: AnyArray, *, background: bool) -> tuple[_Ints, _Ints, _Ints]:
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


def _least_of_component(n: int, later: _Ints, earlier: _Ints) -> _Ints:
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
