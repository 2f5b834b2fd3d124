"""``tiledseg stats``, ``tiledseg split`` and ``tiledseg tile``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg.cli import lazy
from tiledseg.cli.options import Table
from tiledseg.cli.settings import Settings, with_options
from tiledseg.config import DataConfig, RunConfig, SplitConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from tiledseg.config import StatsConfig
    from tiledseg.data import DatasetStatistics, Manifest
    from tiledseg.plots import Rgb

_RUN = RunConfig()
DATA = Table("data", _RUN.data, "Data")
SPLIT = Table("split", SplitConfig(), "Split (not for manifests)", prefix="split-", without=("manifest",))


def split_of(settings: Settings) -> SplitConfig | None:
    """Return how to split the data; None if neither file nor options say so."""
    if "split" not in settings.given:
        return settings.run.split
    return settings.over(settings.run.split or SplitConfig(), "split")


def dataset(settings: Settings, folder: Path, split: SplitConfig | None) -> Manifest:
    """Find a dataset, describe its files, and split it."""
    data = settings.over(settings.run.data, "data")
    if data.layout == "manifest" and "split" in settings.given:
        raise SettingError(
            f"A manifest is split already; got {', '.join(settings.given['split'])} as well. "
            "To split the data in another way, run tiledseg split on its folders."
        )
    pairs = lazy.data.pairs_of(data)
    if data.layout == "manifest":
        return _chosen(data, {pair.name for pair in pairs})
    records = lazy.data.describe(pairs, folder, progress=settings.progress)
    if split is not None:
        records = lazy.data.split_records(records, split)
    return lazy.data.Manifest(folder, tuple(records))


def _chosen(data: DataConfig, names: set[str]) -> Manifest:
    manifest = lazy.data.Manifest.read(data.path or "")
    records = [record for record in manifest.of(data.split) if record.name in names]
    return lazy.data.Manifest(manifest.folder, tuple(records))


@with_options(DATA, SPLIT, Table("stats", RunConfig().stats, "Statistics"))
def stats(*, settings: Settings) -> int:
    """Show statistics of a dataset."""
    config = settings.over(settings.run.stats, "stats")
    if config.output is not None:
        lazy.storage.check_new_folder(config.output)
        if config.chart:
            lazy.plots.new_figure(1, 1)  # raises an error if matplotlib is missing, before files are read
    split = split_of(settings)
    found = dataset(settings, Path(), split)
    numbers = lazy.data.statistics_of(found.records)
    sys.stdout.write(f"{numbers}\n")
    if config.output is not None:
        with lazy.storage.new_folder(config.output) as folder:
            _write(folder, found, numbers, config)
            settings.keep(folder, split=split)
    return 0


def _write(folder: Path, found: Manifest, numbers: DatasetStatistics, config: StatsConfig) -> None:
    numbers.to_json(folder / "statistics.json")
    numbers.to_csv(folder / "statistics.csv")
    if config.chart:
        lazy.report.write_split_chart(folder / "splits.png", numbers, found.records)
    for split in found.splits if config.sheet_images else ():
        lazy.io.write_image(folder / f"sheet{f'_{split}' if split else ''}.png", _sheet(found, split, config))


def _sheet(found: Manifest, split: str, config: StatsConfig) -> Rgb:
    """Draw images of a split, evenly spaced in the order of their names."""
    records, pairs = found.of(split), found.pairs(split)
    n_shown = min(config.sheet_images, len(records))
    rows = []
    for index in (number * len(records) // n_shown for number in range(n_shown)):
        record = records[index]
        note = f"{record.height}x{record.width} px, {record.foreground:.1%} foreground"
        rows.append(
            lazy.report.mask_row(
                record.name, note, *lazy.data.load_pair(pairs[index]), thumb_px=config.thumb_px
            )
        )
    title = f"{split or 'all'}: {n_shown} of {len(records)} images"
    return lazy.report.contact_sheet(title, rows, columns=config.sheet_columns)


@with_options(DATA, Table("split", SplitConfig(), "Split"))
def split(*, settings: Settings) -> int:
    """Split a dataset, and write a manifest."""
    config = split_of(settings) or SplitConfig()
    target = Path(config.manifest)
    folder = lazy.storage.check_writable(target.parent, keep=False)
    records = dataset(settings, folder, config).records
    lazy.data.write_manifest(target, records)
    settings.keep(folder, f"{target.stem}.toml", split=config)
    sys.stdout.write(f"{lazy.data.statistics_of(records)}\n")
    return 0


@with_options(DATA, SPLIT, Table("tiles", RunConfig().tiles, "Tiles"))
def tile(*, settings: Settings) -> int:
    """Cut a dataset into a set of tiles on disk."""
    config = settings.over(settings.run.tiles, "tiles")
    lazy.storage.check_new_folder(config.output)
    split = split_of(settings)
    source = dataset(settings, Path(), split)
    tiles = lazy.data.write_tiles(source, config, progress=settings.progress)
    settings.keep(tiles.folder, split=split)
    sys.stdout.write(f"{tiles}\n")
    return 0
