"""Scores of a finished map: whole px counted once, never averaged over batches.

A score is a pure function of four whole numbers, so it does not depend on how an image was cut,
and the scores of many images together come from the sum of their `Counts`.
"""

from __future__ import annotations

from tiledseg.metrics._counts import Counts, count, count_classes
from tiledseg.metrics._scores import accuracy, dice, iou, precision, recall, specificity
from tiledseg.metrics._seams import SeamRatio, seam_ratio

__all__ = [
    "Counts",
    "SeamRatio",
    "accuracy",
    "count",
    "count_classes",
    "dice",
    "iou",
    "precision",
    "recall",
    "seam_ratio",
    "specificity",
]
