"""Pairs of image and mask: what they are, and what can be wrong with them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np

from tiledseg._validate import all_of, instance_of, invalid, items_of, listed, settings_of, shown
from tiledseg.config.files import MaskConfig, ReadConfig
from tiledseg.errors import SettingError, TiledSegError
from tiledseg.io import Drawn, in_memory, stem_of
from tiledseg.io import warn_of_orientation as warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.config import MaskParts

_MOST_NAMES, _MOST_ERRORS = 20, 3  # in one message
_FOUND = re.compile(r"^`[^`]*`(.*?); got .*?\. ")  # the file and the value that a message names
_FIND = "Find some with tiledseg.data.find_pairs."
_Result = TypeVar("_Result")

ProblemKind: TypeAlias = Literal["unreadable", "changed", "same stem", "no mask", "no image", "size"]
"""A file cannot be read or has changed; a stem occurs twice; a partner is missing; sizes differ."""

_KINDS: tuple[ProblemKind, ...] = ("unreadable", "changed", "same stem", "no mask", "no image", "size")


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An image and its mask.

    Attributes
    ----------
    name : str
        Name in messages and tables.
    image : path or ndarray
        A file, or (H, W) or (H, W, C).
    mask : path, tuple of path or ndarray
        A file, several (one for each cell), or labels (H, W), boolean or integer.
    mask_threshold : int, float, "auto" or None
        Value from which a px of a mask is foreground; None for labels of classes. ``"auto"``: the values
        decide, see `tiledseg.io.read_mask`.
    mask_parts : {"merged", "instances", "classes"}
        What values become: one foreground; cells with a number each (every value but 0 is a cell, or
        every file); a label for each of `class_values` or `class_names`.
    class_values : tuple of int
        Values of the labels 1, 2, …, for ``mask_parts="classes"``.
    class_names : tuple of str
        Names of the classes 1, 2, … in files of outlines.
    ignore_label : int or None
        Value of px that do not count.
    annotated_class : str or None
        Name of the outlines outside of which px do not count.
    level, channels, at, page, alpha
        Which part of the image's file is read; see `tiledseg.io.read_image`.
    palette : {"refuse", "index", "colour"}
        Value of a px of a mask with a palette, or in which 0 is white: as stored, or as shown.
    mask_level, mask_channels, mask_at, mask_page
        Which part of a mask's file is read; see `tiledseg.io.read_mask`.
    """

    name: str
    image: PathLike | AnyArray
    mask: PathLike | tuple[PathLike, ...] | AnyArray
    mask_threshold: float | Literal["auto"] | None = "auto"
    mask_parts: MaskParts = "merged"
    class_values: tuple[int, ...] = (20, 40)
    class_names: tuple[str, ...] = ()
    ignore_label: int | None = None
    annotated_class: str | None = None
    level: int = 0
    channels: tuple[int, ...] | None = None
    at: Mapping[str, int] | None = None
    page: int | str | None = None
    alpha: Literal["refuse", "drop", "keep"] = "refuse"
    palette: Literal["refuse", "index", "colour"] = "refuse"
    mask_level: int = 0
    mask_channels: tuple[int, ...] | None = None
    mask_at: Mapping[str, int] | None = None
    mask_page: int | str | None = None

    def __post_init__(self) -> None:
        instance_of(str, self.name, "Pair.name")
        given = {name: value for name in _DEFAULTS if (value := getattr(self, name)) is not _DEFAULTS[name]}
        if not given:  # as of most: a dataset has many pairs
            return
        given |= {name: given[name] or None for name in given.keys() & {"at", "mask_at"}}
        part, meaning = (
            {name: given[name] for name in given.keys() & of.model_fields} for of in (ReadConfig, MaskConfig)
        )
        read, masks = settings_of(ReadConfig, part, "Pair"), settings_of(MaskConfig, meaning, "Pair")
        for name, value in (read.reading | masks.masking).items():
            object.__setattr__(self, name, value)
        _check_no_part(self, "image", ("level", "channels", "page"))
        _check_no_part(self, "mask", ("mask_level", "mask_channels", "mask_at", "mask_page", "palette"))

    @property
    def ignores(self) -> bool:
        """Whether some px may not count: they have the label 255."""
        return self.ignore_label is not None or self.annotated_class is not None

    @property
    def reading(self) -> dict[str, Any]:
        """Which part of the image's file is read, as options of `tiledseg.io.read_image`."""
        return {name: getattr(self, name) for name in ("level", "channels", "at", "page", "alpha")}

    @property
    def mask_reading(self) -> dict[str, Any]:
        """Which part of a mask's file is read, as options of `tiledseg.io.read_mask`."""
        part = {name: getattr(self, f"mask_{name}") for name in ("level", "channels", "at", "page")}
        return part | {"alpha": "drop" if self.alpha == "drop" else "refuse", "palette": self.palette}


_SETTINGS = {*ReadConfig.model_fields, *MaskConfig.model_fields}
_DEFAULTS = {field.name: field.default for field in fields(Pair) if field.name in _SETTINGS}


def _check_no_part(pair: Pair, what: str, settings: Sequence[str]) -> None:
    """Refuse to choose a part of an array, which is whole."""
    if isinstance(getattr(pair, what), str | os.PathLike | tuple):
        return
    for name in settings:
        value = getattr(pair, name)
        if value != _DEFAULTS[name]:
            must, fix = f"be left out where the {what} is an array", "Slice the array."
            raise invalid(SettingError, f"Pair.{name}", must=must, got=value, fix=fix)


PairLike: TypeAlias = "Pair | tuple[PathLike | AnyArray, PathLike | AnyArray]"
"""A pair, or (image, mask), each an array or a path."""


def as_pairs(items: Iterable[PairLike], what: str) -> list[Pair]:
    """Turn pairs, or tuples of image and mask, into pairs."""
    found = enumerate(items_of(items, what, "be a list of pairs of image and mask", _FIND))
    pairs = [as_pair(item, f"{what}[{place}]") for place, item in found]
    if not pairs:
        must = "have at least one pair of image and mask"
        raise invalid(SettingError, what, must=must, got="none", fix=_FIND)
    warn_of_orientation(pairs)
    return pairs


def as_pair(item: object, place: str) -> Pair:
    """Turn a pair, or a tuple of image and mask, into a pair."""
    parts = (item.image, item.mask) if isinstance(item, Pair) else item
    if not isinstance(parts, tuple) or len(parts) != 2:
        must, fix = "be a Pair or a tuple (image, mask)", "Give each an array or a path."
        if isinstance(parts, np.ndarray):
            fix += " Of images and their masks, list(zip(images, masks)) makes pairs."
        raise invalid(SettingError, place, must=must, got=type(item).__name__, fix=fix)
    image, mask = (
        in_memory(part, f"{place}.{what}") for what, part in zip(("image", "mask"), parts, strict=True)
    )
    kinds = (str, os.PathLike, np.ndarray)
    for part, value, allowed in (("image", image, kinds), ("mask", mask, (*kinds, tuple))):
        if not isinstance(value, allowed):
            must, fix = "be an array or a path", "Convert it with numpy.asarray."
            raise invalid(SettingError, f"{place}.{part}", must=must, got=type(value).__name__, fix=fix)
    if isinstance(item, Pair):
        return item if item.image is image and item.mask is mask else replace(item, image=image, mask=mask)
    return Pair(place if isinstance(image, np.ndarray) else stem_of(image), image, mask)


def mask_files(pair: Pair) -> list[PathLike]:
    """List the files of a pair's mask."""
    if isinstance(pair.mask, tuple):
        return list(pair.mask)
    return [] if isinstance(pair.mask, np.ndarray) else [pair.mask]


def warn_of_orientation(pairs: Iterable[Pair]) -> None:
    """Warn once of pairs of which image and mask are turned differently, and no size shows it."""
    warn(Drawn(pair.name, pair.image, tuple(mask_files(pair)), pair.page, pair.mask_page) for pair in pairs)


def check_apart(first: Sequence[Pair], valid: Sequence[Pair], name: str = "train") -> None:
    """Check that no image is in both lists, the first of which has this name."""
    known = {_identity(pair) for pair in all_of(Pair, first, name, _FIND)}
    both = [pair.name for pair in all_of(Pair, valid, "valid", _FIND) if _identity(pair) in known]
    if both:
        raise invalid(
            SettingError,
            "valid",
            must=f"have no image of `{name}`",
            got=f"{len(both)} of them",
            fix=f"Remove these from one of the two: {listed(both, _MOST_NAMES)}.",
        )


def _identity(pair: Pair) -> object:
    return id(pair.image) if isinstance(pair.image, np.ndarray) else os.path.realpath(pair.image)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders digits by value: ``2`` before ``10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _said_once(errors: Sequence[tuple[str, TiledSegError]]) -> str:
    """Write errors of pairs, each that differs in no more than the file and the value found only once."""
    groups: dict[str, list[tuple[str, TiledSegError]]] = {}
    for name, error in errors:
        groups.setdefault(_FOUND.sub(r"\1", str(error)), []).append((name, error))
    texts = []
    for (name, error), *others in list(groups.values())[:_MOST_ERRORS]:
        same = f" The same with {listed([other for other, _ in others], _MOST_ERRORS)}." if others else ""
        texts.append(f"{shown(name)}: {error}{same}")
    more = sum(len(group) for group in list(groups.values())[_MOST_ERRORS:])
    return " ".join([*texts, f"… and {more} more."] if more else texts)


def each_pair(pairs: Sequence[Pair], function: Callable[[Pair], _Result]) -> list[_Result]:
    """Apply a function to each pair, and raise one error that names all pairs for which it failed."""
    results, errors = [], []
    for pair in pairs:
        try:
            results.append(function(pair))
        except TiledSegError as error:
            errors.append((pair.name, error))
    if errors:
        text = f"{len(errors)} of {len(pairs)} pairs cannot be used. {_said_once(errors)}"
        raise type(errors[0][1])(text) from errors[0][1]
    return results


@dataclass(frozen=True, slots=True)
class Problem:
    """A file, or several of one name, that cannot be used."""

    kind: ProblemKind
    name: str  # of the image
    text: str  # the details, on one line
    harmless: bool = False  # whether the layout allows it: the other pairs are used in any case

    def __str__(self) -> str:
        return f"{self.kind}: {shown(self.name)}: {self.text}"


def listed_problems(problems: Sequence[Problem]) -> str:
    """List problems on one line: each kind with its names, and the text of its first."""
    ordered = sorted(problems, key=lambda problem: _KINDS.index(problem.kind))
    groups = {kind: list(group) for kind, group in groupby(ordered, lambda problem: problem.kind)}
    names = {kind: listed([one.name for one in group], _MOST_NAMES) for kind, group in groups.items()}
    firsts = {kind: group[0].text.rstrip(".") for kind, group in groups.items()}
    return " ".join(f"{kind}: {names[kind]} (the first: {firsts[kind]})." for kind in groups)
