"""Masks and probabilities compared px by px: counts, also at all thresholds, and scores; calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tiledseg._arrays import array_of, check_labels
from tiledseg._validate import instance_of, invalid, whole_number
from tiledseg.errors import ArrayError

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiledseg._types import AnyArray

_ROWS_AT_ONCE = 256
_MOST_CLASSES = 4096  # a table of all pairs of them is held in memory
_BINS = 256  # a power of two: a float32 times it is exact, so bins agree with `>=`
_RELIABILITY_BINS = 16

CURVE_THRESHOLDS: tuple[float, ...] = tuple(index / _BINS for index in range(1, _BINS))
"""Thresholds at which curves are known: 1/256, 2/256, … 255/256."""


class Summable:
    """Base of dataclasses of counts: the sum of two holds the counts of both images together."""

    __slots__ = ()

    def __add__(self, other: Self) -> Self:
        """Add up two images, or two parts of one."""
        if type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return type(self)(*(_sum(getattr(self, name), getattr(other, name)) for name in names))

    def __radd__(self, other: object) -> Self:
        """Add to the 0 with which `sum` begins."""
        return self if type(other) is int and other == 0 else NotImplemented


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, tuple):
        return tuple(first + second for first, second in zip(one, other, strict=True))
    return one + other


@dataclass(frozen=True, slots=True)
class Counts(Summable):
    """How often two masks agree and disagree in px, and the scores that follow; the sum of several is pooled.

    Attributes
    ----------
    tp, fp, fn, tn : int
        True positive, false positive, false negative and true negative px.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    def __post_init__(self) -> None:
        """Make numbers of NumPy, which may overflow, whole numbers of Python."""
        for name in self.__slots__:
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 0))

    @property
    def dice(self) -> float:
        """2 tp / (2 tp + fp + fn), known as F1 (Dice, Ecology 26, 1945); 1 where both masks are empty."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn, nothing=self._agreed)

    @property
    def iou(self) -> float:
        """Intersection over union, tp / (tp + fp + fn) (Jaccard, 1912); 1 where both masks are empty."""
        return _share(self.tp, self.tp + self.fp + self.fn, nothing=self._agreed)

    @property
    def _agreed(self) -> float:
        """The score of empty masks; nan where no px counts, since nothing says that they agree."""
        return 1.0 if self.tn else math.nan

    @property
    def precision(self) -> float:
        """Share of the predicted px that is right, tp / (tp + fp); nan where nothing is predicted."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the true px that is found, tp / (tp + fn), the sensitivity; nan where there is none."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """Share of the background that is predicted as such, tn / (tn + fp); nan where there is none."""
        return _share(self.tn, self.tn + self.fp)

    @property
    def accuracy(self) -> float:
        """Share of all px that is right; nan where there is no px. Empty masks of rare cells score high."""
        return _share(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)


def _share(part: int, whole: int, nothing: float = math.nan) -> float:
    """Divide, or return `nothing` if the divisor is 0: nan, so that it does not raise a mean."""
    return part / whole if whole else nothing


def count(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> Counts:
    """Compare a mask of the labels 0 and 1 with the truth, px by px.

    Parameters
    ----------
    truth, prediction : array_like
        Masks (H, W) of the labels 0 and 1, boolean or integer.

    Returns
    -------
    Counts
        The counts of label 1, and scores in [0, 1].

    Raises
    ------
    ArrayError
        If a mask holds other values, or the two differ in shape.

    Examples
    --------
    >>> count([[1, 1, 0]], [[1, 0, 0]]).dice
    0.6666666666666666
    """
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
    """Count one class in the table of all pairs of labels."""
    tp = int(table[label, label])
    fp, fn = int(table[:, label].sum()) - tp, int(table[label].sum()) - tp
    return Counts(tp, fp, fn, int(table.sum()) - tp - fp - fn)


def label_pair(
    truth: npt.ArrayLike, prediction: npt.ArrayLike, classes: int | None
) -> tuple[AnyArray, AnyArray]:
    """Check two masks of labels."""
    true, found = (
        check_labels(mask, name, classes=classes)
        for name, mask in (("truth", truth), ("prediction", prediction))
    )
    if true.shape != found.shape:
        raise invalid(
            ArrayError,
            "prediction",
            must=f"have the size of `truth`, {true.shape}",
            got=found.shape,
            fix="Compare the map at the size of its image; resize neither.",
        )
    return true, found


def binary_mask(name: str, mask: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Check a mask of the labels 0 and 1, and lay it out for OpenCV."""
    return np.ascontiguousarray(check_labels(mask, name, classes=2), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class ProbabilityCounts(Summable):
    """A histogram of probabilities in 256 bins."""

    px: npt.NDArray[np.int64]  # px whose probability lies in [i / 256, (i + 1) / 256), 1 in the last
    hits: npt.NDArray[np.int64]  # those of them that belong to the class
    total: npt.NDArray[np.float64]  # sum of their probabilities

    def __repr__(self) -> str:
        return f"ProbabilityCounts({int(self.px.sum())} px, {int(self.hits.sum())} hits)"


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
