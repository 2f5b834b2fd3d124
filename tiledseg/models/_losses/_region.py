"""Losses that compare regions as a whole, by soft sums over the px of a sample and class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tiledseg._backend import keras

__all__ = ["SoftCounts", "dice_of", "iou_of", "soft_counts", "tversky_of"]

_SMOOTHING = 1.0


@dataclass(frozen=True, slots=True)
class SoftCounts:
    """Soft counts of the px of each sample and class, (N, K)."""

    both: Any  # sum of y p
    invented: Any  # sum of (1 - y) p
    missed: Any  # sum of y (1 - p)


def soft_counts(y: Any, p: Any, weights: Any = None) -> SoftCounts:  # noqa: ANN401
    """Sum over px, each by its weight where `weights` (N, h, w, 1) are given."""

    def total(values: Any) -> Any:  # noqa: ANN401
        return keras.ops.sum(values if weights is None else weights * values, axis=(1, 2))

    return SoftCounts(total(y * p), total((1 - y) * p), total(y * (1 - p)))


def dice_of(counts: SoftCounts) -> Any:  # noqa: ANN401
    """Give (2 Σ y p + 1) / (Σ y + Σ p + 1), (N, K)."""
    twice = 2 * counts.both
    return (twice + _SMOOTHING) / (twice + counts.invented + counts.missed + _SMOOTHING)


def iou_of(counts: SoftCounts) -> Any:  # noqa: ANN401
    """Give (Σ y p + 1) / (Σ (y + p - y p) + 1), (N, K)."""
    either = counts.both + counts.invented + counts.missed
    return (counts.both + _SMOOTHING) / (either + _SMOOTHING)


def tversky_of(counts: SoftCounts, alpha: float, beta: float) -> Any:  # noqa: ANN401
    """Give the Tversky index, (N, K), smoothed so that it is Dice where alpha and beta are 0.5."""
    half = _SMOOTHING / 2
    wrong = alpha * counts.invented + beta * counts.missed
    return (counts.both + half) / (counts.both + wrong + half)
