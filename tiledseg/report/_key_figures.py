"""The few numbers and the one sentence that a reader takes away."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tiledseg.evaluate import Comparison, EvaluationResult
    from tiledseg.metrics import Interval

__all__ = ["SCORE_NAMES", "UNKNOWN", "key_figures", "lead", "signed", "verdict"]

UNKNOWN = "\N{EN DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"

SCORE_NAMES: dict[str, str] = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "boundary_f1": "Outline F1",
    "average_precision": "Average precision of cells",
    "panoptic_quality": "Panoptic quality of cells",
}
"""What a reader calls the scores."""


def key_figures(
    result: EvaluationResult, sums: Mapping[str, float], bounds: Mapping[str, Interval]
) -> list[tuple[str, str, str]]:
    """Choose the key figures: name, value, explanation."""
    seconds = [one.seconds for one in result.images if not math.isnan(one.seconds)]
    tiles = _same(f"{one.tiles} tiles" for one in result.images if one.tiles)
    speed = f"{_number(sums['megapixels_per_second'], 2)} Mpx/s"
    figures = [
        (
            "Mean Dice",
            _number(sums["dice_mean"]),
            _range(bounds["dice_mean"]) or f"IoU {_number(sums['iou_mean'])}",
        ),
        *_cells(result, sums),
        (
            "Outline F1",
            _number(sums["boundary_f1_mean"]),
            f"95 % Hausdorff {_px(sums['hausdorff95_median'])}",
        ),
        ("Calibration error", _number(sums["calibration_error"]), "0 where probabilities are what they say"),
        ("Seam ratio", _number(sums["seam_ratio"], 2), "1 where tile borders cannot be seen"),
        (
            "Seconds per image",
            _number(statistics.median(seconds) if seconds else math.nan, 1),
            f"{tiles}, {speed}" if tiles else speed,
        ),
    ]
    return [figure for figure in figures if figure[1] != UNKNOWN]


def lead(result: EvaluationResult) -> str:
    """Say in a sentence what was scored."""
    size = _same(f" of {one.shape[0]} {_TIMES} {one.shape[1]} px" for one in result.images)
    threshold = f"threshold {result.threshold:.4g}, {result.threshold_from}"
    return f"{_how_many(result, size)}, scored at full resolution; {threshold}."


def signed(value: float) -> str:
    """Write a difference with its sign."""
    if math.isnan(value):
        return UNKNOWN
    text = f"{value:+.3f}"
    return "0.000" if text[1:] == "0.000" else text.replace("-", "\N{MINUS SIGN}")


def verdict(comparison: Comparison) -> str:
    """Say in a sentence which of two is better, and how sure that is."""
    one, (first, second) = comparison.differences["dice"], comparison.names
    low, high = one.difference.low, one.difference.high
    images = f"{one.better} of {len(comparison.pairs)} images"
    if math.isnan(low):
        return "One image cannot tell which of the two is better."
    if low <= 0 <= high:
        return (
            "Which of the two has the higher mean Dice remains open: the difference, "
            f"{signed(one.difference.value)} here, could be anything from {signed(low)} to {signed(high)}. "
            f"{second} is better on {images}."
        )
    better, than = (second, first) if low > 0 else (first, second)
    least, most = sorted((abs(low), abs(high)))
    return (
        f"{better} has a higher mean Dice than {than}, by {abs(one.difference.value):.3f} "
        f"(95 %: {least:.3f} to {most:.3f}). {second} is better on {images}."
    )


def _cells(result: EvaluationResult, sums: Mapping[str, float]) -> list[tuple[str, str, str]]:
    if not any(one.instances for one in result.images):
        return []
    counts = f"{sums['cells_missed']} missed, {sums['cells_false']} false"
    return [("Cells found", f"{sums['cells_found']} of {sums['cells']}", counts)]


def _number(value: float, digits: int = 3) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.{digits}f}"


def _px(value: float) -> str:
    return UNKNOWN if math.isnan(value) else "\N{INFINITY}" if math.isinf(value) else f"{value:.1f} px"


def _range(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f"95 %: {interval.low:.3f} to {interval.high:.3f}"


def _same(texts: Iterable[str]) -> str:
    """Say what all say alike; nothing where they differ."""
    different = set(texts)
    return different.pop() if len(different) == 1 else ""


def _how_many(result: EvaluationResult, size: str) -> str:
    n_images, n_failed = len(result.images), len(result.failed)
    text = f"{n_images} image{'' if n_images == 1 else 's'}{size}"
    return f"{text}, {n_failed} failed" if n_failed else text
