"""Distances between two outlines, and their scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._lazy import cv2
from tiledseg._validate import instance_of, invalid, real_number, whole_pair
from tiledseg.errors import SettingError
from tiledseg.metrics.counts import Summable, label_pair

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiledseg._types import AnyArray

_OF_DIAGONAL = 0.0075  # Csurka et al. (2013)
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True, slots=True)
class BoundaryCounts(Summable):
    """Px of two outlines, and how many of them are near the other."""

    true: int  # px of the true outline
    true_near: int  # those within the tolerance of the predicted one
    found: int  # px of the predicted outline
    found_near: int  # those within the tolerance of the true one


@dataclass(frozen=True, slots=True, eq=False)
class OutlineDistances:
    """Distances between two outlines, in px between centres; inf if the other outline is empty."""

    true: npt.NDArray[np.float32]  # from each px of the true outline to the nearest of the predicted one
    found: npt.NDArray[np.float32]  # from each px of the predicted outline to the nearest of the true one

    def within(self, tolerance: float) -> BoundaryCounts:
        """Count the px whose distance is at most a tolerance."""
        most = real_number("tolerance", tolerance, "Use 2, for example.")
        if most < 0:
            raise invalid(
                SettingError, "tolerance", must="be at least 0 px", got=most, fix="Use 2, for example."
            )
        near = [int(np.count_nonzero(distances <= most)) for distances in (self.true, self.found)]
        return BoundaryCounts(self.true.size, near[0], self.found.size, near[1])


def outline_distances(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> OutlineDistances:
    """Measure the distances between the outlines of two masks: px that touch the background or the edge."""
    true, found = (_outline(mask) for mask in label_pair(truth, prediction, 2))
    return OutlineDistances(_distances(true, found), _distances(found, true))


def boundary_f1(counts: BoundaryCounts) -> float:
    """Compute F1 of the shares of both outlines that lie near the other (Csurka et al., BMVC 2013).

    Parameters
    ----------
    counts : BoundaryCounts
        Of one image, or of several together.

    Returns
    -------
    float
        In [0, 1]; 1.0 if both masks are empty, because they agree, 0.0 if only one is.

    Examples
    --------
    >>> distances = outline_distances([[1, 0, 0, 0]], [[0, 0, 1, 0]])
    >>> boundary_f1(distances.within(1)), boundary_f1(distances.within(2))
    (0.0, 1.0)
    """
    instance_of(BoundaryCounts, counts, "counts", "Make them with outline_distances(...).within(px).")
    if not counts.true or not counts.found:
        return 0.0 if counts.true or counts.found else 1.0
    precision, recall = counts.found_near / counts.found, counts.true_near / counts.true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def hausdorff95(distances: OutlineDistances) -> float:
    """Compute the 95th percentile of the distances in each direction, and return the larger one.

    Parameters
    ----------
    distances : OutlineDistances
        Of one image.

    Returns
    -------
    float
        In px; 0.0 if both masks are empty, inf if only one is.

    Examples
    --------
    >>> hausdorff95(outline_distances([[1, 0, 0, 0]], [[0, 0, 1, 0]]))
    2.0
    """
    instance_of(OutlineDistances, distances, "distances", "Make them with outline_distances.")
    if not distances.true.size or not distances.found.size:
        return math.inf if distances.true.size or distances.found.size else 0.0
    return max(float(np.percentile(one, 95)) for one in (distances.true, distances.found))


def default_tolerance(shape: tuple[int, int]) -> float:
    """Return 0.75 % of the image's diagonal, as in Csurka et al. (2013)."""
    return _OF_DIAGONAL * math.hypot(*whole_pair("shape", shape, least=0))


def _outline(labels: AnyArray) -> npt.NDArray[np.uint8]:
    mask = np.ascontiguousarray(labels, np.uint8)
    if not mask.size:
        return mask
    inner = cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(cv2.subtract(mask, inner), np.uint8)


def _distances(outline: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Measure at each px of one outline the distance to the other."""
    places = outline.astype(bool)
    if not other.any():
        return np.full(int(np.count_nonzero(places)), np.inf, np.float32)
    if not places.any():
        return np.empty(0, np.float32)
    far = cv2.distanceTransform(1 - other, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(far[places], np.float32)
