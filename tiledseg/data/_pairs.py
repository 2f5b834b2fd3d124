"""Pairs of image and mask, found by stem."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tiledseg._checks import broken, shown
from tiledseg.data._each import each
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import find_images, image_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.config import DataConfig

__all__ = ["Pair", "PairLike", "as_pairs", "check_apart", "find_pairs", "pairs_of"]

_MOST_NAMES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An image and its mask.

    Attributes
    ----------
    name : str
        What messages and tables call it.
    image : path or ndarray
        A file, or (H, W) or (H, W, C).
    mask : path or ndarray
        A file, or labels (H, W), boolean or integer.
    mask_threshold : int or None
        Grey value from which a px of a mask's file is foreground; None for a file that holds
        labels. An array always holds labels.
    """

    name: str
    image: PathLike | AnyArray
    mask: PathLike | AnyArray
    mask_threshold: int | None = 128


PairLike: TypeAlias = "Pair | tuple[PathLike | AnyArray, PathLike | AnyArray]"
"""A pair, or (image, mask), each an array or a path."""


def pairs_of(config: DataConfig) -> list[Pair]:
    """Find the pairs that settings name.

    Parameters
    ----------
    config : DataConfig
        The folders, and how masks are read.

    Returns
    -------
    list of Pair
        As of `find_pairs`.

    Raises
    ------
    FileError
        As of `find_pairs`.
    ArrayError
        As of `find_pairs`.
    """
    return find_pairs(config.images, config.masks, mask_threshold=config.mask_threshold)


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
        If a folder or a file cannot be read, two files of a folder share a stem, or an image or
        a mask has no partner.
    ArrayError
        If an image and its mask differ in size.
    """
    images, masks = _by_stem(images_dir), _by_stem(masks_dir)
    _check_partners(images_dir, masks_dir, images.keys(), masks.keys())
    stems = sorted(images, key=_natural)
    pairs = [Pair(stem, images[stem], masks[stem], mask_threshold) for stem in stems]
    each(pairs, _check_sizes)
    return pairs


def as_pairs(items: Iterable[PairLike], what: str) -> list[Pair]:
    """Take pairs, or tuples of image and mask, for pairs.

    Parameters
    ----------
    items : iterable of Pair or tuple
        A tuple is (image, mask), each an array or a path; it is named after its image's file, or
        after its place.
    what : str
        Name of the argument, for messages.

    Returns
    -------
    list of Pair
        At least one.

    Raises
    ------
    SettingError
        If there is none, or an item is neither a pair nor a tuple of two.

    Examples
    --------
    >>> [pair.name for pair in as_pairs([("a/7.jpg", "b/7.png"), (np.zeros((4, 4)), "8.png")], "train")]
    ['7', 'train[1]']
    """
    pairs = [_as_pair(item, f"{what}[{place}]") for place, item in enumerate(items)]
    if not pairs:
        raise broken(
            SettingError,
            what,
            must="have at least one pair of image and mask",
            got="none",
            fix="Find some with tiledseg.data.find_pairs.",
        )
    return pairs


def check_apart(train: Sequence[Pair], valid: Sequence[Pair]) -> None:
    """Check that no image is both trained and validated on.

    Parameters
    ----------
    train, valid : sequence of Pair
        Images are the same where they are the same file or the same array.

    Raises
    ------
    SettingError
        If an image is in both.
    """
    known = {_identity(pair) for pair in train}
    both = [pair.name for pair in valid if _identity(pair) in known]
    if both:
        raise broken(
            SettingError,
            "valid",
            must="have no image of `train`",
            got=f"{len(both)} of them",
            fix=f"Take out of one: {_listed(both)}.",
        )


def _identity(pair: Pair) -> object:
    return id(pair.image) if isinstance(pair.image, np.ndarray) else os.path.realpath(pair.image)


def _as_pair(item: object, place: str) -> Pair:
    if isinstance(item, Pair):
        return item
    if not isinstance(item, tuple) or len(item) != 2:
        raise broken(
            SettingError,
            place,
            must="be a Pair or a tuple (image, mask)",
            got=type(item).__name__,
            fix="Give each an array or a path.",
        )
    for part, value in zip(("image", "mask"), item, strict=True):
        if not isinstance(value, str | os.PathLike | np.ndarray):
            raise broken(
                SettingError,
                f"{place}.{part}",
                must="be an array or a path",
                got=type(value).__name__,
                fix="Convert it with numpy.asarray.",
            )
    image, mask = item
    return Pair(place if isinstance(image, np.ndarray) else Path(image).stem, image, mask)


def _by_stem(folder: PathLike) -> dict[str, Path]:
    files: dict[str, list[Path]] = {}
    for path in find_images([folder]):
        files.setdefault(path.stem, []).append(path)
    repeated = [path.name for paths in files.values() if len(paths) > 1 for path in paths]
    if repeated:
        raise broken(
            FileError,
            str(folder),
            must="hold one file per stem",
            got=f"{len(repeated)} that share one",
            fix=f"Rename or move some of: {_listed(repeated)}.",
        )
    return {stem: paths[0] for stem, paths in files.items()}


def _check_partners(
    images_dir: PathLike, masks_dir: PathLike, images: Iterable[str], masks: Iterable[str]
) -> None:
    for folder, alone, what in (
        (masks_dir, set(images) - set(masks), "a mask for every image"),
        (images_dir, set(masks) - set(images), "an image for every mask"),
    ):
        if alone:
            raise broken(
                FileError,
                str(folder),
                must=f"hold {what}",
                got=f"{len(alone)} missing",
                fix=f"No partner of the same stem: {_listed(sorted(alone, key=_natural))}.",
            )


def _check_sizes(pair: Pair) -> None:
    image, mask = (image_shape(path)[:2] for path in (pair.image, pair.mask))  # type: ignore[arg-type]
    if image != mask:
        raise broken(
            ArrayError,
            "mask",
            must=f"have the height and width of its image, {image}",
            got=mask,
            fix="Export both at the same size.",
        )


def _natural(name: str) -> list[tuple[int, str]]:
    """Order digits by value: ``2`` before ``10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    text = ", ".join(shown(name) for name in names[:_MOST_NAMES])
    return f"{text} and {more} more" if more > 0 else text
