"""Floating-point operations of a network, counted on the graph that TensorFlow traces of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["gflop"]


def gflop(model: Any, size: int) -> float:
    """Count the operations of one square tile, in 10^9.

        Multiplications and additions of convolutions and matrix products count, two for each pair. Other
    operations, for example activations and normalisations, do not count, as in papers.
    """
    spec = tf.TensorSpec((1, size, size, model.input_shape[-1]), tf.float32)
    concrete = tf.function(lambda tile: model(tile, training=False)).get_concrete_function(spec)
    graphs = [concrete.graph, *(function.graph for function in concrete.graph._functions.values())]
    return sum(_flop(operation) for graph in graphs for operation in graph.get_operations()) / 1e9


def _flop(operation: Any) -> int:
    count = _COUNTS.get(operation.type)
    return 2 * count(operation) if count else 0


def _convolved(operation: Any) -> int:
    """Each number of the output takes one kernel of one filter."""
    height, width, channels, _ = operation.inputs[1].shape
    return math.prod(operation.outputs[0].shape) * height * width * channels


def _depthwise(operation: Any) -> int:
    height, width, _, _ = operation.inputs[1].shape
    return math.prod(operation.outputs[0].shape) * height * width


def _transposed(operation: Any) -> int:
    """Each number of the input is spread by one kernel of each filter."""
    height, width, filters, _ = operation.inputs[1].shape
    return math.prod(operation.inputs[2].shape) * height * width * filters


def _multiplied(operation: Any) -> int:
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    inner = operation.inputs[0].shape[-2 if transposed else -1]
    return math.prod(operation.outputs[0].shape) * inner


def _summed(operation: Any) -> int:
    """Every combination of the letters of an Einstein sum is one product."""
    terms = operation.get_attr("equation").decode().split("->")[0].split(",")
    lengths = {
        letter: length
        for term, tensor in zip(terms, operation.inputs, strict=True)
        for letter, length in zip(term, tensor.shape, strict=True)
    }
    return math.prod(lengths.values())


_COUNTS: dict[str, Callable[[Any], int]] = {
    "BatchMatMulV2": _multiplied,
    "Conv2D": _convolved,
    "Conv2DBackpropInput": _transposed,
    "DepthwiseConv2dNative": _depthwise,
    "Einsum": _summed,
    "MatMul": _multiplied,
}
