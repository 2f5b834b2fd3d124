"""Where the maps that are scored come from: a segmenter, or precomputed files and arrays."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tiledseg._validate import ELSEWHERE, invalid, listed, path_text, text_of_path
from tiledseg.config import recorded_loss
from tiledseg.data import as_pairs, check_mask, mask_files
from tiledseg.engine import check_probabilities, warn_of_sums
from tiledseg.errors import ArrayError, FileError, ModelError
from tiledseg.evaluate.score_map import MapScorer, scored_map
from tiledseg.io import (
    advised,
    image_shape,
    images_in,
    open_image,
    read_image,
    read_probs,
    stem_of,
)
from tiledseg.predict import Plan, SeamWatch, make_plan, run_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.config import EvaluateConfig
    from tiledseg.data import Pair
    from tiledseg.engine import Network
    from tiledseg.errors import TiledSegError
    from tiledseg.evaluate.score_map import Loss
    from tiledseg.evaluate.scores import ImageScores
    from tiledseg.io import PixelSize

_FEW, _SHOWN = 20, 6  # up to so many dark values are no probabilities
_WHERE = f"Read the map with tiledseg.read_image, {ELSEWHERE}, and pass the array."
_WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPair:
    """An image and its truth in memory."""

    name: str  # of the pair
    index: int  # of the pair
    image: AnyArray  # (H, W) or (H, W, C)
    truth: AnyArray  # true labels (H, W)
    cells: AnyArray | None = None  # true cells (H, W), 0 or a number for each; None if they are not numbered
    ignored: AnyArray | None = None  # px that do not count (H, W); None where all count
    found: str = ""  # what the values of the mask were taken for
    pixel_size: PixelSize | None = None  # that the image's file states


class MapSource(Protocol):
    """Gives the map of each pair in turn."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class; empty if they are not known."""
        ...

    @property
    def threshold(self) -> tuple[float, str]:
        """The threshold that is used if none is stated, and where it comes from."""
        ...

    @property
    def known_classes(self) -> int | None:
        """Number of classes, background included; None where it is not known before a map is."""
        ...

    @property
    def loss(self) -> Loss | None:
        """The loss that is computed, with its class weights."""
        ...

    def check(self, pair: LoadedPair) -> None:
        """Raise a TiledSegError if a pair cannot be scored."""
        ...

    def score(self, pair: LoadedPair, threshold: float) -> tuple[AnyArray, ImageScores]:
        """Return the labels of a map, and its scores without outlines and cells."""
        ...


@dataclass(frozen=True, slots=True)
class PredictedMaps:
    """Maps that a network predicts, scored while they are stitched."""

    network: Network  # the model, resolved
    config: EvaluateConfig  # tiling and batch size
    plans: dict[int, Plan] = field(default_factory=dict)  # of the checked pairs, by index

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.network.labels

    @property
    def threshold(self) -> tuple[float, str]:
        """The segmenter's own, else 0.5."""
        return self.network.threshold, "the segmenter's own" if self.network.has_settings else "the default"

    @property
    def known_classes(self) -> int | None:
        """The network's own."""
        return self.network.classes or len(self.labels) or None

    @property
    def loss(self) -> Loss | None:
        """The stated one, else that of the segmenter's training."""
        if self.config.loss is not None:
            return self.config.loss, None
        loss, weights = recorded_loss(self.network.provenance.get("settings"))
        fits = weights is None or len(weights) == max(2, len(self.labels))
        return None if loss is None or not fits else (loss, weights)

    def in_f32(self) -> PredictedMaps:
        """Return the maps of the same network in float32."""
        config = self.config.changed(runtime=self.config.runtime.changed(precision="f32"))
        return PredictedMaps(self.network.changed(config.runtime), config)

    def check(self, pair: LoadedPair) -> None:
        """Plan the prediction, and check the mask's labels."""
        job = self.plans[pair.index] = self._plan(pair)
        if pair.cells is not None and len(self.labels) > 2:
            raise invalid(
                ArrayError,
                "mask",
                must=f"hold the labels of {len(self.labels)} classes",
                got="a number for each cell",
                fix="Read the masks with mask_parts=classes.",
            )
        check_mask(pair.truth, pair.image.shape, job.classes or len(self.labels) or 256)

    def score(self, pair: LoadedPair, threshold: float) -> tuple[AnyArray, ImageScores]:
        """Predict an image as planned."""
        job = self.planned(pair)
        watch, started = SeamWatch(job), time.perf_counter()
        if job.classes is None:  # known only from the map
            probs = run_plan(job, pair.image, watch=_checked(job.network.predictor, watch))
            _check_truth(pair.truth, max(2, probs.shape[2]))
            scorer = scored_map(probs, pair.truth, 1, threshold, job.borders, pair.ignored, self.loss)
        else:
            scorer = MapScorer(pair.truth, job.classes, threshold, job.borders, pair.ignored, self.loss)
            run_plan(job, pair.image, scorer, watch=watch.add)
        seconds, seams = time.perf_counter() - started - scorer.seconds, watch.report()
        scores, disagreement = scorer.scores(pair.name), seams.score if seams.seams else math.nan
        scores = replace(scores, tiles=len(job.grid), seconds=seconds, disagreement=disagreement)
        return scorer.labels, scores

    def planned(self, pair: LoadedPair) -> Plan:
        """Return the plan of a checked pair; make another where its file has changed meanwhile."""
        job = self.plans.pop(pair.index, None)
        return job if job is not None and job.shape == pair.image.shape[:2] else self._plan(pair)

    def _plan(self, pair: LoadedPair) -> Plan:
        config = self.config
        return make_plan(
            self.network,
            pair.image,
            config.tiling,
            batch_size=config.batch_size,
            tta=config.tta,
            pixel_size=config.pixel_size or pair.pixel_size,
        )


@dataclass(frozen=True, slots=True)
class MeanMaps:
    """The mean of the maps that several networks predict: an ensemble."""

    parts: tuple[PredictedMaps, ...]  # one for each network

    @classmethod
    def of(cls, parts: Sequence[PredictedMaps]) -> MeanMaps:
        """Check that the networks have the same classes."""
        for number, part in enumerate(parts):
            if part.known_classes != parts[0].known_classes or part.labels != parts[0].labels:
                raise _not_alike(number, _classes(parts[0]), _classes(part))
        return cls(tuple(parts))

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.parts[0].labels

    @property
    def threshold(self) -> tuple[float, str]:
        """The mean of the segmenters' own."""
        return math.fsum(one.threshold[0] for one in self.parts) / len(
            self.parts
        ), "the mean of the segmenters' own"

    @property
    def known_classes(self) -> int | None:
        """Those of the networks."""
        return self.parts[0].known_classes

    @property
    def loss(self) -> Loss | None:
        """The one of all networks; None where they were trained with different ones."""
        first, *others = (one.loss for one in self.parts)
        return first if all(one == first for one in others) else None

    def in_f32(self) -> MeanMaps:
        """Return the maps of the same networks in float32."""
        return MeanMaps(tuple(one.in_f32() for one in self.parts))

    def check(self, pair: LoadedPair) -> None:
        """Plan the predictions, and check the mask's labels."""
        for one in self.parts:
            one.check(pair)

    def score(self, pair: LoadedPair, threshold: float) -> tuple[AnyArray, ImageScores]:
        """Predict an image with each network, and average the maps at the image's size."""
        started, jobs = time.perf_counter(), [one.planned(pair) for one in self.parts]
        probs = run_plan(jobs[0], pair.image, watch=_checked(jobs[0].network.predictor))  # each for itself
        for number, job in enumerate(jobs[1:], 1):
            more = run_plan(job, pair.image, watch=_checked(job.network.predictor))
            if more.shape != probs.shape:  # of callables, whose classes are known only now
                raise _not_alike(number, f"{probs.shape[2]}", f"{more.shape[2]}")
            probs += more
        probs /= np.float32(len(jobs))
        seconds = time.perf_counter() - started
        _check_truth(pair.truth, max(2, probs.shape[2]))
        scorer = scored_map(probs, pair.truth, 1, threshold, jobs[0].borders, pair.ignored, self.loss)
        scores = replace(scorer.scores(pair.name), tiles=sum(len(job.grid) for job in jobs), seconds=seconds)
        return scorer.labels, scores


def _classes(part: PredictedMaps) -> str:
    return ", ".join(part.labels) or f"{part.known_classes} without names"


def _not_alike(number: int, first: str, other: str) -> TiledSegError:
    return invalid(
        ModelError,
        f"segmenter[{number}]",
        must=f"have the classes of the first, {first}",
        got=other,
        fix="Average only segmenters of the same classes.",
    )


def _check_truth(truth: AnyArray, classes: int) -> None:
    """Check that a mask has no label beyond the classes of a map."""
    if int(truth.max(initial=0)) >= classes:
        raise invalid(
            ArrayError,
            "mask",
            must=f"hold labels in [0, {classes - 1}], since the map has {classes} classes",
            got=f"labels up to {truth.max()}",
            fix="Set mask_threshold=1 if every value but 0 is foreground, mask_parts=instances if each is "
            "the number of a cell, and ignore_label if one does not count.",
        )


def _checked(network: object, watch: SeamWatch | None = None) -> Callable[[int, FloatArray], None]:
    """Check that tiles hold probabilities before they are watched."""

    def add(tile_id: int, probs: FloatArray) -> None:
        check_probabilities(probs)
        warn_of_sums(probs, network)
        if watch is not None:
            watch.add(tile_id, probs)

    return add


@dataclass(frozen=True, slots=True)
class PrecomputedMaps:
    """Maps that were computed before, as files or arrays."""

    maps: Sequence[PathLike | AnyArray]  # one for each pair
    classes: int = 1  # of maps that hold labels; see `score_map`
    tile_px: tuple[int, int] | None = None  # size of the tiles, without overlap, that the maps consist of
    labels: tuple[str, ...] = ()  # name of each class
    threshold: tuple[float, str] = (0.5, "the default")  # and where it comes from
    loss: Loss | None = None  # that is computed

    @property
    def known_classes(self) -> int | None:
        """Those of maps that hold labels, where there are several."""
        return self.classes if self.classes > 1 else None

    def check(self, pair: LoadedPair) -> None:
        """Compare sizes, without decoding a file."""
        ready = self.maps[pair.index]
        with advised(_WHERE):
            size = tuple((ready.shape if isinstance(ready, np.ndarray) else image_shape(ready))[:2])
        if size != pair.truth.shape:
            raise invalid(
                ArrayError,
                "map",
                must=f"have the height and width of its image, {pair.truth.shape}",
                got=size,
                fix="Score a map at the size of its image.",
            )

    def score(self, pair: LoadedPair, threshold: float) -> tuple[AnyArray, ImageScores]:
        """Read a map."""
        ready = self.maps[pair.index]
        values = ready if isinstance(ready, np.ndarray) else read_map(ready)
        tiles = self.tile_px or pair.truth.shape
        borders = [range(tile, length, tile) for tile, length in zip(tiles, pair.truth.shape, strict=True)]
        _check_truth(pair.truth, max(2, values.shape[2] if values.ndim == 3 else self.classes))
        scorer = scored_map(
            values, pair.truth, self.classes, threshold, (borders[0], borders[1]), pair.ignored, self.loss
        )
        return scorer.labels, scorer.scores(pair.name)


def check_other_files(maps: Sequence[object], pairs: Sequence[Pair]) -> None:
    """Refuse maps that are files of the images or of the truth, which would agree with itself."""
    for ready, pair in zip(maps, pairs, strict=True):
        found = text_of_path(ready)
        own = [text_of_path(one) for one in (*mask_files(pair), pair.image)]
        if found and os.path.realpath(found) in [os.path.realpath(one) for one in own if one]:
            must, fix = "be other files than the images and their masks", "Name the folder of the maps."
            raise invalid(FileError, "maps", must=must, got=found, fix=fix)


def find_maps(folder: PathLike, pairs: Sequence[Pair]) -> list[Path]:
    """Find the map of each pair in a folder, by its name; in folders within it where names are paths."""
    wanted = as_pairs(pairs, "pairs")
    deep = any("/" in pair.name for pair in wanted)
    files: dict[str, list[Path]] = {}
    for path in images_in([folder], recursive=deep):
        place = path.parent.relative_to(path_text(folder)).parts if deep else ()
        files.setdefault("/".join([*place, stem_of(path)]), []).append(path)
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


def classes_of_map(path: PathLike) -> int:
    """Count the classes of a map's file, as `read_map` gives them, without its px."""
    with advised(_WHERE):
        shape = image_shape(path)
    if len(shape) == 2:
        return 1
    with advised(_WHERE), open_image(path) as opened:
        return shape[2] if opened.dtype.kind == "f" else 1


def read_map(path: PathLike) -> AnyArray:
    """Read a map from a file: probabilities (real numbers or grey values), or a mask as 0.0 and 1.0."""
    if Path(path_text(path)).suffix.lower() in {".tif", ".tiff"}:
        try:
            return read_probs(path)
        except FileError:  # it may hold grey values
            pass
    with advised(_WHERE):
        picture = read_image(path)
    grey = picture if picture.ndim == 2 else picture[..., 0]
    if picture.dtype.kind == "f":
        return picture.astype(np.float32)
    if grey.dtype not in _WHITE or (picture.ndim == 3 and (picture != picture[..., :1]).any()):
        raise invalid(
            FileError,
            str(path),
            must="hold probabilities as real numbers or grey values",
            got=f"{picture.dtype} of shape {picture.shape}",
            fix="Save the map before it is coloured, or pass an array of tiledseg.read_image.",
        )
    white = _WHITE[grey.dtype]
    if _is_mask(grey, white):
        return np.asarray(np.not_equal(grey, 0), np.float32)
    if int(grey.max()) <= white // 2 and len(np.unique(grey)) <= _FEW:
        raise invalid(
            FileError,
            str(path),
            must=f"hold 0 and {white}, 0 and 1, or grey values up to {white} as probabilities",
            got=f"the values {listed(np.unique(grey), _SHOWN)}",
            fix="If they are labels, pass an array of tiledseg.io.read_mask, and `classes`.",
        )
    return grey.astype(np.float32) / np.float32(white)


def _is_mask(grey: AnyArray, white: int) -> bool:
    """Say whether grey values are those of a mask: 0 and one of 1, 255 and the largest."""
    present = [value for value in np.unique(grey).tolist() if value]
    return not present or (len(present) == 1 and present[0] in {1, 255, white})
