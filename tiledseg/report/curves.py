"""Charts of an evaluation, drawn by the page, and of a dataset's splits, drawn by matplotlib."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tiledseg._storage import write_bytes
from tiledseg._validate import all_of, instance_of
from tiledseg.config import Record
from tiledseg.data import DatasetStatistics
from tiledseg.metrics import SEAM_DISTANCES, reliability
from tiledseg.plots import Chart, Line, known, new_figure, png_of, quarters, round_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tiledseg._types import PathLike
    from tiledseg.evaluate import Comparison, EvaluationResult

_SHARES = tuple((tick / 4, f"{tick / 4:g}") for tick in range(5))
_MOST_MARKS = 500
_IMAGES, _GROUPS, _DOTS = "#0072b2", "#9fc9e3", "#d55e00"


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
    counts.margins(y=0.12)
    counts.legend(frameon=False)
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
    shares.set_ylim(bottom=0)
    shares.margins(y=0.12)
    shares.legend(frameon=False)
    for axes in (counts, shares):
        _style_axes(axes, names)
    write_bytes(path, png_of(figure))


def _style_axes(axes: Any, names: Sequence[str]) -> None:  # noqa: ANN401
    axes.set_xticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axes.spines[["top", "right"]].set_visible(False)
