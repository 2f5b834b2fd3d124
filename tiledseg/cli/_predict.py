"""``tiledseg predict``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import tiledseg
from tiledseg.cli import _rooms as rooms
from tiledseg.cli._models import TILING, OptionalModel, check_model, check_tiling, load, tiling_for
from tiledseg.cli._options import Table
from tiledseg.cli._settings import Settings, needed, with_options
from tiledseg.config import RunConfig

__all__ = ["predict"]


@with_options(
    Table("predict", RunConfig().predict, "Prediction", without=("model", "inputs", "tiling")), TILING
)
def predict(
    model: OptionalModel = None,
    /,
    *inputs: Annotated[Path, Parameter(help="Image files, and folders of them.")],
    settings: Settings,
) -> int:
    """Segment image files."""
    config = settings.over(settings.run.predict, "predict")
    name = model or needed(config.model, "model", "predict.model")
    files = inputs or tuple(map(Path, needed(config.inputs, "inputs", "predict.inputs")))
    output = Path(needed(config.output, "--output", "predict.output"))
    check_model(name, trust=config.trust)
    check_tiling(name, settings, config.tiling)
    rooms.io.find_images(files, recursive=config.recursive)
    rooms.io.check_writable(output, keep=False)
    segmenter = load(name, trust=config.trust)
    tiling = tiling_for(segmenter, settings, config.tiling)
    result = tiledseg.predict_files(
        segmenter, files, output, config, tiling=tiling, progress=settings.progress
    )
    done = config.changed(model=_text(name), inputs=tuple(map(_text, files)), tiling=tiling)
    settings.keep(output, predict=done)
    sys.stdout.write(f"{str(result).splitlines()[0]}\n")
    return 1 if result.failed else 0


def _text(path: Path | str) -> str:
    """Spell a path for a file in UTF-8, which a name need not be."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
