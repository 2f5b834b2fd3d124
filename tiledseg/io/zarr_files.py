"""The files of a zarr on disk, checked before zarr reads them: regular, and no larger than declared."""

from __future__ import annotations

import bz2
import io
import lzma
import math
import os
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from tiledseg._lazy import extra
from tiledseg._storage import is_file, open_regular
from tiledseg._validate import named
from tiledseg.io.file import Reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tiledseg.errors import FileError

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_MOST_METADATA = 1 << 26  # bytes
_WIDENED, _LEAST = 8, 1 << 20  # filters store samples of up to so many times the bytes
_STEP = 1 << 20
_DEFLATE_RATIO, _HARMLESS = 1032, 1 << 28  # what cannot become more than this is not inflated to see its size
_ZSTD, _BLOCK = b"\x28\xb5\x2f\xfd", 1 << 17
_ABSENT = 2**64 - 1


@cache
def _store_class() -> Any:  # made of a class of zarr, which may not be installed
    class RegularFiles(extra("zarr", "zarr").storage.LocalStore):  # type: ignore[misc]
        """A folder of which only regular files are opened: zarr would wait for pipes."""

        async def get(self, key: str, *args: Any, **options: Any) -> Any:
            path = self.root / key
            if os.path.lexists(path):  # also a link that leads nowhere, or in a circle
                _check_file(Reader(named(self.root), io.BytesIO(), 0), path, key)
            return await super().get(key, *args, **options)

    return RegularFiles


def local_store(folder: str) -> Any:  # a store of zarr
    """Open a folder as a store of zarr, for reading."""
    return _store_class()(folder, read_only=True)


def _check_file(file: Reader, path: Path, name: str) -> None:
    """Refuse pipes and devices, and metadata that take too much memory."""
    if not is_file(path):
        got = f"{named(name)}, which is a folder, a pipe or a device"
        raise file.bad("consist of regular files", got, "Copy or export it again.")
    if path.name in _METADATA and path.stat().st_size > _MOST_METADATA:
        got = f"{named(name)} of {path.stat().st_size} bytes"
        raise file.bad(f"have metadata of at most {_MOST_METADATA} bytes", got, "Export it again.")


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes of a file."""

    handle: BinaryIO
    start: int
    size: int

    def at(self, offset: int, count: int) -> bytes:
        """Read some bytes; fewer at the end."""
        self.handle.seek(self.start + offset)
        return self.handle.read(max(0, min(count, self.size - offset)))


@dataclass(frozen=True, slots=True)
class ChunkFiles:
    """The chunks of an array."""

    file: Reader
    folder: Path
    array: Any

    def check(self, key: tuple[slice | int, ...]) -> None:
        """Check the chunks of a region."""
        inner, outer = self.array.chunks, self.array.shards or self.array.chunks
        ranges = []
        for part, length, size in zip(key, self.array.shape, inner, strict=True):
            start, stop = (part, part + 1) if isinstance(part, int) else part.indices(length)[:2]
            ranges.append(range(start // size, -(-stop // size)))
        ratios = [large // small for large, small in zip(outer, inner, strict=True)]
        compressors = self._compressors()
        for place in product(*ranges):
            of_file = tuple(number // ratio for number, ratio in zip(place, ratios, strict=True))
            path = self.folder / self.array.metadata.encode_chunk_key(of_file)
            if not os.path.lexists(path):
                continue
            _check_file(self.file, path, path.relative_to(self.folder).as_posix())
            if path.stat().st_size > _WIDENED * math.prod(outer) * self.array.dtype.itemsize + _LEAST:
                raise self._damaged(path, f"of {path.stat().st_size} bytes, beyond those of its shape")
            if compressors:
                inside = [number % ratio for number, ratio in zip(place, ratios, strict=True)]
                self._check_size(path, compressors[0], inside, ratios)

    def _compressors(self) -> list[str]:
        """List the codecs that inflate a chunk, in the order of decoding."""
        metadata = self.array.metadata.to_dict()
        if "codecs" in metadata:
            codecs = list(metadata["codecs"])
            if codecs and codecs[-1]["name"] == "sharding_indexed":
                codecs = list(codecs[-1]["configuration"]["codecs"])
        else:
            codecs = [*(metadata["filters"] or ()), metadata["compressor"] or {}]
        names = [str(one.get("name", one.get("id", ""))).removeprefix("numcodecs.") for one in codecs]
        found = [name for name in reversed(names) if name in _SIZES]
        if len(found) > 1:
            fix = "Store the image with one of them."
            raise self.file.bad("be compressed once", f"chunks compressed by {', '.join(found)}", fix)
        return found

    def _check_size(self, path: Path, codec: str, inside: list[int], ratios: list[int]) -> None:
        with open_regular(path) as handle:
            part: _Part | None = _Part(handle, 0, path.stat().st_size)
            if self.array.shards:
                part = self._in_shard(_Part(handle, 0, path.stat().st_size), inside, ratios)
            if part is None:
                return
            declared = math.prod(self.array.chunks) * self.array.dtype.itemsize
            most = _WIDENED * declared + _LEAST
            try:
                beyond = _SIZES[codec](part, most) > most
            except (struct.error, IndexError, zlib.error, OSError, EOFError, lzma.LZMAError) as error:
                raise self._damaged(path, f"corrupt ({error})") from error
        if beyond:
            raise self._damaged(path, f"that inflates beyond the {declared} bytes of its shape")

    def _in_shard(self, shard: _Part, inside: list[int], ratios: list[int]) -> _Part | None:
        """Find a chunk in a shard by its index; None where there is none."""
        stated = self.array.metadata.to_dict()["codecs"][-1]["configuration"]
        sealed = 4 * any(one["name"] == "crc32c" for one in stated["index_codecs"])
        number = 0
        for place, ratio in zip(inside, ratios, strict=True):
            number = number * ratio + place
        length = 16 * math.prod(ratios) + sealed
        first = 0 if stated.get("index_location", "end") == "start" else shard.size - length
        offset, size = struct.unpack("<QQ", shard.at(first + 16 * number, 16).ljust(16, b"\xff"))
        return (
            None if offset == _ABSENT else _Part(shard.handle, min(offset, shard.size), min(size, shard.size))
        )

    def _damaged(self, path: Path, what: str) -> FileError:
        return self.file.damaged(f"a chunk {named(path.relative_to(self.folder))} {what}")


class _Inflater(Protocol):
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _inflated(part: _Part, most: int, inflater: _Inflater) -> int:
    """Count what comes out, up to a little more than allowed."""
    count, offset, waiting = 0, 0, b""
    while count <= most and (waiting or offset < part.size):
        data = waiting or part.at(offset, _STEP)
        offset += 0 if waiting else len(data)
        if not data:
            break
        count += len(inflater.decompress(data, _STEP))
        waiting = getattr(inflater, "unconsumed_tail", b"")
        while not getattr(inflater, "needs_input", True) and not getattr(inflater, "eof", False):
            count += len(inflater.decompress(b"", _STEP))
            if count > most:
                break
        if getattr(inflater, "eof", False):
            break
    return count


def _of_deflate(part: _Part, most: int) -> int:
    if part.size * _DEFLATE_RATIO <= max(most, _HARMLESS):
        return 0
    return _inflated(part, most, zlib.decompressobj(zlib.MAX_WBITS | 32))


def _of_zstd(part: _Part, most: int) -> int:
    """Read the size that a frame states, or add up what its blocks can hold (RFC 8878)."""
    head = part.at(0, 18)
    if head[:4] != _ZSTD:
        return 0  # the decoder refuses it
    flags = head[4]
    single = flags >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    width = (single, 2, 4, 8)[flags >> 6]
    if width:
        return int.from_bytes(head[at : at + width], "little") + 256 * (width == 2)
    count, last = 0, False
    while not last and count <= most:
        block = int.from_bytes(part.at(at, 3), "little")
        last, kind, size = bool(block & 1) or at >= part.size, block >> 1 & 3, block >> 3
        count += _BLOCK if kind == 2 else size
        at += 3 + (1 if kind == 1 else size)
    return count


_SIZES: dict[str, Callable[[_Part, int], int]] = {
    "zlib": _of_deflate,
    "gzip": _of_deflate,
    "zstd": _of_zstd,
    "blosc": lambda part, _: int.from_bytes(part.at(4, 4), "little"),
    "lz4": lambda part, _: int.from_bytes(part.at(0, 4), "little"),
    "bz2": lambda part, most: _inflated(part, most, bz2.BZ2Decompressor()),
    "lzma": lambda part, most: _inflated(part, most, lzma.LZMADecompressor()),
}
"""Finds the size of what a codec makes of a chunk, or some size beyond the limit."""
