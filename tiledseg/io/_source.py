"""Images that are read region by region, and stay where they are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from tiledseg._validate import invalid
from tiledseg.errors import ArrayError, FileError
from tiledseg.io._state import state_of

if TYPE_CHECKING:
    from contextlib import ExitStack
    from types import TracebackType

    from tiledseg._types import AnyArray
    from tiledseg.io._file import Reader
    from tiledseg.io._pixel_size import PixelSize

__all__ = ["Blocks", "CachedBlocks", "Facts", "ImageSource", "RawRows", "Regions", "WholeImage"]

_CACHE_BYTES = 40 << 20
_CACHED_ROWS = 1024  # where a block is as wide as the image, no smaller cache serves a row of tiles


class Regions(Protocol):
    """Pixels that are read by rectangles."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the pixels."""
        ...

    @property
    def block_shape(self) -> tuple[int, int]:
        """Height and width in px of what is decoded at once."""
        ...

    def read(self, rows: slice, columns: slice) -> AnyArray:
        """Read a rectangle that lies inside the image."""
        ...


class Blocks(Protocol):
    """Pixels that are decoded block by block."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    block_shape: tuple[int, int]

    def block(self, row: int, column: int) -> AnyArray:
        """Decode a block, cut off at the end of the image."""
        ...


class CachedBlocks:
    """Rectangles put together from blocks, of which the last ones are kept.

    Tiles overlap, and so they meet each block several times; it is decoded once where the tiles
    come row by row, or column group by column group.
    """

    def __init__(self, blocks: Blocks, cache_bytes: int = _CACHE_BYTES) -> None:
        self.shape: tuple[int, ...] = blocks.shape
        self.dtype: np.dtype[Any] = blocks.dtype
        self.block_shape: tuple[int, int] = blocks.block_shape
        self._blocks = blocks
        row_bytes = int(np.prod(blocks.shape[1:])) * blocks.dtype.itemsize
        wide = blocks.block_shape[1] >= blocks.shape[1]
        self._most = max(cache_bytes, _CACHED_ROWS * row_bytes) if wide else cache_bytes
        self._held: OrderedDict[tuple[int, int], AnyArray] = OrderedDict()
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
            held = self._held.get((row, column))
            if held is not None:
                self._held.move_to_end((row, column))
                return held
        block = self._blocks.block(row, column)
        with self._lock:
            if (row, column) not in self._held:
                self._held[row, column] = block
                self._bytes += block.nbytes
            while self._bytes > self._most and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
        return block


class RawRows:
    """Uncompressed rows that lie in a file, of which only what is asked for is read.

    Not by mapping: the pages of a mapped file count as memory of the process.
    """

    def __init__(
        self,
        file: Reader,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        starts: tuple[int, ...],
        rows_each: int,
    ) -> None:
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = dtype.newbyteorder("=")
        self.block_shape: tuple[int, int] = (1, 1)
        self._file, self._stored, self._starts, self._rows_each = file, dtype, starts, rows_each

    def read(self, rows: slice, columns: slice) -> AnyArray:
        """Read a rectangle."""
        px = int(np.prod(self.shape[2:], dtype=np.int64)) * self._stored.itemsize
        count, before = (columns.stop - columns.start) * px, columns.start * px
        wide = self.shape[1] * px
        data = bytearray(count * (rows.stop - rows.start))
        for place, row in enumerate(range(rows.start, rows.stop)):
            group, inside = divmod(row, self._rows_each)
            start = self._starts[group] + inside * wide + before
            data[place * count : (place + 1) * count] = self._file.at(start, count)
        shape = (rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:])
        return np.frombuffer(data, self._stored).reshape(shape).astype(self.dtype, copy=False)


class WholeImage:
    """An image that had to be decoded whole."""

    def __init__(self, pixels: AnyArray) -> None:
        self.shape: tuple[int, ...] = pixels.shape
        self.dtype: np.dtype[Any] = pixels.dtype
        self.block_shape: tuple[int, int] = (1, 1)
        self._pixels = pixels

    def read(self, rows: slice, columns: slice) -> AnyArray:
        """Read a rectangle."""
        return self._pixels[rows, columns]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says of its image besides the pixels."""

    name: str  # the path, as it is shown
    pixel_size: PixelSize | None  # of the level that is read
    levels: tuple[tuple[int, int], ...]  # height and width of the image and of its smaller copies
    level: int  # which of them is read
    identity: dict[str, Any]  # what tells whether the file is still the same


class ImageSource:
    """An open image: read where it is sliced, closed at the end of a ``with`` block.

    Slices along y, x and channels have a step of 1. May be read from several threads.

    Attributes
    ----------
    shape : tuple of int
        (H, W) or (H, W, C).
    dtype : dtype
        Of the pixels.
    name : str
        The path, as it is shown in errors.
    pixel_size : PixelSize or None
        Height and width of a px in µm; None where the file does not say.
    levels : tuple of tuple of int
        Height and width of the whole image and of its smaller copies.
    level : int
        Which of them this is.
    block_shape : tuple of int
        Height and width in px of what is decoded at once; (1, 1) where any rectangle is as good.
    identity : dict
        Path, size and time of change, and what of the file is read.
    is_whole : bool
        Whether the pixels are in memory, as a JPEG's, PNG's or BMP's must be.
    """

    def __init__(self, regions: Regions, facts: Facts, stack: ExitStack, at: tuple[str, list[int]]) -> None:
        self.shape: tuple[int, ...] = regions.shape
        self.dtype: np.dtype[Any] = regions.dtype
        self.block_shape: tuple[int, int] = regions.block_shape
        self.name: str = facts.name
        self.pixel_size: PixelSize | None = facts.pixel_size
        self.levels: tuple[tuple[int, int], ...] = facts.levels
        self.level: int = facts.level
        self.identity: dict[str, Any] = facts.identity
        self.is_whole: bool = isinstance(regions, WholeImage)
        self._regions, self._stack = regions, stack
        self._place, self._state = at

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> AnyArray:  # noqa: ANN401
        rows, columns, *rest = self._spelt(key)
        pixels = self._regions.read(rows, columns)
        return pixels[:, :, rest[0]] if rest and rest[0] != slice(0, self.shape[2]) else pixels

    def __array__(self, dtype: Any = None, copy: Any = None) -> AnyArray:  # noqa: ANN401
        return self[:, :].astype(dtype or self.dtype, copy=bool(copy))

    def _spelt(self, key: object) -> list[slice]:
        given = list(key) if isinstance(key, tuple) else [key]
        given = [one for one in given if one is not Ellipsis] + [slice(None)] * len(self.shape)
        spelt = []
        for part, length in zip(given, self.shape, strict=False):
            if not isinstance(part, slice) or part.step not in {None, 1}:
                fix = "Index image[y0:y1, x0:x1]; take every n-th px of what that gives."
                raise invalid(ArrayError, "key", must="hold slices with a step of 1", got=key, fix=fix)
            start, stop, _ = part.indices(length)
            spelt.append(slice(start, max(start, stop)))
        return spelt

    def check_unchanged(self) -> None:
        """Check that the file is what it was when it was opened, by its size and time of change.

        Of a zarr the metadata count: changed chunks are not noticed.

        Raises
        ------
        FileError
            If it was changed, replaced or removed.
        """
        if state_of(self._place) != self._state:
            raise invalid(
                FileError,
                self.name,
                must="stay as it is while it is read",
                got="a file that was changed meanwhile",
                fix="Do it again once nothing writes to it.",
            )

    def close(self) -> None:
        """Close the file; slicing is an error from then on."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
