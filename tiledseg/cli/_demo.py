"""``tiledseg demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tiledseg.cli import _rooms as rooms
from tiledseg.cli._quiet import load_keras
from tiledseg.cli._settings import Settings, with_options

__all__ = ["demo"]


@with_options(file=False)
def demo(
    *,
    output: Annotated[
        Path, Parameter(help="Folder to write to: a new one, or that of an earlier demo.")
    ] = Path("demo"),
    seed: Annotated[int, Parameter(help="Of images and training, from 0.")] = 0,
    train: Annotated[
        bool, Parameter(help="Train a small network first, which takes minutes.", negative=())
    ] = False,
    settings: Settings,
) -> int:
    """Segment and score a made-up image; train for it with --train."""
    rooms.demo.prepare_folder(output)
    load_keras()
    sys.stdout.write(f"{rooms.demo.run_demo(output, seed=seed, train=train, progress=settings.progress)}\n")
    return 0
