"""The scores of one image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tiledseg._checks import broken
from tiledseg.errors import ArrayError
from tiledseg.metrics import Counts, count_classes, dice, iou, precision, recall, seam_ratio
from tiledseg.stitcher import labels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tiledseg._types import AnyArray

__all__ = ["SCORES", "ImageScores", "foreground", "mean", "mean_score", "score_map"]

_Item = TypeVar("_Item")

SCORES: dict[str, Callable[[Counts], float]] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
}
"""What is scored, by name."""


def mean(values: Iterable[float]) -> float:
    """Average numbers, those that are nan left out; nan where none is left."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def foreground(of_classes: tuple[_Item, ...]) -> tuple[_Item, ...]:
    """Leave out the background, which is the first of several classes."""
    return of_classes[1:] if len(of_classes) > 1 else of_classes


def mean_score(name: str, counts: tuple[Counts, ...]) -> float:
    """Score each class but the background, and average."""
    return mean(SCORES[name](one) for one in foreground(counts))


@dataclass(frozen=True, slots=True)
class ImageScores:
    """How well one image's map agrees with its mask.

    Attributes
    ----------
    name : str
        Name of the image.
    shape : tuple of int
        Height and width in px.
    counts : tuple of Counts
        With one output channel those of the foreground alone; with several one for each class,
        the background first.
    seam_ratio : float
        Mean step of the map across tile borders over that beside them; 1 where the borders cannot
        be seen, nan where there are none.
    tiles : int
        Tiles that were computed; 0 where not known.
    seconds : float
        Time of the prediction, reading and scoring left out; nan where not known.
    """

    name: str
    shape: tuple[int, int]
    counts: tuple[Counts, ...]
    seam_ratio: float = math.nan
    tiles: int = 0
    seconds: float = math.nan

    @property
    def dice(self) -> float:
        """Dice, in [0, 1]; the mean over the classes but the background."""
        return mean_score("dice", self.counts)

    @property
    def iou(self) -> float:
        """Intersection over union, in [0, 1]; the mean over the classes but the background."""
        return mean_score("iou", self.counts)

    @property
    def precision(self) -> float:
        """Share of the predicted px that is right; nan where none is predicted."""
        return mean_score("precision", self.counts)

    @property
    def recall(self) -> float:
        """Share of the true px that is found; nan where there is none."""
        return mean_score("recall", self.counts)

    @property
    def megapixels(self) -> float:
        """Size of the image in millions of px."""
        return self.shape[0] * self.shape[1] / 1e6


def score_map(  # noqa: PLR0913  two arrays and what is known of them
    prediction: AnyArray,
    truth: AnyArray,
    *,
    name: str = "map",
    classes: int = 1,
    threshold: float = 0.5,
    borders: tuple[Sequence[int], Sequence[int]] = ((), ()),
    tiles: int = 0,
    seconds: float = math.nan,
) -> ImageScores:
    """Score a finished map, whoever made it.

    Parameters
    ----------
    prediction : ndarray
        Probabilities: real, (H, W) or (H, W, 1) for one class, (H, W, K) for several, of which
        the largest is taken. Or labels: boolean or integer, (H, W).
    truth : ndarray, shape (H, W)
        Labels: boolean or integer. 0 and 1 for one class, else in [0, K) with 0 the background.
    name : str
        Name of the image.
    classes : int
        Of a `prediction` that holds labels: 1 for labels 0 and 1, else the number of labels, the
        background counted in. Probabilities say it by their channels.
    threshold : float
        For probabilities of one class: a px with at least this is foreground.
    borders : tuple of sequence of int
        Tile borders along y and along x, in px of the map; see `tiledseg.metrics.seam_ratio`.
    tiles : int
        Tiles that were computed.
    seconds : float
        Time of the prediction.

    Returns
    -------
    ImageScores
        The scores.

    Raises
    ------
    ArrayError
        If `prediction` is neither probabilities nor labels, its size is not that of `truth`, or a
        label is out of range.
    SettingError
        If a border does not lie inside the map.

    Examples
    --------
    >>> truth = np.array([[1, 1, 0, 0]])
    >>> scores = score_map(np.array([[0.9, 0.2, 0.6, 0.1]]), truth)
    >>> scores.dice, scores.iou
    (0.5, 0.3333333333333333)
    """
    labels, classes = _labels(prediction, classes, threshold)
    counts = count_classes(truth, labels, max(classes, 2))
    seams = seam_ratio(prediction, *borders).both if any(borders) else math.nan
    height, width = labels.shape
    return ImageScores(name, (height, width), counts if classes > 1 else counts[1:], seams, tiles, seconds)


def _labels(prediction: AnyArray, classes: int, threshold: float) -> tuple[AnyArray, int]:
    """Decide the label of each px, and say how many classes there are."""
    if prediction.dtype.kind in "biu" and prediction.ndim == 2:
        return prediction, classes
    if prediction.dtype.kind != "f" or prediction.ndim not in {2, 3}:
        raise broken(
            ArrayError,
            "prediction",
            must="be probabilities, real (H, W) or (H, W, K), or labels, integer (H, W)",
            got=f"{prediction.dtype} of shape {prediction.shape}",
            fix="Convert it, for example with astype(numpy.float32) / 255.",
        )
    if not np.isfinite(prediction).all():
        raise broken(
            ArrayError,
            "prediction",
            must="be finite",
            got="NaN or infinite values",
            fix="Replace them, for example with numpy.nan_to_num.",
        )
    probs = prediction if prediction.ndim == 3 else prediction[..., np.newaxis]
    return labels_of(probs, threshold), probs.shape[2]
