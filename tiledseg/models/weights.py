"""The network of a bundle: its weights, and its graph, by which it runs without Keras.

Reading executes nothing. Digests and sizes are compared before anything is allocated.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from tiledseg._lazy import lazy
from tiledseg._storage import exists, is_file, json_of, open_regular, sha256
from tiledseg._validate import invalid, shown
from tiledseg.engine import Layers, OnnxNetwork, StoredNetwork
from tiledseg.errors import BundleError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from tiledseg._backend import keras
    from tiledseg._types import FloatArray
    from tiledseg.models import architectures
    from tiledseg.models.builder import NetworkBuilder
else:
    architectures = lazy("tiledseg.models.architectures")

WEIGHTS = "model.safetensors"
ONNX = "model.onnx"  # in place of the weights
GRAPH = "graph.json"  # layers, properties and a probe of the network, by which it runs without Keras
_AT_ONCE = 1 << 20  # bytes that are read, and are still in the processor when their digest is computed
_LARGEST_HEADER = 10_000_000  # bytes
_LARGEST_GRAPH = 50_000_000  # bytes


def damaged(what: object, *, must: str, got: object) -> BundleError:
    """Return the error for a damaged file of a bundle."""
    fix = "Copy the bundle again from its source."
    return invalid(BundleError, str(what), must=must, got=got, fix=fix)


def regular(path: Path) -> Path:
    """Refuse pipes and devices: reading one could block forever."""
    if not is_file(path):
        raise damaged(path, must="be a file", got="something else" if exists(path) else "nothing")
    return path


def read_stored(folder: Path, entries: Mapping[str, Any]) -> StoredNetwork | None:
    """Read a network that runs without Keras; None where the bundle has none for its architecture."""
    if "graph_sha256" not in entries:
        return None
    path = regular(folder / GRAPH)
    if path.stat().st_size > _LARGEST_GRAPH:
        raise damaged(path, must=f"have at most {_LARGEST_GRAPH} bytes", got=path.stat().st_size)
    _check_digest(path, entries["graph_sha256"])
    try:
        record = json_of(path.read_bytes())
        if record.pop("architecture") != entries["architecture"]:
            return None  # the settings have been edited: they say what the network is
        layers = Layers.from_record(record)
        weights = _read_weights(folder, entries["weights_sha256"])
        shapes = {name: list(values.shape) for name, values in weights.items()}
        if shapes != record["shapes"] or weights.keys() != layers.weights:
            return None  # Keras says what is wrong
        return StoredNetwork.from_record(record, weights, entries["architecture"], build_stored)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise damaged(path, must="describe a network", got=shown(str(error))) from None


def read_onnx_network(folder: Path, entries: Mapping[str, Any]) -> OnnxNetwork:
    """Read the ONNX network of a bundle."""
    path, architecture = regular(folder / ONNX), entries["architecture"]
    _check_digest(path, entries["weights_sha256"])
    return OnnxNetwork(path, architecture.get("output"), architecture.get("layout"))


def build_stored(architecture: dict[str, Any], weights: Mapping[str, FloatArray]) -> keras.Model:
    """Build the network of an architecture with Keras, and fill in its weights."""
    return filled(architectures.builder_for(architecture).build(blank=True), weights)


def read_network(folder: Path, digest: object, builder: NetworkBuilder[Any]) -> keras.Model:
    """Build a network and read its weights; digest and sizes are compared before anything is allocated."""
    path = regular(folder / WEIGHTS)
    _check_digest(path, digest)
    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        declared = sum(prod(shape) for shape in shapes.values())
        if declared != builder.count():
            must = f"contain {builder.count()} parameters, as its architecture does"
            raise damaged(path, must=must, got=declared)
        return filled(builder.build(blank=True), _finite(file, _read_whole(path)[0], path), path)


def _check_digest(path: Path, digest: object) -> None:
    found = sha256(path)
    if digest != found:
        raise damaged(path, must=f"have the digest {digest}", got=found)


def _read_weights(folder: Path, digest: object) -> dict[str, FloatArray]:
    path = regular(folder / WEIGHTS)
    content, found = _read_whole(path)
    if digest != found:
        raise damaged(path, must=f"have the digest {digest}", got=found)
    with _opened(path) as file:
        return _finite(file, content, path)


def _read_whole(path: Path) -> tuple[NDArray[np.uint8], str]:
    """Read a file and compute its SHA-256 on the way: large ones take most of the time of a start."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        content = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
        for start in range(0, len(content), _AT_ONCE):
            part = content[start : start + _AT_ONCE]
            if file.readinto(part.data) != len(part):
                raise damaged(path, must="stay as it is while it is read", got="a shorter file")
            digest.update(part.data)
    return content, digest.hexdigest()


def _finite(file: Any, content: NDArray[np.uint8], path: Path) -> dict[str, FloatArray]:
    """Take all weights of an open file from its content; they are finite and float32."""
    names = file.offset_keys()  # in the order in which they fill the file to its end
    shapes = [file.get_slice(name).get_shape() for name in names]
    weights, start = {}, len(content) - 4 * sum(map(prod, shapes))
    for name, shape in zip(names, shapes, strict=True):
        if file.get_slice(name).get_dtype() != "F32":
            got = file.get_tensor(name).dtype
            raise damaged(f"{path}: {name}", must="be finite and float32", got=got)
        stop = start + 4 * prod(shape)
        values = np.require(content[start:stop].view(np.float32), requirements="A").reshape(shape)
        if not is_finite(values):
            raise damaged(f"{path}: {name}", must="be finite and float32", got=describe_finite(values))
        weights[name], start = values, stop
    return weights


def is_finite(values: FloatArray) -> bool:
    """Return whether all values are finite; a finite sum shows it without a copy."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def filled(
    network: keras.Model, weights: Mapping[str, FloatArray], path: Path = Path(WEIGHTS)
) -> keras.Model:
    """Copy weights into a network, whose names and shapes they have to have."""
    _check_names({name: values.shape for name, values in weights.items()}, network, path)
    for variable in network.weights:
        if variable.dtype != "float32":
            raise invalid(
                ModelError,
                "keras.config.dtype_policy()",
                must="keep weights in float32",
                got=variable.dtype,
                fix='Set "float32" or a mixed precision before loading.',
            )
        variable.assign(weights[variable.path])
    return network


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(_LARGEST_HEADER, path.stat().st_size):
        raise damaged(path, must=f"have a header of at most {_LARGEST_HEADER} bytes", got=length)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise damaged(path, must="be a whole safetensors file", got=error) from None


def _check_names(shapes: dict[str, tuple[int, ...]], network: keras.Model, path: Path | str) -> None:
    wanted = {variable.path: tuple(variable.shape) for variable in network.weights}
    for name in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(name) != shapes.get(name):
            must = f"have the shape {wanted[name]}" if name in wanted else "not be present"
            raise damaged(f"{path}: {name}", must=must, got=shapes.get(name, "no such weight"))


def describe_finite(values: Any) -> str:
    """Say how many values are not finite."""
    return f"{np.count_nonzero(~np.isfinite(values))} of {values.size} not finite"
