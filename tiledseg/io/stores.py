"""Stores of finished tiles: TIFF, zarr and .npy; tiles in any order, resumed after a kill."""

from __future__ import annotations

import io
import os
import struct
import zlib
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import extra
from tiledseg._storage import open_part, open_part_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tiledseg._types import AnyArray
    from tiledseg.io.metadata import ImageMetadata

TILE = 512
"""Height and width of the tiles that are written, in px."""

UNFINISHED = "tiledseg_unfinished"
"""Attribute of a zarr that tiledseg has not finished."""

_DEFLATE_LEVEL = 4  # faster than any network, and maps are smooth
_SAFE_CLASSIC = 4_000_000_000
_ASCII, _SHORT, _LONG, _RATIONAL, _DOUBLE, _LONG8 = 2, 3, 4, 5, 12, 16
_SIZES = {_ASCII: 1, _SHORT: 2, _LONG: 4, _RATIONAL: 8, _DOUBLE: 8, _LONG8: 8}
_DEFLATE, _BLACK_IS_ZERO, _REDUCED, _CENTIMETRE = 8, 1, 1, 3
_FORMATS = {"u": 1, "i": 2, "f": 3}
_UM_PER_CM = 10_000


class TileStore(ABC):
    """Takes whole tiles of every level."""

    @abstractmethod
    def __init__(self, path: Path, metadata: ImageMetadata) -> None: ...

    def encode(self, tile: AnyArray) -> Any:  # each store has its own form
        """Convert a tile to its stored form; called from several threads."""
        return tile

    @abstractmethod
    def put(self, level: int, row: int, column: int, encoded: Any) -> Any:
        """Store a tile, and return the record by which `get` finds it."""

    @abstractmethod
    def get(self, level: int, row: int, column: int, record: Any) -> AnyArray | None:
        """Read a tile that an earlier run stored; None where it is not whole."""

    def begin(self) -> None:  # noqa: B027  each chunk of a zarr is a file
        """Resume after the tiles that `get` found."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the file, and flush it to the disk."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""


def _write(descriptor: int, data: Any, offset: int) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(descriptor, left) :]


def _read(descriptor: int, count: int, offset: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, count)


class TiffStore(TileStore):
    """A tiled OME-TIFF: tiles in the order of their arrival, directories at the end."""

    # tifffile writes the tiles of one level after the other, in order. Here tiles of all levels arrive mixed,
    # panel by panel, and a killed run is resumed.

    def __init__(self, path: Path, metadata: ImageMetadata) -> None:
        self._metadata, self._layout = metadata, _TiffDirectories(metadata)
        self._file = open_part(path, os.O_RDWR)
        self._end = self._layout.start
        self._whole_end = self._end

    def encode(self, tile: AnyArray) -> list[bytes]:
        """Compress each channel of a tile, padded to the full size."""
        planes = tile[..., None] if tile.ndim == 2 else tile
        full = np.zeros((TILE, TILE), tile.dtype.newbyteorder("<"))
        encoded = []
        for channel in range(planes.shape[2]):
            full[: tile.shape[0], : tile.shape[1]] = planes[..., channel]
            encoded.append(zlib.compress(full.data, _DEFLATE_LEVEL))
        return encoded

    def put(self, level: int, row: int, column: int, encoded: list[bytes]) -> list[list[int]]:
        """Append a tile."""
        record = []
        for channel, data in enumerate(encoded):
            _write(self._file, data, self._end)
            self._layout.set_tile(channel, level, row, column, self._end, len(data))
            record.append([self._end, len(data), zlib.crc32(data)])
            self._end += len(data)
        return record

    def get(self, level: int, row: int, column: int, record: list[list[int]]) -> AnyArray | None:
        """Read a tile and check its checksum."""
        height, width = self._metadata.levels[level]
        planes = []
        for channel, (offset, count, checksum) in enumerate(record):
            data = _read(self._file, count, offset)
            if len(data) != count or zlib.crc32(data) != checksum:
                return None
            self._layout.set_tile(channel, level, row, column, offset, count)
            self._whole_end = max(self._whole_end, offset + count)
            plane = np.frombuffer(zlib.decompress(data), self._metadata.dtype.newbyteorder("<"))
            planes.append(plane.reshape(TILE, TILE)[: height - row * TILE, : width - column * TILE])
        return np.stack(planes, axis=-1) if self._metadata.channels else planes[0]

    def begin(self) -> None:
        """Cut off the data that are not in the journal."""
        self._end = self._whole_end
        os.ftruncate(self._file, self._end)

    def finish(self) -> None:
        """Write the directories, then the header that points to them."""
        data, first = self._layout.directories(self._end)
        _write(self._file, data, self._end)
        os.fsync(self._file)
        _write(self._file, self._layout.header(first), 0)
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class _TiffDirectories:
    """The offsets of the tiles of a map, and the directories that hold them."""

    # TIFF Revision 6.0 (1992), the BigTIFF proposal (2007), and for the pyramid the SubIFDs of Adobe's TIFF
    # Technical Note 1, as in OME-TIFF 6: the smaller levels are sub-directories of the page at full size.

    def __init__(self, metadata: ImageMetadata) -> None:
        self._metadata = metadata
        self._planes = metadata.channels[0] if metadata.channels else 1
        grids = [(-(-height // TILE), -(-width // TILE)) for height, width in metadata.levels]
        self._offsets = [[np.zeros(grid, np.uint64) for grid in grids] for _ in range(self._planes)]
        self._counts = [[np.zeros(grid, np.uint64) for grid in grids] for _ in range(self._planes)]
        tiles = sum(down * across for down, across in grids) * self._planes
        most = tiles * (TILE * TILE * metadata.dtype.itemsize * 1.001 + 64) + 1_000_000
        self._big = most > _SAFE_CLASSIC
        self.start: int = 16 if self._big else 8

    def set_tile(self, channel: int, level: int, row: int, column: int, offset: int, count: int) -> None:
        """Set offset and length of a tile."""
        self._offsets[channel][level][row, column] = offset
        self._counts[channel][level][row, column] = count

    def header(self, first: int) -> bytes:
        """Return the first bytes of the file."""
        if self._big:
            return b"II" + struct.pack("<HHHQ", 43, 8, 0, first)
        return b"II" + struct.pack("<HI", 42, first)

    def directories(self, offset: int) -> tuple[bytes, int]:
        """Return the bytes of all directories, to be written after the data, and the offset of the first."""
        data = bytearray(b"\0" * (-offset % 16))
        following = 0
        for plane in reversed(range(self._planes)):  # from the last: each holds the offset of the next
            smaller = range(1, len(self._metadata.levels))
            subs = [self._append(data, offset, self._tags(plane, level, []), 0) for level in smaller]
            following = self._append(data, offset, self._tags(plane, 0, subs), following)
        return bytes(data), following

    def _tags(self, plane: int, level: int, subs: list[int]) -> dict[int, tuple[int, bytes]]:
        height, width = self._metadata.levels[level]
        pointer = _LONG8 if self._big else _LONG
        tags = {
            254: _numbers(_LONG, [_REDUCED if level else 0]),
            256: _numbers(_LONG, [width]),
            257: _numbers(_LONG, [height]),
            258: _numbers(_SHORT, [8 * self._metadata.dtype.itemsize]),
            259: _numbers(_SHORT, [_DEFLATE]),
            262: _numbers(_SHORT, [_BLACK_IS_ZERO]),
            277: _numbers(_SHORT, [1]),
            305: (_ASCII, b"tiledseg\0"),
            322: _numbers(_SHORT, [TILE]),
            323: _numbers(_SHORT, [TILE]),
            324: _numbers(pointer, self._offsets[plane][level]),
            325: _numbers(pointer, self._counts[plane][level]),
            339: _numbers(_SHORT, [_FORMATS[self._metadata.dtype.kind]]),
        }
        if plane == 0 and level == 0:
            tags[270] = (_ASCII, self._metadata.ome_xml() + b"\0")
        if level == 0 and self._metadata.placement is not None:
            tags |= {code: _values(kind, value) for code, kind, value in self._metadata.placement.geo}
        if subs:
            tags[330] = _numbers(pointer, subs)
        size = self._metadata.pixel_size
        if size is not None:
            down, across = self._metadata.levels[0][0] / height, self._metadata.levels[0][1] / width
            tags[282] = _ratio(_UM_PER_CM / (size.x * across))
            tags[283] = _ratio(_UM_PER_CM / (size.y * down))
            tags[296] = _numbers(_SHORT, [_CENTIMETRE])
        return tags

    def _append(
        self, data: bytearray, offset: int, tags: dict[int, tuple[int, bytes]], following: int
    ) -> int:
        """Append long values, then their directory; return the offset of the directory."""
        space, count_form, form = (8, "Q", "<HHQ") if self._big else (4, "I", "<HHI")
        entries = bytearray()
        for tag, (kind, value) in sorted(tags.items()):
            inline = value
            if len(value) > space:
                inline = struct.pack(f"<{count_form}", offset + len(data))
                data += value + b"\0" * (-len(value) % 16)
            entries += struct.pack(form, tag, kind, len(value) // _SIZES[kind]) + inline.ljust(space, b"\0")
        start = offset + len(data)
        data += struct.pack("<Q" if self._big else "<H", len(tags)) + entries
        data += struct.pack(f"<{count_form}", following)
        data += b"\0" * (-len(data) % 16)
        return start


def _numbers(kind: int, values: object) -> tuple[int, bytes]:
    form = {_SHORT: "<u2", _LONG: "<u4", _LONG8: "<u8", _DOUBLE: "<f8"}[kind]
    return kind, np.asarray(values).astype(form).tobytes()


def _values(kind: int, value: str | tuple[float, ...]) -> tuple[int, bytes]:
    if isinstance(value, str):
        return kind, value.encode("ascii", "replace") + b"\0"
    return _numbers(kind, value)


def _ratio(value: float) -> tuple[int, bytes]:
    ratio = Fraction(value).limit_denominator(1_000_000)
    while ratio.numerator >= 2**32:
        ratio = Fraction(ratio.numerator // 2, max(1, ratio.denominator // 2))
    return _RATIONAL, struct.pack("<II", ratio.numerator, ratio.denominator)


class NpyStore(TileStore):
    """NumPy's own format, uncompressed; one level."""

    def __init__(self, path: Path, metadata: ImageMetadata) -> None:
        self._metadata = metadata
        self._file = open_part(path, os.O_RDWR)
        head = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(metadata.dtype)
        fields = {"descr": descr, "fortran_order": False, "shape": metadata.shape}
        np.lib.format.write_array_header_1_0(head, fields)
        self._header = head.getvalue()
        self._row = int(np.prod(metadata.shape[1:])) * metadata.dtype.itemsize

    def put(self, level: int, row: int, column: int, encoded: AnyArray) -> int:
        """Write a tile's rows, and return their checksum."""
        del level
        start = len(self._header) + self._offset(row, column)
        for place, line in enumerate(encoded):
            _write(self._file, np.ascontiguousarray(line), start + place * self._row)
        return zlib.crc32(np.ascontiguousarray(encoded).data)

    def get(self, level: int, row: int, column: int, record: int) -> AnyArray | None:
        """Read a tile and check its checksum."""
        height, width = self._metadata.levels[level]
        size = (min(TILE, height - row * TILE), min(TILE, width - column * TILE), *self._metadata.channels)
        count = int(np.prod(size[1:])) * self._metadata.dtype.itemsize
        start = len(self._header) + self._offset(row, column)
        data = b"".join(_read(self._file, count, start + place * self._row) for place in range(size[0]))
        if zlib.crc32(data) != record:
            return None
        return np.frombuffer(data, self._metadata.dtype).reshape(size)

    def _offset(self, row: int, column: int) -> int:
        px = self._row // self._metadata.shape[1]
        return row * TILE * self._row + column * TILE * px

    def begin(self) -> None:
        """Set the final length of the file."""
        os.ftruncate(self._file, len(self._header) + self._metadata.shape[0] * self._row)

    def finish(self) -> None:
        """Write the header last: without it, the file is not an array."""
        os.fsync(self._file)
        _write(self._file, self._header, 0)
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class ZarrStore(TileStore):
    """An OME-Zarr image of version 0.5, chunks as large as the tiles, its metadata written last."""

    # zarr writes in its own threads, and a call that fails does not wait for the other writes that it
    # started: they would create files again that are removed after the failure. So each call here writes one
    # file: each array is opened in its own store (in the store of the group, the metadata of the group would
    # be written at the same time), and chunks are assigned one by one.

    def __init__(self, path: Path, metadata: ImageMetadata) -> None:
        zarr = extra("zarr", "zarr")
        self._metadata = metadata
        self._folder = open_part_folder(path)
        self._group = zarr.open_group(store=str(path), mode="a", zarr_format=3)
        self._group.attrs[UNFINISHED] = True
        axes = [axis for axis, _ in metadata.axes]
        self._arrays = [
            zarr.open_array(
                store=str(path / str(level)),
                mode="a",
                zarr_format=3,
                shape=(*metadata.channels, *shape),
                dtype=metadata.dtype,
                chunks=(*[1] * len(metadata.channels), TILE, TILE),
                dimension_names=axes,
            )
            for level, shape in enumerate(metadata.levels)
        ]

    def encode(self, tile: AnyArray) -> AnyArray:
        """Move the channels first."""
        return np.ascontiguousarray(np.moveaxis(tile, -1, 0)) if tile.ndim == 3 else tile

    def put(self, level: int, row: int, column: int, encoded: AnyArray) -> int:
        """Write a chunk of each channel, and return their checksum."""
        region = self._region(row, column)
        if encoded.ndim == 2:
            self._arrays[level][region] = encoded
        else:
            for channel, plane in enumerate(encoded):
                self._arrays[level][channel, *region] = plane
        return zlib.crc32(encoded.data)

    def get(self, level: int, row: int, column: int, record: int) -> AnyArray | None:
        """Read a tile and check its checksum."""
        try:
            found = np.ascontiguousarray(self._arrays[level][..., *self._region(row, column)])
        except Exception:  # noqa: BLE001  codecs raise many kinds for an incomplete chunk
            return None
        if zlib.crc32(found.data) != record:
            return None
        return np.moveaxis(found, 0, -1) if found.ndim == 3 else found

    @staticmethod
    def _region(row: int, column: int) -> tuple[slice, slice]:
        return slice(row * TILE, (row + 1) * TILE), slice(column * TILE, (column + 1) * TILE)

    def finish(self) -> None:
        """Replace the mark of an unfinished image by the metadata of an image."""
        self._group.attrs.put(self._metadata.ome_zarr())

    def close(self) -> None:
        """Let the folder go."""
        if self._folder is not None:
            os.close(self._folder)
