"""What an image file declares about itself before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from tiledseg._validate import invalid
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from tiledseg.io._file import Reader

__all__ = [
    "Alpha",
    "Header",
    "Kind",
    "Palette",
    "Purpose",
    "Request",
    "check_page",
    "sniff",
]

Kind: TypeAlias = Literal["png", "jpeg", "bmp", "tiff"]
Alpha: TypeAlias = Literal["refuse", "drop"]
Palette: TypeAlias = Literal["refuse", "index", "colour"]
Purpose: TypeAlias = Literal["image", "mask", "labels", "probs", "source"]

_MAGIC: dict[bytes, Kind] = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}
_LONGEST_MAGIC = 8


@dataclass(frozen=True, slots=True)
class Header:
    """The declared geometry and colours of a PNG, JPEG or BMP."""

    kind: Kind  # the format
    height: int  # size in px as stored, before the orientation is applied
    width: int  # size in px as stored, before the orientation is applied
    channels: int  # grey or colour, alpha not counted
    bits: int  # bits per sample, or per index where there is a palette
    orientation: int = 1  # exif orientation, 1 to 8
    # an alpha channel, or one transparent colour or palette entry
    alpha: Literal["none", "plane", "key"] = "none"
    # what the palette holds; identity: entry i is grey i, so that index and colour are the same
    palette: Literal["none", "identity", "grey", "colour"] = "none"


@dataclass(frozen=True, slots=True)
class Request:
    """How a file is to be read."""

    page: int | None  # page of a TIFF
    max_pixels: int  # limit on height times width
    alpha: Alpha = "refuse"  # what becomes of an alpha channel that is not opaque throughout
    palette: Palette = "colour"  # what a pixel of a palette image counts as
    # what the pixels are for. A mask is going to be cut at a threshold; labels are taken as they are,
    # so that lossy files are refused and values of few bits are not spread; probs and a source may
    # have any number of channels, a source any integers
    purpose: Purpose = "image"


def sniff(file: Reader) -> Kind:
    """Tell the format from the first bytes; the suffix of the name plays no part."""
    start = file.take(0, min(_LONGEST_MAGIC, file.size))
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    fix = "Export the image as PNG or TIFF."
    raise file.bad("be a PNG, JPEG, BMP or TIFF", f"a file that begins with {start!r}", fix)


def check_page(page: object) -> None:
    """Refuse a page number that is not a whole number from 0."""
    if page is not None and (isinstance(page, bool) or not isinstance(page, int) or page < 0):
        raise invalid(SettingError, "page", must="be an int, 0 or more", got=page, fix="Count pages from 0.")
