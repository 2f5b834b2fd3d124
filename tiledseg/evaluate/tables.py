"""A result as text: table for the terminal, CSV, JSON, Markdown."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from typing import TYPE_CHECKING

from tiledseg._notebook import aligned
from tiledseg._storage import csv_text
from tiledseg._validate import as_utf8, shown
from tiledseg.evaluate.scores import SCORES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tiledseg.config import LossConfig
    from tiledseg.evaluate.scores import FailedPair, ImageScores, PrecisionCost
    from tiledseg.metrics import InstanceCounts, Interval

_LONGEST_NAME = 32
SHOWN = ("dice", "iou", "precision", "recall", "boundary_f1", "panoptic_quality")
_HEADING = (
    "image",
    "dice",
    "iou",
    "precision",
    "recall",
    "outline",
    "pq",
    "hd95",
    "found",
    "missed",
    "false",
    "seams",
    "seconds",
)
Rows = list[tuple[str, ...]]


def as_csv(images: Iterable[ImageScores], failed: Iterable[FailedPair]) -> str:
    """Write one line per image, every number in full."""
    rows = [row_of(one) for one in images]
    rows += [{"name": as_utf8(one.name), "error": as_utf8(one.error)} for one in failed]
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "error"))
    return csv_text([*columns, "error"], rows)


def as_json(content: Mapping[str, object]) -> str:
    """Write content as JSON, with null for nan and infinite numbers."""
    return json.dumps(_jsonable(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def foot_of(sums: Mapping[str, float], bounds: Mapping[str, Interval], *, cells: bool) -> Rows:
    """Return the rows below the images: means, intervals, medians, scores of all together."""
    ends = [
        (f"  95 % {side}", *(number(getattr(bounds[f"{name}_mean"], end)) for name in SHOWN), *[""] * 6)
        for side, end in (("from", "low"), ("to", "high"))
    ]
    distance = number(sums["hausdorff95_median"], 1)
    found = (str(int(sums[f"cells_{how}"])) if cells else "-" for how in ("found", "missed", "false"))
    return [
        ("mean", *(number(sums[f"{name}_mean"]) for name in SHOWN), *[""] * 6),
        *ends,
        ("median", *(number(sums[f"{name}_median"]) for name in SHOWN), distance, *[""] * 5),
        ("all together", *(number(sums[name]) for name in SHOWN), "", *found, "", ""),
    ]


def decision_of(n_classes: int, threshold: float, threshold_from: str) -> str:
    """Say what makes a px foreground: the threshold and its origin; of several classes the largest output."""
    if n_classes > 2 or (n_classes == 2 and threshold == 0.5):
        return "each px has the class of its largest output"
    return f"threshold {threshold:.4g}, {threshold_from}"


def table_of(images: Sequence[ImageScores], foot: Rows, escape: str = "") -> Rows:
    """Return the heading, one row per image, and the rows below them; a column of losses where known."""
    rows = [_HEADING, *(_cells(one, escape) for one in images), *foot]
    losses = [one.loss for one in images if not math.isnan(one.loss)]
    if not losses:
        return rows
    ends = {"mean": math.fsum(losses) / len(losses), "median": statistics.median(losses)}
    below = (number(ends[row[0]], 4) if row[0] in ends else "" for row in foot)
    column = ["loss", *(number(one.loss, 4) for one in images), *below]
    return [(row[0], cell, *row[1:]) for row, cell in zip(rows, column, strict=True)]


def as_text(images: Sequence[ImageScores], foot: Rows, notes: Sequence[str]) -> str:
    """Write the table for the terminal: one line per image, a summary and notes; notes alone of no image."""
    if not images:
        return "\n".join(notes)
    heading, *lines = aligned(table_of(images, foot))
    rule = "-" * len(heading)
    return "\n".join([heading, rule, *lines[: len(images)], rule, *lines[len(images) :], "", *notes])


def as_markdown(images: Sequence[ImageScores], foot: Rows, notes: Sequence[str]) -> str:
    """Write the same table as Markdown."""
    heading, *rows = table_of(images, foot, "|*_`<>[]\\")
    rows = [heading, ("---", *["---:"] * (len(heading) - 1)), *rows]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {_escaped(note, '*_`<>[]')}" for note in notes), ""])


def row_of(scores: ImageScores) -> dict[str, object]:
    """Return the scores of an image by column."""
    height, width = scores.shape
    row: dict[str, object] = {"name": as_utf8(scores.name), "height": height, "width": width}
    row |= {} if math.isnan(scores.loss) else {"loss": scores.loss}
    row |= {name: _cell(getattr(scores, name)) for name in (*SCORES, "hausdorff95")}
    for label, counts in enumerate(scores.counts):
        suffix = f"_{label}" if len(scores.counts) > 1 else ""
        row |= {f"{part}{suffix}": getattr(counts, part) for part in ("tp", "fp", "fn", "tn")}
    if scores.instances:
        cells = scores.cells
        row |= {"cells": cells.true, "cells_found": cells.found, "cells_missed": cells.missed}
        row |= {"cells_false": cells.false, "cells_dice": _cell(cells.mean_dice)}
        row |= {"cells_merged": cells.merged, "cells_split": cells.split}
        row |= {"cells_left_out": cells.small_predicted, "true_cells_left_out": cells.small_true}
    return row | {
        "calibration_error": _cell(scores.calibration_error),
        "seam_ratio": _cell(scores.seam_ratio),
        "disagreement": _cell(scores.disagreement),
        "tiles": scores.tiles,
        "seconds": _cell(scores.seconds),
    }


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else value


def listed(table: object) -> dict[str, object]:
    """Turn a dataclass of arrays into lists."""
    return {field.name: getattr(table, field.name).tolist() for field in dataclasses.fields(table)}  # type: ignore[arg-type]


def _jsonable(value: object) -> object:
    """Replace nan and infinite numbers by None."""
    if isinstance(value, dict):
        return {key: _jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(scores: ImageScores, escape: str) -> tuple[str, ...]:
    name, cells = shown(scores.name), scores.cells
    short = name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
    counted = [str(cells.found), str(cells.missed), str(cells.false)] if scores.instances else ["-"] * 3
    return (
        _escaped(short, escape),
        *(number(getattr(scores, score)) for score in SHOWN),
        number(scores.hausdorff95, 1),
        *counted,
        number(scores.seam_ratio, 2),
        number(scores.seconds, 2),
    )


def _escaped(text: str, marks: str) -> str:
    return "".join(f"\\{mark}" if mark in marks else mark for mark in text)


def number(value: float, digits: int = 3) -> str:
    """Write a number for a table; a hyphen stands for nan."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def loss_notes(loss: LossConfig | None, value: float) -> list[str]:
    """Say which loss was computed."""
    return [] if loss is None else [f"loss ({loss.name}) {number(value, 4)}, the mean over the images"]


def cost_notes(costs: Sequence[PrecisionCost]) -> list[str]:
    """Say what bf16 changes."""
    costs = [one for one in costs if not math.isnan(one.dice_f32)]
    if not costs:
        return []
    f32 = math.fsum(one.dice_f32 for one in costs) / len(costs)
    bf16 = math.fsum(one.dice_bf16 for one in costs) / len(costs)
    worst = max(costs, key=lambda one: abs(one.dice_bf16 - one.dice_f32))
    foreground = sum(one.foreground_px for one in costs)
    changed = sum(one.changed_px for one in costs)
    share = f"{changed / foreground:.2%} of the foreground" if foreground else f"{changed}; f32 finds nothing"
    text = f"bf16 in place of f32: mean dice {f32:.4f} -> {bf16:.4f}; most in one image: "
    text += f"{worst.dice_f32:.4f} -> {worst.dice_bf16:.4f} ({shown(worst.name)}); "
    return [f"{text}changed px: {share}"]


def cell_notes(cells: InstanceCounts, least: int | None, bounds: Mapping[str, Interval]) -> list[str]:
    """Score single cells, say how many are merged or split, and how many areas count as none."""
    limit = "a twentieth of a typical cell" if least is None else f"{least} px"
    left_out = f"{cells.small_predicted} predicted and {cells.small_true} true areas"
    names = {"cells_ap50": "AP at IoU 0.5", "cells_ap75": "at 0.75", "cells_dice": "Dice of those found"}
    scores = ", ".join(f"{text} {between(bounds[name])}" for name, text in names.items())
    return [
        f"cells: {scores}",
        f"cells: {cells.merged} merged, {cells.split} split; left out below {limit}: {left_out}",
    ]


def between(interval: Interval) -> str:
    """Write a number with the bounds of its interval."""
    bounds = "" if math.isnan(interval.low) else f" ({number(interval.low)} to {number(interval.high)})"
    return f"{number(interval.value)}{bounds}"
