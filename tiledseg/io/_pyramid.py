"""Rectangles of px in, whole tiles of every level of a pyramid out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray

__all__ = ["TILE", "Pyramid", "level_shapes"]

_Where: TypeAlias = tuple[slice, slice]

TILE = 512
"""Height and width of the tiles that are written, in px."""


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """List the sizes of a pyramid: each half of the one before, rounded up, until one tile holds it."""
    shapes = [(height, width)]
    while max(shapes[-1]) > TILE:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _covered(parts: list[_Where], size: tuple[int, int]) -> bool:
    """Say whether rectangles cover a tile, some of them perhaps twice."""
    areas = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in parts]
    if sum(areas) < size[0] * size[1]:
        return False
    filled = np.zeros(size, bool)
    for part in parts:
        filled[part] = True
    return bool(filled.all())


class Pyramid:
    """Collects rectangles until a tile is whole, hands it on, and shrinks it into the next level.

    In memory are the tiles that have been begun: of the full level those that the rectangles have
    cut, and of each smaller level one for each run of tiles under way.
    """

    def __init__(
        self,
        shapes: list[tuple[int, int]],
        dtype: np.dtype[Any],
        channels: tuple[int, ...],
        put: Callable[[int, int, int, AnyArray], None],
        *,
        labels: bool,
    ) -> None:
        self.done: list[np.ndarray[Any, np.dtype[np.bool_]]] = [
            np.zeros((-(-height // TILE), -(-width // TILE)), bool) for height, width in shapes
        ]
        self._shapes, self._dtype, self._channels = shapes, dtype, channels
        self._put, self._labels = put, labels
        self._begun: dict[tuple[int, int, int], tuple[AnyArray, list[_Where]]] = {}

    def feed(self, level: int, y: int, x: int, pixels: AnyArray) -> None:
        """Take a rectangle of a level; px of tiles that are done already are left out."""
        height, width = pixels.shape[:2]
        for row in range(y // TILE, -(-(y + height) // TILE)):
            for column in range(x // TILE, -(-(x + width) // TILE)):
                if self.done[level][row, column]:
                    continue
                top, left = max(y, row * TILE), max(x, column * TILE)
                end, right = min(y + height, (row + 1) * TILE), min(x + width, (column + 1) * TILE)
                self._fill(level, row, column, (top, left), pixels[top - y : end - y, left - x : right - x])

    def shrink(self, level: int, row: int, column: int, tile: AnyArray) -> None:
        """Pass a whole tile on to the next level, where there is one."""
        if level + 1 < len(self._shapes):
            self.feed(level + 1, row * TILE // 2, column * TILE // 2, self._half(tile))

    def _fill(self, level: int, row: int, column: int, corner: tuple[int, int], part: AnyArray) -> None:
        height, width = self._shapes[level]
        size = (min(TILE, height - row * TILE), min(TILE, width - column * TILE))
        if part.shape[:2] == size:
            self._finish(level, row, column, np.ascontiguousarray(part, self._dtype))
            return
        key = (level, row, column)
        if key not in self._begun:
            self._begun[key] = (np.empty((*size, *self._channels), self._dtype), [])
        tile, filled = self._begun[key]
        y, x = corner[0] - row * TILE, corner[1] - column * TILE
        where = (slice(y, y + part.shape[0]), slice(x, x + part.shape[1]))
        tile[where] = part
        filled.append(where)
        if _covered(filled, size):
            del self._begun[key]
            self._finish(level, row, column, tile)

    def _finish(self, level: int, row: int, column: int, tile: AnyArray) -> None:
        self.done[level][row, column] = True
        self._put(level, row, column, tile)
        self.shrink(level, row, column, tile)

    def _half(self, tile: AnyArray) -> AnyArray:
        if self._labels:
            return tile[::2, ::2]
        odd = [(0, length % 2) for length in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
        even = np.pad(tile, odd, mode="edge") if tile.shape[0] % 2 or tile.shape[1] % 2 else tile
        total = even[::2, ::2].astype(np.float32)
        for corner in (even[1::2, ::2], even[::2, 1::2], even[1::2, 1::2]):
            total += corner
        total *= 0.25
        return total.astype(self._dtype) if self._dtype.kind == "f" else np.rint(total).astype(self._dtype)
