"""The region of interest: tiles that touch a mask, or tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import cv2
import numpy as np

from tiledseg._types import Source
from tiledseg._validate import check_finite, invalid, read_region
from tiledseg.errors import ArrayError, SettingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray
    from tiledseg.tiling import Tile, TileGrid

Roi: TypeAlias = Source | Literal["tissue"]
"""Where to predict: a mask, or how to find one."""

_THUMBNAIL = 1024  # px of the longer side
_ROWS_AT_ONCE = 256
_LEAST_CONTRAST = 0.05  # of the range: background and tissue differ by at least this, or all is tissue


def tiles_in(grid: TileGrid, shape: tuple[int, int], roi: Roi, image: Any) -> NDArray[np.bool_]:  # noqa: ANN401
    """Say which tiles touch a region of interest."""
    found = _mask_of(roi, shape, image)
    down, across = (large / small for large, small in zip(found.shape, grid.shape, strict=True))

    def touched(tile: Tile) -> bool:
        box = tile.read_box
        rows = slice(int(box.y0 * down), int(np.ceil(box.y1 * down)))
        columns = slice(int(box.x0 * across), int(np.ceil(box.x1 * across)))
        return bool(np.asarray(found[rows, columns]).any())

    return np.fromiter(map(touched, grid), np.bool_, len(grid))


def _mask_of(roi: Roi, shape: tuple[int, int], image: Any) -> Source:  # noqa: ANN401
    if not isinstance(roi, str):
        _check_mask(roi, shape)
        return roi
    if roi != "tissue":
        raise invalid(SettingError, "roi", must='be an array or "tissue"', got=roi, fix="Pass one of these.")
    if not hasattr(image, "dtype"):
        raise invalid(
            SettingError,
            "roi",
            must="be an array where only a shape is given",
            got=roi,
            fix="Pass an image.",
        )
    return tissue_of(image)


def tissue_of(image: Source) -> NDArray[np.bool_]:
    """Find the tissue of a bright-field image on a thumbnail of it."""
    # Tissue is what is more saturated (RGB), or darker (any other number of channels), than Otsu's
    # threshold, with a px of the thumbnail around it. Where the two sides of the threshold differ by less
    # than 5 % of the range there is no background, and all is tissue.
    step = -(-max(image.shape[:2]) // _THUMBNAIL)
    band = step * -(-_ROWS_AT_ONCE // step)
    every = slice(0, image.shape[1])
    parts = []
    for start in range(0, image.shape[0], band):
        rows = read_region(image, slice(start, min(start + band, image.shape[0])), every)[::step, ::step]
        check_finite(rows, "image", (start, 0))
        parts.append(_marked(rows))
    levels = cv2.medianBlur(np.concatenate(parts), 3)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above = levels > threshold
    if above.all() or not above.any() or levels[above].mean() - levels[~above].mean() < 255 * _LEAST_CONTRAST:
        return np.ones(levels.shape, np.bool_)
    return cv2.dilate(above.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)


def _marked(pixels: AnyArray) -> NDArray[np.uint8]:
    """Give how much each px looks like tissue, in 256 levels."""
    largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    values = np.clip(pixels.reshape(*pixels.shape[:2], -1).astype(np.float32) / largest, 0, 1)
    high = values.max(axis=-1)
    if values.shape[2] == 3:
        marked = (high - values.min(axis=-1)) / np.maximum(high, 1e-6)
    else:
        marked = 1 - values.mean(axis=-1)
    levels: NDArray[np.uint8] = (marked * 255).astype(np.uint8)
    return levels


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
    if np.dtype(roi.dtype).kind not in "biu":
        raise invalid(
            ArrayError, "roi", must="be boolean or integer", got=str(roi.dtype), fix="Use roi > 0.5."
        )
