"""The bytes around the pixels of a tiled, pyramidal TIFF or BigTIFF.

After TIFF Revision 6.0 (1992), the BigTIFF proposal (2007), and for the pyramid the SubIFDs of Adobe's
TIFF Technical Note 1 as OME-TIFF 6 uses them: the smaller levels hang from the page at full size.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from tiledseg.io._pyramid import TILE

if TYPE_CHECKING:
    from tiledseg.io._map_facts import MapFacts

__all__ = ["TiffLayout"]

_SAFE_CLASSIC = 4_000_000_000
_ASCII, _SHORT, _LONG, _RATIONAL, _LONG8 = 2, 3, 4, 5, 16
_SIZES = {_ASCII: 1, _SHORT: 2, _LONG: 4, _RATIONAL: 8, _LONG8: 8}
_DEFLATE, _BLACK_IS_ZERO, _REDUCED, _CENTIMETRE = 8, 1, 1, 3
_FORMATS = {"u": 1, "i": 2, "f": 3}
_UM_PER_CM = 10_000


class TiffLayout:
    """Where the tiles of a map lie, and the directories that say so."""

    def __init__(self, facts: MapFacts) -> None:
        self._facts = facts
        self._planes = facts.channels[0] if facts.channels else 1
        grids = [(-(-height // TILE), -(-width // TILE)) for height, width in facts.levels]
        self._offsets = [[np.zeros(grid, np.uint64) for grid in grids] for _ in range(self._planes)]
        self._counts = [[np.zeros(grid, np.uint64) for grid in grids] for _ in range(self._planes)]
        tiles = sum(down * across for down, across in grids) * self._planes
        most = tiles * (TILE * TILE * facts.dtype.itemsize * 1.001 + 64) + 1_000_000
        self._big = most > _SAFE_CLASSIC
        self.start: int = 16 if self._big else 8

    def place(self, channel: int, level: int, row: int, column: int, offset: int, count: int) -> None:
        """Note where a tile lies."""
        self._offsets[channel][level][row, column] = offset
        self._counts[channel][level][row, column] = count

    def header(self, first: int) -> bytes:
        """Give the first bytes of the file."""
        if self._big:
            return b"II" + struct.pack("<HHHQ", 43, 8, 0, first)
        return b"II" + struct.pack("<HI", 42, first)

    def directories(self, offset: int) -> tuple[bytes, int]:
        """Give all directories as they follow the data."""
        data = bytearray(b"\0" * (-offset % 16))
        following = 0
        for plane in reversed(range(self._planes)):  # from the last, so that each knows the next
            smaller = range(1, len(self._facts.levels))
            subs = [self._append(data, offset, self._tags(plane, level, []), 0) for level in smaller]
            following = self._append(data, offset, self._tags(plane, 0, subs), following)
        return bytes(data), following

    def _tags(self, plane: int, level: int, subs: list[int]) -> dict[int, tuple[int, bytes]]:
        height, width = self._facts.levels[level]
        pointer = _LONG8 if self._big else _LONG
        tags = {
            254: _numbers(_LONG, [_REDUCED if level else 0]),
            256: _numbers(_LONG, [width]),
            257: _numbers(_LONG, [height]),
            258: _numbers(_SHORT, [8 * self._facts.dtype.itemsize]),
            259: _numbers(_SHORT, [_DEFLATE]),
            262: _numbers(_SHORT, [_BLACK_IS_ZERO]),
            277: _numbers(_SHORT, [1]),
            305: (_ASCII, b"tiledseg\0"),
            322: _numbers(_SHORT, [TILE]),
            323: _numbers(_SHORT, [TILE]),
            324: _numbers(pointer, self._offsets[plane][level]),
            325: _numbers(pointer, self._counts[plane][level]),
            339: _numbers(_SHORT, [_FORMATS[self._facts.dtype.kind]]),
        }
        if plane == 0 and level == 0:
            tags[270] = (_ASCII, self._facts.ome_xml() + b"\0")
        if subs:
            tags[330] = _numbers(pointer, subs)
        size = self._facts.pixel_size
        if size is not None:
            down, across = self._facts.levels[0][0] / height, self._facts.levels[0][1] / width
            tags[282] = _ratio(_UM_PER_CM / (size.x * across))
            tags[283] = _ratio(_UM_PER_CM / (size.y * down))
            tags[296] = _numbers(_SHORT, [_CENTIMETRE])
        return tags

    def _append(
        self, data: bytearray, offset: int, tags: dict[int, tuple[int, bytes]], following: int
    ) -> int:
        """Add the values that do not fit into a directory, then the directory; say where it begins."""
        room, count_form, form = (8, "Q", "<HHQ") if self._big else (4, "I", "<HHI")
        entries = bytearray()
        for tag, (kind, value) in sorted(tags.items()):
            inline = value
            if len(value) > room:
                inline = struct.pack(f"<{count_form}", offset + len(data))
                data += value + b"\0" * (-len(value) % 16)
            entries += struct.pack(form, tag, kind, len(value) // _SIZES[kind]) + inline.ljust(room, b"\0")
        start = offset + len(data)
        data += struct.pack("<Q" if self._big else "<H", len(tags)) + entries
        data += struct.pack(f"<{count_form}", following)
        data += b"\0" * (-len(data) % 16)
        return start


def _numbers(kind: int, values: object) -> tuple[int, bytes]:
    form = {_SHORT: "<u2", _LONG: "<u4", _LONG8: "<u8"}[kind]
    return kind, np.asarray(values).astype(form).tobytes()


def _ratio(value: float) -> tuple[int, bytes]:
    ratio = Fraction(value).limit_denominator(1_000_000)
    while ratio.numerator >= 2**32:
        ratio = Fraction(ratio.numerator // 2, max(1, ratio.denominator // 2))
    return _RATIONAL, struct.pack("<II", ratio.numerator, ratio.denominator)
