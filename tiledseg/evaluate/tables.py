"""A result as text: for the terminal, as CSV, as JSON, as Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from typing import TYPE_CHECKING

from tiledseg._validate import shown
from tiledseg.evaluate.scores import SCORES
from tiledseg.metrics import SEAM_DISTANCES, reliability

if TYPE_CHECKING:
    from tiledseg.evaluate.result import EvaluationResult
    from tiledseg.evaluate.scores import ImageScores

__all__ = ["as_csv", "as_json", "as_markdown", "as_text"]

_LONGEST_NAME = 32
_SHOWN = ("dice", "iou", "precision", "recall", "boundary_f1", "panoptic_quality")
_HEADINGS = ("dice", "iou", "precision", "recall", "outline", "pq", "hd95", "found", "missed", "false")
_Rows = list[tuple[str, ...]]


def as_csv(result: EvaluationResult) -> str:
    """Write one line per image, every number in full."""
    rows = [_row(one) for one in result.images]
    rows += [{"name": _text(one.name), "error": _text(one.error)} for one in result.failed]
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "error"))
    table = io.StringIO()
    writer = csv.DictWriter(table, [*columns, "error"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def as_json(result: EvaluationResult) -> str:
    """Write everything that is known."""
    curve, probabilities, seams = result.threshold_curve(), result.probabilities, result.seam_errors
    content = {
        "summary": result.summary(),
        "intervals": {name: dataclasses.asdict(one) for name, one in result.intervals().items()},
        "classes": result.by_class(),
        "threshold": result.threshold,
        "threshold_from": result.threshold_from,
        "threshold_curve": None if curve is None else dataclasses.asdict(curve),
        "reliability": None if probabilities is None else _listed(reliability(probabilities)),
        "seam_errors": None if seams is None else {"from_px": SEAM_DISTANCES, **dataclasses.asdict(seams)},
        "images": [_row(one) for one in result.images],
        "failed": [{"name": _text(one.name), "error": _text(one.error)} for one in result.failed],
        "settings": result.config.model_dump(mode="json"),
    }
    return json.dumps(_jsonable(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_text(result: EvaluationResult) -> str:
    """Lay the table out in columns, and say below what it leaves out."""
    body, foot = _table(result)
    heading, *lines = _aligned([("image", *_HEADINGS, "seams", "seconds"), *body, *foot])
    rule = "-" * len(heading)
    middle = len(body)
    return "\n".join([heading, rule, *lines[:middle], rule, *lines[middle:], "", *_notes(result)])


def as_markdown(result: EvaluationResult) -> str:
    """Write the same table for a page."""
    body, foot = _table(result, escape="|*_`<>[]\\")
    heading = ("image", *_HEADINGS, "seams", "seconds")
    rows = [heading, ("---", *["---:"] * (len(heading) - 1)), *body, *foot]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {_escaped(note, '*_`<>[]')}" for note in _notes(result)), ""])


def _table(result: EvaluationResult, escape: str = "") -> tuple[_Rows, _Rows]:
    """Give the rows of the images, and those that sum them up."""
    sums, bounds = result.summary(), result.intervals()
    body = [_cells(one, escape) for one in result.images]
    distance = _number(sums["hausdorff95_median"], 1)
    foot = [
        ("mean", *(_number(sums[f"{name}_mean"]) for name in _SHOWN), *[""] * 6),
        ("  95 % from", *(_number(bounds[f"{name}_mean"].low) for name in _SHOWN), *[""] * 6),
        ("  95 % to", *(_number(bounds[f"{name}_mean"].high) for name in _SHOWN), *[""] * 6),
        ("median", *(_number(sums[f"{name}_median"]) for name in _SHOWN), distance, *[""] * 5),
    ]
    known = any(one.instances for one in result.images)
    cells = (str(int(sums[f"cells_{how}"])) if known else "-" for how in ("found", "missed", "false"))
    together = (*(_number(sums[name]) for name in _SHOWN), "", *cells, "", "")
    return body, [*foot, ("all together", *together)]


def _notes(result: EvaluationResult) -> list[str]:
    """Say in words what the table leaves out."""
    sums = result.summary()
    scored = f"{len(result.images)} scored, {len(result.failed)} failed"
    seams, speed = _number(sums["seam_ratio"]), _number(sums["megapixels_per_second"])
    calibration = f"calibration error {_number(sums['calibration_error'])}"
    classes = [
        f"{label}: dice {_number(one['dice'])}, iou {_number(one['iou'])}"
        for label, one in result.by_class().items()
    ]
    failures = [f"failed: {shown(one.name)}: {shown(one.error)}" for one in result.failed]
    return [
        f"{scored}; seam ratio {seams}, {calibration}, {speed} Mpx/s",
        f"threshold {result.threshold:g}, {result.threshold_from}",
        *(classes if len(classes) > 1 else []),
        *failures,
    ]


def _row(scores: ImageScores) -> dict[str, object]:
    """Spell an image's scores out, one cell per number."""
    row: dict[str, object] = {"name": _text(scores.name), "height": scores.shape[0], "width": scores.shape[1]}
    row |= {name: _cell(getattr(scores, name)) for name in (*SCORES, "hausdorff95")}
    for label, counts in enumerate(scores.counts):
        suffix = f"_{label}" if len(scores.counts) > 1 else ""
        row |= {f"{part}{suffix}": getattr(counts, part) for part in ("tp", "fp", "fn", "tn")}
    if scores.instances:
        cells = scores.cells
        row |= {"cells": cells.true, "cells_found": cells.found, "cells_missed": cells.missed}
        row |= {"cells_false": cells.false, "cells_dice": _cell(cells.mean_dice)}
    return row | {
        "calibration_error": _cell(scores.calibration_error),
        "seam_ratio": _cell(scores.seam_ratio),
        "disagreement": _cell(scores.disagreement),
        "tiles": scores.tiles,
        "seconds": _cell(scores.seconds),
    }


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(text: str) -> str:
    """Spell out what UTF-8 cannot hold: bytes of a file name that are none."""
    return text.encode("utf-8", "backslashreplace").decode()


def _listed(table: object) -> dict[str, object]:
    """Turn a dataclass of arrays into lists."""
    return {field.name: getattr(table, field.name).tolist() for field in dataclasses.fields(table)}  # type: ignore[arg-type]


def _jsonable(value: object) -> object:
    """Put null where a number is nan or infinite."""
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
        *(_number(getattr(scores, score)) for score in _SHOWN),
        _number(scores.hausdorff95, 1),
        *counted,
        _number(scores.seam_ratio, 2),
        _number(scores.seconds, 2),
    )


def _escaped(text: str, marks: str) -> str:
    return "".join(f"\\{mark}" if mark in marks else mark for mark in text)


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _aligned(rows: _Rows) -> list[str]:
    """Lay cells out in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
