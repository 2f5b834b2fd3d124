"""Orientation: which corner of the scene the first stored pixel shows (Exif 2.32 and TIFF 6.0, tag 274)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray

__all__ = ["exif_orientation", "is_turned", "upright"]

_TAG = 0x0112
_SHORT = 3
_TURNS: dict[int, Callable[[AnyArray], AnyArray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def exif_orientation(exif: bytes) -> int:
    """Find the orientation in an Exif block that begins with its TIFF header."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at)
            if (tag, kind) == (_TAG, _SHORT):
                return value if value in _TURNS else 1
    except struct.error:  # a damaged block says nothing about the pixels
        pass
    return 1


def is_turned(orientation: int) -> bool:
    """Say whether height and width change places."""
    return orientation >= 5


def upright(array: AnyArray, orientation: int) -> AnyArray:
    """Turn the pixels (H, W, …) the way up that the orientation asks for; the result is contiguous."""
    turn = _TURNS.get(orientation)
    return array if turn is None else np.ascontiguousarray(turn(array))
