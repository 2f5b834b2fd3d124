"""JPEG: its markers (where it ends, whether its scans hold all of it, what follows it), and blocks of a TIFF.

After ITU-T T.81 (1992), and the Multi-Picture Format of CIPA DC-007 (2009).
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import simplejpeg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import AnyArray
    from tiledseg.io.file import Reader

_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # none of data, and no restart
_START, _SOI, _EOI, _SOS, _APP2 = b"\xff\xd8\xff", 0xD8, 0xD9, 0xDA, 0xE2
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB}  # baseline to lossless, by Huffman or arithmetic codes
_PROGRESSIVE = {0xC2, 0xCA}
_SEVERAL, _PROFILE = b"MPF\0", b"ICC_PROFILE\0"
_MOST_SCANS = 50  # each scan takes time for every px; encoders write about 10
_COEFFICIENTS = 64
_LARGER = 2  # times the size of a tile or strip, which its JPEG may have at most
_COLOURS = {(1, 0): "Gray", (1, 1): "Gray", (3, 2): "RGB", (3, 6): "YCbCr"}
"""Colours of a JPEG by samples and photometric interpretation, where libjpeg gives what is wanted."""


def checked_jpeg(file: Reader, start: int, size: tuple[int, int]) -> bytes:
    """Return the bytes of a JPEG whose data start there; refuse several images, and missing scans."""
    data = file.take(0, file.size)
    scans: list[bytes] = []
    frame, declared, end = (0, b""), False, 0
    for marker, body, after in _segments(file, data):
        if marker == _SOS:
            scans.append(body)
        elif marker in _FRAMES:
            frame = marker, body
        declared = declared or (marker == _APP2 and body.startswith(_SEVERAL))
        end = after
    if len(scans) > _MOST_SCANS:
        fix = "Save it as a baseline JPEG, or as PNG."
        raise file.bad(f"have at most {_MOST_SCANS} scans as a JPEG", len(scans), fix)
    if not _is_complete(*frame, scans):
        raise file.damaged("a JPEG without some of its scans")
    if _has_another(data, end, size, declared=declared):
        raise file.bad("hold one image", "a JPEG file of several images", "Export one of them as PNG.")
    if _PROFILE in data[:start]:  # colour profiles are not applied; libjpeg warns of a damaged one
        return data[:start].replace(_PROFILE, _PROFILE.lower()) + data[start:]
    return data


def _segments(file: Reader, data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Iterate over markers, what stands in their segments, and where these end."""
    at, marker = 2, _SOI
    while marker != _EOI:
        found = _MARKER.search(data, at)
        if found is None:
            raise file.damaged(f"a JPEG of {file.size} bytes without its end-of-image marker")
        marker, at = found[1][0], found.end()
        if marker not in {_SOI, _EOI}:
            length = max(2, int.from_bytes(data[at : at + 2]))
            yield marker, data[at + 2 : at + length], at + length
            at += length
    yield marker, b"", at


def _is_complete(marker: int, frame: bytes, scans: list[bytes]) -> bool:
    """Say whether the scans hold each bit of each coefficient: libjpeg makes up what they leave out."""
    # Of each component, the lowest bit of each coefficient that a scan has held so far.
    lowest = {number: [_COEFFICIENTS] * _COEFFICIENTS for number in frame[6::3]}
    for scan in scans:
        count = scan[0] if scan else 0
        first, last, bits = scan[2 * count + 1 : 2 * count + 4].ljust(3, b"\0")
        if marker not in _PROGRESSIVE:
            first, last, bits = 0, _COEFFICIENTS - 1, 0
        for number in scan[1 : 2 * count + 1 : 2]:
            if number in lowest and last < _COEFFICIENTS:
                lowest[number][first : last + 1] = [bits & 15] * (last + 1 - first)
    return not any(any(found) for found in lowest.values())


def _has_another(data: bytes, end: int, size: tuple[int, int], *, declared: bool) -> bool:
    """Say whether another image follows; a smaller one that is declared is a preview or a gain map."""
    if not declared:
        return data[end:].lstrip(b"\0").startswith(_START)
    at = data.find(_START, end)
    with suppress(ValueError):
        height, width, *_ = simplejpeg.decode_jpeg_header(data[at:])
        return at >= 0 and (height >= size[0] or width >= size[1])
    return False


def decoded_block(data: bytes, shape: tuple[int, int], colours: tuple[int, int]) -> AnyArray | None:
    """Decode a tile or strip whose size and colours are as the TIFF states; check others, and return None."""
    height, width, found, _ = simplejpeg.decode_jpeg_header(data)
    if height > _LARGER * (shape[0] + 8) or width > _LARGER * (shape[1] + 8):
        raise ValueError(f"a JPEG of {height}x{width} px")
    if (height, width) == shape and found == _COLOURS.get(colours):
        pixels: AnyArray = simplejpeg.decode_jpeg(data, "GRAY" if colours[0] == 1 else "RGB")
        return pixels
    most = "CMYK" if found in {"CMYK", "YCCK"} else "GRAY"
    simplejpeg.decode_jpeg(data, most, min_height=1, min_width=1, min_factor=8)
    return None
