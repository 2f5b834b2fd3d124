"""Measurements of objects: geometry from their runs, values from the px of their runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray
    from tiledseg.objects.runs import Runs

Table: TypeAlias = "dict[str, AnyArray]"
"""Columns by name, with a row for each object."""

_Floats: TypeAlias = "NDArray[np.float64]"
_BAND = 256  # rows at a time: a fixed number, so that no sum depends on how a map arrived
_KIND_OF_PX = np.full(50, 3)  # a px of the outline by its neighbours on it: 2 for an edge, 10 for a corner
_KIND_OF_PX[[5, 7, 15, 17, 25, 27]] = 0
_KIND_OF_PX[[21, 33]] = 1
_KIND_OF_PX[[13, 23]] = 2
_LENGTH_OF_KIND = (1.0, math.sqrt(2), (1 + math.sqrt(2)) / 2)


def bands(height: int) -> Iterator[tuple[int, int]]:
    """Divide rows into bands."""
    return ((first, min(first + _BAND, height)) for first in range(0, height, _BAND))


def geometry(runs: Runs, height: int) -> Table:
    """Measure position, size and form of each component."""
    n, of = len(runs.label), runs.number
    y, x0 = np.divmod(runs.start, runs.width)
    x1 = x0 + runs.length
    box = _boxes(n, of, y, x0, x1)
    rows, columns, length = y - box[of, 0], x0 - box[of, 1], runs.length.astype(np.int64)
    area = _sums(n, of, length)
    last = columns + length - 1
    sum_x = length * (columns + last) / 2  # of whole numbers: exact
    sum_xx = _squares(last) - _squares(columns - 1)
    mean_y = _sums(n, of, rows * length) / area
    mean_x = _sums(n, of, sum_x) / area
    var_y = _sums(n, of, length * (rows - mean_y[of]) ** 2) / area
    var_x = _sums(n, of, sum_xx) / area - mean_x**2
    cov = _sums(n, of, (rows - mean_y[of]) * (sum_x - length * mean_x[of])) / area
    perimeter = _perimeters(runs, height)
    with np.errstate(divide="ignore"):
        circularity = np.where(perimeter > 0, 4 * np.pi * area / perimeter**2, np.nan)
    return {
        "centroid_y": mean_y + box[:, 0],
        "centroid_x": mean_x + box[:, 1],
        "box_y0": box[:, 0],
        "box_x0": box[:, 1],
        "box_y1": box[:, 2],
        "box_x1": box[:, 3],
        "area": area.astype(np.int64),
        "perimeter": perimeter,
        "equivalent_diameter": np.sqrt(4 * area / np.pi),
        **_ellipse(var_y, np.maximum(var_x, 0), cov),
        "extent": area / ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])),
        "circularity": circularity,
    }


def values(
    runs: Runs, height: int, read: Callable[[int, int], AnyArray], channel: NDArray[np.int64] | int
) -> Table:
    """Measure mean, standard deviation, least and largest value of a channel in each component."""
    n = len(runs.label)
    origin, total, squares = (np.zeros(n) for _ in range(3))
    least, most, area = np.full(n, np.inf), np.full(n, -np.inf), np.zeros(n)
    for first, last in bands(height):
        part = runs.between(first, last)
        of, length = runs.number[part], runs.length[part]
        if not len(of):
            continue
        begin = np.cumsum(length, dtype=np.int64) - length
        places = np.repeat(runs.start[part] - first * runs.width - begin, length)
        places += np.arange(len(places))
        px = _picked(read(first, last), places, channel if isinstance(channel, int) else channel[of], length)
        new = np.isinf(least)
        np.minimum.at(least, of, np.minimum.reduceat(px, begin))
        np.maximum.at(most, of, np.maximum.reduceat(px, begin))
        origin[new] = np.where(np.isinf(least), 0, least)[new]  # near the values: squares stay small
        off = px - np.repeat(origin[of], length)
        area += _sums(n, of, length)
        total += _sums(n, of, np.add.reduceat(off, begin))
        squares += _sums(n, of, np.add.reduceat(off**2, begin))
    shift = total / area
    sd = np.sqrt(np.maximum(squares / area - shift**2, 0))
    return {"mean": origin + shift, "sd": sd, "min": least, "max": most}


def _picked(
    band: AnyArray, places: NDArray[np.int64], channel: NDArray[np.int64] | int, length: AnyArray
) -> _Floats:
    flat = band.reshape(band.shape[0] * band.shape[1], -1)
    wanted = channel if isinstance(channel, int) else np.repeat(channel, length)
    return np.asarray(flat[places, wanted], np.float64)


def _sums(n: int, of: AnyArray, amounts: AnyArray) -> _Floats:
    return np.asarray(np.bincount(of, amounts, n), np.float64)


def _squares(last: AnyArray) -> _Floats:
    """Sum the squares of 0, 1, …, last."""
    return np.asarray(last * (last + 1) * (2 * last + 1) / 6)


def _boxes(n: int, of: AnyArray, y: AnyArray, x0: AnyArray, x1: AnyArray) -> NDArray[np.int64]:
    box = np.zeros((n, 4), np.int64)
    box[:, :2] = np.iinfo(np.int64).max
    for column, along in ((0, y), (1, x0)):
        np.minimum.at(box[:, column], of, along)
    for column, along in ((2, y + 1), (3, x1)):
        np.maximum.at(box[:, column], of, along)
    return box


def _ellipse(var_y: _Floats, var_x: _Floats, cov: _Floats) -> Table:
    """Describe the ellipse of the same second moments."""
    middle, apart = (var_y + var_x) / 2, np.sqrt(((var_y - var_x) / 2) ** 2 + cov**2)
    larger, smaller = middle + apart, np.maximum(middle - apart, 0)
    with np.errstate(invalid="ignore"):
        ratio = np.where(larger > 0, smaller / larger, 1)
    return {
        "major_axis": 4 * np.sqrt(larger),
        "minor_axis": 4 * np.sqrt(smaller),
        "orientation": np.arctan2(2 * cov, var_y - var_x) / 2,
        "eccentricity": np.sqrt(1 - ratio),
    }


def _perimeters(runs: Runs, height: int) -> _Floats:
    """Estimate the length of each outline through the centres of its px, as scikit-image does."""
    n = len(runs.label)
    counts = np.zeros((n + 1, 4), np.int64)
    numbers = np.arange(1, n + 1, dtype=np.uint32)
    for first, last in bands(height):
        top, bottom = max(first - 2, 0), min(last + 2, height)
        rows = np.pad(runs.painted(top, bottom, numbers), ((2 - (first - top), 2 - (bottom - last)), (1, 1)))
        number, kind = _outline_px(rows)
        counts += np.bincount(number * 4 + kind, minlength=4 * (n + 1)).reshape(-1, 4)
    return np.asarray(counts[1:, :3] @ np.array(_LENGTH_OF_KIND))


def _outline_px(rows: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return number and kind of each outline px; two rows above and below only serve as neighbours."""
    middle = rows[1:-1, 1:-1]
    edge = rows[:-2, 1:-1] != middle
    for other in (rows[2:, 1:-1], rows[1:-1, :-2], rows[1:-1, 2:]):
        edge |= other != middle
    outline = np.pad(np.where(edge, middle, 0), ((0, 0), (1, 1)))
    width, flat = outline.shape[1], outline.ravel()
    places = np.flatnonzero(outline[1:-1]) + width
    number, sums = flat[places], np.ones(len(places), np.int64)
    for step, weight in ((1, 2), (width, 2), (width - 1, 10), (width + 1, 10)):
        for sign in (-step, step):
            sums += weight * (flat[places + sign] == number)
    return number.astype(np.int64), _KIND_OF_PX[sums]
