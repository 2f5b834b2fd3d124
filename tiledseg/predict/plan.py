"""What a prediction will do: every decision and every refusal, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import psutil

from tiledseg._arrays import check_image, check_shape
from tiledseg._notebook import facts, side_by_side
from tiledseg._validate import counted, instance_of, invalid, one_of, real_number, settings_of, whole_number
from tiledseg.config import TTA, RuntimeConfig, TilingConfig
from tiledseg.engine import COPIES, Network
from tiledseg.errors import SettingError
from tiledseg.io import ImageSource, pixel_size_from
from tiledseg.predict.layout import judge, lay_out
from tiledseg.predict.roi import tiles_in
from tiledseg.preprocess import Sampling, check_dtype, sampling_of
from tiledseg.tiling import (
    Box,
    Output,
    Tile,
    Tiler,
    drawing_of,
    map_dtype,
    map_shape,
    sides_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tiledseg._types import Source
    from tiledseg.io import PixelSize
    from tiledseg.predict.layout import Verdict
    from tiledseg.predict.roi import Roi
    from tiledseg.tiling import TileGrid

_MIB = 1 << 20
_BATCHES = 4  # of tiles: read, waiting, run, stitched
_RESAMPLED = (1024, 32 * _MIB, 18 * _MIB)  # rows of the cache, its limit, and a block with its source
_LIBRARIES = 30 * _MIB  # that write files
_TILE_ROWS = 2 * 512  # of a pyramid, all levels together
_PANEL = 5120  # px: width of a panel with what its last tiles extend beyond it
_MOST_COVERED = 4096  # tiles that a region of interest may leave out to be drawn


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Plan:
    """What a prediction will do; ``print`` shows it as a table.

    Attributes
    ----------
    network : Network
        The model, resolved: it states its channels, classes, stride and receptive field.
    shape : tuple of int
        Height and width of the image in px.
    channels : int or None
        Channels of the image; None where its shape has none.
    tiling : TilingConfig
        The tiling that will be used, its tile in px; where its overlap is ``"exact"``, `grid` has
        that in px.
    grid : TileGrid
        Tiles of the image as the network sees it, after `scale`; `tile` gives one of them in px of
        the image itself.
    batch_size : int
        Tiles per call.
    output : {"probabilities", "mask", "labels", "uint8"}
        What the map holds.
    fill_value : float
        Output of tiles outside the region of interest.
    in_roi : ndarray or None
        Whether each tile touches the region of interest, bool (tiles,); None for all of them.
    level : int or None
        Level of the file that is read, which has the px size nearest to the network's; None for the
        image as it is.
    pixel_size : PixelSize or None
        Height and width of a px of the image in µm; None where it is not known.
    """

    network: Network
    shape: tuple[int, int]
    channels: int | None
    tiling: TilingConfig
    grid: TileGrid
    batch_size: int
    output: Output = "probabilities"
    fill_value: float = 0.0
    in_roi: NDArray[np.bool_] | None = None
    level: int | None = None
    pixel_size: PixelSize | None = None
    streamed: bool = False
    process_bytes: int = 0
    source_bytes: int = 0
    files_bytes: int = 0

    @property
    def scale(self) -> float:
        """Factor by which the image is resampled before it is tiled, along y."""
        settings = self.network.preprocessing
        if settings is not None and settings.pixel_size is None:
            return settings.scale
        return self.grid.shape[0] / self.shape[0]

    @property
    def is_scaled(self) -> bool:
        """Whether the network sees another number of px than the image has."""
        return self.grid.shape != self.shape

    @property
    def needs_probabilities(self) -> bool:
        """Whether outputs outside [0, 1] are refused: of a Segmenter, and for labels and bytes."""
        return self.network.has_settings or self.output != "probabilities"

    @property
    def tiler(self) -> Tiler:
        """What cuts the image as the network sees it."""
        return Tiler(self.tiling)

    @property
    def stride(self) -> tuple[int, int]:
        """Total stride (y, x) of the network in px."""
        return self.network.stride

    @property
    def receptive_field(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Px before and after an output px that it depends on, along y and x; None where not known.

        The most over the px of one total stride.
        """
        return self.network.receptive_field.extent

    @property
    def halo(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Px at the ends of a tile, along y and x, that differ from the whole; None where not known."""
        return self.network.receptive_field.halo

    @property
    def verdict(self) -> Verdict:
        """Whether tiled equals whole: ``"exact"``, ``"approximate"`` or ``"impossible"``.

        ``exact``: up to the rounding of float32. ``approximate``: it need not, or the network does not tell.
        ``impossible``: with this network no tiling would. The whole is the image with the padding that the
        grid adds at its far ends.
        """
        return judge(self.grid, self.network)[0]

    @property
    def reason(self) -> str:
        """Why, and what exactness would take."""
        return judge(self.grid, self.network)[1]

    @property
    def classes(self) -> int | None:
        """Output channels; None where not known before the first call."""
        return self.network.classes

    @property
    def tta(self) -> TTA | None:
        """Test-time augmentation: ``"flips"``, ``"d4"`` or None."""
        return self.network.tta

    @property
    def n_tiles(self) -> int:
        """Tiles that are computed: those that touch the region of interest."""
        return len(self.grid) if self.in_roi is None else int(self.in_roi.sum())

    @property
    def calls(self) -> int:
        """Calls of the network."""
        return -(-self.n_tiles * COPIES[self.network.tta] // self.batch_size)

    @property
    def network_bytes(self) -> int:
        """Estimate, from above, of the memory of the network's activations."""
        return self.batch_size * self.network.bytes_per_tile(self.grid.tile_shape)

    @property
    def output_bytes(self) -> int:
        """Memory of the map."""
        classes = self.classes or 1
        shape, dtype = map_shape((*self.shape, classes), self.output), map_dtype(self.output, classes)
        return int(np.prod(shape)) * dtype.itemsize

    @property
    def memory(self) -> dict[str, int]:
        """Memory in bytes: what the process had when this was planned (``now``), and what each part adds."""
        classes = self.classes or 1
        tile = int(np.prod(self.grid.tile_shape)) * (self.channels or 1) * 4
        reading = self.source_bytes + _BATCHES * min(self.batch_size, self.n_tiles) * tile
        if self.is_scaled:
            rows, most, block = _RESAMPLED
            reading += min(rows * 4 * self.grid.shape[1] * (self.channels or 1), most) + block
        return {
            "now": self.process_bytes,
            "engine": self.network.engine_bytes,
            "network": self.batch_size * self.network.usual_bytes(self.grid.tile_shape),
            "reading": reading,
            "band of rows": 4 * classes * min(self.grid.y.tile, self.grid.shape[0]) * self.grid.shape[1],
            "files": self.files_bytes,
            "map": self._written_bytes(classes) if self.streamed else self.output_bytes,
        }

    def _written_bytes(self, classes: int) -> int:
        """Estimate what a map takes that is written while it is computed."""
        width = self.shape[1] if self.is_scaled else min(self.shape[1], _PANEL)
        row = map_shape((1, width, classes), self.output)
        whole = _TILE_ROWS * int(np.prod(row)) * map_dtype(self.output, classes).itemsize
        return _LIBRARIES + min(whole, int(self.output_bytes))

    @property
    def borders(self) -> tuple[list[int], list[int]]:
        """Where the cores of neighbouring tiles meet, along y and x, in px of the image."""
        return (
            [round(px * self.shape[0] / self.grid.shape[0]) for px in self.grid.y.borders],
            [round(px * self.shape[1] / self.grid.shape[1]) for px in self.grid.x.borders],
        )

    def tile(self, tile_id: int) -> Tile:
        """Give a tile in px of the image.

        Parameters
        ----------
        tile_id : int
            Position in the grid.

        Returns
        -------
        Tile
            What it covers, and the px that it is nearest to.
        """
        tile = self.grid[whole_number("tile_id", tile_id, least=0, most=len(self.grid) - 1)]
        if not self.is_scaled:
            return tile
        read, core = self.box(tile.read_box), self.box(tile.core_box)
        return Tile(tile.id, tile.row, tile.column, read, core)

    def box(self, box: Box) -> Box:
        """Bring a box from px of the grid to px of the image.

        Parameters
        ----------
        box : Box
            In the image as the network sees it.

        Returns
        -------
        Box
            The same place in the image.
        """
        instance_of(Box, box, "box")
        down, across = (long / short for long, short in zip(self.shape, self.grid.shape, strict=True))
        ends = (box.y0 * down, box.y1 * down, box.x0 * across, box.x1 * across)
        y0, y1, x0, x1 = (round(end) for end in ends)
        return Box(y0, y1, x0, x1)

    def _scaled(self) -> str:
        """Say from what px to what px the image is brought."""
        size, seen, settings = self.pixel_size, _size(self.grid.shape), self.network.preprocessing
        own = "" if size is None else f" of {size}"
        own += f", level {self.level} read" if self.level else ""
        if not self.is_scaled:
            return own
        if size is None or settings is None or settings.pixel_size is None:
            return f"{own}, scaled by {self.scale:g} to {seen}"
        now = size.shrunk(self.shape[0] / self.grid.shape[0], self.shape[1] / self.grid.shape[1])
        return f"{own}, brought to {seen} of {now}"

    def __str__(self) -> str:
        return "\n".join(f"{name:<15} {text}" for name, text in self._rows().items())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        in_roi = None if len(self.grid) > _MOST_COVERED else self.in_roi
        left_out = () if in_roi is None else np.flatnonzero(~in_roi)
        covered = [self.grid[int(number)].core_box for number in left_out]
        return side_by_side(drawing_of(self.grid, covered), facts(self._rows()))

    def _rows(self) -> dict[str, str]:
        """Say what is planned, by the name of each part."""
        grid, verdict = self.grid, judge(self.grid, self.network)
        channels = "? channels" if self.classes is None else counted(self.classes, "channel")
        kind = f"{channels}, float32" if self.output == "probabilities" else self.output
        memory, kept = self.memory, ", written while it is computed" if self.streamed else ""
        sides = {"receptive field": self.receptive_field, "halo": self.halo}
        in_roi = "" if self.in_roi is None else f", {self.n_tiles} in the region of interest"
        return {
            "image": f"{_size(self.shape)}{self._scaled()}",
            "tiles": f"{len(grid)} of {_size(grid.tile_shape)} "
            f"({len(grid.y.origins)} down, {len(grid.x.origins)} across){in_roi}",
            "overlap": f"at least {grid.y.overlap} px down, {grid.x.overlap} px across, {grid.blend}",
            "alignment": f"{grid.y.alignment} px down, {grid.x.alignment} px across",
            "redundancy": f"{grid.redundancy:.2f} px computed per image px",
            "network calls": f"{self.calls} of {self.batch_size} tiles",
            "output": f"{_size(self.shape)}, {kind}, {_mib(self.output_bytes)}{kept}",
            "memory": f"about {_mib(sum(memory.values()))} of the process at its peak: "
            + ", ".join(f"{part} {_mib(size)}" for part, size in memory.items() if size),
            **{name: sides_of(px) for name, px in sides.items() if px},
            "verdict": f"{verdict[0]}: {verdict[1]}",
        }


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} px"


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"


def make_plan(  # noqa: PLR0913  all that a prediction depends on
    model: object,
    image: Source | Sequence[int],
    tiling: TilingConfig | dict[str, Any] | None = None,
    *,
    batch_size: int | None = None,
    roi: Roi | None = None,
    fill_value: float = 0.0,
    output: Output = "probabilities",
    tta: TTA | None = None,
    runtime: RuntimeConfig | dict[str, Any] | None = None,
    pixel_size: PixelSize | float | tuple[float, float] | None = None,
) -> Plan:
    """Decide all that predicting an image takes; of the image a shape is enough, without a roi."""
    network = Network.of(model, runtime)
    shape = _shape_of(image, network.channels)
    given = None if tiling is None else settings_of(TilingConfig, tiling, "tiling")
    one_of("output", output, get_args(Output))
    if tta is not None:
        one_of("tta", tta, get_args(TTA))
        network = replace(network, tta=tta)  # its receptive field is that of all copies
    size = (shape[0], shape[1])
    sampling = _sampling(network, image, size, pixel_size)
    chosen, grid = lay_out(network, sampling.shape, given)
    in_roi = None if roi is None else tiles_in(grid, size, roi, image, network.preprocessing)
    n_tiles = len(grid) if in_roi is None else int(in_roi.sum())
    return Plan(
        network=network,
        shape=size,
        channels=shape[2] if len(shape) == 3 else None,
        tiling=chosen,
        grid=grid,
        batch_size=network.batch_size(grid.tile_shape, n_tiles * COPIES[network.tta], batch_size),
        output=output,
        fill_value=_checked_fill(fill_value, output),
        in_roi=in_roi,
        level=sampling.level,
        pixel_size=sampling.pixel_size,
        process_bytes=psutil.Process().memory_info().rss,
        # What is decoded whole is in the memory of the process already.
        source_bytes=image.memory_bytes if isinstance(image, ImageSource) and not image.is_whole else 0,
    )


def _shape_of(image: Source | Sequence[int], channels: int | None) -> tuple[int, ...]:
    """Return the shape of an image, or the shape that was given, checked."""
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        check_image(image, channels)
        return tuple(image.shape)
    shape: Any = image
    check_shape(shape)
    check_shape(shape, channels if len(shape) == 3 else None)
    return tuple(int(length) for length in shape)


def _sampling(
    network: Network,
    image: Source | Sequence[int],
    size: tuple[int, int],
    pixel_size: PixelSize | float | tuple[float, float] | None,
) -> Sampling:
    """Decide what the network gets of an image, by its px size and the levels of its file."""
    known = getattr(image, "pixel_size", None) if pixel_size is None else pixel_size_from(pixel_size)
    if network.preprocessing is None:
        return Sampling(size, None, known)
    check_dtype(image, network.preprocessing)
    levels = image.levels if isinstance(image, ImageSource) else ()
    return sampling_of(size, network.preprocessing, known, levels)


def _checked_fill(value: object, output: str) -> float:
    """Check what px count as that no tile was computed for."""
    number = real_number("fill_value", value, "Use 0, for example.")
    if output != "probabilities" and not 0 <= number <= 1:
        must, fix = f"be in [0, 1] with output={output}, as probabilities are", "Use 0, for example."
        raise invalid(SettingError, "fill_value", must=must, got=value, fix=fix)
    return number


def classes_of(job: Plan, dtype: Any) -> int:
    """Return the output channels; of a callable, which does not state them, by a run on zeros."""
    if job.classes is not None:
        return job.classes
    shape = (1, *job.grid.tile_shape, job.channels or 1)
    return int(job.network(np.zeros(shape, np.float32 if job.network.has_settings else dtype)).shape[3])
