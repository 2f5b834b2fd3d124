"""Losses: one value per sample, then their mean, so that the number does not depend on the batch.

One module per kind: px by px, regions as a whole, outlines and structure, labels that are missing.
"""

from tiledseg.models._losses._loss import SegmentationLoss, build_loss

__all__ = ["SegmentationLoss", "build_loss"]
