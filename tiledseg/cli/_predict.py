"""``tiledseg predict``."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  the parser reads the types
from typing import Annotated

from cyclopts import Parameter

import tiledseg
from tiledseg.cli._models import TILING, ModelPath, Trust, check_model, load, tiling_for
from tiledseg.cli._options import Table
from tiledseg.cli._settings import Settings, with_options
from tiledseg.config import PredictConfig
from tiledseg.io import check_writable, find_images

__all__ = ["predict"]


@with_options(Table("predict", PredictConfig(), "Prediction"), TILING)
def predict(
    model: ModelPath,
    /,
    *inputs: Annotated[Path, Parameter(required=True, help="Image files, and folders of them.")],
    output: Annotated[Path, Parameter(help="Folder to write to; made where it is missing.")],
    trust: Trust = False,
    settings: Settings,
) -> int:
    """Segment image files."""
    config = settings.over(settings.run.predict, "predict")
    check_model(model, trust=trust)
    find_images(inputs, recursive=config.recursive)
    check_writable(output)
    segmenter = load(model, trust=trust)
    tiling = tiling_for(segmenter, settings)
    result = tiledseg.predict_files(
        segmenter, inputs, output, config, tiling=tiling, progress=settings.progress
    )
    sys.stdout.write(f"{str(result).splitlines()[0]}\n")
    return 1 if result.failed else 0
