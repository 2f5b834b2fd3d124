"""What the commands about a dataset share: finding it, and splitting it where it is not split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiledseg._validate import invalid
from tiledseg.cli import _rooms as rooms
from tiledseg.cli._options import Table
from tiledseg.config import DataConfig, RunConfig, SplitConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path

    from tiledseg.cli._settings import Settings
    from tiledseg.data import Manifest

__all__ = ["DATA", "SPLIT", "dataset", "split_of"]

_RUN = RunConfig()
DATA = Table("data", _RUN.data, "Data")
SPLIT = Table(
    "split", SplitConfig(), "Split, of data that is no manifest", prefix="split-", without=("manifest",)
)


def split_of(settings: Settings) -> SplitConfig | None:
    """Say how data is to be split; None where nobody said so."""
    if "split" not in settings.given:
        return settings.run.split
    return settings.over(settings.run.split or SplitConfig(), "split")


def dataset(settings: Settings, folder: Path, split: SplitConfig | None) -> Manifest:
    """Find a dataset, read all of it, and split it."""
    data = settings.over(settings.run.data, "data")
    if data.layout == "manifest" and "split" in settings.given:
        raise invalid(
            SettingError,
            "--split-...",
            must="be left out where a manifest says how data is split",
            got=", ".join(settings.given["split"]),
            fix="Split the data anew with tiledseg split, from its folders.",
        )
    pairs = rooms.data.pairs_of(data)
    if data.layout == "manifest":
        return _chosen(data, {pair.name for pair in pairs})
    records = rooms.data.describe(pairs, folder, progress=settings.progress)
    if split is not None:
        records = rooms.data.split_records(records, split)
    return rooms.data.Manifest(folder, tuple(records))


def _chosen(data: DataConfig, names: set[str]) -> Manifest:
    manifest = rooms.data.Manifest.read(data.path or "")
    records = [record for record in manifest.of(data.split) if record.name in names]
    return rooms.data.Manifest(manifest.folder, tuple(records))
