"""One self-contained HTML file."""

from __future__ import annotations

import math
import platform
import statistics
from importlib import metadata
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from tiledseg._version import __version__
from tiledseg.io import write_text
from tiledseg.render import ERROR_COLOURS, PALETTE
from tiledseg.report._pictures import as_data_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tiledseg._types import PathLike
    from tiledseg.evaluate import EvaluationResult
    from tiledseg.report._pictures import PictureRow

__all__ = ["write_report"]

_ERRORS = ("found", "found where there is none", "missed")
_UNKNOWN, _TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
_PACKAGES = ("keras", "tensorflow", "numpy", "opencv-python-headless")


def write_report(
    path: PathLike,
    *,
    title: str,
    result: EvaluationResult,
    pictures: Sequence[PictureRow] = (),
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
    facts : mapping, optional
        What a reader should know of the run: network, tiling, data. Versions are added.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    pages = Environment(
        loader=PackageLoader("tiledseg.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pages.filters |= {"number": _number, "data_url": as_data_url, "rgb": "rgb({0[0]}, {0[1]}, {0[2]})".format}
    page = pages.get_template("page.html").render(
        title=title,
        result=result,
        figures=_figures(result),
        pictures=pictures,
        classes=_legend(result),
        errors=list(zip(_ERRORS, ERROR_COLOURS, strict=True)),
        facts=_facts(result, facts or {}),
    )
    write_text(path, page.encode("utf-8", "backslashreplace").decode())


def _number(value: float, digits: int = 3) -> str:
    return _UNKNOWN if math.isnan(value) else f"{value:.{digits}f}"


def _figures(result: EvaluationResult) -> list[tuple[str, str, str]]:
    """Choose the key figures: name, value, explanation."""
    sums = result.summary()
    seconds = [one.seconds for one in result.images if not math.isnan(one.seconds)]
    return [
        ("Dice", _number(sums["dice"]), f"median of images {_number(sums['dice_median'])}"),
        ("IoU", _number(sums["iou"]), f"median of images {_number(sums['iou_median'])}"),
        ("Seam ratio", _number(sums["seam_ratio"], 2), "1 where tile borders cannot be seen"),
        (
            "Seconds per image",
            _number(statistics.median(seconds) if seconds else math.nan, 1),
            f"{_number(sums['megapixels_per_second'], 2)} Mpx/s",
        ),
        (
            "Image size",
            _same(f"{height} {_TIMES} {width}" for height, width in _shapes(result)),
            f"height {_TIMES} width in px",
        ),
        ("Tiles per image", _same(str(one.tiles) for one in result.images if one.tiles), _how_many(result)),
    ]


def _shapes(result: EvaluationResult) -> list[tuple[int, int]]:
    return [one.shape for one in result.images]


def _same(texts: Iterable[str]) -> str:
    """Say what all say alike."""
    different = set(texts)
    return _UNKNOWN if not different else different.pop() if len(different) == 1 else "various"


def _how_many(result: EvaluationResult) -> str:
    n_images, n_failed = len(result.images), len(result.failed)
    text = f"{n_images} image{'' if n_images == 1 else 's'}"
    return f"{text}, {n_failed} failed" if n_failed else text


def _legend(result: EvaluationResult) -> list[tuple[str, tuple[int, int, int]]]:
    """Give each class but the background its colour."""
    names = list(result.by_class())
    return [(name, PALETTE[place % len(PALETTE)]) for place, name in enumerate(names)]


def _facts(result: EvaluationResult, facts: Mapping[str, object]) -> dict[str, str]:
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        **{name: str(fact) for name, fact in facts.items()},
        "Threshold": f"{result.threshold:g}",
        "tiledseg": __version__,
        "Python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
