"""Scores of a map, computed while its rows arrive, so that the map need not be stored."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._arrays import array_of, check_finite, check_unit_interval
from tiledseg._validate import (
    instance_of,
    invalid,
    items_of,
    listed,
    real_number,
    settings_of,
    shown,
    whole_number,
)
from tiledseg.config import ObjectsConfig
from tiledseg.errors import ArrayError, SettingError
from tiledseg.evaluate.scores import ImageScores
from tiledseg.io import in_memory
from tiledseg.metrics import (
    Counts,
    LossTally,
    ProbabilityCounts,
    SeamErrorTally,
    SeamTally,
    components,
    count_classes,
    count_probabilities,
    default_tolerance,
    hausdorff95,
    match_instances,
    outline_distances,
    typical_px,
    without_small,
)
from tiledseg.objects import label_objects
from tiledseg.tiling import check_threshold, labels_of, map_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import LossConfig
    from tiledseg.metrics import BoundaryCounts, InstanceCounts

    Loss: TypeAlias = tuple[LossConfig, tuple[float, ...] | None]
    """A loss with its class weights."""

_log = logging.getLogger("tiledseg")
_ROWS_AT_ONCE = 256
_SPECK = 20  # times smaller than a typical cell: dust and specks of a network
_SPECK_PX = 25  # where the truth has no cell
_SHOWN = 6  # cells in a message
_MOST_PX = 2**28  # outlines and cells of a whole image are found at once, with about 16 bytes per px


class MapScorer:
    """A sink that scores the rows of a map, and stores only their labels."""

    needs_probabilities: bool = True

    def __init__(
        self,
        truth: AnyArray,
        classes: int,
        threshold: float = 0.5,
        borders: tuple[Sequence[int], Sequence[int]] = ((), ()),
        ignored: AnyArray | None = None,
        loss: Loss | None = None,
    ) -> None:
        self.shape: tuple[int, int, int] = (truth.shape[0], truth.shape[1], classes)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self.labels: AnyArray = np.zeros(truth.shape, map_dtype("labels", classes))
        self.seconds: float = 0.0
        self._truth, self._threshold, self._ignored = truth, threshold, ignored
        self._counts = (Counts(0, 0, 0, 0),) * max(classes, 2)
        self._probabilities: ProbabilityCounts | None = None
        size, seen = self.shape[:2], any(map(len, borders))
        self._seams = SeamTally(size, *borders) if seen else None
        self._errors = SeamErrorTally(size, *borders) if seen else None
        self._loss = None if loss is None else LossTally(self.shape, *loss)

    def __setitem__(self, rows: slice, probs: FloatArray) -> None:
        started = time.perf_counter()
        labels = labels_of(probs, self._threshold)
        self._count_probabilities(probs, labels, rows)
        if self._loss is not None:
            self._loss.add(self._truth[rows], probs, None if self._ignored is None else self._ignored[rows])
        self.add(rows, probs, labels)
        self.seconds += time.perf_counter() - started

    def add(self, rows: slice, values: AnyArray, labels: AnyArray) -> None:
        """Score the next rows."""
        truth = self._truth[rows]
        counted = self._counted(rows, truth, labels)
        counts = count_classes(counted[0], counted[1], len(self._counts))
        self._counts = tuple(one + two for one, two in zip(self._counts, counts, strict=True))
        self.labels[rows] = labels
        if self._seams is not None and self._errors is not None:
            self._seams.add(values)
            wrong = labels != truth
            self._errors.add(wrong if self._ignored is None else wrong & ~self._ignored[rows])

    def _counted(self, rows: slice, *parts: AnyArray) -> Sequence[AnyArray]:
        """Leave px out that do not count; the others are in one row then."""
        if self._ignored is None:
            return parts
        counted = ~self._ignored[rows]
        return [part[counted][np.newaxis] for part in parts]

    def _count_probabilities(self, probs: FloatArray, labels: AnyArray, rows: slice) -> None:
        """Compare probabilities with the truth."""
        probs, one = np.clip(probs, 0, 1), probs.shape[2] == 1  # rounding may lead beyond [0, 1]
        truth = self._truth[rows]
        hits = np.asarray((truth == 1) if one else truth == labels)
        if probs.shape[2] == 2 and self._threshold != 0.5:  # the label is not that of the largest one
            of_label = np.where(labels, probs[..., 1], probs[..., 0])
        else:
            of_label = probs[..., 0] if one else probs.max(axis=2)
        counts = count_probabilities(*self._counted(rows, of_label, hits))
        self._probabilities = counts if self._probabilities is None else self._probabilities + counts

    def scores(self, name: str) -> ImageScores:
        """Return the scores of px, probabilities and seams after all rows were added."""
        return ImageScores(
            name,
            self.shape[:2],
            self._counts[1:] if self.shape[2] == 1 else self._counts,
            math.nan if self._seams is None else self._seams.ratio.both,
            probabilities=self._probabilities,
            seam_errors=None if self._errors is None else self._errors.errors,
            loss=math.nan if self._loss is None else self._loss.value,
        )


def score_map(  # noqa: PLR0913  two arrays and facts about them
    prediction: AnyArray,
    truth: AnyArray,
    *,
    name: str = "map",
    classes: int = 1,
    threshold: float = 0.5,
    borders: tuple[Sequence[int], Sequence[int]] = ((), ()),
    boundary_px: float | None = None,
    cell_px: int | None = None,
    cells: AnyArray | None = None,
    objects: ObjectsConfig | dict[str, Any] | None = None,
    tiles: int = 0,
    seconds: float = math.nan,
    ignore_label: int | None = None,
) -> ImageScores:
    """Score a finished map, of any origin.

    Parameters
    ----------
    prediction : ndarray
        Probabilities: real, (H, W) or (H, W, 1) for one class, (H, W, K) for several; the largest
        one is the label. Or labels: boolean or integer, (H, W).
    truth : ndarray, shape (H, W)
        Labels: boolean or integer. 0 and 1 for one class, else in [0, K) with 0 the background.
    name : str
        Name of the image.
    classes : int
        Used if `prediction` holds labels: 1 for the labels 0 and 1, else the number of labels,
        background included. Probabilities have one channel per class.
    threshold : float
        For probabilities of one or two classes, in (0, 1): a px with at least this is foreground.
    borders : tuple of sequence of int
        Tile borders along y and along x, in px of the map; see `tiledseg.metrics.seam_ratio`.
    boundary_px : float, optional
        Distance up to which outlines agree; by default 0.75 % of the image's diagonal.
    cell_px : int, optional
        Smaller areas are not counted as cells; their numbers stand in ``instances``. By default a twentieth
        of a typical true cell, see `tiledseg.metrics.typical_px`, or 25 px without true cells.
    cells : ndarray, optional
        (H, W): the true cells, 0 or a number for each; by default the connected areas of `truth`.
    objects : ObjectsConfig or dict, optional
        How predicted cells are made of the map, for example split; by default its connected areas.
    tiles : int
        Tiles that were computed.
    seconds : float
        Time of the prediction.
    ignore_label : int, optional
        Label of px of `truth` that do not count.

    Returns
    -------
    ImageScores
        The scores.

    Raises
    ------
    ArrayError
        If `prediction` is neither probabilities nor labels, its size is not that of `truth`, or a
        label is out of range; or `cells` do not fit.
    SettingError
        If a border does not lie inside the map, a number is out of its range, or `ignore_label` is the
        label of a class.

    Examples
    --------
    >>> truth = np.array([[1, 1, 0, 0]])
    >>> scores = score_map(np.array([[0.9, 0.2, 0.6, 0.1]]), truth)
    >>> scores.dice, scores.iou
    (0.5, 0.3333333333333333)
    """
    prediction, truth = (
        array_of(in_memory(values, name), name)
        for values, name in ((prediction, "prediction"), (truth, "truth"))
    )
    classes = whole_number("classes", classes)
    ignored = _ignored(prediction, truth, classes, ignore_label)
    truth = truth if ignored is None else np.where(ignored, truth.dtype.type(0), truth)
    instance_of(str, name, "name", "Name the image.")
    seconds = math.nan if str(seconds) == "nan" else real_number("seconds", seconds)
    if cell_px is not None:
        cell_px = whole_number("cell_px", cell_px)
    scorer = scored_map(prediction, truth, classes, threshold, _both(borders), ignored)
    if cells is not None:
        cells = _true_cells(cells, truth if ignored is None else truth + ignored)
    settings = None if objects is None else settings_of(ObjectsConfig, objects, "objects")
    scores = replace(scorer.scores(name), tiles=whole_number("tiles", tiles, 0), seconds=seconds)
    return ShapeScorer(boundary_px, cell_px, settings).scored(scores, truth, scorer.labels, cells, ignored)


def _ignored(prediction: AnyArray, truth: AnyArray, classes: int, label: int | None) -> AnyArray | None:
    """Mark the px that do not count; their label must be none of the classes."""
    if label is None:
        return None
    void = whole_number("ignore_label", label, least=-(1 << 63))
    known = prediction.shape[2] if prediction.ndim == 3 and prediction.dtype.kind == "f" else classes
    if 0 <= void < max(known, 2):
        must = f"be none of the labels of the classes, 0 to {max(known, 2) - 1}"
        raise invalid(SettingError, "ignore_label", must=must, got=void, fix="Use 255, for example.")
    return np.asarray(truth == void)


def _both(borders: tuple[Sequence[int], Sequence[int]]) -> tuple[list[int], list[int]]:
    must, fix = "be two sequences, along y and along x", "Pass (grid.y.borders, grid.x.borders)."
    both = [list(items_of(one, "borders", must, fix)) for one in items_of(borders, "borders", must, fix)]
    if len(both) != 2:
        raise invalid(SettingError, "borders", must=must, got=borders, fix=fix)
    return both[0], both[1]


def _true_cells(cells: AnyArray, truth: AnyArray) -> AnyArray:
    found = array_of(in_memory(cells, "cells"), "cells")
    if found.dtype.kind not in "iu" or found.shape != truth.shape or (found.size and found.min() < 0):
        raise invalid(
            ArrayError,
            "cells",
            must=f"hold integers from 0 up, of shape {truth.shape}",
            got=f"{found.dtype} of shape {found.shape}, from {found.min(initial=0)} up",
            fix="Give 0 or a number for each cell, at the size of `truth`, or leave it out.",
        )
    outside = (found != 0) & (truth == 0)
    lost = np.setdiff1d(found[outside], found[truth != 0]) if outside.any() else found[:0]
    if lost.size:
        must, fix = "have px of each cell in the foreground of `truth`", "Give both of the same image."
        raise invalid(ArrayError, "cells", must=must, got=f"none of {listed(lost, _SHOWN)}", fix=fix)
    return found


def scored_map(  # noqa: PLR0913, PLR0917  two arrays and facts about them
    prediction: AnyArray,
    truth: AnyArray,
    classes: int,
    threshold: float,
    borders: tuple[Sequence[int], Sequence[int]],
    ignored: AnyArray | None = None,
    loss: Loss | None = None,
) -> MapScorer:
    """Score all rows of a map; see `score_map`."""
    _check(prediction, truth)
    labelled = prediction.dtype.kind != "f"
    check_threshold(threshold, None if labelled or prediction.ndim == 2 else prediction.shape[2])
    values = prediction if labelled or prediction.ndim == 3 else prediction[..., np.newaxis]
    scorer = MapScorer(truth, classes if labelled else values.shape[2], threshold, borders, ignored, loss)
    for start in range(0, truth.shape[0], _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, truth.shape[0]))
        if labelled:
            scorer.add(rows, values[rows], values[rows])
        else:
            scorer[rows] = values[rows].astype(np.float32, copy=False)
    return scorer


def _check(prediction: AnyArray, truth: AnyArray) -> None:
    """Check that a prediction holds probabilities or labels of the right size."""
    labelled = prediction.dtype.kind in "biu" and prediction.ndim == 2
    if not labelled and (prediction.dtype.kind != "f" or prediction.ndim not in {2, 3}):
        raise invalid(
            ArrayError,
            "prediction",
            must="be probabilities, real (H, W) or (H, W, K), or labels, integer (H, W)",
            got=f"{prediction.dtype} of shape {prediction.shape}",
            fix="Convert it, for example with astype(numpy.float32) / 255.",
        )
    if truth.ndim != 2 or prediction.shape[:2] != truth.shape:
        must = f"have the height and width of `prediction`, {prediction.shape[:2]}"
        fix = "Compare the map at the size of its image; resize neither."
        raise invalid(ArrayError, "truth", must=must, got=truth.shape, fix=fix)
    if not prediction.size:
        must, fix = "have at least 1 px and 1 class", "Check how it was read."
        raise invalid(ArrayError, "prediction", must=must, got=prediction.shape, fix=fix)
    check_finite(prediction, "prediction")
    if not labelled:
        fix = "Apply a sigmoid or softmax to logits, or give labels as integers."
        check_unit_interval(prediction, "prediction", "hold probabilities in [0, 1]", fix)


@dataclass(frozen=True, slots=True)
class ShapeScorer:
    """Scores outlines and cells."""

    boundary_px: float | None = None  # up to which outlines agree; None for 0.75 % of the diagonal
    cell_px: int | None = None  # smaller areas are not counted as cells; None for a share of a typical one
    objects: ObjectsConfig | None = None  # how cells are made of the map; None for its connected areas

    def scored(
        self,
        scores: ImageScores,
        truth: AnyArray,
        labels: AnyArray,
        cells: AnyArray | None = None,
        ignored: AnyArray | None = None,
        numbered: AnyArray | None = None,
    ) -> ImageScores:
        """Add outlines and cells to the scores of an image; px that do not count are `ignored`."""
        if truth.size > _MOST_PX:
            _log.warning("%s: too large for scores of outlines and cells", shown(scores.name))
            return scores
        if ignored is not None and ignored.all():  # nothing says that outlines and cells agree
            return scores
        areas = cells is None and self.objects is None and numbered is None  # of the truth and the map
        parts = [
            self._of_class((truth == label, labels == label), found, cells, ignored, areas=areas)
            for label, found in enumerate(self._found(labels, scores, numbered), start=1)
        ]
        boundary, distances, instances = zip(*parts, strict=True)
        return replace(scores, boundary=boundary, distances=distances, instances=instances)

    def _found(self, labels: AnyArray, scores: ImageScores, numbered: AnyArray | None) -> Iterator[AnyArray]:
        """Give the predicted cells of each class; those that a map of one class numbers as they are."""
        classes = max(len(scores.counts), 2)
        if numbered is not None:
            numbers, places = np.unique(numbered, return_inverse=True)
            yield places.reshape(numbered.shape) + int(numbers[0] != 0)
        elif self.objects is None:
            yield from (components(labels == label) for label in range(1, classes))
        else:
            objects = label_objects(labels, self.objects, pixel_size=scores.pixel_size, measure=False)
            own = np.append(0, objects.table["class"])
            yield from (np.where(own[objects.labels] == one, objects.labels, 0) for one in range(1, classes))

    def _of_class(
        self,
        masks: tuple[AnyArray, AnyArray],
        found_cells: AnyArray,
        cells: AnyArray | None,
        ignored: AnyArray | None,
        *,
        areas: bool,
    ) -> tuple[BoundaryCounts, float, InstanceCounts]:
        truth, found = masks
        tolerance = default_tolerance(truth.shape) if self.boundary_px is None else self.boundary_px
        if ignored is not None:
            found_cells = _counted_cells(found_cells, ignored)
            if areas:  # as the truth: connected areas of px that count
                found_cells = components(found_cells > 0)
            truth, found = truth & ~ignored, found & ~ignored
        outlines = outline_distances(truth, found)
        true_cells = components(truth) if cells is None else np.where(truth, cells, 0)
        return outlines.within(tolerance), hausdorff95(outlines), self._matched(true_cells, found_cells)

    def _matched(self, truth: AnyArray, found: AnyArray) -> InstanceCounts:
        least = self.cell_px
        if least is None:
            least = max(1, math.ceil(typical_px(truth) / _SPECK)) if truth.any() else _SPECK_PX
        (truth, small_true), (found, small) = without_small(truth, least), without_small(found, least)
        return replace(match_instances(truth, found), small_true=small_true, small_predicted=small)


def _counted_cells(cells: AnyArray, ignored: AnyArray) -> AnyArray:
    """Leave out cells of which more than half of the px do not count, and those px of the others."""
    px = np.bincount(cells.ravel())
    out = 2 * np.bincount(cells[ignored].ravel(), minlength=px.size) > px
    out[0] = False
    return np.where(out[cells] | ignored, 0, cells)
