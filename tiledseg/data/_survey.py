"""What a dataset holds, and what is wrong with it, before any work starts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import instance_of, invalid
from tiledseg.config import DataConfig
from tiledseg.data._layouts import find, in_folders
from tiledseg.data._manifest import Manifest
from tiledseg.data._masks import mask_files
from tiledseg.data._pairs import natural
from tiledseg.data._problems import Problem, listed
from tiledseg.errors import FileError
from tiledseg.io import image_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiledseg._types import PathLike
    from tiledseg.data._pairs import Pair

__all__ = ["Survey", "find_pairs", "pairs_of", "survey"]

_log = logging.getLogger("tiledseg")


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found.

    Attributes
    ----------
    pairs : tuple of Pair
        What can be used, in natural order of the names.
    problems : tuple of Problem
        What cannot, and why.
    """

    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        counts = f"{len(self.pairs)} pairs, {len(self.problems)} problems"
        return "\n".join([counts, *(f"  {problem}" for problem in self.problems)])


def survey(config: DataConfig) -> Survey:
    """Find images and masks, pair them, and read the headers of their files.

    Parameters
    ----------
    config : DataConfig
        Where they are.

    Returns
    -------
    Survey
        What can be used, and what cannot.

    Raises
    ------
    FileError
        If a folder, a table or a manifest cannot be read.
    SettingError
        If `config` is none.
    """
    instance_of(DataConfig, config, "config")
    if config.layout == "manifest":
        manifest = Manifest.read(config.path or "")
        pairs = manifest.pairs(config.split)
        problems = manifest.changed(config.split) if config.verify else []
    else:
        pairs, problems = find(config)
    return _checked(pairs, problems)


def pairs_of(config: DataConfig) -> list[Pair]:
    """Find the pairs that settings name."""
    return _usable(survey(config), skip=config.problems == "skip")


def find_pairs(images_dir: PathLike, masks_dir: PathLike, *, mask_threshold: int | None = 128) -> list[Pair]:
    """Pair the images of one folder with the masks of another by stem.

    ``7.jpg`` goes with ``7.png``; the order is natural: ``2`` before ``10``. Only the headers of
    the files are read.

    Parameters
    ----------
    images_dir : path
        Folder of images.
    masks_dir : path
        Folder of masks.
    mask_threshold : int or None
        Grey value from which a mask's px is foreground; None for masks that hold labels.

    Returns
    -------
    list of Pair
        At least one.

    Raises
    ------
    FileError
        If a folder or a file cannot be read, two files of a folder share a stem, an image or a
        mask has no partner, or they differ in size; the message names all of it.
    """
    pairs, problems = in_folders(images_dir, masks_dir, {"mask_threshold": mask_threshold})
    return _usable(_checked(pairs, problems), skip=False)


def _checked(pairs: Iterable[Pair], problems: Sequence[Problem]) -> Survey:
    known = {problem.name for problem in problems}
    found = {pair.name: _problem_of(pair) for pair in pairs if pair.name not in known}
    good = [pair for pair in pairs if pair.name in found and found[pair.name] is None]
    return Survey(
        tuple(sorted(good, key=lambda pair: natural(pair.name))),
        (*problems, *(problem for problem in found.values() if problem)),
    )


def _problem_of(pair: Pair) -> Problem | None:
    """Say what the headers of a pair's files show to be wrong."""
    if isinstance(pair.image, np.ndarray):
        return None
    try:
        image = image_shape(pair.image)[:2]
        sizes = [(file, image_shape(file)[:2]) for file in mask_files(pair)]
    except FileError as error:
        return Problem("unreadable", pair.name, str(error))
    wrong = [f"{size[0]}x{size[1]} px in {file}" for file, size in sizes if size != image]
    if wrong:
        text = f"the image has {image[0]}x{image[1]} px, the mask {wrong[0]}."
        return Problem("size", pair.name, text)
    return None


def _usable(found: Survey, *, skip: bool) -> list[Pair]:
    bad = [problem for problem in found.problems if not problem.harmless]
    if bad and (not skip or not found.pairs):
        raise invalid(
            FileError,
            "data",
            must="have no files that cannot be used",
            got=f"{len(bad)} problems beside {len(found.pairs)} good pairs",
            fix=f'{listed(bad)} Mend them, or leave them out with problems="skip".',
        )
    if not found.pairs:
        raise invalid(
            FileError,
            "data",
            must="have at least one image with a mask",
            got="none",
            fix=f"{listed(found.problems)} Check the paths and the layout.",
        )
    if found.problems:
        _log.warning("Left out: %s", listed(found.problems))
    return list(found.pairs)
