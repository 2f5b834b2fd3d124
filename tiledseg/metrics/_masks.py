"""Take masks for what they are, or say what they seem to be instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import array_of, invalid
from tiledseg.errors import ArrayError

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiledseg._types import AnyArray

__all__ = ["binary_mask", "label_pair"]


def label_pair(
    truth: npt.ArrayLike, prediction: npt.ArrayLike, classes: int | None
) -> tuple[AnyArray, AnyArray]:
    """Check two masks of labels."""
    true, found = _labels("truth", truth, classes), _labels("prediction", prediction, classes)
    if true.shape != found.shape:
        raise invalid(
            ArrayError,
            "prediction",
            must=f"have the size of `truth`, {true.shape}",
            got=found.shape,
            fix="Compare a map at its image's own size, without resizing either.",
        )
    return true, found


def binary_mask(name: str, mask: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Check a mask of the labels 0 and 1, and lay it out for OpenCV."""
    return np.ascontiguousarray(_labels(name, mask, 2), np.uint8)


def _labels(name: str, mask: npt.ArrayLike, classes: int | None) -> AnyArray:
    array = array_of(mask, name)
    if array.ndim != 2:
        raise invalid(
            ArrayError,
            name,
            must="have shape (H, W)",
            got=array.shape,
            fix="Drop an axis of one channel with mask[..., 0]; reduce probabilities first.",
        )
    if array.dtype.kind not in "bui":
        raise invalid(
            ArrayError,
            name,
            must="hold labels, bool or int",
            got=str(array.dtype),
            fix="Cut probabilities at a threshold first: probs >= 0.5.",
        )
    if array.size and array.dtype.kind != "b":
        low, high = int(array.min()), int(array.max())
        if low < 0 or (classes is not None and high >= classes):
            raise _foreign(name, low, high, classes)
    return array


def _foreign(name: str, low: int, high: int, classes: int | None) -> ArrayError:
    """Say that labels are out of range, and of a picture of a mask that it is one."""
    fix = "Map other labels to these classes first, or count more classes with count_classes."
    if (high, classes) == (255, 2):
        fix = "It looks like a picture of a mask: cut it with mask >= 128."
    must = "hold labels from 0 up" if classes is None else f"hold labels in [0, {classes})"
    return invalid(ArrayError, name, must=must, got=f"labels from {low} to {high}", fix=fix)
