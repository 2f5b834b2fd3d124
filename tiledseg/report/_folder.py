"""An evaluation as a folder of files: tables, a page, a sheet of pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tiledseg.io import new_folder, write_image, write_text
from tiledseg.report._page import write_report
from tiledseg.report._pictures import shrunk
from tiledseg.report._sheet import contact_sheet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tiledseg._types import PathLike
    from tiledseg.evaluate import Comparison, EvaluationResult
    from tiledseg.report._pictures import Picture, PictureRow

__all__ = ["write_evaluation"]

_THUMB_PX = 400


def write_evaluation(
    folder: PathLike,
    *,
    title: str,
    result: EvaluationResult,
    pictures: Sequence[PictureRow] = (),
    comparison: Comparison | None = None,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Write all of an evaluation into a new folder, whole or not at all.

    Written are ``scores.csv``, ``scores.json``, ``scores.md``, ``report.html``; with pictures
    ``worst.png``; with a comparison ``comparison.txt``.

    Parameters
    ----------
    folder : path
        A folder that is new or empty.
    title : str
        Heading of the page.
    result : EvaluationResult
        The scores.
    pictures : sequence of PictureRow
        Pictures of the worst images, as `WorstCases` keeps them.
    comparison : Comparison, optional
        Of this result with another.
    facts : mapping, optional
        As for `write_report`.

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
        result.to_json(part / "scores.json")
        result.to_markdown(part / "scores.md")
        if comparison is not None:
            write_text(part / "comparison.txt", f"{comparison}\n")
        if pictures:
            _write_sheet(part / "worst.png", pictures)


def _write_sheet(path: Path, rows: Sequence[PictureRow]) -> None:
    small = [replace(row, pictures=tuple(map(_small, row.pictures))) for row in rows]
    n_pictures = max(len(row.pictures) for row in small)
    even = [row for row in small if len(row.pictures) == n_pictures]
    write_image(path, contact_sheet("Worst images first", even, columns=1))


def _small(picture: Picture) -> Picture:
    return replace(picture, pixels=shrunk(picture.pixels, _THUMB_PX))
