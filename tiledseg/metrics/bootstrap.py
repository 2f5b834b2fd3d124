"""Confidence intervals of a score: how much it varies with the choice of images."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._arrays import array_of
from tiledseg._validate import all_of, check_callable, counted, fraction, invalid, raised_as, whole_number
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

_AT_ONCE = 2**22  # numbers drawn at a time
_MOST_RESAMPLES = 10**6


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with the bounds of its interval."""

    value: float  # the score of all images
    low: float  # lower bound; nan if fewer than two images, or groups of them, have a value
    high: float  # upper bound, or nan as for `low`


def bootstrap_interval(
    values: npt.ArrayLike,
    statistic: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None = None,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Resample images with replacement (Efron, 1979), and return the percentiles of the score.

    With few images the interval is rather too narrow than too wide. Images of one slide or patient
    are similar: `groups` states which belong together, and whole groups are drawn.

    Parameters
    ----------
    values : ndarray, shape (N,) or (N, M)
        One row per image: its score, or numbers from which `statistic` computes a score. A
        row with a nan has no value and is left out.
    statistic : callable, optional
        From (R, N) or (R, N, M) drawn rows to R scores; by default the mean over N.
    groups : sequence, optional
        The group of each row: a slide, a patient. By default each row is a group of its own.
    level : float
        Share of the resamples that the interval holds, in (0, 1).
    resamples : int
        Number of draws, at most 1,000,000.
    seed : int
        Seed of the draws; the same seed gives the same interval.

    Returns
    -------
    Interval
        The score of all rows, and its bounds.

    Raises
    ------
    ArrayError
        If `values` are not numbers.
    SettingError
        If `level`, `resamples` or `seed` is out of its range, `values` has another shape, or `statistic`
        fails or returns something else.

    Examples
    --------
    >>> bootstrap_interval([0.25, 0.75, 0.75, 0.75])
    Interval(value=0.625, low=0.375, high=0.75)
    """
    share = fraction("level", level, "Use 0.95, for example.")
    check_callable("statistic", statistic)
    times = whole_number("resamples", resamples, most=_MOST_RESAMPLES)
    first = whole_number("seed", seed, 0)
    rows, together = _rows_and_groups(values, groups, statistic)
    measure = _mean if statistic is None else partial(_measured, statistic)
    if not len(rows):
        return Interval(math.nan, math.nan, math.nan)
    value = float(measure(rows[np.newaxis])[0])
    if len(together) < 2:
        return Interval(value, math.nan, math.nan)
    drawn = np.random.default_rng(first).integers(0, len(together), (times, len(together)))
    if len(together) == len(rows):
        some = max(1, _AT_ONCE // max(1, rows.size))
        parts = [measure(rows[drawn[start : start + some]]) for start in range(0, times, some)]
    else:  # groups differ in length, and so do the resamples
        parts = [measure(rows[np.concatenate([together[one] for one in draw])][np.newaxis]) for draw in drawn]
    scores, half = np.concatenate(parts), (1 - share) / 2
    scores = scores[~np.isnan(scores)]
    if not scores.size:
        return Interval(value, math.nan, math.nan)
    # no interpolation between two resamples: a distance may be infinite
    low = float(np.quantile(scores, half, method="lower"))
    return Interval(value, low, float(np.quantile(scores, 1 - half, method="higher")))


def _measured(
    statistic: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], rows: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Call a statistic of the user's, and check that it gives a score for each resample."""
    fix = (
        "Correct it: it gets (R, N) or (R, N, M) drawn rows and returns R scores, as rows.mean(axis=1) does."
    )
    with raised_as(SettingError, "`statistic` cannot be computed", fix):
        found = array_of(statistic(rows), "statistic")
    if found.shape != rows.shape[:1]:
        must = f"return {counted(len(rows), 'score')}, one for each resample"
        raise invalid(SettingError, "statistic", must=must, got=f"the shape {found.shape}", fix=fix)
    return found.astype(np.float64)


def _mean(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(rows.mean(axis=1), np.float64)


def _rows_and_groups(
    values: npt.ArrayLike, groups: Sequence[object] | None, statistic: object
) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.intp]]]:
    """Leave out the rows without a value, and list the places of each group's rows."""
    rows = array_of(values, "values").astype(np.float64)
    if groups is not None:
        fix = "Give one group for each row."
        groups = all_of(Hashable, groups, "groups", fix)
    most = 1 if statistic is None else 2
    if not 1 <= rows.ndim <= most or (groups is not None and len(groups) != len(rows)):
        raise invalid(
            SettingError,
            "values",
            must="have one row per image, (N,) or (N, M), and one group for each",
            got=f"{rows.shape}, {'no' if groups is None else len(groups)} groups",
            fix="Give one number for each image, or a few with `statistic`.",
        )
    known = ~np.isnan(rows) if rows.ndim == 1 else ~np.isnan(rows).any(axis=1)
    rows_left = np.flatnonzero(known)
    if groups is None:
        return rows[rows_left], [np.array([index]) for index in range(len(rows_left))]
    places: dict[object, list[int]] = {}
    for index, row in enumerate(rows_left.tolist()):
        places.setdefault(groups[row], []).append(index)
    return rows[rows_left], [np.asarray(one) for one in places.values()]
