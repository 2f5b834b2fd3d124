"""Pairs read: the image, and the mask from an array, from files of px, or from outlines."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tiledseg._arrays import array_of, check_finite, check_labels, check_shape
from tiledseg._validate import invalid, listed, named, shown, whole_number
from tiledseg.data.pairs import as_pair, each_pair, mask_files
from tiledseg.errors import ArrayError, FileError, SettingError, TiledSegError
from tiledseg.io import (
    IGNORED,
    OF_ARRAYS,
    OF_PAIRS,
    Mask,
    MaskRules,
    OutlineMask,
    advised,
    class_text,
    image_shape,
    is_outlines,
    mask_of,
    mask_values,
    open_image,
    painted,
    pixel_size_from,
    read_image,
    read_outlines,
    read_pixel_size,
    stem_of,
)
from tiledseg.preprocess import SAME_SIZE, shrunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.config import PreprocessingConfig
    from tiledseg.data.pairs import Pair
    from tiledseg.io import Outline, PixelSize

_log = logging.getLogger("tiledseg")
_WHERE = "It is a setting of DataConfig, tiledseg.data.Pair and the commands."
_SHOWN = 8
_NUMBER = re.compile(r"-\d+$")
_UNNAMED = re.compile(r"\d{4,}(-\d{4,})+(-\d+)?")  # ImageJ names regions by slice, y and x
CELL_FILES = "cell masks"
"""What the masks of an image are found to be, where each is the foreground of one cell."""
_WHOLE = {"level": 0, "channels": None, "at": None, "page": None, "alpha": "refuse"}
_Number = TypeVar("_Number", bound=np.generic)


def load_pair(pair: Pair) -> tuple[AnyArray, AnyArray]:
    """Read an image and its labels, 255 where px do not count; for instances the numbers of its cells."""
    pair = as_pair(pair, "pair")
    image, mask = load_both(pair)
    return image, mask.cells if pair.mask_parts == "instances" and mask.cells is not None else mask.labels


def load_both(pair: Pair, classes: int | None = None) -> tuple[AnyArray, Mask]:
    """Read an image and its mask, with the numbers of its cells if it has them."""
    image = load_image(pair)
    mask = load_mask(pair, check_shape(image.shape)[:2], classes)
    check_mask(mask.labels, image.shape, classes or 1 + IGNORED, ignores=pair.ignores)
    return image, mask


def load_image(pair: Pair) -> AnyArray:
    """Read an image."""
    if isinstance(pair.image, np.ndarray):
        return pair.image
    with advised(_WHERE):
        return read_image(pair.image, **pair.reading)


def shape_of_image(pair: Pair) -> tuple[int, ...]:
    """Read the shape of an image without its px."""
    if isinstance(pair.image, np.ndarray):
        return pair.image.shape
    if pair.reading == _WHOLE:
        return image_shape(pair.image)
    with open_image(pair.image, **pair.reading) as image:
        return image.shape


def shape_of_mask(pair: Pair, path: PathLike) -> tuple[int, ...]:
    """Read the shape of a mask's file without its px."""
    part = {name: pair.mask_reading[name] for name in _WHOLE}
    if part | {"page": None, "alpha": "refuse"} == _WHOLE:
        return image_shape(path, page=pair.mask_page)
    with advised(_WHERE, "mask_"), open_image(path, **part) as mask:
        return mask.shape


def pixel_size_of_pair(pair: Pair) -> PixelSize | None:
    """Read the px size that an image's file states; None where it is an array, or states none."""
    if isinstance(pair.image, np.ndarray):
        return None
    if pair.level == 0 and pair.at is None:
        return read_pixel_size(pair.image, page=pair.page)
    with open_image(pair.image, **pair.reading) as image:
        return image.pixel_size


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
    pair: Pair, preprocessing: PreprocessingConfig, classes: int, meanings: list[str] | None = None
) -> tuple[AnyArray, NDArray[np.uint8]]:
    """Read and check a pair, and bring it to the px of the network; `meanings` collects what masks were."""
    # An image that does not state its px size counts as one of the stated size.
    image, whole = load_both(pair, classes)
    mask = whole.labels
    if meanings is not None:
        meanings.append(whole.found)
    check_finite(image, "image")
    size = pixel_size_of_pair(pair) if preprocessing.pixel_size else None
    pixels = shrunk(image, preprocessing, size or pixel_size_from(preprocessing.pixel_size))
    height, width = pixels.shape[:2]
    return pixels, mask if (height, width) == mask.shape else shrink_labels(mask, (height, width))


def shrink_labels(mask: NDArray[_Number], shape: tuple[int, int]) -> NDArray[_Number]:
    """Shrink a mask: each px takes the label at its centre."""
    rows, columns = (
        (2 * np.arange(small) + 1) * large // (2 * small)
        for small, large in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def check_mask(mask: AnyArray, image_shape: Sequence[int], classes: int, *, ignores: bool = False) -> None:
    """Check that a mask holds labels, fits its image, and has no label beyond the classes."""
    classes = max(2, whole_number("classes", classes))
    counted = array_of(np.where(mask == IGNORED, 0, mask) if ignores else mask, "mask")
    shape = check_shape(image_shape)[:2]
    whole = counted.dtype.kind in "iu" and counted.shape == shape
    if whole and counted.size and counted.min() >= 0 and classes <= counted.max() < IGNORED:
        raise _too_many(np.unique(counted), classes)
    check_labels(counted, "mask", shape, classes)


def _too_many(labels: AnyArray, classes: int) -> ArrayError:
    """Say what to set where masks have more classes than the network."""
    found = labels[labels > 0]
    if len(found) > _SHOWN:
        fix = "If these are the numbers of cells, set mask_parts='instances'"
    else:
        number = len(found) + 1
        fix = f"With the background these are {number} classes: set classes={number} of the network"
    if len(found) < min(labels.max(), _SHOWN + 1):  # numbers are left out
        values = f"({found[0]},)" if len(found) == 1 else f"({', '.join(map(str, found))})"
        fix += f", and mask_parts='classes', class_values={values} to renumber them"
    fix += ". If all of them are foreground, set mask_threshold=1."
    must = f"hold labels in [0, {classes - 1}], the classes of the network"
    return invalid(ArrayError, "mask", must=must, got=listed(labels, _SHOWN), fix=fix)


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
        fix = level_that_fits(pair, shape, mask.labels.shape) or "Export it at the size of its image."
        must = f"have the size of its image, (H, W) = {shape}"
        raise invalid(ArrayError, name, must=must, got=mask.labels.shape, fix=fix)
    return mask


def level_that_fits(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    """Advise the level at which image and mask, which have other sizes, are of one size; else nothing."""
    sides = (
        ("mask_level", pair.mask, pair.mask_page, "image", image),
        ("level", pair.image, pair.page, "mask", mask),
    )
    for setting, path, page, other, wanted in sides:
        if isinstance(path, str | os.PathLike):
            with suppress(TiledSegError), open_image(path, page=page, alpha="drop") as whole:
                if wanted in whole.levels:
                    return f"Set {setting}={whole.levels.index(wanted)}, which has the size of the {other}."
    return ""


def log_meanings(found: Iterable[str]) -> None:
    """Log what the values of masks were taken for: each meaning with the number of masks."""
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
    whole, each = next(masks), _is_one_cell_each(pair)
    if len(files) == 1 and not each:
        return whole
    cells = _foreground(whole, pair).astype(np.int32) if each else None
    for number, (path, part) in enumerate(zip(files[1:], masks, strict=True), 2):
        if part.labels.shape != whole.labels.shape:
            must = f"have the height and width of the image's first mask, {whole.labels.shape}"
            fix = "Export all masks of an image at its size."
            raise invalid(ArrayError, os.fspath(path), must=must, got=part.labels.shape, fix=fix)
        if cells is not None:
            cells[(cells == 0) & _foreground(part, pair)] = number
        np.maximum(whole.labels, part.labels, out=whole.labels)
    return whole if cells is None else Mask(whole.labels, cells, f"{CELL_FILES} ({len(files)} cells)")


def _is_one_cell_each(pair: Pair) -> bool:
    """Say whether each file of a mask is the foreground of one cell; a file by itself numbers cells."""
    return pair.mask_parts == "instances" and isinstance(pair.mask, tuple)


def _foreground(mask: Mask, pair: Pair) -> AnyArray:
    return np.asarray((mask.labels > 0) & ~(pair.ignores & (mask.labels == IGNORED)))


def _masks(pair: Pair, files: Sequence[PathLike], classes: int | None) -> Iterator[Mask]:
    rules = _rules(pair, classes, FileError)
    if _is_one_cell_each(pair):
        rules = MaskRules(pair.mask_threshold, ignore_label=pair.ignore_label)
    threshold = rules.threshold if rules.parts == "merged" else None
    for path in files:
        with advised(_WHERE, "mask_"):
            values, lossy = mask_values(path, threshold, ignore_label=rules.ignore_label, **pair.mask_reading)
        yield mask_of(values, named(path), rules, lossy=lossy)


def _of_outlines(pair: Pair, files: Sequence[PathLike], shape: tuple[int, int]) -> Mask:
    """Paint the outlines of an image."""
    image = pair.name if isinstance(pair.image, np.ndarray) else stem_of(pair.image)
    full, at = _whole_size(pair, shape), pair.mask_at or pair.at
    size = pixel_size_of_pair(pair)
    whole = size and size.shrunk(shape[0] / full[0], shape[1] / full[1])  # of level 0
    read = [one for path in files for one in read_outlines(path, image, full, at, whole)]
    outlines = [_without_number(_at_level(one, full, shape), pair) for one in read]
    annotated = class_text(pair.annotated_class) or None
    counted = [one for one in outlines if one.name != annotated and not one.crowd]
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
    if counted and not labels.any():
        _log.warning("%s: no px of level %d is in one of its %d outlines", where, pair.level, len(counted))
    labels[_ignored(pair, outlines, shape, where)] = IGNORED
    return Mask(labels, cells, found)


def _whole_size(pair: Pair, shape: tuple[int, int]) -> tuple[int, int]:
    """Find the size of level 0, in whose px outlines are."""
    if isinstance(pair.image, np.ndarray) or not pair.level:
        return shape
    with open_image(pair.image, **pair.reading) as image:
        return image.levels[0][0], image.levels[0][1]


def _at_level(outline: Outline, full: tuple[int, int], shape: tuple[int, int]) -> Outline:
    """Bring an outline from px of level 0 to those of the level that is read."""
    if shape == full:
        return outline
    factors = (shape[1] / full[1], shape[0] / full[0])  # of x and y
    parts = tuple(tuple(ring * factors for ring in rings) for rings in outline.parts)
    mask = None if outline.mask is None else shrink_labels(outline.mask, shape)
    return replace(outline, parts=parts, mask=mask)


def _without_number(outline: Outline, pair: Pair) -> Outline:
    """Take the number off the name of a region of ImageJ, unless a class is called so."""
    known = {class_text(name) for name in (*pair.class_names, pair.annotated_class)}
    if not outline.numbered or outline.name in known:
        return outline
    name = _NUMBER.sub("", outline.name)
    return replace(outline, name="" if name not in known and _UNNAMED.fullmatch(outline.name) else name)


def _labels_of(pair: Pair, outlines: Sequence[Outline], where: str) -> list[int]:
    """Give each outline the number of its class."""
    found = sorted({one.name for one in outlines})
    if pair.class_names:
        known = [class_text(name) for name in pair.class_names]
        unknown = [name or "no name" for name in found if name not in known]
        if unknown:
            must = f"have outlines of the classes {', '.join(pair.class_names)}"
            fix = "Add the others to `class_names`, or set `annotated_class` to that of annotated regions."
            raise invalid(FileError, where, must=must, got=listed(unknown, _SHOWN), fix=fix)
        return [known.index(one.name) + 1 for one in outlines]
    if len(found) > 1 and pair.mask_threshold == "auto":
        must = "have outlines of one class, unless a setting says what the classes mean"
        fix = (
            f"Set `class_names` to those of the labels 1, 2, …, as in {tuple(found)}, or mask_threshold=1 if "
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
    regions = [one for one in outlines if one.name == class_text(pair.annotated_class)]
    if not regions:
        known = listed(sorted({one.name for one in outlines}), _SHOWN)
        _log.warning("%s: no outline of %s (of %s): no px counts", where, shown(pair.annotated_class), known)
    return crowds | ~OutlineMask(regions, shape)[everywhere]
