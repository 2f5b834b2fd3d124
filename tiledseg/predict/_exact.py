"""Whether tiled equals whole, why not, and what it would take."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING, Literal, TypeAlias

from tiledseg._validate import invalid
from tiledseg.errors import SettingError
from tiledseg.tiling import UNKNOWN, ReceptiveField

if TYPE_CHECKING:
    from tiledseg.config import TilingConfig
    from tiledseg.engine import Predictor
    from tiledseg.tiling import AxisGrid, TileGrid

__all__ = ["Verdict", "exact_tiling", "judge", "overlap_of", "receptive_field_of"]

Verdict: TypeAlias = Literal["exact", "approximate", "impossible"]
"""``exact``: tiled equals whole; ``approximate``: it need not; ``impossible``: no tiling would make it."""


def receptive_field_of(predictor: Predictor) -> ReceptiveField:
    """Say what a network's outputs depend on."""
    return getattr(predictor, "receptive_field", UNKNOWN)


def judge(grid: TileGrid, predictor: Predictor) -> tuple[Verdict, str]:
    """Say whether a grid of tiles gives what the whole image would.

    The whole is the image with the padding that the grid adds at its far ends. Tiles give it
    where each px that the blend takes from a tile lies outside the network's halo at those ends
    of the tile that are not the padded image's; ``crop`` takes the core, every other blend the
    whole tile.
    """
    field = receptive_field_of(predictor)
    if len(grid) == 1:
        return "exact", "one tile covers the image"
    if field.halo is None:
        return ("impossible" if field.tile_dependent else "approximate"), _obstacle(field)
    axes = list(zip((grid.y, grid.x), field.halo, predictor.stride, predictor.tile_size, strict=True))
    spoiled = [one for one in axes if not _clean(one[0], one[1], grid.blend)]
    if not spoiled:
        return "exact", "no px is taken from the halo at a tile's ends"
    needed = max(_needed(ends) for _, ends, _, _ in spoiled)
    least = [_least_tile(_needed(ends), axis.alignment, step) for axis, ends, step, _ in spoiled]
    small = [(one[0].tile, one[3]) for one, size in zip(spoiled, least, strict=True) if one[0].tile < size]
    if any(fixed for _, fixed in small):
        return "impossible", f"exact needs tiles of {max(least)} px; the network takes {small[0][0]} px"
    wanted = [f"tiles of at least {max(least)} px"] if small else []
    if min(axis.overlap for axis, *_ in spoiled) < needed:
        wanted.append(f"an overlap of {needed} px")
    if grid.blend != "crop":
        wanted.append("the blend crop")
    return "approximate", f"px in the halo at tile ends are used; exact needs {', '.join(wanted)}"


def exact_tiling(tiling: TilingConfig, predictor: Predictor, shape: tuple[int, int]) -> TilingConfig:
    """Put the overlap in px that makes tiled equal whole in the place of ``"exact"``."""
    if tiling.overlap != "exact":
        return tiling
    overlaps = [0, 0]
    for place, (length, tile) in enumerate(zip(shape, tiling.tile_shape, strict=True)):
        if length > tile:
            overlaps[place] = _exact_overlap(place, tiling, predictor)
    return tiling.changed(overlap=(overlaps[0], overlaps[1]))


def overlap_of(tiling: TilingConfig, predictor: Predictor, place: int, tile: int) -> int:
    """Say how much of a tile its neighbour shares."""
    if tiling.overlap == "exact":
        return _known_overlap(place, predictor)
    if isinstance(tiling.overlap, float):
        return int(tile * tiling.overlap)
    return tiling.overlap if isinstance(tiling.overlap, int) else tiling.overlap[place]


def _known_overlap(place: int, predictor: Predictor) -> int:
    halo = receptive_field_of(predictor).halo
    if halo is None:
        raise invalid(
            SettingError,
            "overlap",
            must="be in px, or a fraction, for this network",
            got="exact",
            fix=f"Tiled need not equal whole: {_obstacle(receptive_field_of(predictor))}.",
        )
    return _needed(halo[place])


def _exact_overlap(place: int, tiling: TilingConfig, predictor: Predictor) -> int:
    needed = _known_overlap(place, predictor)
    least = _least_tile(needed, tiling.alignment_px[place], predictor.stride[place])
    tile, fixed = tiling.tile_shape[place], predictor.tile_size[place] is not None
    if tile < least:
        raise invalid(
            SettingError,
            "tile_size",
            must=f'be at least {least} px along {"yx"[place]} for overlap="exact", which is {needed} px here',
            got=tile,
            fix="The network takes no other tile: give the overlap in px, and a blend."
            if fixed
            else f"Use {least} or more; much more computes fewer px twice.",
        )
    return needed


def _clean(axis: AxisGrid, ends: tuple[int, int], blend: str) -> bool:
    """Say whether all px taken from a tile lie outside its halo."""
    whole = [(origin, min(origin + axis.tile, axis.length)) for origin in axis.origins]
    return all(
        (origin == 0 or start - origin >= ends[0])
        and (origin == axis.origins[-1] or stop <= origin + axis.tile - ends[1])
        for origin, (start, stop) in zip(axis.origins, axis.cores if blend == "crop" else whole, strict=True)
    )


def _needed(ends: tuple[int, int]) -> int:
    """Give the least overlap: cores meet in its middle, the smaller half before the border."""
    return max(2 * ends[0], 2 * ends[1] - 1, 0)


def _least_tile(overlap: int, alignment: int, stride: int) -> int:
    """Give the smallest tile that leaves an aligned step and is a multiple of the stride."""
    return -(-(overlap + lcm(alignment, stride)) // stride) * stride


def _obstacle(field: ReceptiveField) -> str:
    if field.tile_dependent:
        return f"the whole tile is seen by {_some(field.tile_dependent)}"
    return f"the receptive field of {_some(field.unknown)} is not known"


def _some(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
