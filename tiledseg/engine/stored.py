"""A network as a bundle stores it: layers, weights and properties, which run without Keras."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tiledseg._lazy import lazy
from tiledseg.engine.graph import Graph, GraphPredictor, Probe
from tiledseg.engine.layers import Layers, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine import keras, openvino
    from tiledseg.engine.keras import KerasPredictor
else:
    keras = lazy("tiledseg.engine.keras")
    openvino = lazy("tiledseg.engine.openvino")

_log = logging.getLogger("tiledseg")


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

    def to_record(self) -> dict[str, Any]:
        """Return all but the weights and the architecture as values of JSON."""
        return _record(self.graph, self.layers, self.probe)

    @classmethod
    def from_record(
        cls,
        record: dict[str, Any],
        weights: Mapping[str, FloatArray],
        architecture: dict[str, Any],
        build: Callable[[dict[str, Any], Mapping[str, FloatArray]], Any],
    ) -> StoredNetwork:
        """Read what `to_record` returned; raise ValueError, TypeError or KeyError for anything else."""
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
    def model(self) -> Any:  # noqa: ANN401  Keras has no types
        """The keras.Model, built when it is first asked for."""
        with self._lock:
            if not self._built:
                self._built.append(self.build(self.architecture, self.weights))
            return self._built[0]

    @property
    def runnable(self) -> Any:  # noqa: ANN401
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


def stored_record(model: Any, usual: tuple[int, int] | None) -> dict[str, Any] | None:  # noqa: ANN401
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

    keeps_tiles = True  # it writes into none, so that they may be parts of the image
    fingerprint = b"stored"  # its weights do not change

    def __init__(self, model: StoredNetwork) -> None:
        super().__init__(model.graph)
        self.model: StoredNetwork = model

    def by_keras(self) -> KerasPredictor:
        """Return the network as Keras runs it."""
        return keras.KerasPredictor(self.model.model)

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        return self.by_keras()(tiles)

    def layers(self) -> Layers:
        """Return the layers."""
        return self.model.layers

    def weights(self) -> Mapping[str, FloatArray]:
        """Return the weights by their paths."""
        return self.model.weights

    def probe(self) -> Probe:
        """Return the outputs of Keras for a tile."""
        return self.model.probe
