"""PNG: a grey one written row by row, whole or not at all; large ones read band by band.

Memory grows with the width of an image and not with its height.
"""

from __future__ import annotations

import math
import re
import struct
import threading
import zlib
from bisect import bisect_right
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from tiledseg._lazy import cv2, lazy
from tiledseg._storage import atomic_write, is_file, json_of
from tiledseg._validate import invalid, named, path_text
from tiledseg.errors import FileError
from tiledseg.io.file import check_opaque
from tiledseg.io.metadata import pixel_size_of_density

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    import tifffile
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.io.file import Alpha, Reader
    from tiledseg.io.metadata import PixelSize
else:
    tifffile = lazy("tifffile")

_MAGIC = b"\x89PNG\r\n\x1a\n"
_LEVEL = 3
_METRE, _UM_PER_M = 1, 1e6  # the unit of pHYs
_ROWS = 1 << 22  # values that are encoded at once

LARGE = 64 << 20
"""Bytes of px up to which a PNG is decoded at once, which is faster."""

_BAND_BYTES = 8 << 20
_STEP = 1 << 20  # compressed bytes that are read at once
_WIDEST = 1 << 20  # px of OpenCV
_NONE, _UP, _FILTERS = 0, 2, 5  # as they are, the difference from the row above: undone without OpenCV
_SIGNATURE = 8  # bytes at the start of a PNG
_BGRA = 4
# OpenCV undoes the filters of a band as those of a PNG of its own. A filter looks back by the bytes of a px;
# by these, a colour type and a depth of as many: grey, RGB or RGBA.
_KINDS = {1: (0, 8), 2: (0, 16), 3: (2, 8), 4: (6, 8), 6: (2, 16), 8: (6, 16)}


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


@dataclass(frozen=True, slots=True)
class _Point:
    """The state of the inflater before a band."""

    place: int  # in the compressed bytes
    inflater: Any
    above: bytes  # the last row of the band before


class PngBands:
    """The bands of a PNG that is not interlaced; earlier ones are found again by the state before them."""

    def __init__(
        self,
        file: Reader,
        size: tuple[int, int],
        stored: tuple[int, int],
        *,
        palette: AnyArray | None,
        alpha: Alpha | None,
        scaled: bool,
    ) -> None:
        spans = [(at, length) for name, at, length in _checked_chunks(file) if name == b"IDAT"]
        self._file, self._size, (self._samples, self._bits) = file, size, stored
        self._palette, self._alpha, self._scaled = palette, alpha, scaled
        self._starts = [start for start, _ in spans]
        self._ends = [0, *accumulate(length for _, length in spans)]
        self._row_bytes = _row_bytes(size[1], *stored)
        count = self._samples - (alpha in {"drop", "refuse"}) if palette is None else palette.shape[1]
        self.shape: tuple[int, ...] = size if count == 1 else (*size, count)
        self.dtype: np.dtype[Any] = np.dtype(np.uint16 if self._bits == 16 else np.uint8)
        self.block_shape: tuple[int, int] = (max(1, _BAND_BYTES // self._row_bytes), size[1])
        self._points = [_Point(0, zlib.decompressobj(), bytes(self._row_bytes))]
        self._lock = threading.Lock()

    def block(self, row: int, column: int) -> AnyArray:  # noqa: ARG002  as wide as the image
        """Decode a band."""
        with self._lock:
            for number in range(min(row, len(self._points) - 1), row):
                self._band(number)
            return self._finished(self._samples_of(self._band(row)))

    def whole(self) -> AnyArray:
        """Decode all bands, in order."""
        pixels, high = np.empty(self.shape, self.dtype), self.block_shape[0]
        for top in range(0, self._size[0], high):
            pixels[top : top + high] = self.block(top // high, 0)
        return pixels

    def _band(self, number: int) -> AnyArray:
        """Decode the bytes of a band, and keep the state before the next."""
        point, high = self._points[number], self.block_shape[0]
        rows = min(high, self._size[0] - number * high)
        length = rows * (1 + self._row_bytes)
        data, place, inflater = self._inflated(point, length)
        if len(data) != length:
            raise self._file.damaged(f"data for less than the {self._size[0]} rows declared")
        band = self._unfiltered(rows, b"\0" + point.above + data)
        if number * high + rows == self._size[0]:
            more, _, inflater = self._inflated(_Point(place, inflater, b""), 1)
            if more or not inflater.eof:
                raise self._file.damaged(f"data that do not end with the {self._size[0]} rows declared")
        elif number + 1 == len(self._points):
            self._points.append(_Point(place, inflater, band[-1].tobytes()))
        return band

    def _inflated(self, point: _Point, length: int) -> tuple[bytes, int, Any]:
        """Inflate some bytes; fewer where the data end."""
        place, inflater = point.place, point.inflater.copy()
        parts: list[bytes] = []
        while length and not inflater.eof:
            data = inflater.unconsumed_tail
            if not data:
                data = self._stored(place)
                place += len(data)
            if not data:
                break
            try:
                parts.append(inflater.decompress(data, length))
            except zlib.error as error:
                raise self._file.damaged(f"zlib's error {error}") from None
            length -= len(parts[-1])
        return b"".join(parts), place, inflater

    def _stored(self, place: int) -> bytes:
        """Read compressed bytes; they may be divided among chunks."""
        if place >= self._ends[-1]:
            return b""
        span = bisect_right(self._ends, place) - 1
        return self._file.at(
            self._starts[span] + place - self._ends[span], min(_STEP, self._ends[span + 1] - place)
        )

    def _unfiltered(self, rows: int, data: bytes) -> AnyArray:
        """Undo the filters of rows, before which stands the row above them."""
        lines = np.frombuffer(data, np.uint8).reshape(rows + 1, -1)
        filters = set(lines[1:, 0].tolist())
        if filters == {_NONE}:
            return np.ascontiguousarray(lines[1:, 1:])
        if filters == {_UP}:
            return np.add.accumulate(lines[:, 1:], axis=0, dtype=np.uint8)[1:]
        if max(filters) >= _FILTERS:
            raise self._file.damaged(f"a row with the filter {max(filters)}")
        colour, bits = _KINDS[_px_bytes(self._samples, self._bits)]
        width = self._row_bytes // _px_bytes(self._samples, self._bits)
        picture = png_of(width, rows + 1, bits, colour, zlib.compress(data, 0))
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.shape[:2] != (rows + 1, width):
            raise self._file.damaged("a PNG that OpenCV cannot decode")
        if pixels.ndim == 3:
            pixels = cv2.cvtColor(
                pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == _BGRA else cv2.COLOR_BGR2RGB
            )
        stored = pixels[1:].astype(">u2" if bits == 16 else np.uint8, copy=False)
        return np.ascontiguousarray(stored).view(np.uint8).reshape(rows, -1)

    def _samples_of(self, band: AnyArray) -> AnyArray:
        """Give the samples (rows, width, samples) that the bytes of rows hold."""
        shape = (len(band), self._size[1], self._samples)
        if self._bits == 16:
            return band.view(">u2").astype(np.uint16).reshape(shape)
        if self._bits == 8:
            return band.reshape(shape)
        shifts = np.arange(8 - self._bits, -1, -self._bits, dtype=np.uint8)
        values: AnyArray = band[:, :, None] >> shifts & np.uint8(2**self._bits - 1)
        return values.reshape(len(band), -1)[:, : self._size[1], None]

    def _finished(self, pixels: AnyArray) -> AnyArray:
        """Turn samples (rows, width, samples) into what was asked for."""
        if self._palette is not None:
            pixels = np.take(self._palette, pixels[..., 0], axis=0)
        elif self._alpha is not None and self._alpha != "keep":
            check_opaque(self._file, pixels[..., -1], self._alpha)
            pixels = pixels[..., :-1]
        elif self._bits < 8 and self._scaled:
            pixels = pixels * np.uint8(255 // (2**self._bits - 1))
        return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def pixel_size_of_png(file: Reader) -> PixelSize | None:
    """Find the size of a px in the pHYs chunk."""
    for name, at, length in png_chunks(file):
        if (name, length) == (b"pHYs", 9):
            across, down, unit = struct.unpack(">IIB", file.take(at, length))
            return pixel_size_of_density((down, across), _UM_PER_M) if unit == _METRE else None
    return None


def png_chunks(file: Reader) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the kind, data offset and data length of each chunk."""
    offset, kind = _SIGNATURE, b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", file.take(offset, 8))
        if offset + 12 + length > file.size:
            raise file.damaged(f"{file.size} bytes where {offset + 12 + length} or more are declared")
        yield kind, offset + 8, length
        offset += 12 + length


def check_chunks(file: Reader, chunks: list[tuple[bytes, int, int]]) -> None:
    """Refuse chunks that are out of place: decoders skip them with a warning, or without one."""
    names = [name for name, _, _ in chunks]
    unknown = {name for name in names if not name[:1].islower()} - {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
    if unknown:
        raise file.damaged(f"a critical chunk {min(unknown)!r}, which no standard defines")
    at = [number for number, name in enumerate(names) if name == b"IDAT"]
    palettes = [number for number, name in enumerate(names) if name == b"PLTE"]
    if not at or at[-1] - at[0] >= len(at) or len(palettes) > 1 or max(palettes, default=0) > at[0]:
        raise file.damaged("chunks out of order, or without IDAT")
    for name, _, length in chunks:
        if (name == b"PLTE" and (length % 3 or not 0 < length <= 768)) or (name == b"IEND" and length):
            raise file.damaged(f"a {name.decode()} chunk of {length} bytes")
    file.check_alone(chunks[-1][1] + 4, b"\x89PNG")


def _checked_chunks(file: Reader) -> list[tuple[bytes, int, int]]:
    """List the chunks, and check their checksums part by part."""
    chunks = list(png_chunks(file))
    for name, at, length in chunks:
        total = zlib.crc32(name)
        for start in range(at, at + length, _STEP):
            total = zlib.crc32(file.take(start, min(_STEP, at + length - start)), total)
        if total != int.from_bytes(file.take(at + length, 4)):
            raise file.damaged(f"a wrong checksum in its {name.decode('latin-1')} chunk")
    return chunks


def _row_bytes(width: int, samples: int, bits: int) -> int:
    return (width * samples * bits + 7) // 8


def _px_bytes(samples: int, bits: int) -> int:
    """Count the bytes that a filter looks back."""
    return max(1, samples * bits // 8)


def fits_bands(height: int, width: int, samples: int, bits: int) -> bool:
    """Return whether a PNG is large, and OpenCV can decode its bands."""
    row = _row_bytes(width, samples, bits)
    return row * height > LARGE and row // _px_bytes(samples, bits) <= _WIDEST
