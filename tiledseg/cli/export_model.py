"""``tiledseg export-model``."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  cyclopts reads it
from typing import Annotated

from cyclopts import Parameter

import tiledseg
from tiledseg._validate import invalid
from tiledseg.cli.settings import Settings, with_options
from tiledseg.errors import SettingError
from tiledseg.models import Segmenter
from tiledseg.models.formats import Format  # noqa: TC001


@with_options(file=False)
def export_model(
    model: Annotated[str, Parameter(help="Folder of a bundle, or the name of an included one (demo).")],
    output: Annotated[Path, Parameter(help="The new file.")],
    /,
    *,
    to: Annotated[Format, Parameter(help="Format.")] = "onnx",
    settings: Settings,  # noqa: ARG001  all commands take it
) -> int:
    """Write a model for other programs."""
    segmenter = tiledseg.load_model(model)
    if not isinstance(segmenter, Segmenter):
        fix = "Save it as a bundle first, with `Segmenter(...).save(folder)`."
        raise invalid(SettingError, model, must="be a bundle", got=type(segmenter).__name__, fix=fix)
    sys.stdout.write(f"{segmenter.export(output, to)}\n")
    return 0
