"""``tiledseg stats``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg.cli import _rooms as rooms
from tiledseg.cli._dataset import DATA, SPLIT, dataset, split_of
from tiledseg.cli._options import Table
from tiledseg.cli._settings import Settings, with_options
from tiledseg.config import RunConfig

if TYPE_CHECKING:
    from tiledseg.config import StatsConfig
    from tiledseg.data import DatasetStatistics, Manifest
    from tiledseg.plots import Rgb

__all__ = ["stats"]


@with_options(DATA, SPLIT, Table("stats", RunConfig().stats, "Statistics"))
def stats(*, settings: Settings) -> int:
    """Count a dataset, and draw it."""
    config = settings.over(settings.run.stats, "stats")
    if config.output is not None:
        rooms.io.check_new_folder(config.output)
        if config.chart:
            rooms.figures.new_figure(1, 1)  # a missing matplotlib is told before all files are read
    split = split_of(settings)
    found = dataset(settings, Path(), split)
    numbers = rooms.data.statistics_of(found.records)
    sys.stdout.write(f"{numbers}\n")
    if config.output is not None:
        with rooms.io.new_folder(config.output) as folder:
            _write(folder, found, numbers, config)
            settings.keep(folder, split=split)
    return 0


def _write(folder: Path, found: Manifest, numbers: DatasetStatistics, config: StatsConfig) -> None:
    numbers.to_json(folder / "statistics.json")
    numbers.to_csv(folder / "statistics.csv")
    if config.chart:
        rooms.report.write_split_chart(folder / "splits.png", numbers, found.records)
    for split in found.splits if config.sheet_images else ():
        rooms.io.write_image(
            folder / f"sheet{f'_{split}' if split else ''}.png", _sheet(found, split, config)
        )


def _sheet(found: Manifest, split: str, config: StatsConfig) -> Rgb:
    """Draw images of a split, evenly chosen in the order of their names."""
    records, pairs = found.of(split), found.pairs(split)
    n_shown = min(config.sheet_images, len(records))
    rows = []
    for place in (number * len(records) // n_shown for number in range(n_shown)):
        record = records[place]
        note = f"{record.height}x{record.width} px, {record.foreground:.1%} foreground"
        rows.append(
            rooms.report.mask_row(
                record.name, note, *rooms.data.load_pair(pairs[place]), thumb_px=config.thumb_px
            )
        )
    title = f"{split or 'all'}: {n_shown} of {len(records)} images"
    return rooms.report.contact_sheet(title, rows, columns=config.sheet_columns)
