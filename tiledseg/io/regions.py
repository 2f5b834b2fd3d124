"""Regions: the pixels of a file by rectangles, from blocks, raw rows or decoded pixels."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tiledseg._validate import raised_as
from tiledseg.errors import ArrayError

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, Source
    from tiledseg.io.file import Reader

_CACHED_PX = 8 << 20  # of blocks that were decoded, within these bytes
_CACHE_BYTES = (16 << 20, 40 << 20)
_READ_BYTES = 1 << 20  # at once: more does not fit into the processor's cache
_THREADS = min(8, os.cpu_count() or 1)
_CACHED_ROWS = 1024  # for blocks as wide as the image: enough for a row of tiles


class Regions(ABC):
    """Pixels that are read by rectangles."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], block_shape: tuple[int, int] = (1, 1)
    ) -> None:
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")
        self.block_shape: tuple[int, int] = block_shape  # of what is decoded at once, in px

    @abstractmethod
    def read(self, rows: slice, columns: slice) -> AnyArray:
        """Read a rectangle that lies inside the image."""


class Blocks(Protocol):
    """Pixels that are decoded block by block."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    block_shape: tuple[int, int]

    def block(self, row: int, column: int) -> AnyArray:
        """Decode a block, cut off at the end of the image."""
        ...


class CachedBlocks(Regions):
    """Rectangles assembled from blocks, with a cache of the last blocks."""

    # Tiles overlap, so that each block is needed several times; with the cache it is decoded once if the
    # tiles are read row by row, or panel by panel.

    def __init__(self, blocks: Blocks, cache_bytes: int | None = None) -> None:
        super().__init__(blocks.shape, blocks.dtype, blocks.block_shape)
        self.blocks: Blocks = blocks
        px_bytes = int(np.prod(blocks.shape[2:])) * blocks.dtype.itemsize
        row_bytes = blocks.shape[1] * px_bytes
        if cache_bytes is None:
            cache_bytes = min(max(_CACHED_PX * px_bytes, _CACHE_BYTES[0]), _CACHE_BYTES[1])
        wide = blocks.block_shape[1] >= blocks.shape[1]
        self.most_bytes: int = max(cache_bytes, _CACHED_ROWS * row_bytes) if wide else cache_bytes
        self._cache: OrderedDict[tuple[int, int], AnyArray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, rows: slice, columns: slice) -> AnyArray:
        """Read a rectangle."""
        size = (rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:])
        pixels = np.empty(size, self.dtype)
        high, wide = self.block_shape
        for row in range(rows.start // high, -(-rows.stop // high)):
            for column in range(columns.start // wide, -(-columns.stop // wide)):
                block = self._block(row, column)
                y, x = row * high, column * wide
                top, left = max(rows.start, y), max(columns.start, x)
                end, right = min(rows.stop, y + block.shape[0]), min(columns.stop, x + block.shape[1])
                pixels[top - rows.start : end - rows.start, left - columns.start : right - columns.start] = (
                    block[top - y : end - y, left - x : right - x]
                )
        return pixels

    def _block(self, row: int, column: int) -> AnyArray:
        with self._lock:
            cached = self._cache.get((row, column))
            if cached is not None:
                self._cache.move_to_end((row, column))
                return cached
        block = self.blocks.block(row, column)
        with self._lock:
            if (row, column) not in self._cache:
                self._cache[row, column] = block
                self._bytes += block.nbytes
            while self._bytes > self.most_bytes and len(self._cache) > 1:
                self._bytes -= self._cache.popitem(last=False)[1].nbytes
        return block


def read_whole(regions: Regions) -> AnyArray:
    """Read all px; each block is decoded once, in several threads."""
    height, width = regions.shape[:2]
    down, across = regions.block_shape
    if not isinstance(regions, CachedBlocks) or (down >= height and across >= width):
        return regions.read(slice(0, height), slice(0, width))
    pixels = np.empty(regions.shape, regions.dtype)

    def fill(y: int) -> None:
        for x in range(0, width, across):
            pixels[y : y + down, x : x + across] = regions.blocks.block(y // down, x // across)

    with ThreadPoolExecutor(_THREADS, "tiledseg-read") as pool:
        list(pool.map(fill, range(0, height, down)))
    return pixels


class RawRows(Regions):
    """Uncompressed rows in a file; only the bytes of a region are read."""

    # The file is not mapped: the pages of a mapped file count as memory of the process.

    def __init__(
        self,
        file: Reader,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        starts: tuple[int, ...],
        rows_each: int,
    ) -> None:
        super().__init__(shape, dtype)
        self._file, self._stored, self._starts, self._rows_each = file, dtype, starts, rows_each

    def read(self, rows: slice, columns: slice) -> AnyArray:
        """Read a rectangle."""
        px = int(np.prod(self.shape[2:], dtype=np.int64)) * self._stored.itemsize
        count, before = (columns.stop - columns.start) * px, columns.start * px
        wide = self.shape[1] * px
        data = np.empty(count * (rows.stop - rows.start), np.uint8)
        buffer = data.data
        row = rows.start
        while row < rows.stop:
            group, inside = divmod(row, self._rows_each)
            most = max(1, _READ_BYTES // wide) if count == wide else 1
            together = min(self._rows_each - inside, rows.stop - row, most)
            start, place = self._starts[group] + inside * wide + before, (row - rows.start) * count
            buffer[place : place + together * count] = self._file.at(start, together * count)
            row += together
        shape = (rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:])
        return data.view(self._stored).reshape(shape).astype(self.dtype, copy=False)


class WholeImage(Regions):
    """An image that is decoded whole, or an array."""

    def __init__(self, pixels: Source) -> None:
        super().__init__(tuple(pixels.shape), np.dtype(pixels.dtype))
        self.pixels: Source = pixels

    def read(self, rows: slice, columns: slice) -> AnyArray:
        """Read a rectangle."""
        where = f"at (y, x) = ({rows.start}, {columns.start})"
        with raised_as(ArrayError, f"`image` cannot be read {where}", "Convert it to a NumPy array first."):
            return np.asarray(self.pixels[rows, columns], self.dtype)


def picked(pixels: AnyArray, channels: list[int] | None) -> AnyArray:
    """Take some channels of px (H, W, C), None for all of them; one alone has no axis."""
    if channels is None:
        return pixels
    return pixels[..., channels if len(channels) > 1 else channels[0]]


class RepeatedChannels(Regions):
    """Channels of other regions, some of them several times: a grey image for a network of RGB."""

    def __init__(self, regions: Regions, places: list[int]) -> None:
        super().__init__((*regions.shape[:2], len(places)), regions.dtype, regions.block_shape)
        self.regions: Regions = regions
        self._places = places

    def read(self, rows: slice, columns: slice) -> AnyArray:
        """Read a rectangle."""
        pixels = self.regions.read(rows, columns)
        return np.take(pixels if pixels.ndim == 3 else pixels[..., None], self._places, axis=2)
