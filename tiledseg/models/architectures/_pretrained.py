"""Weights of an encoder that were learnt elsewhere: from Keras, or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tiledseg._backend import keras
from tiledseg._validate import invalid
from tiledseg.errors import FileError
from tiledseg.models.architectures._recipes import from_keras, new_names, recipe

if TYPE_CHECKING:
    from tiledseg._types import AnyArray
    from tiledseg.models.architectures._backbones import Backbone

__all__ = ["fill"]

_RGB = 3
# What the published files of EfficientNet hold: Keras' builder takes the root of the variance again.
_NORMALISED = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def fill(encoder: keras.Model, backbone: Backbone, weights: str) -> None:
    """Take weights over that were learnt elsewhere."""
    found = _from_safetensors(weights) if _is_ours(weights) else _from_keras(backbone, weights)
    wanted = {variable.path: variable for variable in encoder.weights}
    beyond = recipe(backbone, _RGB).keys() - {layer.name for layer in encoder.layers}
    for path in sorted(wanted.keys() | found.keys()):
        if path.partition("/")[0] in beyond:
            continue  # of the part that the encoder is cut off before
        shapes = tuple(one[path].shape if path in one else "nothing" for one in (wanted, found))
        if shapes[0] != shapes[1]:
            raise _unfit(weights, must=f"hold {shapes[0]} for {path}", got=shapes[1])
        if not np.isfinite(found[path]).all():
            raise _unfit(weights, must=f"hold finite values for {path}", got="others")
    for path, variable in wanted.items():
        variable.assign(found[path])


def _is_ours(weights: str) -> bool:
    return weights.lower().endswith(".safetensors")


def _from_safetensors(weights: str) -> dict[str, AnyArray]:
    try:
        return load_file(_file(weights))
    except (OSError, SafetensorError) as error:
        raise _unfit(weights, must="be a whole safetensors file", got=str(error)) from error


def _from_keras(backbone: Backbone, weights: str) -> dict[str, AnyArray]:
    """Let Keras read them into a network of its own, and name them as the encoder does."""
    known = weights == "imagenet"
    path = None if known else _file(weights)
    if backbone.lite:
        raise _unfit(weights, must="be a .safetensors file: Keras has no lite networks", got=weights)
    try:
        network = from_keras(backbone, _RGB, weights="imagenet" if known else None)
        if path:
            network.load_weights(path)
    except Exception as error:  # no connection, a damaged file: Keras can raise anything
        must = (
            "be to be had from Keras" if known else f"hold the weights of {backbone.source} without its top"
        )
        raise _unfit(weights, must=must, got=f"{type(error).__name__}: {error}") from error
    return _named(network, weights)


def _named(network: keras.Model, weights: str) -> dict[str, AnyArray]:
    names = new_names(network.get_config()["layers"])
    found = {}
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            _check_normalisation(layer, weights)
            continue
        for variable in layer.weights:
            path = variable.path.replace(layer.name, names[layer.name], 1)
            found[path] = variable.numpy()
    return found


def _check_normalisation(layer: Any, weights: str) -> None:  # noqa: ANN401
    """Refuse a file that was learnt with other pixels than `preprocessing` says."""
    values = [np.ravel(layer.get_weights()[n]) for n in (0, 1)]
    if not all(np.allclose(*pair, atol=1e-3) for pair in zip(values, _NORMALISED, strict=True)):
        raise _unfit(weights, must="normalise pixels as the published weights do", got=values)


def _file(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise _unfit(weights, must="be a file", got="something else" if path.exists() else "nothing")
    return path


def _unfit(weights: str, *, must: str, got: object) -> FileError:
    fix = "Give the path of another file, or None to learn from scratch."
    return invalid(FileError, f"encoder_weights: {weights}", must=must, got=got, fix=fix)
