"""The layers of a network as records: read from a Keras graph, written to JSON, run by another engine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from tiledseg.engine.keras_graph import graph_of, is_keras, is_ours, is_pointwise
from tiledseg.engine.predictor import Predictor
from tiledseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.graph import Graph, Probe

_FLOAT32 = frozenset({"float32"})
_TRAINING = frozenset({"name", "trainable", "dtype", "build_config", "seed", "autocast"})
_TRAINING_SUFFIXES = ("_initializer", "_regularizer", "_constraint")


class UnsupportedError(ModelError):
    """A layer, or an argument of one, that cannot be recorded, or that an engine does not know."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One use of a layer, or of an operation of ``keras.ops``."""

    kind: str  # as in ``layers.Conv2D``, ``ops.Add``, ``tiledseg.Spread``
    config: dict[str, Any]  # its settings, as Keras states them, without those of training
    args: list[Any]  # its arguments; a map is {"map": number}, of which the network's input is 0
    kwargs: dict[str, Any]
    weights: dict[str, str]  # the path of each weight by its name within the layer
    output: int  # the number of its output map


@dataclass(frozen=True, slots=True)
class Layers:
    """All layers of a network, in the order of computation."""

    layers: tuple[Layer, ...]
    output: int  # the number of the network's output map

    def to_record(self) -> dict[str, Any]:
        """Return the layers as values of JSON."""
        names = Layer.__slots__
        return {
            "output": self.output,
            "layers": [{name: getattr(one, name) for name in names} for one in self.layers],
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Layers:
        """Read what `to_record` returned; raise ValueError, TypeError or KeyError for anything else."""
        layers, made = [], {0}
        kinds = {"kind": str, "config": dict, "args": list, "kwargs": dict, "weights": dict, "output": int}
        for one in record["layers"]:
            layer = Layer(**one)
            wrong = [name for name, kind in kinds.items() if type(getattr(layer, name)) is not kind]
            used = set(maps_in([layer.args, layer.kwargs]))
            if wrong or not used <= made or layer.output in made:
                raise ValueError(f"the layer {layer.kind} with wrong {wrong or 'maps'}")
            made.add(layer.output)
            layers.append(layer)
        if record["output"] not in made:
            raise ValueError("an output that no layer makes")
        return cls(tuple(layers), record["output"])

    @property
    def weights(self) -> set[str]:
        """The paths of all weights."""
        return {path for layer in self.layers for path in layer.weights.values()}

    def digest(self, weights: Mapping[str, AnyArray]) -> str:
        """Digest what the layers compute with weights by their paths, which Keras numbers as it likes."""
        digest = hashlib.sha256(str(self.output).encode())
        for one in self.layers:
            own = sorted(one.weights)
            computed = [one.kind, one.config, one.args, one.kwargs, one.output, own]
            digest.update(json.dumps(computed, sort_keys=True).encode())
            for name in own:
                digest.update(np.ascontiguousarray(weights[one.weights[name]]).data)
        return digest.hexdigest()


def config_digest(model: Any) -> str:  # noqa: ANN401  Keras has no types
    """Digest a Keras network whose layers cannot be recorded."""
    digest = hashlib.sha256(json.dumps(model.get_config(), sort_keys=True, default=str).encode())
    for weight in model.weights:
        values = np.ascontiguousarray(weight)
        digest.update(f"{weight.path} {values.shape} {values.dtype}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def maps_in(value: Any) -> Iterator[int]:  # noqa: ANN401
    """Yield the numbers of the maps in arguments."""
    if isinstance(value, dict):
        if value.keys() == {"map"}:
            yield value["map"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from maps_in(part)


@dataclass(slots=True)
class _Reading:
    """The layers read so far."""

    layers: list[Layer] = field(default_factory=list)
    owners: dict[str, Any] = field(default_factory=dict)  # the variable of each path


def read_layers(model: Any) -> Layers:  # noqa: ANN401  Keras has no types
    """Read the layers of a functional Keras network; raise UnsupportedError where one cannot be recorded."""
    reading = _Reading()
    graph = graph_of(model)
    if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UnsupportedError(f"{type(model).__name__} is not a graph of one input and one output")
    (output,) = _read(graph, [0], reading)
    return Layers(tuple(reading.layers), output)


def _read(graph: Any, incoming: list[int], reading: _Reading) -> list[int]:  # noqa: ANN401
    if cast := [one.dtype for one in graph.inputs if one.dtype not in {"float32", "float64"}]:
        raise UnsupportedError(f"{graph.name} takes {cast[0]}")
    made = dict(zip(map(id, graph.inputs), incoming, strict=True))
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                made.update(zip(map(id, node.outputs), _outputs(node, made, reading), strict=True))
    return [made[id(tensor)] for tensor in graph.outputs]


def _outputs(node: Any, made: dict[int, int], reading: _Reading) -> list[int]:  # noqa: ANN401
    """Record one use of a layer, or the layers of a network within the network."""
    options = dict(node.arguments.kwargs)
    if options.pop("training", None) or options.pop("mask", None) is not None:
        raise UnsupportedError(f"{node.operation.name} is called with `training` or `mask`")
    inner = graph_of(node.operation)
    if inner is not None:
        return _read(inner, [made[id(tensor)] for tensor in node.input_tensors], reading)
    if len(node.outputs) != 1:
        raise UnsupportedError(f"{node.operation.name} has {len(node.outputs)} outputs")
    operation, number = node.operation, len(reading.layers) + 1
    maps = {id(tensor): made[id(tensor)] for tensor in node.input_tensors}
    layer = Layer(
        _kind(operation),
        _config(operation),
        [_plain(one, maps) for one in node.arguments.args],
        {name: _plain(one, maps) for name, one in options.items()},
        _weights(operation, reading),
        number,
    )
    reading.layers.append(layer)
    return [number]


def _kind(operation: Any) -> str:  # noqa: ANN401
    """Name a class of Keras or of this package; a subclass of one may compute anything."""
    kind = type(operation)
    if is_ours(kind):
        return f"tiledseg.{kind.__name__}"
    if not is_keras(kind) or not is_pointwise(operation):
        raise UnsupportedError(f"{kind.__name__} {operation.name!r} is not known")
    return f"{kind.__module__.split('.')[2]}.{kind.__name__}"  # keras.src.layers, .ops or .applications


def _config(operation: Any) -> dict[str, Any]:  # noqa: ANN401
    policy = getattr(operation, "dtype_policy", None)
    if policy is not None and (policy.compute_dtype, policy.variable_dtype) != ("float32", "float32"):
        raise UnsupportedError(f"{operation.name} computes in {policy.name}")
    try:
        config = operation.get_config()
    except Exception as error:  # noqa: BLE001  Keras raises many kinds
        raise UnsupportedError(f"{operation.name} has no settings: {error}") from None
    return {
        name: _plain(value, {})
        for name, value in config.items()
        if name not in _TRAINING and not name.endswith(_TRAINING_SUFFIXES)
    }


def _plain(value: Any, maps: dict[int, int]) -> Any:  # noqa: ANN401
    """Turn an argument into values of JSON."""
    if id(value) in maps:
        return {"map": maps[id(value)]}
    if value is None or type(value) in {bool, int, float, str}:
        return value
    if isinstance(value, list | tuple):
        return [_plain(one, maps) for one in value]
    if isinstance(value, dict) and "map" not in value:
        return {str(name): _plain(one, maps) for name, one in value.items()}
    raise UnsupportedError(f"an argument of type {type(value).__name__}")


def _weights(operation: Any, reading: _Reading) -> dict[str, str]:  # noqa: ANN401
    found = {}
    for variable in getattr(operation, "weights", ()):
        if reading.owners.setdefault(variable.path, variable) is not variable:
            raise UnsupportedError(f"two weights have the path {variable.path}")
        if variable.dtype not in _FLOAT32:
            raise UnsupportedError(f"{variable.path} is {variable.dtype}")
        name = variable.path.removeprefix(f"{operation.path}/")
        found[name] = variable.path
    return found


@runtime_checkable
class Convertible(Predictor, Protocol):
    """A Predictor of a Keras network, which another engine can run as well."""

    @property
    def model(self) -> Any:  # noqa: ANN401  Keras has no types
        """The keras.Model, or the stored network."""
        ...

    @property
    def graph(self) -> Graph:
        """The properties of the network."""
        ...

    @property
    def fingerprint(self) -> bytes:
        """Digest by which new weights are noticed."""
        ...

    def by_keras(self) -> Any:  # noqa: ANN401  a KerasPredictor, whose module imports this one
        """Return the network as Keras runs it."""
        ...

    def layers(self) -> Layers:
        """Return the layers; raise UnsupportedError where one cannot be recorded."""
        ...

    def weights(self) -> Mapping[str, FloatArray]:
        """Return the weights by their paths."""
        ...

    def probe(self) -> Probe:
        """Return the outputs of Keras for a tile."""
        ...
