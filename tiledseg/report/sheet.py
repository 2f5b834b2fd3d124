"""Rows of contact sheets that show images with their masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiledseg._validate import array_of, whole_number
from tiledseg.data import check_mask
from tiledseg.plots import Picture, PictureRow, as_rgb, colourise, overlay, shrunk
from tiledseg.report.pictures import nearest_labels

if TYPE_CHECKING:
    from tiledseg._types import AnyArray

_MOST_LABELS = 65536


def mask_row(name: str, note: str, image: AnyArray, mask: AnyArray, *, thumb_px: int) -> PictureRow:
    """Draw thumbnails of an image, its mask, and both together."""
    image, thumb_px = array_of(image, "image"), whole_number("thumb_px", thumb_px)
    check_mask(mask, image.shape, _MOST_LABELS)
    limits = None
    if image.dtype.kind == "f":
        low, high = float(image.min()), float(image.max())
        limits = (low, high if high > low else low + 1)
    small = shrunk(as_rgb(image, limits), thumb_px)
    labels = nearest_labels(mask, small)
    pictures = (
        Picture("Image", small),
        Picture("Mask", colourise(labels, background=(235, 235, 235))),
        Picture("Both", overlay(small, labels)),
    )
    return PictureRow(name, note, pictures)
