"""``tiledseg info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import tiledseg
from tiledseg._storage import is_file
from tiledseg._validate import invalid
from tiledseg.cli import lazy
from tiledseg.cli.settings import Settings, with_options
from tiledseg.errors import SettingError, TiledSegError
from tiledseg.tiling import sides_of

_MODELS = {".onnx", ".keras", ".zip", ".yaml", ".yml"}
_FILES = ("config.json", "rdf.yaml")  # in the folder of a model

_Paths = Annotated[str, Parameter(help="Image files, bundles, ONNX files, packages, or names of models.")]


@with_options(file=False)
def info(*paths: _Paths, settings: Settings) -> int:
    """Say what is in files."""
    if not paths:
        fix = "Name files: tiledseg info slide.svs bundle/"
        raise invalid(SettingError, "paths", must="name at least one file", got="none", fix=fix)
    found, failed = {}, False
    for path in paths:
        try:
            found[path] = _of_model(path) if _is_model(path) else _of_image(path)
        except TiledSegError as error:
            found[path], failed = {"error": str(error)}, True
    settings.say(_text(found))
    settings.give(**found)
    return int(failed)


def _is_model(path: str) -> bool:
    """Tell a model from an image by its name, or by what its folder holds."""
    place = Path(path)
    if path == "demo" or path.startswith("hf://") or place.suffix.lower() in _MODELS:
        return True
    return any(is_file(place / name) for name in _FILES)


def _of_image(path: str) -> dict[str, str]:
    with tiledseg.open_image(path) as image:
        return image.facts()


def _of_model(path: str) -> dict[str, str]:
    """Say what a model is, its stride, and how far its outputs see."""
    model = tiledseg.load_model(path)
    network = lazy.engine.Network.of(model)
    rows = model.facts() if isinstance(model, tiledseg.Segmenter) else {"input channels": network.channels}
    field, halo = network.receptive_field.extent, network.receptive_field.halo
    more = {
        "classes": network.classes,
        "stride": " x ".join(map(str, network.stride)) + " px",
        "field of view": "not known" if field is None else sides_of(field),
        "halo": "not known" if halo is None else sides_of(halo),
    }
    return {name: str(value) for name, value in {**rows, **more}.items()}


def _text(found: dict[str, dict[str, str]]) -> str:
    width = max(len(name) for rows in found.values() for name in rows)
    parts = [
        "\n".join([path, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])
        for path, rows in found.items()
    ]
    return "\n\n".join(parts)
