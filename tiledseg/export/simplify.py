"""Outlines with fewer corners, within a tolerance, that stay valid polygons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiledseg._lazy import cv2
from tiledseg.objects import Outlines

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray

_MOST_PARTS = 1000  # of an object: their boxes are compared in pairs
_MOST_CORNERS = 2000  # of a part: its edges are compared in pairs; one with more keeps its corners


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
    count = np.where(valid[of_edge], last - np.arange(len(of_edge)) - 1, 0)
    one = np.repeat(np.arange(len(of_edge)), count)
    return one, one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count)


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
