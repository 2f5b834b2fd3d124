"""An evaluation as one self-contained HTML page, and as a folder of files."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from tiledseg._lazy import version_of
from tiledseg._storage import csv_text, new_folder, write_text
from tiledseg._validate import all_of, as_utf8, counted, instance_of, listed
from tiledseg._version import __version__
from tiledseg.evaluate import Comparison, EvaluationResult, decision_of
from tiledseg.io import write_image
from tiledseg.plots import ERROR_COLOURS, PALETTE, PictureRow, contact_sheet, shrunk
from tiledseg.report.pictures import Triples, as_data_url, charts_of, pairs_chart

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tiledseg._types import PathLike
    from tiledseg.config import EvaluateConfig
    from tiledseg.evaluate import ImageScores
    from tiledseg.metrics import Interval
    from tiledseg.plots import Picture

_ERRORS = ("found", "false", "missed")
_MOST_SIZES = 3  # shown
_PACKAGES = ("keras", "tensorflow", "numpy", "opencv-python-headless")
_TIMES = "\N{MULTIPLICATION SIGN}"
_THUMB_PX = 400

UNKNOWN = "\N{EN DASH}"

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
"""Names of the scores in the report."""


def write_report(
    path: PathLike,
    *,
    title: str,
    result: EvaluationResult,
    pictures: Sequence[PictureRow] = (),
    comparison: Comparison | Sequence[Comparison] | None = None,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Write an evaluation as one self-contained HTML file.

    Parameters
    ----------
    path : path
        File to write, whole or not at all.
    title : str
        Heading.
    result : EvaluationResult
        The scores.
    pictures : sequence of PictureRow
        Pictures of some of the images; see `picture_row`.
    comparison : Comparison or sequence of Comparison, optional
        Comparison of another result, or of several, with this one; see `tiledseg.evaluate.compare`.
    facts : mapping, optional
        Facts about the run, such as network, tiling and data. Versions are added.

    Raises
    ------
    FileError
        If the file cannot be written.
    SettingError
        If an argument is of another type.
    """
    instance_of(EvaluationResult, result, "result", "Pass what Evaluator.evaluate returns.")
    pictures = all_of(PictureRow, pictures, "pictures", "Pass the rows of WorstCases, or leave it out.")
    compared = comparisons(comparison)
    instance_of(Mapping, {} if facts is None else facts, "facts", "Pass a dict, or leave it out.")  # type: ignore[type-abstract]
    pages = Environment(
        loader=PackageLoader("tiledseg.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pages.filters |= {"number": _number, "data_url": as_data_url, "rgb": "rgb({0[0]}, {0[1]}, {0[2]})".format}
    pages.filters["signed"] = signed
    sums, bounds = result.summary(), result.intervals()
    page = pages.get_template("page.html").render(
        title=title,
        lead=lead(result),
        result=result,
        sums=sums,
        bounds=bounds,
        nan=math.nan,
        sizes_differ=len({one.shape for one in result.images}) > 1,
        figures=key_figures(result, sums, bounds),
        charts=charts_of(result),
        comparisons=[(one, verdict(one), pairs_chart(one)) for one in compared],
        names=SCORE_NAMES,
        pictures=pictures,
        classes=_legend(result),
        errors=list(zip(_ERRORS, ERROR_COLOURS, strict=True)),
        facts=_facts(result, facts or {}),
    )
    write_text(path, as_utf8(page))


def comparisons(given: Comparison | Sequence[Comparison] | None) -> list[Comparison]:
    """Return one comparison, several or none as a list."""
    found = [given] if isinstance(given, Comparison) else given or []
    return all_of(Comparison, found, "comparison", "Pass what tiledseg.evaluate.compare returns.")


def _number(value: float, digits: int = 3) -> str:
    return UNKNOWN if math.isnan(value) else "\N{INFINITY}" if math.isinf(value) else f"{value:.{digits}f}"


def _resampling(result: EvaluationResult) -> str:
    if result.groups is None:
        return "bootstrap of images, 2000 resamples"
    return f"bootstrap of {len(set(result.groups))} groups of images, 2000 resamples"


def _tolerance(config: EvaluateConfig) -> str:
    if config.boundary_px is None:
        return "0.75 % of the image's diagonal"
    return f"{config.boundary_px:g} px"


def _legend(result: EvaluationResult) -> list[tuple[str, tuple[int, int, int]]]:
    """Return the colour of each class except the background."""
    names = list(result.by_class())
    return [(name, PALETTE[index % len(PALETTE)]) for index, name in enumerate(names)]


def _facts(result: EvaluationResult, facts: Mapping[str, object]) -> dict[str, str]:
    versions = {name: version_of(name) for name in _PACKAGES}
    return {
        **{name: str(fact) for name, fact in facts.items()},
        "Size of a px": listed(sorted({_size(one) for one in result.images}), _MOST_SIZES),
        "Decision": decision_of(len(result.counts), result.threshold, result.threshold_from),
        "Outline tolerance": _tolerance(result.config),
        "Intervals": _resampling(result),
        "Cells": _cells_are(result.config),
        "tiledseg": __version__,
        "Python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _size(scores: ImageScores) -> str:
    return "not known" if scores.pixel_size is None else str(scores.pixel_size)


def key_figures(
    result: EvaluationResult, sums: Mapping[str, float], bounds: Mapping[str, Interval]
) -> list[tuple[str, str, str]]:
    """Choose the key figures: name, value, explanation."""
    seconds = [one.seconds for one in result.images if not math.isnan(one.seconds)]
    tiles = _common(f"{one.tiles} tiles" for one in result.images if one.tiles)
    speed = f"{_number(sums['megapixels_per_second'], 2)} Mpx/s"
    typical = statistics.median(seconds) if seconds else math.nan
    of_several = ", the median" if len(result.images) > 1 else ""
    figures = [
        (
            "Mean Dice",
            _number(sums["dice_mean"]),
            _range(bounds["dice_mean"]) or f"IoU {_number(sums['iou_mean'])}",
        ),
        *_cells(result, sums, bounds),
        (
            "Outline F1",
            _number(sums["boundary_f1_mean"]),
            f"95 % Hausdorff {_px(sums['hausdorff95_median'])}{of_several}",
        ),
        ("Calibration error", _number(sums["calibration_error"]), "0 if probabilities match frequencies"),
        ("Loss", _number(sums["loss"], 4), result.loss.name if result.loss else ""),
        ("Seam ratio", _number(sums["seam_ratio"], 2), "1 if tile borders cannot be seen"),
        (
            "Seconds per image",
            _number(typical, 1 if typical >= 1 else 2),
            f"{tiles}, {speed}" if tiles else speed,
        ),
    ]
    return [figure for figure in figures if figure[1] != UNKNOWN]


def lead(result: EvaluationResult) -> str:
    """Describe in one sentence what was scored."""
    size = _common(f" of {one.shape[0]} {_TIMES} {one.shape[1]} px" for one in result.images)
    decision = decision_of(len(result.counts), result.threshold, result.threshold_from)
    return f"{_counted(result, size)}, scored at full resolution; {decision}."


def signed(value: float) -> str:
    """Write a difference with its sign."""
    if math.isnan(value):
        return UNKNOWN
    text = f"{value:+.3f}"
    return "0.000" if text[1:] == "0.000" else text.replace("-", "\N{MINUS SIGN}")


def verdict(comparison: Comparison) -> str:
    """Describe in words which of two is better, and how certain that is."""
    one, (first, second) = comparison.differences["dice"], comparison.names
    low, high = one.difference.low, one.difference.high
    known = sum(not math.isnan(a.dice - b.dice) for a, b in comparison.pairs)
    images = f"{one.better} of {counted(known, 'image')}"
    if math.isnan(low):
        return "One image, or one group of them, is not enough to tell which of the two is better."
    if low <= 0 <= high:
        return (
            "It is uncertain which of the two has the higher mean Dice: the difference is "
            f"{signed(one.difference.value)} (95 %: {signed(low)} to {signed(high)}). "
            f"{second} is better on {images}."
        )
    better, than = (second, first) if low > 0 else (first, second)
    least, most = sorted((abs(low), abs(high)))
    return (
        f"{better} has a higher mean Dice than {than}, by {abs(one.difference.value):.3f} "
        f"(95 %: {least:.3f} to {most:.3f}). {second} is better on {images}."
    )


def _cells(
    result: EvaluationResult, sums: Mapping[str, float], bounds: Mapping[str, Interval]
) -> list[tuple[str, str, str]]:
    if not any(one.instances for one in result.images):
        return []
    counts = ", ".join(f"{sums[f'cells_{how}']} {how}" for how in ("missed", "false", "merged", "split"))
    small = f"{sums['cells_left_out']} predicted and {sums['true_cells_left_out']} true specks left out"
    at_75 = f"at 0.75: {_number(sums['cells_ap75'])}"
    between = "; ".join(filter(None, (_range(bounds["cells_ap50"]), at_75)))
    return [
        ("Cells found", f"{sums['cells_found']} of {sums['cells']}", f"{counts}; {small}"),
        ("AP of cells at IoU 0.5", _number(sums["cells_ap50"]), between),
    ]


def _cells_are(config: EvaluateConfig) -> str:
    least = "a twentieth of a typical true cell" if config.cell_px is None else f"{config.cell_px} px"
    set_by = {} if config.objects is None else config.objects.model_dump(exclude_defaults=True)
    changed = ", ".join(f"{name}={value}" for name, value in set_by.items())
    return f"connected areas of at least {least}{changed and f'; those of the prediction with {changed}'}"


def _px(value: float) -> str:
    return f"{_number(value, 1)} px" if math.isfinite(value) else _number(value)


def _range(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f"95 %: {interval.low:.3f} to {interval.high:.3f}"


def _common(texts: Iterable[str]) -> str:
    """Return the text if all texts are equal, else nothing."""
    different = set(texts)
    return different.pop() if len(different) == 1 else ""


def _counted(result: EvaluationResult, size: str) -> str:
    n_images, n_failed = len(result.images), len(result.failed)
    text = f"{counted(n_images, 'image')}{size}"
    return f"{text}, {n_failed} failed" if n_failed else text


def write_evaluation(  # noqa: PLR0913  all that a folder holds
    folder: PathLike,
    *,
    title: str,
    result: EvaluationResult,
    pictures: Sequence[PictureRow] = (),
    comparison: Comparison | Sequence[Comparison] | None = None,
    facts: Mapping[str, object] | None = None,
    triples: Triples | None = None,
) -> None:
    """Write an evaluation into a new folder, whole or not at all.

    The files are ``scores.csv`` (a line for each image), ``summary.csv`` (a line for each score of all
    images), ``scores.json``, ``scores.md`` and ``report.html``; with pictures
    also ``worst.png``, with a comparison also ``comparison.txt``, with triples also ``sheet.png`` and
    ``triples/``.

    Parameters
    ----------
    folder : path
        A new or empty folder.
    title : str
        Heading of the page.
    result : EvaluationResult
        The scores.
    pictures : sequence of PictureRow
        Pictures of the worst images, such as the rows of `WorstCases`.
    comparison : Comparison or sequence of Comparison, optional
        Comparison of another result, or of several, with this one.
    facts : mapping, optional
        As for `write_report`.
    triples : Triples, optional
        Input, truth and prediction of all images.

    Raises
    ------
    FileError
        If the folder holds anything, or a file cannot be written.
    SettingError
        If an argument is of another type.
    """
    with new_folder(folder) as part:
        write_report(
            part / "report.html",
            title=title,
            result=result,
            pictures=pictures,
            comparison=comparison,
            facts=facts,
        )
        result.to_csv(part / "scores.csv")
        sums = {name: value for name, value in result.summary().items() if not math.isnan(value)}
        rows = [{"score": name, "value": value} for name, value in sums.items()]
        write_text(part / "summary.csv", csv_text(("score", "value"), rows))
        result.to_json(part / "scores.json")
        result.to_markdown(part / "scores.md")
        if compared := comparisons(comparison):
            write_text(part / "comparison.txt", "\n".join(f"{one}\n" for one in compared))
        if triples is not None:
            triples.write(part)
        if pictures:
            _write_sheet(part / "worst.png", pictures)


def _write_sheet(path: Path, rows: Sequence[PictureRow]) -> None:
    small = [replace(row, pictures=tuple(map(_small, row.pictures))) for row in rows]
    n_pictures = max(len(row.pictures) for row in small)
    even = [row for row in small if len(row.pictures) == n_pictures]
    titles = ", ".join(one.title.lower() for one in even[0].pictures)
    write_image(path, contact_sheet(f"Worst images first: {titles}", even, columns=1))


def _small(picture: Picture) -> Picture:
    return replace(picture, pixels=shrunk(picture.pixels, _THUMB_PX))
