"""Pictures of images, small enough to embed in a page; charts of an evaluation and of a dataset's splits."""

from __future__ import annotations

import base64
import logging
import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from tiledseg._arrays import array_of
from tiledseg._lazy import cv2
from tiledseg._storage import write_bytes
from tiledseg._validate import all_of, instance_of, path_text, real_pair, shown, whole_number
from tiledseg.config import Record
from tiledseg.data import DatasetStatistics, check_mask, shrink_labels
from tiledseg.errors import ArrayError
from tiledseg.evaluate import ScoredImage
from tiledseg.io import write_image
from tiledseg.metrics import SEAM_DISTANCES, reliability
from tiledseg.plots import (
    Chart,
    Line,
    Picture,
    PictureRow,
    as_picture,
    colourise,
    contact_sheet,
    error_overlay,
    known,
    new_figure,
    overlay,
    plain_text,
    png_of,
    quarters,
    round_up,
    shrunk,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.evaluate import Comparison, EvaluationResult
    from tiledseg.plots import Rgb

_log = logging.getLogger("tiledseg")
LONGEST_PX = 1280
_QUALITY = 88
_MOST_LABELS = 65536
_FEW = 6  # images in one column of a sheet
_SHARES = tuple((tick / 4, f"{tick / 4:g}") for tick in range(5))
_MOST_MARKS = 500
_SHORT_NAME = 12  # letters
_IMAGES, _GROUPS, _DOTS = "#0072b2", "#9fc9e3", "#d55e00"


def picture_row(
    scored: ScoredImage, *, longest_px: int = LONGEST_PX, limits: tuple[float, float] | None = None
) -> PictureRow:
    """Draw a scored image: input, truth, prediction, and where they differ."""
    instance_of(ScoredImage, scored, "scored", "Pass what Evaluator.evaluate gives its callback.")
    image = shrunk(as_picture(scored.image, limits), whole_number("longest_px", longest_px))
    size = image.shape[:2]
    truth, predicted = shrink_labels(scored.truth, size), shrink_labels(scored.predicted, size)
    void = None if scored.ignored is None else shrink_labels(scored.ignored, size)
    compared = predicted if void is None else np.where(void, truth, predicted)  # no error where none counts
    pictures = (
        Picture("Input", image),
        Picture("Truth", overlay(image, truth, outline_px=2)),
        Picture("Prediction", overlay(image, predicted, outline_px=2)),
        Picture("Agreement", error_overlay(image, compared, truth)),
    )
    return PictureRow(scored.scores.name, f"Dice {scored.scores.dice:.3f}", pictures)


def as_data_url(picture: Rgb) -> str:
    """Encode a picture as a data URL: a JPEG without chroma subsampling."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


class WorstCases:
    """A callback of the Evaluator that draws the images of the lowest Dice."""

    def __init__(
        self, n_images: int = 8, *, longest_px: int = 960, limits: tuple[float, float] | None = None
    ) -> None:
        self._most = whole_number("n_images", n_images, 0)
        self._longest_px, self._limits = whole_number("longest_px", longest_px), limits
        if limits is not None:
            real_pair("limits", limits, "be finite, the lower first", "Use (0, 4095), for example.")
        self._rows: list[tuple[float, PictureRow]] = []

    @property
    def rows(self) -> list[PictureRow]:
        """The pictures of the worst images, the worst first."""
        return [row for _, row in self._rows]

    def __call__(self, scored: ScoredImage) -> None:
        """Draw an image if it is among the worst so far."""
        instance_of(ScoredImage, scored, "scored", "Pass what Evaluator.evaluate gives its callback.")
        dice = scored.scores.dice
        full = len(self._rows) == self._most
        if not self._most or math.isnan(dice) or (full and dice >= self._rows[-1][0]):
            return
        try:
            row = picture_row(scored, longest_px=self._longest_px, limits=self._limits)
        except ArrayError as error:
            _log.warning("%s: no picture: %s", shown(scored.scores.name), error)
            return
        self._rows = sorted([*self._rows, (dice, row)], key=lambda one: one[0])[: self._most]

    def add_other(self, scored: ScoredImage, title: str) -> None:
        """Add another segmenter's prediction to the pictures of an image."""
        for index, (dice, row) in enumerate(self._rows):
            if row.name == scored.scores.name:
                other = picture_row(scored, longest_px=self._longest_px, limits=self._limits)
                pictures = [replace(one, title=f"{one.title} of {title}") for one in other.pictures[2:]]
                note = f"{row.note}, {title}: {other.note}"
                self._rows[index] = dice, replace(row, note=note, pictures=(*row.pictures, *pictures))


class Triples:
    """A callback of the Evaluator that draws input, truth and prediction of every image."""

    def __init__(
        self, *, longest_px: int = LONGEST_PX, thumb_px: int = 400, limits: tuple[float, float] | None = None
    ) -> None:
        self._sizes = whole_number("longest_px", longest_px), whole_number("thumb_px", thumb_px)
        self._limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="tiledseg-")  # the pictures of many images
        self._triples = Path(self._folder.name, "triples")  # others may read it, unlike the folder around it
        self._triples.mkdir()
        self._rows: list[PictureRow] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def __call__(self, scored: ScoredImage) -> None:
        """Draw an image."""
        instance_of(ScoredImage, scored, "scored", "Pass what Evaluator.evaluate gives its callback.")
        try:
            large, small = (self._row(scored, size) for size in self._sizes)
        except ArrayError as error:
            _log.warning("%s: no picture: %s", shown(scored.scores.name), error)
            return
        title = "Input, truth, prediction"
        write_image(self._triples / f"{large.name}.png", contact_sheet(title, [large], columns=1))
        self._rows.append(small)

    def _row(self, scored: ScoredImage, longest_px: int) -> PictureRow:
        image = shrunk(as_picture(scored.image, self._limits), longest_px)
        masks = (colourise(shrink_labels(one, image.shape[:2])) for one in (scored.truth, scored.predicted))
        titles = ("Input", "Truth", "Prediction")
        pictures = (Picture(title, one) for title, one in zip(titles, (image, *masks), strict=True))
        return PictureRow(scored.scores.name, f"Dice {scored.scores.dice:.3f}", tuple(pictures))

    def write(self, folder: PathLike) -> None:
        """Write ``sheet.png`` and ``triples/NAME.png`` into a folder.

        Parameters
        ----------
        folder : path
            A folder that has neither.

        Raises
        ------
        FileError
            If a file cannot be written.
        """
        if not self._rows:
            return
        columns = 1 if len(self._rows) <= _FEW else 2
        sheet = contact_sheet("Input, truth, prediction", self._rows, columns=columns)
        write_image(Path(path_text(folder), "sheet.png"), sheet)
        shutil.copytree(self._triples, Path(path_text(folder), "triples"))


def mask_row(name: str, note: str, image: AnyArray, mask: AnyArray, *, thumb_px: int) -> PictureRow:
    """Draw thumbnails of an image, its mask, and both together."""
    image, thumb_px = array_of(image, "image"), whole_number("thumb_px", thumb_px)
    check_mask(mask, image.shape, _MOST_LABELS)
    small = shrunk(as_picture(image), thumb_px)
    labels = shrink_labels(mask, small.shape[:2])
    pictures = (
        Picture("Image", small),
        Picture("Mask", colourise(labels, background=(235, 235, 235))),
        Picture("Both", overlay(small, labels)),
    )
    return PictureRow(name, note, pictures)


def charts_of(result: EvaluationResult) -> list[Chart]:
    """Make the charts of a result: thresholds, calibration, seams."""
    return [chart for chart in (_thresholds(result), _reliability(result), _seams(result)) if chart]


def pairs_chart(comparison: Comparison) -> Chart:
    """Plot the Dice of one evaluation against another, one mark for each image."""
    first, second = comparison.names
    points = tuple((one.dice, other.dice) for one, other in comparison.pairs[:_MOST_MARKS])
    return Chart(
        "Dice, image by image",
        f"Each mark is an image. {second} is better above the line, {first} below it.",
        first,
        second,
        _SHARES,
        _SHARES,
        (Line("", "ideal", ((0, 0), (1, 1))), Line("", "marks", points)),
    )


def _thresholds(result: EvaluationResult) -> Chart | None:
    curve = result.threshold_curve()
    if curve is None:
        return None
    columns = (("mean Dice", "first", curve.dice_mean), ("precision", "second", curve.precision))
    return Chart(
        "Threshold",
        f"The highest mean Dice of these images is {max(curve.dice_mean):.3f}, at {curve.best:.2f}. "
        "A threshold that is chosen on the scored images gives too high a score: choose it on others.",
        "threshold",
        "score",
        _SHARES,
        _SHARES,
        tuple(
            Line(name, kind, known(curve.thresholds, column))
            for name, kind, column in (*columns, ("recall", "third", curve.recall))
        ),
        guide=(result.threshold, f"used: {result.threshold:.3g}"),
    )


def _reliability(result: EvaluationResult) -> Chart | None:
    probabilities = result.probabilities
    if probabilities is None or not probabilities.px.sum():
        return None
    table, n_bins = reliability(probabilities), 16
    points = known(table.predicted.tolist(), table.observed.tolist())
    shares = (table.px / table.px.sum()).tolist()
    bars = tuple(
        (index / n_bins, (index + 1) / n_bins, share, f"{share:.2%} of the px")
        for index, share in enumerate(shares)
    )
    return Chart(
        "Calibration",
        "The network is overconfident where the line lies below the diagonal. "
        "The bars show the share of px at each probability.",
        "probability",
        "share that is true",
        _SHARES,
        _SHARES,
        (Line("", "ideal", ((0, 0), (1, 1))), Line("", "first", points), Line("", "marks", points)),
        bars,
    )


def _seams(result: EvaluationResult) -> Chart | None:
    errors = result.seam_errors
    if errors is None:
        return None
    known = [(index, share) for index, share in enumerate(errors.shares) if not math.isnan(share)]
    top = round_up(max((share for _, share in known), default=0.0))
    ends = [*(str(start) for start in SEAM_DISTANCES), ""]
    n_bins = known[-1][0] + 1
    return Chart(
        "Errors and seams",
        "Share of wrong px by their distance from the nearest tile border. "
        "A rise towards the left shows that seams cause errors.",
        "distance from the nearest tile border in px, from",
        "wrong px",
        tuple((index, ends[index]) for index in range(n_bins + 1)),
        quarters(top),
        bars=tuple((index + 0.06, index + 0.94, share, f"{share:.3%}") for index, share in known),
    )


def write_split_chart(path: PathLike, statistics: DatasetStatistics, records: Sequence[Record]) -> None:
    """Draw how many images and groups each split has, and how much foreground their images have."""
    instance_of(DatasetStatistics, statistics, "statistics", "Pass what tiledseg.data.statistics_of returns.")
    records = all_of(Record, records, "records", "Make them with tiledseg.data.describe.")
    names = [one.split for one in statistics.splits]
    figure = new_figure(4.5 + 1.1 * len(names), 3.6)
    counts, shares = figure.subplots(1, 2)
    for offset, values, colour, label in (
        (-0.2, [one.images for one in statistics.splits], _IMAGES, "images"),
        (0.2, [one.groups for one in statistics.splits], _GROUPS, "groups"),
    ):
        bars = counts.bar(
            [index + offset for index in range(len(names))], values, 0.38, color=colour, label=label
        )
        counts.bar_label(bars, fontsize=9)
    counts.set_title("Images and groups", loc="left")
    counts.yaxis.get_major_locator().set_params(integer=True)
    by_split = [[100 * one.foreground for one in records if (one.split or "all") == name] for name in names]
    look = {"medianprops": {"color": _IMAGES}, "flierprops": {"marker": ".", "markersize": 4}}
    shares.boxplot(by_split, positions=range(len(names)), widths=0.5, **look)
    shares.plot(
        [100 * one.foreground for one in statistics.splits],
        "D",
        color=_DOTS,
        label="all px together",
        markersize=5,
    )
    shares.set_title("Foreground of each image, %", loc="left")
    for axes in (counts, shares):
        _style_axes(axes, names)
    most = min(100, shares.get_ylim()[1])  # the room for the legend may lie above 100 %
    shares.set_yticks([tick for tick in shares.get_yticks() if 0 <= tick <= most])
    write_bytes(path, png_of(figure))


def _style_axes(axes: Any, names: Sequence[str]) -> None:
    shown = [plain_text(name) for name in names]
    slanted = {"rotation": 30, "ha": "right"} if max(map(len, shown)) > _SHORT_NAME else {}
    axes.set_xticks(range(len(names)), shown, **slanted)
    axes.margins(y=0.25)  # room for the legend
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper right", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
