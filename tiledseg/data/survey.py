"""Finding the images and masks of a dataset, by its layout, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tiledseg._notebook import paragraph, table
from tiledseg._storage import exists, is_file
from tiledseg._validate import counted, did_you_mean, invalid, listed, path_text, settings_of
from tiledseg.config import DataConfig
from tiledseg.data.load import level_that_fits, shape_of_image, shape_of_mask
from tiledseg.data.manifest import Manifest, read_text
from tiledseg.data.pairs import Pair, Problem, listed_problems, mask_files, natural, warn_of_orientation
from tiledseg.errors import FileError
from tiledseg.io import (
    OUTLINE_SUFFIXES,
    as_path,
    coco_images,
    images_in,
    is_outlines,
    stem_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tiledseg._types import PathLike
    from tiledseg.data.pairs import ProblemKind

_log = logging.getLogger("tiledseg")
_CELL = re.compile(r"(?P<name>.+)_(?P<number>\d+)")
_SUBFOLDERS = "Files in subfolders are not paired: list them in a table, with layout=list."
_OTHER_NAMES = " Masks with another name than their image are listed in a table, with layout=list."
_PAIRS_SHOWN = 5  # in a notebook
_LISTED = 5  # columns in a message
_STATED = re.compile(r"sep=([,;\t])\s*$", re.IGNORECASE)  # by Excel, before the names of the columns
_SEPARATORS = {".csv": ",;\t", ".tsv": "\t"}  # Excel writes semicolons where a comma is the decimal mark


@dataclass(frozen=True, slots=True, repr=False)
class Survey:
    """Pairs and problems of a dataset.

    Attributes
    ----------
    pairs : tuple of Pair
        What can be used, in natural order of the names.
    problems : tuple of Problem
        What cannot be used, and why.
    """

    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]

    def __repr__(self) -> str:
        return f"Survey({counted(len(self.pairs), 'pair')}, {counted(len(self.problems), 'problem')})"

    def _repr_html_(self) -> str:
        rows = [(one.name, one.image, one.mask) for one in self.pairs[:_PAIRS_SHOWN]]
        more = len(self.pairs) - len(rows)
        parts = [paragraph(self), table(("name", "image", "mask"), rows) if rows else ""]
        return "".join([*parts, paragraph(f"{more} more pairs") if more else ""])

    def __str__(self) -> str:
        counts = f"{len(self.pairs)} pairs, {len(self.problems)} problems"
        return "\n".join([counts, *(f"  {problem}" for problem in self.problems)])


def survey(config: DataConfig | dict[str, Any]) -> Survey:
    """Find images and masks, pair them, and read the headers of their files.

    Parameters
    ----------
    config : DataConfig or dict
        Where they are.

    Returns
    -------
    Survey
        The pairs that can be used, and the problems of the others.

    Raises
    ------
    FileError
        If a folder, a table or a manifest cannot be read.
    SettingError
        If `config` is of another type.
    """
    config = settings_of(DataConfig, config, "config", optional=False)
    return _surveyed(*_LAYOUTS[config.layout](config))


def pairs_of(config: DataConfig) -> list[Pair]:
    """Find the pairs of a dataset; raise an error for files that cannot be used, or skip them."""
    return _usable(survey(config), skip=config.problems == "skip")


def find_pairs(
    images_dir: PathLike,
    masks_dir: PathLike,
    *,
    mask_threshold: float | Literal["auto"] | None = "auto",
    **reading: Any,  # each has its own type
) -> list[Pair]:
    """Pair the images of one folder with the masks of another by stem.

    ``7.jpg`` is paired with ``7.png``; the order is natural: ``2`` before ``10``. Only the headers of
    the files are read.

    Parameters
    ----------
    images_dir : path
        Folder of images.
    masks_dir : path
        Folder of masks or outlines; or a COCO file.
    mask_threshold : int, float, "auto" or None
        Value from which a mask's px is foreground; None for masks that hold labels of classes. ``"auto"``:
        the values decide, see `tiledseg.io.read_mask`.
    **reading : object
        Other settings of reading, by name, as in `DataConfig`: for example ``ignore_label=255``,
        ``mask_parts="instances"`` or ``channels=(0, 2)``.

    Returns
    -------
    list of Pair
        At least one.

    Raises
    ------
    FileError
        If a folder or a file cannot be read, two files of a folder share a stem, an image or a
        mask has no partner, or they differ in size; the message names all of it.
    SettingError
        If a setting of reading is unknown or has a wrong value.
    """
    config = DataConfig(mask_threshold=mask_threshold, **reading)
    return _usable(_surveyed(*_by_folders(images_dir, masks_dir, _reading(config))), skip=False)


_Found = tuple[list[Pair], list[Problem]]


def _folders(config: DataConfig) -> _Found:
    for name, kind in (("images", "folder"), ("masks", "folder or file")):
        folder = getattr(config, name)
        if not exists(as_path(folder)):
            fix = "Check the path." if name in config.model_fields_set else f"Give the folder of {name}."
            raise invalid(FileError, name, must=f"be a {kind} that exists", got=folder, fix=fix)
    return _by_folders(config.images, config.masks, _reading(config))


def _by_folders(images_dir: PathLike, masks_dir: PathLike, reading: Mapping[str, Any]) -> _Found:
    images, same_images = _by_stem(images_dir)
    masks, same_masks = _masks_by_stem(masks_dir)
    problems = [*same_images, *same_masks]
    known = {problem.name for problem in problems}
    advice = "" if is_outlines(masks_dir) else _OTHER_NAMES
    problems += _without_partner("no mask", images.keys() - masks.keys() - known, masks_dir, advice=advice)
    problems += _without_partner("no image", masks.keys() - images.keys() - known, images_dir)
    stems = images.keys() & masks.keys() - known
    return [Pair(stem, images[stem], masks[stem], **reading) for stem in stems], problems


def _segpc(config: DataConfig) -> _Found:
    """Pair ``x/NAME.bmp`` with ``y/NAME_1.bmp``, …; an image without masks is left out."""
    root = Path(config.path or "")
    images, problems = _by_stem(root / "x")
    known = {problem.name for problem in problems}
    cells: dict[str, list[tuple[int, Path]]] = {}
    for path in images_in([root / "y"], advice=_SUBFOLDERS):
        match = _CELL.fullmatch(stem_of(path))
        if match is None:
            text = f"the name of {path} does not end in _ and a number."
            problems.append(Problem("no image", path.stem, text))
        else:
            cells.setdefault(match["name"], []).append((int(match["number"]), path))
    problems += _without_partner("no image", cells.keys() - images.keys() - known, root / "x")
    problems += _without_partner("no mask", images.keys() - cells.keys(), root / "y", harmless=True)
    pairs = [
        Pair(stem, images[stem], tuple(path for _, path in sorted(cells[stem])), **_reading(config))
        for stem in images.keys() & cells.keys() - known
    ]
    return pairs, problems


def _table(config: DataConfig) -> _Found:
    """Read a table with the columns image and mask; paths are relative to it."""
    path = Path(config.path or "")
    rows = list(_named_files(path))
    name_of = _path_name if len({Path(image).parent for image, _ in rows}) > 1 else stem_of
    pairs: dict[str, Pair] = {}
    problems: dict[str, Problem] = {}
    for image, mask in rows:
        name = name_of(image)
        if name in pairs:
            problems[name] = Problem("same stem", name, f"both {pairs[name].image} and {image}.")
        pairs[name] = Pair(name, _beside(path, image), _beside(path, mask), **_reading(config))
    return [pair for name, pair in pairs.items() if name not in problems], list(problems.values())


def _beside(table: Path, name: str) -> Path:
    """Find a file of a table: relative to it, or at an address."""
    return as_path(name) if "://" in name else table.parent / name


def _path_name(image: str) -> str:
    """Name an image by its path without suffix; images of several folders may share a stem."""
    place = Path(os.path.normpath(image)).parent
    folders = [part for part in place.parts if part not in {place.anchor, ".."}]
    return "/".join([*folders, stem_of(image)])


def _named_files(path: Path) -> Iterator[tuple[str, str]]:
    """Iterate over image and mask of each row of a table."""
    (_, header), *rows = _rows(path) or [(1, [])]
    names = [name.casefold() for name in header]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        fix = "Rename or remove the others: it is not clear which one counts."
        got = listed(twice, _LISTED) + " twice"
        raise invalid(FileError, str(path), must="have different columns", got=got, fix=fix)
    for wanted in ("image", "mask"):
        if wanted not in names:
            fix = f"Give the first line the columns image and mask. {did_you_mean(wanted, header)}"
            got = ", ".join(header) or "nothing"
            raise invalid(FileError, str(path), must=f"have a column {wanted}", got=got, fix=fix)
    places = names.index("image"), names.index("mask")
    for line, row in rows:
        image, mask = (row[place] if place < len(row) else "" for place in places)
        if not image or not mask or any(row[len(names) :]):
            must, fix = "name an image and a mask", "Fill both columns; put names with commas in quotes."
            raise invalid(FileError, f"{path}, line {line}", must=must, got=",".join(row), fix=fix)
        yield _slashed(path, image), _slashed(path, mask)


def _slashed(table: Path, name: str) -> str:
    """Give a path that was written on Windows as one of this system, where that one exists."""
    slashed = name.replace("\\", "/")
    return slashed if not exists(table.parent / name) and exists(table.parent / slashed) else name


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Read the rows of a table that hold anything, each with the number of its line."""
    separators = _SEPARATORS.get(path.suffix.lower())
    if separators is None:
        fix = "Use commas in a .csv file, tabs in a .tsv file."
        raise invalid(FileError, str(path), must="end in .csv or .tsv", got=path.suffix, fix=fix)
    lines = list(io.StringIO(read_text(path), newline=""))
    stated = _STATED.match(lines[0]) if lines else None
    if stated:
        lines[0] = "\n"
    comments = [line.startswith("#") and not _names_image(path, line, separators) for line in lines]
    lines = ["\n" if comment else line for comment, line in zip(comments, lines, strict=True)]
    separator = stated[1] if stated else _separator_of(lines, separators)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        fix = "Check the quotes."
        raise invalid(FileError, str(path), must="be a table", got=error, fix=fix) from error
    return [(line, row) for line, row in rows if any(row)]


def _names_image(path: Path, line: str, separators: str) -> bool:
    """Say whether a line that begins as a comment is the row of an image whose name begins so."""
    return any(exists(path.parent / line.split(one, maxsplit=1)[0].strip()) for one in separators)


def _separator_of(lines: Sequence[str], separators: str) -> str:
    """Find what separates the columns image and mask in the first line; else the first separator."""
    first = next((line for line in lines if line.strip()), "").casefold()
    names = {one: {name.strip(' "\r\n') for name in first.split(one)} for one in separators}
    fits = [one for one in separators if {"image", "mask"} <= names[one]]
    return fits[0] if fits else separators[0]


def _manifest(config: DataConfig) -> _Found:
    manifest = Manifest.read(config.path or "")
    return manifest.pairs(config.split), manifest.changed(config.split) if config.verify else []


_LAYOUTS: dict[str, Callable[[DataConfig], _Found]] = {
    "folders": _folders,
    "segpc": _segpc,
    "list": _table,
    "manifest": _manifest,
}


def _reading(config: DataConfig) -> dict[str, Any]:
    return config.masking | config.reading


def _masks_by_stem(masks: PathLike) -> tuple[dict[str, Path], list[Problem]]:
    """Find the masks of a folder, outlines among them; or the images of one COCO file."""
    path = Path(path_text(masks))
    if is_outlines(path) and is_file(path) and (images := coco_images(path)):
        return dict.fromkeys(images, path), []
    return _by_stem(masks, OUTLINE_SUFFIXES)


def _by_stem(folder: PathLike, also: Sequence[str] = ()) -> tuple[dict[str, Path], list[Problem]]:
    files: dict[str, list[Path]] = {}
    for path in images_in([folder], also=also, advice=_SUBFOLDERS):
        files.setdefault(stem_of(path), []).append(path)
    problems = [
        Problem("same stem", stem, f"{', '.join(path.name for path in paths)} in {folder}.")
        for stem, paths in files.items()
        if len(paths) > 1
    ]
    return {stem: paths[0] for stem, paths in files.items()}, problems


def _without_partner(
    kind: ProblemKind, stems: Iterable[str], folder: PathLike, *, harmless: bool = False, advice: str = ""
) -> list[Problem]:
    text = f"no partner in {folder}.{advice}"
    return [Problem(kind, stem, text, harmless) for stem in sorted(stems, key=natural)]


def _surveyed(pairs: Sequence[Pair], problems: Sequence[Problem]) -> Survey:
    known = {problem.name for problem in problems}
    found = {pair.name: _problem_of(pair) for pair in pairs if pair.name not in known}
    good = [pair for pair in pairs if pair.name in found and found[pair.name] is None]
    warn_of_orientation(good)
    return Survey(
        tuple(sorted(good, key=lambda pair: natural(pair.name))),
        (*problems, *(problem for name in sorted(found, key=natural) if (problem := found[name]))),
    )


def _problem_of(pair: Pair) -> Problem | None:
    """Find what is wrong in the headers of a pair's files."""
    if isinstance(pair.image, np.ndarray):
        return None
    if any(os.path.realpath(file) == os.path.realpath(pair.image) for file in mask_files(pair)):
        return Problem("no mask", pair.name, f"the mask is the image itself, {pair.image}.")
    try:
        image = shape_of_image(pair)[:2]
        sizes = [(file, shape_of_mask(pair, file)[:2]) for file in mask_files(pair) if not is_outlines(file)]
    except FileError as error:
        return Problem("unreadable", pair.name, str(error))
    wrong = [f"{size[0]}x{size[1]} px in {file}" for file, size in sizes if size != image]
    if wrong:
        text = f"the image has {image[0]}x{image[1]} px, the mask {wrong[0]}."
        if image[::-1] in [size for _, size in sizes]:
            text += (
                " It may be turned: draw masks on the image as it is shown, turned by its orientation (Exif)."
            )
        elif fix := level_that_fits(pair, image, next(size for _, size in sizes if size != image)):
            text += f" {fix}"
        return Problem("size", pair.name, text)
    return None


def _usable(found: Survey, *, skip: bool) -> list[Pair]:
    bad = [problem for problem in found.problems if not problem.harmless]
    if bad and (not skip or not found.pairs):
        raise invalid(
            FileError,
            "data",
            must="have only files that can be used",
            got=f"{counted(len(bad), 'problem')} beside {counted(len(found.pairs), 'good pair')}",
            fix=f'{listed_problems(bad)} Fix them, or leave them out with problems="skip".',
        )
    if not found.pairs:
        raise invalid(
            FileError,
            "data",
            must="have at least one image with a mask",
            got="none",
            fix=f"{listed_problems(found.problems)} Check the paths and the layout.",
        )
    if found.problems:
        _log.warning("Left out: %s", listed_problems(found.problems))
    return list(found.pairs)
