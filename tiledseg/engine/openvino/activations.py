"""Activations, as functions and as layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import lazy
from tiledseg.engine.openvino.use import CHANNELS, Use, along_channels, channels, constant, rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from openvino import opset13 as ops

    from tiledseg.engine.openvino.use import Output
else:
    ops = lazy("openvino.opset13")


def activated(x: Output, activation: Any, use: Use) -> Output:  # noqa: ANN401
    """Apply an activation: the name of a function, or a layer of Keras without weights."""
    if isinstance(activation, str) and activation in _ACTIVATIONS:
        return _ACTIVATIONS[activation](x)
    raise use.refuse(f"activation={activation!r}")


def _softmax(x: Output) -> Output:
    return ops.softmax(x, CHANNELS if rank(x) == 4 else rank(x) - 1)


def _hard_sigmoid(x: Output) -> Output:
    return ops.multiply(ops.clamp(ops.add(x, constant(3.0)), 0.0, 6.0), constant(1 / 6))


def _selu(x: Output) -> Output:
    return ops.selu(x, constant(1.6732632423543772), constant(1.0507009873554805))


def leaky(x: Output, slope: float) -> Output:
    """Multiply negative values by a slope."""
    return ops.prelu(x, constant(np.full(1, slope)))


_ACTIVATIONS: dict[str, Callable[[Output], Output]] = {
    "linear": lambda x: x,
    "relu": ops.relu,
    "relu6": lambda x: ops.clamp(x, 0.0, 6.0),
    "leaky_relu": lambda x: leaky(x, 0.2),
    "elu": lambda x: ops.elu(x, 1.0),
    "selu": _selu,
    "gelu": lambda x: ops.gelu(x, "erf"),
    "silu": lambda x: ops.multiply(x, ops.sigmoid(x)),
    "mish": ops.mish,
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
    "softplus": ops.softplus,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": lambda x: ops.multiply(x, _hard_sigmoid(x)),
    "exponential": ops.exp,
    "softmax": _softmax,
}
"""The functions of ``keras.activations`` with their default arguments."""


def activation(use: Use) -> Output:
    """Build an Activation layer."""
    return activated(use.input(2, 4), use.take("activation"), use)


def relu(use: Use) -> Output:
    """Build a ReLU layer."""
    x, slope, largest = use.input(2, 4), use.number("negative_slope"), use.take("max_value")
    use.one_of("threshold", 0, 0.0)
    if slope and largest is not None:
        raise use.refuse(f"max_value={largest} with negative_slope={slope}")
    if largest is not None:
        if type(largest) not in {int, float} or not 0 < largest < math.inf:
            raise use.refuse(f"max_value={largest}")
        return ops.clamp(x, 0.0, float(largest))
    return leaky(x, slope) if slope else ops.relu(x)


def elu(use: Use) -> Output:
    """Build an ELU layer that never falls."""
    alpha = use.number("alpha")
    if alpha < 0:
        raise use.refuse(f"alpha={alpha}")
    return ops.elu(use.input(2, 4), alpha)


def prelu(use: Use) -> Output:
    """Build a PReLU layer with a slope per channel."""
    x = use.input()
    use.ignore("shared_axes")  # the shape of alpha shows them
    return ops.prelu(x, along_channels(use.weight("alpha", 1, 1, channels(x)).reshape(-1), x))


def softmax_layer(use: Use) -> Output:
    """Build a Softmax layer along the channels."""
    use.one_of("axis", -1, 3)
    return _softmax(use.input())


def activation_op(name: str) -> Callable[[Use], Output]:
    """Return the function for an operation that is an activation with its default arguments."""
    return lambda use: _ACTIVATIONS[name](use.input())
