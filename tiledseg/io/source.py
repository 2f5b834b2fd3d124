"""ImageSource: an open image that is read by region, from blocks, raw rows or decoded pixels."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from tiledseg._validate import check_image, counted, invalid, whole_number
from tiledseg.errors import ArrayError, FileError
from tiledseg.io.file import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from tiledseg._types import AnyArray, Source
    from tiledseg.io.file import Reader
    from tiledseg.io.metadata import PixelSize, Placement

_CACHED_PX = 8 << 20  # of blocks that were decoded, within these bytes
_CACHE_BYTES = (16 << 20, 40 << 20)
_READ_BYTES = 1 << 20  # at once: more does not fit into the processor's cache
_THREADS = min(8, os.cpu_count() or 1)
_CACHED_ROWS = 1024  # for blocks as wide as the image: enough for a row of tiles


@dataclass(frozen=True, slots=True)
class Selection:
    """Which level, channels and plane of a file are read."""

    level: int  # 0 for the image, 1 and up for its smaller copies
    channels: tuple[int, ...] | None  # in order; None for all
    at: Mapping[str, int]  # position along ``z`` and ``t``
    whole_pixels: int  # limit on height times width where a file is decoded whole

    def level_of(self, file: Reader, count: int) -> int:
        """Check that the file has the level."""
        if self.level >= count:
            got = counted(count, "level")
            raise file.bad(f"have level {self.level}", got, f"Pass level=0 to level={count - 1}.")
        return self.level

    def channels_of(self, file: Reader, count: int) -> list[int] | None:
        """Check that the file has the channels; None for all of them in order."""
        if self.channels is None or self.channels == tuple(range(count)):
            return None
        if max(self.channels) >= count:
            fix = f"Count them from 0 to {count - 1}."
            raise file.bad(f"have channels {self.channels}", f"{count} channels", fix)
        return list(self.channels)

    def plane_of(self, file: Reader, lengths: Mapping[str, int]) -> dict[str, int]:
        """Find the position along every axis other than y, x and channels."""
        plane = {}
        for axis, length in {**dict.fromkeys(self.at, 1), **lengths}.items():
            index = self.at.get(axis, 0 if length == 1 else None)
            if index is None or not 0 <= index < length:
                must = "hold one plane" if index is None else f"have position {index} along {axis}"
                fix = f"Pass at={{{axis!r}: 0}} to at={{{axis!r}: {length - 1}}}."
                if length == 1:
                    fix = f"Leave {axis!r} out of `at`."
                raise file.bad(must, f"{counted(length, 'position')} along {axis}", fix)
            plane[axis] = index
        return plane


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
        return np.asarray(self.pixels[rows, columns], self.dtype)


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


@dataclass(frozen=True, slots=True)
class Facts:
    """The properties of a source besides its pixels."""

    name: str  # the path, as errors show it
    pixel_size: PixelSize | None  # of the level that is read
    levels: tuple[tuple[int, int], ...]  # height and width of the image and of its smaller copies
    level: int  # the level that is read
    identity: dict[str, Any]  # what `ImageSource.identity` shows
    placement: Placement | None = None  # of the level that is read


def region(key: object, shape: tuple[int, ...], fix: str) -> list[slice]:
    """Complete the slices of an index, one for each axis."""
    given = [one for one in (key if isinstance(key, tuple) else (key,)) if one is not Ellipsis]
    slices = []
    for part, length in zip([*given, *[slice(None)] * len(shape)], shape, strict=False):
        if not isinstance(part, slice) or part.step not in {None, 1}:
            raise invalid(ArrayError, "key", must="hold slices with a step of 1", got=key, fix=fix)
        start, stop, _ = part.indices(length)
        slices.append(slice(start, max(start, stop)))
    return slices


class ImageSource:
    """An open image: read by slicing, closed at the end of a ``with`` block.

    Slices along y, x and channels have a step of 1. Several threads may read it at once.

    Attributes
    ----------
    shape : tuple of int
        (H, W) or (H, W, C).
    dtype : dtype
        Dtype of the pixels.
    name : str
        The path, as errors show it.
    pixel_size : PixelSize or None
        Height and width of a px in µm; None where the file does not state it.
    levels : tuple of tuple of int
        Height and width of the image and of its smaller copies.
    level : int
        The level that is read.
    placement : Placement or None
        Where the level is on earth, or in a larger space; None where the file does not state it.
    block_shape : tuple of int
        Height and width in px of a block that is decoded at once; (1, 1) where there are no blocks.
    identity : dict
        Path, size and time of change of the file, and the part of it that is read.
    is_whole : bool
        Whether all pixels are in memory, as those of a JPEG, PNG or BMP.
    array : array_like or None
        The array that was opened in place of a file.
    """

    def __init__(
        self,
        regions: Regions,
        facts: Facts,
        stack: ExitStack,
        at: tuple[str, list[int]] | None,
        other: Callable[[int], ImageSource],
    ) -> None:
        self.shape: tuple[int, ...] = regions.shape
        self.dtype: np.dtype[Any] = regions.dtype
        self.block_shape: tuple[int, int] = regions.block_shape
        self.name: str = facts.name
        self.pixel_size: PixelSize | None = facts.pixel_size
        self.placement: Placement | None = facts.placement
        self.levels: tuple[tuple[int, int], ...] = facts.levels
        self.level: int = facts.level
        self.identity: dict[str, Any] = facts.identity
        self.is_whole: bool = isinstance(regions, WholeImage)
        self._regions, self._stack = regions, stack
        self.array: Source | None = regions.pixels if at is None and isinstance(regions, WholeImage) else None
        self._at = at
        self._other = other

    @property
    def memory_bytes(self) -> int:
        """Most bytes that reading takes: the cached blocks, or the whole image where it is decoded whole."""
        whole = 0 if self.array is not None else int(np.prod(self.shape)) * self.dtype.itemsize
        if self.is_whole:
            return whole
        regions = self._regions.regions if isinstance(self._regions, RepeatedChannels) else self._regions
        return min(whole, regions.most_bytes) if isinstance(regions, CachedBlocks) else 0

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> AnyArray:  # noqa: ANN401
        rows, columns, *rest = region(
            key, self.shape, "Index image[y0:y1, x0:x1] and take every n-th px of it."
        )
        pixels = self._regions.read(rows, columns)
        return pixels[:, :, rest[0]] if rest and rest[0] != slice(0, self.shape[2]) else pixels

    def __array__(self, dtype: Any = None, copy: Any = None) -> AnyArray:  # noqa: ANN401
        return self[:, :].astype(dtype or self.dtype, copy=bool(copy))

    def check_unchanged(self) -> None:
        """Check that the file is still the one that was opened, by its size and time of change.

        Of a zarr, the metadata files are checked; changed chunks are not noticed.

        Raises
        ------
        FileError
            If it was changed, replaced or removed.
        """
        if self._at is not None and state_of(self._at[0]) != self._at[1]:
            raise FileError(
                f"`{self.name}` changed while it was read. Start again when nothing writes to it."
            )

    def at_level(self, level: int) -> ImageSource:
        """Open another level of the same file, with the same channels and plane.

        Parameters
        ----------
        level : int
            0 for the image, 1 and up for its smaller copies.

        Returns
        -------
        ImageSource
            Of its own; to be closed.

        Raises
        ------
        FileError
            If there is no such level, or the file has changed since it was opened.
        """
        self.check_unchanged()
        return self._other(level)

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def array_source(image: Source, size: PixelSize | None) -> ImageSource:
    """Open an array, to state the size of its px."""
    height, width, _ = check_image(image)

    def other(level: int) -> ImageSource:
        whole_number("level", level, 0, 0, "An array has only level 0.")
        return array_source(image, size)

    facts = Facts("image", size, ((height, width),), 0, {})
    return ImageSource(WholeImage(image), facts, ExitStack(), None, other)
