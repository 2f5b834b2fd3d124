"""PNG, read whole, or band by band where it is large.

After Portable Network Graphics, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import threading
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import cv2
from tiledseg.io.file import Header, check_opaque, is_grey
from tiledseg.io.metadata import exif_orientation, pixel_size_of_density

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import AnyArray
    from tiledseg.io.file import Kind, Reader, Request
    from tiledseg.io.metadata import PixelSize

MAGIC = b"\x89PNG\r\n\x1a\n"
METRE, UM_PER_M = 1, 1e6  # the unit of pHYs
_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, _GREY_ALPHA: 2, _COLOUR_ALPHA: 4}
_DEPTHS = {1: {_GREY, _PALETTE}, 2: {_GREY, _PALETTE}, 4: {_GREY, _PALETTE}, 8: set(_SAMPLES)}
_DEPTHS[16] = set(_SAMPLES) - {_PALETTE}
_DEFLATE_RATIO = 1032  # the highest compression ratio of deflate

LARGE = 64 << 20
"""Bytes of px up to which a PNG is decoded at once, which is faster."""

_BAND_BYTES = 8 << 20
_STEP = 1 << 20  # compressed bytes that are read at once
_WIDEST = 1 << 20  # px of OpenCV
_NONE, UP, _FILTERS = 0, 2, 5  # as they are, the difference from the row above: undone without OpenCV
_BGRA = 4
# OpenCV undoes the filters of a band as those of a PNG of its own. A filter looks back by the bytes of a px;
# by these, a colour type and a depth of as many: grey, RGB or RGBA.
_KINDS = {1: (0, 8), 2: (0, 16), 3: (2, 8), 4: (6, 8), 6: (2, 16), 8: (6, 16)}


def framed(name: bytes, data: bytes) -> bytes:
    """Frame the data of a chunk by its length, name and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, bits: int, colour: int, data: bytes) -> bytes:
    """Make a PNG of compressed rows."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return MAGIC + framed(b"IHDR", head) + framed(b"IDAT", data) + framed(b"IEND", b"")


def png_header(file: Reader, max_pixels: int) -> Header:
    """Read the header of a PNG; refuse one with too little data for its size."""
    start = file.take(len(MAGIC), 18)
    kind, width, height, bits, colour = struct.unpack(">4x4sIIBB", start)
    if kind != b"IHDR" or colour not in _DEPTHS.get(bits, ()):
        raise file.damaged("a PNG without a valid IHDR chunk")
    file.check_size(height, width, max_pixels)
    chunks = list(png_chunks(file))
    check_chunks(file, chunks)
    stored = sum(length for name, _, length in chunks if name == b"IDAT")
    if height * (1 + (width * _SAMPLES[colour] * bits + 7) // 8) > stored * _DEFLATE_RATIO + 1024:
        raise file.damaged(f"{stored} bytes of data for {height}x{width} px")
    kept = {b"PLTE", b"tRNS", b"eXIf", b"acTL"}
    extra = {name: file.take(at, length) for name, at, length in chunks if name in kept}
    frames = int.from_bytes(extra.get(b"acTL", b"")[:4], "big")
    if frames > 1 or any(name == b"fdAT" for name, _, _ in chunks):  # the data of further frames
        raise file.bad("hold one image", f"a film of {max(frames, 2)} frames", "Export one frame as PNG.")
    palette = np.frombuffer(extra.get(b"PLTE", b""), np.uint8).reshape(-1, 3) if colour == _PALETTE else None
    return Header(
        kind="png",
        height=height,
        width=width,
        channels=1 if colour in {_GREY, _GREY_ALPHA} or is_grey(palette) else 3,
        bits=bits,
        orientation=exif_orientation(extra.get(b"eXIf", b"")),
        alpha="plane" if colour in {_GREY_ALPHA, _COLOUR_ALPHA} else "none",
        palette=palette,
        key=_key(file, extra[b"tRNS"], colour, bits) if b"tRNS" in extra else None,
    )


def _key(file: Reader, data: bytes, colour: int, bits: int) -> AnyArray | None:
    """Read the transparent colour; of a palette the opacity of each index."""
    if colour == _PALETTE:
        return np.frombuffer(data[:256].ljust(256, b"\xff"), np.uint8)
    if colour in {_GREY, _COLOUR} and len(data) != 2 * _SAMPLES[colour]:
        raise file.damaged(f"a tRNS chunk of {len(data)} bytes")
    return np.frombuffer(data, ">u2") & (2**bits - 1) if colour in {_GREY, _COLOUR} else None


def _check_key(file: Reader, samples: AnyArray, key: AnyArray) -> None:
    """Refuse px (rows, width, samples) that are transparent."""
    found = key[samples[..., 0]] < 255 if len(key) == 256 else (samples == key).all(axis=-1)
    if found.any():
        fix = "Flatten it in the program that made it, or pass alpha='drop' to ignore the transparency."
        raise file.bad("be opaque", "px of a transparent colour", fix)


def png_bands(file: Reader, kind: Kind, request: Request) -> PngBands | None:
    """Open a large PNG, to be decoded band by band; None for what is decoded whole."""
    if kind != "png":
        return None
    width, height, bits, colour, interlaced = struct.unpack(">IIBB2xB", file.take(16, 13))
    samples = _SAMPLES.get(colour, 0)
    if interlaced or not fits_bands(height, width, samples, bits):
        return None  # before all chunks are looked at
    header = png_header(file, request.max_pixels)
    if header.orientation != 1:
        return None
    header.check(file, request)
    return PngBands(file, header, request, samples)


def decoded_png(file: Reader, header: Header, request: Request) -> AnyArray:
    """Decode a whole PNG by OpenCV."""
    plane = header.alpha == "plane" and request.alpha != "drop"
    indices = header.wants_indices(request)
    grey = indices or header.channels == 1
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    flags |= cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    pixels = _decoded(file, _png_payload(file, indices=indices), cv2.IMREAD_UNCHANGED if plane else flags)
    if plane:
        pixels = _without_alpha(file, pixels, request, grey=grey)
    key = header.key_for(request)
    if key is not None:
        samples = pixels
        if header.palette is not None:
            samples = _decoded(file, _png_payload(file, indices=True), cv2.IMREAD_GRAYSCALE)
        step = 255 // (2**header.bits - 1) if header.bits < 8 else 1
        _check_key(file, np.atleast_3d(samples // step), key)
    stored = indices or (header.channels == 1 and header.palette is None and request.is_stored)
    if header.bits < 8 and stored:
        pixels //= 255 // (2**header.bits - 1)  # OpenCV has scaled them to 0 to 255
    return pixels


def _without_alpha(file: Reader, pixels: AnyArray, request: Request, *, grey: bool) -> AnyArray:
    """Turn OpenCV's BGRA into RGB or grey; with its alpha where that is to be kept."""
    if request.alpha == "keep":
        return pixels[..., [0, -1]] if grey else cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
    check_opaque(file, pixels[..., -1], "refuse", kept=not request.is_mask)
    return pixels[..., 0].copy() if grey else cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB)


def _png_payload(file: Reader, *, indices: bool) -> bytes:
    """Check every checksum, and return the chunks of the pixels; indices as if they were grey."""
    parts = [MAGIC]
    for kind, at, length in png_chunks(file):
        raw = file.take(at - 8, length + 12)
        if zlib.crc32(memoryview(raw)[4:-4]) != int.from_bytes(raw[-4:]):
            raise file.damaged(f"a wrong checksum in its {kind.decode('latin-1')} chunk")
        if kind == b"IHDR" and indices:
            body = raw[4:17] + bytes([_GREY]) + raw[18:-4]
            raw = raw[:4] + body + zlib.crc32(body).to_bytes(4)
        if kind in {b"IHDR", b"IDAT", b"IEND"} or (kind == b"PLTE" and not indices):
            parts.append(raw)
    return b"".join(parts)


def _decoded(file: Reader, payload: bytes, flags: int) -> AnyArray:
    try:
        pixels: AnyArray | None = cv2.imdecode(np.frombuffer(payload, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from None
        raise file.damaged(f"OpenCV's error {error.err!r}") from None
    if pixels is None:
        raise file.damaged("a PNG that OpenCV cannot decode")
    return pixels


@dataclass(frozen=True, slots=True)
class _Point:
    """The state of the inflater before a band."""

    place: int  # in the compressed bytes
    inflater: Any
    above: bytes  # the last row of the band before


class PngBands:
    """The bands of a PNG that is not interlaced; earlier ones are found again by the state before them."""

    def __init__(self, file: Reader, header: Header, request: Request, samples: int) -> None:
        spans = [(at, length) for name, at, length in _checked_chunks(file) if name == b"IDAT"]
        self._file, self._size = file, (header.height, header.width)
        self._samples, self._bits = samples, header.bits
        self._palette: AnyArray | None = None
        if header.palette is not None and not header.wants_indices(request):
            self._palette = np.zeros((256, header.channels), np.uint8)  # an index without a colour is black
            self._palette[: len(header.palette)] = header.palette[:, : header.channels]
        self._alpha = request.alpha if header.alpha == "plane" else None
        self._scaled = header.palette is None and not request.is_stored
        self._key = header.key_for(request)
        self._starts = [start for start, _ in spans]
        self._ends = [0, *accumulate(length for _, length in spans)]
        self._row_bytes = _row_bytes(header.width, samples, header.bits)
        count = samples - (self._alpha in {"drop", "refuse"})
        if self._palette is not None:
            count = header.channels
        self.shape: tuple[int, ...] = self._size if count == 1 else (*self._size, count)
        self.dtype: np.dtype[Any] = np.dtype(np.uint16 if self._bits == 16 else np.uint8)
        self.block_shape: tuple[int, int] = (max(1, _BAND_BYTES // self._row_bytes), header.width)
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
        if filters == {UP}:
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
        if self._key is not None:
            _check_key(self._file, pixels, self._key)
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
            return pixel_size_of_density((down, across), UM_PER_M) if unit == METRE else None
    return None


def png_chunks(file: Reader) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the kind, data offset and data length of each chunk."""
    offset, kind = len(MAGIC), b""
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
    file.check_alone(chunks[-1][1] + 4, MAGIC[:4])


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
