"""NumPy's own files, read by region and never mapped."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from tiledseg.io.source import CachedBlocks, RawRows

if TYPE_CHECKING:
    from tiledseg.io.file import Reader
    from tiledseg.io.source import Regions, Selection

__all__ = ["NPY_MAGIC", "npy_regions"]

NPY_MAGIC = b"\x93NUMPY"
_MOST_HEADER = 10_000


def npy_regions(file: Reader, selection: Selection) -> Regions:
    """Open an array of shape (H, W) or (H, W, C)."""
    selection.level_of(file, 1)
    shape, dtype, start = _header(file)
    if len(shape) not in {2, 3} or min(shape) < 1 or dtype.kind not in "biuf":
        got = f"{dtype} of shape {shape}"
        raise file.bad("hold numbers of shape (H, W) or (H, W, C)", got, "Save the image, channels last.")
    if file.size < start + int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise file.damaged(f"{file.size} bytes for {shape} of {dtype}")
    rows = RawRows(file, shape, dtype, (start,), shape[0])
    channels = selection.channels_of(file, shape[2] if len(shape) == 3 else 1)
    return rows if channels is None else CachedBlocks(_Picked(rows, channels))


def _header(file: Reader) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    head = io.BytesIO(file.take(0, min(file.size, _MOST_HEADER)))
    with suppress(ValueError, EOFError, TypeError):
        version = np.lib.format.read_magic(head)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(head, max_header_size=_MOST_HEADER)
        if fortran and len(shape) > 1:
            fix = "Save numpy.ascontiguousarray of it."
            raise file.bad("lie in the file row by row", "Fortran order", fix)
        return tuple(shape), np.dtype(dtype), head.tell()
    raise file.damaged("an .npy header that NumPy cannot read")


class _Picked:
    """Some channels of rows, in blocks."""

    def __init__(self, rows: RawRows, channels: list[int]) -> None:
        count = (len(channels),) if len(channels) > 1 else ()
        self.shape: tuple[int, ...] = (*rows.shape[:2], *count)
        self.dtype: np.dtype[np.generic] = rows.dtype
        self.block_shape: tuple[int, int] = (512, 512)
        self._rows, self._channels = rows, channels

    def block(self, row: int, column: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """Read a block, cut off at the end of the image."""
        y, x = row * 512, column * 512
        rows, columns = slice(y, min(y + 512, self.shape[0])), slice(x, min(x + 512, self.shape[1]))
        picked = self._rows.read(rows, columns)[..., self._channels]
        return picked if len(self._channels) > 1 else picked[..., 0]
