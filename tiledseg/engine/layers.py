"""The layers of a network as records: read from a Keras graph, written to JSON, run by another engine.

A bundle stores a network so; it runs without Keras.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from tiledseg._lazy import lazy
from tiledseg.engine.graph import Graph, GraphPredictor, Probe
from tiledseg.engine.keras_graph import graph_of, is_keras, is_ours, is_pointwise
from tiledseg.engine.predictor import Predictor
from tiledseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tiledseg._types import AnyArray, FloatArray

keras: Any = lazy("tiledseg.engine.keras")  # they import this module
openvino: Any = lazy("tiledseg.engine.openvino")

_log = logging.getLogger("tiledseg")
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


def config_digest(model: Any) -> str:  # Keras has no types
    """Digest a Keras network whose layers cannot be recorded."""
    digest = hashlib.sha256(json.dumps(model.get_config(), sort_keys=True, default=str).encode())
    for weight in model.weights:
        values = np.ascontiguousarray(weight)
        digest.update(f"{weight.path} {values.shape} {values.dtype}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def maps_in(value: Any) -> Iterator[int]:
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


def read_layers(model: Any) -> Layers:  # Keras has no types
    """Read the layers of a functional Keras network; raise UnsupportedError where one cannot be recorded."""
    reading = _Reading()
    graph = graph_of(model)
    if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UnsupportedError(f"{type(model).__name__} is not a graph of one input and one output")
    (output,) = _read(graph, [0], reading)
    return Layers(tuple(reading.layers), output)


def _read(graph: Any, incoming: list[int], reading: _Reading) -> list[int]:
    if cast := [one.dtype for one in graph.inputs if one.dtype not in {"float32", "float64"}]:
        raise UnsupportedError(f"{graph.name} takes {cast[0]}")
    made = dict(zip(map(id, graph.inputs), incoming, strict=True))
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                made.update(zip(map(id, node.outputs), _outputs(node, made, reading), strict=True))
    return [made[id(tensor)] for tensor in graph.outputs]


def _outputs(node: Any, made: dict[int, int], reading: _Reading) -> list[int]:
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


def _kind(operation: Any) -> str:
    """Name a class of Keras or of this package; a subclass of one may compute anything."""
    kind = type(operation)
    if is_ours(kind):
        return f"tiledseg.{kind.__name__}"
    if not is_keras(kind) or not is_pointwise(operation):
        raise UnsupportedError(f"{kind.__name__} {operation.name!r} is not known")
    return f"{kind.__module__.split('.')[2]}.{kind.__name__}"  # keras.src.layers, .ops or .applications


def _config(operation: Any) -> dict[str, Any]:
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


def _plain(value: Any, maps: dict[int, int]) -> Any:
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


def _weights(operation: Any, reading: _Reading) -> dict[str, str]:
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
    def model(self) -> Any:  # Keras has no types
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

    def by_keras(self) -> Any:  # a KerasPredictor, whose module imports this one
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


@dataclass(eq=False)
class StoredNetwork:
    """Layers, weights and properties of a network; Keras builds it when somebody asks for it."""

    graph: Graph
    layers: Layers
    probe: Probe
    weights: Mapping[str, FloatArray]  # by the path of the variable
    architecture: dict[str, Any]  # the settings that build it
    # makes the keras.Model of an architecture and weights; it can be pickled
    build: Callable[[dict[str, Any], Mapping[str, FloatArray]], Any]
    _built: list[Any] = field(default_factory=list, repr=False)  # the keras.Model, once it is built
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def content(self) -> tuple[Mapping[str, FloatArray], dict[str, Any]]:
        """Return the weights, and the rest but the architecture as values of JSON."""
        return self.weights, _record(self.graph, self.layers, self.probe)

    @classmethod
    def from_record(
        cls,
        record: dict[str, Any],
        weights: Mapping[str, FloatArray],
        architecture: dict[str, Any],
        build: Callable[[dict[str, Any], Mapping[str, FloatArray]], Any],
    ) -> StoredNetwork:
        """Read what `content` returned; raise ValueError, TypeError or KeyError for anything else."""
        graph = Graph.from_record(record["graph"])
        probe = Probe.from_record(record["probe"], graph)
        return cls(graph, Layers.from_record(record), probe, weights, architecture, build)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made from."""
        return StoredNetwork, (
            self.graph,
            self.layers,
            self.probe,
            self.weights,
            self.architecture,
            self.build,
        )

    @property
    def model(self) -> Any:  # Keras has no types
        """The keras.Model, built when it is first asked for."""
        with self._lock:
            if not self._built:
                self._built.append(self.build(self.architecture, self.weights))
            return self._built[0]

    @property
    def runnable(self) -> Any:
        """The keras.Model once it is built, since its weights may have been changed; else this."""
        return self._built[0] if self._built else self

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of its input, (None, h, w, C), as of a keras.Model."""
        return (None, *self.graph.tile_size, self.graph.channels)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of its output, (None, h, w, K), as of a keras.Model."""
        return (None, *self.graph.tile_size, self.graph.classes)

    @property
    def final_activation(self) -> str:
        """Name of the activation of its last layer, or of that layer."""
        last = self.layers.layers[-1]
        return str(last.config.get("activation", last.kind.partition(".")[2].lower()))

    def count_params(self) -> int:
        """Count the parameters, as a keras.Model does."""
        return sum(values.size for values in self.weights.values())


def stored_record(model: Any, usual: tuple[int, int] | None) -> dict[str, Any] | None:
    """Describe a keras.Model, so that it runs without Keras; None where OpenVINO disagrees."""
    predictor = keras.KerasPredictor(model)
    try:
        layers = predictor.layers()
    except UnsupportedError as error:
        _log.debug("The bundle needs Keras: %s", error)
        return None
    if find_spec("openvino") is not None:
        objection = openvino.OpenVinoPredictor(predictor, "f32", must=False).objection()
        if objection:
            return None
    return _record(predictor.graph, layers, predictor.probe(usual))


def _record(graph: Graph, layers: Layers, probe: Probe) -> dict[str, Any]:
    return {"graph": graph.to_record(), **layers.to_record(), "probe": probe.to_record()}


class StoredPredictor(GraphPredictor):
    """A stored network as a Predictor: its properties are known, and Keras runs it if it is called."""

    writes_no_tile = True  # they may be parts of the image
    fingerprint = b"stored"  # its weights do not change

    def __init__(self, model: StoredNetwork) -> None:
        super().__init__(model.graph)
        self.model: StoredNetwork = model

    def by_keras(self) -> Any:  # a KerasPredictor, whose module imports this one
        """Return the network as Keras runs it."""
        return keras.KerasPredictor(self.model.model)

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        outputs: FloatArray = self.by_keras()(tiles)
        return outputs

    def layers(self) -> Layers:
        """Return the layers."""
        return self.model.layers

    def weights(self) -> Mapping[str, FloatArray]:
        """Return the weights by their paths."""
        return self.model.weights

    def probe(self) -> Probe:
        """Return the outputs of Keras for a tile."""
        return self.model.probe
