"""Pairs of image and mask."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tiledseg._validate import all_of, invalid, items_of, shown
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.config import MaskParts

__all__ = ["Pair", "PairLike", "as_pair", "as_pairs", "check_apart", "natural"]

_MOST_NAMES = 20
_WHOLE = (str, os.PathLike, np.ndarray)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An image and its mask.

    Attributes
    ----------
    name : str
        What messages and tables call it.
    image : path or ndarray
        A file, or (H, W) or (H, W, C).
    mask : path, tuple of path or ndarray
        A file, several (one for each cell), or labels (H, W), boolean or integer.
    mask_threshold : int or None
        Grey value from which a px of a mask's file is foreground; None for a file that holds
        labels. An array always holds labels.
    mask_parts : {"merged", "instances", "classes"}
        What files become: one foreground; a label for each file; a label for each of
        `class_values`.
    class_values : tuple of int
        Grey values of the labels 1, 2, …, for ``mask_parts="classes"``.
    """

    name: str
    image: PathLike | AnyArray
    mask: PathLike | tuple[PathLike, ...] | AnyArray
    mask_threshold: int | None = 128
    mask_parts: MaskParts = "merged"
    class_values: tuple[int, ...] = (20, 40)


PairLike: TypeAlias = "Pair | tuple[PathLike | AnyArray, PathLike | AnyArray]"
"""A pair, or (image, mask), each an array or a path."""


def as_pairs(items: Iterable[PairLike], what: str) -> list[Pair]:
    """Take pairs, or tuples of image and mask, for pairs."""
    must, fix = "be a list of pairs of image and mask", "Find some with tiledseg.data.find_pairs."
    found = enumerate(items_of(items, what, must, fix))
    pairs = [as_pair(item, f"{what}[{place}]") for place, item in found]
    if not pairs:
        raise invalid(
            SettingError,
            what,
            must="have at least one pair of image and mask",
            got="none",
            fix=fix,
        )
    return pairs


def check_apart(train: Sequence[Pair], valid: Sequence[Pair]) -> None:
    """Check that no image is both trained and validated on."""
    fix = "Find some with tiledseg.data.find_pairs."
    known = {_identity(pair) for pair in all_of(Pair, train, "train", fix)}
    both = [pair.name for pair in all_of(Pair, valid, "valid", fix) if _identity(pair) in known]
    if both:
        raise invalid(
            SettingError,
            "valid",
            must="have no image of `train`",
            got=f"{len(both)} of them",
            fix=f"Take out of one: {_listed(both)}.",
        )


def _identity(pair: Pair) -> object:
    return id(pair.image) if isinstance(pair.image, np.ndarray) else os.path.realpath(pair.image)


def as_pair(item: object, place: str) -> Pair:
    """Take a pair, or a tuple of image and mask, for a pair."""
    parts = (item.image, item.mask) if isinstance(item, Pair) else item
    if not isinstance(parts, tuple) or len(parts) != 2:
        raise invalid(
            SettingError,
            place,
            must="be a Pair or a tuple (image, mask)",
            got=type(item).__name__,
            fix="Give each an array or a path.",
        )
    image, mask = parts
    for part, value, kinds in (("image", image, _WHOLE), ("mask", mask, (*_WHOLE, tuple))):
        if not isinstance(value, kinds):
            raise invalid(
                SettingError,
                f"{place}.{part}",
                must="be an array or a path",
                got=type(value).__name__,
                fix="Convert it with numpy.asarray.",
            )
    if isinstance(item, Pair):
        return item
    return Pair(place if isinstance(image, np.ndarray) else Path(image).stem, image, mask)


def natural(name: str) -> list[tuple[int, str]]:
    """Order digits by value: ``2`` before ``10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    text = ", ".join(shown(name) for name in names[:_MOST_NAMES])
    return f"{text} and {more} more" if more > 0 else text
