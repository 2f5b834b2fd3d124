"""``tiledseg tile``."""

from __future__ import annotations

import sys
from pathlib import Path

from tiledseg.cli import _rooms as rooms
from tiledseg.cli._dataset import DATA, SPLIT, dataset, split_of
from tiledseg.cli._options import Table
from tiledseg.cli._settings import Settings, with_options
from tiledseg.config import RunConfig

__all__ = ["tile"]


@with_options(DATA, SPLIT, Table("tiles", RunConfig().tiles, "Tiles"))
def tile(*, settings: Settings) -> int:
    """Cut a dataset into a set of tiles on disk."""
    config = settings.over(settings.run.tiles, "tiles")
    rooms.io.check_new_folder(config.output)
    split = split_of(settings)
    source = dataset(settings, Path(), split)
    tiles = rooms.data.write_tiles(source, config, progress=settings.progress)
    settings.keep(tiles.folder, split=split)
    sys.stdout.write(f"{tiles}\n")
    return 0
