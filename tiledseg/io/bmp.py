"""BMP whose colours are bit fields of a word, of which Pillow knows a few; palettes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import ImageFile

    from tiledseg._types import AnyArray
    from tiledseg.io.file import Reader

_BITFIELDS = {3, 6}  # without and with a mask of alpha
_HEADER, _WITH_ALPHA = 40, 56  # bytes of the header, which later versions extend by masks


@dataclass(frozen=True, slots=True)
class BitFields:
    """Where the pixels of such a BMP are, and which bits of a word hold which colour."""

    height: int  # px
    width: int
    upwards: bool  # whether the last row comes first
    bits: int  # of a word
    offset: int  # of the pixels, in bytes
    masks: tuple[int, ...]  # of red, green, blue and, where there is one, alpha

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, which end at a multiple of 4."""
        return (self.width * self.bits + 31) // 32 * 4

    @property
    def end(self) -> int:
        """Where the pixels end."""
        return self.offset + self.row_bytes * self.height

    def pixels(self, file: Reader) -> AnyArray:
        """Decode the words to (h, w, 3), or (h, w, 4) with alpha."""
        data = np.frombuffer(file.take(self.offset, self.row_bytes * self.height), f"<u{self.bits // 8}")
        words = data.reshape(self.height, -1)[:: -1 if self.upwards else 1, : self.width]
        return np.stack([_field(words, mask) for mask in self.masks], axis=-1)


def _field(words: AnyArray, mask: int) -> AnyArray:
    """Spread the bits of a mask over 0 to 255."""
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    values = ((words & words.dtype.type(mask)) >> words.dtype.type(shift)).astype(np.uint64)
    spread: AnyArray = (values * 255 + most // 2) // most
    return spread.astype(np.uint8)


def bit_fields(file: Reader) -> BitFields | None:
    """Read the header of a BMP with bit fields; None for any other."""
    start = file.take(10, min(file.size - 10, 60))
    if len(start) < _HEADER + 4:
        return None
    offset, size, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", start)
    if size < _HEADER or compression not in _BITFIELDS or bits not in {16, 32}:
        return None
    count = 4 if size >= _WITH_ALPHA or compression == max(_BITFIELDS) else 3
    masks = struct.unpack(f"<{count}I", file.take(14 + _HEADER, 4 * count))
    masks = masks if all(masks) else masks[:3]
    if not all(masks):  # Pillow knows what some writers mean
        return None
    overlap = sum(masks) != reduce(or_, masks)
    if overlap or not all(_is_run(mask, bits) for mask in masks):
        raise file.damaged(f"bit fields {[hex(mask) for mask in masks]} of {bits}-bit words")
    return BitFields(abs(height), width, height > 0, bits, offset, masks)


def _is_run(mask: int, bits: int) -> bool:
    """Say whether the bits of a mask are neighbours within a word."""
    low = mask & -mask
    return mask.bit_length() <= bits and ((mask + low) & mask) == 0


def palette_of(image: ImageFile.ImageFile) -> AnyArray | None:
    """Read the palette of a BMP; None where it has none."""
    if image.mode == "1":
        return np.array([[0] * 3, [255] * 3], np.uint8)
    if image.mode == "L":
        return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    if image.palette is None:
        return None
    return palette_colours(bytes(image.palette.palette), image.palette.rawmode or "RGB")


def palette_colours(data: bytes, order: str) -> AnyArray:
    """Return the entries of a palette as RGB; `order` is the order of their bytes, for example BGRX."""
    entries = np.frombuffer(data[: len(data) // len(order) * len(order)], np.uint8)
    return entries.reshape(-1, len(order))[:, [order.index(colour) for colour in "RGB"]]
