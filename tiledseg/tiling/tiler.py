"""Tiler: an image cut into batches of tiles, with padding."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from tiledseg._arrays import check_finite, check_image, check_shape, read_region
from tiledseg._validate import (
    check_arguments,
    instance_of,
    invalid,
    items_of,
    settings_of,
    whole_number,
    whole_pair,
)
from tiledseg.config import TilingConfig
from tiledseg.errors import ArrayError, SettingError
from tiledseg.tiling.grid import AxisGrid, Box, TileGrid, check_multiple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

    from tiledseg._types import AnyArray, Source
    from tiledseg.config import PadMode

_MOST_KEPT = 3  # batches
_DEFAULT_TILE = 512  # px; for a network of free size
_MAKE = "Make it with Tiler.grid(image.shape)."


@dataclass(frozen=True, slots=True, eq=False)
class TileBatch:
    """Some tiles of one image.

    Attributes
    ----------
    ids : ndarray
        int64 (N,): positions in the grid.
    tiles : ndarray
        (N, h, w, C), in the dtype of the image.
    """

    ids: NDArray[np.int64]
    tiles: AnyArray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class _Span:
    """A range of px along one axis: from the image to the tile."""

    read: slice
    order: NDArray[np.intp] | None  # of the px read; None where they are read in order
    in_tile: slice


@cache
def default_tiling(
    tile_size: tuple[int | None, int | None] = (None, None), stride: tuple[int, int] = (1, 1)
) -> TilingConfig:
    """Derive a tiling that fits a network (None: any tile size); the overlap shrinks where it must."""
    height, width = (
        size or -(-_DEFAULT_TILE // step) * step for size, step in zip(tile_size, stride, strict=True)
    )
    tiling = TilingConfig(tile_size=(height, width))
    overlap = [
        max(0, min(shared, tile - step))
        for shared, tile, step in zip(tiling.overlap_px, (height, width), stride, strict=True)
    ]
    return tiling if tuple(overlap) == tiling.overlap_px else tiling.changed(overlap=tuple(overlap))


class Tiler:
    """Cuts images into tiles.

    Parameters
    ----------
    config : TilingConfig or dict, optional
        Tile size, overlap, blending, alignment and padding.
    **unknown : Never
        No other argument is accepted; the error shows how a setting is given.

    Examples
    --------
    >>> tiler = Tiler(TilingConfig(tile_size=64, overlap=16))
    >>> image = np.zeros((100, 80, 3), np.uint8)
    >>> [batch.tiles.shape for batch in tiler.batches(image, batch_size=3)]
    [(3, 64, 64, 3), (1, 64, 64, 3)]
    """

    def __init__(self, config: TilingConfig | dict[str, Any] | None = None, **unknown: Never) -> None:
        check_arguments(unknown, Tiler, config=TilingConfig)
        self.config: TilingConfig = settings_of(TilingConfig, config, "config")

    def grid(
        self,
        shape: Sequence[int],
        stride: tuple[int, int] = (1, 1),
        *,
        clip: tuple[bool, bool] = (False, False),
    ) -> TileGrid:
        """Compute the grid of tiles of an image.

        Parameters
        ----------
        shape : sequence of int
            Shape of the image in px, (H, W) or (H, W, C).
        stride : tuple of int
            Total stride (y, x) of the network in px: origins are multiples of it besides the
            configured alignment.
        clip : tuple of bool
            Axes (y, x) along which the network takes a tile of any size: there the tile is at most
            the image rounded up to the stride, so that a small image is padded as little as possible.

        Returns
        -------
        TileGrid
            The geometry, and the blend's name.

        Raises
        ------
        SettingError
            If `stride` is not a pair of whole numbers, the tile is not a multiple of it, or the
            overlap leaves no aligned step.
        """
        height, width, _ = check_shape(shape)
        axes = zip(
            (height, width),
            self.config.tile_shape,
            self.config.overlap_px,
            self.config.alignment_px,
            whole_pair("stride", stride),
            clip,
            strict=True,
        )
        y, x = (_axis_grid(*axis) for axis in axes)
        return TileGrid(y, x, self.config.blend)

    def batches(
        self,
        image: Source,
        batch_size: int = 8,
        *,
        grid: TileGrid | None = None,
        ids: Iterable[int] | None = None,
        dtype: DTypeLike | None = None,
        copy: bool = True,
    ) -> Iterator[TileBatch]:
        """Cut an image into batches of tiles, row by row.

        Parameters
        ----------
        image : array_like
            (H, W) or (H, W, C): a NumPy array, memmap, zarr or Dask array, or anything with
            ``shape``, ``dtype`` and slicing. It is read tile by tile and never changed.
        batch_size : int
            Tiles per batch, at least 1; the last batch may have fewer.
        grid : TileGrid, optional
            The grid; that of the image's own shape where it is None.
        ids : iterable of int, optional
            The tiles to cut, in order; all of them where it is None.
        dtype : dtype, optional
            Of the tiles, to which px are converted as they are cut; that of the image where it is None.
        copy : bool
            Whether each batch has its own memory. Otherwise a tile may be a part of `image`, where that is
            an array whose rows it has as a whole; nothing may write into it then.

        Returns
        -------
        iterator of TileBatch
            The batches.

        Raises
        ------
        ArrayError
            If `image` is not an image, does not fit `grid`, or has values that are not finite.
        SettingError
            If `batch_size` is less than 1, or `grid` or `ids` has the wrong type.
        """
        height, width, channels = check_image(image)
        grid = self.grid((height, width)) if grid is None else instance_of(TileGrid, grid, "grid", _MAKE)
        if grid.shape != (height, width):
            raise invalid(
                ArrayError,
                "image",
                must=f"have the grid's height and width {grid.shape}",
                got=tuple(image.shape),
                fix="Make the grid from this image's shape.",
            )
        size = whole_number("batch_size", batch_size)
        wanted = range(len(grid)) if ids is None else ids
        some = list(items_of(wanted, "ids", "be whole numbers", "Use the grid's ids."))
        for tile_id in some:
            if whole_number("ids", tile_id, least=0) >= len(grid):
                raise invalid(
                    SettingError,
                    "ids",
                    must=f"be in [0, {len(grid)})",
                    got=tile_id,
                    fix="Use the grid's ids.",
                )
        held = np.dtype(image.dtype if dtype is None else dtype).newbyteorder("=")
        return self._batches(image, grid, some, (size, *grid.tile_shape, channels), held, copy=copy)

    def _batches(
        self,
        image: Source,
        grid: TileGrid,
        ids: list[int],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        copy: bool,
    ) -> Iterator[TileBatch]:
        fill = _padding_value(self.config, np.dtype(image.dtype))
        checked = isinstance(image, np.ndarray) and not isinstance(image, np.memmap)
        source: Any = np.asarray(image) if checked else image
        if checked:
            check_finite(source, "image")  # at once where it costs little; else tile by tile
        made: list[AnyArray] = []
        for first in range(0, len(ids), shape[0]):
            some = ids[first : first + shape[0]]
            tiles = None
            if checked and not copy and len(some) == 1:
                tiles = _part(source, grid[some[0]].read_box, dtype)
            if tiles is None:
                tiles = _memory(made, (len(some), *shape[1:]), dtype)
                for tile, tile_id in zip(tiles, some, strict=True):
                    self._read(source, grid[tile_id].read_box, tile, fill, checked=checked)
            yield TileBatch(np.array(some, np.int64), tiles)

    def read(self, image: Source, box: Box) -> AnyArray:
        """Read a box of any size, padded like a tile.

        Parameters
        ----------
        image : array_like
            (H, W) or (H, W, C), as for `batches`.
        box : Box
            The px to read; it begins in the image and may end beyond it.

        Returns
        -------
        ndarray
            (h, w, C), in the dtype of the image, padded where the box ends beyond it.

        Raises
        ------
        ArrayError
            If `image` is not an image, or has values that are not finite.
        SettingError
            If `box` is not a `Box`.
        """
        *_, channels = check_image(image)
        instance_of(Box, box, "box")
        dtype = np.dtype(image.dtype).newbyteorder("=")
        pixels = np.empty((*box.shape, channels), dtype)
        self._read(image, box, pixels, _padding_value(self.config, dtype), checked=False)
        return pixels

    def _read(self, image: Source, box: Box, tile: AnyArray, fill: float, *, checked: bool) -> None:
        mode, (height, width) = self.config.pad_mode, image.shape[:2]
        rows, columns = _spans(box.y0, box.y1, height, mode), _spans(box.x0, box.x1, width, mode)
        if mode == "constant" and (box.y1 > height or box.x1 > width):
            tile[...] = fill
        for row in rows:
            for column in columns:
                if checked:
                    pixels = image[row.read, column.read]
                else:
                    pixels = read_region(image, row.read, column.read)
                    check_finite(pixels, "image", (row.read.start, column.read.start))
                pixels = pixels.reshape(*pixels.shape[:2], -1)
                if row.order is not None:
                    pixels = pixels[row.order]
                if column.order is not None:
                    pixels = pixels[:, column.order]
                tile[row.in_tile, column.in_tile] = pixels


def _axis_grid(length: int, tile: int, overlap: int, alignment: int, stride: int, clip: bool) -> AxisGrid:  # noqa: FBT001
    check_multiple(tile, stride)
    least = -(-length // stride) * stride
    if clip and least < tile:
        return AxisGrid(length, least, 0, stride)
    return AxisGrid(length, tile, overlap, math.lcm(alignment, stride))


def _part(image: AnyArray, box: Box, dtype: np.dtype[Any]) -> AnyArray | None:
    """Return a tile (1, h, w, C) as a part of an array; None where it has to be put together."""
    pixels = image[box.y0 : box.y1, box.x0 : box.x1]
    in_a_row = pixels.flags.c_contiguous and pixels.flags.aligned
    fits = in_a_row and pixels.dtype == dtype and pixels.shape[:2] == box.shape
    return pixels.reshape(1, *box.shape, -1) if fits else None


def _memory(made: list[AnyArray], shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    """Return the memory of an earlier batch that nothing else refers to; else new memory, which is slower."""
    counts = [sys.getrefcount(one) for one in [*made, object()]]  # the last one is in this list only
    for tiles, count in zip(made, counts[:-1], strict=True):
        if count == counts[-1] + 1 and tiles.shape == shape:
            return tiles
    made[:] = [*made[-_MOST_KEPT:], np.empty(shape, dtype)]
    return made[-1]


def _padding_value(config: TilingConfig, dtype: np.dtype[Any]) -> float:
    value = config.pad_value
    if config.pad_mode == "constant" and dtype.kind in "biu":
        low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        if not low <= value <= high or value != int(value):
            raise invalid(
                SettingError,
                "pad_value",
                must=f"be a whole number in [{low}, {high}] for {dtype} pixels",
                got=value,
                fix="Use a value that the image's dtype can hold.",
            )
    return value


def _spans(start: int, end: int, length: int, mode: PadMode) -> list[_Span]:
    """Split a tile's axis into the part inside the image and the padding."""
    stop = min(end, length)
    inside = _Span(slice(start, stop), None, slice(0, stop - start))
    if stop == end or mode == "constant":
        return [inside]
    index = padded_places(np.arange(stop, end), length, mode)
    low = int(index.min())
    return [inside, _Span(slice(low, int(index.max()) + 1), index - low, slice(stop - start, None))]


def padded_places(place: NDArray[np.intp], length: int, mode: PadMode) -> NDArray[np.intp]:
    """Map positions beyond the ends of an axis to the px that NumPy's padding of that name repeats."""
    if mode == "wrap":
        return place % length
    if mode == "edge" or length == 1:
        return np.clip(place, 0, length - 1)
    period = 2 * length if mode == "symmetric" else 2 * length - 2
    place = place % period
    return np.minimum(place, period - place - (mode == "symmetric"))
