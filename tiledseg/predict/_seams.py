"""What neighbouring tiles say of the px that they share: a look at seams that costs no network call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiledseg.tiling import Box

if TYPE_CHECKING:
    from tiledseg._types import FloatArray
    from tiledseg.tiling import Tile, TileGrid

__all__ = ["Seam", "SeamReport", "SeamWatch"]


@dataclass(frozen=True, slots=True)
class Seam:
    """How far two neighbouring tiles disagree where they overlap.

    Attributes
    ----------
    tiles : tuple of int
        Their positions in the grid.
    box : Box
        The px that they share, in the image as it was tiled.
    mean, largest : float
        Of the absolute differences of their outputs; over the channels the largest counts.
    """

    tiles: tuple[int, int]
    box: Box
    mean: float
    largest: float


@dataclass(frozen=True, slots=True, eq=False)
class SeamReport:
    """How far overlapping tiles disagree.

    Attributes
    ----------
    seams : tuple of Seam
        One for each pair of tiles, side by side or one above the other, that were both computed.
    disagreement : ndarray
        (h, w) float32, of the image as it was tiled: the largest absolute difference between
        neighbours; 0 where there is one tile alone.
    """

    seams: tuple[Seam, ...]
    disagreement: FloatArray

    @property
    def score(self) -> float:
        """Mean disagreement over the seams' px; 0 where tiles agree, or do not overlap."""
        px = [seam.box.shape[0] * seam.box.shape[1] for seam in self.seams]
        total = sum(seam.mean * size for seam, size in zip(self.seams, px, strict=True))
        return total / max(sum(px), 1)

    @property
    def worst(self) -> Seam | None:
        """The seam with the largest mean; None where there is none."""
        return max(self.seams, key=lambda seam: seam.mean, default=None)

    def __str__(self) -> str:
        if self.worst is None:
            return "no tiles overlap"
        where = f"(y, x) = ({self.worst.box.y0}, {self.worst.box.x0})"
        return (
            f"{len(self.seams)} seams, mean disagreement {self.score:.4f}; the worst, {self.worst.mean:.4f}, "
            f"between tiles {self.worst.tiles[0]} and {self.worst.tiles[1]} at {where}"
        )


class SeamWatch:
    """Compares the outputs of neighbouring tiles as they come, in any order.

    Parameters
    ----------
    grid : TileGrid
        The tiles.
    """

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._held: dict[tuple[int, int], FloatArray] = {}
        self._seams: list[Seam] = []
        self._map = np.zeros(grid.shape, np.float32)

    def add(self, tile_id: int, output: FloatArray) -> None:
        """Compare a tile with the neighbours that came before it.

        Parameters
        ----------
        tile_id : int
            Its position in the grid.
        output : ndarray
            (h, w, K).
        """
        tile = self._grid[tile_id]
        for other in self._neighbours(tile):
            box = _shared(tile.read_box, other.read_box, self._grid.shape)
            if box is None:
                continue
            y, x = tile.read_box.y0, tile.read_box.x0
            part = output[box.y0 - y : box.y1 - y, box.x0 - x : box.x1 - x]
            pair = (min(tile_id, other.id), max(tile_id, other.id))
            held = self._held.pop(pair, None)
            if held is None:
                self._held[pair] = part.copy()
            else:
                self._note(pair, box, np.abs(part - held).max(axis=-1))

    def report(self) -> SeamReport:
        """Give what was found.

        Returns
        -------
        SeamReport
            Its seams in the order of the grid.
        """
        return SeamReport(tuple(sorted(self._seams, key=lambda seam: seam.tiles)), self._map)

    def _neighbours(self, tile: Tile) -> list[Tile]:
        rows, columns = len(self._grid.y.origins), len(self._grid.x.origins)
        beside = ((0, -1), (0, 1), (-1, 0), (1, 0))
        places = [(tile.row + down, tile.column + across) for down, across in beside]
        return [
            self._grid[row * columns + column]
            for row, column in places
            if 0 <= row < rows and 0 <= column < columns
        ]

    def _note(self, pair: tuple[int, int], box: Box, difference: FloatArray) -> None:
        np.maximum(self._map[box.slices], difference, out=self._map[box.slices])
        self._seams.append(Seam(pair, box, float(difference.mean()), float(difference.max())))


def _shared(one: Box, other: Box, shape: tuple[int, int]) -> Box | None:
    """Give the px of the image that two tiles share; None where there are none."""
    y0, x0 = max(one.y0, other.y0), max(one.x0, other.x0)
    y1, x1 = min(one.y1, other.y1, shape[0]), min(one.x1, other.x1, shape[1])
    return Box(y0, y1, x0, x1) if y1 > y0 and x1 > x0 else None
