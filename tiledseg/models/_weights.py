"""A network's weights, to and from a safetensors file."""

from __future__ import annotations

from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tiledseg._backend import keras
from tiledseg._validate import invalid
from tiledseg.errors import FileError, ModelError
from tiledseg.models._format import LARGEST_HEADER, damaged
from tiledseg.models.architectures import builder_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tiledseg._types import FloatArray
    from tiledseg.config import NetworkConfig

__all__ = ["load_network", "weights_of", "write_weights"]

# What does not change the outputs of a network that is trained.
_OF_TRAINING = ("_initializer", "_regularizer", "_constraint")
_NOT_COMPARED = frozenset({"dtype", "trainable", "build_config", "seed", "batch_input_shape", "momentum"})
_SETTINGS = "Give the settings that the network was built with."


def weights_of(network: keras.Model, architecture: NetworkConfig) -> dict[str, FloatArray]:
    """Collect all weights of a network, those that are not trained counted in."""
    _check_rebuilds(network, architecture)
    weights = {variable.path: variable.numpy() for variable in network.weights}
    for path, values in weights.items():
        if values.dtype != np.float32:
            raise invalid(
                ModelError,
                path,
                must="have float32 weights",
                got=str(values.dtype),
                fix="Use a mixed precision, which keeps the weights in float32.",
            )
        if not np.isfinite(values).all():
            raise invalid(
                ModelError,
                path,
                must="have finite weights",
                got=_bad(values),
                fix="Training diverged: go back to an earlier checkpoint.",
            )
    return weights


def write_weights(weights: dict[str, FloatArray], path: Path) -> None:
    """Write weights to a safetensors file."""
    try:
        save_file({name: np.ascontiguousarray(values) for name, values in weights.items()}, path)
    except SafetensorError as error:
        raise invalid(
            FileError, str(path), must="be writable", got=str(error), fix="Free some space."
        ) from None


def load_network(architecture: NetworkConfig, path: Path) -> keras.Model:
    """Build a network and fill its weights in from a safetensors file.

    Sizes are compared before anything is allocated.
    """
    builder = builder_for(architecture)
    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        declared = sum(prod(shape) for shape in shapes.values())
        if declared != builder.count():
            raise damaged(path, must=f"hold {builder.count()} parameters, as its architecture", got=declared)
        network = builder.build(blank=True)
        _check_names(shapes, network, path)
        for variable in network.weights:
            variable.assign(_checked(file.get_tensor(variable.path), variable, path))
    return network


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(LARGEST_HEADER, path.stat().st_size):
        raise damaged(path, must=f"have a header of at most {LARGEST_HEADER} bytes", got=length)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise damaged(path, must="be a whole safetensors file", got=str(error)) from None


def _check_names(shapes: dict[str, tuple[int, ...]], network: keras.Model, path: Path) -> None:
    wanted = {variable.path: tuple(variable.shape) for variable in network.weights}
    for name in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(name) != shapes.get(name):
            raise damaged(
                f"{path}: {name}",
                must=f"have the shape {wanted.get(name, 'of no weight')}",
                got=shapes.get(name, "no such weight"),
            )


def _checked(values: Any, variable: Any, path: Path) -> FloatArray:  # noqa: ANN401
    if keras.backend.standardize_dtype(variable.dtype) != "float32":
        raise invalid(
            ModelError,
            "keras.config.dtype_policy()",
            must="keep weights in float32",
            got=variable.dtype,
            fix='Set "float32" or a mixed precision before loading.',
        )
    if values.dtype != np.float32 or not np.isfinite(values).all():
        raise damaged(
            f"{path}: {variable.path}", must="be finite and float32", got=f"{values.dtype}, {_bad(values)}"
        )
    return values  # type: ignore[no-any-return]


def _bad(values: Any) -> str:  # noqa: ANN401
    return f"{np.count_nonzero(~np.isfinite(values))} of {values.size} not finite"


def _check_rebuilds(network: keras.Model, architecture: NetworkConfig) -> None:
    rebuilt = builder_for(architecture).build(blank=True)
    if not isinstance(network, type(rebuilt)):
        raise invalid(
            ModelError,
            "network",
            must="be one that `build_model` builds",
            got=type(network).__name__,
            fix="Build it with `build_model` and copy the weights over.",
        )
    layers = (_compared(network), _compared(rebuilt))
    for is_there, wanted in zip(*layers, strict=False):
        if is_there != wanted:
            raise invalid(
                ModelError,
                f"network.{is_there['name']}",
                must="be as its architecture states",
                got=_difference(is_there, wanted),
                fix=_SETTINGS,
            )
    if len(layers[0]) != len(layers[1]):
        raise invalid(
            ModelError,
            "network",
            must=f"have the {len(layers[1])} layers of its architecture",
            got=len(layers[0]),
            fix=_SETTINGS,
        )


def _compared(network: keras.Model) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = _stripped(network.get_config()["layers"])
    return layers


def _stripped(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {
            key: _stripped(part)
            for key, part in value.items()
            if key not in _NOT_COMPARED and not key.endswith(_OF_TRAINING)
        }
    return [_stripped(part) for part in value] if isinstance(value, list | tuple) else value


def _difference(is_there: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Name the first settings of a layer that differ."""
    if is_there["name"] != wanted["name"]:
        return f"in the place of {wanted['name']}"
    pairs = ((key, value, wanted["config"].get(key)) for key, value in is_there["config"].items())
    return ", ".join(f"{key}={a!r}, not {b!r}" for key, a, b in pairs if a != b) or "other connections"
