"""The chain of pages in a TIFF, walked before tifffile does: it must end, and never come back to itself.

After TIFF Revision 6.0 (1992), section 2, and the BigTIFF proposal (2007).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiledseg.io._file import Reader

__all__ = ["Page", "pages_of"]

_MOST_PAGES = 2**16
_MOST_TAGS = 4096
_SUBFILE_TYPE, _WIDTH, _HEIGHT = 254, 256, 257
_INLINE = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8
_REDUCED_OR_MASK = 0b101
_DECISIVE = {256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 320}
_DECISIVE |= {322, 323, 324, 325, 338, 339}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a TIFF, as its tags declare it."""

    index: int  # its number in the file, from 0
    height: int  # declared size in px; 0 where not declared
    width: int  # declared size in px; 0 where not declared
    extra: bool  # whether it is a smaller copy or a transparency mask of another page
    tags: frozenset[int]  # those of its tags that decide what the pixels are


@dataclass(frozen=True, slots=True)
class _Form:
    order: str
    count: str
    offset: str
    entry: int

    @property
    def value(self) -> int:
        return self.entry - struct.calcsize(f"={self.offset}")


def _form(file: Reader) -> tuple[_Form, int]:
    start = file.take(0, 8)
    order = "<" if start[:2] == b"II" else ">"
    if start[2:4].strip(b"\0") == b"*":
        return _Form(order, "H", "I", 12), struct.unpack(f"{order}I", start[4:])[0]
    return _Form(order, "Q", "Q", 20), struct.unpack(f"{order}Q", file.take(8, 8))[0]


def pages_of(file: Reader) -> list[Page]:
    """Walk the chain of pages."""
    form, offset = _form(file)
    seen: set[int] = set()
    pages: list[Page] = []
    while offset:
        if offset in seen:
            raise file.damaged(f"pages that run in a circle: page {len(pages)} is an earlier one")
        if len(pages) == _MOST_PAGES:
            raise file.bad(f"have at most {_MOST_PAGES} pages", "more", "Split the file.")
        seen.add(offset)
        page, offset = _page(file, form, offset, len(pages))
        pages.append(page)
    if not pages:
        raise file.damaged("a TIFF without a page")
    return pages


def _page(file: Reader, form: _Form, offset: int, index: int) -> tuple[Page, int]:
    wide = struct.calcsize(f"={form.count}")
    (count,) = struct.unpack(f"{form.order}{form.count}", file.take(offset, wide))
    if not 1 <= count <= _MOST_TAGS:
        raise file.damaged(f"page {index} with {count} tags")
    entries = file.take(offset + wide, count * form.entry)
    following = file.take(offset + wide + len(entries), struct.calcsize(f"={form.offset}"))
    tags, found = {}, set()
    for at in range(0, len(entries), form.entry):
        tag, kind = struct.unpack_from(f"{form.order}HH", entries, at)
        found.add(tag)
        if tag in {_SUBFILE_TYPE, _WIDTH, _HEIGHT} and kind in _INLINE:
            (tags[tag],) = struct.unpack_from(f"{form.order}{_INLINE[kind]}", entries, at + form.value)
    extra = bool(tags.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK)
    page = Page(index, tags.get(_HEIGHT, 0), tags.get(_WIDTH, 0), extra, frozenset(found & _DECISIVE))
    return page, struct.unpack(f"{form.order}{form.offset}", following)[0]
