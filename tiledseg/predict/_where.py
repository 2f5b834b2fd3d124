"""Which tiles are computed: those that a mask touches, or those with tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import cv2
import numpy as np

from tiledseg._types import Source
from tiledseg._validate import check_finite, invalid, read_region
from tiledseg.errors import ArrayError, SettingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray
    from tiledseg.predict._plan import Layout
    from tiledseg.tiling import Tile

__all__ = ["Where", "wanted_tiles"]

Where: TypeAlias = Source | Literal["tissue"]
"""A mask, or how to find one."""

_THUMBNAIL = 1024  # px of the longer side
_ROWS_AT_ONCE = 256
_APART = 0.05  # of the range: background and tissue differ by at least this, or all is tissue


def wanted_tiles(layout: Layout, mask: Where | None, image: Source, order: list[int]) -> list[int]:
    """List the tiles that are computed."""
    if mask is None:
        return order
    if isinstance(mask, str):
        if mask != "tissue":
            raise invalid(
                SettingError, "mask", must='be an array or "tissue"', got=mask, fix="Pass one of these."
            )
        found: Source = tissue_of(image)
    else:
        _check_mask(mask, layout.shape)
        found = mask
    down, across = (large / small for large, small in zip(found.shape, layout.grid.shape, strict=True))

    def touched(tile: Tile) -> bool:
        box = tile.read_box
        rows = slice(int(box.y0 * down), int(np.ceil(box.y1 * down)))
        columns = slice(int(box.x0 * across), int(np.ceil(box.x1 * across)))
        return bool(np.asarray(found[rows, columns]).any())

    return [tile_id for tile_id in order if touched(layout.grid[tile_id])]


def tissue_of(image: Source) -> NDArray[np.bool_]:
    """Find the tissue of a bright-field image on a thumbnail of it.

    Tissue is what is more saturated (RGB), or darker (any other number of channels), than Otsu's
    threshold, with a px of the thumbnail around it. Where the two sides of the threshold differ by
    less than 5 % of the range there is no background, and all is tissue.
    """
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
    if above.all() or not above.any() or levels[above].mean() - levels[~above].mean() < 255 * _APART:
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


def _check_mask(mask: Source, shape: tuple[int, int]) -> None:
    if not all(hasattr(mask, name) for name in ("shape", "dtype", "__getitem__")):
        raise invalid(
            ArrayError,
            "mask",
            must="be an array with shape and dtype",
            got=type(mask).__name__,
            fix="Convert it with numpy.asarray.",
        )
    if tuple(mask.shape) != shape:
        raise invalid(
            ArrayError,
            "mask",
            must=f"have the image's height and width {shape}",
            got=tuple(mask.shape),
            fix="Resize it with nearest-neighbour interpolation.",
        )
    if np.dtype(mask.dtype).kind not in "biu":
        raise invalid(
            ArrayError, "mask", must="be boolean or integer", got=str(mask.dtype), fix="Use mask > 0.5."
        )
