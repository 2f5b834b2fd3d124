"""The Evaluator: it predicts images whose masks are known, and scores the maps."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from tiledseg._progress import progress_bar
from tiledseg._validate import (
    check_arguments,
    check_callable,
    invalid,
    items_of,
    raised_as,
    settings_of,
    shown,
    whole_number,
    whole_pair,
)
from tiledseg.config import EvaluateConfig
from tiledseg.data import as_pairs, check_apart, group_of, load_both, log_meanings, pixel_size_of_pair
from tiledseg.engine import Network
from tiledseg.errors import ArrayError, FileError, ModelError, SettingError
from tiledseg.evaluate.map_files import check_other_files
from tiledseg.evaluate.maps import LoadedPair, MeanMaps, PrecomputedMaps, PredictedMaps
from tiledseg.evaluate.result import EvaluationResult
from tiledseg.evaluate.score_map import ShapeScorer
from tiledseg.evaluate.scores import FailedPair, PrecisionCost
from tiledseg.io import IGNORED, in_memory, pixel_size_from
from tiledseg.tiling import check_threshold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.data import Pair, PairLike
    from tiledseg.evaluate.maps import MapSource
    from tiledseg.evaluate.scores import ImageScores

_log = logging.getLogger("tiledseg")
_PAIR_ERRORS = (ArrayError, FileError, MemoryError)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredImage:
    """An image with its truth, its prediction and the scores."""

    image: AnyArray  # the image as it was read
    truth: AnyArray  # true labels (H, W)
    predicted: AnyArray  # predicted labels (H, W)
    scores: ImageScores  # of the prediction
    ignored: AnyArray | None = None  # px that do not count (H, W), whose truth is 0; None where all count

    def __repr__(self) -> str:
        return f"ScoredImage({self.scores!r})"


class Evaluator:
    """Predicts images whose masks are known, and scores the stitched maps at their own size.

    Maps are scored while they are stitched, and are not stored.

    Parameters
    ----------
    config : EvaluateConfig or dict, optional
        Threshold, tiling, batch size, and how outlines and cells are compared. With the precision
        bf16 each image is predicted in float32 as well, and the result says what bf16 costs.
    **unknown : Never
        No other argument is accepted; the error shows how a setting is given.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((60, 80), np.float32)
    >>> image[20:40, 20:40] = 1
    >>> result = Evaluator().evaluate(lambda tiles: tiles, [(image, image > 0)])
    >>> result.summary()["dice"]
    1.0
    """

    def __init__(self, config: EvaluateConfig | dict[str, Any] | None = None, **unknown: Never) -> None:
        check_arguments(unknown, Evaluator, config=EvaluateConfig)
        self.config: EvaluateConfig = settings_of(EvaluateConfig, config, "config")

    def evaluate(
        self,
        segmenter: object,
        pairs: Iterable[PairLike],
        *,
        valid: Iterable[PairLike] | None = None,
        progress: bool = False,
        callback: Callable[[ScoredImage], None] | None = None,
    ) -> EvaluationResult:
        """Predict and score images, after all of them have been checked.

        Parameters
        ----------
        segmenter : a model as for `tiled_predict`, or a list of them
            As for `tiled_predict`; of several, the mean of their maps is scored.
        pairs : iterable of Pair or tuple
            Images with their masks, or tuples of the two, each an array or a path.
        valid : iterable of Pair or tuple, optional
            Other images, on which the threshold of the highest mean Dice is chosen first.
        progress : bool
            Whether to show how many images are done.
        callback : callable, optional
            Called with each `ScoredImage`, for example to draw it; its arrays are not stored.

        Returns
        -------
        EvaluationResult
            The scores of each image. A pair that cannot be read or does not fit is reported there
            and does not stop the others.

        Raises
        ------
        ModelError
            If `segmenter` cannot be tiled, returns something else than a map, or several have different
            classes.
        SettingError
            If there is no pair, the tiling does not fit the network, an image is in both lists, or
            the threshold cannot be chosen: it is stated, `valid` is missing, or there are several
            classes.
        StitchError
            If the map is not finite.
        """
        check_callable("callback", callback)
        maps, todo = self._maps(segmenter), as_pairs(pairs, "pairs")
        unseen = None if valid is None else as_pairs(valid, "valid")
        self._check_choice(todo, unseen)
        threshold = maps.threshold
        if unseen is not None:
            chosen = _Run(maps, self.config, maps.threshold).result(unseen, progress=progress)
            threshold = chosen.best_threshold(), f"chosen on {len(chosen.images)} validation images"
        elif isinstance(self.config.threshold, float):
            threshold = check_threshold(self.config.threshold, maps.known_classes, stated=True), "stated"
        in_f32 = maps.in_f32() if self.config.runtime.precision == "bf16" else None
        run = _Run(maps, self.config, threshold, in_f32)
        return run.result(todo, progress=progress, callback=callback)

    def score_maps(
        self,
        maps: Iterable[PathLike | AnyArray],
        pairs: Iterable[PairLike],
        *,
        classes: int = 1,
        tile_px: tuple[int, int] | None = None,
        callback: Callable[[ScoredImage], None] | None = None,
    ) -> EvaluationResult:
        """Score precomputed maps, of any origin.

        Parameters
        ----------
        maps : iterable of path or ndarray
            One for each pair, as `find_maps` finds them: arrays as for `score_map`, files as for
            `read_map`.
        pairs : iterable of Pair or tuple
            As for `evaluate`.
        classes : int
            Number of classes of arrays that hold labels; see `score_map`.
        tile_px : tuple of int, optional
            Height and width of the tiles, without overlap, that the maps consist of; used for the
            seam ratio.
        callback : callable, optional
            As for `evaluate`.

        Returns
        -------
        EvaluationResult
            As of `evaluate`.

        Raises
        ------
        SettingError
            If there is no pair, a pair has no map, or a number is out of its range.
        """
        check_callable("callback", callback)
        fix = "Find them with tiledseg.evaluate.find_maps."
        todo = as_pairs(pairs, "pairs")
        given = enumerate(items_of(maps, "maps", "be maps, one for each pair", fix))
        ready = [in_memory(one, f"maps[{place}]") for place, one in given]
        if len(ready) != len(todo):
            raise invalid(
                SettingError,
                "maps",
                must=f"be one for each of {len(todo)} pairs",
                got=len(ready),
                fix=fix,
            )
        check_other_files(ready, todo)
        self._check_choice(todo, None)
        tile_px = None if tile_px is None else whole_pair("tile_px", tile_px)
        loss = None if self.config.loss is None else (self.config.loss, None)
        source = PrecomputedMaps(ready, whole_number("classes", classes), tile_px, loss=loss)
        stated = self.config.threshold
        threshold = (stated, "stated") if isinstance(stated, float) else source.threshold
        return _Run(source, self.config, threshold).result(todo, callback=callback)

    def _maps(self, segmenter: object) -> PredictedMaps | MeanMaps:
        """Resolve a model, or several, whose maps are averaged."""
        if not isinstance(segmenter, list | tuple):
            return PredictedMaps(Network.of(segmenter, self.config.runtime), self.config)
        if not segmenter:
            fix = "Give at least one."
            raise invalid(ModelError, "segmenter", must="be a segmenter, or several", got="none", fix=fix)
        networks = [Network.of(one, self.config.runtime) for one in segmenter]
        return MeanMaps.of([PredictedMaps(one, self.config) for one in networks])

    def _check_choice(self, pairs: Sequence[Pair], valid: Sequence[Pair] | None) -> None:
        stated = self.config.threshold
        if valid is None and stated == "valid":
            raise invalid(
                SettingError,
                "valid",
                must='be given with threshold="valid"',
                got=None,
                fix="Give validation images, or state a threshold.",
            )
        if valid is not None and isinstance(stated, float):
            raise invalid(
                SettingError,
                "threshold",
                must="be None or valid if `valid` is given",
                got=stated,
                fix='Set threshold="valid", or leave the validation images out.',
            )
        if valid is not None:
            check_apart(pairs, valid, "pairs")


class _Run:
    """One evaluation in progress."""

    def __init__(
        self,
        maps: MapSource,
        config: EvaluateConfig,
        threshold: tuple[float, str],
        in_f32: PredictedMaps | MeanMaps | None = None,
    ) -> None:
        self._maps, self._config, self._threshold = maps, config, threshold
        self._in_f32 = in_f32  # the same maps in float32, for what bf16 costs
        self._costs: list[PrecisionCost] = []
        self._shapes = ShapeScorer(config.boundary_px, config.cell_px, config.objects)

    def result(
        self,
        pairs: list[Pair],
        *,
        progress: bool = False,
        callback: Callable[[ScoredImage], None] | None = None,
    ) -> EvaluationResult:
        for pair in pairs:
            group_of(pair.name, self._config.group_regex)  # an error comes before anything is predicted
        images, failed = [], self._failing(pairs)
        with progress_bar(len(pairs), "images", shown=progress) as advance:
            for index, pair in enumerate(pairs):
                if index not in failed:
                    try:
                        scored = self._scored(index, pair)
                    except _PAIR_ERRORS as error:
                        failed[index] = _failed(pair, error)
                    else:
                        images.append(scored.scores)
                        if callback:
                            with raised_as(SettingError, "`callback` failed", "Correct it."):
                                callback(scored)
                advance(1)
        failures = tuple(failed[index] for index in sorted(failed))
        labels, costs, loss = self._maps.labels, tuple(self._costs), (self._maps.loss or (None,))[0]
        return EvaluationResult(tuple(images), failures, labels, *self._threshold, self._config, costs, loss)

    def _failing(self, pairs: list[Pair]) -> dict[int, FailedPair]:
        """Read every pair once before any is predicted, and return those that do not fit."""
        failed, found, counted = {}, [], False
        for index, pair in enumerate(pairs):
            try:
                loaded = _loaded(index, pair, self._maps.known_classes)
                self._maps.check(loaded)
                found.append(loaded.found)
                counted = counted or loaded.ignored is None or bool(loaded.truth.any())
            except _PAIR_ERRORS as error:
                failed[index] = _failed(pair, error)
        log_meanings(found)
        if found and not counted:
            _log.warning("No mask has foreground that counts: check `mask_threshold` and `ignore_label`.")
        return failed

    def _scored(self, index: int, pair: Pair) -> ScoredImage:
        loaded = _loaded(index, pair, self._maps.known_classes)
        labels, scores, cells = self._maps.score(loaded, self._threshold[0])
        self._check_used(scores)
        if self._in_f32 is not None:
            self._costs.append(self._cost(self._in_f32, loaded, labels, scores))
        size = pixel_size_from(self._config.pixel_size) or loaded.pixel_size
        scores = replace(scores, pixel_size=size)
        scores = self._shapes.scored(scores, loaded.truth, labels, loaded.cells, loaded.ignored, cells)
        return ScoredImage(loaded.image, loaded.truth, labels, scores, loaded.ignored)

    def _cost(
        self, in_f32: PredictedMaps | MeanMaps, loaded: LoadedPair, labels: AnyArray, scores: ImageScores
    ) -> PrecisionCost:
        """Compare an image's labels with those of float32."""
        wanted, f32, _ = in_f32.score(loaded, self._threshold[0])
        foreground, changed = np.count_nonzero(wanted), np.count_nonzero(wanted != labels)
        return PrecisionCost(loaded.name, f32.dice, scores.dice, int(foreground), int(changed))

    def _check_used(self, scores: ImageScores) -> None:
        """Refuse a stated threshold that the labels of a map do not depend on."""
        if self._threshold[1] != "stated":
            return
        check_threshold(self._threshold[0], len(scores.counts), stated=True)
        if scores.probabilities is None:
            must, fix = "be left out for maps that hold labels", "Give probabilities, or leave it out."
            raise invalid(SettingError, "threshold", must=must, got=self._threshold[0], fix=fix)


def _loaded(index: int, pair: Pair, classes: int | None) -> LoadedPair:
    image, mask = load_both(pair, classes)
    ignored = np.asarray(mask.labels == IGNORED) if pair.ignores else None
    truth = mask.labels if ignored is None else np.where(ignored, np.uint8(0), mask.labels)
    size = pixel_size_of_pair(pair)
    return LoadedPair(
        pair.name, index, image, truth, mask.cells, pixel_size=size, ignored=ignored, found=mask.found
    )


def _failed(pair: Pair, error: Exception) -> FailedPair:
    text = str(error) or type(error).__name__
    _log.warning("%s: %s", shown(pair.name), text)
    return FailedPair(pair.name, text)
