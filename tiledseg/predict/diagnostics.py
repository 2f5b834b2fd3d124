"""Checks of a prediction: whether tiled equals whole, and where neighbouring tiles disagree."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import cv2
from tiledseg._notebook import paragraph, picture
from tiledseg._validate import counted, invalid
from tiledseg.errors import ModelError, SettingError
from tiledseg.plots import as_png, heat, thumbnail
from tiledseg.predict.plan import Plan, make_plan
from tiledseg.predict.prediction import opened, prepared, run_plan
from tiledseg.tiling import Box

if TYPE_CHECKING:
    from tiledseg._types import FloatArray, PathLike, Source
    from tiledseg.config import TTA, RuntimeConfig, TilingConfig
    from tiledseg.predict.roi import Roi
    from tiledseg.tiling import AxisGrid, Tile

_log = logging.getLogger("tiledseg")
_TOLERANCE = 1e-5


def check_exact(
    model: object,
    image: Source | PathLike,
    tiling: TilingConfig | dict[str, Any] | None = None,
    *,
    roi: Roi | None = None,
    runtime: RuntimeConfig | dict[str, Any] | None = None,
) -> float:
    """Check on a few tiles that tiled equals whole.

    The first and the last tile and the one nearest to the grid's middle are compared, where the
    blend takes px from them, with what the network gives for a crop that extends further by a tile
    or by the halo, whichever is more, on each side, and ends with the padded image. It takes the
    memory of nine tiles at once.

    Parameters
    ----------
    model : Segmenter, keras.Model, PyTorch module, callable, BundleReference or path of an ONNX file
        As for `tiled_predict`.
    image : array_like or path
        As for `tiled_predict`.
    tiling : TilingConfig or dict, optional
        As for `tiled_predict`.
    roi : array_like or "tissue", optional
        Only tiles that it touches are compared.
    runtime : RuntimeConfig or dict, optional
        As for `tiled_predict`.

    Returns
    -------
    float
        The largest difference, as a share of the largest output where that is above 1; 0 where one
        tile covers the image.

    Raises
    ------
    ModelError
        If a px differs from the whole by more than 1e-5, or 1e-5 of the largest output.
    SettingError
        If the network takes only tiles of one size.

    Examples
    --------
    >>> image = np.zeros((300, 200), np.float32)
    >>> check_exact(lambda tiles: tiles, image, {"tile_size": 128, "overlap": 32})
    0.0
    """
    with opened(image) as found:
        job = make_plan(model, found, tiling, roi=roi, runtime=runtime)
        wanted = [one for one in range(len(job.grid)) if job.in_roi is None or job.in_roi[one]]
        if len(job.grid) == 1 or not wanted:
            return 0.0
        if job.network.tile_size != (None, None):
            raise invalid(
                SettingError,
                "model",
                must="take tiles of a free size to be compared",
                got=f"an input of {job.network.tile_size} px",
                fix="Build it with keras.Input((None, None, channels)) and set its weights.",
            )
        middle = min(wanted, key=lambda one: _from_middle(job, job.grid[one]))
        compared = sorted({wanted[0], middle, wanted[-1]})
        with prepared(found, job) as source:
            worst = max(_difference(job, source, job.grid[one]) for one in compared)
    _log.info("Tiled equals whole within %.1e of the outputs' range.", worst)
    return worst


def _from_middle(job: Plan, tile: Tile) -> float:
    rows, columns = len(job.grid.y.origins), len(job.grid.x.origins)
    return abs(tile.row - rows // 2) + abs(tile.column - columns // 2)


def _difference(job: Plan, source: Source, tile: Tile) -> float:
    grid, box = job.grid, tile.read_box
    halo = job.halo or ((0, 0), (0, 0))
    y, x = _wider(grid.y, box.y0, max(halo[0])), _wider(grid.x, box.x0, max(halo[1]))
    crop = Box(*y, *x)
    inside = Box(box.y0, min(box.y1, grid.shape[0]), box.x0, min(box.x1, grid.shape[1]))
    used = tile.core_box if grid.blend == "crop" else inside
    part, whole = _outputs(job, source, box, used), _outputs(job, source, crop, used)
    worst = float(np.abs(part - whole).max()) / max(1.0, float(np.abs(whole).max()))
    if worst > _TOLERANCE:
        raise invalid(
            ModelError,
            "model",
            must=f"give the same for a tile and for the whole, within {_TOLERANCE:g}",
            got=f"a difference of {worst:.2g} in tile {tile.id}",
            fix=f'Plan: {job.verdict}, {job.reason}. Use overlap="exact" where the network allows it.',
        )
    return worst


def _wider(axis: AxisGrid, origin: int, halo: int) -> tuple[int, int]:
    """Widen a tile by aligned px on both sides, no further than the padded image."""
    more = -(-max(axis.tile, halo) // axis.alignment) * axis.alignment
    return max(origin - more, 0), min(origin + axis.tile + more, axis.padded_length)


def _outputs(job: Plan, source: Source, box: Box, used: Box) -> FloatArray:
    """Give the network's outputs for a box, cut to the px that are used."""
    outputs = job.network(job.tiler.read(source, box)[None])
    return outputs[0, used.y0 - box.y0 : used.y1 - box.y0, used.x0 - box.x0 : used.x1 - box.x0]


def seam_report(  # noqa: PLR0913  what `tiled_predict` takes
    model: object,
    image: Source | PathLike,
    tiling: TilingConfig | dict[str, Any] | None = None,
    *,
    batch_size: int | None = None,
    roi: Roi | None = None,
    tta: TTA | None = None,
    runtime: RuntimeConfig | dict[str, Any] | None = None,
    progress: bool = False,
) -> SeamReport:
    """Say how far neighbouring tiles disagree where they overlap.

    The image is predicted for it, without keeping the map.

    Parameters
    ----------
    model : Segmenter, keras.Model, PyTorch module, callable, BundleReference or path of an ONNX file
        As for `tiled_predict`.
    image : array_like or path
        As for `tiled_predict`.
    tiling : TilingConfig or dict, optional
        As for `tiled_predict`.
    batch_size : int, optional
        Tiles per call; chosen by memory where it is None.
    roi : array_like or "tissue", optional
        Where to predict.
    tta : {"flips", "d4"}, optional
        Test-time augmentation.
    runtime : RuntimeConfig or dict, optional
        Engine, precision, devices and memory.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    SeamReport
        One seam for each pair of neighbours, in px of `image`.

    Raises
    ------
    TiledSegError
        As `tiled_predict`.

    Examples
    --------
    >>> image = np.zeros((300, 200), np.float32)
    >>> print(seam_report(lambda tiles: tiles, image, {"tile_size": 200, "overlap": 32}))
    1 seam, mean disagreement 0.0000; the worst, 0.0000, between tiles 0 and 1 at (y, x) = (100, 0)
    """
    with opened(image) as found:
        options: dict[str, Any] = {"batch_size": batch_size, "roi": roi, "tta": tta, "runtime": runtime}
        job = make_plan(model, found, tiling, **options)
        watch = SeamWatch(job)
        run_plan(job, found, progress=progress, watch=watch.add)
    return watch.report()


_NOTEBOOK_SIDE = 480  # px of the longer side of the picture of seams


@dataclass(frozen=True, slots=True)
class Seam:
    """How far two neighbouring tiles disagree where they overlap.

    Attributes
    ----------
    tiles : tuple of int
        Their positions in the grid.
    box : Box
        The px that they share, in the image.
    mean, largest : float
        Of the absolute differences of their outputs; over the channels the largest counts.
    """

    tiles: tuple[int, int]
    box: Box
    mean: float
    largest: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SeamReport:
    """How far overlapping tiles disagree.

    Attributes
    ----------
    seams : tuple of Seam
        One for each pair of tiles, side by side or one above the other, that were both computed.
    disagreement : ndarray
        (H, W) float32: the largest absolute difference between neighbours; 0 where there is one
        tile alone.
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

    def __repr__(self) -> str:
        return f"SeamReport({self})"

    def _repr_html_(self) -> str:
        shown = heat(thumbnail(self.disagreement, _NOTEBOOK_SIDE))
        return paragraph(self) + picture(as_png(shown), "disagreement of neighbouring tiles")

    def __str__(self) -> str:
        if self.worst is None:
            return "no tiles overlap"
        where = f"(y, x) = ({self.worst.box.y0}, {self.worst.box.x0})"
        return (
            f"{counted(len(self.seams), 'seam')}, mean disagreement {self.score:.4f}; "
            f"the worst, {self.worst.mean:.4f}, "
            f"between tiles {self.worst.tiles[0]} and {self.worst.tiles[1]} at {where}"
        )


class SeamWatch:
    """Compares the outputs of neighbouring tiles as they come, in any order."""

    def __init__(self, job: Plan) -> None:
        self._job = job
        self._waiting: dict[tuple[int, int], FloatArray] = {}
        self._seams: list[Seam] = []
        self._map = np.zeros(job.grid.shape, np.float32)

    def add(self, tile_id: int, output: FloatArray) -> None:
        """Compare a tile with the neighbours that came before it."""
        grid = self._job.grid
        tile = grid[tile_id]
        for other in self._neighbours(tile):
            box = _shared(tile.read_box, other.read_box, grid.shape)
            if box is None:
                continue
            y, x = tile.read_box.y0, tile.read_box.x0
            part = output[box.y0 - y : box.y1 - y, box.x0 - x : box.x1 - x]
            pair = (min(tile_id, other.id), max(tile_id, other.id))
            before = self._waiting.pop(pair, None)
            if before is None:
                self._waiting[pair] = part.copy()
            else:
                self._note(pair, box, np.abs(part - before).max(axis=-1))

    def report(self) -> SeamReport:
        """Give what was found, in px of the image."""
        height, width = self._job.shape
        whole: Any = self._map
        if self._job.is_scaled:
            whole = cv2.resize(whole, (width, height), interpolation=cv2.INTER_NEAREST)
        return SeamReport(tuple(sorted(self._seams, key=lambda seam: seam.tiles)), whole)

    def _neighbours(self, tile: Tile) -> list[Tile]:
        grid = self._job.grid
        rows, columns = len(grid.y.origins), len(grid.x.origins)
        beside = ((0, -1), (0, 1), (-1, 0), (1, 0))
        places = [(tile.row + down, tile.column + across) for down, across in beside]
        return [
            grid[row * columns + column]
            for row, column in places
            if 0 <= row < rows and 0 <= column < columns
        ]

    def _note(self, pair: tuple[int, int], box: Box, difference: FloatArray) -> None:
        np.maximum(self._map[box.slices], difference, out=self._map[box.slices])
        seam = Seam(pair, self._job.box(box), float(difference.mean()), float(difference.max()))
        self._seams.append(seam)


def _shared(one: Box, other: Box, shape: tuple[int, int]) -> Box | None:
    """Give the px of the image that two tiles share; None where there are none."""
    y0, x0 = max(one.y0, other.y0), max(one.x0, other.x0)
    y1, x1 = min(one.y1, other.y1, shape[0]), min(one.x1, other.x1, shape[1])
    return Box(y0, y1, x0, x1) if y1 > y0 and x1 > x0 else None
