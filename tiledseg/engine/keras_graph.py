"""Properties of a Keras graph: total stride, receptive field, size of its feature maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from inspect import isfunction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tiledseg.engine.graph import Graph, period, shrinking, total_stride
from tiledseg.tiling import Axis, Grow, ReceptiveField, Rule, Slide, Step

if TYPE_CHECKING:
    from collections.abc import Callable

_Model: TypeAlias = Any  # Keras has no types
_Operation: TypeAlias = Any  # a layer or an operation of ``keras.ops``
_Node: TypeAlias = Any  # one use of an operation
_Tensor: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class _Map:
    """A tensor: its number, and the px of the input per px of it."""

    number: int
    scale: tuple[Fraction, Fraction]


_INPUT = _Map(0, (Fraction(1), Fraction(1)))


@dataclass(slots=True)
class _Walk:
    """The layers passed so far; a tensor without positions, as after a global pooling, is None."""

    steps: tuple[list[Step], list[Step]] = field(default_factory=lambda: ([], []))
    scales: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    floats: list[float] = field(default_factory=list)  # of each map, per px of the input
    products: float = 0.0
    maps: int = 1
    tile_dependent: dict[str, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)


def read_graph(model: _Model, input_shape: tuple[int | None, int | None, int], classes: int | None) -> Graph:
    """Walk through a functional Keras graph and the graphs nested in it."""
    height, width, channels = input_shape
    walk, output = _Walk(), None
    graph = graph_of(model)
    if graph is None:
        walk.unknown[f"{type(model).__name__} {model.name!r}"] = None
    else:
        output = _walk(graph, [_INPUT], walk, training=False)[0]
    stride = total_stride(walk.scales)
    return Graph(
        tile_size=(height, width),
        channels=channels,
        classes=classes,
        stride=stride,
        floats_per_px=_alive(walk, channels) or 16.0,
        products_per_px=walk.products,
        receptive_field=_receptive_field(walk, output, stride),
    )


def _alive(walk: _Walk, channels: int) -> float:
    """Return the most numbers that maps have together at any time of the computation, per px of the input."""
    floats, steps = [float(channels), *walk.floats], walk.steps[0]
    last = {number: place for place, step in enumerate(steps) for number in step.inputs}
    alive = most = floats[0]
    for place, step in enumerate(steps):
        alive += floats[step.output]
        most = max(most, alive)
        alive -= sum(floats[number] for number in set(step.inputs) if last[number] == place)
    return most


def _receptive_field(walk: _Walk, output: _Map | None, stride: tuple[int, int]) -> ReceptiveField:
    if not walk.tile_dependent and not walk.unknown and output is not None:
        y, x = (
            Axis(tuple(steps), output.number, step) for steps, step in zip(walk.steps, stride, strict=True)
        )
        if y.fits and x.fits:
            return ReceptiveField((y, x))
        walk.unknown["layers whose maps differ in size"] = None
    return ReceptiveField(None, tuple(walk.tile_dependent), tuple(walk.unknown))


def graph_of(operation: _Operation) -> _Model:
    """Return the graph that a network runs; None where it has none, or has a call of its own."""
    graph = getattr(operation, "_functional", None) or operation
    own = is_keras(getattr(type(operation), "call", None))
    return graph if own and hasattr(graph, "_nodes_by_depth") else None


def _walk(graph: _Model, incoming: list[_Map | None], walk: _Walk, *, training: bool) -> list[_Map | None]:
    local = dict(zip(map(id, graph.inputs), incoming, strict=True))
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input:
                continue
            before = [local[id(tensor)] for tensor in node.input_tensors]
            after = _after(node, before, walk, training=training)
            local.update(zip(map(id, node.outputs), after, strict=True))
    return [local[id(tensor)] for tensor in graph.outputs]


def _after(node: _Node, before: list[_Map | None], walk: _Walk, *, training: bool) -> list[_Map | None]:
    inner = graph_of(node.operation)
    if inner is not None:
        return _walk(inner, before, walk, training=node.arguments.kwargs.get("training", training) is True)
    rules = _rules_of(node, training=training)
    inputs = [one for one in before if one is not None]
    if rules == "tile":
        walk.tile_dependent[_name(node.operation)] = None
    if not inputs:
        return [None for _ in node.outputs]
    if rules == "unknown" or (len(node.outputs) > 1 and rules != "tile"):
        walk.unknown[_name(node.operation)] = None
    if isinstance(rules, str):
        rules = (_guessed(node, 0), _guessed(node, 1))
    walk.products += _products(node.operation, max(one.scale for one in inputs), rules)
    return [_add_step(tensor, inputs, rules, walk) for tensor in node.outputs]


def _add_step(tensor: _Tensor, inputs: list[_Map], rules: tuple[Rule, Rule], walk: _Walk) -> _Map | None:
    """Add a layer to the walk, and give its output a number."""
    if len(tensor.shape) != 4 or tensor.shape[1:3] == (1, 1):
        return None
    largest = max(one.scale for one in inputs)
    scale = (largest[0] * shrinking(rules[0]), largest[1] * shrinking(rules[1]))
    made = _Map(walk.maps, scale)
    for steps, rule in zip(walk.steps, rules, strict=True):
        steps.append(Step(tuple(one.number for one in inputs), made.number, rule))
    walk.maps += 1
    walk.scales.append((scale[0] * period(rules[0]), scale[1] * period(rules[1])))
    walk.floats.append((tensor.shape[3] or 1) / float(scale[0] * scale[1]))
    return made


def _products(operation: _Operation, scale: tuple[Fraction, Fraction], rules: tuple[Rule, Rule]) -> float:
    """Count a layer's multiplications by weights: each kernel is applied to each px of the smaller map."""
    kernels = sum(math.prod(one.shape) for one in getattr(operation, "weights", ()) if len(one.shape) > 1)
    larger = (max(one, one * shrinking(rule)) for one, rule in zip(scale, rules, strict=True))
    return float(kernels / math.prod(larger))


def _guessed(node: _Node, axis: int) -> Rule:
    """Guess the stride of an unknown layer, for the total stride only."""
    strides = getattr(node.operation, "strides", None)
    if strides is not None:
        step = strides[axis] if isinstance(strides, tuple | list) else strides
        grows = "Transpose" in type(node.operation).__name__
        return Grow(step, step) if grows else Slide(step, step)
    sizes = [one.shape[1 + axis] for one in (node.input_tensors[0], node.outputs[0]) if len(one.shape) == 4]
    if len(sizes) < 2 or not all(sizes):
        return Slide()
    ratio = Fraction(sizes[0], sizes[1])  # padding and cropping give no whole ratio
    if ratio.numerator == 1:
        return Grow(ratio.denominator, ratio.denominator)
    return Slide(ratio.numerator, ratio.numerator) if ratio.denominator == 1 else Slide()


def _name(operation: _Operation) -> str:
    return f"{type(operation).__name__} {operation.name!r}"


Rules: TypeAlias = tuple[Rule, Rule] | Literal["tile", "unknown"]
"""A rule along y and one along x; ``tile`` for what depends on the tile, ``unknown`` for the rest."""

_POINTWISE = frozenset(
    """
    Activation ActivityRegularization AlphaDropout Dropout ELU GaussianDropout GaussianNoise Identity
    InputLayer LayerScale LeakyReLU ReLU Rescaling SpatialDropout2D
    Absolute Add Cast Ceil Celu Clip Copy Cos Cosh Divide DivideNoNan Elu Equal Erf Exp Exp2 Expm1
    Floor Gelu Greater GreaterEqual HardSigmoid HardSilu HardTanh LeakyRelu Less LessEqual Log Log10 Log1p
    Log2 LogSigmoid LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Multiply Negative NotEqual Power
    Reciprocal Relu Relu6 Round Rsqrt SaturateCast Selu Sigmoid Sign Silu Sin Sinh Softplus Softsign Sqrt
    Square Squareplus StopGradient Subtract Tanh TrueDivide Where
    """.split()  # noqa: SIM905  a list of names is read as one
)
"""Layers and ``keras.ops`` whose output px depends only on the same input px."""

_ALONG_AXIS = frozenset(
    """
    BatchNormalization LayerNormalization LogSoftmax Normalization RMSNormalization Softmax
    UnitNormalization All Any Max Mean Min Prod Std Sum Var
    """.split()  # noqa: SIM905  a list of names is read as one
)
"""They are pointwise if their axis is that of the channels."""

_TILE = frozenset(
    """
    AdaptiveAveragePooling2D AdaptiveMaxPooling2D AdditiveAttention Attention DotProductAttention Flatten
    GlobalAveragePooling2D GlobalMaxPooling2D GroupNormalization GroupedQueryAttention MultiHeadAttention
    """.split()  # noqa: SIM905  a list of names is read as one
)
"""They depend on the whole tile with any settings."""

_TRAINED = frozenset(
    """
    AlphaDropout BatchNormalization Dropout GaussianDropout GaussianNoise SpatialDropout2D
    """.split()  # noqa: SIM905
)
"""They depend on the whole batch or on random numbers when they are called for training."""

_SUPPORT = {"bilinear": 1, "bicubic": 2, "lanczos3": 3, "lanczos5": 5}
"""Half the width of an interpolation's kernel, in px of the input."""

_SAME = (Slide(), Slide())

_DECLARED: dict[str, Rules] = {"px": _SAME, "tile": "tile"}
"""Values of `context`, by which layers of this package declare their rule."""


def _rules_of(node: _Node, *, training: bool = False) -> Rules:
    """Return the rules of one use of a layer."""
    operation, name = node.operation, type(node.operation).__name__
    if is_ours(type(operation)):
        declared = getattr(operation, "context", "")
        return declared if isinstance(declared, tuple) else _DECLARED.get(declared, "unknown")
    if not is_keras(type(operation)) or getattr(operation, "data_format", None) == "channels_first":
        return "unknown"
    training = node.arguments.kwargs.get("training", training) is True
    if name in _TILE or (training and name in _TRAINED) or _has_positions(node):
        return "tile"
    if not is_pointwise(operation) or any(len(one.shape) != 4 for one in node.outputs):
        return "unknown"
    if name in _POINTWISE:
        return _SAME
    rule = _BY_NAME.get(name)
    return rule(node) if rule else "unknown"


def is_keras(kind: Any) -> bool:
    """Return whether a class or function is Keras' own; subclasses are not, since their call is unknown."""
    return str(getattr(kind, "__module__", "")).partition(".")[0] == "keras"


def is_ours(kind: Any) -> bool:
    """Return whether a class is of this package."""
    return str(getattr(kind, "__module__", "")).partition(".")[0] == "tiledseg"


def is_pointwise(operation: _Operation) -> bool:
    """Return whether the activation and quantization of a layer are pointwise."""
    if getattr(operation, "quantization_mode", None) is not None:  # its scales may depend on the tile
        return False
    activation = getattr(operation, "activation", None)
    if activation is None or isfunction(activation):
        return activation is None or is_keras(activation)
    return is_keras(type(activation)) and type(activation).__name__ in _POINTWISE


def _has_positions(node: _Node) -> bool:
    """Return whether a constant of an operation differs between px, as a position embedding does."""
    values = [*node.arguments.args, *node.arguments.kwargs.values()]
    values += [part for value in values if isinstance(value, list | tuple) for part in value]
    symbolic = {id(tensor) for tensor in node.input_tensors}
    shapes = [tuple(value.shape) for value in values if hasattr(value, "shape") and id(value) not in symbolic]
    return any(size != 1 for shape in shapes for size in shape[:-1][-2:])


def _window(node: _Node) -> Rules:
    operation = node.operation
    kernel = operation.kernel_size if hasattr(operation, "kernel_size") else operation.pool_size
    dilation = _pair(getattr(operation, "dilation_rate", 1))
    left = {"same": None, "valid": 0}.get(operation.padding, -1)
    if left == -1:
        return "unknown"
    y, x = (
        Slide((size - 1) * spread + 1, step, left)
        for size, spread, step in zip(_pair(kernel), dilation, _pair(operation.strides), strict=True)
    )
    return y, x


def _transposed(node: _Node) -> Rules:
    operation = node.operation
    if operation.output_padding is not None or _pair(operation.dilation_rate) != (1, 1):
        return "unknown"
    same = operation.padding == "same"

    def along(kernel: int, step: int) -> Rule:
        left = max(kernel - step, 0) // 2 if same else 0
        return Grow(kernel, step, left, kernel - step - left if same else min(kernel - step, 0))

    y, x = map(along, _pair(operation.kernel_size), _pair(operation.strides))
    return y, x


def _upsampled(node: _Node) -> Rules:
    operation = node.operation
    y, x = (_interpolated(factor, operation.interpolation) for factor in _pair(operation.size))
    return (y, x) if y and x else "unknown"


def _interpolated(factor: int, interpolation: str) -> Rule | None:
    """Return the rule of an interpolation by a whole factor, px centres at halves."""
    if factor == 1:
        return Slide()
    if interpolation == "nearest":
        return Grow(factor, factor)
    if interpolation not in _SUPPORT:
        return None
    kernel = 2 * _SUPPORT[interpolation] * factor - factor % 2
    cut = (kernel - factor) // 2
    return Grow(kernel, factor, cut, cut)


def _resized(node: _Node) -> Rules:
    operation = node.operation
    if operation.antialias or operation.crop_to_aspect_ratio or operation.pad_to_aspect_ratio:
        return "unknown"
    sizes = zip(node.input_tensors[0].shape[1:3], node.outputs[0].shape[1:3], strict=True)
    y, x = (_resized_along(before, after, operation.interpolation) for before, after in sizes)
    return (y, x) if y and x else "unknown"


def _resized_along(before: int | None, after: int | None, interpolation: str) -> Rule | None:
    ratio = Fraction(before or 0, after or 1)
    if not ratio:
        return None
    if ratio.numerator == 1:
        return _interpolated(ratio.denominator, interpolation)
    if ratio.denominator != 1 or interpolation not in {"nearest", "bilinear"}:
        return None
    step = int(ratio)
    kernel = 2 if interpolation == "bilinear" and step % 2 == 0 else 1
    first = (step - kernel + 1) // 2
    return Slide(kernel, step, -first, first + kernel - step)


def _edges(node: _Node) -> Rules:
    """Treat cropping as negative padding."""
    operation = node.operation
    sign = 1 if hasattr(operation, "padding") else -1
    y, x = operation.padding if sign == 1 else operation.cropping
    return Slide(1, 1, sign * y[0], sign * y[1]), Slide(1, 1, sign * x[0], sign * x[1])


def _padded(node: _Node) -> Rules:
    """``keras.ops.pad`` in any mode: the added px count as spoiled."""
    width = node.operation.pad_width
    if len(width) != 4 or any(width[0]):
        return "unknown"
    return Slide(1, 1, *width[1]), Slide(1, 1, *width[2])


def _along_channels(node: _Node) -> Rules:
    axis = node.operation.axis
    if axis is None:
        return _SAME if type(node.operation).__name__ == "Normalization" else "tile"
    axes = set(axis) if isinstance(axis, list | tuple) else {axis}
    return _SAME if axes <= {-1, len(node.outputs[0].shape) - 1} else "tile"


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, list | tuple) else (value, value)


_BY_NAME: dict[str, Callable[[_Node], Rules]] = {
    **dict.fromkeys(_ALONG_AXIS, _along_channels),
    **dict.fromkeys(("Conv2D", "DepthwiseConv2D", "SeparableConv2D"), _window),
    **dict.fromkeys(("AveragePooling2D", "MaxPooling2D"), _window),
    **dict.fromkeys(("Cropping2D", "ZeroPadding2D"), _edges),
    # The layer averages maps, the operation averages along an axis.
    "Average": lambda node: _along_channels(node) if hasattr(node.operation, "axis") else _SAME,
    "Concatenate": lambda node: (
        _SAME if node.operation.axis in {-1, len(node.outputs[0].shape) - 1} else "unknown"
    ),
    "Conv2DTranspose": _transposed,
    "Dense": lambda _: _SAME,  # on (N, h, w, C) it is a convolution of 1 px
    "PReLU": lambda node: _SAME if set(node.operation.alpha.shape[:-1]) <= {1} else "tile",
    "Pad": _padded,
    "Resizing": _resized,
    "UpSampling2D": _upsampled,
}
