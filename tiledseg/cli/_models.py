"""What several commands do with a model: check that it is there, load it, tile for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

import tiledseg
from tiledseg._validate import invalid
from tiledseg.cli import _rooms as rooms
from tiledseg.cli._options import Table, merged
from tiledseg.cli._quiet import load_keras
from tiledseg.config import TilingConfig
from tiledseg.errors import BundleError, SettingError
from tiledseg.models import shipped_or

if TYPE_CHECKING:
    from tiledseg.cli._settings import Settings

__all__ = [
    "TILING",
    "ModelPath",
    "OptionalModel",
    "Trust",
    "channels_of",
    "check_model",
    "check_tiling",
    "load",
    "tiling_for",
]

TILING = Table(
    "tiling", TilingConfig(), "Tiling", defaults=dict.fromkeys(TilingConfig.model_fields, "the model's own")
)

_HELP = "Folder of a bundle, the name of one that comes along (demo), or a .keras file with --trust."
ModelPath: TypeAlias = Annotated[str, Parameter(help=_HELP)]
OptionalModel: TypeAlias = Annotated[str | None, Parameter(help=_HELP, negative_none=())]
Trust: TypeAlias = Annotated[
    bool, Parameter(help="Load a .keras file, whose maker you know.", negative=(), show_default=False)
]


def check_model(model: str, *, trust: bool) -> None:
    """Check what can be checked of a model's path without Keras, which takes seconds to load."""
    path = shipped_or(model)
    if not path.exists():
        raise invalid(
            BundleError, str(path), must="be a bundle's folder", got="no such folder", fix="Check the path."
        )
    if path.is_file() and path.suffix.lower() == ".keras" and not trust:
        raise invalid(
            BundleError,
            str(path),
            must="be trusted, as any .keras file",
            got="no --trust",
            fix="Add --trust if you know where it comes from.",
        )


def check_tiling(model: str, settings: Settings, base: TilingConfig | None) -> None:
    """Check tiling options against the tiling of a bundle, which needs no Keras to be read."""
    given, path = settings.given.get("tiling"), shipped_or(model)
    if given and base is not None:
        merged(base, given)
    elif given and path.is_dir():
        try:
            own = json.loads((path / "config.json").read_bytes())["tiling"]
            tiling = TilingConfig.model_validate(own)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SettingError):
            return
        merged(tiling, given)


def load(path: str, *, trust: bool) -> Any:  # noqa: ANN401  a Segmenter or a keras.Model, which has no type
    """Load a model; see `tiledseg.load_model`."""
    load_keras()
    return tiledseg.load_model(path, trust=trust)


def channels_of(model: object) -> int:
    """Say how many channels a model's images have."""
    if isinstance(model, rooms.engine.SegmenterLike):
        return model.preprocessing.channels
    return rooms.engine.predictor_for(model).channels or 1


def tiling_for(model: object, settings: Settings, base: TilingConfig | None = None) -> TilingConfig | None:
    """Put the tiling options that were given over the tiling that would hold without them."""
    given = settings.given.get("tiling")
    if not given:
        return base
    own = base or tiledseg.plan(model, (1, 1, channels_of(model))).tiling
    return merged(own, given)
