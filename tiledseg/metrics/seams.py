"""Tile borders in a map: how visible they are, and whether errors are more frequent near them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tiledseg._arrays import array_of, by_name, check_finite
from tiledseg._validate import invalid, items_of, whole_number, whole_pair
from tiledseg.errors import ArrayError
from tiledseg.metrics.counts import Summable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray

SEAM_DISTANCES: tuple[int, ...] = (0, 2, 4, 8, 16, 32, 64, 128)
"""Where the bins of distance begin, in px; the px on both sides of a border have distance 0."""

_BESIDE = 8  # px on each side of a border
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class SeamRatio:
    """How much steeper a map is across tile borders than beside them; 1 if they cannot be seen."""

    y: float  # across the horizontal borders, that is along y
    x: float  # across the vertical borders, that is along x
    both: float  # across all borders together


@dataclass(frozen=True, slots=True)
class _Steps(Summable):
    """Sums and numbers of the absolute steps between neighbouring px."""

    across: float = 0.0
    n_across: int = 0
    beside: float = 0.0
    n_beside: int = 0

    @property
    def ratio(self) -> float:
        """Mean across over mean beside."""
        if not self.n_across or not self.n_beside:
            return math.nan
        if not self.beside:
            return math.inf if self.across else math.nan
        return (self.across / self.n_across) / (self.beside / self.n_beside)


def seam_ratio(probs: npt.ArrayLike, borders_y: Sequence[int], borders_x: Sequence[int]) -> SeamRatio:
    """Measure how visible tile borders are in a map.

    The mean absolute step from px to px across the borders, over the mean of the 8 steps on each
    side of them. Steps across another border, or beyond the edge, are left out.

    Parameters
    ----------
    probs : ndarray, shape (H, W) or (H, W, K)
        The map: probabilities in any range, or 8-bit grey values. Finite.
    borders_y, borders_x : sequence of int
        Borders between rows and between columns: border b lies between px b - 1 and px b. In
        [1, H - 1] and [1, W - 1]; those of a grid are ``grid.y.borders`` and ``grid.x.borders``.

    Returns
    -------
    SeamRatio
        For each axis and for both together. An axis without borders has nan, and so has a map
        that is flat both across its borders and beside them; one that is flat beside them only
        has inf.

    Raises
    ------
    ArrayError
        If `probs` is not a finite numeric array of shape (H, W) or (H, W, K).
    SettingError
        If a border does not lie inside the map.

    Examples
    --------
    A slope of 1 per px with a jump of 5 between columns 19 and 20:

    >>> import numpy as np
    >>> row = np.arange(40.0)
    >>> row[20:] += 4
    >>> seam_ratio(np.tile(row, (30, 1)), [], [20])
    SeamRatio(y=nan, x=5.0, both=5.0)
    """
    values = _as_map(probs)
    tally = SeamTally((values.shape[0], values.shape[1]), borders_y, borders_x)
    for start in range(0, values.shape[0], _ROWS_AT_ONCE):
        tally.add(values[start : start + _ROWS_AT_ONCE])
    return tally.ratio


class SeamTally:
    """Computes `seam_ratio` of a map whose rows arrive band by band."""

    def __init__(self, shape: tuple[int, int], borders_y: Sequence[int], borders_x: Sequence[int]) -> None:
        height, width = whole_pair("shape", shape)
        self._rows = _places(_sorted_borders("borders_y", borders_y, height), height)
        self._columns = _places(_sorted_borders("borders_x", borders_x, width), width)
        self._along_y, self._along_x = _Steps(), _Steps()
        self._row = 0
        self._last: AnyArray | None = None

    def add(self, rows: AnyArray) -> None:
        """Measure the next rows of the map."""
        before = [] if self._last is None else [self._last]
        first, band = self._row - len(before), np.concatenate([*before, rows])
        within = [places[(places > first) & (places < first + len(band))] - first for places in self._rows]
        self._along_y += _steps(band, *within)
        self._along_x += _steps(rows.swapaxes(0, 1), *self._columns)
        self._row, self._last = self._row + len(rows), np.array(rows[-1:])

    @property
    def ratio(self) -> SeamRatio:
        """Ratio of the rows so far."""
        return SeamRatio(self._along_y.ratio, self._along_x.ratio, (self._along_y + self._along_x).ratio)


def _places(borders: list[int], length: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """List the places of the steps across the borders, and of those beside them."""
    near = {place for border in borders for place in range(border - _BESIDE, border + _BESIDE + 1)}
    beside = sorted(place for place in near - set(borders) if 1 <= place < length)
    return np.asarray(borders, np.intp), np.asarray(beside, np.intp)


def _steps(values: AnyArray, across: npt.NDArray[np.intp], beside: npt.NDArray[np.intp]) -> _Steps:
    """Add up the steps along the first axis, across the borders and beside them."""
    return _Steps(*_sum_of_steps(values, across), *_sum_of_steps(values, beside))


def _sum_of_steps(values: AnyArray, places: npt.NDArray[np.intp]) -> tuple[float, int]:
    """Add up the steps from px ``place - 1`` to px ``place``, and count them."""
    steps = np.abs(values[places].astype(np.float64) - values[places - 1])
    return float(steps.sum()), steps.size


def _as_map(probs: npt.ArrayLike) -> AnyArray:
    """Check that an array is a map of finite numbers."""
    values = array_of(by_name(probs, "probs"), "probs")
    if values.ndim not in {2, 3}:
        raise invalid(
            ArrayError,
            "probs",
            must="have shape (H, W) or (H, W, K)",
            got=values.shape,
            fix="Give one map at a time, channels last.",
        )
    check_finite(values, "probs")
    return values


def _sorted_borders(name: str, borders: Sequence[int], length: int) -> list[int]:
    """Sort the borders, remove repeated ones, and check that they lie inside the map."""
    fix = "Take the borders of the grid that the map was stitched on."
    found = items_of(borders, name, "be a sequence of whole numbers", fix)
    return sorted({whole_number(name, border, 1, length - 1, fix) for border in found})


@dataclass(frozen=True, slots=True)
class SeamErrors(Summable):
    """Px by their distance from the nearest tile border."""

    px: tuple[int, ...]  # in each bin of `SEAM_DISTANCES`
    wrong: tuple[int, ...]  # those of them that have a wrong label

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of wrong px in each bin; nan for an empty bin."""
        return tuple(
            wrong / px if px else float("nan") for px, wrong in zip(self.px, self.wrong, strict=True)
        )


class SeamErrorTally:
    """Counts wrong px by their distance from tile borders; rows arrive in order."""

    def __init__(self, shape: tuple[int, int], borders_y: Sequence[int], borders_x: Sequence[int]) -> None:
        height, width = whole_pair("shape", shape)
        self._bins = (
            _distance_bins(height, _sorted_borders("borders_y", borders_y, height)),
            _distance_bins(width, _sorted_borders("borders_x", borders_x, width)),
        )
        self._table = np.zeros((len(SEAM_DISTANCES), 2), np.int64)
        self._row = 0

    def add(self, wrong: npt.NDArray[np.bool_]) -> None:
        """Count the next rows."""
        along_y = self._bins[0][self._row : self._row + len(wrong)]
        nearest = np.minimum(along_y[:, np.newaxis], self._bins[1])
        pairs = np.bincount((nearest * 2 + wrong).ravel(), minlength=self._table.size)
        self._table += pairs.reshape(self._table.shape)
        self._row += len(wrong)

    @property
    def errors(self) -> SeamErrors:
        """Errors of the rows so far."""
        right, wrong = (tuple(column.tolist()) for column in self._table.T)
        return SeamErrors(tuple(one + two for one, two in zip(right, wrong, strict=True)), wrong)


def _distance_bins(length: int, borders: list[int]) -> npt.NDArray[np.intp]:
    """Return the bin of each px of an axis, by its distance from the nearest border."""
    if not borders:
        return np.full(length, len(SEAM_DISTANCES) - 1, np.intp)
    places, edges = np.arange(length), np.asarray(borders)
    after = np.searchsorted(edges, places, side="right")
    below = np.where(after > 0, places - edges[after - 1], length)
    above = np.where(after < edges.size, edges[np.minimum(after, edges.size - 1)] - 1 - places, length)
    return np.searchsorted(SEAM_DISTANCES, np.minimum(below, above), side="right") - 1
