"""Measurements of objects from their runs, and of their px."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._arrays import check_finite, check_image, read_region
from tiledseg._lazy import cv2
from tiledseg.objects.spool import Atlas, Spool, groups, zeros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, Source
    from tiledseg.io import PixelSize
    from tiledseg.objects.spool import Grouped

Table: TypeAlias = "dict[str, AnyArray]"
"""Columns by name, with a row for each object."""

_Floats: TypeAlias = "NDArray[np.float64]"
_Ints: TypeAlias = "NDArray[np.int64]"
_Chain: TypeAlias = "tuple[_Ints, _Ints, _Ints]"  # object, y and x of points, sorted by object and y
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_NEIGHBOURS = np.array([[10, 2, 10], [2, 1, 2], [10, 2, 10]], np.float32)
_KIND_OF_PX = np.full(50, 3, np.uint8)  # a px of the outline by its neighbours on it
_KIND_OF_PX[[5, 7, 15, 17, 25, 27]] = 0
_KIND_OF_PX[[21, 33]] = 1
_KIND_OF_PX[[13, 23]] = 2
_LENGTH_OF_KIND = (1.0, math.sqrt(2), (1 + math.sqrt(2)) / 2)
_LENGTHS = ("centroid_y", "centroid_x", "perimeter", "equivalent_diameter", "major_axis", "minor_axis")
_SQUARE = 5e-3  # levels of a pyramid have whole numbers of px: theirs are nearly square
_EXACT = (np.bool_, np.uint8, np.uint16)  # sums of their squares are exact in float64


def moments(runs: Grouped) -> tuple[AnyArray, ...]:
    """Return n, Σy, Σx, Σyy, Σxx and Σxy of each object: whole numbers."""
    n = runs.x1 - runs.x0
    last = runs.x1 - 1
    x = n * (runs.x0 + last) // 2
    xx = _squares(last) - _squares(runs.x0 - 1)
    y = runs.y
    return tuple(np.add.reduceat(part, runs.first) for part in (n, y * n, x, y * y * n, xx, y * x))


def shape_of(sums: tuple[AnyArray, ...], box: AnyArray) -> Table:
    """Derive position and ellipse from sums; whole numbers of any size, of numpy or of Python."""
    n, sum_y, sum_x, yy, xx, xy = sums
    middle_y, middle_x = (2 * sum_y + n) // (2 * n), (2 * sum_x + n) // (2 * n)
    off_y, off_x = sum_y - middle_y * n, sum_x - middle_x * n
    # about a whole number near the mean: exact, and the rest is small
    yy = yy - 2 * middle_y * sum_y + middle_y * middle_y * n
    xx = xx - 2 * middle_x * sum_x + middle_x * middle_x * n
    xy = xy - middle_y * sum_x - middle_x * sum_y + middle_y * middle_x * n
    area, rest_y, rest_x, yy, xx, xy = (np.asarray(one, np.float64) for one in (n, off_y, off_x, yy, xx, xy))
    rest_y, rest_x = rest_y / area, rest_x / area
    return {
        "centroid_y": np.asarray(middle_y, np.float64) + rest_y + box[:, 0],
        "centroid_x": np.asarray(middle_x, np.float64) + rest_x + box[:, 1],
        **_ellipse(yy / area - rest_y**2, xx / area - rest_x**2, xy / area - rest_y * rest_x),
    }


def _squares(last: AnyArray) -> AnyArray:
    """Sum the squares of 0, 1, …, last."""
    return np.asarray(last * (last + 1) * (2 * last + 1) // 6)


def _ellipse(var_y: _Floats, var_x: _Floats, cov: _Floats) -> Table:
    """Describe the ellipse of the same second moments."""
    middle, apart = (var_y + var_x) / 2, np.sqrt(((var_y - var_x) / 2) ** 2 + cov**2)
    larger, smaller = middle + apart, np.maximum(middle - apart, 0)
    ratio = np.divide(smaller, larger, out=np.ones_like(larger), where=larger > 0)
    return {
        "major_axis": 4 * np.sqrt(larger),
        "minor_axis": 4 * np.sqrt(smaller),
        "orientation": np.arctan2(2 * cov, var_y - var_x) / 2,
        "eccentricity": np.sqrt(1 - ratio),
    }


def extents(runs: Grouped) -> tuple[AnyArray, AnyArray]:
    """Return the first and the last px of each row of each object."""
    first = runs.first_of_rows()
    return runs.x0[first], runs.x1[np.append(first[1:], len(runs.of)) - 1] - 1


def outline_counts(runs: Grouped) -> NDArray[np.int64]:
    """Count the px of each kind on the outline of each object, (n, 3)."""
    counts = [_outline_counts(runs.part(*group)) for group in groups(runs.height, runs.width)]
    return np.concatenate([np.empty((0, 3), np.int64), *counts])


def _outline_counts(runs: Grouped) -> NDArray[np.int64]:
    picture = Atlas.of(runs.height, runs.width).painted(runs, runs.of + 1)
    number, kind = outline_px(picture)
    return np.bincount(number * 4 + kind, minlength=4 * len(runs.first) + 4).reshape(-1, 4)[1:, :3]


def outline_px(picture: NDArray[np.int32], margin: int = 0) -> tuple[AnyArray, AnyArray]:
    """Return number and kind of the outline px of objects that are apart; rows of a margin are neighbours."""
    mask = (picture > 0).view(np.uint8)
    edge = mask - cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    kinds = cv2.filter2D(edge, cv2.CV_8U, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
    rows = slice(margin, len(picture) - margin)
    places = np.flatnonzero(edge[rows])
    return picture[rows].ravel()[places], _KIND_OF_PX[kinds[rows].ravel()[places]]


def geometry(runs: Grouped, box: AnyArray) -> Table:
    """Measure position, size and form of objects."""
    return measured(moments(runs), box, _hulls(runs), outline_counts(runs))


def _hulls(runs: Grouped) -> AnyArray:
    """Return the areas of the convex hulls; NaN for a label with empty rows between its parts."""
    left, right = extents(runs)
    of = runs.of[runs.first_of_rows()]
    whole = np.bincount(of, minlength=len(runs.height)) == runs.height
    if whole.all():
        return convex_areas(left, right, runs.height)
    hull = np.full(len(runs.height), np.nan)
    hull[whole] = convex_areas(left[whole[of]], right[whole[of]], runs.height[whole])
    return hull


def box_columns(box: AnyArray) -> Table:
    """Return the columns of bounding boxes."""
    return {name: box[:, place] for place, name in enumerate(("box_y0", "box_x0", "box_y1", "box_x1"))}


def measured(sums: tuple[AnyArray, ...], box: AnyArray, hull: AnyArray, outline: AnyArray) -> Table:
    """Return the columns of the geometry."""
    area = np.asarray(sums[0], np.int64)
    perimeter = outline @ np.array(_LENGTH_OF_KIND)
    height, width = (box[:, 2:] - box[:, :2]).astype(np.int64).T
    table = shape_of(sums, box)
    round_ = np.divide(4 * np.pi * area, perimeter**2, out=np.full(len(area), np.nan), where=perimeter > 0)
    return {
        "centroid_y": table.pop("centroid_y"),
        "centroid_x": table.pop("centroid_x"),
        **box_columns(box),
        "area": area,
        "perimeter": perimeter,
        "equivalent_diameter": np.sqrt(4 * area / np.pi),
        **table,
        "solidity": area / hull,
        "extent": area / (height * width),
        "circularity": round_,
    }


def stretched(table: Table, y: float, x: float) -> Table:
    """Return the columns of positions and sizes of objects whose px become y by x large."""
    larger, smaller = (table["major_axis"] / 4) ** 2, (table["minor_axis"] / 4) ** 2
    cos, sin = np.cos(table["orientation"]), np.sin(table["orientation"])
    var_y, var_x = larger * cos**2 + smaller * sin**2, larger * sin**2 + smaller * cos**2
    mean = math.sqrt(y * x)
    return {
        "centroid_y": table["centroid_y"] * y,
        "centroid_x": table["centroid_x"] * x,
        "area": table["area"] * (y * x),
        "perimeter": table["perimeter"] * (mean if math.isclose(y, x, rel_tol=_SQUARE) else math.nan),
        "equivalent_diameter": table["equivalent_diameter"] * mean,
        **_ellipse(var_y * y**2, var_x * x**2, (larger - smaller) * sin * cos * y * x),
    }


def in_um(table: Table, size: PixelSize) -> Table:
    """Return the columns in µm; the ellipse is that of the stretched object."""
    shown = {name: f"{name}_um" for name in _LENGTHS} | {"area": "area_um2"}
    columns = stretched(table, size.y, size.x)
    return {shown[name]: column for name, column in columns.items() if name in shown}


class Values:
    """The px of channels under stored runs, in the order of the runs."""

    def __init__(self, names: Sequence[str], dtype: np.dtype[Any], *, of_class: bool = False) -> None:
        self.names: tuple[str, ...] = ("probability",) if of_class else tuple(names)
        self.dtype: np.dtype[Any] = dtype
        self._of_class = of_class  # the channels are classes: an object has the values of its own
        self._spool = Spool(dtype, (len(names),))

    def append(self, px: AnyArray) -> None:
        """Add the px of the next runs, (N, channels)."""
        self._spool.append(px)

    def read(self, px: tuple[int, int], label: AnyArray, length: AnyArray) -> list[AnyArray]:
        """Return the values of px [first, last) by channel, for runs of objects of a class."""
        found = self._spool.read(*px)
        if self._of_class:
            return [found[np.arange(len(found)), np.repeat(label, length)]]
        return [np.ascontiguousarray(channel) for channel in found.T]


class ImageValues(Values):
    """The channels of an image under stored runs; its rows are read once, in order."""

    def __init__(self, image: Source) -> None:
        names = [f"channel_{channel}" for channel in range(check_image(image)[2])]
        super().__init__(names, np.dtype(image.dtype))
        self._image = image

    def take(self, first: int, n_rows: int, places: AnyArray) -> None:
        """Read the next rows, and add the px at places that count from the first of them."""
        width = self._image.shape[1]
        pixels = read_region(self._image, slice(first, first + n_rows), slice(0, width))
        check_finite(pixels, "image", (first, 0))
        self.append(np.take(pixels.reshape(n_rows * width, -1), places, axis=0))


class ValueSums:
    """Mean, standard deviation, least and largest value of one channel in each of n objects."""

    def __init__(self, n: int, dtype: np.dtype[np.generic]) -> None:
        self._exact = dtype.type in _EXACT
        self._origin, self._total, self._squares, self._area = (zeros(n, np.float64) for _ in range(4))
        self._least, self._most = zeros(n, np.float64), zeros(n, np.float64)
        self._least[:], self._most[:] = np.inf, -np.inf

    def add(self, of: AnyArray, px: AnyArray, first: AnyArray, length: AnyArray) -> None:
        """Take the px of runs: the object of each run or -1, and where it begins in `px`."""
        own = of >= 0
        mine = of[own]
        if not len(mine):
            return
        np.minimum.at(self._least, mine, np.minimum.reduceat(px, first)[own].astype(np.float64))
        np.maximum.at(self._most, mine, np.maximum.reduceat(px, first)[own].astype(np.float64))
        if self._exact:
            off = px.astype(np.int64)
        else:
            off = px.astype(np.float64)
            new = mine[self._area[mine] == 0][::-1]
            self._origin[new] = off[first[own][self._area[mine] == 0][::-1]]  # near the values: small squares
            off -= np.repeat(self._origin[of], length)
        np.add.at(self._area, mine, length[own].astype(np.float64))
        np.add.at(self._total, mine, np.add.reduceat(off, first)[own].astype(np.float64))
        np.add.at(self._squares, mine, np.add.reduceat(off * off, first)[own].astype(np.float64))

    def of(self, objects: AnyArray) -> Table:
        """Return the columns of some objects, all px of which were given."""
        area = self._area[objects]
        shift = self._total[objects] / area
        variance = np.maximum(self._squares[objects] / area - shift**2, 0)
        mean = self._origin[objects] + shift
        return {
            "mean": mean,
            "sd": np.sqrt(variance),
            "min": self._least[objects],
            "max": self._most[objects],
        }


def convex_areas(left: AnyArray, right: AnyArray, n_rows: AnyArray) -> NDArray[np.int64]:
    """Count the px whose centre lies in the hull of each object; first and last px of each of its rows."""
    # Counted as scikit-image does: the hull is that of the middles of all edges of px, half a px from their
    # centres; so coordinates are doubled.
    of = np.repeat(np.arange(len(n_rows)), n_rows)
    y = 2 * (np.arange(len(of)) - (np.cumsum(n_rows) - n_rows)[of])
    first = -_farthest(of, y, -2 * left.astype(np.int64))
    last = _farthest(of, y, 2 * right.astype(np.int64))
    return np.bincount(of, last - first + 1, len(n_rows)).astype(np.int64)


def _farthest(of: _Ints, y: _Ints, x: _Ints) -> _Ints:
    """Return the largest px, not doubled, in the hull in each row, from the largest px of each object."""
    chain = _outermost(_around(_outermost((of, y, x))))
    span = int(y.max(initial=0)) + 4
    edge = np.searchsorted(chain[0] * span + chain[1], of * span + y, side="right") - 1
    y0, x0 = chain[1][edge], chain[2][edge]
    down, across = chain[1][edge + 1] - y0, chain[2][edge + 1] - x0
    return np.asarray((x0 * down + across * (y - y0)) // (2 * down))


def _around(chain: _Chain) -> _Chain:
    """Replace the centre of each px by the middles of its edges."""
    of = np.concatenate(3 * [chain[0]])
    y = np.concatenate([chain[1] - 1, chain[1], chain[1] + 1])
    x = np.concatenate([chain[2], chain[2] + 1, chain[2]])
    least, span = int(x.min(initial=0)), int(y.max(initial=0)) + 2
    wide = int(x.max(initial=0)) - least + 1
    key = np.sort(((of * span + y + 1) * wide) + x - least)
    place, x = np.divmod(key, wide)
    farthest = np.ones(len(place), bool)
    farthest[:-1] = place[1:] != place[:-1]
    of, y = np.divmod(place[farthest], span)
    return of, y - 1, x[farthest] + least


def _outermost(chain: _Chain) -> _Chain:
    """Remove the points that do not lie beyond the line between their neighbours, until none is left."""
    # A corner of the hull lies beyond the line between any others: it is never removed.
    of, y, x = chain
    while len(of) > 2:
        inner = of[2:] == of[:-2]
        turn = (x[1:-1] - x[:-2]) * (y[2:] - y[:-2]) - (x[2:] - x[:-2]) * (y[1:-1] - y[:-2])
        stay = np.ones(len(of), bool)
        stay[1:-1] = ~inner | (turn > 0)
        if stay.all():
            break
        of, y, x = of[stay], y[stay], x[stay]
    return of, y, x
