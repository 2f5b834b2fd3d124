"""Compare two masks px by px."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiledseg._checks import whole_number
from tiledseg.metrics._masks import label_pair

__all__ = ["Counts", "count", "count_classes"]

_ROWS_AT_ONCE = 256
_MOST_CLASSES = 4096  # all pairs of them are counted at once


@dataclass(frozen=True, slots=True)
class Counts:
    """How often two masks agree and disagree; the sum of two is that of both images together.

    Attributes
    ----------
    tp, fp, fn, tn : int
        Numbers of px: true positive, false positive, false negative, true negative.

    Examples
    --------
    >>> Counts(tp=1, fp=2, fn=3, tn=4) + Counts(tp=10, fp=0, fn=0, tn=0)
    Counts(tp=11, fp=2, fn=3, tn=4)
    """

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Counts) -> Counts:
        """Add up two images, or two parts of one."""
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)


def count(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> Counts:
    """Count where a mask of two labels, 0 and 1, meets the truth.

    Parameters
    ----------
    truth, prediction : ndarray of bool or int, shape (H, W)
        Masks of the same size; 1 is what is looked for.

    Returns
    -------
    Counts
        Numbers of px of class 1.

    Raises
    ------
    ArrayError
        If a mask is not of shape (H, W), not bool or int, holds other labels than 0 and 1,
        or the sizes differ.

    Examples
    --------
    >>> count([[1, 1], [0, 0]], [[1, 0], [1, 0]])
    Counts(tp=1, fp=1, fn=1, tn=1)
    """
    return count_classes(truth, prediction, 2)[1]


def count_classes(truth: npt.ArrayLike, prediction: npt.ArrayLike, classes: int) -> tuple[Counts, ...]:
    """Count each class against all others.

    Parameters
    ----------
    truth, prediction : ndarray of bool or int, shape (H, W)
        Masks of the same size, with labels in [0, classes).
    classes : int
        Number of classes, background included, at least 2.

    Returns
    -------
    tuple of Counts
        One for each class, background first.

    Raises
    ------
    ArrayError
        If a mask is not of shape (H, W), not bool or int, holds labels outside
        [0, classes), or the sizes differ.
    SettingError
        If there are fewer than 2 classes, or more than 4096.

    Examples
    --------
    >>> count_classes([[0, 1, 2]], [[0, 2, 2]], 3)[2]
    Counts(tp=1, fp=1, fn=0, tn=1)
    """
    fix = "Count the background as one: cell or not is 2 classes."
    classes = whole_number("classes", classes, 2, _MOST_CLASSES, fix)
    true, found = label_pair(truth, prediction, classes)
    table = np.zeros(classes * classes, np.intp)
    for start in range(0, true.shape[0], _ROWS_AT_ONCE):  # a few MB at a time, whatever the size
        rows = slice(start, start + _ROWS_AT_ONCE)
        pairs = true[rows].astype(np.intp) * classes + found[rows].astype(np.intp)
        table += np.bincount(pairs.ravel(), minlength=classes * classes)
    square = table.reshape(classes, classes)  # rows: truth, columns: prediction
    return tuple(_one_against_rest(square, label) for label in range(classes))


def _one_against_rest(table: npt.NDArray[np.intp], label: int) -> Counts:
    """Read one class off the table of all pairs of labels."""
    tp = int(table[label, label])
    fp, fn = int(table[:, label].sum()) - tp, int(table[label].sum()) - tp
    return Counts(tp, fp, fn, int(table.sum()) - tp - fp - fn)
