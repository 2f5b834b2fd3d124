"""What an image file declares about itself before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from tiledseg._validate import invalid
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tiledseg.io._file import Reader

__all__ = [
    "Alpha",
    "Header",
    "Kind",
    "Palette",
    "Purpose",
    "Request",
    "Wish",
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


@dataclass(frozen=True, slots=True)
class Wish:
    """Which part of a file that holds several is wanted."""

    level: int  # 0 for the image, 1 and up for its smaller copies
    channels: tuple[int, ...] | None  # the channels in the order wanted; None for all
    at: Mapping[str, int]  # place along ``z`` and ``t``
    whole_pixels: int  # the most px of what has to be decoded whole

    def level_of(self, file: Reader, count: int) -> int:
        """Check that the file has the level."""
        if self.level >= count:
            got = f"{count} level{'s' if count > 1 else ''}"
            raise file.bad(f"have level {self.level}", got, f"Pass level=0 to level={count - 1}.")
        return self.level

    def channels_of(self, file: Reader, count: int) -> list[int] | None:
        """Check that the file has the channels; None for all of them in order."""
        if self.channels is None or self.channels == tuple(range(count)):
            return None
        if max(self.channels) >= count:
            fix = f"Count them from 0 to {count - 1}."
            raise file.bad(f"have channels {self.channels}", f"{count} channels", fix)
        return list(self.channels)


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
