"""Maps that were computed before, in files: found by the names of their images, and read."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import ELSEWHERE, invalid, listed, named, path_text, text_of_path
from tiledseg.data import as_pairs, mask_files
from tiledseg.errors import FileError, TiledSegError
from tiledseg.io import (
    MaskRules,
    advised,
    image_shape,
    images_in,
    mask_of,
    mask_values,
    open_image,
    read_image,
    read_probs,
    stem_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.data import Pair
    from tiledseg.io import Mask

_log = logging.getLogger("tiledseg")
WHERE = f"Read the map with tiledseg.read_image, {ELSEWHERE}, and pass the array."
"""Where options of a map's file are."""

_FEW, _SHOWN = 20, 6  # up to so many dark values are no probabilities
_WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def check_other_files(maps: Sequence[object], pairs: Sequence[Pair]) -> None:
    """Refuse maps that are files of the images or of the truth, which would agree with itself."""
    for ready, pair in zip(maps, pairs, strict=True):
        found = text_of_path(ready)
        own = [text_of_path(one) for one in (*mask_files(pair), pair.image)]
        if found and os.path.realpath(found) in [os.path.realpath(one) for one in own if one]:
            must, fix = "be other files than the images and their masks", "Name the folder of the maps."
            raise invalid(FileError, "maps", must=must, got=found, fix=fix)


def find_maps(folder: PathLike, pairs: Sequence[Pair]) -> list[Path]:
    """Find the map of each pair in a folder, by its name; in folders within it where names are paths."""
    wanted = as_pairs(pairs, "pairs")
    deep = any("/" in pair.name for pair in wanted)
    files: dict[str, list[Path]] = {}
    for path in images_in([folder], recursive=deep):
        place = path.parent.relative_to(path_text(folder)).parts if deep else ()
        files.setdefault("/".join([*place, stem_of(path)]), []).append(path)
    for pair in wanted:
        found = files.get(pair.name, [])
        if len(found) != 1:
            raise invalid(
                FileError,
                str(folder),
                must=f"hold one map of {pair.name}",
                got=[path.name for path in found] or "none",
                fix="Name each map after its image.",
            )
    return [files[pair.name][0] for pair in wanted]


def classes_of_map(path: PathLike) -> int:
    """Count the classes of a map's file, as `read_map` gives them, without its px."""
    with advised(WHERE):
        shape = image_shape(path)
    if len(shape) == 2:
        return 1
    with advised(WHERE), open_image(path) as opened:
        return shape[2] if opened.dtype.kind == "f" else 1


def read_map(path: PathLike) -> AnyArray:
    """Read a map from a file: probabilities (real numbers or grey values), or a mask as 0.0 and 1.0."""
    return map_and_cells(path)[0]


def map_and_cells(path: PathLike, *, are_numbered: bool = False) -> tuple[AnyArray, AnyArray | None]:
    """Read a map, and its cells where it numbers them; few dark values are such numbers if that is said."""
    if Path(path_text(path)).suffix.lower() in {".tif", ".tiff"}:
        try:
            return _of_real_numbers(read_probs(path), named(path))
        except FileError:  # it may hold grey values
            pass
    if (mask := _mask_in(path, are_numbered=are_numbered)) is not None:
        return mask.labels.astype(np.float32), mask.cells
    with advised(WHERE):
        picture = read_image(path)
    grey = picture if picture.ndim == 2 else picture[..., 0]
    if picture.dtype.kind == "f":
        return _of_real_numbers(picture.astype(np.float32), named(path))
    is_grey = picture.ndim == 2 or not (picture != picture[..., :1]).any()
    if not is_grey:
        raise invalid(
            FileError,
            str(path),
            must="hold probabilities as real numbers or grey values",
            got=f"{picture.dtype} of shape {picture.shape}",
            fix="Save the map before it is coloured, or pass an array of tiledseg.read_image.",
        )
    white = _WHITE.get(grey.dtype)
    if white is None or _are_few_and_dark(grey, white):
        raise invalid(
            FileError,
            str(path),
            must=f"hold 0 and {white or 255}, 0 and 1, or probabilities as real numbers or grey values",
            got=f"{grey.dtype} with the values {listed(np.unique(grey), _SHOWN)}",
            fix="If they are labels, pass an array of tiledseg.io.read_mask, and `classes`; if they number "
            'cells, set mask_parts="instances", as for the masks.',
        )
    return grey.astype(np.float32) / np.float32(white), None


def _of_real_numbers(values: AnyArray, name: str) -> tuple[AnyArray, AnyArray | None]:
    """Take probabilities as they are; whole numbers above 1 may be those of a mask."""
    is_one = values.ndim == 2 or values.shape[2] == 1
    if is_one and values.size and values.max() > 1:
        mask = _mask_of(values.reshape(values.shape[:2]), name, are_numbered=False)
        if mask is not None:
            return mask.labels.astype(np.float32), mask.cells
    return values, None


def _mask_in(path: PathLike, *, are_numbered: bool) -> Mask | None:
    """Read whole numbers of one channel as a mask's file is read: as stored; None for any others."""
    if classes_of_map(path) > 1:
        return None
    with advised(f"Read the map with tiledseg.io.read_mask, {ELSEWHERE}, and pass the array."):
        values, lossy = mask_values(path, "auto")
    is_one = values.ndim == 2 or not (values != values[..., :1]).any()
    if lossy or values.dtype.kind == "f" or not is_one:
        return None
    grey = values if values.ndim == 2 else values[..., 0]
    return _mask_of(grey, named(path), are_numbered=are_numbered)


def _mask_of(grey: AnyArray, name: str, *, are_numbered: bool) -> Mask | None:
    """Read whole numbers as those of a mask: 0 and white, or numbers of cells; None for any others."""
    white = _WHITE.get(grey.dtype)
    if are_numbered and grey.dtype.kind in "iu" and (white is None or _are_few_and_dark(grey, white)):
        return mask_of(grey, name, MaskRules(parts="instances"))
    with suppress(TiledSegError):
        mask = mask_of(grey, name, MaskRules())
        if mask.cells is not None:
            _log.info("%s: %s", name, mask.found)
        return mask
    return None


def _are_few_and_dark(grey: AnyArray, white: int) -> bool:
    """Say whether grey values are too few and too dark for probabilities."""
    return int(grey.max()) <= white // 2 and len(np.unique(grey)) <= _FEW + 1  # with 0
