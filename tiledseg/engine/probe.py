"""Probe: a tile on which two engines are compared; Convertible: a network that several can run."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from tiledseg.engine.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.graph import Graph
    from tiledseg.engine.layers import Layers

_LEAST_PX = 64  # of a probe's side
_MOST_PX = 512 * 512  # of a probe of the usual tile's size
_MOST_VALUES = 1024  # of a probe's outputs
_SCALES = (2.0, 16.0, 128.0)  # of a probe's px: prepared px are near 1, those of an image up to 255
_VARIED = 1e-2  # standard deviation of outputs that tell networks apart


@dataclass(frozen=True, slots=True)
class Probe:
    """A tile that is computed from its shape, and what a network returns for it."""

    shape: tuple[int, int, int, int]  # of the tile, (1, h, w, C)
    scale: float  # of its px
    outputs: FloatArray  # values spread evenly over the output

    @classmethod
    def of(
        cls, call: Callable[[FloatArray], AnyArray], graph: Graph, usual: tuple[int, int] | None = None
    ) -> Probe:
        """Run a network on a tile for which its outputs vary: one of the usual size needs no network more."""
        free = usual if usual is not None and prod(usual) <= _MOST_PX else (_LEAST_PX, _LEAST_PX)
        sizes = zip(graph.tile_size, free, graph.stride, strict=True)
        height, width = (fixed or -(-size // step) * step for fixed, size, step in sizes)
        shape, probes = (1, height, width, graph.channels), list[Probe]()
        for scale in _SCALES:
            probes.append(cls(shape, scale, _spread(call(_tile(shape, scale)))))
            if probes[-1].outputs.std() > _VARIED:
                break
        return max(probes, key=lambda one: float(one.outputs.std()))

    def difference(self, call: Callable[[FloatArray], AnyArray], share: float, least: float) -> float:
        """Return the quantile of the differences at a share, over the largest output or `least`."""
        found = _spread(call(_tile(self.shape, self.scale)))
        differences = np.abs(found - self.outputs)
        place = round(share * (differences.size - 1))
        return float(np.sort(differences)[place]) / max(least, float(np.abs(self.outputs).max()))

    def to_record(self) -> dict[str, Any]:
        """Return the probe as values of JSON."""
        outputs = [float(f"{value:.9g}") for value in self.outputs.tolist()]
        return {"shape": list(self.shape), "scale": self.scale, "outputs": outputs}

    @classmethod
    def from_record(cls, record: dict[str, Any], graph: Graph) -> Probe:
        """Read what `to_record` returned; raise ValueError, TypeError or KeyError for anything else."""
        shape, outputs = tuple(record["shape"]), np.array(record["outputs"], np.float32)
        _, height, width, _ = shape
        graph.check_tiles(shape)
        if not 0 < outputs.size <= _MOST_VALUES or outputs.ndim != 1 or max(height, width) > 1 << 14:
            raise ValueError(f"a probe of {shape} and {outputs.shape}")
        return cls(shape, float(record["scale"]), outputs)


def _tile(shape: tuple[int, ...], scale: float) -> FloatArray:
    """Make noise on waves, in [-scale / 2, scale / 2], the same on any machine."""
    place = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    mixed = (place ^ (place >> np.uint32(7))) * np.uint32(2654435761)  # Knuth's multiplicative hash
    noise = ((mixed >> np.uint32(16)) & np.uint32(255)).astype(np.float32) / 256
    y, x = (np.arange(length, dtype=np.int64) for length in shape[1:3])
    waves = ((y[:, None] + 2 * x) % 64).astype(np.float32) / 64
    return ((noise + waves[None, :, :, None] - 1) * (scale / 2)).astype(np.float32)


def _spread(outputs: AnyArray) -> FloatArray:
    """Take values that are spread evenly over an output."""
    flat = np.asarray(outputs, np.float32).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(flat.size, _MOST_VALUES)).astype(np.int64)]


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
