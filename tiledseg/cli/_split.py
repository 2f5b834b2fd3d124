"""``tiledseg split``."""

from __future__ import annotations

import sys
from pathlib import Path

from tiledseg.cli import _rooms as rooms
from tiledseg.cli._dataset import DATA, dataset
from tiledseg.cli._options import Table
from tiledseg.cli._settings import Settings, with_options
from tiledseg.config import RunConfig

__all__ = ["split"]


@with_options(DATA, Table("split", RunConfig().split, "Split", prefix="split-"))
def split(*, settings: Settings) -> int:
    """Split a dataset, and write the manifest of it."""
    target = Path(settings.over(settings.run.split, "split").manifest)
    folder = rooms.io.check_writable(target.parent)
    records = dataset(settings, folder).records
    rooms.data.write_manifest(target, records)
    settings.keep(folder, f"{target.stem}.toml")
    sys.stdout.write(f"{rooms.data.statistics_of(records)}\n")
    return 0
