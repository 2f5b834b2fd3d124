"""JPEG as bytes: its declared size, colours and orientation, and whether its end is there.

After ITU-T T.81 (1992), annex B.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiledseg.io._header import Header
from tiledseg.io._orientation import exif_orientation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg.io._file import Reader

__all__ = ["jpeg_header", "jpeg_payload"]

_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN = {0xC0, 0xC1, 0xC2}
_BARE = {0x01, *range(0xD0, 0xD8)}
_EXIF, _SCAN, _END = 0xE1, 0xDA, 0xD9
_PIXELS_PER_BYTE = 1024  # one bit per block of 64 px would be 512


@dataclass(frozen=True, slots=True)
class _Segment:
    marker: int
    offset: int  # of the data, after the length
    length: int


def _segments(file: Reader) -> Iterator[_Segment]:
    """Walk from the start of the file to its first scan."""
    offset = 2
    marker = 0
    while marker != _SCAN:
        lead, marker = file.take(offset, 2)
        if lead != 0xFF or marker in {0x00, _END}:
            raise file.damaged(f"no JPEG marker at byte {offset}")
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        if marker in _BARE:
            offset += 2
            continue
        (length,) = struct.unpack(">H", file.take(offset + 2, 2))
        if length < 2:
            raise file.damaged(f"a JPEG segment of {length} bytes at byte {offset}")
        yield _Segment(marker, offset + 4, length - 2)
        offset += 2 + length


def jpeg_header(file: Reader, max_pixels: int) -> Header:
    """Read what a JPEG declares."""
    orientation = 0
    frame: tuple[int, int, int, int, int] | None = None
    for segment in _segments(file):
        if segment.marker in _FRAMES and frame is None:
            frame = (segment.marker, *struct.unpack(">BHHB", file.take(segment.offset, 6)))
            file.check_size(frame[2], frame[3], max_pixels)
        if segment.marker == _EXIF and not orientation:
            data = file.take(segment.offset, segment.length)
            orientation = exif_orientation(data[6:]) if data.startswith(b"Exif\0\0") else 0
    if frame is None:
        raise file.damaged("a JPEG without a frame header")
    marker, bits, height, width, channels = frame
    if marker in _HUFFMAN and height * width > file.size * _PIXELS_PER_BYTE:
        raise file.damaged(f"{file.size} bytes for {height}x{width} px")
    if bits != 8:
        raise file.bad("have 8 bits per sample as a JPEG", bits, "Export it as 16-bit PNG or TIFF.")
    if channels not in {1, 3}:
        fix = "Convert it to RGB in the program that made it, and export it as PNG or TIFF."
        raise file.bad("be grey or RGB", f"a JPEG of {channels} channels (CMYK)", fix)
    return Header("jpeg", height, width, channels, bits, orientation or 1)


def jpeg_payload(file: Reader) -> bytes:
    """Hand out the bytes of a JPEG that has its end-of-image marker."""
    *_, scan = _segments(file)
    data = file.take(0, file.size)
    if data.find(bytes([0xFF, _END]), scan.offset + scan.length) < 0:
        raise file.damaged(f"a JPEG of {file.size} bytes without its end-of-image marker")
    return data
