"""The truth of a pair: its mask from an array, from files of px, or from outlines."""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from tiledseg._validate import array_of, invalid, listed, named, shown
from tiledseg.errors import ArrayError, FileError
from tiledseg.io import (
    IGNORED,
    OF_ARRAYS,
    OF_PAIRS,
    Mask,
    MaskRules,
    OutlineMask,
    is_outlines,
    mask_of,
    mask_values,
    painted,
    read_outlines,
    stem_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.data.pairs import Pair
    from tiledseg.io import Outline

_log = logging.getLogger("tiledseg")
_SHOWN = 8


def load_mask(pair: Pair, shape: tuple[int, int], classes: int | None = None) -> Mask:
    """Read the mask of an image of a shape; a network's number of classes helps to say what values mean."""
    files = mask_files(pair)
    if isinstance(pair.mask, np.ndarray):
        mask = mask_of(array_of(pair.mask, "mask"), "mask", _rules(pair, classes, ArrayError))
    elif any(is_outlines(path) for path in files):
        mask = _of_outlines(pair, files, shape)
    else:
        mask = _joined(pair, files, classes)
    if mask.labels.shape != shape:
        name = "mask" if isinstance(pair.mask, np.ndarray) else named(files[0])
        must, fix = f"have the size of its image, (H, W) = {shape}", "Export it at the size of its image."
        raise invalid(ArrayError, name, must=must, got=mask.labels.shape, fix=fix)
    return mask


def mask_files(pair: Pair) -> list[PathLike]:
    """List the files of a pair's mask."""
    if isinstance(pair.mask, tuple):
        return list(pair.mask)
    return [] if isinstance(pair.mask, np.ndarray) else [pair.mask]


def tell_masks(found: Iterable[str]) -> None:
    """Tell what the values of masks were taken for: each meaning with the number of masks."""
    counts = Counter(found)
    if counts:
        texts = [f"{count} of {meaning}" for meaning, count in counts.most_common()]
        _log.info("Masks: %s", listed(texts, _SHOWN))


def _rules(pair: Pair, classes: int | None, error: type[ArrayError | FileError]) -> MaskRules:
    advice = OF_ARRAYS if error is ArrayError else OF_PAIRS
    return MaskRules(
        pair.mask_threshold, pair.mask_parts, pair.class_values, pair.ignore_label, classes, advice, error
    )


def _joined(pair: Pair, files: Sequence[PathLike], classes: int | None) -> Mask:
    """Read one file, or join several of one image: each is a cell, or higher labels hold."""
    if not files:
        raise invalid(ArrayError, "mask", must="have at least one file", got="none", fix="Name one.")
    masks = _masks(pair, files, classes)
    whole = next(masks)
    if len(files) == 1:
        return whole
    cells = (whole.labels > 0).astype(np.int32) if pair.mask_parts == "instances" else None
    for number, (path, part) in enumerate(zip(files[1:], masks, strict=True), 2):
        if part.labels.shape != whole.labels.shape:
            must = f"have the height and width of the image's first mask, {whole.labels.shape}"
            fix = "Export all masks of an image at its size."
            raise invalid(ArrayError, os.fspath(path), must=must, got=part.labels.shape, fix=fix)
        if cells is not None:
            cells[(cells == 0) & (part.labels > 0)] = number
        np.maximum(whole.labels, part.labels, out=whole.labels)
    return whole if cells is None else Mask(whole.labels, cells, f"cell masks ({len(files)} cells)")


def _masks(pair: Pair, files: Sequence[PathLike], classes: int | None) -> Iterator[Mask]:
    rules = _rules(pair, classes, FileError)
    if pair.mask_parts == "instances" and len(files) > 1:  # each file is the foreground of one cell
        rules = MaskRules(pair.mask_threshold, ignore_label=pair.ignore_label)
    threshold = rules.threshold if rules.parts == "merged" else None
    alpha: Literal["refuse", "drop"] = "drop" if pair.alpha == "drop" else "refuse"
    for path in files:
        values, lossy = mask_values(path, threshold, page=pair.mask_page, alpha=alpha, palette=pair.palette)
        yield mask_of(values, named(path), rules, lossy=lossy)


def _of_outlines(pair: Pair, files: Sequence[PathLike], shape: tuple[int, int]) -> Mask:
    """Paint the outlines of an image."""
    image = pair.name if isinstance(pair.image, np.ndarray) else stem_of(pair.image)
    outlines = [one for path in files for one in read_outlines(path, image)]
    counted = [one for one in outlines if one.name != pair.annotated_class and not one.crowd]
    where = named(files[0])
    cells = None
    if pair.mask_parts == "instances":
        cells = painted(counted, range(1, len(counted) + 1), shape, first=True)
        labels, found = (cells > 0).astype(np.uint8), f"outlines of {len(counted)} cells"
    else:
        numbers = _labels_of(pair, counted, where)
        order = np.argsort(numbers, kind="stable")
        ranked = [counted[place] for place in order]
        labels = painted(ranked, [numbers[place] for place in order], shape).astype(np.uint8)
        found = f"{len(counted)} outlines of {', '.join(pair.class_names) or 'foreground'}"
    labels[_ignored(pair, outlines, shape, where)] = IGNORED
    return Mask(labels, cells, found)


def _labels_of(pair: Pair, outlines: Sequence[Outline], where: str) -> list[int]:
    """Give each outline the number of its class."""
    found = sorted({one.name for one in outlines})
    if pair.class_names:
        unknown = [name or "no name" for name in found if name not in pair.class_names]
        if unknown:
            must = f"have outlines of the classes {', '.join(pair.class_names)}"
            fix = "Add the others to class_names, or set annotated_class to what bounds the annotated region."
            raise invalid(FileError, where, must=must, got=listed(unknown, _SHOWN), fix=fix)
        return [pair.class_names.index(one.name) + 1 for one in outlines]
    if len(found) > 1 and pair.mask_threshold == "auto":
        must = "have outlines of one class, or be said what the classes mean"
        fix = (
            f"Set class_names to those of the labels 1, 2, …, as in {tuple(found)}, or mask_threshold=1 if "
            'all outlines are foreground, or mask_parts="instances" if each is a cell.'
        )
        raise invalid(
            FileError, where, must=must, got=listed([one or "no name" for one in found], _SHOWN), fix=fix
        )
    return [1] * len(outlines)


def _ignored(pair: Pair, outlines: Sequence[Outline], shape: tuple[int, int], where: str) -> AnyArray:
    """Mark px outside the annotated regions, and those of crowds."""
    everywhere = (slice(0, shape[0]), slice(0, shape[1]))
    crowds = OutlineMask([one for one in outlines if one.crowd], shape)[everywhere]
    if crowds.any() and not pair.ignores:
        fix = "Set ignore_label=255, so that px of crowds do not count."
        raise invalid(FileError, where, must="outline each object", got="crowds (iscrowd)", fix=fix)
    if pair.annotated_class is None:
        return crowds
    regions = [one for one in outlines if one.name == pair.annotated_class]
    if not regions:
        known = listed(sorted({one.name for one in outlines}), _SHOWN)
        _log.warning("%s: no outline of %s (of %s): no px counts", where, shown(pair.annotated_class), known)
    return crowds | ~OutlineMask(regions, shape)[everywhere]
