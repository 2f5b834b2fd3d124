"""From pairs of files to the records of a manifest."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._progress import progress_bar
from tiledseg._validate import invalid, path_text
from tiledseg.config import Record
from tiledseg.data._each import each
from tiledseg.data._loading import load_pair
from tiledseg.data._masks import mask_files
from tiledseg.data._pairs import as_pairs
from tiledseg.errors import FileError
from tiledseg.io import file_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import PathLike
    from tiledseg.data._pairs import Pair

__all__ = ["describe", "relative_path"]


def describe(pairs: Sequence[Pair], folder: PathLike, *, progress: bool = False) -> list[Record]:
    """Read all files of pairs, and say what is to know of them."""
    pairs, target = as_pairs(pairs, "pairs"), Path(path_text(folder, "folder"))
    with progress_bar(len(pairs), "images", shown=progress) as step:

        def one(pair: Pair) -> Record:
            record = _described(pair, target)
            step(1)
            return record

        return each(pairs, one)


def relative_path(path: PathLike, folder: PathLike) -> str:
    """Spell a path relative to a folder, the same on every system."""
    try:
        return PurePath(os.path.relpath(path_text(path), path_text(folder, "folder"))).as_posix()
    except ValueError as error:
        raise invalid(
            FileError,
            os.fspath(path),
            must="be on the drive of the manifest",
            got=os.fspath(folder),
            fix="Write the manifest beside the data.",
        ) from error


def _described(pair: Pair, folder: Path) -> Record:
    if isinstance(pair.image, np.ndarray) or isinstance(pair.mask, np.ndarray):
        raise invalid(
            FileError,
            pair.name,
            must="be files to be named in a manifest",
            got="an array",
            fix="Write it with tiledseg.io.write_image and write_mask.",
        )
    _, mask = load_pair(pair)
    masks = mask_files(pair)
    return Record(
        name=pair.name,
        image=relative_path(pair.image, folder),
        masks=tuple(relative_path(path, folder) for path in masks),
        group=pair.name,
        height=mask.shape[0],
        width=mask.shape[1],
        foreground=float(np.count_nonzero(mask) / mask.size),
        digest=file_digest(pair.image),
        mask_digests=tuple(file_digest(path) for path in masks),
        mask_threshold=pair.mask_threshold,
        mask_parts=pair.mask_parts,
        class_values=pair.class_values,
    )
