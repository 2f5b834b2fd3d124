"""Compare two masks px by px."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiledseg._validate import whole_number
from tiledseg.metrics._masks import label_pair

__all__ = ["Counts", "count", "count_classes"]

_ROWS_AT_ONCE = 256
_MOST_CLASSES = 4096  # all pairs of them are counted at once


@dataclass(frozen=True, slots=True)
class Counts:
    """How often two masks agree and disagree; the sum of two is that of both images together."""

    tp: int  # numbers of px: true positive, false positive, false negative, true negative
    fp: int  # numbers of px: true positive, false positive, false negative, true negative
    fn: int  # numbers of px: true positive, false positive, false negative, true negative
    tn: int  # numbers of px: true positive, false positive, false negative, true negative

    def __add__(self, other: Counts) -> Counts:
        """Add up two images, or two parts of one."""
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)


def count(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> Counts:
    """Count where a mask of two labels, 0 and 1, meets the truth."""
    return count_classes(truth, prediction, 2)[1]


def count_classes(truth: npt.ArrayLike, prediction: npt.ArrayLike, classes: int) -> tuple[Counts, ...]:
    """Count each class against all others."""
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
