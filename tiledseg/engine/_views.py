"""A network that sees each tile from several sides, and averages what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from tiledseg.engine.network import SegmenterLike

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray

__all__ = ["Viewed", "Views", "n_views", "own_views"]

Views: TypeAlias = Literal["flips", "d4"]
"""``flips``: as it is, mirrored along y, x and both; ``d4``: these and their transposes."""

_NUMBER = {"flips": 4, "d4": 8}


def own_views(model: object) -> Views | None:
    """Give the views that a Segmenter asks for; None for any other model."""
    return getattr(model, "views", None) if isinstance(model, SegmenterLike) else None


def n_views(views: Views | None) -> int:
    """Count the views of a tile."""
    return _NUMBER.get(views or "", 1)


class Viewed:
    """Runs a network on several views of each tile, packed into batches, and averages the outputs."""

    def __init__(self, network: Callable[[AnyArray], FloatArray], views: Views, batch_size: int) -> None:
        self._network, self._number, self._batch_size = network, _NUMBER[views], batch_size

    def __call__(self, tiles: AnyArray) -> FloatArray:
        """Map tiles (N, h, w, C) to the mean of the outputs (N, h, w, K) float32."""
        total: FloatArray | None = None
        wanted = [(view, place) for view in range(self._number) for place in range(len(tiles))]
        for first in range(0, len(wanted), self._batch_size):
            some = wanted[first : first + self._batch_size]
            outputs = self._network(np.stack([_turned(tiles[place], view) for view, place in some]))
            if total is None:
                total = np.zeros((*tiles.shape[:3], outputs.shape[3]), np.float32)
            for (view, place), output in zip(some, outputs, strict=True):
                total[place] += _turned_back(output, view)
        if total is None:
            return np.zeros((*tiles.shape[:3], 0), np.float32)
        total /= self._number
        return total


def _turned(tile: AnyArray, view: int) -> AnyArray:
    """Give one of the eight views of a tile: bit 0 mirrors y, bit 1 mirrors x, bit 2 then transposes."""
    down, across = slice(None, None, -1 if view & 1 else 1), slice(None, None, -1 if view & 2 else 1)
    turned = tile[down, across]
    return turned.swapaxes(0, 1) if view & 4 else turned


def _turned_back(output: FloatArray, view: int) -> FloatArray:
    """Undo `_turned`."""
    return _turned(output.swapaxes(0, 1) if view & 4 else output, view & 3)
