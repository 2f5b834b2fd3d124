"""A chart of a dataset's splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiledseg._validate import all_of, instance_of
from tiledseg.config import Record
from tiledseg.data import DatasetStatistics
from tiledseg.io import write_bytes
from tiledseg.plots import new_figure, png_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tiledseg._types import PathLike

__all__ = ["write_split_chart"]

_IMAGES, _GROUPS, _DOTS = "#0072b2", "#9fc9e3", "#d55e00"


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
            [place + offset for place in range(len(names))], values, 0.38, color=colour, label=label
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
        _dress(axes, names)
    write_bytes(path, png_of(figure))


def _dress(axes: Any, names: Sequence[str]) -> None:  # noqa: ANN401
    axes.set_xticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axes.spines[["top", "right"]].set_visible(False)
