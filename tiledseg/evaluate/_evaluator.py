"""Predicting images of known truth, and scoring what comes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiledseg._checks import settings_of, shown
from tiledseg._progress import progress_bar
from tiledseg._types import SegmenterLike
from tiledseg.config import EvaluateConfig
from tiledseg.data import as_pairs, check_mask, load_pair
from tiledseg.errors import ArrayError, FileError
from tiledseg.evaluate._result import EvaluationResult, FailedPair
from tiledseg.evaluate._scores import score_map
from tiledseg.predict import plan, tiled_predict
from tiledseg.stitcher import labels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.data import Pair
    from tiledseg.evaluate._scores import ImageScores
    from tiledseg.predict import Plan

__all__ = ["Evaluator", "ScoredImage"]

_log = logging.getLogger("tiledseg")
_PAIR_ERRORS = (ArrayError, FileError, MemoryError)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredImage:
    """An image, its truth, what was predicted, and how well.

    Attributes
    ----------
    image : ndarray, shape (H, W) or (H, W, C)
        The image as it was read.
    truth : ndarray of uint8, shape (H, W)
        Its true labels.
    probs : ndarray of float32, shape (H, W, K)
        The map.
    predicted : ndarray of uint8 or uint16, shape (H, W)
        The predicted labels.
    scores : ImageScores
        How well they agree.
    """

    image: AnyArray
    truth: AnyArray
    probs: FloatArray
    predicted: AnyArray
    scores: ImageScores


class Evaluator:
    """Predicts images of known truth and scores the stitched maps at their own size.

    Parameters
    ----------
    config : EvaluateConfig, optional
        Threshold, tiling and batch size.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((60, 80), np.float32)
    >>> image[20:40, 20:40] = 1
    >>> result = Evaluator().evaluate(lambda tiles: tiles, [(image, image > 0)])
    >>> result.summary()["dice"]
    1.0
    """

    def __init__(self, config: EvaluateConfig | None = None) -> None:
        self.config: EvaluateConfig = settings_of(EvaluateConfig, config, "config")

    def evaluate(
        self,
        segmenter: object,
        pairs: Iterable[Pair | tuple[PathLike | AnyArray, PathLike | AnyArray]],
        *,
        progress: bool = False,
        callback: Callable[[ScoredImage], None] | None = None,
    ) -> EvaluationResult:
        """Predict and score images, after all of them have been checked.

        Parameters
        ----------
        segmenter : Segmenter, keras.Model or callable
            As for `tiled_predict`.
        pairs : iterable of Pair or tuple
            Images with their masks, or tuples of the two, each an array or a path.
        progress : bool
            Whether to show how many images are done.
        callback : callable, optional
            Called with each `ScoredImage`, for pictures of it, say; its arrays are not kept.

        Returns
        -------
        EvaluationResult
            The scores of each image. A pair that cannot be read or does not fit is reported there
            and does not stop the others.

        Raises
        ------
        ModelError
            If `segmenter` cannot be tiled, or returns something else than a map.
        SettingError
            If there is no pair, or the tiling does not fit the network.
        StitchError
            If the map is not finite.
        """
        todo = as_pairs(pairs, "pairs")
        images, failed = [], self._failing(segmenter, todo)
        with progress_bar(len(todo), "images", shown=progress) as advance:
            for place, pair in enumerate(todo):
                if place not in failed:
                    try:
                        scored = self._scored(segmenter, pair)
                    except _PAIR_ERRORS as error:
                        failed[place] = _failed(pair, error)
                    else:
                        images.append(scored.scores)
                        if callback:
                            callback(scored)
                advance(1)
        failures = tuple(failed[place] for place in sorted(failed))
        return EvaluationResult(tuple(images), failures, _names(segmenter), self._threshold(segmenter))

    def _failing(self, segmenter: object, pairs: list[Pair]) -> dict[int, FailedPair]:
        """Read every pair once before any is predicted, and say which do not fit."""
        failed = {}
        for place, pair in enumerate(pairs):
            try:
                image, truth = load_pair(pair)
                layout = plan(segmenter, image.shape, self.config.tiling)
                check_mask(truth, image.shape, layout.classes or len(_names(segmenter)) or 256)
            except _PAIR_ERRORS as error:
                failed[place] = _failed(pair, error)
        return failed

    def _scored(self, segmenter: object, pair: Pair) -> ScoredImage:
        config, threshold = self.config, self._threshold(segmenter)
        image, truth = load_pair(pair)
        layout = plan(segmenter, image.shape, config.tiling)
        started = time.perf_counter()
        probs = tiled_predict(segmenter, image, config.tiling, batch_size=config.batch_size)
        scores = score_map(
            probs,
            truth,
            name=pair.name,
            threshold=threshold,
            borders=_borders(layout),
            tiles=len(layout.grid),
            seconds=time.perf_counter() - started,
        )
        return ScoredImage(image, truth, probs, labels_of(probs, threshold), scores)

    def _threshold(self, segmenter: object) -> float:
        if self.config.threshold is not None:
            return self.config.threshold
        return segmenter.threshold if isinstance(segmenter, SegmenterLike) else 0.5


def _names(segmenter: object) -> tuple[str, ...]:
    return segmenter.labels if isinstance(segmenter, SegmenterLike) else ()


def _failed(pair: Pair, error: Exception) -> FailedPair:
    text = str(error) or type(error).__name__
    _log.warning("%s: %s", shown(pair.name), text)
    return FailedPair(pair.name, text)


def _borders(layout: Plan) -> tuple[list[int], list[int]]:
    """Say where tile borders lie in the image, which may be larger than what was tiled."""
    return (
        [round(border * layout.shape[0] / layout.grid.shape[0]) for border in layout.grid.y.borders],
        [round(border * layout.shape[1] / layout.grid.shape[1]) for border in layout.grid.x.borders],
    )
