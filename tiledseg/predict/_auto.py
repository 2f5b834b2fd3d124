"""The tile that computes the fewest px and fits into memory."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING

from tiledseg._validate import invalid
from tiledseg.engine import allowed_memory
from tiledseg.errors import SettingError
from tiledseg.predict._exact import overlap_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg.config import TilingConfig
    from tiledseg.engine import Predictor

__all__ = ["auto_tiling"]

_MOST = 256  # tiles along an axis that are tried


def auto_tiling(
    tiling: TilingConfig, predictor: Predictor, shape: tuple[int, int], memory_budget: int | None
) -> TilingConfig:
    """Put the best tile in the place of ``"auto"``.

    Of the tiles that fit into memory one at a time, it is the one with which the network computes
    the fewest px, and of these the one with the fewest tiles. Where the network takes one size
    alone, it is that.
    """
    if tiling.tile_size != "auto":
        return tiling
    budget = allowed_memory(memory_budget)
    rows, columns = (list(_tiles(axis, tiling, predictor, shape[axis])) for axis in (0, 1))
    fitting = [
        (tall * wide * down * across, down * across, (tall, wide))
        for tall, down in rows
        for wide, across in columns
        if predictor.bytes_per_tile((tall, wide)) <= budget
    ]
    if not fitting:
        least = (min(rows)[0], min(columns)[0])
        raise invalid(
            SettingError,
            "memory_budget",
            must=f"hold one tile of {least[0]}x{least[1]} px, about {predictor.bytes_per_tile(least)} bytes",
            got=f"{budget} bytes",
            fix="Use smaller tiles, or allow more.",
        )
    tile = min(fitting)[2]
    if tiling.overlap == "exact":
        return tiling.changed(tile_size=tile)
    overlaps = [  # where one tile covers an axis it may be smaller than the overlap
        0 if tile[place] >= shape[place] else overlap_of(tiling, predictor, place, tile[place])
        for place in (0, 1)
    ]
    return tiling.changed(tile_size=tile, overlap=(overlaps[0], overlaps[1]))


def _tiles(place: int, tiling: TilingConfig, predictor: Predictor, length: int) -> Iterator[tuple[int, int]]:
    """Give, for each number of tiles along an axis, the smallest tile that suffices, and the number."""
    stride, fixed = predictor.stride[place], predictor.tile_size[place]
    align = lcm(tiling.alignment_px[place], stride)
    if fixed is not None:
        yield fixed, _count(fixed, overlap_of(tiling, predictor, place, fixed), align, length)
        return
    last = 0
    for count in range(1, _MOST + 1):
        tile = -(-length // (count * stride)) * stride
        while True:
            overlap = overlap_of(tiling, predictor, place, tile) if count > 1 else 0
            if count == 1 or (tile - overlap >= align and _count(tile, overlap, align, length) <= count):
                break
            tile += stride
        if tile == last:
            return  # the overlap leaves no smaller one
        yield tile, count
        last = tile


def _count(tile: int, overlap: int, align: int, length: int) -> int:
    """Count the tiles that cover an axis, as `AxisGrid` lays them."""
    reach = -(-max(length - tile, 0) // align)
    return 1 if not reach else 1 - (-reach // max(1, (tile - overlap) // align))
