"""The layout of tiles for a network and an image: tile, overlap, and whether tiled equals whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

from tiledseg._validate import invalid
from tiledseg.engine import check_fixed
from tiledseg.errors import SettingError
from tiledseg.tiling import UNKNOWN, Tiler, default_tiling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg.config import TilingConfig
    from tiledseg.engine import Network
    from tiledseg.tiling import AxisGrid, ReceptiveField, TileGrid

Verdict: TypeAlias = Literal["exact", "approximate", "impossible"]
"""``exact``: tiled equals whole; ``approximate``: it may differ; ``impossible``: with no tiling."""

_MOST_STRIDES = 32  # px: the stride of most networks divides it
_MOST_TRIED = 256  # tiles along an axis that are tried for tile_size="auto"


def lay_out(
    network: Network, shape: tuple[int, int], tiling: TilingConfig | None
) -> tuple[TilingConfig, TileGrid]:
    """Fit a tiling to a network and an image; its tile is in px, and its overlap too in the grid."""
    chosen = tiling or network.tiling or default_tiling(network.tile_size, network.stride)
    chosen = _with_tile(chosen, network)
    if chosen.tile_size == "auto":
        chosen = _best_tile(chosen, network, shape)
    check_fixed(chosen.tile_shape, network.tile_size)
    chosen = in_px = _aligned(chosen, network)
    if chosen.overlap == "exact":
        in_px = chosen.changed(overlap=_exact_overlap(chosen, network, shape))
    # A Segmenter's own tiling is the context that it was trained with: without it, zeros inside the network
    # would reach into the whole of a small image.
    keeps_context = tiling is None and network.tiling is not None and chosen.overlap != "exact"
    clip = (False, False) if keeps_context else _clipped(network, shape)
    grid = Tiler(in_px).grid(shape, network.stride, clip=clip)
    if network.tta == "d4" and grid.tile_shape[0] != grid.tile_shape[1]:
        must, fix = "be flips for tiles that are not square", "Use flips, or square tiles."
        raise invalid(SettingError, "tta", must=must, got="d4", fix=fix)
    network.check_tile(grid.tile_shape)
    return chosen, grid


def _with_tile(tiling: TilingConfig, network: Network) -> TilingConfig:
    """Give a tiling that states no tile the one that fits the network."""
    if "tile_size" in tiling.model_fields_set:
        return tiling
    fitting = default_tiling(network.tile_size, network.stride)
    overlap = tiling.overlap if "overlap" in tiling.model_fields_set else fitting.overlap
    return tiling.changed(tile_size=fitting.tile_size, overlap=overlap)


def _aligned(tiling: TilingConfig, network: Network) -> TilingConfig:
    """Let tiles start where they suit most networks, if neither stride nor alignment is stated."""
    likely = network.likely_stride
    if likely == 1 or "alignment" in tiling.model_fields_set or tiling.overlap == "exact":
        return tiling
    steps = [tile - shared for tile, shared in zip(tiling.tile_shape, tiling.overlap_px, strict=True)]
    if min(steps) < _MOST_STRIDES:
        must = f"be stated for tiles less than {_MOST_STRIDES} px apart: the network's stride is not known"
        fix = "Set it to the stride: 16 for 4 poolings, 1 for none, for example. Or use a smaller overlap."
        raise invalid(SettingError, "alignment", must=must, got=f"{min(steps)} px without it", fix=fix)
    y, x = (min(likely, 1 << step.bit_length() - 1) for step in steps)
    return tiling.changed(alignment=(y, x))


def _clipped(network: Network, shape: tuple[int, int]) -> tuple[bool, bool]:
    """Say along which axes a small image shortens the tile: padding would change what the network sees."""
    # Of a callable it is not known whether it takes another size.
    y, x = (-(-length // step) * step for length, step in zip(shape, network.stride, strict=True))
    if network.receptive_field == UNKNOWN or (network.tta == "d4" and y != x):
        return False, False
    return network.tile_size[0] is None, network.tile_size[1] is None


def _exact_overlap(tiling: TilingConfig, network: Network, shape: tuple[int, int]) -> tuple[int, int]:
    """Give the overlap in px that makes tiled equal whole."""
    y, x = (
        _exact_along(axis, tiling, network) if length > tile else 0
        for axis, (length, tile) in enumerate(zip(shape, tiling.tile_shape, strict=True))
    )
    return y, x


def _exact_along(axis: int, tiling: TilingConfig, network: Network) -> int:
    needed = _overlap_px(axis, tiling, network, 0)
    least = _least_tile(needed, tiling.alignment_px[axis], network.stride[axis])
    tile, fixed = tiling.tile_shape[axis], network.tile_size[axis] is not None
    if tile < least:
        raise invalid(
            SettingError,
            "tile_size",
            must=f'be at least {least} px along {"yx"[axis]} for overlap="exact", which is {needed} px here',
            got=tile,
            fix="The network takes no other tile size: give the overlap in px, and a blend."
            if fixed
            else f"Use {least} or more; a much larger tile computes fewer px twice.",
        )
    return needed


def _overlap_px(axis: int, tiling: TilingConfig, network: Network, tile: int) -> int:
    """Say how much of a tile its neighbour shares along an axis."""
    if isinstance(tiling.overlap, float):
        return int(tile * tiling.overlap)
    if tiling.overlap != "exact":
        return tiling.overlap if isinstance(tiling.overlap, int) else tiling.overlap[axis]
    halo = network.receptive_field.halo
    if halo is None:
        raise invalid(
            SettingError,
            "overlap",
            must="be in px, or a fraction, for this network",
            got="exact",
            fix=f"Tiled may differ from whole: {_obstacle(network.receptive_field)}.",
        )
    return _least_overlap(halo[axis])


def _least_overlap(halo: tuple[int, int]) -> int:
    """Give the least exact overlap: cores meet in its middle, the smaller half before the border."""
    return max(2 * halo[0], 2 * halo[1] - 1, 0)


def _least_tile(overlap: int, alignment: int, stride: int) -> int:
    """Give the smallest tile that leaves an aligned step and is a multiple of the stride."""
    return -(-(overlap + math.lcm(alignment, stride)) // stride) * stride


def _best_tile(tiling: TilingConfig, network: Network, shape: tuple[int, int]) -> TilingConfig:
    """Choose the tile that fits in memory and computes the fewest px; of several that of the fewest tiles."""
    memory = network.memory
    candidates = list(_candidates(tiling, network, shape))
    fitting = [
        (height * width * n_tiles, n_tiles, (height, width))
        for (height, width), n_tiles in candidates
        if network.bytes_per_tile((height, width)) <= memory
    ]
    if not fitting:
        least = min(candidates)[0]
        raise invalid(
            SettingError,
            "memory",
            must=f"hold one tile of {least[0]}x{least[1]} px, about {network.bytes_per_tile(least)} bytes",
            got=f"{memory} bytes",
            fix="Use smaller tiles, or allow more.",
        )
    tile = min(fitting)[2]
    if tiling.overlap == "exact":
        return tiling.changed(tile_size=tile)
    overlaps = [  # where one tile covers an axis it may be smaller than the overlap
        0 if tile[axis] >= shape[axis] else _overlap_px(axis, tiling, network, tile[axis]) for axis in (0, 1)
    ]
    return tiling.changed(tile_size=tile, overlap=(overlaps[0], overlaps[1]))


def _candidates(
    tiling: TilingConfig, network: Network, shape: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], int]]:
    """Give the tiles that are compared, and how many of each the image takes."""
    rows, columns = (list(_choices(axis, tiling, network, shape[axis])) for axis in (0, 1))
    if network.tta != "d4" or network.tile_size != (None, None):
        yield from (((height, width), down * across) for height, down in rows for width, across in columns)
        return
    for size in sorted({size for size, _ in rows + columns}):  # transposed copies need square tiles
        n_tiles = math.prod(_number(axis, tiling, network, size, shape[axis]) for axis in (0, 1))
        if n_tiles:
            yield (size, size), n_tiles


def _number(axis: int, tiling: TilingConfig, network: Network, tile: int, length: int) -> int:
    """Count the tiles of a size along an axis; 0 where they overlap too much."""
    if tile >= length:
        return 1
    align = math.lcm(tiling.alignment_px[axis], network.stride[axis])
    overlap = _overlap_px(axis, tiling, network, tile)
    return _count(tile, overlap, align, length) if tile - overlap >= align else 0


def _choices(axis: int, tiling: TilingConfig, network: Network, length: int) -> Iterator[tuple[int, int]]:
    """Give, for each number of tiles along an axis, the smallest tile that suffices, and the number."""
    stride, fixed = network.stride[axis], network.tile_size[axis]
    align = math.lcm(tiling.alignment_px[axis], stride)
    if fixed is not None:
        yield fixed, _count(fixed, _overlap_px(axis, tiling, network, fixed), align, length)
        return
    last = 0
    for count in range(1, _MOST_TRIED + 1):
        tile = -(-length // (count * stride)) * stride
        while True:
            overlap = _overlap_px(axis, tiling, network, tile) if count > 1 else 0
            if count == 1 or (tile - overlap >= align and _count(tile, overlap, align, length) <= count):
                break
            tile += stride
        if tile == last:
            return  # the overlap leaves no smaller one
        yield tile, count
        last = tile


def _count(tile: int, overlap: int, align: int, length: int) -> int:
    """Count the tiles that cover an axis, as `AxisGrid` does."""
    steps = -(-max(length - tile, 0) // align)
    return 1 if not steps else 1 - (-steps // max(1, (tile - overlap) // align))


def judge(grid: TileGrid, network: Network) -> tuple[Verdict, str]:
    """Say whether a grid of tiles gives what the whole image would, with the padding that the grid adds."""
    verdict, reason = _judged(grid, network)
    if verdict == "exact" and network.runtime.precision == "bf16":
        return "approximate", "bf16 keeps 8 bits of a number; f32 would be exact"
    if verdict == "exact" and network.computes_half:
        return "approximate", "float16 keeps 11 bits of a number; exported in float32 it would be exact"
    return verdict, reason


def _judged(grid: TileGrid, network: Network) -> tuple[Verdict, str]:
    # It does where each px that the blend takes from a tile lies outside the network's halo at those ends
    # of the tile that are not the padded image's; ``crop`` takes the core, every other blend the whole
    # tile.
    field = network.receptive_field
    padded = any(
        (fixed is None and axis.tile - axis.length >= step) or (field == UNKNOWN and axis.tile > axis.length)
        for axis, step, fixed in zip((grid.y, grid.x), network.stride, network.tile_size, strict=True)
    )
    if padded and (len(grid) == 1 or field.halo is not None):
        return "approximate", "the image is smaller than the tile, and padded"
    if len(grid) == 1:
        return "exact", "one tile covers the image"
    if field.halo is None:
        return ("impossible" if field.tile_dependent else "approximate"), _obstacle(field)
    axes = list(zip((grid.y, grid.x), field.halo, network.stride, network.tile_size, strict=True))
    spoiled = [one for one in axes if not _clean(one[0], one[1], grid.blend)]
    if not spoiled:
        return "exact", "no px is taken from the halo at a tile's ends"
    needed = max(_least_overlap(halo) for _, halo, _, _ in spoiled)
    least = [_least_tile(_least_overlap(halo), axis.alignment, step) for axis, halo, step, _ in spoiled]
    small = [(one[0].tile, one[3]) for one, size in zip(spoiled, least, strict=True) if one[0].tile < size]
    if any(fixed for _, fixed in small):
        return "impossible", f"exact needs tiles of {max(least)} px; the network takes {small[0][0]} px"
    wanted = [f"tiles of at least {max(least)} px"] if small else []
    if min(axis.overlap for axis, *_ in spoiled) < needed:
        wanted.append(f"an overlap of {needed} px")
    if grid.blend != "crop":
        wanted.append("the blend crop")
    return "approximate", f"px in the halo at tile ends are used; exact needs {', '.join(wanted)}"


def _clean(axis: AxisGrid, halo: tuple[int, int], blend: str) -> bool:
    """Say whether all px taken from a tile lie outside its halo."""
    whole = [(origin, min(origin + axis.tile, axis.length)) for origin in axis.origins]
    return all(
        (origin == 0 or start - origin >= halo[0])
        and (origin == axis.origins[-1] or stop <= origin + axis.tile - halo[1])
        for origin, (start, stop) in zip(axis.origins, axis.cores if blend == "crop" else whole, strict=True)
    )


def _obstacle(field: ReceptiveField) -> str:
    if field.tile_dependent:
        return f"the whole tile is seen by {_some(field.tile_dependent)}"
    return f"the receptive field of {_some(field.unknown)} is not known"


def _some(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
