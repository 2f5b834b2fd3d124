"""Where the images and masks of a dataset lie: one finder for each layout."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiledseg._validate import did_you_mean, invalid
from tiledseg.data._pairs import Pair, natural
from tiledseg.data._problems import Problem
from tiledseg.errors import FileError
from tiledseg.io import find_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tiledseg._types import PathLike
    from tiledseg.config import DataConfig
    from tiledseg.data._problems import ProblemKind

__all__ = ["find", "in_folders"]

_CELL = re.compile(r"(?P<name>.+)_(?P<number>\d+)")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LARGEST_TABLE = 2**28


def find(config: DataConfig) -> tuple[list[Pair], list[Problem]]:
    """Find the pairs of a layout that is no manifest; only names are looked at."""
    finders: dict[str, Callable[[DataConfig], tuple[list[Pair], list[Problem]]]] = {
        "folders": _folders,
        "segpc": _segpc,
        "list": _table,
    }
    pairs, problems = finders[config.layout](config)
    return sorted(pairs, key=lambda pair: natural(pair.name)), problems


def _folders(config: DataConfig) -> tuple[list[Pair], list[Problem]]:
    return in_folders(config.images, config.masks, _reading(config))


def in_folders(
    images_dir: PathLike, masks_dir: PathLike, reading: Mapping[str, Any]
) -> tuple[list[Pair], list[Problem]]:
    """Pair the images of one folder with the masks of another by stem."""
    images, twins = _by_stem(images_dir, find_images([images_dir]))
    masks, other_twins = _by_stem(masks_dir, find_images([masks_dir]))
    known = {problem.name for problem in (*twins, *other_twins)}
    pairs = [
        Pair(stem, images[stem], masks[stem], **reading) for stem in images.keys() & masks.keys() - known
    ]
    problems = [
        *twins,
        *other_twins,
        *_alone("no mask", images.keys() - masks.keys() - known, masks_dir),
        *_alone("no image", masks.keys() - images.keys() - known, images_dir),
    ]
    return pairs, problems


def _segpc(config: DataConfig) -> tuple[list[Pair], list[Problem]]:
    """Pair ``x/NAME.bmp`` with ``y/NAME_1.bmp``, …; an image without masks is left out."""
    root = Path(config.path or "")
    images, twins = _by_stem(root / "x", find_images([root / "x"]))
    cells: dict[str, list[tuple[int, Path]]] = {}
    problems = list(twins)
    for path in find_images([root / "y"]):
        match = _CELL.fullmatch(path.stem)
        if match is None:
            text = f"the name of {path} does not end in _ and a number."
            problems.append(Problem("no image", path.stem, text))
        else:
            cells.setdefault(match["name"], []).append((int(match["number"]), path))
    known = {problem.name for problem in twins}
    problems += _alone("no image", cells.keys() - images.keys() - known, root / "x")
    problems += _alone("no mask", images.keys() - cells.keys(), root / "y", harmless=True)
    pairs = [
        Pair(stem, images[stem], tuple(path for _, path in sorted(cells[stem])), **_reading(config))
        for stem in images.keys() & cells.keys() - known
    ]
    return pairs, problems


def _table(config: DataConfig) -> tuple[list[Pair], list[Problem]]:
    """Read a table with the columns image and mask; paths are relative to it."""
    path = Path(config.path or "")
    rows = _rows(path)
    pairs: dict[str, Pair] = {}
    twins: dict[str, Problem] = {}
    for line, row in enumerate(rows, 2):
        image, mask = row.get("image"), row.get("mask")
        if not image or not mask or None in row:
            raise invalid(
                FileError,
                f"{path}, line {line}",
                must="name an image and a mask",
                got=",".join(str(value) for value in row.values()),
                fix="Fill both columns; put names with commas in quotes.",
            )
        stem = Path(image).stem
        if stem in pairs:
            text = f"both {pairs[stem].image} and {image}."
            twins[stem] = Problem("same stem", stem, text)
        pairs[stem] = Pair(stem, path.parent / image, path.parent / mask, **_reading(config))
    return [pair for stem, pair in pairs.items() if stem not in twins], list(twins.values())


def _rows(path: Path) -> list[dict[str, str]]:
    separator = _SEPARATORS.get(path.suffix.lower())
    if separator is None:
        fix = "Use commas in a .csv file, tabs in a .tsv file."
        raise invalid(FileError, str(path), must="end in .csv or .tsv", got=path.suffix, fix=fix)
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_TABLE).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        fix = "Check the path and the quotes."
        raise invalid(FileError, str(path), must="be a table in UTF-8", got=str(error), fix=fix) from error
    found = list(reader.fieldnames or [])
    for wanted in ("image", "mask"):
        if wanted not in found:
            fix = f"Give the first line the columns image and mask. {did_you_mean(wanted, found)}"
            got = ", ".join(found) or "nothing"
            raise invalid(FileError, str(path), must=f"have a column {wanted}", got=got, fix=fix)
    return rows


def _reading(config: DataConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("mask_threshold", "mask_parts", "class_values")}


def _by_stem(folder: PathLike, paths: Iterable[Path]) -> tuple[dict[str, Path], list[Problem]]:
    files: dict[str, list[Path]] = {}
    for path in paths:
        files.setdefault(path.stem, []).append(path)
    twins = [
        Problem("same stem", stem, f"{', '.join(path.name for path in some)} in {folder}.")
        for stem, some in files.items()
        if len(some) > 1
    ]
    return {stem: some[0] for stem, some in files.items()}, twins


def _alone(
    kind: ProblemKind, stems: Iterable[str], folder: PathLike, *, harmless: bool = False
) -> list[Problem]:
    text = f"no partner in {folder}."
    return [Problem(kind, stem, text, harmless) for stem in sorted(stems, key=natural)]
