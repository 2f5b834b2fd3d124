"""Pairs of image and mask: what they are, how they are read, and what can be wrong with them."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np

from tiledseg._validate import (
    all_of,
    check_finite,
    check_labels,
    check_shape,
    invalid,
    items_of,
    listed,
    shown,
    whole_number,
)
from tiledseg.errors import ArrayError, SettingError, TiledSegError
from tiledseg.io import read_image, read_mask, read_pixel_size, stem_of
from tiledseg.preprocess import SAME_SIZE, pixel_size_from, shrunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.config import MaskParts, PreprocessingConfig
    from tiledseg.io import PixelSize

_log = logging.getLogger("tiledseg")
_MOST_NAMES, _MOST_ERRORS, _MOST_VALUES = 20, 10, 5  # in one message
_LARGEST_LABEL = 255
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
    """Turn pairs, or tuples of image and mask, into pairs."""
    found = enumerate(items_of(items, what, "be a list of pairs of image and mask", _FIND))
    pairs = [as_pair(item, f"{what}[{place}]") for place, item in found]
    if not pairs:
        must = "have at least one pair of image and mask"
        raise invalid(SettingError, what, must=must, got="none", fix=_FIND)
    return pairs


def as_pair(item: object, place: str) -> Pair:
    """Turn a pair, or a tuple of image and mask, into a pair."""
    parts = (item.image, item.mask) if isinstance(item, Pair) else item
    if not isinstance(parts, tuple) or len(parts) != 2:
        must, fix = "be a Pair or a tuple (image, mask)", "Give each an array or a path."
        raise invalid(SettingError, place, must=must, got=type(item).__name__, fix=fix)
    image, mask = parts
    kinds = (str, os.PathLike, np.ndarray)
    for part, value, allowed in (("image", image, kinds), ("mask", mask, (*kinds, tuple))):
        if not isinstance(value, allowed):
            must, fix = "be an array or a path", "Convert it with numpy.asarray."
            raise invalid(SettingError, f"{place}.{part}", must=must, got=type(value).__name__, fix=fix)
    if isinstance(item, Pair):
        return item
    return Pair(place if isinstance(image, np.ndarray) else stem_of(image), image, mask)


def check_apart(train: Sequence[Pair], valid: Sequence[Pair]) -> None:
    """Check that no image is in both the training and the validation data."""
    known = {_identity(pair) for pair in all_of(Pair, train, "train", _FIND)}
    both = [pair.name for pair in all_of(Pair, valid, "valid", _FIND) if _identity(pair) in known]
    if both:
        raise invalid(
            SettingError,
            "valid",
            must="have no image of `train`",
            got=f"{len(both)} of them",
            fix=f"Remove these from one of the two: {listed(both, _MOST_NAMES)}.",
        )


def _identity(pair: Pair) -> object:
    return id(pair.image) if isinstance(pair.image, np.ndarray) else os.path.realpath(pair.image)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders digits by value: ``2`` before ``10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def each_pair(pairs: Sequence[Pair], function: Callable[[Pair], _Result]) -> list[_Result]:
    """Apply a function to each pair, and raise one error that names all pairs for which it failed."""
    results, errors = [], []
    for pair in pairs:
        try:
            results.append(function(pair))
        except TiledSegError as error:
            errors.append((pair.name, error))
    if errors:
        texts = [f"{shown(name)}: {error}" for name, error in errors[:_MOST_ERRORS]]
        more = f" … and {len(errors) - _MOST_ERRORS} more." if len(errors) > _MOST_ERRORS else ""
        text = f"{len(errors)} of {len(pairs)} pairs cannot be used. {' '.join(texts)}{more}"
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


def load_pair(pair: Pair) -> tuple[AnyArray, NDArray[np.uint8]]:
    """Read an image and its mask."""
    pair = as_pair(pair, "pair")
    image = load_image(pair)
    mask = pair.mask if isinstance(pair.mask, np.ndarray) else _read_labels(pair)
    check_mask(mask, image.shape, 1 + _LARGEST_LABEL)
    return image, mask.astype(np.uint8, copy=False)


def load_image(pair: Pair) -> AnyArray:
    """Read an image."""
    return pair.image if isinstance(pair.image, np.ndarray) else read_image(pair.image)


def pixel_size_of_pair(pair: Pair) -> PixelSize | None:
    """Read the px size that an image's file states; None where it is an array, or states none."""
    return None if isinstance(pair.image, np.ndarray) else read_pixel_size(pair.image)


def with_pixel_size(preprocessing: PreprocessingConfig, pairs: Sequence[Pair]) -> PreprocessingConfig:
    """Add the px size that all images state, unless one is given; refuse images that state different ones."""
    sizes = each_pair(pairs, pixel_size_of_pair)
    known = [(pair.name, size) for pair, size in zip(pairs, sizes, strict=True) if size is not None]
    stated, missing = preprocessing.pixel_size, len(pairs) - len(known)
    if known and missing:
        text = "%d of %d images do not state their px size: %s"
        _log.warning(
            text,
            missing,
            len(pairs),
            "no px size is saved" if stated is None else f"they count as {stated} µm",
        )
    if stated is not None or not known or missing:
        return preprocessing
    first = known[0][1]
    other = next((one for one in known if not first.is_near(one[1], SAME_SIZE)), None)
    if other is not None:
        raise invalid(
            SettingError,
            "preprocessing.pixel_size",
            must="be given where the images state different px sizes",
            got=f"{first} of {shown(known[0][0])}, {other[1]} of {shown(other[0])}",
            fix="Give the µm per px to which all images are brought.",
        )
    return preprocessing.changed(pixel_size=first.y if first.y == first.x else (first.y, first.x))


def load_shrunk(
    pair: Pair, preprocessing: PreprocessingConfig, classes: int
) -> tuple[AnyArray, NDArray[np.uint8]]:
    """Read and check a pair, and bring it to the px of the network."""
    # An image that does not state its px size counts as one of the stated size.
    image, mask = load_pair(pair)
    check_mask(mask, image.shape, classes)
    check_finite(image, "image")
    size = pixel_size_of_pair(pair) if preprocessing.pixel_size else None
    pixels = shrunk(image, preprocessing, size or pixel_size_from(preprocessing.pixel_size))
    height, width = pixels.shape[:2]
    return pixels, mask if (height, width) == mask.shape else shrink_labels(mask, (height, width))


def shrink_labels(mask: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Shrink a mask: each px takes the label at its centre."""
    rows, columns = (
        (2 * np.arange(small) + 1) * large // (2 * small)
        for small, large in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def check_mask(mask: AnyArray, image_shape: Sequence[int], classes: int) -> None:
    """Check that a mask holds labels, fits its image, and has no label beyond the classes."""
    classes = max(2, whole_number("classes", classes))
    check_labels(mask, "mask", check_shape(image_shape)[:2], classes)


def mask_files(pair: Pair) -> list[PathLike]:
    """List the files of a pair's mask."""
    if isinstance(pair.mask, tuple):
        return list(pair.mask)
    return [] if isinstance(pair.mask, np.ndarray) else [pair.mask]


def _read_labels(pair: Pair) -> NDArray[np.uint8]:
    """Read the labels of a pair from its mask's files."""
    files, instances = mask_files(pair), pair.mask_parts == "instances"
    if instances and len(files) > _LARGEST_LABEL:
        must, fix = f"have at most {_LARGEST_LABEL} cells with mask_parts=instances", "Use mask_parts=merged."
        raise invalid(ArrayError, "mask", must=must, got=len(files), fix=fix)
    labels: NDArray[np.uint8] | None = None
    for number, part in enumerate(_parts(files, pair), 1):
        labels = np.zeros_like(part) if labels is None else labels
        if part.shape != labels.shape:
            must = f"have the height and width of the image's first mask, {labels.shape}"
            fix = "Export all masks of an image at its size."
            raise invalid(ArrayError, os.fspath(files[number - 1]), must=must, got=part.shape, fix=fix)
        if instances:
            labels[(labels == 0) & (part > 0)] = number
        else:
            np.maximum(labels, part, out=labels)
    if labels is None:
        raise invalid(ArrayError, "mask", must="have at least one file", got="none", fix="Name one.")
    return labels


def _parts(files: Sequence[PathLike], pair: Pair) -> Iterator[NDArray[np.uint8]]:
    for file in files:
        if pair.mask_parts == "classes":
            yield _class_labels(os.fspath(file), read_mask(file, threshold=None), pair.class_values)
        else:
            yield read_mask(file, threshold=pair.mask_threshold)


def _class_labels(name: str, values: NDArray[np.uint8], known: Sequence[int]) -> NDArray[np.uint8]:
    """Turn grey values into labels, 0 into 0, by a table of all 256."""
    table = np.full(256, _LARGEST_LABEL, np.uint8)
    table[[0, *known]] = np.arange(len(known) + 1)
    unknown = np.setdiff1d(values, [0, *known])
    if unknown.size:
        must = f"have only the grey values 0, {', '.join(map(str, known))}"
        fix = "Set class_values to the values of the classes."
        raise invalid(ArrayError, name, must=must, got=listed(unknown, _MOST_VALUES), fix=fix)
    return np.asarray(table[values], np.uint8)
