"""One self-contained HTML file."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from tiledseg._validate import all_of, instance_of
from tiledseg._version import __version__
from tiledseg.evaluate import Comparison, EvaluationResult
from tiledseg.io import write_text
from tiledseg.plots import ERROR_COLOURS, PALETTE
from tiledseg.report._curves import charts_of, pairs_chart
from tiledseg.report._key_figures import SCORE_NAMES, UNKNOWN, key_figures, lead, signed, verdict
from tiledseg.report._pictures import PictureRow, as_data_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import PathLike
    from tiledseg.config import EvaluateConfig

__all__ = ["write_report"]

_ERRORS = ("found", "found where there is none", "missed")
_PACKAGES = ("keras", "tensorflow", "numpy", "opencv-python-headless")


def write_report(
    path: PathLike,
    *,
    title: str,
    result: EvaluationResult,
    pictures: Sequence[PictureRow] = (),
    comparison: Comparison | None = None,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Write an evaluation as one HTML file that needs no other.

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
    comparison : Comparison, optional
        Of this result with another; see `tiledseg.evaluate.compare`.
    facts : mapping, optional
        What a reader should know of the run: network, tiling, data. Versions are added.

    Raises
    ------
    FileError
        If the file cannot be written.
    SettingError
        If an argument is of another type.
    """
    instance_of(EvaluationResult, result, "result", "Pass what Evaluator.evaluate returns.")
    pictures = all_of(PictureRow, pictures, "pictures", "Pass the rows of WorstCases, or leave it out.")
    if comparison is not None:
        instance_of(Comparison, comparison, "comparison", "Pass what tiledseg.evaluate.compare returns.")
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
        comparison=comparison,
        verdict=verdict(comparison) if comparison else "",
        pairs=pairs_chart(comparison) if comparison else None,
        names=SCORE_NAMES,
        pictures=pictures,
        classes=_legend(result),
        errors=list(zip(_ERRORS, ERROR_COLOURS, strict=True)),
        facts=_facts(result, facts or {}),
    )
    write_text(path, page.encode("utf-8", "backslashreplace").decode())


def _number(value: float, digits: int = 3) -> str:
    return UNKNOWN if math.isnan(value) else "\N{INFINITY}" if math.isinf(value) else f"{value:.{digits}f}"


def _drawn(result: EvaluationResult) -> str:
    if result.groups is None:
        return "images, with replacement, 2000 times"
    return f"groups of images, with replacement, 2000 times; there are {len(set(result.groups))}"


def _tolerance(config: EvaluateConfig) -> str:
    if config.boundary_px is None:
        return "0.75 % of the image's diagonal"
    return f"{config.boundary_px:g} px"


def _legend(result: EvaluationResult) -> list[tuple[str, tuple[int, int, int]]]:
    """Give each class but the background its colour."""
    names = list(result.by_class())
    return [(name, PALETTE[place % len(PALETTE)]) for place, name in enumerate(names)]


def _facts(result: EvaluationResult, facts: Mapping[str, object]) -> dict[str, str]:
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        **{name: str(fact) for name, fact in facts.items()},
        "Threshold": f"{result.threshold:.4g}, {result.threshold_from}",
        "Outlines agree": f"within {_tolerance(result.config)}",
        "Intervals draw": _drawn(result),
        "Cells": f"connected areas of at least {result.config.cell_px} px",
        "tiledseg": __version__,
        "Python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
