"""The region of interest: tiles that touch a mask, or tissue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from tiledseg._validate import ELSEWHERE, invalid, named
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import (
    OF_READ_MASK,
    OUTLINE_SUFFIXES,
    SUFFIXES,
    MaskRules,
    OutlineMask,
    advised,
    is_outlines,
    mask_of,
    mask_values,
    read_outlines,
    stem_of,
)
from tiledseg.predict.tissue import tissue_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import PathLike, Source
    from tiledseg.tiling import Tile, TileGrid

_WHERE = f"Read it with tiledseg.io.read_mask, {ELSEWHERE}, and write it with write_mask or pass it."

Roi: TypeAlias = "Source | Literal['tissue'] | PathLike"
"""Where to predict: a mask, how to find one, or its file."""


def tiles_in(grid: TileGrid, shape: tuple[int, int], roi: Roi, image: Any) -> NDArray[np.bool_]:  # noqa: ANN401
    """Say which tiles touch a region of interest."""
    found = _mask_of(roi, shape, image)
    down, across = (large / small for large, small in zip(found.shape, grid.shape, strict=True))

    def touched(tile: Tile) -> bool:
        box = tile.read_box
        rows = slice(int(box.y0 * down), int(np.ceil(box.y1 * down)))
        columns = slice(int(box.x0 * across), int(np.ceil(box.x1 * across)))
        return bool((np.asarray(found[rows, columns]) > 0).any())

    return np.fromiter(map(touched, grid), np.bool_, len(grid))


def _mask_of(roi: Roi, shape: tuple[int, int], image: Any) -> Source:  # noqa: ANN401
    if isinstance(roi, str | os.PathLike) and roi != "tissue":
        return _mask_in(roi, shape, image)
    if not isinstance(roi, str):
        _check_mask(roi, shape)
        return roi
    if not hasattr(image, "dtype"):
        raise invalid(
            SettingError,
            "roi",
            must="be an array where only a shape is given",
            got=roi,
            fix="Pass an image.",
        )
    return tissue_of(image)


def _mask_in(roi: PathLike, shape: tuple[int, int], image: Any) -> Source:  # noqa: ANN401
    """Read a region of interest from a file of outlines or a mask."""
    if not Path(roi).is_file() and not is_outlines(roi):
        must = 'be an array, "tissue", or the path of outlines or of a mask'
        raise invalid(SettingError, "roi", must=must, got=str(roi), fix="Check the path.")
    if not is_outlines(roi):
        with advised(_WHERE):
            values, lossy = mask_values(roi, "auto")
        if not lossy:
            _check_dtype(values)
            values = values > 0
        mask = mask_of(values, named(roi), MaskRules(advice=OF_READ_MASK), lossy=lossy).labels
        _check_mask(mask, shape)
        return mask
    name = getattr(image, "name", None)
    levels = getattr(image, "levels", None)  # outlines are in px of level 0
    outlines = read_outlines(roi, None if name is None else stem_of(name))
    return OutlineMask(outlines, levels[0] if levels else shape)


def roi_of_file(roi: str | None, image: Path) -> str | Path | None:
    """Find the region of interest of an image: the same for all, or its own in a folder."""
    if roi is None or roi == "tissue" or not Path(roi).is_dir():
        return roi
    suffixes = {*OUTLINE_SUFFIXES, *SUFFIXES}
    found = [
        one
        for one in sorted(Path(roi).iterdir())
        if one.suffix.lower() in suffixes and stem_of(one) == stem_of(image)
    ]
    if len(found) != 1:
        must, fix = f"hold one file named as {stem_of(image)}", "Add one, or leave the image out."
        raise invalid(FileError, str(roi), must=must, got=[one.name for one in found] or "none", fix=fix)
    return found[0]


def _check_mask(roi: Source, shape: tuple[int, int]) -> None:
    if not all(hasattr(roi, name) for name in ("shape", "dtype", "__getitem__")):
        raise invalid(
            ArrayError,
            "roi",
            must="be an array with shape and dtype",
            got=type(roi).__name__,
            fix="Convert it with numpy.asarray.",
        )
    if tuple(roi.shape) != shape:
        raise invalid(
            ArrayError,
            "roi",
            must=f"have the image's height and width {shape}",
            got=tuple(roi.shape),
            fix="Resize it with nearest-neighbour interpolation.",
        )
    _check_dtype(roi)


def _check_dtype(roi: Source) -> None:
    if np.dtype(roi.dtype).kind not in "biu":
        raise invalid(
            ArrayError, "roi", must="be boolean or integer", got=str(roi.dtype), fix="Use roi > 0.5."
        )
