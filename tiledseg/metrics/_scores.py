"""Scores from counts; what each says of empty masks is in its docstring."""

from __future__ import annotations

import math

from tiledseg._validate import instance_of
from tiledseg.metrics._counts import Counts

__all__ = ["accuracy", "dice", "iou", "precision", "recall", "specificity"]


def dice(counts: Counts) -> float:
    """Score the overlap: 2 tp / (2 tp + fp + fn), also known as F1 (Dice, Ecology 26, 1945).

    Parameters
    ----------
    counts : Counts
        Of one image, or of several together.

    Returns
    -------
    float
        In [0, 1]; 1.0 where truth and prediction are both empty, for they agree.

    Examples
    --------
    >>> from tiledseg.metrics import count
    >>> dice(count([[1, 1, 0]], [[1, 0, 0]]))
    0.6666666666666666
    """
    _check(counts)
    return _share(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, nothing=1.0)


def iou(counts: Counts) -> float:
    """Score the overlap: tp / (tp + fp + fn), intersection over union (Jaccard, 1912).

    Parameters
    ----------
    counts : Counts
        Of one image, or of several together.

    Returns
    -------
    float
        In [0, 1]; 1.0 where truth and prediction are both empty, for they agree.
    """
    _check(counts)
    return _share(counts.tp, counts.tp + counts.fp + counts.fn, nothing=1.0)


def precision(counts: Counts) -> float:
    """Tell which share of the predicted px is right: tp / (tp + fp).

    Parameters
    ----------
    counts : Counts
        Of one image, or of several together.

    Returns
    -------
    float
        In [0, 1]; nan where nothing is predicted, so that silence earns no praise in a mean.
    """
    _check(counts)
    return _share(counts.tp, counts.tp + counts.fp)


def recall(counts: Counts) -> float:
    """Tell which share of the true px is found: tp / (tp + fn), also known as sensitivity.

    Parameters
    ----------
    counts : Counts
        Of one image, or of several together.

    Returns
    -------
    float
        In [0, 1]; nan where there is nothing to find.
    """
    _check(counts)
    return _share(counts.tp, counts.tp + counts.fn)


def specificity(counts: Counts) -> float:
    """Tell which share of the background is left alone: tn / (tn + fp).

    Parameters
    ----------
    counts : Counts
        Of one image, or of several together.

    Returns
    -------
    float
        In [0, 1]; nan where there is no background.
    """
    _check(counts)
    return _share(counts.tn, counts.tn + counts.fp)


def accuracy(counts: Counts) -> float:
    """Tell which share of all px is right: (tp + tn) / (tp + fp + fn + tn).

    Parameters
    ----------
    counts : Counts
        Of one image, or of several together.

    Returns
    -------
    float
        In [0, 1]; nan where there is no px. High for an empty prediction wherever cells are few.
    """
    _check(counts)
    return _share(counts.tp + counts.tn, counts.tp + counts.fp + counts.fn + counts.tn)


def _check(counts: Counts) -> None:
    instance_of(Counts, counts, "counts", "Make them with tiledseg.metrics.count.")


def _share(part: int, whole: int, nothing: float = math.nan) -> float:
    """Divide, with a stated answer where there is nothing to divide by."""
    return part / whole if whole else nothing
