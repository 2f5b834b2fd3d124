"""Calibration, and counts at all thresholds, from one histogram of probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import array_of, instance_of, invalid
from tiledseg.errors import ArrayError
from tiledseg.metrics.counts import Counts, Summable

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiledseg._types import AnyArray

_BINS = 256  # a power of two: a float32 times it is exact, so bins agree with `>=`
_RELIABILITY_BINS = 16

CURVE_THRESHOLDS: tuple[float, ...] = tuple(index / _BINS for index in range(1, _BINS))
"""Thresholds at which curves are known: 1/256, 2/256, … 255/256."""


@dataclass(frozen=True, slots=True, eq=False)
class ProbabilityCounts(Summable):
    """A histogram of probabilities in 256 bins."""

    px: npt.NDArray[np.int64]  # px whose probability lies in [i / 256, (i + 1) / 256), 1 in the last
    hits: npt.NDArray[np.int64]  # those of them that belong to the class
    total: npt.NDArray[np.float64]  # sum of their probabilities


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Predicted and observed frequencies, in 16 bins of equal width; nan in an empty bin."""

    predicted: npt.NDArray[np.float64]  # mean probability of each bin's px
    observed: npt.NDArray[np.float64]  # share of them that belongs to the class
    px: npt.NDArray[np.int64]  # in each bin


def count_probabilities(probs: npt.ArrayLike, hits: npt.ArrayLike) -> ProbabilityCounts:
    """Count px by probability, and how many of them belong to the class."""
    given, true = array_of(probs, "probs"), array_of(hits, "hits")
    values = given.astype(np.float32, copy=False).ravel()
    if true.shape != given.shape or true.dtype != bool:
        raise invalid(
            ArrayError,
            "hits",
            must=f"be boolean of shape {given.shape}",
            got=f"{true.dtype} of shape {true.shape}",
            fix="Give one truth for each probability, such as mask == 1.",
        )
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise invalid(
            ArrayError,
            "probs",
            must="lie in [0, 1]",
            got=f"{values.min():g} to {values.max():g}",
            fix="Let the network end in a sigmoid or softmax.",
        )
    bins = np.minimum(values * np.float32(_BINS), np.float32(_BINS - 1)).astype(np.intp)
    px = np.bincount(bins, minlength=_BINS).astype(np.int64)
    right = np.bincount(bins[true.ravel()], minlength=_BINS).astype(np.int64)
    total = np.asarray(np.bincount(bins, weights=values, minlength=_BINS), np.float64)
    return ProbabilityCounts(px, right, total)


def counts_at_thresholds(counts: ProbabilityCounts) -> tuple[Counts, ...]:
    """Count as `count` does at each of `CURVE_THRESHOLDS`, without reading the map again."""
    all_true, all_px = int(counts.hits.sum()), int(counts.px.sum())
    true, found = np.cumsum(counts.hits[::-1])[::-1][1:], np.cumsum(counts.px[::-1])[::-1][1:]
    curve = []
    for tp, positive in zip(true.tolist(), found.tolist(), strict=True):
        fp, fn = positive - tp, all_true - tp
        curve.append(Counts(tp, fp, fn, all_px - tp - fp - fn))
    return tuple(curve)


def reliability(counts: ProbabilityCounts) -> Reliability:
    """Compare predicted with observed frequencies (DeGroot and Fienberg, 1983)."""
    px, hits, total = (_merged(one) for one in (counts.px, counts.hits, counts.total))
    with np.errstate(invalid="ignore"):
        return Reliability(total / px, hits / px, px)


def calibration_error(counts: ProbabilityCounts) -> float:
    """Average the difference of predicted and observed frequencies (Naeini et al., AAAI 2015).

    Parameters
    ----------
    counts : ProbabilityCounts
        Of one image, or of several together.

    Returns
    -------
    float
        The expected calibration error in [0, 1], over 16 bins of equal width; nan without a px.

    Examples
    --------
    >>> calibration_error(count_probabilities([0.75, 0.75, 0.75, 0.75], [True, True, True, False]))
    0.0
    """
    instance_of(ProbabilityCounts, counts, "counts", "Make them with count_probabilities.")
    px, hits, total = (_merged(one) for one in (counts.px, counts.hits, counts.total))
    n_px = int(px.sum())
    return float(np.abs(hits - total).sum() / n_px) if n_px else math.nan


def _merged(bins: AnyArray) -> AnyArray:
    return np.asarray(bins.reshape(_RELIABILITY_BINS, -1).sum(axis=1))
