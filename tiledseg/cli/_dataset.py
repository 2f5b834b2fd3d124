"""What the commands about a dataset share: finding it, and splitting it where it is not split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiledseg.cli import _rooms as rooms
from tiledseg.cli._options import Table
from tiledseg.config import DataConfig, RunConfig

if TYPE_CHECKING:
    from pathlib import Path

    from tiledseg.cli._settings import Settings

__all__ = ["DATA", "SPLIT", "dataset"]

_RUN = RunConfig()
DATA = Table("data", _RUN.data, "Data")
SPLIT = Table(
    "split", _RUN.split, "Split, of data that is no manifest", prefix="split-", without=("manifest",)
)


def dataset(settings: Settings, folder: Path) -> rooms.data.Manifest:
    """Find a dataset, read all of it, and split it unless a manifest says how it is split.

    Parameters
    ----------
    settings : Settings
        What was given.
    folder : Path
        Where the paths of the records are to start.

    Returns
    -------
    rooms.data.Manifest
        The records.

    Raises
    ------
    TiledSegError
        If anything cannot be used.
    """
    data = settings.over(settings.run.data, "data")
    split = settings.over(settings.run.split, "split")
    pairs = rooms.data.pairs_of(data)
    if data.layout == "manifest":
        return _chosen(data, {pair.name for pair in pairs})
    records = rooms.data.describe(pairs, folder, progress=settings.progress)
    return rooms.data.Manifest(folder, tuple(rooms.data.split_records(records, split)))


def _chosen(data: DataConfig, names: set[str]) -> rooms.data.Manifest:
    manifest = rooms.data.Manifest.read(data.path or "")
    records = [record for record in manifest.of(data.split) if record.name in names]
    return rooms.data.Manifest(manifest.folder, tuple(records))
