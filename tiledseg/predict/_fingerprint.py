"""What a map depends on: the same again, or another."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import invalid
from tiledseg._version import __version__
from tiledseg.engine import ModelReference, SegmenterLike
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tiledseg.config import PredictConfig, TilingConfig

__all__ = ["fingerprint_of", "model_digest"]

_WITHOUT_EFFECT = {"batch_size", "recursive", "existing", "resume", "write"}


def fingerprint_of(
    model: object, image: dict[str, Any], config: PredictConfig, tiling: TilingConfig | None
) -> dict[str, Any]:
    """Say what a prediction of a file depends on, one entry for each part."""
    settings = {key: value for key, value in config.model_dump().items() if key not in _WITHOUT_EFFECT}
    parts: dict[str, Any] = {
        "model": model_digest(model),
        **{f"image {key}": value for key, value in image.items()},
    }
    parts |= settings | {"tiling": None if tiling is None else tiling.model_dump(), "tiledseg": __version__}
    if isinstance(model, SegmenterLike):
        parts["preprocessing"] = model.preprocessing.model_dump()
        parts["own tiling"] = None if model.tiling is None else model.tiling.model_dump()
        parts["own threshold"] = model.threshold
    readable: dict[str, Any] = json.loads(json.dumps(parts, default=str))
    return readable


def model_digest(model: object) -> str:
    """Tell a network from all others."""
    if isinstance(model, ModelReference):
        return model.digest
    network: Any = model.network if isinstance(model, SegmenterLike) else model
    stated = getattr(network, "fingerprint", None)
    if isinstance(stated, str) and stated:
        return stated
    if not hasattr(network, "weights") or not hasattr(network, "get_config"):
        raise invalid(
            SettingError,
            "resume",
            must="meet a model that can be told from others",
            got=type(network).__name__,
            fix='Give the callable an attribute `fingerprint`, as in `predict.fingerprint = "v1"`.',
        )
    return _sum_of(json.dumps(network.get_config(), sort_keys=True, default=str), network.weights)


def _sum_of(text: str, weights: Iterable[Any]) -> str:
    digest = hashlib.sha256(text.encode())
    for weight in weights:
        values = np.ascontiguousarray(weight)
        digest.update(f"{weight.path} {values.shape} {values.dtype}".encode())
        digest.update(values.data)
    return digest.hexdigest()
