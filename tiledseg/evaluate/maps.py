"""Where the maps that are scored come from: a segmenter, or precomputed files and arrays."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from tiledseg._validate import invalid
from tiledseg.config import recorded_loss
from tiledseg.data import check_mask
from tiledseg.engine import check_probabilities, warn_of_sums
from tiledseg.errors import ArrayError, ModelError
from tiledseg.evaluate.map_files import WHERE, map_and_cells
from tiledseg.evaluate.score_map import MapScorer, scored_map
from tiledseg.io import advised, image_shape
from tiledseg.predict import Plan, SeamWatch, make_plan, run_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.config import EvaluateConfig
    from tiledseg.engine import Network
    from tiledseg.errors import TiledSegError
    from tiledseg.evaluate.score_map import Loss
    from tiledseg.evaluate.scores import ImageScores
    from tiledseg.io import PixelSize


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


class Scored(NamedTuple):
    """What is known of a map."""

    labels: AnyArray  # (H, W)
    scores: ImageScores  # without those of outlines and cells
    cells: AnyArray | None = None  # (H, W), the number of the cell of each px; None where the map has none


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

    def score(self, pair: LoadedPair, threshold: float) -> Scored:
        """Score a map."""
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

    def score(self, pair: LoadedPair, threshold: float) -> Scored:
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
        return Scored(scorer.labels, scores)

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

    def score(self, pair: LoadedPair, threshold: float) -> Scored:
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
        return Scored(scorer.labels, scores)


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
        with advised(WHERE):
            size = tuple((ready.shape if isinstance(ready, np.ndarray) else image_shape(ready))[:2])
        if size != pair.truth.shape:
            raise invalid(
                ArrayError,
                "map",
                must=f"have the height and width of its image, {pair.truth.shape}",
                got=size,
                fix="Score a map at the size of its image.",
            )

    def score(self, pair: LoadedPair, threshold: float) -> Scored:
        """Read a map."""
        ready = self.maps[pair.index]
        if isinstance(ready, np.ndarray):
            values, cells = ready, None
        else:
            values, cells = map_and_cells(ready, are_numbered=pair.cells is not None)
        tiles = self.tile_px or pair.truth.shape
        borders = [range(tile, length, tile) for tile, length in zip(tiles, pair.truth.shape, strict=True)]
        _check_truth(pair.truth, max(2, values.shape[2] if values.ndim == 3 else self.classes))
        scorer = scored_map(
            values, pair.truth, self.classes, threshold, (borders[0], borders[1]), pair.ignored, self.loss
        )
        return Scored(scorer.labels, scorer.scores(pair.name), cells)
