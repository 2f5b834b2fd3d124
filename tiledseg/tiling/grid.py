"""The geometry of tiles: a grid along one axis, the product of two axes, and their blending windows.

All coordinates are (y, x) in px of the image, half-open. A tile may end beyond the image; it is
padded there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, get_args, overload

import numpy as np

from tiledseg._notebook import facts, side_by_side, tiles
from tiledseg._validate import instance_of, invalid, one_of, whole_number
from tiledseg.config import Blend
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import FloatArray

_MOST_TILES = 1_000_000  # along one axis: more is a mistake, and their origins alone would fill the memory


def check_multiple(tile_size: int, stride: int) -> int:
    """Check that a tile size is a multiple of a network's total stride."""
    if whole_number("tile_size", tile_size) % whole_number("stride", stride):
        low = tile_size // stride * stride
        raise invalid(
            SettingError,
            "tile_size",
            must=f"be a multiple of the network's total stride {stride} px",
            got=tile_size,
            fix=f"Use {f'{low} or ' if low else ''}{low + stride}.",
        )
    return tile_size


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of px, half-open.

    Attributes
    ----------
    y0, y1 : int
        First row, and the row after the last.
    x0, x1 : int
        First column, and the column after the last.
    """

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        return (self.y1 - self.y0, self.x1 - self.x0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as a NumPy index, (y, x)."""
        return (slice(self.y0, self.y1), slice(self.x0, self.x1))


@dataclass(frozen=True)
class AxisGrid:
    """The tiles along one axis.

    As few tiles as the least overlap allows, at origins that are multiples of the alignment,
    spread so that the overlaps are as even as the alignment permits and, where it permits,
    symmetric. The last tile ends at or less than one alignment step after the end of
    the image; an image smaller than the tile has one tile, at 0.

    Attributes
    ----------
    length : int
        Length of the image in px, at least 1.
    tile : int
        Length of a tile in px, at least 1.
    overlap : int
        Least overlap of neighbours in px, in [0, tile).
    alignment : int
        Divisor of all origins in px, in [1, tile - overlap].

    Raises
    ------
    SettingError
        If a value is out of its range.

    Examples
    --------
    >>> AxisGrid(length=1920, tile=512, overlap=64).origins
    (0, 352, 704, 1056, 1408)
    >>> AxisGrid(length=10, tile=4, overlap=2).cores
    ((0, 3), (3, 5), (5, 7), (7, 10))
    """

    length: int
    tile: int
    overlap: int = 0
    alignment: int = 1

    def __post_init__(self) -> None:
        for name in ("length", "tile", "alignment"):
            whole_number(name, getattr(self, name))
        whole_number("overlap", self.overlap, least=0, fix=f"Use 0 to {self.tile - 1}.")
        if self.overlap >= self.tile:
            raise invalid(
                SettingError,
                "overlap",
                must=f"be in [0, tile) with tile={self.tile}",
                got=self.overlap,
                fix=f"Use at most {self.tile - 1}.",
            )
        if self.length > _MOST_TILES * (self.tile - self.overlap):
            raise invalid(
                SettingError,
                "tile_size",
                must=f"give at most {_MOST_TILES} tiles along an axis of {self.length} px",
                got=f"{self.tile} with overlap {self.overlap}",
                fix="Use larger tiles or less overlap.",
            )
        if self.alignment > self.tile - self.overlap:
            raise invalid(
                SettingError,
                "alignment",
                must=f"be at most tile - overlap = {self.tile - self.overlap} px",
                got=self.alignment,
                fix="Use a larger tile or a smaller overlap.",
            )

    @cached_property
    def origins(self) -> tuple[int, ...]:
        """First px of each tile, ascending."""
        last = -(-max(self.length - self.tile, 0) // self.alignment)  # origin of the last tile, in steps
        longest = (self.tile - self.overlap) // self.alignment
        gaps = -(-last // longest)
        return tuple(unit * self.alignment for unit in _spread(last, gaps))

    @cached_property
    def cores(self) -> tuple[tuple[int, int], ...]:
        """The px nearest to the centre of each tile, (start, stop); they partition the image."""
        middles = [
            (right + left + self.tile) // 2
            for left, right in zip(self.origins, self.origins[1:], strict=False)
        ]
        return tuple(zip([0, *middles], [*middles, self.length], strict=True))

    @property
    def borders(self) -> tuple[int, ...]:
        """Where the cores of neighbours meet: the px after each border, ascending."""
        return tuple(start for start, _ in self.cores[1:])

    @property
    def shared(self) -> tuple[tuple[int, int], ...]:
        """The px that neighbours share, (start, stop) of each pair."""
        pairs = zip(self.origins, self.origins[1:], strict=False)
        return tuple((right, left + self.tile) for left, right in pairs if left + self.tile > right)

    @property
    def padded_length(self) -> int:
        """Length in px from 0 to the end of the last tile."""
        return max(self.origins[-1] + self.tile, self.length)


def _spread(last: int, gaps: int) -> list[int]:
    """Spread ``gaps + 1`` whole numbers evenly over [0, last], symmetrically."""
    half = [(2 * i * last + gaps) // (2 * gaps) for i in range((gaps + 1) // 2)]
    middle = [] if gaps % 2 else [last // 2]
    return half + middle + [last - unit for unit in reversed(half)]


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a grid.

    Attributes
    ----------
    id : int
        Position in the grid, row by row.
    row, column : int
        Position along y and along x.
    read_box : Box
        The px of the tile, in the image; it may end beyond the image.
    core_box : Box
        The px nearest to the tile's centre, in the image; the cores partition it.
    """

    id: int
    row: int
    column: int
    read_box: Box
    core_box: Box

    @property
    def core_in_tile(self) -> Box:
        """The core, in the tile."""
        core, read = self.core_box, self.read_box
        return Box(core.y0 - read.y0, core.y1 - read.y0, core.x0 - read.x0, core.x1 - read.x0)


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The tiles of one image: the product of two axes, and how they are blended.

    Iterates over its tiles row by row; ``len`` counts them; ``grid[id]`` is one of them.

    Attributes
    ----------
    y, x : AxisGrid
        The tiles along the two axes.
    blend : str
        Name of the blending window.

    Raises
    ------
    SettingError
        If an axis is not an `AxisGrid`.

    Examples
    --------
    >>> grid = TileGrid(AxisGrid(100, 64, 16), AxisGrid(64, 64, 16), "gaussian")
    >>> len(grid), grid[1].read_box
    (2, Box(y0=36, y1=100, x0=0, x1=64))
    """

    y: AxisGrid
    x: AxisGrid
    blend: Blend = "gaussian"

    def __post_init__(self) -> None:
        for name in ("y", "x"):
            instance_of(AxisGrid, getattr(self, name), name)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image in px."""
        return (self.y.length, self.x.length)

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Height and width of a tile in px."""
        return (self.y.tile, self.x.tile)

    @property
    def redundancy(self) -> float:
        """Px that the network computes for each px of the image."""
        return len(self) * self.y.tile * self.x.tile / (self.y.length * self.x.length)

    def __len__(self) -> int:
        return len(self.y.origins) * len(self.x.origins)

    def _repr_html_(self) -> str:
        (height, width), (down, across) = self.shape, self.tile_shape
        n_down, n_across = len(self.y.origins), len(self.x.origins)
        rows = {
            "image": f"{height} x {width} px",
            "tiles": f"{len(self)} of {down} x {across} px: {n_down} down, {n_across} across",
            "overlap": f"at least {self.y.overlap} px down, {self.x.overlap} px across",
            "window": self.blend,
            "redundancy": f"{self.redundancy:.2f} px computed per image px",
        }
        return side_by_side(drawing_of(self), facts(rows))

    @overload
    def __getitem__(self, tile_id: int) -> Tile: ...
    @overload
    def __getitem__(self, tile_id: slice) -> list[Tile]: ...
    def __getitem__(self, tile_id: int | slice) -> Tile | list[Tile]:
        if isinstance(tile_id, slice):
            return [self._tile(one) for one in range(len(self))[tile_id]]
        return self._tile(range(len(self))[tile_id])

    def __iter__(self) -> Iterator[Tile]:
        return map(self._tile, range(len(self)))

    def _tile(self, tile_id: int) -> Tile:
        row, column = divmod(tile_id, len(self.x.origins))
        y, x = self.y.origins[row], self.x.origins[column]
        return Tile(
            id=tile_id,
            row=row,
            column=column,
            read_box=Box(y, y + self.y.tile, x, x + self.x.tile),
            core_box=Box(*self.y.cores[row], *self.x.cores[column]),
        )


def drawing_of(grid: TileGrid, covered: Sequence[Box] = ()) -> str:
    """Draw the tiles in an empty frame, as SVG; boxes of the image that are left out are covered."""
    shared, borders = (grid.y.shared, grid.x.shared), (grid.y.borders, grid.x.borders)
    boxes = [(box.y0, box.y1, box.x0, box.x1) for box in covered]
    return tiles(grid.shape, grid.tile_shape, shared, borders, boxes)


# A tile's weight in the image is the outer product of its two windows. The windows of one axis sum to one
# at each of its px, so the weights sum to one at each px of the image: no count map and no division. Weights
# are multiples of 1/4096, so their products and the sums of these are exact in float32. Rounding is
# monotonic: outputs in [0, 1] stay there, and a map of ones comes back as ones.
_PARTS = 4096
_SIGMAS_PER_TILE = 8  # nnU-Net's and MONAI's sigma of an eighth of the tile


@dataclass(frozen=True, slots=True, eq=False)
class AxisWindow:
    """The px of one tile that contribute to the map along one axis, and their weights."""

    start: int  # first px, in the image
    stop: int  # px after the last; never beyond the image
    in_tile: slice  # the same px, in the tile
    weights: FloatArray  # float32 (stop - start,), multiples of 1/4096 in [0, 1]


def axis_windows(axis: AxisGrid, blend: Blend) -> list[AxisWindow]:
    """Compute the windows of all tiles along one axis."""
    instance_of(AxisGrid, axis, "axis")
    one_of("blend", blend, get_args(Blend))
    if blend == "crop":  # each px comes from the tile with the nearest centre
        return [
            AxisWindow(start, stop, slice(start - origin, stop - origin), np.ones(stop - start, np.float32))
            for origin, (start, stop) in zip(axis.origins, axis.cores, strict=True)
        ]
    shape = _shape(axis.tile, blend)
    total = np.zeros(axis.padded_length)
    for origin in axis.origins:
        total[origin : origin + axis.tile] += shape
    passed = np.zeros(axis.padded_length)  # sum of the shares of earlier tiles
    return [
        _share(origin, axis, shape / total[origin : origin + axis.tile], passed) for origin in axis.origins
    ]


def _share(
    origin: int, axis: AxisGrid, share: NDArray[np.float64], passed: NDArray[np.float64]
) -> AxisWindow:
    """Weight a tile by the increase of the rounded sum of shares, so that all weights sum to one."""
    here = passed[origin : origin + axis.tile]
    before = np.rint(here * _PARTS)
    here += share
    stop = min(origin + axis.tile, axis.length)
    weights = ((np.rint(here * _PARTS) - before) / _PARTS)[: stop - origin]
    return AxisWindow(origin, stop, slice(0, stop - origin), weights.astype(np.float32))


def _shape(tile: int, blend: Blend) -> NDArray[np.float64]:
    """Return the window of one tile before it is normalised: positive and symmetric."""
    place = np.arange(0.5, tile, dtype=np.float64)
    if blend == "linear":
        return np.minimum(place, tile - place, dtype=np.float64)
    if blend == "hann":
        return np.square(np.sin(np.pi * np.minimum(place, tile - place) / tile))
    if blend == "gaussian":
        return np.exp(-0.5 * ((place - tile / 2) * _SIGMAS_PER_TILE / tile) ** 2)
    return np.ones(tile)
