"""The scores of many images: their summary, curves and intervals; printed and written to files."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tiledseg._notebook import paragraph, table
from tiledseg._storage import write_text
from tiledseg._validate import as_utf8, counted, invalid, shown, whole_number
from tiledseg.config import EvaluateConfig
from tiledseg.data import group_of
from tiledseg.errors import SettingError
from tiledseg.evaluate.scores import (
    SCORES,
    FailedPair,
    ImageScores,
    PrecisionCost,
    ThresholdCurve,
    added,
    cell_intervals,
    cell_scores,
    check_images,
    mean,
    median,
    medians,
    of_classes,
    pooled,
)
from tiledseg.evaluate.tables import (
    Rows,
    as_csv,
    as_json,
    as_markdown,
    as_text,
    cell_notes,
    cost_notes,
    decision_of,
    foot_of,
    listed,
    loss_notes,
    number,
    row_of,
    table_of,
)
from tiledseg.metrics import (
    CURVE_THRESHOLDS,
    SEAM_DISTANCES,
    Counts,
    InstanceCounts,
    Interval,
    ProbabilityCounts,
    SeamErrors,
    bootstrap_interval,
    calibration_error,
    counts_at_thresholds,
    reliability,
)

if TYPE_CHECKING:
    from tiledseg._types import PathLike
    from tiledseg.config import LossConfig

_FAILED_SHOWN = 3  # in the printed table


@dataclass(frozen=True, slots=True, repr=False)
class EvaluationResult:
    """How well the maps of many images agree with their masks; ``print`` shows it as a table.

    Attributes
    ----------
    images : tuple of ImageScores
        The scores of each image, in order.
    failed : tuple of FailedPair
        The pairs that could not be scored.
    labels : tuple of str
        Name of each class, as many as each image has counts; empty if they are not known.
    threshold : float
        Threshold of the probabilities of one class.
    threshold_from : str
        Where the threshold comes from.
    config : EvaluateConfig
        The settings, such as how outlines and cells were compared.
    precision_costs : tuple of PrecisionCost
        What bf16 changes in each image; empty unless it was predicted in bf16.
    loss : LossConfig or None
        The loss that the images have; None if they have none.
    """

    images: tuple[ImageScores, ...]
    failed: tuple[FailedPair, ...] = ()
    labels: tuple[str, ...] = ()
    threshold: float = 0.5
    threshold_from: str = "stated"
    config: EvaluateConfig = field(default_factory=EvaluateConfig)
    precision_costs: tuple[PrecisionCost, ...] = ()
    loss: LossConfig | None = None

    def __post_init__(self) -> None:
        """Check that all images have scores of the same classes."""
        check_images(self.images)

    @property
    def counts(self) -> tuple[Counts, ...]:
        """Counts of all images together, one for each class as in `ImageScores`."""
        return added(self.images, "counts")

    @property
    def cells(self) -> InstanceCounts:
        """Cells of all images together: ``found``, ``missed``, ``false``, ``mean_dice``."""
        return sum((one.cells for one in self.images), InstanceCounts())

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class that has counts: `labels`, or generic names if there are none."""
        n_classes = len(self.counts)
        if len(self.labels) == n_classes or n_classes < 2:
            return self.labels if len(self.labels) == n_classes else ("foreground",)[:n_classes]
        return ("background", *(f"class {label}" for label in range(1, n_classes)))

    @property
    def probabilities(self) -> ProbabilityCounts | None:
        """Probabilities of all images together; None if an image has none."""
        known = [one.probabilities for one in self.images if one.probabilities is not None]
        return sum(known[1:], known[0]) if known and len(known) == len(self.images) else None

    @property
    def seam_errors(self) -> SeamErrors | None:
        """Wrong px by their distance from tile borders; None if no image has a border."""
        known = [one.seam_errors for one in self.images if one.seam_errors is not None]
        return sum(known[1:], known[0]) if known else None

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Group of each image, from its name; None if images are not grouped."""
        regex = self.config.group_regex
        return None if regex is None else tuple(group_of(one.name, regex) for one in self.images)

    def summary(self) -> dict[str, float]:
        """Summarise all images.

        Returns
        -------
        dict
            ``images`` and ``failed``: their numbers. For each of ``dice``, ``iou``, ``precision``,
            ``recall``, ``specificity``, ``accuracy``, ``boundary_f1``, ``average_precision`` and
            ``panoptic_quality`` the score of all images together, the mean over the classes except
            the background; with ``_mean`` and ``_median`` those over the images.
            ``loss``: the mean over the images, each map as one sample.
            ``hausdorff95_median``: in px. ``cells``, ``cells_found``, ``cells_missed``,
            ``cells_false``: their numbers; ``cells_dice``: mean Dice of those found; ``cells_ap50``,
            ``cells_ap75``: tp / (tp + fp + fn) at IoU 0.5 and 0.75; ``cells_merged``: predicted cells that
            hold most of several true ones, ``cells_split``: true ones that hold most of several predicted
            ones; ``cells_left_out``, ``true_cells_left_out``: smaller than ``cell_px``.
            ``calibration_error``: of all px together. ``seam_ratio``: the median over the images
            that have tile borders; ``disagreement``: over those whose tiles overlap. ``seconds``
            and ``megapixels``: of all images; ``megapixels_per_second`` of the two. Unknown
            values are nan.
        """
        sums: dict[str, float] = {"images": len(self.images), "failed": len(self.failed)}
        for name in SCORES:
            values = [getattr(one, name) for one in self.images]
            sums[name] = pooled(name, self.images)
            sums[f"{name}_mean"], sums[f"{name}_median"] = mean(values), median(values)
        sums["hausdorff95_median"] = median([one.hausdorff95 for one in self.images])
        sums["loss"] = mean([one.loss for one in self.images])
        cells, probabilities = self.cells, self.probabilities
        sums |= {"cells": cells.true, "cells_found": cells.found, "cells_missed": cells.missed}
        sums |= {"cells_false": cells.false} | cell_scores(self.images)
        sums |= {"cells_merged": cells.merged, "cells_split": cells.split}
        sums |= {"cells_left_out": cells.small_predicted, "true_cells_left_out": cells.small_true}
        sums["calibration_error"] = math.nan if probabilities is None else calibration_error(probabilities)
        sums["seam_ratio"] = median([one.seam_ratio for one in self.images])
        sums["disagreement"] = median([one.disagreement for one in self.images])
        sums["seconds"] = sum(one.seconds for one in self.images) if self.images else math.nan
        sums["megapixels"] = sum(one.megapixels for one in self.images)
        sums["megapixels_per_second"] = sums["megapixels"] / (sums["seconds"] or math.nan)
        return sums

    def intervals(self, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> dict[str, Interval]:
        """Estimate how much the means vary with the choice of images.

        Parameters
        ----------
        level, resamples, seed : float, int, int
            As in `tiledseg.metrics.bootstrap_interval`, which draws images with replacement, or
            whole groups of them if `config` has a `group_regex`.

        Returns
        -------
        dict
            For each score the interval of its mean over the images, as ``dice_mean``;
            ``hausdorff95_median``; ``cells_ap50``, ``cells_ap75``, ``cells_dice`` of all cells together.

        Raises
        ------
        SettingError
            If a number is out of its range.
        """
        interval = functools.partial(
            bootstrap_interval, groups=self.groups, level=level, resamples=resamples, seed=seed
        )
        found = {f"{name}_mean": interval([getattr(one, name) for one in self.images]) for name in SCORES}
        distance = {"hausdorff95_median": interval([one.hausdorff95 for one in self.images], medians)}
        return found | cell_intervals(self.images, interval) | distance

    def by_class(self) -> dict[str, dict[str, float]]:
        """Score each class except the background over all images together.

        Returns
        -------
        dict
            For each class its ``dice``, ``iou`` and so on, as in `summary`.
        """
        names = self.class_names[1:] if len(self.counts) > 1 else self.class_names
        columns = {name: of_classes(name, self.images) for name in SCORES}
        return {
            label: {name: column[index] for name, column in columns.items() if column}
            for index, label in enumerate(names)
        }

    def threshold_curve(self) -> ThresholdCurve | None:
        """Score at other thresholds, without predicting again.

        Returns
        -------
        ThresholdCurve or None
            None if there are several classes, no image, no probabilities, or no px that counts.
        """
        probabilities = self.probabilities
        if probabilities is None or len(self.counts) > 1 or not probabilities.px.any():
            return None
        known = [one.probabilities for one in self.images if one.probabilities is not None]
        every = [[counts.dice for counts in counts_at_thresholds(one)] for one in known]
        together = counts_at_thresholds(probabilities)
        return ThresholdCurve(
            CURVE_THRESHOLDS,
            tuple(mean(column) for column in zip(*every, strict=True)),
            *(tuple(getattr(one, name) for one in together) for name in ("dice", "precision", "recall")),
        )

    def best_threshold(self) -> float:
        """Choose the threshold of the highest mean Dice.

        Choose it on other images than those that are scored with it.

        Returns
        -------
        float
            A multiple of 1/256.

        Raises
        ------
        SettingError
            If there is no threshold curve.
        """
        curve = self.threshold_curve()
        if curve is None:
            must, fix = "be chosen on probabilities of one class, at counted px", "State it, or leave it out."
            got = f"{len(self.images)} images, {len(self.counts)} classes"
            raise invalid(SettingError, "threshold", must=must, got=got, fix=fix)
        return curve.best

    def worst(self, n_images: int) -> tuple[ImageScores, ...]:
        """List the images of the lowest Dice.

        Parameters
        ----------
        n_images : int
            How many at most.

        Returns
        -------
        tuple of ImageScores
            The worst first; images without a score are left out.

        Raises
        ------
        SettingError
            If `n_images` is not a whole number of at least 0.
        """
        known = [one for one in self.images if not math.isnan(one.dice)]
        return tuple(sorted(known, key=lambda one: one.dice)[: whole_number("n_images", n_images, least=0)])

    def to_csv(self, path: PathLike) -> None:
        """Write one line per image as CSV.

        Columns: ``name``, ``height``, ``width``, ``loss`` if known, the scores, ``hausdorff95`` in px,
        ``tp``, ``fp``, ``fn`` and ``tn`` (with several classes once for each, as ``tp_0``), ``cells`` and
        the numbers found, missed and false, ``seam_ratio``, ``disagreement``, ``tiles``,
        ``seconds`` and ``error``. Numbers are written in full; the cell of an unknown number is empty.

        Parameters
        ----------
        path : path
            File to write, whole or not at all.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        write_text(path, as_csv(self.images, self.failed))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, text, lists and dicts: what `to_json` writes.

        Returns
        -------
        dict
            With the keys of `to_json`; unknown numbers are nan.
        """
        curve, probabilities, seams = self.threshold_curve(), self.probabilities, self.seam_errors
        return {
            "summary": self.summary(),
            "intervals": {name: dataclasses.asdict(one) for name, one in self.intervals().items()},
            "classes": self.by_class(),
            "threshold": self.threshold,
            "threshold_from": self.threshold_from,
            "threshold_curve": None if curve is None else dataclasses.asdict(curve),
            "reliability": None if probabilities is None else listed(reliability(probabilities)),
            "seam_errors": seams and {"from_px": SEAM_DISTANCES, **dataclasses.asdict(seams)},
            "images": [row_of(one) for one in self.images],
            "precision_costs": [dataclasses.asdict(one) for one in self.precision_costs],
            "failed": [{"name": as_utf8(one.name), "error": as_utf8(one.error)} for one in self.failed],
            "settings": self.config.model_dump(mode="json"),
        }

    def to_json(self, path: PathLike) -> None:
        """Write everything as JSON.

        Keys: ``summary``, ``intervals``, ``classes``, ``threshold``, ``threshold_from``,
        ``threshold_curve``, ``reliability``, ``seam_errors``, ``images``, ``failed``, ``settings``.

        Parameters
        ----------
        path : path
            File to write, whole or not at all; null stands for nan and infinite values.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        write_text(path, as_json(self.to_dict()))

    def to_markdown(self, path: PathLike) -> None:
        """Write the table that ``print`` shows as Markdown.

        Parameters
        ----------
        path : path
            File to write, whole or not at all.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        write_text(path, as_markdown(self.images, *self._below()))

    def __repr__(self) -> str:
        scored = f"{counted(len(self.images), 'image')}, {len(self.failed)} failed"
        return f"EvaluationResult({scored}: mean dice {number(self.summary()['dice_mean'])})"

    def _repr_html_(self) -> str:
        foot, notes = self._below()
        head, *rows = table_of(self.images, foot)
        return table(head, rows) + "".join(map(paragraph, notes))

    def __str__(self) -> str:
        return as_text(self.images, *self._below())

    def _below(self) -> tuple[Rows, list[str]]:
        """Return the rows and the lines below the images of the table."""
        sums, bounds, has_cells = self.summary(), self.intervals(), any(one.instances for one in self.images)
        seams, speed = number(sums["seam_ratio"]), number(sums["megapixels_per_second"])
        calibration = f"calibration error {number(sums['calibration_error'])}"
        classes = [
            f"{label}: dice {number(one['dice'])}, iou {number(one['iou'])}"
            for label, one in self.by_class().items()
        ]
        scored = f"{len(self.images)} scored, {len(self.failed)} failed"
        more = len(self.failed) - _FAILED_SHOWN
        notes = [
            f"{scored}; seam ratio {seams}, {calibration}, {speed} Mpx/s",
            decision_of(len(self.counts), self.threshold, self.threshold_from),
            *loss_notes(self.loss, sums["loss"]),
            *(cell_notes(self.cells, self.config.cell_px, bounds) if has_cells else []),
            *cost_notes(self.precision_costs),
            *(classes if len(classes) > 1 else []),
            *(f"failed: {shown(one.name)}: {shown(one.error)}" for one in self.failed[:_FAILED_SHOWN]),
            *([f"and {more} more failed; the CSV and JSON files list them"] if more > 0 else []),
        ]
        return foot_of(sums, bounds, cells=has_cells), notes
