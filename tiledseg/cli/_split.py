"""``tiledseg split``."""

from __future__ import annotations

import sys
from pathlib import Path

from tiledseg.cli import _rooms as rooms
from tiledseg.cli._dataset import DATA, dataset, split_of
from tiledseg.cli._options import Table
from tiledseg.cli._settings import Settings, with_options
from tiledseg.config import SplitConfig

__all__ = ["split"]


@with_options(DATA, Table("split", SplitConfig(), "Split", prefix="split-"))
def split(*, settings: Settings) -> int:
    """Split a dataset, and write the manifest of it."""
    config = split_of(settings) or SplitConfig()
    target = Path(config.manifest)
    folder = rooms.io.check_writable(target.parent, keep=False)
    records = dataset(settings, folder, config).records
    rooms.data.write_manifest(target, records)
    settings.keep(folder, f"{target.stem}.toml", split=config)
    sys.stdout.write(f"{rooms.data.statistics_of(records)}\n")
    return 0
