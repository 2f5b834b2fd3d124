"""What the network of a run is made of: its layers as text and, where it is asked for, as a diagram."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras
from tiledseg._extras import extra
from tiledseg._validate import invalid
from tiledseg.engine import Network
from tiledseg.errors import SettingError
from tiledseg.io import write_bytes, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tiledseg.tiling import ReceptiveField

__all__ = ["check_drawable", "write_overview"]

_TEXT, _DIAGRAM = "model.txt", "model.png"
_HEAD = ("layer", "type", "output", "parameters", "takes")
_DPI = 96


def check_drawable() -> None:
    """Check that a network can be drawn."""
    extra("pydot", "diagram")
    if shutil.which("dot") is None:
        raise invalid(
            SettingError,
            "diagram",
            must="be left out without Graphviz, whose program `dot` lays it out",
            got="no such program",
            fix="Install Graphviz from graphviz.org/download or by the system's package manager.",
        )


def write_overview(run_dir: Path, network: keras.Model, *, diagram: bool) -> None:
    """Write ``model.txt`` and, where it is asked for, ``model.png``.

    Keras' own summary is cut at the width of the terminal; this one has each name whole.
    """
    layers = [_HEAD, *_layers(network)]
    facts = list(_facts(network))
    write_text(run_dir / _TEXT, f"{_aligned(layers)}\n\n{_aligned(facts)}\n")
    if diagram:
        graph = keras.utils.model_to_dot(
            network, show_shapes=True, show_layer_names=True, expand_nested=True, dpi=_DPI
        )
        write_bytes(run_dir / _DIAGRAM, graph.create(format="png"))


def _layers(network: Any, path: str = "") -> Iterator[tuple[str, ...]]:  # noqa: ANN401
    """Describe each layer, in the order of the way through the network, those of inner networks too."""
    makers: dict[int, str] = {}
    for depth in sorted(network._nodes_by_depth, reverse=True):
        for node in network._nodes_by_depth[depth]:
            layer = node.operation
            several = len(node.outputs) > 1
            for number, tensor in enumerate(node.outputs):
                makers[id(tensor)] = f"{layer.name}[{number}]" if several else layer.name
            yield (
                f"{path}{layer.name}",
                type(layer).__name__,
                ", ".join(map(_shape, node.outputs)),
                f"{layer.count_params() if hasattr(layer, 'count_params') else 0:,}",
                ", ".join(makers[id(tensor)] for tensor in node.input_tensors),
            )
            if hasattr(layer, "_nodes_by_depth"):
                yield from _layers(layer, f"{path}{layer.name}/")


def _facts(network: keras.Model) -> Iterator[tuple[str, str]]:
    predictor = Network.of(network)
    trained = sum(math.prod(weight.shape) for weight in network.trainable_weights)
    yield "parameters", f"{network.count_params():,}, {trained:,} of them trained"
    yield "total stride", f"{_size(predictor.stride)} px"
    yield "receptive field", _field(predictor.receptive_field)


def _field(field: ReceptiveField) -> str:
    if field.extent is None:
        first, *others = field.tile_dependent or field.unknown
        named = f"{first} and {len(others)} more" if others else first
        return f"the whole tile, by {named}" if field.tile_dependent else f"not known, for {named}"
    return f"{_size(tuple(before + 1 + after for before, after in field.extent))} px"


def _shape(tensor: Any) -> str:  # noqa: ANN401
    return " x ".join("?" if size is None else str(size) for size in tensor.shape[1:])


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
