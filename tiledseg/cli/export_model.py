"""``tiledseg export-model``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  cyclopts reads it
from typing import Annotated, Literal

from cyclopts import Parameter

import tiledseg
from tiledseg._validate import invalid
from tiledseg.cli.options import Table
from tiledseg.cli.settings import Settings, with_options
from tiledseg.config import PackageConfig
from tiledseg.errors import SettingError
from tiledseg.models import Segmenter

_ABOUT = Table(
    "package",
    PackageConfig(authors=("?",), license="?"),
    "Package of BioImage.IO",
    defaults=dict.fromkeys(("authors", "license"), "needed"),
)


@with_options(_ABOUT, file=False)
def export_model(
    model: Annotated[str, Parameter(help="Folder of a bundle, or the name of an included one (demo).")],
    output: Annotated[Path, Parameter(help="The new file; for bioimageio a .zip or a folder.")],
    /,
    *,
    to: Annotated[Literal["onnx", "openvino", "bioimageio"], Parameter(help="Format.")] = "onnx",
    settings: Settings,
) -> int:
    """Write a model for other programs."""
    segmenter = tiledseg.load_model(model)
    if not isinstance(segmenter, Segmenter):
        fix = "Save it as a bundle first, with `Segmenter(...).save(folder)`."
        raise invalid(SettingError, model, must="be a bundle", got=type(segmenter).__name__, fix=fix)
    about = settings.given.get("package") if to == "bioimageio" else None
    written = segmenter.export(output, to, about)
    settings.say(written)
    settings.give(written=written, format=to)
    return 0
