"""Contact sheets: pictures of many images in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._lazy import cv2
from tiledseg._validate import all_of, instance_of, invalid, whole_number
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg.plots.render import Rgb

_PAPER, _INK, _GREY = (255, 255, 255), (40, 40, 40), (110, 110, 110)
_GAP_PX, _MARGIN_PX, _LINE_PX = 4, 20, 26
_FONT, _SIZE = 0, 0.45  # OpenCV's FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture with its title."""

    title: str
    pixels: Rgb


@dataclass(frozen=True, slots=True, eq=False)
class PictureRow:
    """The pictures of one image."""

    name: str  # of the image
    note: str  # shown beside the name
    pictures: tuple[Picture, ...]  # all of one size


def shrunk(picture: Rgb, longest_px: int) -> Rgb:
    """Shrink a picture by averaging areas."""
    height, width = picture.shape[:2]
    factor = min(1.0, longest_px / max(height, width))
    if factor == 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def contact_sheet(title: str, rows: Sequence[PictureRow], *, columns: int = 3) -> Rgb:
    """Arrange the pictures of many images in one.

    Parameters
    ----------
    title : str
        Heading of the sheet.
    rows : sequence of PictureRow
        The images, at least one, all with the same number of pictures.
    columns : int
        Number of images side by side.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        The sheet; the name and the note of each image stand above its pictures.

    Raises
    ------
    SettingError
        If there is no image, they differ in the number of pictures, or an argument is of another type.
    """
    instance_of(str, title, "title", "Pass a str.")
    columns = whole_number("columns", columns)
    rows = all_of(PictureRow, rows, "rows", "Make them with mask_row or picture_row.")
    if len({len(row.pictures) for row in rows}) != 1 or not rows[0].pictures:
        fix = "Draw the same pictures of every image."
        got = f"{len(rows)} images"
        raise invalid(SettingError, "rows", must="have the same number of pictures", got=got, fix=fix)
    across = [
        max(row.pictures[index].pixels.shape[1] for row in rows) for index in range(len(rows[0].pictures))
    ]
    wide = sum(across) + _GAP_PX * (len(across) - 1)
    columns = min(columns, len(rows))
    lines = [rows[first : first + columns] for first in range(0, len(rows), columns)]
    bands = [_band(line, across, wide, columns) for line in lines]
    head = _paper(_LINE_PX + _MARGIN_PX // 2, bands[0].shape[1])
    _write(head, title, _MARGIN_PX, _LINE_PX, _INK, size=0.6)
    return np.concatenate([head, *bands])


def _band(rows: Sequence[PictureRow], across: Sequence[int], wide: int, columns: int) -> Rgb:
    """Draw one row of images, each below its name."""
    tall = max(picture.pixels.shape[0] for row in rows for picture in row.pictures)
    band = _paper(_LINE_PX + tall + _MARGIN_PX, columns * (wide + _MARGIN_PX) + _MARGIN_PX)
    for index, row in enumerate(rows):
        x = _MARGIN_PX + index * (wide + _MARGIN_PX)
        _write(band, f"{row.name}  {row.note}", x, _LINE_PX - 8, _GREY, most_px=wide)
        for picture, width in zip(row.pictures, across, strict=True):
            height, own, _ = picture.pixels.shape
            band[_LINE_PX : _LINE_PX + height, x : x + own] = picture.pixels
            x += width + _GAP_PX
    return band


def _paper(height: int, width: int) -> Rgb:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _write(  # noqa: PLR0913
    paper: Rgb,
    text: str,
    x: int,
    y: int,
    colour: tuple[int, int, int],
    *,
    size: float = _SIZE,
    most_px: int | None = None,
) -> None:
    """Write a line of text in ASCII, which is all that OpenCV draws; the end of a long one is cut off."""
    plain = text.encode("ascii", "replace").decode()
    shown = plain
    while most_px and len(shown) > 1 and cv2.getTextSize(shown, _FONT, size, 1)[0][0] > most_px:
        plain = plain[:-1]
        shown = f"{plain}..."
    cv2.putText(paper, shown, (x, y), _FONT, size, colour, 1, cv2.LINE_AA)
