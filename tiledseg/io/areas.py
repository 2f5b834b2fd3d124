"""Areas within outlines: which px are inside; and the ROI of ImageJ as outlines, as it draws them."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import invalid
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray

SLICE = "slice"
"""Position of a ROI along the one axis of a stack."""

_OVAL_POINTS, _MOST_POINTS = 360, 1 << 20
_AREAS, _NO_AREAS = {"RECT", "OVAL", "POLYGON", "FREEHAND", "TRACED"}, {"TEXT", "IMAGE", "ARROW"}
_SPLINE = 1  # option of a ROI
_MOVE, _STEPS = 0, {0: 1, 1: 1, 2: 2, 3: 3, 4: 0}  # points of each step of a path; 4 closes it


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """An area by its outline."""

    # A px is inside where its centre is: of px (y, x) that is (y + 0.5, x + 0.5). A centre is inside where a
    # ray from it crosses the rings an odd number of times, so that rings inside others are holes; one that
    # lies on a left or upper edge is inside, on a right or lower edge outside.

    name: str  # of its class; empty where it has none
    parts: tuple[tuple[NDArray[np.float64], ...], ...]  # the rings of each part, (n, 2) of x and y
    mask: NDArray[np.bool_] | None = None  # of an area that is stored by its px instead, (H, W)
    crowd: bool = False  # whether it marks many objects that nobody outlined (COCO's iscrowd)
    numbered: bool = False  # whether a number may follow the class, as ImageJ makes names of regions differ
    plane: Mapping[str, int] = field(default_factory=dict)  # position along z and t, where it states one
    area_um2: float = 0.0  # that its file states; 0 where it states none

    @property
    def area(self) -> float:
        """The area within the first ring of each part, without those within the others, its holes."""
        return sum(2 * _area(rings[0]) - sum(map(_area, rings)) for rings in self.parts if rings)

    def inside(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Say which px of a rectangle are inside."""
        if self.mask is not None:
            found = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
            given = self.mask[rows, columns]
            found[: given.shape[0], : given.shape[1]] = given
            return found
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        found = np.zeros(shape, np.bool_)
        for rings in self.parts:
            found |= _inside(rings, rows, columns)
        return found

    def box(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns of an image that it lies in."""
        if self.mask is not None:
            return slice(0, shape[0]), slice(0, shape[1])
        rings_of_all = [ring for rings in self.parts for ring in rings]
        if not rings_of_all:
            return slice(0, 0), slice(0, 0)
        points = np.concatenate(rings_of_all)
        (x0, y0), (x1, y1) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
        rows, columns = np.clip([y0, y1 + 1], 0, shape[0]), np.clip([x0, x1 + 1], 0, shape[1])
        return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


class OutlineMask:
    """The px inside any of several outlines, read by region as an image is."""

    def __init__(self, outlines: Sequence[Outline], shape: tuple[int, int]) -> None:
        self.shape: tuple[int, int] = shape
        self.dtype: np.dtype[Any] = np.dtype(np.bool_)
        self._outlines = [(one, one.box(shape)) for one in outlines]

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.bool_]:
        rows, columns = (slice(*one.indices(length)[:2]) for one, length in zip(key, self.shape, strict=True))
        found = np.zeros((max(0, rows.stop - rows.start), max(0, columns.stop - columns.start)), np.bool_)
        for outline, (down, across) in self._outlines:
            y0, y1 = max(rows.start, down.start), min(rows.stop, down.stop)
            x0, x1 = max(columns.start, across.start), min(columns.stop, across.stop)
            if y0 < y1 and x0 < x1:
                part = found[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start]
                part |= outline.inside(slice(y0, y1), slice(x0, x1))
        return found


def _area(ring: NDArray[np.float64]) -> float:
    """Return the area within a ring, by the formula of Gauss."""
    x, y = (ring - ring.mean(axis=0)).T if len(ring) else np.zeros((2, 0))
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _inside(rings: Sequence[NDArray[np.float64]], rows: slice, columns: slice) -> NDArray[np.bool_]:
    """Count, for each px, the edges that lie to the left of its centre; inside they are an odd number."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    crossings = np.zeros(height * (width + 1), np.int64)
    for ring in rings:
        y, x = _crossings(ring, rows)
        column = np.clip(np.ceil(x - 0.5), columns.start, columns.stop).astype(np.int64) - columns.start
        crossings += np.bincount((y - rows.start) * (width + 1) + column, minlength=crossings.size)
    parity = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :width] % 2
    return parity.astype(np.bool_)


def _crossings(ring: NDArray[np.float64], rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find where the edges of a ring cross the centres of rows: the row, and x."""
    start, end = ring, np.roll(ring, -1, axis=0)
    upper = np.where((start[:, 1] < end[:, 1])[:, None], start, end)
    lower = np.where((start[:, 1] < end[:, 1])[:, None], end, start)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), rows.start, rows.stop).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), rows.start, rows.stop).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(ring)), count)
    y = first[edge] + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    height = lower[edge, 1] - upper[edge, 1]
    share = (y + 0.5 - upper[edge, 1]) / np.where(height > 0, height, 1)
    return y, upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])


def painted(
    outlines: Sequence[Outline], labels: Sequence[int], shape: tuple[int, int], *, first: bool = False
) -> AnyArray:
    """Paint outlines with their labels: where two overlap the later one holds, or the first."""
    found = np.zeros(shape, np.int32)
    for outline, label in zip(outlines, labels, strict=True):
        box = outline.box(shape)
        inside = outline.inside(*box)
        found[box][inside & (found[box] == 0) if first else inside] = label
    return found


def class_text(found: object) -> str:
    """Bring the name of a class to one Unicode form; empty where it has none."""
    return unicodedata.normalize("NFC", str(found or ""))


def outline_of_roi(roi: Any, file: str) -> Outline:
    """Give the outline of a ROI that roifile has read."""
    kind, use = roi.roitype.name, roi.subtype.name
    if use in _NO_AREAS or kind not in _AREAS:
        got = f"a ROI of type {use if use in _NO_AREAS else kind}"
        fix = "Remove it, or draw the area as a polygon."
        raise invalid(FileError, file, must="hold areas", got=got, fix=fix)
    if roi.composite:
        rings = _of_path(roi.multi_coordinates.tolist())
    elif kind in {"RECT", "OVAL"}:
        rings = [_rounded(roi)]
    else:
        points = np.asarray(roi.coordinates(), np.float64)
        rings = [_splined(points) if roi.options & _SPLINE and len(points) else points]
    if not sum(map(len, rings)) or not all(np.isfinite(ring).all() for ring in rings):
        got, fix = f"a {kind} with none or others", "Save it from ImageJ again."
        raise invalid(FileError, file, must="have finite points", got=got, fix=fix)
    stated = {SLICE: roi.position, "z": roi.z_position, "t": roi.t_position}  # from 1; 0 is all of them
    plane = {axis: int(place) - 1 for axis, place in stated.items() if place > 0}
    return Outline(class_text(roi.name), (tuple(rings),), numbered=True, plane=plane)


def _rounded(roi: Any) -> NDArray[np.float64]:
    """Outline a rectangle with rounded corners, or an oval: one whose corners leave no straight edge."""
    first, last = _box_of(roi)
    corner = last - first
    if roi.roitype.name == "RECT":
        corner = np.minimum(corner, max(0, roi.rounded_rect_arc_size))
    turn = np.linspace(0, 2 * np.pi, _OVAL_POINTS, endpoint=False)
    arc = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    middle = np.where(arc > 0, last - corner / 2, first + corner / 2)
    return np.asarray(middle + arc * corner / 2)


def _splined(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outline the closed cubic spline through points, as ImageJ draws it."""
    count, following = len(points), np.roll(points, -1, axis=0)
    waves = 2 * np.cos(2 * np.pi * np.arange(count) / count)[:, None]
    bends = np.fft.ifft(np.fft.fft(points, axis=0) * 6 * (waves - 2) / (waves + 4), axis=0).real
    length = np.hypot(*(following - points).T).sum()
    place = np.linspace(0, count, min(_MOST_POINTS, max(_OVAL_POINTS, int(length))), endpoint=False)
    one = place.astype(np.intp)
    other, after = (one + 1) % count, (place - one)[:, None]
    before = 1 - after
    bent = (before**3 - before) * bends[one] + (after**3 - after) * bends[other]
    return np.asarray(before * points[one] + after * points[other] + bent / 6)


def _of_path(numbers: list[float]) -> list[NDArray[np.float64]]:
    """Outline the path of a composite ROI: moves, lines, and Bézier curves of 2 and 3 degrees."""
    rings: list[list[NDArray[np.float64]]] = []
    at = 0
    while at < len(numbers):
        step = _STEPS[int(numbers[at])]
        ends = np.array(numbers[at + 1 : at + 1 + 2 * step], np.float64).reshape(step, 2)
        if numbers[at] == _MOVE:
            rings.append([])
        if step:
            points = np.concatenate([rings[-1][-1][-1:], ends]) if step > 1 else ends
            rings[-1].append(_bezier(points) if step > 1 else points)
        at += 1 + 2 * step
    return [np.concatenate(ring) for ring in rings]


def _bezier(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """List points of the Bézier curve of some control points, without the first one."""
    after = np.linspace(0, 1, _OVAL_POINTS // 4 + 1)[1:, None, None]
    rows = np.broadcast_to(points, (len(after), *points.shape))
    while rows.shape[1] > 1:  # De Casteljau's algorithm
        rows = (1 - after) * rows[:, :-1] + after * rows[:, 1:]
    return rows[:, 0]


def _box_of(roi: Any) -> NDArray[np.float64]:
    """Return the first and the last corner of a rectangle, (x, y)."""
    x, y, width, height = roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top
    if roi.subpixelrect:
        x, y, width, height = roi.xd, roi.yd, roi.widthd, roi.heightd
    return np.array([(x, y), (x + width, y + height)], np.float64)
