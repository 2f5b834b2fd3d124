"""The scores of many images: summed up, printed, written."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiledseg._checks import shown
from tiledseg.evaluate._scores import SCORES, foreground, mean, mean_score
from tiledseg.io import write_text
from tiledseg.metrics import Counts

if TYPE_CHECKING:
    from tiledseg._types import PathLike
    from tiledseg.evaluate._scores import ImageScores

__all__ = ["EvaluationResult", "FailedPair"]

_LONGEST_NAME = 32
_HEADINGS = ("size", "dice", "iou", "precision", "recall", "seams", "tiles", "seconds")


@dataclass(frozen=True, slots=True)
class FailedPair:
    """A pair that could not be scored.

    Attributes
    ----------
    name : str
        Name of the pair.
    error : str
        Why.
    """

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """How well the maps of many images agree with their masks; ``print`` shows it as a table.

    Attributes
    ----------
    images : tuple of ImageScores
        The scores of each image, in order.
    failed : tuple of FailedPair
        The pairs that could not be scored.
    labels : tuple of str
        Name of each class, as many as each image has counts; empty where not known.
    threshold : float
        Where probabilities of one class were cut.
    """

    images: tuple[ImageScores, ...]
    failed: tuple[FailedPair, ...] = ()
    labels: tuple[str, ...] = ()
    threshold: float = 0.5

    @property
    def counts(self) -> tuple[Counts, ...]:
        """Counts of all images together, one for each class as in `ImageScores`."""
        return tuple(
            sum(of_class, Counts(0, 0, 0, 0))
            for of_class in zip(*(one.counts for one in self.images), strict=True)
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class that has counts: `labels`, or stand-ins where there are none."""
        n_classes = len(self.counts)
        if len(self.labels) == n_classes:
            return self.labels
        if n_classes < 2:
            return ("foreground",)[:n_classes]
        return ("background", *(f"class {label}" for label in range(1, n_classes)))

    def summary(self) -> dict[str, float]:
        """Sum all images up.

        Returns
        -------
        dict
            ``images`` and ``failed``: how many. ``dice``, ``iou``, ``precision``, ``recall``: of
            the px of all images together, the mean over the classes but the background; with
            ``_mean`` and ``_median`` those over the images. ``seam_ratio``: the median over the
            images that have tile borders. ``seconds`` and ``megapixels``: of all images;
            ``megapixels_per_second`` of the two. What is not known is nan.
        """
        sums: dict[str, float] = {"images": len(self.images), "failed": len(self.failed)}
        for name in SCORES:
            values = [getattr(one, name) for one in self.images]
            sums[name] = mean_score(name, self.counts)
            sums[f"{name}_mean"], sums[f"{name}_median"] = mean(values), _median(values)
        sums["seam_ratio"] = _median([one.seam_ratio for one in self.images])
        sums["seconds"] = sum(one.seconds for one in self.images) if self.images else math.nan
        sums["megapixels"] = sum(one.megapixels for one in self.images)
        known = sums["seconds"] > 0
        sums["megapixels_per_second"] = sums["megapixels"] / sums["seconds"] if known else math.nan
        return sums

    def by_class(self) -> dict[str, dict[str, float]]:
        """Score each class but the background over the px of all images together.

        Returns
        -------
        dict
            For each class its ``dice``, ``iou``, ``precision`` and ``recall``.
        """
        pairs = zip(foreground(self.class_names), foreground(self.counts), strict=True)
        return {label: {name: score(counts) for name, score in SCORES.items()} for label, counts in pairs}

    def to_csv(self, path: PathLike) -> None:
        """Write one line per image as CSV.

        Columns: ``name``, ``height``, ``width``, the scores, ``tp``, ``fp``, ``fn`` and ``tn``
        (with several classes once for each, as ``tp_0``), ``seam_ratio``, ``tiles``, ``seconds``
        and ``error``. Numbers are written in full; a cell is empty where there is none.

        Parameters
        ----------
        path : path
            File to write, whole or not at all.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        rows = [_row(one) for one in self.images]
        rows += [{"name": _text(one.name), "error": _text(one.error)} for one in self.failed]
        columns = list(dict.fromkeys(key for row in rows for key in row if key != "error"))
        table = io.StringIO()
        writer = csv.DictWriter(table, [*columns, "error"], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, table.getvalue())

    def to_json(self, path: PathLike) -> None:
        """Write everything as JSON: ``summary``, ``classes``, ``threshold``, ``images``, ``failed``.

        Parameters
        ----------
        path : path
            File to write, whole or not at all; null stands for what is nan or infinite.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        content = {
            "summary": _jsonable(self.summary()),
            "classes": {label: _jsonable(scores) for label, scores in self.by_class().items()},
            "threshold": self.threshold,
            "images": [_jsonable(_row(one)) for one in self.images],
            "failed": [{"name": _text(one.name), "error": _text(one.error)} for one in self.failed],
        }
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def __str__(self) -> str:
        sums = self.summary()
        rows = [("image", *_HEADINGS), *(_cells(one) for one in self.images)]
        for title, suffix in (("mean", "_mean"), ("median", "_median"), ("all px together", "")):
            rows.append((title, "", *(_number(sums[f"{name}{suffix}"]) for name in SCORES), "", "", ""))
        heading, *lines = _aligned(rows)
        rule = "-" * len(heading)
        return "\n".join([heading, rule, *lines[:-3], rule, *lines[-3:], "", *self._notes(sums)])

    def _notes(self, sums: dict[str, float]) -> list[str]:
        """Say in words what the table leaves out."""
        scored = f"{len(self.images)} scored, {len(self.failed)} failed"
        speed = f"seam ratio {_number(sums['seam_ratio'])}, {_number(sums['megapixels_per_second'])} Mpx/s"
        classes = [
            f"{label}: dice {_number(one['dice'])}, iou {_number(one['iou'])}"
            for label, one in self.by_class().items()
        ]
        failures = [f"failed: {shown(one.name)}: {one.error}" for one in self.failed]
        return [f"{scored}; {speed}", *(classes if len(classes) > 1 else []), *failures]


def _median(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _row(scores: ImageScores) -> dict[str, object]:
    """Spell an image's scores out, one cell per number."""
    row: dict[str, object] = {"name": _text(scores.name), "height": scores.shape[0], "width": scores.shape[1]}
    row |= {name: _cell(getattr(scores, name)) for name in SCORES}
    for label, counts in enumerate(scores.counts):
        suffix = f"_{label}" if len(scores.counts) > 1 else ""
        row |= {f"{part}{suffix}": getattr(counts, part) for part in ("tp", "fp", "fn", "tn")}
    return row | {
        "seam_ratio": _cell(scores.seam_ratio),
        "tiles": scores.tiles,
        "seconds": _cell(scores.seconds),
    }


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(text: str) -> str:
    """Spell out what UTF-8 cannot hold: bytes of a file name that are none."""
    return text.encode("utf-8", "backslashreplace").decode()


def _jsonable(values: dict[str, float] | dict[str, object]) -> dict[str, object]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _cells(scores: ImageScores) -> tuple[str, ...]:
    name = shown(scores.name)
    return (
        name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}",
        f"{scores.shape[0]} x {scores.shape[1]}",
        *(_number(getattr(scores, score)) for score in SCORES),
        _number(scores.seam_ratio),
        str(scores.tiles or "-"),
        _number(scores.seconds, digits=2),
    )


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Lay cells out in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
