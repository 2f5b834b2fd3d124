"""BMP as bytes: its declared size, its palette, and whether all rows are there."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tiledseg.io._header import Header

if TYPE_CHECKING:
    from tiledseg.io._file import Reader

__all__ = ["bmp_header", "bmp_payload"]

_OLDEST, _USUAL, _WITH_ALPHA = 12, 40, 56  # sizes in bytes of the headers that differ for us
_PLAIN, _MASKED = 0, 3
_DEPTHS = {1, 4, 8, 16, 24, 32}


@dataclass(frozen=True, slots=True)
class _Layout:
    height: int
    width: int
    bits: int
    palette_at: int
    entries: int
    entry_bytes: int
    alpha: bool


def _layout(file: Reader, max_pixels: int) -> _Layout:
    pixels_at, size = struct.unpack("<10x2I", file.take(0, 18))
    if size == _OLDEST:
        width, height, _, bits = struct.unpack("<4H", file.take(18, 8))
        compression, used = _PLAIN, 0
    else:
        if not _USUAL <= size <= 4096:
            raise file.damaged(f"a BMP header of {size} bytes")
        width, height, _, bits, compression, used = struct.unpack("<iiHHI12xI", file.take(18, 32))
    file.check_size(abs(height), width, max_pixels)
    if bits not in _DEPTHS or compression not in {_PLAIN, _MASKED}:
        got = f"a BMP of {bits} bits with compression {compression}"
        raise file.bad("be uncompressed, with 1, 4, 8, 16, 24 or 32 bits", got, "Export it as PNG.")
    end = pixels_at + abs(height) * ((width * bits + 31) // 32 * 4)
    if end > file.size:
        raise file.damaged(f"{file.size} bytes where {end} are declared")
    alpha = bits == 32 and compression == _MASKED and size >= _WITH_ALPHA and any(file.take(66, 4))
    entries = min(used or 2**bits, 2**bits) if bits <= 8 else 0
    return _Layout(abs(height), width, bits, 14 + size, entries, 3 if size == _OLDEST else 4, alpha)


def _palette_kind(file: Reader, layout: _Layout) -> Literal["none", "identity", "grey", "colour"]:
    if not layout.entries:
        return "none"
    step = layout.entry_bytes
    palette = file.take(layout.palette_at, layout.entries * step)
    if not palette[::step] == palette[1::step] == palette[2::step]:
        return "colour"
    return "identity" if palette[::step] == bytes(range(layout.entries)) else "grey"


def bmp_header(file: Reader, max_pixels: int) -> Header:
    """Read what a BMP declares."""
    layout = _layout(file, max_pixels)
    palette = _palette_kind(file, layout)
    return Header(
        kind="bmp",
        height=layout.height,
        width=layout.width,
        channels=1 if palette in {"identity", "grey"} else 3,
        bits=layout.bits,
        alpha="plane" if layout.alpha else "none",
        palette=palette,
    )


def bmp_payload(file: Reader, max_pixels: int, *, indices: bool) -> bytes:
    """Hand out the bytes of a BMP; for `indices` with a palette whose entry i is grey i."""
    data = file.take(0, file.size)
    layout = _layout(file, max_pixels)
    if not indices or not layout.entries:
        return data
    pad = b"\0" * (layout.entry_bytes - 3)
    palette = b"".join(bytes([entry] * 3) + pad for entry in range(layout.entries))
    return data[: layout.palette_at] + palette + data[layout.palette_at + len(palette) :]
