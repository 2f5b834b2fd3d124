"""What the commands about a dataset share: finding it, and splitting it where it is not split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiledseg.cli._options import Table
from tiledseg.config import DataConfig, RunConfig
from tiledseg.data import Manifest, describe, pairs_of, split_records

if TYPE_CHECKING:
    from pathlib import Path

    from tiledseg.cli._settings import Settings

__all__ = ["DATA", "SPLIT", "dataset"]

_RUN = RunConfig()
DATA = Table("data", _RUN.data, "Data")
SPLIT = Table(
    "split", _RUN.split, "Split, of data that is no manifest", prefix="split-", without=("manifest",)
)


def dataset(settings: Settings, folder: Path) -> Manifest:
    """Find a dataset, read all of it, and split it unless a manifest says how it is split.

    Parameters
    ----------
    settings : Settings
        What was given.
    folder : Path
        Where the paths of the records are to start.

    Returns
    -------
    Manifest
        The records.

    Raises
    ------
    TiledSegError
        If anything cannot be used.
    """
    data = settings.over(settings.run.data, "data")
    split = settings.over(settings.run.split, "split")
    pairs = pairs_of(data)
    if data.layout == "manifest":
        return _chosen(data, {pair.name for pair in pairs})
    records = describe(pairs, folder, progress=settings.progress)
    return Manifest(folder, tuple(split_records(records, split)))


def _chosen(data: DataConfig, names: set[str]) -> Manifest:
    manifest = Manifest.read(data.path or "")
    records = [record for record in manifest.of(data.split) if record.name in names]
    return Manifest(manifest.folder, tuple(records))
