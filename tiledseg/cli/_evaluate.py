"""``tiledseg evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from tiledseg.cli._models import TILING, ModelPath, Trust, check_model, load, tiling_for
from tiledseg.cli._options import Table, group
from tiledseg.cli._settings import Settings, with_options
from tiledseg.config import DataConfig, EvaluateConfig
from tiledseg.data import pairs_of
from tiledseg.evaluate import Evaluator
from tiledseg.io import check_writable
from tiledseg.report import picture_row, write_report

if TYPE_CHECKING:
    from tiledseg.evaluate import ScoredImage
    from tiledseg.report import PictureRow

__all__ = ["evaluate"]

_MOST_PICTURES = 12  # a report stays a file that a browser opens at once
_DATA = Table("data", DataConfig(), "Data", required=True)
_SCORING = Table("evaluate", EvaluateConfig(), "Evaluation", without=("tiling",))
_File: TypeAlias = Annotated[Path | None, Parameter(group=group("Output"), negative_none=(), metavar="FILE")]


@with_options(_DATA, _SCORING, TILING)
def evaluate(
    model: ModelPath,
    /,
    *,
    trust: Trust = False,
    csv: _File = None,
    json: _File = None,
    report: _File = None,
    settings: Settings,
) -> int:
    """Score a segmenter on images whose masks are known; print a table.

    Each image has a mask of the same stem.

    Parameters
    ----------
    model : path
        Folder of a bundle, or a .keras file with --trust.
    csv : path
        Write one line per image as CSV.
    json : path
        Write all scores as JSON.
    report : path
        Write a page with pictures as HTML.
    """
    config = settings.over(settings.run.evaluate, "evaluate")
    check_model(model, trust=trust)
    pairs = pairs_of(settings.over(DataConfig(), "data"))
    for path in (csv, json, report):
        if path is not None:
            check_writable(path.parent)
    segmenter = load(model, trust=trust)
    config = config.changed(tiling=tiling_for(segmenter, settings, config.tiling))
    pictures: list[PictureRow] = []

    def draw(scored: ScoredImage) -> None:
        if report is not None and len(pictures) < _MOST_PICTURES:
            pictures.append(picture_row(scored))

    result = Evaluator(config).evaluate(segmenter, pairs, progress=settings.progress, callback=draw)
    sys.stdout.write(f"{result}\n")
    if csv is not None:
        result.to_csv(csv)
    if json is not None:
        result.to_json(json)
    if report is not None:
        write_report(report, title="Evaluation", result=result, pictures=pictures, facts={"Model": model})
    return 1 if result.failed else 0
