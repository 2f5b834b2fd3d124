"""Outlines of objects along the edges of px, from the runs of many objects at once; with fewer corners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tiledseg._arrays import check_labels, read_bands
from tiledseg._lazy import cv2
from tiledseg.objects.collect import ObjectBatch
from tiledseg.objects.runs import least_connected, ranges, runs_of, touching_above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, Source

_Ints: TypeAlias = "NDArray[np.int64]"
_Flags: TypeAlias = "NDArray[np.bool_]"

_BAND_PX = 1 << 22
_RUNS_AT_ONCE = 1 << 15  # more do not fit into the processor's cache
_MOST_PARTS = 1000  # of an object: their boxes are compared in pairs
_MOST_CORNERS = 2000  # of a part: its edges are compared in pairs; one with more keeps its corners


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """The px of many objects as runs along rows, sorted by object."""

    shape: tuple[int, int]  # of the map
    label: _Ints  # of each object, ascending
    first: _Ints  # run of each object, and the number of runs at the end
    row: NDArray[np.int32]
    x0: NDArray[np.int32]
    x1: NDArray[np.int32]

    @classmethod
    def of(cls, labels: Source, advance: Callable[[int], object] = lambda _rows: None) -> Shapes:
        """Collect the runs of a map of labels, each of which is an object; the map is read in bands."""
        height, width = labels.shape[:2]
        parts = []
        for top, band in bands_of(labels):
            start, length, label = runs_of(band, background=False)
            row, x0 = np.divmod(start, width)
            parts.append((label, *(one.astype(np.int32) for one in (row + top, x0, x0 + length))))
            advance(len(band))
        label, row, x0, x1 = (np.concatenate(one) for one in zip(*parts, strict=True))
        order = np.argsort(label, kind="stable")
        label = label[order]
        first = np.flatnonzero(np.diff(label, prepend=0))  # labels are above 0
        ends = np.append(first, len(order))
        return cls((height, width), label[first], ends, row[order], x0[order], x1[order])

    def __len__(self) -> int:
        return len(self.label)

    def batches(self, table: Mapping[str, AnyArray]) -> Iterator[ObjectBatch]:
        """Give some objects at a time, with their rows of a table."""
        begin = 0
        while begin < len(self):
            end = int(np.searchsorted(self.first, self.first[begin] + _RUNS_AT_ONCE, side="right")) - 1
            end = min(max(end, begin + 1), len(self))
            runs, some = slice(int(self.first[begin]), int(self.first[end])), slice(begin, end)
            first = self.first[begin : end + 1] - self.first[begin]
            rows = {name: column[some] for name, column in table.items()}
            yield ObjectBatch(rows, first, self.row[runs], self.x0[runs], self.x1[runs])
            begin = end

    def selected(self, keep: _Flags) -> Shapes:
        """Leave out objects."""
        sizes = np.diff(self.first)
        stay = np.repeat(keep, sizes)
        first = np.concatenate([[0], np.cumsum(sizes[keep])])
        return Shapes(self.shape, self.label[keep], first, self.row[stay], self.x0[stay], self.x1[stay])

    def areas(self) -> _Ints:
        """Count the px of each object."""
        before = np.concatenate([[0], np.cumsum(self.x1 - self.x0, dtype=np.int64)])
        return np.asarray(before[self.first[1:]] - before[self.first[:-1]], np.int64)


def bands_of(labels: Source) -> Iterator[tuple[int, AnyArray]]:
    """Read a map of labels in bands of rows."""
    for top, band in read_bands(labels, max(1, _BAND_PX // labels.shape[1])):
        yield top, check_labels(band, "labels")


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """Closed lines of many objects along the edges of px, whose corners are whole numbers."""

    # Px (y, x) covers [x, x + 1] by [y, y + 1]. Parts of an object are its 4-connected areas. Where two px
    # touch only at a corner, a line turns towards the background: no line touches itself, and the polygons
    # are valid.

    x: _Ints  # corners of all rings in order; the first one of a ring is not repeated
    y: _Ints
    start: _Ints  # of each ring, and the number of corners at the end
    part: _Ints  # of each ring; the first ring of a part encloses it, the others are its holes
    number: _Ints  # of each part: its object


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """Corners of the outlines of objects, by part, then in reading order."""

    part: _Ints
    number: _Ints  # of each part: its object
    x: _Ints
    y: _Ints
    begins: _Flags  # whether the run at the corner begins or ends there
    below: _Flags  # whether that run is below the corner or above

    @classmethod
    def of(cls, batch: ObjectBatch) -> Corners:
        """Find the corners of the outlines; objects are counted from 0."""
        number = np.repeat(np.arange(len(batch.first) - 1), np.diff(batch.first))
        row, x0, x1 = (np.asarray(one, np.int64) for one in (batch.y, batch.x0, batch.x1))
        part, of_part = _parts(row, x0, x1, number)
        order = np.argsort(part, kind="stable")
        row, x0, x1, part = row[order], x0[order], x1[order], part[order]
        line, first_line = _lines(row, part, len(of_part))
        wide = int(x1.max(initial=0)) + 1
        below = np.empty(2 * len(row), np.int64)  # runs never touch: in order already
        below[0::2], below[1::2] = (line * wide + x0) * 2, (line * wide + x1) * 2 + 1
        keys = np.concatenate([below * 2 + 1, (below + 2 * wide) * 2])
        keys.sort(kind="stable")
        same = np.flatnonzero(keys[:-1] >> 1 == keys[1:] >> 1)  # an edge continues: no corner
        lone = np.ones(len(keys), bool)
        lone[same] = lone[same + 1] = False
        keys = keys[lone]
        at, x = np.divmod(keys >> 2, wide)
        own = np.searchsorted(first_line, at, side="right") - 1
        top = row[np.searchsorted(part, np.arange(len(of_part)))]
        y = at - first_line[own] + top[own]
        return cls(own, of_part, x, y, (keys & 2) == 0, (keys & 1) == 1)

    def rings(self) -> Outlines:
        """Join the corners to rings."""
        # From each corner an edge leads on. A left edge leads up and a right one down, so that the object is
        # on the right of the line; corners of a row are the ends of horizontal edges in pairs.
        n = len(self.x)
        after = np.arange(n) ^ 1
        down = self.begins ^ self.below  # the edge that leads on is vertical
        after[down] = self._vertical()[down]
        ring, place = _ordered(after)
        sizes = np.bincount(ring)
        start = np.concatenate([[0], np.cumsum(sizes)])
        order = np.empty(n, np.int64)
        order[start[ring] + place] = np.arange(n)
        return Outlines(self.x[order], self.y[order], start, self.part[order[start[:-1]]], self.number)

    def columns(self) -> tuple[_Ints, _Ints, _Ints, _Ints]:
        """Return object, column, first row and end of each run of px along a column, by object and place."""
        left, right = slice(0, None, 2), slice(1, None, 2)
        length = self.x[right] - self.x[left]
        x = ranges(self.x[left], length)
        y, number = np.repeat(self.y[left], length), np.repeat(self.number[self.part[left]], length)
        top = np.repeat(self.begins[left] == self.below[left], length)
        ends = []
        for side in (top, ~top):
            order = np.lexsort((y[side], x[side], number[side]))
            ends.append((number[side][order], x[side][order], y[side][order]))
        return (*ends[0], ends[1][2])

    def _vertical(self) -> _Ints:
        """Pair the ends of each vertical edge."""
        least, most = _extremes(self.x, self.part, len(self.number))
        first = np.cumsum(most - least + 1) - (most - least + 1)
        column = (first - least)[self.part] + self.x
        tall = int(self.y.max(initial=0)) + 1
        order = np.argsort((column * 2 + self.begins) * tall + self.y, kind="stable")
        partner = np.empty(len(order), np.int64)
        partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
        return partner


def _parts(row: _Ints, x0: _Ints, x1: _Ints, number: AnyArray) -> tuple[_Ints, _Ints]:
    """Return the 4-connected part of each run, and the object of each part."""
    if not len(row):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    line, _ = _lines(row, np.cumsum(np.diff(number, prepend=number[0]) != 0), None)
    wide = int(x1.max()) + 1
    root = least_connected(len(row), *touching_above(line * wide + x0, line * wide + x1, wide))
    is_root = root == np.arange(len(row))
    return (np.cumsum(is_root) - 1)[root], np.asarray(number)[is_root].astype(np.int64)


def _lines(row: _Ints, group: _Ints, n_groups: int | None) -> tuple[_Ints, _Ints]:
    """Return the line above each run, and the first one of each group: lines of groups do not overlap."""
    n = int(group[-1]) + 1 if n_groups is None else n_groups
    first = np.searchsorted(group, np.arange(n))
    last = np.append(first[1:], len(row)) - 1
    heights = row[last] - row[first] + 2
    begin = np.cumsum(heights) - heights
    return (begin - row[first])[group] + row, begin


def _extremes(values: _Ints, group: _Ints, n: int) -> tuple[_Ints, _Ints]:
    """Return least and largest value of each group; groups are in order."""
    starts = np.searchsorted(group, np.arange(n))
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _ordered(after: _Ints) -> tuple[_Ints, _Ints]:
    """Return the cycle of each member of a permutation, and its place in it from the first member."""
    n = len(after)
    first, jump = np.arange(n), after
    while not np.array_equal(least := np.minimum(first, first[jump]), first):
        first, jump = least, jump[jump]
    is_first = first == np.arange(n)
    jump, left = np.where(is_first, np.arange(n), after), (~is_first).astype(np.int64)
    while not np.array_equal(further := jump[jump], jump):
        left += left[jump]
        jump = further
    ring = (np.cumsum(is_first) - 1)[first]
    return ring, np.where(is_first, 0, np.bincount(ring)[ring] - left)


def simplified(outlines: Outlines, tolerance: float) -> Outlines:
    """Leave out corners by the method of Douglas and Peucker (1973), where the polygon stays valid."""
    if not tolerance or not len(outlines.x):
        return outlines
    corners = np.stack([outlines.x, outlines.y], axis=1)
    kept = _kept(corners, outlines.start, tolerance)
    ring = np.repeat(np.arange(len(outlines.part)), np.diff(outlines.start))
    valid = _are_valid(corners[kept], ring[kept], outlines.part, len(outlines.number))
    valid &= ~_are_crowded(outlines)
    kept |= ~valid[outlines.part[ring]]
    start = np.concatenate([[0], np.cumsum(np.bincount(ring[kept], minlength=len(outlines.part)))])
    x, y = corners[kept].T
    return Outlines(x, y, start, outlines.part, outlines.number)


def _kept(corners: AnyArray, start: AnyArray, tolerance: float) -> NDArray[np.bool_]:
    """Keep the first corner of each ring, the one farthest from it, and what the tolerance asks for."""
    n, sizes = len(corners), np.diff(start)
    after = np.arange(1, n + 1)
    after[start[1:] - 1] = start[:-1]
    kept = np.zeros(n, bool)
    kept[start[:-1]] = True
    away = corners - np.repeat(corners[start[:-1]], sizes, axis=0)
    kept[_first_of_most((away * away).sum(axis=1), start[:-1])] = True
    while True:
        begin = np.flatnonzero(kept)
        line = np.cumsum(kept) - 1
        last = np.append(begin[1:], n) - 1
        a, b = corners[begin][line], corners[after[last]][line]
        away_squared = _squared_distances(corners, a, b)
        far = _first_of_most(away_squared, begin)
        far = far[away_squared[far] > tolerance**2]
        if not len(far):
            return kept
        kept[far] = True


def _first_of_most(values: AnyArray, starts: AnyArray) -> AnyArray:
    """Return where each part of an array has its largest value first."""
    part = np.zeros(len(values), np.int64)
    part[starts[1:]] = 1
    part = np.cumsum(part)
    places = np.flatnonzero(values == np.maximum.reduceat(values, starts)[part])
    return places[np.flatnonzero(np.diff(part[places], prepend=-1))]


def _squared_distances(points: AnyArray, a: AnyArray, b: AnyArray) -> NDArray[np.float64]:
    """Return the squared distance of each point from the line between a and b."""
    along, from_a = (b - a).astype(np.float64), (points - a).astype(np.float64)
    length = np.maximum((along * along).sum(axis=1), 1)
    share = np.clip((from_a * along).sum(axis=1) / length, 0, 1)
    off = from_a - along * share[:, None]
    return np.asarray((off * off).sum(axis=1))


def _are_valid(corners: AnyArray, ring: AnyArray, part: AnyArray, n_parts: int) -> NDArray[np.bool_]:
    """Mark the parts whose rings neither touch nor cross, the first one around the others."""
    sizes = np.bincount(ring, minlength=len(part))
    valid = np.ones(n_parts, bool)
    valid[part[sizes < 3]] = False
    valid[np.bincount(part, sizes, n_parts) > _MOST_CORNERS] = False
    ends = np.cumsum(sizes)
    after = np.arange(1, ends[-1] + 1)
    after[ends - 1] = ends - sizes
    of_edge = part[ring]
    one, other = _pairs(of_edge, valid)
    near = _boxes_meet(corners[one], corners[after[one]], corners[other], corners[after[other]])
    one, other = one[near], other[near]
    valid[of_edge[one[_meet(corners, after, one, other)]]] = False
    rings = corners.astype(np.int32)
    for hole in np.flatnonzero(np.diff(part, prepend=-1) == 0).tolist():
        own = int(part[hole])
        if valid[own]:
            first, last = np.searchsorted(part, (own, own + 1)).tolist()
            lines = [rings[ends[one] - sizes[one] : ends[one]] for one in range(first, last)]
            inside = [_inside(lines[hole - first], line) for line in lines]
            valid[own] = inside[0] and sum(inside) == 1
    return valid


def _are_crowded(outlines: Outlines) -> NDArray[np.bool_]:
    """Mark the parts whose box meets that of another part of their object: simplified, they might cross."""
    begin = outlines.start[np.searchsorted(outlines.part, np.arange(len(outlines.number)))]
    low, high = (
        np.stack([extreme.reduceat(values, begin) for values in (outlines.x, outlines.y)], axis=1)
        for extreme in (np.minimum, np.maximum)
    )
    few = np.bincount(outlines.number) <= _MOST_PARTS
    crowded = ~few[outlines.number]
    one, other = _pairs(outlines.number, few)
    gap = np.maximum(low[one], low[other]) - np.minimum(high[one], high[other])
    meet = (gap <= 0).all(axis=1) & (gap < 0).any(axis=1)  # not at a corner alone
    crowded[one[meet]] = crowded[other[meet]] = True
    return crowded


def _pairs(of_edge: AnyArray, valid: NDArray[np.bool_]) -> tuple[AnyArray, AnyArray]:
    """Pair each edge with the later ones of its part, or each part with those of its object."""
    last = np.searchsorted(of_edge, of_edge, side="right")
    places = np.arange(len(of_edge))
    count = np.where(valid[of_edge], last - places - 1, 0)
    return np.repeat(places, count), ranges(places + 1, count)


def _boxes_meet(a: AnyArray, b: AnyArray, c: AnyArray, d: AnyArray) -> NDArray[np.bool_]:
    apart = (np.maximum(a, b) < np.minimum(c, d)) | (np.maximum(c, d) < np.minimum(a, b))
    return np.asarray(~apart.any(axis=1))


def _meet(a: AnyArray, after: AnyArray, one: AnyArray, other: AnyArray) -> NDArray[np.bool_]:
    """Mark pairs of edges that share a point, apart from the corner between neighbours."""
    start, end, begin, stop = a[one], a[after[one]], a[other], a[after[other]]
    apart = _turn(start, end, begin) * _turn(start, end, stop) > 0
    apart |= _turn(begin, stop, start) * _turn(begin, stop, end) > 0
    follows, leads = after[one] == other, after[other] == one
    apart |= follows & ~_fold(start, end, stop)
    apart |= leads & ~_fold(begin, stop, end)
    return ~apart


def _turn(a: AnyArray, b: AnyArray, c: AnyArray) -> AnyArray:
    """Say on which side of a line a point lies, as 1, 0 or -1."""
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    return np.asarray(np.sign(ux * vy - uy * vx))


def _fold(a: AnyArray, b: AnyArray, c: AnyArray) -> NDArray[np.bool_]:
    """Mark corners at which a line turns back on itself."""
    return np.asarray((_turn(a, b, c) == 0) & (((a - b) * (c - b)).sum(axis=1) > 0))


def _inside(ring: AnyArray, around: AnyArray) -> bool:
    x, y = ring[0].tolist()
    return cv2.pointPolygonTest(around[:, None], (x, y), measureDist=False) > 0
