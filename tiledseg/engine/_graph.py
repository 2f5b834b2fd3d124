"""What a Keras graph says about tiling: its total stride, and the size of its feature maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

__all__ = ["Graph", "read_graph"]

_Factors = tuple[Fraction, Fraction]
_ONE = (Fraction(1), Fraction(1))


@dataclass(frozen=True, slots=True)
class Graph:
    """What was read off a graph.

    Attributes
    ----------
    stride : tuple of int
        Total stride (y, x) in px.
    floats_per_px : float
        Numbers in all feature maps together, for each px of the input.
    """

    stride: tuple[int, int]
    floats_per_px: float


@dataclass(slots=True)
class _Walk:
    """Shrinking factors of all tensors met, by id, and their sizes."""

    factors: dict[int, _Factors] = field(default_factory=dict)
    seen: list[_Factors] = field(default_factory=list)
    floats: float = 0.0


def read_graph(model: Any) -> Graph:  # noqa: ANN401
    """Walk a functional Keras graph, nested ones too.

    The factor by which a tensor is smaller than the input follows from the strides of the
    layers before it. The total stride is the least multiple of all of them: sizes and origins
    that are multiples of it pass every pooling and every upsampling without a remainder.

    Parameters
    ----------
    model : keras.Model
        A functional or sequential network; for a subclassed one the stride is taken to be 1.

    Returns
    -------
    Graph
        Total stride and size of the feature maps.
    """
    graph = getattr(model, "_functional", None) or model
    walk = _Walk()
    if hasattr(graph, "operations"):
        _walk(graph, [_ONE for _ in graph.inputs], walk)
    y, x = (math.lcm(*(factors[axis].numerator for factors in walk.seen), 1) for axis in (0, 1))
    return Graph((y, x), walk.floats or 64.0)


def _walk(graph: Any, incoming: list[_Factors], walk: _Walk) -> list[_Factors]:  # noqa: ANN401
    local = dict(zip(map(id, graph.inputs), incoming, strict=True))
    for operation in graph.operations:
        for node in operation._inbound_nodes:
            if not node.input_tensors or not all(id(tensor) in local for tensor in node.input_tensors):
                continue  # an input layer, or a use of the layer in another graph
            before = [local[id(tensor)] for tensor in node.input_tensors]
            after = _after(operation, node, before, walk)
            for tensor, factors in zip(node.outputs, after, strict=True):
                local[id(tensor)] = factors
                _count(tensor, factors, walk)
    return [local.get(id(tensor), _ONE) for tensor in graph.outputs]


def _after(operation: Any, node: Any, before: list[_Factors], walk: _Walk) -> list[_Factors]:  # noqa: ANN401
    inner = getattr(operation, "_functional", None) or operation
    if hasattr(inner, "operations") and hasattr(inner, "inputs"):
        return _walk(inner, before, walk)
    largest = max(before)
    y, x = (largest[axis] * _step(operation, node, axis) for axis in (0, 1))
    return [(y, x) for _ in node.outputs]


def _step(operation: Any, node: Any, axis: int) -> Fraction:  # noqa: ANN401
    """Say how much smaller an operation's output is than its input along one axis."""
    sizes = [
        tensor.shape[1 + axis]
        for tensor in (node.input_tensors[0], node.outputs[0])
        if len(tensor.shape) == 4
    ]
    strides = getattr(operation, "strides", None)
    if strides is not None:
        step = strides[axis] if isinstance(strides, tuple | list) else strides
        return Fraction(1, step) if "Transpose" in type(operation).__name__ else Fraction(step)
    if type(operation).__name__.startswith("UpSampling"):
        return Fraction(1, operation.size[axis])
    if len(sizes) == 2 and None not in sizes and sizes[0] != sizes[1] and 0 not in sizes:
        return _whole(Fraction(sizes[0], sizes[1]))
    return Fraction(1)


def _whole(ratio: Fraction) -> Fraction:
    """Take a ratio of sizes only where it is a resize; padding and cropping shift, they do not scale."""
    return ratio if 1 in {ratio.numerator, ratio.denominator} else Fraction(1)


def _count(tensor: Any, factors: _Factors, walk: _Walk) -> None:  # noqa: ANN401
    if len(tensor.shape) != 4 or tensor.shape[1:3] == (1, 1):
        return
    walk.seen.append(factors)
    walk.floats += (tensor.shape[3] or 1) / float(factors[0] * factors[1])
