"""Scores of single cells: which are found, false or missed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._arrays import check_labels
from tiledseg._lazy import cv2
from tiledseg._validate import instance_of, invalid, real_number, whole_number
from tiledseg.errors import ArrayError, SettingError
from tiledseg.metrics.counts import Summable, binary_mask, label_pair

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiledseg._types import AnyArray

IOU_THRESHOLDS: tuple[float, ...] = tuple(percent / 100 for percent in range(50, 100, 5))
"""Intersections over union from which two instances match: 0.5, 0.55, … 0.95."""


_MAKE = "Make them with match_instances."


@dataclass(frozen=True, slots=True)
class InstanceCounts(Summable):
    """How many instances were found."""

    true: int = 0  # instances of the truth
    predicted: int = 0  # instances of the prediction
    matches: tuple[int, ...] = (0,) * len(IOU_THRESHOLDS)  # pairs whose IoU reaches each threshold
    iou_sum: float = 0.0  # sum of the IoU of the pairs that match at 0.5
    dice_sum: float = 0.0  # sum of their Dice
    merged: int = 0  # predicted instances that hold most of two or more true ones
    split: int = 0  # true instances that hold most of two or more predicted ones
    small_true: int = 0  # instances that were left out because of their size
    small_predicted: int = 0

    @property
    def found(self) -> int:
        """True instances that a predicted one covers, their intersection over union at least 0.5."""
        return self.matches[0]

    @property
    def missed(self) -> int:
        """True instances that no predicted one covers."""
        return self.true - self.found

    @property
    def false(self) -> int:
        """Predicted instances that cover no true one."""
        return self.predicted - self.found

    @property
    def mean_dice(self) -> float:
        """Mean Dice of the instances that were found; nan if none was."""
        return self.dice_sum / self.found if self.found else math.nan


def components(mask: npt.ArrayLike, least_px: int = 1) -> npt.NDArray[np.int32]:
    """Label the connected areas of a mask; px that touch only at a corner are separate.

    Parameters
    ----------
    mask : ndarray of bool or int, shape (H, W)
        Labels 0 and 1.
    least_px : int
        Smaller areas are left out.

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 for the background, 1 to N for the areas.

    Raises
    ------
    ArrayError
        If `mask` is not of shape (H, W), not bool or int, or holds other labels than 0 and 1.
    SettingError
        If `least_px` is not a whole number of at least 1.

    Examples
    --------
    >>> components([[1, 0, 1], [0, 1, 1]]).tolist()
    [[1, 0, 2], [0, 2, 2]]
    >>> components([[1, 0, 1], [0, 1, 1]], least_px=2).tolist()
    [[0, 0, 1], [0, 1, 1]]
    """
    least = whole_number("least_px", least_px)
    binary = binary_mask("mask", mask)
    if not binary.size:
        return binary.astype(np.int32)
    _, ids, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=4, ltype=cv2.CV_32S)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    numbers = np.where(large, np.cumsum(large), 0).astype(np.int32)
    return np.asarray(ids if large[1:].all() else numbers[ids], np.int32)


def match_instances(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> InstanceCounts:
    """Pair true and predicted instances by intersection over union.

    Parameters
    ----------
    truth, prediction : ndarray of int, shape (H, W)
        0 for the background, and a number for each instance.

    Returns
    -------
    InstanceCounts
        How many instances match at each threshold, and how many were merged or split.

    Raises
    ------
    ArrayError
        If the two are no numbers of instances, or of different sizes.

    Examples
    --------
    >>> counts = match_instances([[1, 1, 0, 2, 2]], [[1, 1, 1, 1, 1]])
    >>> counts.found, counts.missed, counts.false, counts.merged
    (0, 2, 1, 1)
    """
    true, found = label_pair(_numbers("truth", truth), _numbers("prediction", prediction), None)
    (true_ids, true_px), (found_ids, found_px) = _sizes(true), _sizes(found)
    both = (true > 0) & (found > 0)
    a, b = np.searchsorted(true_ids, true[both]), np.searchsorted(found_ids, found[both])
    pairs, shared = np.unique(a * max(found_ids.size, 1) + b, return_counts=True)
    a, b = np.divmod(pairs, max(found_ids.size, 1))
    sums = true_px[a] + found_px[b]
    iou, dice = shared / (sums - shared), 2 * shared / sums
    iou = np.where(_without_ties(a, b, iou), iou, 0)
    matched = iou >= IOU_THRESHOLDS[0]
    return InstanceCounts(
        int(true_ids.size),
        int(found_ids.size),
        tuple(int(np.count_nonzero(iou >= threshold)) for threshold in IOU_THRESHOLDS),
        float(iou[matched].sum()),
        float(dice[matched].sum()),
        merged=_with_several(b[2 * shared > true_px[a]]),
        split=_with_several(a[2 * shared > found_px[b]]),
    )


def _numbers(name: str, ids: npt.ArrayLike) -> AnyArray:
    """Check that an array can hold a number for each instance."""
    found = check_labels(ids, name)
    picture = found.dtype == np.uint8 and found.size and int(found.max()) == 255 and _is_picture(found)
    if found.dtype.kind == "b" or picture:
        must, got = "hold a number for each instance", "the values 0 and 255" if picture else "bool"
        fix = f"Number the connected areas of a mask, for example with metrics.components({name} > 0)."
        raise invalid(ArrayError, name, must=must, got=got, fix=fix)
    return found


def _is_picture(ids: AnyArray) -> bool:
    """Say whether there are several areas, all of the value 255."""
    return not np.any((ids > 0) & (ids < 255)) and int(components(ids > 0).max()) > 1


def _without_ties(a: AnyArray, b: AnyArray, iou: AnyArray) -> npt.NDArray[np.bool_]:
    """Mark pairs such that each instance has one partner at most."""
    # above 0.5 it has one anyway; at exactly 0.5 two halves may share one partner, and one of them counts
    first = np.ones(len(iou), bool)
    half = np.flatnonzero(iou == IOU_THRESHOLDS[0])
    for side in (a, b):
        _, kept = np.unique(side[half], return_index=True)
        first[half] = False
        half = half[kept]
        first[half] = True
    return first


def _with_several(ids: AnyArray) -> int:
    """Count the ids that occur more than once."""
    return int(np.count_nonzero(np.bincount(ids) > 1)) if ids.size else 0


def typical_px(ids: npt.ArrayLike) -> float:
    """Return a size such that half of the px of instances lie in instances of at least this size.

    Parameters
    ----------
    ids : ndarray of int, shape (H, W)
        0 for the background, and a number for each instance.

    Returns
    -------
    float
        Area in px, which specks hardly change; 0 without instances.

    Examples
    --------
    >>> typical_px([[1, 0, 2, 0, 3, 3, 3, 3]])
    4.0
    """
    _, px = _sizes(_numbers("ids", ids))
    px = np.sort(px)
    return float(px[np.searchsorted(np.cumsum(px), px.sum() / 2)]) if px.size else 0.0


def without_small(ids: npt.NDArray[np.integer[Any]], least_px: int) -> tuple[AnyArray, int]:
    """Leave out the instances with fewer px; also return how many these are.

    Parameters
    ----------
    ids : ndarray of int, shape (H, W)
        0 for the background, and a number for each instance.
    least_px : int
        Smaller instances are left out.

    Returns
    -------
    ids : ndarray of int, shape (H, W)
        The others, with their numbers.
    n_left_out : int
        The number of those left out.

    Raises
    ------
    ArrayError
        If `ids` hold no numbers of instances.
    SettingError
        If `least_px` is not a whole number of at least 0.
    """
    ids, least = _numbers("ids", ids), whole_number("least_px", least_px, 0)
    numbers, px = _sizes(ids)
    small = numbers[px < least]
    return (np.where(np.isin(ids, small), 0, ids) if small.size else ids), int(small.size)


def average_precision(counts: InstanceCounts, iou: float | None = None) -> float:
    """Compute tp / (tp + fp + fn) of instances, as for the Data Science Bowl of 2018.

    Parameters
    ----------
    counts : InstanceCounts
        Of one image, or of several together.
    iou : float, optional
        From which intersection over union two instances match, one of `IOU_THRESHOLDS`: 0.75 for
        AP75. By default the mean over all of them.

    Returns
    -------
    float
        In [0, 1]; 1.0 if there is no instance and none is predicted, because they agree.

    Raises
    ------
    SettingError
        If `iou` is not one of `IOU_THRESHOLDS`.

    Examples
    --------
    >>> counts = match_instances([[1, 1, 1, 1, 0, 2, 2]], [[1, 1, 1, 0, 0, 0, 2]])
    >>> average_precision(counts, 0.5), average_precision(counts, 0.75)
    (1.0, 0.3333333333333333)
    """
    either = instance_of(InstanceCounts, counts, "counts", _MAKE).true + counts.predicted
    if iou is not None and real_number("iou", iou) not in IOU_THRESHOLDS:
        must, fix = f"be one of {', '.join(map(str, IOU_THRESHOLDS))}", "Use 0.5 or 0.75, for example."
        raise invalid(SettingError, "iou", must=must, got=iou, fix=fix)
    matches = counts.matches if iou is None else (counts.matches[IOU_THRESHOLDS.index(iou)],)
    return sum(tp / (either - tp) for tp in matches) / len(matches) if either else 1.0


def panoptic_quality(counts: InstanceCounts) -> float:
    """Divide the sum of the matches' IoU by tp + fp / 2 + fn / 2 (Kirillov et al., CVPR 2019).

    Parameters
    ----------
    counts : InstanceCounts
        Of one image, or of several together.

    Returns
    -------
    float
        In [0, 1]; 1.0 if there is no instance and none is predicted, because they agree.
    """
    either = instance_of(InstanceCounts, counts, "counts", _MAKE).true + counts.predicted
    return counts.iou_sum / (either / 2) if either else 1.0


def _sizes(ids: AnyArray) -> tuple[AnyArray, AnyArray]:
    """List the instances and how many px each has, the background left out."""
    if ids.size and int(ids.max()) <= ids.size:  # counting is faster than sorting
        px = np.bincount(ids.ravel())
        numbers = np.flatnonzero(px)
        px = px[numbers]
    else:
        numbers, px = np.unique(ids, return_counts=True)
    return numbers[numbers > 0], px[numbers > 0]
