"""Where the maps that are scored come from: a segmenter, or files and arrays that are ready."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tiledseg._validate import invalid, path_text
from tiledseg.data import as_pairs, check_mask
from tiledseg.errors import ArrayError, FileError
from tiledseg.evaluate.score_map import MapScorer, scored_map
from tiledseg.io import find_images, image_shape, read_image, read_probs
from tiledseg.predict import Plan, SeamWatch, run_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.config import EvaluateConfig
    from tiledseg.data import Pair
    from tiledseg.engine import Network
    from tiledseg.evaluate.scores import ImageScores

__all__ = ["LoadedPair", "MapSource", "PredictedMaps", "ReadyMaps", "find_maps", "read_map"]

_WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPair:
    """An image and its truth in memory."""

    name: str  # name of the pair
    place: int  # its place among all
    image: AnyArray  # the image
    truth: AnyArray  # its true labels
    # its true cells, 0 or a number for each; None where the mask does not tell them apart
    cells: AnyArray | None = None


class MapSource(Protocol):
    """Gives the map of each pair in turn."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class; empty where not known."""
        ...

    @property
    def threshold(self) -> tuple[float, str]:
        """Where probabilities are cut if nobody states it, and who says so."""
        ...

    def check(self, pair: LoadedPair) -> None:
        """Raise a TiledSegError where a pair cannot be scored."""
        ...

    def score(self, pair: LoadedPair, threshold: float) -> tuple[AnyArray, ImageScores]:
        """Give the labels of a map, and its scores without outlines and cells."""
        ...


@dataclass(frozen=True, slots=True)
class PredictedMaps:
    """Maps that a network predicts, scored while they are stitched."""

    network: Network  # the model, resolved
    config: EvaluateConfig  # tiling and batch size
    plans: dict[int, Plan] = field(default_factory=dict)  # of the pairs that were checked, by their place

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.network.labels

    @property
    def threshold(self) -> tuple[float, str]:
        """The segmenter's own, else 0.5."""
        return self.network.threshold, "the segmenter's own" if self.network.has_settings else "the default"

    def check(self, pair: LoadedPair) -> None:
        """Plan the prediction, and check the mask's labels."""
        job = self.plans[pair.place] = self._planned(pair.image)
        if pair.cells is not None and len(self.labels) > 1:
            raise invalid(
                ArrayError,
                "mask",
                must=f"tell {len(self.labels)} classes apart",
                got="a number for each cell",
                fix="Read the masks as classes.",
            )
        check_mask(pair.truth, pair.image.shape, job.classes or len(self.labels) or 256)

    def score(self, pair: LoadedPair, threshold: float) -> tuple[AnyArray, ImageScores]:
        """Predict an image as planned."""
        job = self.plans.pop(pair.place, None)
        if job is None or job.shape != pair.image.shape[:2]:  # the file was changed meanwhile
            job = self._planned(pair.image)
        watch, started = SeamWatch(job), time.perf_counter()
        if job.classes is None:  # only the map tells
            probs = run_plan(job, pair.image, watch=watch.add)
            scorer = scored_map(probs, pair.truth, 1, threshold, job.borders)
        else:
            scorer = MapScorer(pair.truth, job.classes, threshold, job.borders)
            run_plan(job, pair.image, scorer, watch=watch.add)
        seconds, seams = time.perf_counter() - started - scorer.seconds, watch.report()
        scores, disagreement = scorer.scores(pair.name), seams.score if seams.seams else math.nan
        scores = replace(scores, tiles=len(job.grid), seconds=seconds, disagreement=disagreement)
        return scorer.labels, scores

    def _planned(self, image: AnyArray) -> Plan:
        config = self.config
        return Plan.of(self.network, image, config.tiling, batch_size=config.batch_size, tta=config.tta)


@dataclass(frozen=True, slots=True)
class ReadyMaps:
    """Maps that are ready, as files or arrays."""

    maps: Sequence[PathLike | AnyArray]  # one for each pair
    classes: int = 1  # of maps that hold labels; see `score_map`
    # height and width of the tiles, without overlap, that the maps were pasted from
    tile_px: tuple[int, int] | None = None
    labels: tuple[str, ...] = ()  # name of each class
    threshold: tuple[float, str] = (0.5, "the default")  # where probabilities are cut, and who says so

    def check(self, pair: LoadedPair) -> None:
        """Compare sizes, without decoding a file."""
        ready = self.maps[pair.place]
        size = tuple((ready.shape if isinstance(ready, np.ndarray) else image_shape(ready))[:2])
        if size != pair.truth.shape:
            raise invalid(
                ArrayError,
                "map",
                must=f"have the height and width of its image, {pair.truth.shape}",
                got=size,
                fix="Score a map at its image's own size.",
            )

    def score(self, pair: LoadedPair, threshold: float) -> tuple[AnyArray, ImageScores]:
        """Read a map."""
        ready = self.maps[pair.place]
        values = ready if isinstance(ready, np.ndarray) else read_map(ready)
        tiles = self.tile_px or pair.truth.shape
        borders = [range(tile, length, tile) for tile, length in zip(tiles, pair.truth.shape, strict=True)]
        scorer = scored_map(values, pair.truth, self.classes, threshold, (borders[0], borders[1]))
        return scorer.labels, scorer.scores(pair.name)


def find_maps(folder: PathLike, pairs: Sequence[Pair]) -> list[Path]:
    """Find the map of each pair in a folder, by its name."""
    wanted = as_pairs(pairs, "pairs")
    files: dict[str, list[Path]] = {}
    for path in find_images([folder]):
        files.setdefault(path.stem, []).append(path)
    for pair in wanted:
        found = files.get(pair.name, [])
        if len(found) != 1:
            raise invalid(
                FileError,
                str(folder),
                must=f"hold one map of {pair.name}",
                got=[path.name for path in found] or "none",
                fix="Name each map after its image.",
            )
    return [files[pair.name][0] for pair in wanted]


def read_map(path: PathLike) -> AnyArray:
    """Read a map of probabilities from a file."""
    if Path(path_text(path)).suffix.lower() in {".tif", ".tiff"}:
        try:
            return read_probs(path)
        except FileError:  # it may hold grey values
            pass
    picture = read_image(path)
    grey = picture if picture.ndim == 2 else picture[..., 0]
    if grey.dtype not in _WHITE or (picture.ndim == 3 and (picture != picture[..., :1]).any()):
        raise invalid(
            FileError,
            str(path),
            must="hold probabilities: reals, or grey values",
            got=f"{picture.dtype} of shape {picture.shape}",
            fix="Save the map as it was before it was coloured.",
        )
    return grey.astype(np.float32) / np.float32(_WHITE[grey.dtype])
