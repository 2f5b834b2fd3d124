"""What a prediction will do, known before it does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiledseg._validate import check_shape, invalid, settings_of, whole_number
from tiledseg.config import TilingConfig
from tiledseg.engine import SegmenterLike, check_memory, fitting_batch, predictor_for
from tiledseg.errors import SettingError
from tiledseg.predict._auto import auto_tiling
from tiledseg.predict._exact import exact_tiling, judge, receptive_field_of
from tiledseg.preprocess import scaled_length
from tiledseg.tiling import Tiler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg.config import PreprocessingConfig
    from tiledseg.engine import Predictor
    from tiledseg.predict._exact import Verdict
    from tiledseg.tiling import TileGrid

__all__ = ["Layout", "Plan", "lay_out", "plan"]

_DEFAULT_TILE = 512
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """A network, an image's shape and a tiling that fit one another."""

    predictor: Predictor  # the network, ready to be called
    preprocessing: PreprocessingConfig | None  # how pixels are prepared; None for as they are
    tiler: Tiler  # cuts the prepared image
    grid: TileGrid  # tiles of the prepared image
    shape: tuple[int, int]  # height and width of the image in px


@dataclass(frozen=True, slots=True)
class Plan:
    """What a prediction will do; ``print`` shows it as a table.

    Attributes
    ----------
    shape : tuple of int
        Height and width of the image in px.
    scale : float
        Factor by which the image is shrunk before it is tiled.
    tiling : TilingConfig
        The tiling that will be used, its tile in px; where its overlap is ``"exact"``, `grid` has
        that in px.
    grid : TileGrid
        Tiles of the image as the network sees it, after `scale`.
    stride : tuple of int
        Total stride (y, x) of the network in px.
    receptive_field : tuple of tuple of int or None
        Px before and after an output px that it depends on, along y and x: the most over the px
        of one total stride. None where the network does not tell.
    halo : tuple of tuple of int or None
        Px at the start and at the end of a tile, along y and x, whose outputs differ from those
        of the whole image; None where the network does not tell.
    verdict : {"exact", "approximate", "impossible"}
        ``exact``: tiled equals whole up to the rounding of float32. ``approximate``: it need not,
        or the network does not tell. ``impossible``: with this network no tiling would equal it.
        The whole is the image with the padding that the grid adds at its far ends.
    reason : str
        Why, and what exactness would take.
    classes : int or None
        Output channels; None where not known before the first call.
    batch_size : int
        Tiles per call.
    network_bytes : int
        Estimate, from above, of the memory of the network's activations.
    output_bytes : int
        Memory of the float32 map.
    band_bytes : int
        Memory of the rows that the stitcher holds.
    """

    shape: tuple[int, int]
    scale: float
    tiling: TilingConfig
    grid: TileGrid
    stride: tuple[int, int]
    receptive_field: tuple[tuple[int, int], tuple[int, int]] | None
    halo: tuple[tuple[int, int], tuple[int, int]] | None
    verdict: Verdict
    reason: str
    classes: int | None
    batch_size: int
    network_bytes: int
    output_bytes: int
    band_bytes: int

    @property
    def calls(self) -> int:
        """Calls of the network."""
        return -(-len(self.grid) // self.batch_size)

    @property
    def total_bytes(self) -> int:
        """Memory beside the image: network, output and band."""
        return self.network_bytes + self.output_bytes + self.band_bytes

    def __str__(self) -> str:
        grid = self.grid
        channels = "?" if self.classes is None else str(self.classes)
        scaled = f", scaled by {self.scale:g} to {_size(grid.shape)}" if grid.shape != self.shape else ""
        sides = {"field of view": self.receptive_field, "halo": self.halo}
        rows = {
            "image": f"{_size(self.shape)}{scaled}",
            "tiles": f"{len(grid)} of {_size(grid.tile_shape)} "
            f"({len(grid.y.origins)} down, {len(grid.x.origins)} across)",
            "overlap": f"at least {grid.y.overlap} px down, {grid.x.overlap} px across, {grid.blend}",
            "alignment": f"{grid.y.alignment} px down, {grid.x.alignment} px across",
            "redundancy": f"{grid.redundancy:.2f} px computed per image px",
            "network calls": f"{self.calls} of {self.batch_size} tiles",
            "output": f"{_size(self.shape)}, {channels} channels, float32, {_mib(self.output_bytes)}",
            "memory": f"about {_mib(self.total_bytes)} beside the image "
            f"(network {_mib(self.network_bytes)}, band of rows {_mib(self.band_bytes)})",
            **{name: _sides(px) for name, px in sides.items() if px},
            "verdict": f"{self.verdict}: {self.reason}",
        }
        return "\n".join(f"{name:<14} {text}" for name, text in rows.items())


def plan(
    model: object,
    shape: Sequence[int],
    tiling: TilingConfig | None = None,
    *,
    batch_size: int | None = None,
    memory_budget: int | None = None,
) -> Plan:
    """Say what `tiled_predict` will do with an image, without doing it.

    Parameters
    ----------
    model : Segmenter, keras.Model or callable
        The network; a callable maps tiles (N, h, w, C) float32 to outputs (N, h, w, K).
    shape : sequence of int
        Shape of the image in px, (H, W) or (H, W, C).
    tiling : TilingConfig, optional
        How the image is tiled; as for `tiled_predict` where it is None.
    batch_size : int, optional
        Tiles per call of the network; chosen by memory where it is None.
    memory_budget : int, optional
        Bytes that the network may take; half of the free memory where it is None.

    Returns
    -------
    Plan
        Tiles, redundancy, calls, output size, memory, and whether tiled equals whole.

    Raises
    ------
    ArrayError
        If `shape` cannot be that of an image for this network.
    ModelError
        If `model` cannot be tiled.
    SettingError
        If the tiling does not fit the network.

    Examples
    --------
    >>> print(plan(lambda tiles: tiles, (1920, 2560, 3), batch_size=4))
    image          1920 x 2560 px
    tiles          35 of 512 x 512 px (5 down, 7 across)
    overlap        at least 128 px down, 128 px across, gaussian
    alignment      1 px down, 1 px across
    redundancy     1.87 px computed per image px
    network calls  9 of 4 tiles
    output         1920 x 2560 px, ? channels, float32, 18.8 MiB
    memory         about 87.8 MiB beside the image (network 64.0 MiB, band of rows 5.0 MiB)
    verdict        approximate: the receptive field of a callable is not known
    """
    layout = lay_out(model, shape, tiling, memory_budget)
    predictor, grid = layout.predictor, layout.grid
    batch = chosen_batch(layout, batch_size, len(grid), memory_budget)
    classes = predictor.classes or 1
    field = receptive_field_of(predictor)
    verdict, reason = judge(grid, predictor)
    return Plan(
        shape=layout.shape,
        scale=layout.preprocessing.scale if layout.preprocessing else 1.0,
        tiling=layout.tiler.config,
        grid=grid,
        stride=predictor.stride,
        receptive_field=field.extent,
        halo=field.halo,
        verdict=verdict,
        reason=reason,
        classes=predictor.classes,
        batch_size=batch,
        network_bytes=batch * predictor.bytes_per_tile(grid.tile_shape),
        output_bytes=4 * classes * layout.shape[0] * layout.shape[1],
        band_bytes=4 * classes * min(grid.y.tile, grid.shape[0]) * grid.shape[1],
    )


def lay_out(
    model: object, shape: Sequence[int], tiling: TilingConfig | None, memory_budget: int | None = None
) -> Layout:
    """Fit a network, an image's shape and a tiling to one another."""
    predictor = predictor_for(model)
    preprocessing, own = (
        (model.preprocessing, model.tiling) if isinstance(model, SegmenterLike) else (None, None)
    )
    height, width, _ = check_shape(shape)
    if len(shape) == 3:
        check_shape(shape, predictor.channels)
    scale = preprocessing.scale if preprocessing else 1.0
    seen = (scaled_length(height, scale), scaled_length(width, scale))
    given = None if tiling is None else settings_of(TilingConfig, tiling, "tiling")
    if memory_budget is not None:
        memory_budget = whole_number("memory_budget", memory_budget)
    wanted = auto_tiling(given or own or _default_tiling(predictor), predictor, seen, memory_budget)
    checked = _checked(wanted, predictor)
    grid = Tiler(exact_tiling(checked, predictor, seen)).grid(seen, predictor.stride)
    predictor.check_tile(grid.tile_shape)
    return Layout(predictor, preprocessing, Tiler(checked), grid, (height, width))


def chosen_batch(layout: Layout, batch_size: int | None, n_tiles: int, memory_budget: int | None) -> int:
    """Take the batch size that is given, or choose one by memory."""
    predictor, tile_size = layout.predictor, layout.grid.tile_shape
    if batch_size is None:
        return fitting_batch(predictor, tile_size, max(n_tiles, 1), memory_budget)
    size = whole_number("batch_size", batch_size)
    check_memory(predictor, tile_size, min(size, max(n_tiles, 1)), memory_budget)
    return size


def _default_tiling(predictor: Predictor) -> TilingConfig:
    height, width = (
        size or -(-_DEFAULT_TILE // step) * step
        for size, step in zip(predictor.tile_size, predictor.stride, strict=True)
    )
    return TilingConfig(tile_size=(height, width))


def _checked(tiling: TilingConfig, predictor: Predictor) -> TilingConfig:
    for axis, size, fixed in zip("yx", tiling.tile_shape, predictor.tile_size, strict=True):
        if fixed not in {None, size}:
            raise invalid(
                SettingError,
                "tile_size",
                must=f"be {fixed} px along {axis}, the network's input",
                got=size,
                fix=f"Use tile_size={fixed}, or build the network for a free size.",
            )
    return tiling


def _sides(px: tuple[tuple[int, int], tuple[int, int]]) -> str:
    (above, below), (left, right) = px
    return f"{above} px above, {below} below, {left} left, {right} right"


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} px"


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
