"""A grey PNG that is written row by row, whole or not at all."""

from __future__ import annotations

import math
import re
import struct
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from tiledseg._lazy import lazy
from tiledseg._storage import atomic_write, is_file, json_of
from tiledseg._validate import invalid, named, path_text
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import tifffile
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.io.metadata import PixelSize
else:
    tifffile = lazy("tifffile")

_MAGIC = b"\x89PNG\r\n\x1a\n"
_UP = 2  # filter: the difference from the row above
_LEVEL = 3
_METRE, _UM_PER_M = 1, 1e6  # the unit of pHYs
_ROWS = 1 << 22  # values that are encoded at once


def _framed(name: bytes, data: bytes) -> bytes:
    """Frame the data of a chunk by its length, name and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, bits: int, colour: int, data: bytes) -> bytes:
    """Make a PNG of compressed rows."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return _MAGIC + _framed(b"IHDR", head) + _framed(b"IDAT", data) + _framed(b"IEND", b"")


def density_chunk(size: PixelSize | None) -> bytes:
    """Make the chunk that states the size of a px; nothing where it is not known, or cannot be stated."""
    across, down = (round(_UM_PER_M / one) for one in (size.x, size.y)) if size else (0, 0)
    if not (0 < across < 2**31 and 0 < down < 2**31):
        return b""
    return _framed(b"pHYs", struct.pack(">IIB", across, down, _METRE))


class PngRows:
    """Takes the rows of a map of uint8 or uint16 in order, and encodes them at once."""

    def __init__(
        self,
        path: PathLike,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        pixel_size: PixelSize | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = dtype
        self._path, self._density, self._notes = path, density_chunk(pixel_size), dict(notes or {})
        self._above: NDArray[np.uint8] = np.zeros(shape[1] * dtype.itemsize, np.uint8)
        self._done = 0
        self._packer = zlib.compressobj(_LEVEL, strategy=zlib.Z_RLE)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._file = stack.enter_context(atomic_write(self._path))
            height, width = self.shape
            self._file.write(_MAGIC)
            self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * self.dtype.itemsize, 0, 0, 0, 0))
            self._file.write(self._density)
            for name, text in self._notes.items():
                self._chunk(b"tEXt", f"{name}\0{text}".encode("latin-1", "replace"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            stack.push(self._stack)
            if kind is not None:
                stack.pop_all().__exit__(kind, error, trace)
                return
            if self._done != self.shape[0]:
                got, fix = f"{self._done} of {self.shape[0]} rows", "Assign every row before the block ends."
                raise invalid(FileError, named(self._path), must="be written whole", got=got, fix=fix)
            self._chunk(b"IDAT", self._packer.flush())
            self._chunk(b"IEND", b"")

    def __setitem__(self, rows: slice, pixels: AnyArray) -> None:
        start, stop, _ = rows.indices(self.shape[0])
        if start != self._done or pixels.shape != (stop - start, self.shape[1]):
            must, got = f"be rows from {self._done}", f"rows {start} to {stop} of shape {pixels.shape}"
            raise invalid(FileError, named(self._path), must=must, got=got, fix="Write the rows in order.")
        at_once = max(1, _ROWS // self.shape[1])
        for first in range(0, stop - start, at_once):
            self._encode(pixels[first : first + at_once])
        self._done = stop

    def _encode(self, pixels: AnyArray) -> None:
        wide = np.ascontiguousarray(pixels, self.dtype.newbyteorder(">")).view(np.uint8)
        lines = np.empty((len(wide), 1 + wide.shape[1]), np.uint8)
        lines[:, 0] = _UP
        lines[0, 1:] = wide[0] - self._above
        np.subtract(wide[1:], wide[:-1], out=lines[1:, 1:])
        self._above = wide[-1].copy()
        self._chunk(b"IDAT", self._packer.compress(lines.data))

    def _chunk(self, name: bytes, data: bytes) -> None:
        if name == b"IDAT" and not data:
            return
        self._file.write(_framed(name, data))


LEVEL_SCALE = "level_scale"
"""Name of the note that says how many px of level 0 a px of a map has, along y and x."""


def level_scale_of(path: PathLike) -> tuple[float, float]:
    """Read how many px of level 0 a px of a map of ours has; (1, 1) where the file says nothing."""
    place, text = Path(path_text(path)), ""
    with suppress(OSError, ValueError, SyntaxError, TypeError, LookupError, AttributeError):
        if place.suffix.lower() == ".png":
            with Image.open(place) as image:
                text = str(image.info.get(LEVEL_SCALE, ""))
        elif is_file(place / "zarr.json"):
            group = json_of((place / "zarr.json").read_bytes(), nan=True)
            text = str(group["attributes"].get("tiledseg", {}).get(LEVEL_SCALE, ""))
        elif place.suffix.lower() in {".tif", ".tiff"}:
            with tifffile.TiffFile(place) as tiff:
                found = re.search(f'K="{LEVEL_SCALE}">([0-9. ]+)<', tiff.pages.first.description)
                text = found[1] if found else ""
    return _scales_in(text)


def _scales_in(text: str) -> tuple[float, float]:
    parts = text.split()
    with suppress(ValueError):
        y, x = map(float, parts)
        if 0 < y < math.inf and 0 < x < math.inf:
            return y, x
    return 1.0, 1.0
