"""Where tiles that are finished go: a TIFF, a zarr, an .npy; each in any order, each again after a kill."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tiledseg._extras import extra
from tiledseg.io._pyramid import TILE
from tiledseg.io._tiff_layout import TiffLayout
from tiledseg.io._zarr_regions import UNFINISHED

if TYPE_CHECKING:
    from pathlib import Path

    from tiledseg._types import AnyArray
    from tiledseg.io._map_facts import MapFacts

__all__ = ["NpyStore", "TiffStore", "TileStore", "ZarrStore"]

_LEVEL = 4  # of deflate: as fast as a network ever is, and maps are smooth


class TileStore(Protocol):
    """Takes whole tiles of every level."""

    def encode(self, tile: AnyArray) -> Any:  # noqa: ANN401  each store has its own form
        """Bring a tile into the form that is stored; called from several threads."""
        ...

    def put(self, level: int, row: int, column: int, encoded: Any) -> Any:  # noqa: ANN401
        """Store a tile, and give what is needed to find it again."""
        ...

    def get(self, level: int, row: int, column: int, record: Any) -> AnyArray | None:  # noqa: ANN401
        """Read a tile that an earlier run stored; None where it does not stand whole."""
        ...

    def begin(self) -> None:
        """Go on after the tiles that `get` found."""
        ...

    def finish(self) -> None:
        """Make it a whole file, and bring it to the disk."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)


def _write(descriptor: int, data: Any, offset: int) -> None:  # noqa: ANN401
    os.lseek(descriptor, offset, os.SEEK_SET)
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(descriptor, left) :]


def _read(descriptor: int, count: int, offset: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, count)


class TiffStore:
    """A tiled OME-TIFF: data in the order in which it comes, directories at the end.

    tifffile writes tiles in their own order alone; here they come panel by panel, each level among
    the others, and a run that was killed goes on.
    """

    def __init__(self, path: Path, facts: MapFacts) -> None:
        self._facts, self._layout = facts, TiffLayout(facts)
        self._file = _open(path)
        self._end = self._layout.start
        self._kept = self._end

    def encode(self, tile: AnyArray) -> list[bytes]:
        """Compress a tile, filled up to its full size; one for each channel."""
        planes = tile[..., None] if tile.ndim == 2 else tile
        full = np.zeros((TILE, TILE), tile.dtype.newbyteorder("<"))
        encoded = []
        for channel in range(planes.shape[2]):
            full[: tile.shape[0], : tile.shape[1]] = planes[..., channel]
            encoded.append(zlib.compress(full.data, _LEVEL))
        return encoded

    def put(self, level: int, row: int, column: int, encoded: list[bytes]) -> list[list[int]]:
        """Append a tile."""
        record = []
        for channel, data in enumerate(encoded):
            _write(self._file, data, self._end)
            self._layout.place(channel, level, row, column, self._end, len(data))
            record.append([self._end, len(data), zlib.crc32(data)])
            self._end += len(data)
        return record

    def get(self, level: int, row: int, column: int, record: list[list[int]]) -> AnyArray | None:
        """Read a tile and check its sum."""
        height, width = self._facts.levels[level]
        planes = []
        for channel, (offset, count, checksum) in enumerate(record):
            data = _read(self._file, count, offset)
            if len(data) != count or zlib.crc32(data) != checksum:
                return None
            self._layout.place(channel, level, row, column, offset, count)
            self._kept = max(self._kept, offset + count)
            plane = np.frombuffer(zlib.decompress(data), self._facts.dtype.newbyteorder("<")).reshape(
                TILE, TILE
            )
            planes.append(plane[: height - row * TILE, : width - column * TILE])
        return np.stack(planes, axis=-1) if self._facts.channels else planes[0]

    def begin(self) -> None:
        """Cut off what the journal does not know of."""
        self._end = self._kept
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


class NpyStore:
    """NumPy's own format, uncompressed; one level."""

    def __init__(self, path: Path, facts: MapFacts) -> None:
        self._facts = facts
        self._file = _open(path)
        header = {
            "descr": np.lib.format.dtype_to_descr(facts.dtype),
            "fortran_order": False,
            "shape": facts.shape,
        }
        text = repr(header).encode()
        space = -(10 + len(text) + 1) % 64
        self._header = b"\x93NUMPY\x01\x00" + (len(text) + space + 1).to_bytes(2, "little") + text
        self._header += b" " * space + b"\n"
        self._row = int(np.prod(facts.shape[1:])) * facts.dtype.itemsize

    def encode(self, tile: AnyArray) -> AnyArray:
        """Leave a tile as it is."""
        return tile

    def put(self, level: int, row: int, column: int, encoded: AnyArray) -> int:
        """Write a tile's rows, and give their sum."""
        del level
        start = len(self._header) + self._offset(row, column)
        for place, line in enumerate(encoded):
            _write(self._file, np.ascontiguousarray(line), start + place * self._row)
        return zlib.crc32(np.ascontiguousarray(encoded).data)

    def get(self, level: int, row: int, column: int, record: int) -> AnyArray | None:
        """Read a tile and check its sum."""
        height, width = self._facts.levels[level]
        size = (min(TILE, height - row * TILE), min(TILE, width - column * TILE), *self._facts.channels)
        count = int(np.prod(size[1:])) * self._facts.dtype.itemsize
        start = len(self._header) + self._offset(row, column)
        data = b"".join(_read(self._file, count, start + place * self._row) for place in range(size[0]))
        if zlib.crc32(data) != record:
            return None
        return np.frombuffer(data, self._facts.dtype).reshape(size)

    def _offset(self, row: int, column: int) -> int:
        px = self._row // self._facts.shape[1]
        return row * TILE * self._row + column * TILE * px

    def begin(self) -> None:
        """Take the file's whole length at once, as far as the disk tells that there is room."""
        os.ftruncate(self._file, len(self._header) + self._facts.shape[0] * self._row)

    def finish(self) -> None:
        """Write the header last: without it, it is no array."""
        os.fsync(self._file)
        _write(self._file, self._header, 0)
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class ZarrStore:
    """An OME-Zarr image of version 0.5, chunks as large as the tiles, its metadata written last."""

    def __init__(self, path: Path, facts: MapFacts) -> None:
        zarr = extra("zarr", "zarr")
        self._facts = facts
        self._group = zarr.open_group(store=str(path), mode="a", zarr_format=3)
        self._group.attrs[UNFINISHED] = True
        axes = [axis for axis, _ in facts.axes]
        count = [1] * (len(axes) - 2)
        self._arrays = [
            self._group.require_array(
                str(level),
                shape=(*facts.channels, *shape),
                dtype=facts.dtype,
                chunks=(*count, TILE, TILE),
                dimension_names=axes,
            )
            for level, shape in enumerate(facts.levels)
        ]

    def encode(self, tile: AnyArray) -> AnyArray:
        """Leave a tile to zarr, channels first."""
        return np.ascontiguousarray(np.moveaxis(tile, -1, 0)) if tile.ndim == 3 else tile

    def put(self, level: int, row: int, column: int, encoded: AnyArray) -> int:
        """Write a chunk of each channel, and give their sum."""
        self._arrays[level][self._where(row, column)] = encoded
        return zlib.crc32(encoded.data)

    def get(self, level: int, row: int, column: int, record: int) -> AnyArray | None:
        """Read a tile and check its sum."""
        try:
            found = np.ascontiguousarray(self._arrays[level][self._where(row, column)])
        except Exception:  # noqa: BLE001  whatever a codec says of half a chunk
            return None
        if zlib.crc32(found.data) != record:
            return None
        return np.moveaxis(found, 0, -1) if found.ndim == 3 else found

    @staticmethod
    def _where(row: int, column: int) -> tuple[Any, ...]:
        rows, columns = slice(row * TILE, (row + 1) * TILE), slice(column * TILE, (column + 1) * TILE)
        return (..., rows, columns)

    def begin(self) -> None:
        """Do nothing: chunks stand by themselves."""

    def finish(self) -> None:
        """Replace the mark that says unfinished by what makes it an image."""
        self._group.attrs.put(self._facts.ome_zarr())

    def close(self) -> None:
        """Do nothing: zarr holds no file open."""
