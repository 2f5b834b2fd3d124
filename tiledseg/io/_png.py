"""PNG as bytes: its declared size, its checksums, and the part of it that the decoder gets to see.

After the Portable Network Graphics Specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Literal, NamedTuple

from tiledseg.io._header import Header
from tiledseg.io._orientation import exif_orientation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg.io._file import Reader

__all__ = ["png_header", "png_payload"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, _GREY_ALPHA: 2, _COLOUR_ALPHA: 4}
_DEPTHS = {
    _GREY: {1, 2, 4, 8, 16},
    _COLOUR: {8, 16},
    _PALETTE: {1, 2, 4, 8},
    _GREY_ALPHA: {8, 16},
    _COLOUR_ALPHA: {8, 16},
}
_DEFLATE_RATIO = 1032  # the most that deflate can expand


class _Chunk(NamedTuple):
    kind: bytes
    offset: int  # of the data in the file
    length: int


def _chunks(file: Reader) -> Iterator[_Chunk]:
    offset = len(_SIGNATURE)
    while True:
        length, kind = struct.unpack(">I4s", file.take(offset, 8))
        if offset + 12 + length > file.size:
            raise file.damaged(f"{file.size} bytes where {offset + 12 + length} or more are declared")
        yield _Chunk(kind, offset + 8, length)
        if kind == b"IEND":
            return
        offset += 12 + length


def _declared(file: Reader) -> tuple[int, int, int, int]:
    kind, width, height, bits, colour = struct.unpack(">4x4sIIBB", file.take(len(_SIGNATURE), 18))
    if kind != b"IHDR" or bits not in _DEPTHS.get(colour, ()):
        raise file.damaged("a PNG without a valid IHDR chunk")
    return height, width, bits, colour


def _palette_kind(palette: bytes) -> Literal["identity", "grey", "colour"]:
    if not palette[::3] == palette[1::3] == palette[2::3]:
        return "colour"
    return "identity" if palette[::3] == bytes(range(len(palette) // 3)) else "grey"


def png_header(file: Reader, max_pixels: int) -> Header:
    """Read what a PNG declares, and refuse one whose data cannot fill what it declares."""
    height, width, bits, colour = _declared(file)
    file.check_size(height, width, max_pixels)
    chunks = list(_chunks(file))
    stored = sum(chunk.length for chunk in chunks if chunk.kind == b"IDAT")
    needed = height * (1 + (width * _SAMPLES[colour] * bits + 7) // 8)
    if needed > stored * _DEFLATE_RATIO + 1024:
        raise file.damaged(f"{stored} bytes of data for {height}x{width} px")
    extra = {chunk.kind: file.take(chunk.offset, chunk.length) for chunk in chunks if chunk.kind in _EXTRA}
    opacity = extra.get(b"tRNS", b"")
    see_through = bool(opacity) and (colour != _PALETTE or opacity.count(255) < len(opacity))
    palette = _palette_kind(extra.get(b"PLTE", b"")) if colour == _PALETTE else "none"
    return Header(
        kind="png",
        height=height,
        width=width,
        channels=1 if colour in {_GREY, _GREY_ALPHA} else 3,
        bits=bits,
        orientation=exif_orientation(extra.get(b"eXIf", b"")),
        alpha="plane" if colour in {_GREY_ALPHA, _COLOUR_ALPHA} else "key" if see_through else "none",
        palette=palette,
    )


_EXTRA = {b"PLTE", b"tRNS", b"eXIf"}


def png_payload(file: Reader, *, indices: bool) -> bytes:
    """Check every checksum and hand out the chunks that make the pixels, without transparent colours."""
    parts = [_SIGNATURE]
    for chunk in _chunks(file):
        raw = file.take(chunk.offset - 8, chunk.length + 12)
        if zlib.crc32(memoryview(raw)[4:-4]) != int.from_bytes(raw[-4:]):
            raise file.damaged(f"a wrong checksum in its {chunk.kind.decode('latin-1')} chunk")
        if chunk.kind == b"IHDR" and indices:
            body = raw[4:17] + bytes([_GREY]) + raw[18:-4]
            raw = raw[:4] + body + zlib.crc32(body).to_bytes(4)
        if chunk.kind in {b"IHDR", b"IDAT", b"IEND"} or (chunk.kind == b"PLTE" and not indices):
            parts.append(raw)
    return b"".join(parts)
