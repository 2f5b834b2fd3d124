"""``tiledseg plan``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import tiledseg
from tiledseg._validate import invalid
from tiledseg.cli import _rooms as rooms
from tiledseg.cli._models import (
    TILING,
    ModelPath,
    Trust,
    channels_of,
    check_model,
    check_tiling,
    load,
    tiling_for,
)
from tiledseg.cli._options import Table
from tiledseg.cli._settings import Settings, with_options
from tiledseg.config import PredictConfig
from tiledseg.errors import SettingError

__all__ = ["plan"]

_SHAPE = re.compile(r"(\d+)x(\d+)(?:x(\d+))?")


@with_options(Table("predict", PredictConfig(), "Prediction", only=("batch_size", "memory_budget")), TILING)
def plan(
    model: ModelPath,
    image: Annotated[str, Parameter(help="An image file, or a height and width in px, as in 1920x2560.")],
    /,
    *,
    trust: Trust = False,
    settings: Settings,
) -> int:
    """Say what predicting an image would do: tiles, calls, memory."""
    config = settings.over(settings.run.predict, "predict")
    check_model(model, trust=trust)
    check_tiling(model, settings, config.tiling)
    shape = _shape(image)
    segmenter = load(model, trust=trust)
    if len(shape) == 2 and _SHAPE.fullmatch(image):
        shape = (*shape, channels_of(segmenter))
    tiling = tiling_for(segmenter, settings, config.tiling)
    batch, budget = config.batch_size, config.memory_budget
    plan = tiledseg.plan(segmenter, shape, tiling, batch_size=batch, memory_budget=budget)
    sys.stdout.write(f"{plan}\n")
    return 0


def _shape(image: str) -> tuple[int, ...]:
    sizes = _SHAPE.fullmatch(image)
    if sizes is None:
        with rooms.io.open_image(image) as source:
            return source.shape
    if Path(image).exists():
        raise invalid(
            SettingError,
            image,
            must="be a shape or a file, not both",
            got="a file of that name",
            fix=f"Write ./{image} for the file; give the shape from another folder.",
        )
    return tuple(int(size) for size in sizes.groups() if size is not None)
