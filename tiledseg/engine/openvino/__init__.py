"""OpenVINO as an engine: the graph that layers describe, compiled, and compared with Keras."""

import contextlib
import importlib
import sys
from importlib.util import find_spec
from typing import Any

_CONVERTER = "openvino.tools.ovc"  # of files of other frameworks: half of the time of `import openvino`


def _load() -> None:
    """Import OpenVINO without its converter, which it does without where that cannot be imported."""
    modules: dict[str, Any] = sys.modules  # an import of what is None here is an ImportError
    modules[_CONVERTER] = None
    try:
        with contextlib.suppress(ImportError):  # then it is imported in whole below
            vars(importlib.import_module("openvino")).setdefault("__getattr__", _converted)
    finally:
        del sys.modules[_CONVERTER]


def _converted(name: str) -> Any:
    """Return `openvino.convert_model` to whoever else uses OpenVINO in this process."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    return getattr(importlib.import_module(_CONVERTER), name)


if "openvino" not in sys.modules and find_spec("openvino") is not None:
    _load()

from tiledseg.engine.openvino.layers import built  # noqa: E402
from tiledseg.engine.openvino.predictor import (  # noqa: E402
    OpenVinoPredictor,
    channels_last,
    compiled,
    computes_bf16,
    core,
    divided,
    n_streams,
    usable,
)

__all__ = [
    "OpenVinoPredictor",
    "built",
    "channels_last",
    "compiled",
    "computes_bf16",
    "core",
    "divided",
    "n_streams",
    "usable",
]
