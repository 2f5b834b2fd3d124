"""Splitting components into objects by watershed, each on its own bounding box."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tiledseg._lazy import cv2
from tiledseg.objects.runs import Components, chunks, runs_of
from tiledseg.objects.spool import Atlas, Grouped, OpenRuns, RunSpool, groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray
    from tiledseg.objects.spool import Lines

_log = logging.getLogger("tiledseg")
_Ints: TypeAlias = "NDArray[np.int64]"
_DIRECTIONS = 16  # a height and a direction in one number
_FREE = np.iinfo(np.int32).max
Partition: TypeAlias = "Callable[[Atlas, Grouped, AnyArray], tuple[AnyArray, AnyArray | None]]"
"""From runs in an atlas and their marks to a flat picture of parts, from 1, and the label of each part."""


def split(found: Components, partition: Partition, most_px: int) -> tuple[Components, int]:
    """Split each component; return the parts, and how many components have too large a box for it."""
    size = (found.box[:, 2:] - found.box[:, :2]).astype(np.int64)
    small = size.prod(axis=1) <= most_px
    n_large = int(np.count_nonzero(~small))
    if n_large:
        text = "%d of %d components are not split: their boxes have more than %d px"
        _log.warning(text, n_large, len(found), most_px)
    parts = _Parts(found.shape, found.label)
    open_runs = OpenRuns(found.box[:, 2])
    for first, last in chunks(*found.shape):
        y, x0, x1, ids = found.spool.rows(first, last)
        marks = found.spool.marks_of(first, last)
        number = found.number[ids]
        divisible = np.append(small, False)[number]
        parts.add_whole(y[~divisible], x0[~divisible], x1[~divisible], number[~divisible])
        new = tuple(one[divisible] for one in (y, x0, x1, number, marks))
        closed = open_runs.closed(last, new)
        if closed is not None:
            _split_group(closed, found.box, partition, parts)
        parts.emit(open_runs.first_row(last))
    return parts.components(), n_large


def _split_group(closed: Lines, boxes: AnyArray, partition: Partition, parts: _Parts) -> None:
    """Split complete components, as many at a time as fit into an atlas."""
    grouped, objects, runs = Grouped.of_runs(closed, boxes)
    corner = boxes[objects, :2].astype(np.int64)
    for first, last in groups(grouped.height, grouped.width):
        some = grouped.part(first, last)
        begin = int(grouped.first[first])
        atlas = Atlas.of(some.height, some.width)
        picture, label = partition(atlas, some, runs[4][begin : begin + len(some.of)])
        of = atlas.painted(some, some.of + 1).ravel()
        start, length, part = runs_of(picture.reshape(atlas.shape), background=False)
        own = of[start] - 1
        y, x = np.divmod(start, atlas.shape[1])
        y += corner[first:last, 0][own] - atlas.y[own]
        x += corner[first:last, 1][own] - atlas.x[own]
        if label is None:
            label = np.zeros(int(part.max()), np.int64)
            label[part - 1] = parts.label_of[objects[first:last][own]]
        parts.add(y, x, x + length, part - 1, label)


class _Parts:
    """Runs of parts, which leave in reading order with ids in the order in which they appear."""

    def __init__(self, shape: tuple[int, int], label: AnyArray) -> None:
        self.label_of = np.append(label, 0)  # of each component; 0 for what is no object
        self._shape = shape
        self._spool = RunSpool()
        self._next_row = 0
        self._n_keys = 0
        self._whole = np.full(len(label) + 1, -1, np.int64)  # the key of each component that stays whole
        self._waiting: list[tuple[_Ints, _Ints, _Ints, _Ints]] = []  # place, x0, x1, key
        self._label: list[_Ints] = []  # of each key
        self._id: _Ints = np.empty(0, np.int64)  # of each key, or -1
        self._order: list[_Ints] = []  # keys by id

    def add(self, y: _Ints, x0: _Ints, x1: _Ints, part: _Ints, label: _Ints) -> None:
        """Take the runs of new parts; parts are numbered from 0."""
        self._label.append(label)
        self._waiting.append((y * self._shape[1] + x0, x0, x1, part + self._n_keys))
        self._n_keys += len(label)

    def add_whole(self, y: AnyArray, x0: AnyArray, x1: AnyArray, component: AnyArray) -> None:
        """Take runs of components that stay whole, or of none (-1)."""
        new = np.unique(component)
        new = new[self._whole[new] < 0]
        self._whole[new] = self._n_keys + np.arange(len(new))
        self._n_keys += len(new)
        self._label.append(self.label_of[new])
        place = y.astype(np.int64) * self._shape[1] + x0
        self._waiting.append((place, x0.astype(np.int64), x1.astype(np.int64), self._whole[component]))

    def emit(self, last: int) -> None:
        """Store the runs above a row: no other will come there."""
        if last == self._next_row:  # an object reaches over all rows that were worked on
            return
        place, x0, x1, key = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        ready = place < last * self._shape[1]
        self._waiting = [(place[~ready], x0[~ready], x1[~ready], key[~ready])]
        place, x0, x1, key = place[ready], x0[ready], x1[ready], key[ready]
        order = np.argsort(place, kind="stable")
        place, x0, x1, key = place[order], x0[order], x1[order], key[order]
        self._id = np.append(self._id, np.full(self._n_keys - len(self._id), -1))
        new = key[self._id[key] < 0]
        keys, first = np.unique(new, return_index=True)
        keys = keys[np.argsort(first)]
        self._id[keys] = sum(map(len, self._order)) + np.arange(len(keys))
        self._order.append(keys)
        row = place // self._shape[1] - self._next_row
        self._spool.append(row, x0, x1, self._id[key], last - self._next_row)
        self._next_row = last

    def components(self) -> Components:
        """Return the parts, in reading order."""
        label = np.concatenate([np.zeros(0, np.int64), *self._label])
        label = label[np.concatenate([np.zeros(0, np.int64), *self._order])]
        counts = label > 0
        number = np.where(counts, np.cumsum(counts) - 1, -1)
        return Components.of(self._shape, self._spool, number, label[counts])


def by_distance(depth: float, connectivity: int) -> Partition:
    """Make the partition by the distance to the background."""

    def partition(atlas: Atlas, runs: Grouped, _marks: AnyArray) -> tuple[AnyArray, None]:
        mask = atlas.painted(runs, np.ones(len(runs.of), np.int32)).astype(np.uint8)
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        squared = np.rint(distance * distance).astype(np.int32).ravel()
        steps = _steps(atlas.shape[1], connectivity)
        places, basin = _basins(squared, steps)
        root = _united(squared, places, basin, steps, depth)
        picture = np.zeros(squared.size, np.int32)
        picture[places] = root + 1
        return picture, None

    return partition


def by_seeds(connectivity: int, *, alone: bool) -> Partition:
    """Make the partition by marked areas, which grow; `alone`: a component without one is an object."""

    def partition(atlas: Atlas, runs: Grouped, marks: AnyArray) -> tuple[AnyArray, AnyArray | None]:
        marked = atlas.painted(runs, marks)
        seeds = _areas(marked, connectivity)
        n = int(seeds.max())
        picture = np.where(
            atlas.painted(runs, np.ones(len(runs.of), np.int32)) > 0, np.int32(_FREE), 0
        ).ravel()
        places = np.flatnonzero(seeds)
        picture[places] = seeds.ravel()[places]
        _grow(picture, places, _steps(atlas.shape[1], connectivity))
        rest = np.flatnonzero(picture == _FREE)
        picture[rest] = n + atlas.painted(runs, runs.of + 1).ravel()[rest]
        if alone:
            return picture, None
        label = np.zeros(int(picture.max()), np.int64)  # 0 for what has no seed
        label[seeds.ravel()[places] - 1] = marked.ravel()[places]
        return picture, label

    return partition


def _areas(marked: NDArray[np.int32], connectivity: int) -> NDArray[np.int32]:
    """Give the connected areas of each mark numbers in reading order."""
    areas = np.zeros_like(marked)
    for mark in np.unique(marked[marked > 0]).tolist():
        ids = cv2.connectedComponents((marked == mark).astype(np.uint8), connectivity=connectivity)[1]
        areas += np.where(ids > 0, ids + areas.max(), 0)
    places = np.flatnonzero(areas)
    _, first, number = np.unique(areas.ravel()[places], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    areas.ravel()[places] = rank[number]
    return areas


def _grow(picture: NDArray[np.int32], border: _Ints, steps: list[int]) -> None:
    """Give each free px the number of the nearest area, step by step; the least of equals."""
    while len(border):
        near = np.concatenate([border + step for step in steps])
        number = np.concatenate([picture[border]] * len(steps))
        free = picture[near] == _FREE
        near, number = near[free], number[free]
        np.minimum.at(picture, near, number)
        border = np.unique(near)


def _steps(width: int, connectivity: int) -> list[int]:
    """Return the steps to the neighbours in a flat picture."""
    corners = [-width - 1, -width + 1, width - 1, width + 1] if connectivity == 8 else []
    return sorted([-width, -1, 1, width, *corners])


def _basins(height: NDArray[np.int32], steps: list[int]) -> tuple[_Ints, _Ints]:
    """Return the places above 0, and for each the place in that list of the peak that it leads up to."""
    # each px points at its highest neighbour, at the first of equal ones: no px points in a circle
    around = sorted([0, *steps])
    coded = height * _DIRECTIONS
    best = coded + (_DIRECTIONS - 1 - around.index(0))
    for direction, step in enumerate(around):
        here, there = (
            slice(max(0, -step), coded.size - max(0, step)),
            slice(max(0, step), coded.size - max(0, -step)),
        )
        np.maximum(best[here], coded[there] + (_DIRECTIONS - 1 - direction), out=best[here])
    places = np.flatnonzero(height)
    rank = np.zeros(height.size, np.int32)
    rank[places] = np.arange(len(places), dtype=np.int32)
    parent = rank[places + np.array(around)[_DIRECTIONS - 1 - best[places] % _DIRECTIONS]]
    while not np.array_equal(up := parent[parent], parent):
        parent = up
    return places, parent.astype(np.int64)


def _united(
    height: NDArray[np.int32], places: _Ints, peak_of: _Ints, steps: list[int], depth: float
) -> _Ints:
    """Unite basins whose lower peak rises less than `depth` over their pass; number them from 0."""
    is_peak = peak_of == np.arange(len(peak_of))
    peaks, basin = np.flatnonzero(is_peak), (np.cumsum(is_peak) - 1)[peak_of]
    top = np.sqrt(height[places[peaks]].astype(np.float64))
    a, b, passes = _passes(height, places, basin, [step for step in steps if step > 0])
    parent = np.arange(len(peaks))
    while len(a):
        # the highest pass of a basin decides where its peak is the lower one: nothing can raise that peak
        lower, higher = _by_peak(top, a, b)
        best = np.full(len(peaks), -1.0)
        np.maximum.at(best, a, passes)
        np.maximum.at(best, b, passes)
        decided = passes == best[lower]
        goal = np.full(len(peaks), -1)
        order = np.lexsort((-higher[decided], top[higher[decided]]))  # of equal passes, to the highest peak
        goal[lower[decided][order]] = higher[decided][order]
        decided &= goal[lower] == higher
        unites = decided & (top[lower] - passes < depth)
        parent[lower[unites]] = higher[unites]
        frozen = np.zeros(len(peaks), bool)
        frozen[lower[decided & ~unites]] = True
        while not np.array_equal(up := parent[parent], parent):
            parent = up
        dead = frozen[lower]
        a, b, passes = _highest(parent[a[~dead]], parent[b[~dead]], passes[~dead], len(peaks))
    kept = np.cumsum(parent == np.arange(len(peaks))) - 1
    return np.asarray(kept[parent][basin])


def _by_peak(top: AnyArray, a: _Ints, b: _Ints) -> tuple[_Ints, _Ints]:
    """Sort each pair of basins: the lower peak, of equal ones the later."""
    swap = (top[a] > top[b]) | ((top[a] == top[b]) & (a < b))
    return np.where(swap, b, a), np.where(swap, a, b)


def _passes(
    height: AnyArray, places: _Ints, basin: AnyArray, steps: list[int]
) -> tuple[_Ints, _Ints, NDArray[np.float64]]:
    """Return pairs of neighbouring basins, and the highest pass of each pair."""
    picture = np.full(height.size, -1, np.int32)
    picture[places] = basin
    found = []
    for step in steps:
        one, other = picture[:-step], picture[step:]
        here = np.flatnonzero((one != other) & (one >= 0) & (other >= 0))
        low = np.minimum(height[here], height[here + step])
        found.append((one[here], other[here], low))
    a, b, low = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _highest(
        a.astype(np.int64), b.astype(np.int64), np.sqrt(low.astype(np.float64)), int(basin.max()) + 1
    )


def _highest(a: _Ints, b: _Ints, passes: AnyArray, n: int) -> tuple[_Ints, _Ints, NDArray[np.float64]]:
    """Keep the highest pass of each pair of basins; leave out pairs that became one."""
    apart = a != b
    a, b, passes = a[apart], b[apart], passes[apart]
    key = np.minimum(a, b) * n + np.maximum(a, b)
    order = np.lexsort((passes, key))
    key, passes = key[order], passes[order]
    last = np.ones(len(key), bool)
    last[:-1] = key[1:] != key[:-1]
    one, other = np.divmod(key[last], n)
    return one, other, passes[last]
