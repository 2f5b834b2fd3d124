"""ROI of ImageJ as it draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import invalid
from tiledseg.errors import FileError
from tiledseg.io.areas import Outline, class_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICE = "slice"
"""Position of a ROI along the one axis of a stack."""

_OVAL_POINTS, _MOST_POINTS = 360, 1 << 20
_AREAS, _NO_AREAS = {"RECT", "OVAL", "POLYGON", "FREEHAND", "TRACED"}, {"TEXT", "IMAGE", "ARROW"}
_SPLINE = 1  # option of a ROI
_MOVE, _STEPS = 0, {0: 1, 1: 1, 2: 2, 3: 3, 4: 0}  # points of each step of a path; 4 closes it


def outline_of(roi: Any, file: str) -> Outline:  # noqa: ANN401
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


def _rounded(roi: Any) -> NDArray[np.float64]:  # noqa: ANN401
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


def _box_of(roi: Any) -> NDArray[np.float64]:  # noqa: ANN401
    """Return the first and the last corner of a rectangle, (x, y)."""
    x, y, width, height = roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top
    if roi.subpixelrect:
        x, y, width, height = roi.xd, roi.yd, roi.widthd, roi.heightd
    return np.array([(x, y), (x + width, y + height)], np.float64)
