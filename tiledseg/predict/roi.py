"""The region of interest: tiles that touch a mask, or tissue, which is found on a thumbnail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from tiledseg._arrays import check_finite, check_image, read_bands
from tiledseg._lazy import cv2
from tiledseg._storage import is_file, is_folder
from tiledseg._validate import ELSEWHERE, invalid, named, path_text, raised_as
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import (
    OF_READ_MASK,
    OUTLINE_SUFFIXES,
    SUFFIXES,
    Drawn,
    MaskRules,
    OutlineMask,
    advised,
    as_array,
    is_outlines,
    is_remote,
    is_zarr,
    mask_of,
    mask_values,
    read_outlines,
    stem_of,
    warn_of_orientation,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, PathLike, Source
    from tiledseg.config import PreprocessingConfig
    from tiledseg.tiling import Tile, TileGrid

_WHERE = f"Read it with tiledseg.io.read_mask, {ELSEWHERE}, and write it with write_mask or pass it."

_THUMBNAIL = 1024  # px of the longer side
_ROWS_AT_ONCE = 256
_DARK = 0.22  # brightest channel of a border, of black ink and of dust, as a share of white
_COLOURED = 0.12  # saturation of the brightest px from which there is no empty background
_LEAST, _MOST = 0.02, 0.06  # differences of the channels, as a share of the background, that tissue may have
_OF_TISSUE, _NOISE = 0.25, 4.0  # of the colour of tissue, and of the spread of the background's
_LEAST_CONTRAST = 0.05  # of grey images: background and tissue differ by at least this, or all is tissue
_LEAST_PX, _FEW = 12, 5e-4  # px of the smallest piece; share of px below which there is no colour at all
_LINE, _LONG = 17, 4  # px that a straight edge is thinner than; it is longer than this part of the side
# Ink by its hue in degrees, from one to the next: more saturated than this is no stain.
_HUES = (0, 8, 45, 190, 260, 295, 352, 360)
_INK = (0.70, 0.80, 0.25, 0.55, 0.80, 0.88, 0.70)

Roi: TypeAlias = "Source | Literal['tissue'] | PathLike"
"""Where to predict: a mask, how to find one, or its file."""


def tiles_in(
    grid: TileGrid,
    shape: tuple[int, int],
    roi: Roi,
    image: Any,
    preprocessing: PreprocessingConfig | None,
) -> NDArray[np.bool_]:
    """Say which tiles touch a region of interest."""
    found = _mask_of(roi, shape, image, preprocessing.white if preprocessing else None)
    down, across = (large / small for large, small in zip(found.shape, grid.shape, strict=True))

    def touched(tile: Tile) -> bool:
        box = tile.read_box
        rows = slice(int(box.y0 * down), int(np.ceil(box.y1 * down)))
        columns = slice(int(box.x0 * across), int(np.ceil(box.x1 * across)))
        return bool((np.asarray(found[rows, columns]) > 0).any())

    with raised_as(ArrayError, "`roi` cannot be read", "Convert it to a NumPy array first."):
        return np.fromiter(map(touched, grid), np.bool_, len(grid))


def _mask_of(roi: Roi, shape: tuple[int, int], image: Any, white: int | None) -> Source:
    if isinstance(roi, str | os.PathLike) and roi != "tissue":
        return _mask_in(roi, shape, image)
    if not isinstance(roi, str):
        mask: Source = as_array(roi, "roi")
        _check_mask(mask, shape)
        return mask
    if not hasattr(image, "dtype"):
        raise invalid(
            SettingError,
            "roi",
            must="be an array where only a shape is given",
            got=roi,
            fix="Pass an image.",
        )
    return tissue_of(image, white)


def _mask_in(roi: PathLike, shape: tuple[int, int], image: Any) -> Source:
    """Read a region of interest from a file of outlines or a mask."""
    known = is_remote(path_text(roi)) or is_file(Path(roi)) or is_zarr(path_text(roi))
    if not known and not is_outlines(roi):
        must = 'be an array, "tissue", or the path of outlines or of a mask'
        raise invalid(SettingError, "roi", must=must, got=str(roi), fix="Check the path.")
    _warn_of_orientation(roi, image)
    if not is_outlines(roi):
        with advised(_WHERE):
            values, lossy = mask_values(roi, "auto")
            if not lossy and (values.dtype.kind != "f" or (values == np.floor(values)).all()):
                values = values > 0
            mask = mask_of(values, named(roi), MaskRules(advice=OF_READ_MASK), lossy=lossy).labels
        _check_mask(mask, shape)
        return mask
    name = getattr(image, "name", None)
    levels = getattr(image, "levels", None)  # outlines are in px of level 0
    full: tuple[int, int] = levels[0][:2] if levels else shape
    at = getattr(image, "identity", {}).get("at")
    size = getattr(image, "pixel_size", None)
    whole = size and size.shrunk(shape[0] / full[0], shape[1] / full[1])  # of level 0
    return OutlineMask(read_outlines(roi, None if name is None else stem_of(name), full, at, whole), full)


def _warn_of_orientation(roi: PathLike, image: Any) -> None:
    """Warn where image and region of interest are turned differently; nothing is known of a shape alone."""
    identity = getattr(image, "identity", {})
    on = identity.get("path") or image
    if isinstance(on, str) or hasattr(on, "shape"):
        name = getattr(image, "name", "image")
        warn_of_orientation([Drawn(name, on, (roi,), identity.get("page"))], "region of interest")


def roi_of_file(roi: str | None, image: Path) -> str | Path | None:
    """Find the region of interest of an image: the same for all, or its own in a folder."""
    if roi is None or roi == "tissue" or not is_folder(Path(roi)) or is_zarr(roi):
        return roi
    suffixes = (*OUTLINE_SUFFIXES, *SUFFIXES)
    found = [
        one
        for one in sorted(Path(roi).iterdir())
        if stem_of(one) == stem_of(image) and (one.name.lower().endswith(suffixes) or is_zarr(str(one)))
    ]
    if len(found) != 1:
        must, fix = f"hold one file named as {stem_of(image)}", "Add one, or leave the image out."
        raise invalid(FileError, str(roi), must=must, got=[one.name for one in found] or "none", fix=fix)
    return found[0]


def _check_mask(roi: Source, shape: tuple[int, int]) -> None:
    check_image(roi, name="roi")
    if tuple(roi.shape) != shape:
        raise invalid(
            ArrayError,
            "roi",
            must=f"have the image's height and width {shape}",
            got=tuple(roi.shape),
            fix="Remove its last axis, by roi[..., 0]."
            if tuple(roi.shape) == (*shape, 1)
            else "Resize it with nearest-neighbour interpolation.",
        )
    if np.dtype(roi.dtype).kind not in "biu":
        raise invalid(
            ArrayError, "roi", must="be boolean or integer", got=str(roi.dtype), fix="Use roi > 0.5."
        )


def tissue_of(image: Source, white: int | None) -> NDArray[np.bool_]:
    """Find the tissue of a bright-field image on a thumbnail of it; all, where no background is found."""
    thumbnail = _thumbnail(image, white)
    found = _coloured(thumbnail) if thumbnail.ndim == 3 else None
    if found is None:
        found = _darker(thumbnail if thumbnail.ndim == 2 else thumbnail.mean(axis=2, dtype=np.float32))
    if not found.any():
        return np.ones(thumbnail.shape[:2], np.bool_)
    return cv2.dilate(found.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)


def _thumbnail(image: Source, white: int | None) -> FloatArray:
    """Shrink an image by averaging: (h, w, 3) of RGB, else (h, w), in [0, 1]; single px are smoothed away."""
    step = -(-max(image.shape[:2]) // _THUMBNAIL)
    band = step * -(-_ROWS_AT_ONCE // step)
    parts = []
    for start, pixels in read_bands(image, band):
        check_finite(pixels, "image", (start, 0))
        parts.append(_shrunk(pixels, step, white))
    levels = cv2.medianBlur(np.concatenate(parts), 5 if min(image.shape[:2]) >= 5 * step else 1)
    return levels.astype(np.float32) / np.float32(255)


def _shrunk(pixels: AnyArray, step: int, white: int | None) -> NDArray[np.uint8]:
    largest = white or (np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1)
    values = pixels if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels.reshape(*pixels.shape[:2], -1)
    values = values.astype(np.float32) * np.float32(255 / largest)
    if values.shape[2] != 3:
        values = values.mean(axis=2)
    size = (-(-values.shape[1] // step), -(-values.shape[0] // step))
    small = values if step == 1 else cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def _coloured(pixels: FloatArray) -> NDArray[np.bool_] | None:
    """Find what has the colour of a stain; None where nothing is coloured."""
    dark = _grown(pixels.max(axis=2) < _DARK, 2)
    if dark.all():
        return np.zeros(dark.shape, np.bool_)
    relative = np.clip(pixels / _background(pixels[~dark]), 0, 1)
    colour = relative.max(axis=2) - relative.min(axis=2)
    ink = _grown(_ink(relative), 3)
    valid = ~dark & ~ink
    if not valid.any():
        return np.zeros(dark.shape, np.bool_)
    found = valid & (colour > _threshold(colour[valid]))
    found = _pieces(found & ~_edges(found))
    found |= _enclosed(found) & (dark | ink)  # folds and pigment within tissue
    return found if found.sum() > _FEW * found.size else None


def _background(pixels: FloatArray) -> FloatArray:
    """Take the colour of the empty slide from the brightest px; white where these are coloured."""
    light = pixels.min(axis=1)
    brightest = pixels[light >= np.quantile(light, 0.97) - 0.02]
    colour: FloatArray = np.median(brightest, axis=0)
    if 1 - colour.min() / max(float(colour.max()), 1e-6) > _COLOURED:
        return np.ones(3, np.float32)
    return colour


def _threshold(colour: FloatArray) -> float:
    """Say from which difference of the channels on a px is stained."""
    empty = colour[colour <= _LEAST]
    spread = float(np.median(np.abs(empty - np.median(empty)))) if empty.size else 0.0
    noise = max(_LEAST, float(np.median(empty)) + _NOISE * spread) if empty.size else _LEAST
    stained = colour[colour > noise]
    typical = float(np.quantile(stained, 0.9)) if stained.size else 0.0
    return max(noise, min(_MOST, _OF_TISSUE * typical))


def _ink(relative: FloatArray) -> NDArray[np.bool_]:
    """Find pen marks, which are more saturated than stains, and in colours that stains have not."""
    hue = cv2.cvtColor(relative, cv2.COLOR_RGB2HSV)
    most = np.asarray(_INK, np.float32)[
        np.searchsorted(_HUES, hue[..., 0], side="right").clip(1, len(_INK)) - 1
    ]
    seen = (relative.max(axis=2) - relative.min(axis=2)) > _MOST  # the hue of paler px is noise
    return np.asarray(seen & (hue[..., 1] > most))


def _edges(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find straight thin lines along the axes, such as the edges of a coverslip."""
    mask, edges = found.astype(np.uint8), np.zeros(found.shape, np.bool_)
    for length, along in ((found.shape[1], (1, 0)), (found.shape[0], (0, 1))):
        size = max(_LINE + 1, length // _LONG)
        line, thick = (np.ones((size, 1), np.uint8), np.ones((1, _LINE), np.uint8))
        if along[0]:
            line, thick = line.T, thick.T
        long = cv2.morphologyEx(mask, cv2.MORPH_OPEN, line)
        edges |= (long > 0) & (cv2.morphologyEx(mask, cv2.MORPH_OPEN, thick) == 0)
    return edges


def _darker(grey: FloatArray) -> NDArray[np.bool_]:
    """Find what is darker than Otsu's threshold, without what is black or an edge."""
    valid = ~_grown(grey < _DARK / 2, 2)
    if not valid.any():
        return np.zeros(grey.shape, np.bool_)
    levels = ((1 - grey) * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels[valid], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above = valid & (levels > threshold)
    below = valid & ~above
    if not above.any() or not below.any():
        return np.zeros(grey.shape, np.bool_)
    if levels[above].mean() - levels[below].mean() < 255 * _LEAST_CONTRAST:
        return np.zeros(grey.shape, np.bool_)
    return _pieces(above & ~_edges(above))


def _pieces(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close small gaps, and leave out specks."""
    closed = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    _, numbers, facts, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    large = facts[:, cv2.CC_STAT_AREA] >= min(_LEAST_PX, found.size // 100)
    large[0] = False
    return np.asarray(large[numbers], np.bool_)


def _enclosed(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the holes of pieces."""
    filled = np.zeros(found.shape, np.uint8)
    outer, _ = cv2.findContours(found.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, outer, -1, 1, cv2.FILLED)
    return (filled > 0) & ~found


def _grown(mask: NDArray[np.bool_], px: int) -> NDArray[np.bool_]:
    size = 2 * px + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)).astype(np.bool_)
