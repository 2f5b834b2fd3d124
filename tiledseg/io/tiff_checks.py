"""Checks of the declarations of a TIFF, before tifffile reads it and memory is allocated for its pixels.

After TIFF Revision 6.0 (1992), the BigTIFF proposal (2007) and OME-TIFF 6.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import invalid
from tiledseg.io.file import LossyError
from tiledseg.io.metadata import is_ome, ome_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import tifffile

    from tiledseg.io.file import Reader, Request

_MOST_PAGES = 2**16
_MOST_TAGS = 4096
_MOST_LEVELS = 64
_DESCRIPTION, _ASCII, _MOST_TEXT = 270, 2, 1 << 26  # bytes
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _SUBIFDS = 254, 256, 257, 330
_INLINE = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8
_REDUCED_OR_MASK = 0b101
_DECISIVE = {256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 320}  # of the pixels
_DECISIVE |= {322, 323, 324, 325, 338, 339}
_MODULO = re.compile(r"<(?:\w+:)?ModuloAlong\w\b([^>]*)>")
_NUMBER = re.compile(r"\b(\w+)\s*=\s*[\"']\s*([-+.\deE]+)\s*[\"']")
_SCN_PLACE = re.compile(r"\b(c|z|r|ifd)\s*=\s*[\"']\s*(\d+)\s*[\"']")
_TIFFDATA = re.compile(r"<(?:\w+:)?TiffData\b([^>]*)>")
_RATIOS = {1: 1, 5: 4096, 8: 1032, 32946: 1032, 32773: 64}  # highest ratio of none, LZW, deflate, PackBits
_OTHER_RATIO = 2**20
_WITHOUT_CODECS = {1, 8, 32946, 32773, 34925}  # none, deflate, PackBits, LZMA: tifffile decodes them itself
_LOSSLESS = {1, 5, 8, 32946, 32773, 34925, 50000}
_KINDS = {"image": "biuf", "source": "biuf", "mask": "biuf", "labels": "biuf", "values": "biuf", "probs": "f"}
_MOST_BYTES = 2**33  # of an image that is read whole, unless `max_pixels` allows more
_LARGEST_TILE = 8192
_YCBCR = 6  # photometric interpretation

EMPTY = (0, 0)
"""Offset and length of a tile or strip that was left out: background."""


@dataclass(frozen=True, slots=True)
class Directory:
    """One page of the chain, as its tags declare it."""

    index: int  # its number in the file, from 0
    height: int  # in px; 0 where not declared
    width: int
    extra: bool  # whether it is a smaller copy or a transparency mask of another page


@dataclass(frozen=True, slots=True)
class _Form:
    """The layout of directories, as `struct` formats: of TIFF or BigTIFF."""

    order: str  # byte order
    count: str  # number of tags
    offset: str  # offset in the file
    entry: int  # bytes of an entry
    link: str  # offset of the next directory

    @property
    def is_ndpi(self) -> bool:
        """Whether it is that of Hamamatsu: TIFF with links of 64 bits, and high words behind them."""
        return self.link != self.offset

    @property
    def value(self) -> int:
        """Place of the value in an entry."""
        return self.entry - struct.calcsize(f"={self.offset}")


def _form(file: Reader) -> tuple[_Form, int]:
    """Read the header: the layout of the directories, and the offset of the first."""
    start = file.take(0, 8)
    order = "<" if start[:2] == b"II" else ">"
    if start[2:4].strip(b"\0") == b"*":
        first = _ndpi_start(file)
        if first is not None:
            return _Form(order, "H", "I", 12, "Q"), first
        return _Form(order, "H", "I", 12, "I"), struct.unpack(f"{order}I", start[4:])[0]
    return _Form(order, "Q", "Q", 20, "Q"), struct.unpack(f"{order}Q", file.take(8, 8))[0]


def _ndpi_start(file: Reader) -> int | None:
    """Find the first directory of an NDPI, whose offset has 64 bits; None where the file is none."""
    if not file.name.lower().endswith(".ndpi") or file.size < 12 or file.take(0, 2) != b"II":
        return None
    (first,) = struct.unpack("<Q", file.take(4, 8))
    if not 0 < first < file.size - 2:
        return None
    (count,) = struct.unpack("<H", file.take(first, 2))
    return first if 1 <= count <= _MOST_TAGS and first + 2 + 12 * count < file.size else None


def is_ndpi(file: Reader) -> bool:
    """Say whether a file has the layout of an NDPI."""
    return _form(file)[0].is_ndpi


def directories_of(file: Reader) -> list[Directory]:
    """Follow the chain of pages, before tifffile does; refuse one that is a loop or too long."""
    form, offset = _form(file)
    seen: set[int] = set()
    found: list[Directory] = []
    while offset:
        if offset in seen:
            raise file.damaged(f"a loop of pages: page {len(found)} is an earlier page")
        if len(found) == _MOST_PAGES:
            raise file.bad(f"have at most {_MOST_PAGES} pages", "more", "Split the file.")
        seen.add(offset)
        directory, offset = _directory(file, form, offset, len(found))
        found.append(directory)
    if not found:
        raise file.damaged("a TIFF without a page")
    return found


def images_of(directories: list[Directory]) -> list[Directory]:
    """Leave out smaller copies and transparency masks, unless there are no other pages."""
    return [one for one in directories if not one.extra] or directories


def _directory(file: Reader, form: _Form, offset: int, index: int) -> tuple[Directory, int]:
    entries = _entries(file, form, offset)
    following = file.take(
        offset + struct.calcsize(f"={form.count}") + len(entries), struct.calcsize(f"={form.link}")
    )
    tags = {}
    for tag, kind, at in _tags(form, entries):
        if tag in {_SUBFILE_TYPE, _WIDTH, _HEIGHT} and kind in _INLINE:
            (tags[tag],) = struct.unpack_from(f"{form.order}{_INLINE[kind]}", entries, at + form.value)
        if tag == _SUBIFDS:
            (copies,) = struct.unpack_from(f"{form.order}{form.offset}", entries, at + 4)
            if copies > _MOST_LEVELS:
                raise file.damaged(f"page {index} with {copies} smaller copies")
    extra = bool(tags.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK)
    directory = Directory(index, tags.get(_HEIGHT, 0), tags.get(_WIDTH, 0), extra)
    return directory, struct.unpack(f"{form.order}{form.link}", following)[0]


def _entries(file: Reader, form: _Form, offset: int) -> bytes:
    wide = struct.calcsize(f"={form.count}")
    (count,) = struct.unpack(f"{form.order}{form.count}", file.take(offset, wide))
    if not 1 <= count <= _MOST_TAGS:
        raise file.damaged(f"{count} tags in the page at byte {offset}")
    return file.take(offset + wide, count * form.entry)


def _tags(form: _Form, entries: bytes) -> Iterator[tuple[int, int, int]]:
    """Iterate over the tags of a directory: code, type, and offset in the entries."""
    for at in range(0, len(entries), form.entry):
        tag, kind = struct.unpack_from(f"{form.order}HH", entries, at)
        yield tag, kind, at


def first_description(file: Reader) -> str:
    """Read the description of the first page; an empty text where there is none."""
    form, offset = _form(file)
    if form.is_ndpi:
        return ""
    entries = _entries(file, form, offset)
    wide = struct.calcsize(f"={form.offset}")
    for tag, kind, at in _tags(form, entries):
        if (tag, kind) == (_DESCRIPTION, _ASCII):
            count, place = struct.unpack_from(f"{form.order}{form.offset * 2}", entries, at + 4)
            if count > _MOST_TEXT:
                raise file.damaged(f"a description of {count} bytes")
            data = entries[at + form.value :][:count] if count <= wide else file.take(place, count)
            return data.rstrip(b"\0").decode("utf-8", "replace")
    return ""


def check_complete(file: Reader, page: tifffile.TiffPage) -> None:
    """Refuse a page with tags that tifffile could not read; tifffile only logs them."""
    form, _ = _form(file)
    declared = Counter(tag for tag, _, _ in _tags(form, _entries(file, form, page.offset)))
    twice = sorted(tag for tag, count in declared.items() if count > 1 and tag in _DECISIVE)
    if twice:
        raise file.damaged(f"tags {twice} twice on page {page.index}")
    lost = sorted(declared.keys() & _DECISIVE - set(page.tags.keys()))
    if lost:
        raise file.damaged(f"unreadable or missing tags {lost} on page {page.index}")


def check_metadata(file: Reader, description: str, directories: list[Directory], samples: int) -> None:
    """Refuse metadata that declares more than the file holds, or harmful XML."""
    _check_ome(file, description, directories, samples)
    if "<scn" in description:
        numbers = {axis: [0] for axis in ("c", "z", "r", "ifd")}
        for axis, value in _SCN_PLACE.findall(description):
            numbers[axis].append(int(value))
        pages = len(directories)
        most = {axis: max(found) for axis, found in numbers.items()}
        if "<!ENTITY" in description or most["ifd"] >= pages or (most["c"] + 1) * (most["z"] + 1) > pages:
            raise file.damaged("SCN metadata that declares more than the file holds")


def _check_ome(file: Reader, description: str, directories: list[Directory], samples: int) -> None:
    """Refuse OME metadata of several files, of more planes than pages, or with harmful XML."""
    if not is_ome(description):
        return
    others = set(re.findall(r"\bFileName\s*=\s*[\"']([^\"']*)[\"']", description))
    if len(others) > 1 or re.search(r"<(?:\w+:)?BinaryOnly\b", description):
        fix = "Export it as one file, or pass `page` to read one page of this file."
        raise file.bad("hold the whole image", f"a part of an OME-TIFF of {len(others)} files", fix)
    pages = len(images_of(directories))
    planes = [_planes(image, samples) for image in ome_pixels(description)]
    if (len(planes) == 1 and planes[0] != pages) or sum(planes) > _MOST_PAGES:
        fix = "Copy or export it again, or pass `page` to take one of its pages."
        raise file.bad(f"hold {sum(planes)} planes, as its OME metadata says", f"{pages} pages", fix)
    if "<!ENTITY" in description or not _is_bounded(description, len(directories)):
        raise file.damaged("OME metadata that declares more than the file holds")


def _planes(image: dict[str, str], samples: int) -> int:
    sizes = [image.get(f"Size{axis}", "1") for axis in "ZTC"]
    z, t, c = (int(size) if size.isdecimal() and len(size) < 10 else 1 for size in sizes)
    return z * t * -(-c // samples)


def _is_bounded(description: str, pages: int) -> bool:
    """Check that the counts by which tifffile makes lists are at most the number of pages."""
    blocks = [dict(_NUMBER.findall(block)) for block in _TIFFDATA.findall(description)]
    try:
        counts = [int(block.get(name, 0)) for block in blocks for name in ("PlaneCount", "NumPlanes", "IFD")]
        for block in _MODULO.findall(description):
            known = {name: float(value) for name, value in _NUMBER.findall(block)}
            if "Start" in known:
                counts.append(math.ceil((known["End"] - known["Start"]) / known.get("Step", 1.0)))
    except (ValueError, KeyError, ZeroDivisionError, OverflowError):
        return False
    return all(0 <= count <= pages for count in counts)


def check_page(file: Reader, page: tifffile.TiffPage, request: Request, shift: int = 0) -> None:
    """Check a page before memory is allocated for it."""
    file.check_size(page.imagelength, page.imagewidth, request.max_pixels)
    if page.imagedepth != 1:
        raise file.bad("be flat", f"a page of depth {page.imagedepth}", "Export its slices as pages.")
    _check_codec(file, page, request)
    if page.photometric == _YCBCR and page.compression in _LOSSLESS and page.is_subsampled:
        fix = "Save it as RGB, or compressed as JPEG."
        raise file.bad("have the colour of each px", "YCbCr in which several px share a colour", fix)
    _check_dtype(file, page, request)
    _check_segments(file, page, request, shift)


def _check_codec(file: Reader, page: tifffile.TiffPage, request: Request) -> None:
    name = getattr(page.compression, "name", str(page.compression))
    needed = page.compression not in _WITHOUT_CODECS or page.predictor == 3
    if needed and find_spec("imagecodecs") is None:
        fix = 'Install it with `pip install "tiledseg[codecs]"`, or export the file uncompressed.'
        raise file.bad("be readable without imagecodecs", f"compression {name}", fix)
    if request.is_stored and page.compression not in _LOSSLESS:
        fix = "Export the labels with deflate, LZW or no compression."
        must = "be lossless to hold labels"
        raise invalid(LossyError, file.name, must=must, got=f"compression {name}", fix=fix)


def _check_dtype(file: Reader, page: tifffile.TiffPage, request: Request) -> None:
    kinds = _KINDS[request.purpose]
    if page.dtype is None or np.dtype(page.dtype).kind not in kinds:
        got = f"{page.bitspersample}-bit samples of {page.dtype}"
        must = "hold real numbers" if kinds == "f" else "hold integers or real numbers"
        raise file.bad(must, got, "Convert it to one of these, for example to uint8 or float32.")
    if np.dtype(page.dtype).itemsize * 8 < max(np.atleast_1d(page.bitspersample)):
        raise file.damaged(f"{page.bitspersample}-bit samples of {page.dtype}")


def _places(
    file: Reader, page: tifffile.TiffPage, what: str, expected: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Return where tiles or strips begin, and how many bytes each has."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) < expected or len(counts) < expected:
        raise file.damaged(f"{min(len(offsets), len(counts))} {what}s where {expected} are declared")
    if not all(isinstance(one[0], int) for one in (offsets, counts)):  # of a tag of floats
        raise file.damaged(f"{what}s at {offsets[0]}, of {counts[0]} bytes")
    return offsets, counts


def _check_segments(file: Reader, page: tifffile.TiffPage, request: Request, shift: int) -> None:
    """Check that all tiles or strips are inside the file, and large enough for the declared size."""
    what = "tile" if page.is_tiled else "strip"
    longest = max(page.imagelength, page.imagewidth, _LARGEST_TILE)
    if page.is_tiled and max(page.tilelength, page.tilewidth) > longest:
        raise file.damaged(f"tiles of {page.tilelength}x{page.tilewidth} px")
    if page.samplesperpixel > 1 and page.planarconfig not in {1, 2}:
        raise file.damaged(f"planar configuration {int(page.planarconfig)}")
    expected = int(np.prod(page.chunked))
    offsets, counts = _places(file, page, what, expected)
    stored = [one for one in zip(offsets[:expected], counts[:expected], strict=True) if one != EMPTY]
    for index, (offset, count) in enumerate(zip(offsets[:expected], counts[:expected], strict=True)):
        if (offset, count) != EMPTY and (count < 1 or offset + shift + count > file.size):
            raise file.damaged(f"{what} {index} of {expected} missing, or beyond the end of the file")
    bits = max(np.atleast_1d(page.bitspersample))
    nbytes = page.nbytes * bits // (8 * np.dtype(page.dtype).itemsize)
    ratio = _RATIOS.get(int(page.compression), _OTHER_RATIO)
    got = f"{sum(counts)} bytes of data for {page.imagelength}x{page.imagewidth} px"
    if not stored or sum(counts) * ratio < nbytes * len(stored) // expected:
        raise file.damaged(got)
    if request.purpose != "source" and page.nbytes > min(
        max(_MOST_BYTES, 8 * request.max_pixels), file.size * _OTHER_RATIO
    ):
        raise file.bad(f"take at most {_MOST_BYTES} bytes", got, "Read it by region with open_image.")
