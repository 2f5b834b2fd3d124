"""``tiledseg demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tiledseg.cli._quiet import load_keras
from tiledseg.cli._settings import Settings, with_options
from tiledseg.demo import prepare_folder, run_demo

__all__ = ["demo"]


@with_options(file=False)
def demo(
    *,
    output: Annotated[
        Path, Parameter(help="Folder to write to: a new one, or that of an earlier demo.")
    ] = Path("demo"),
    seed: Annotated[int, Parameter(help="Of images and training, from 0.")] = 0,
    settings: Settings,
) -> int:
    """Train, segment and score on made-up images."""
    prepare_folder(output)
    load_keras()
    sys.stdout.write(f"{run_demo(output, seed=seed, progress=settings.progress)}\n")
    return 0
