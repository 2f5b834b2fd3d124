"""The scores of one image, and those of several together."""

from __future__ import annotations

import functools
import math
import operator
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._validate import all_of, invalid, shown
from tiledseg.errors import SettingError
from tiledseg.metrics import (
    IOU_THRESHOLDS,
    BoundaryCounts,
    Counts,
    InstanceCounts,
    ProbabilityCounts,
    SeamErrors,
    average_precision,
    boundary_f1,
    calibration_error,
    panoptic_quality,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    from tiledseg.io import PixelSize
    from tiledseg.metrics import Interval

_EQUAL_WITHIN = 1e-9
_CELL_IOUS = (0.5, 0.75)  # of AP50 and AP75
_Numbers: TypeAlias = "npt.NDArray[np.float64]"
_Parts = dict[str, tuple[str, "Callable[[Any], float]"]]

_OF_PX = ("dice", "iou", "precision", "recall", "specificity", "accuracy")  # properties of `Counts`
SCORES: _Parts = {
    **{name: ("counts", operator.attrgetter(name)) for name in _OF_PX},
    "boundary_f1": ("boundary", boundary_f1),
    "average_precision": ("instances", average_precision),
    "panoptic_quality": ("instances", panoptic_quality),
}
"""The scores by name: the field of `ImageScores` that holds the counts, and the function of them."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """How well one image's map agrees with its mask.

    With several classes a score is the mean over the classes except the background.

    Attributes
    ----------
    name : str
        Name of the image.
    shape : tuple of int
        Height and width in px.
    counts : tuple of Counts
        With one output channel only those of the foreground; with several one for each class,
        the background first.
    seam_ratio : float
        Mean step of the map across tile borders over that beside them; 1 if the borders cannot
        be seen, nan if there are none.
    tiles : int
        Tiles that were computed; 0 if not known.
    seconds : float
        Time of the prediction without reading and scoring; nan if not known.
    boundary : tuple of BoundaryCounts
        Of the outlines, one for each class except the background; empty if not measured.
    distances : tuple of float
        95 % Hausdorff distance of each class except the background in px.
    instances : tuple of InstanceCounts
        Of the cells, one for each class except the background.
    probabilities : ProbabilityCounts or None
        Of the foreground if there is one class; of the predicted label if there are several. None
        for a map of labels, or one that holds no probabilities.
    seam_errors : SeamErrors or None
        Wrong px by their distance from tile borders; None if there are no borders.
    disagreement : float
        Mean absolute difference of neighbouring tiles where they overlap; nan if no tiles overlap.
    pixel_size : PixelSize or None
        Height and width of a px of the image in µm; None where they are not known.
    loss : float
        Loss of the map as one sample; nan if none was computed, or the map holds labels.
    """

    name: str
    shape: tuple[int, int]
    counts: tuple[Counts, ...]
    seam_ratio: float = math.nan
    tiles: int = 0
    seconds: float = math.nan
    boundary: tuple[BoundaryCounts, ...] = ()
    distances: tuple[float, ...] = ()
    instances: tuple[InstanceCounts, ...] = ()
    probabilities: ProbabilityCounts | None = field(default=None, compare=False)
    seam_errors: SeamErrors | None = None
    disagreement: float = math.nan
    pixel_size: PixelSize | None = None
    loss: float = math.nan

    def __repr__(self) -> str:
        height, width = self.shape
        scores = f"dice {self.dice:.3f}, iou {self.iou:.3f}"
        return f"ImageScores({shown(self.name)}, {height} x {width} px: {scores})"

    @property
    def dice(self) -> float:
        """Dice, in [0, 1]."""
        return pooled("dice", [self])

    @property
    def iou(self) -> float:
        """Intersection over union, in [0, 1]."""
        return pooled("iou", [self])

    @property
    def precision(self) -> float:
        """Share of the predicted px that is right; nan if none is predicted."""
        return pooled("precision", [self])

    @property
    def recall(self) -> float:
        """Share of the true px that is found; nan if there is none."""
        return pooled("recall", [self])

    @property
    def specificity(self) -> float:
        """Share of the background px that is predicted as background; nan if there is none."""
        return pooled("specificity", [self])

    @property
    def accuracy(self) -> float:
        """Share of all px that is right."""
        return pooled("accuracy", [self])

    @property
    def boundary_f1(self) -> float:
        """F1 of the outlines, in [0, 1]; nan if they were not measured."""
        return pooled("boundary_f1", [self])

    @property
    def hausdorff95(self) -> float:
        """95 % Hausdorff distance in px; inf if only one of the masks is empty."""
        return mean(self.distances)

    @property
    def average_precision(self) -> float:
        """Average precision of the cells at IoU 0.5 to 0.95, in [0, 1]."""
        return pooled("average_precision", [self])

    @property
    def panoptic_quality(self) -> float:
        """Panoptic quality of the cells, in [0, 1]."""
        return pooled("panoptic_quality", [self])

    @property
    def cells(self) -> InstanceCounts:
        """Cells of all classes together: ``found``, ``missed``, ``false``, ``mean_dice``."""
        return sum(self.instances, InstanceCounts())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error of the probabilities; nan if there are none."""
        return math.nan if self.probabilities is None else calibration_error(self.probabilities)

    @property
    def megapixels(self) -> float:
        """Size of the image in millions of px."""
        return self.shape[0] * self.shape[1] / 1e6


def check_images(images: object) -> None:
    """Check that scores of images are of the same classes."""
    known = all_of(ImageScores, images, "images", "Pass the images of results: result.images.")
    numbers = sorted({len(one.counts) for one in known})
    if len(numbers) > 1:
        must, fix = "have the same classes", "Put images of different classes into results of their own."
        got = f"scores of {' and '.join(map(str, numbers))} classes"
        raise invalid(SettingError, "images", must=must, got=got, fix=fix)


@dataclass(frozen=True, slots=True)
class FailedPair:
    """A pair that could not be scored."""

    name: str  # of the pair
    error: str  # the error message


@dataclass(frozen=True, slots=True)
class PrecisionCost:
    """What bf16 changes in the labels of an image.

    Attributes
    ----------
    name : str
        Name of the image.
    dice_f32 : float
        Dice with float32, in [0, 1].
    dice_bf16 : float
        Dice with bfloat16, in [0, 1].
    foreground_px : int
        Foreground px with float32.
    changed_px : int
        Px whose label differs between the two.
    """

    name: str
    dice_f32: float
    dice_bf16: float
    foreground_px: int
    changed_px: int


@dataclass(frozen=True, slots=True)
class ThresholdCurve:
    """Scores of one class at 255 thresholds.

    Attributes
    ----------
    thresholds : tuple of float
        1/256, 2/256, … 255/256.
    dice_mean : tuple of float
        Mean Dice of the images.
    dice, precision, recall : tuple of float
        Of the px of all images together.
    """

    thresholds: tuple[float, ...]
    dice_mean: tuple[float, ...]
    dice: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]

    def __repr__(self) -> str:
        best = f"best {self.best:.2f}, mean dice {max(self.dice_mean):.3f}"
        return f"ThresholdCurve({len(self.thresholds)} thresholds: {best})"

    @property
    def best(self) -> float:
        """The threshold of the highest mean Dice; of several, the one nearest to 0.5."""
        most = max(self.dice_mean) - _EQUAL_WITHIN
        equal = [cut for cut, score in zip(self.thresholds, self.dice_mean, strict=True) if score >= most]
        return min(equal, key=lambda cut: abs(cut - 0.5))


def mean(values: Iterable[float]) -> float:
    """Average the numbers that are not nan; nan if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def median(values: Iterable[float]) -> float:
    """Return the median of the numbers that are not nan; nan if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def medians(rows: _Numbers) -> _Numbers:
    """Return the median of each row."""
    return np.asarray(np.median(rows, axis=1), np.float64)


def added(images: Sequence[ImageScores], part: str) -> tuple[Any, ...]:
    """Add up the counts of images, class by class; images without them are left out."""
    known = [counted for one in images if (counted := getattr(one, part))]
    return tuple(functools.reduce(operator.add, of_class) for of_class in zip(*known, strict=True))


def cell_scores(images: Sequence[ImageScores]) -> dict[str, float]:
    """Score the cells of all images and classes together; nan where none were counted."""
    cells = sum((one.cells for one in images), InstanceCounts())
    counted = any(one.instances for one in images)
    at_50, at_75 = (average_precision(cells, iou) if counted else math.nan for iou in _CELL_IOUS)
    return {"cells_ap50": at_50, "cells_ap75": at_75, "cells_dice": cells.mean_dice}


def cell_intervals(images: Sequence[ImageScores], interval: Callable[..., Interval]) -> dict[str, Interval]:
    """Find the intervals of `cell_scores`: the cells of the images of a resample are scored together."""
    rows = np.array([_row_of(one) for one in images], np.float64).reshape(-1, 4)
    return {
        "cells_ap50": interval(rows[:, :2], lambda drawn: _ap(*_sums(drawn))),
        "cells_ap75": interval(rows[:, [0, 2]], lambda drawn: _ap(*_sums(drawn))),
        "cells_dice": interval(rows[:, [3, 1]], lambda drawn: _quotient(*_sums(drawn))),
    }


def _row_of(scores: ImageScores) -> tuple[float, ...]:
    """Return what scores of cells are computed from; nan where cells were not counted."""
    if not scores.instances:
        return (math.nan,) * 4
    cells = scores.cells
    at_50, at_75 = (cells.matches[IOU_THRESHOLDS.index(iou)] for iou in _CELL_IOUS)
    return cells.true + cells.predicted, at_50, at_75, cells.dice_sum


def _sums(drawn: _Numbers) -> _Numbers:
    """Add up the rows of each resample; one column for each number."""
    return np.asarray(drawn.sum(axis=1).T, np.float64)


def _ap(either: _Numbers, matched: _Numbers) -> _Numbers:
    return np.asarray(np.where(either > 0, _quotient(matched, either - matched), 1.0))


def _quotient(sums: _Numbers, numbers: _Numbers) -> _Numbers:
    """Divide; nan where nothing was counted."""
    return np.divide(sums, numbers, out=np.full_like(sums, math.nan), where=numbers > 0)


def of_classes(name: str, images: Sequence[ImageScores]) -> list[float]:
    """Score each class except the background over images together."""
    part, score = SCORES[name]
    counts = added(images, part)
    return [score(one) for one in (counts[1:] if part == "counts" and len(counts) > 1 else counts)]


def pooled(name: str, images: Sequence[ImageScores]) -> float:
    """Score images together: the mean over the classes except the background."""
    return mean(of_classes(name, images))
