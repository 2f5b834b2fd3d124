"""What each kind of Keras layer does to places: the one table of them."""

from __future__ import annotations

from fractions import Fraction
from inspect import isfunction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tiledseg.tiling import Grow, Rule, Slide

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Rules", "is_kerass_own", "rules_of"]

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
"""Layers and ``keras.ops`` that treat each px by itself."""

_ALONG_AXIS = frozenset(
    """
    BatchNormalization LayerNormalization LogSoftmax Normalization RMSNormalization Softmax
    UnitNormalization All Any Max Mean Min Prod Std Sum Var
    """.split()  # noqa: SIM905  a list of names is read as one
)
"""They treat each px by itself if their axis is that of the channels."""

_TILE = frozenset(
    """
    AdaptiveAveragePooling2D AdaptiveMaxPooling2D AdditiveAttention Attention DotProductAttention Flatten
    GlobalAveragePooling2D GlobalMaxPooling2D GroupNormalization GroupedQueryAttention MultiHeadAttention
    """.split()  # noqa: SIM905  a list of names is read as one
)
"""They look at the whole tile, whatever their settings."""

_TRAINED = frozenset(
    """
    AlphaDropout BatchNormalization Dropout GaussianDropout GaussianNoise SpatialDropout2D
    """.split()  # noqa: SIM905
)
"""They look at the whole batch, or draw, when they are called for training."""

_SUPPORT = {"bilinear": 1, "bicubic": 2, "lanczos3": 3, "lanczos5": 5}
"""Half the width of an interpolation's kernel, in px of the input."""

_SAME = (Slide(), Slide())

_DECLARED: dict[str, Rules] = {"px": _SAME, "tile": "tile"}
"""What layers of this package say of themselves."""


def rules_of(node: Any, *, training: bool = False) -> Rules:  # noqa: ANN401  Keras has no types
    """Say what one use of a layer does to places."""
    operation, name = node.operation, type(node.operation).__name__
    if _is_ours(type(operation)):
        declared = getattr(operation, "looks_at", "")
        return declared if isinstance(declared, tuple) else _DECLARED.get(declared, "unknown")
    if not is_kerass_own(type(operation)) or getattr(operation, "data_format", None) == "channels_first":
        return "unknown"
    training = node.arguments.kwargs.get("training", training) is True
    if name in _TILE or (training and name in _TRAINED) or _has_places(node):
        return "tile"
    if not _is_plain(operation) or any(len(one.shape) != 4 for one in node.outputs):
        return "unknown"
    if name in _POINTWISE:
        return _SAME
    return _BY_NAME.get(name, _unknown)(operation, node)


def is_kerass_own(kind: Any) -> bool:  # noqa: ANN401
    """Say whether a class or function is Keras' own: what a subclass does is not known."""
    return str(getattr(kind, "__module__", "")).partition(".")[0] == "keras"


def _is_ours(kind: Any) -> bool:  # noqa: ANN401
    return str(getattr(kind, "__module__", "")).partition(".")[0] == "tiledseg"


def _is_plain(operation: Any) -> bool:  # noqa: ANN401
    """Say whether what a layer does besides its own work treats each px by itself."""
    if getattr(operation, "quantization_mode", None) is not None:  # scales may be drawn from the tile
        return False
    activation = getattr(operation, "activation", None)
    if activation is None or isfunction(activation):
        return activation is None or is_kerass_own(activation)
    return is_kerass_own(type(activation)) and type(activation).__name__ in _POINTWISE


def _has_places(node: Any) -> bool:  # noqa: ANN401
    """Say whether a constant of an operation differs from px to px, as a position embedding does."""
    values = [*node.arguments.args, *node.arguments.kwargs.values()]
    values += [part for value in values if isinstance(value, list | tuple) for part in value]
    symbolic = {id(tensor) for tensor in node.input_tensors}
    shapes = [tuple(value.shape) for value in values if hasattr(value, "shape") and id(value) not in symbolic]
    return any(size != 1 for shape in shapes for size in shape[:-1][-2:])


def _unknown(operation: Any, node: Any) -> Rules:  # noqa: ANN401, ARG001
    return "unknown"


def _window(operation: Any, node: Any) -> Rules:  # noqa: ANN401, ARG001
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


def _transposed(operation: Any, node: Any) -> Rules:  # noqa: ANN401, ARG001
    if operation.output_padding is not None or _pair(operation.dilation_rate) != (1, 1):
        return "unknown"
    same = operation.padding == "same"

    def along(kernel: int, step: int) -> Rule:
        left = max(kernel - step, 0) // 2 if same else 0
        return Grow(kernel, step, left, kernel - step - left if same else min(kernel - step, 0))

    y, x = map(along, _pair(operation.kernel_size), _pair(operation.strides))
    return y, x


def _upsampled(operation: Any, node: Any) -> Rules:  # noqa: ANN401, ARG001
    y, x = (_interpolated(factor, operation.interpolation) for factor in _pair(operation.size))
    return (y, x) if y and x else "unknown"


def _interpolated(factor: int, interpolation: str) -> Rule | None:
    """Give the rule of enlarging by a whole factor, px centres on the half."""
    if factor == 1:
        return Slide()
    if interpolation == "nearest":
        return Grow(factor, factor)
    if interpolation not in _SUPPORT:
        return None
    kernel = 2 * _SUPPORT[interpolation] * factor - factor % 2
    cut = (kernel - factor) // 2
    return Grow(kernel, factor, cut, cut)


def _resized(operation: Any, node: Any) -> Rules:  # noqa: ANN401
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


def _edges(operation: Any, node: Any) -> Rules:  # noqa: ANN401, ARG001
    """Treat cropping as padding by less than nothing."""
    sign = 1 if hasattr(operation, "padding") else -1
    y, x = operation.padding if sign == 1 else operation.cropping
    return Slide(1, 1, sign * y[0], sign * y[1]), Slide(1, 1, sign * x[0], sign * x[1])


def _padded(operation: Any, node: Any) -> Rules:  # noqa: ANN401, ARG001
    """``keras.ops.pad``, in any mode: the px added are spoiled, whatever they hold."""
    width = operation.pad_width
    if len(width) != 4 or any(width[0]):
        return "unknown"
    return Slide(1, 1, *width[1]), Slide(1, 1, *width[2])


def _along_channels(operation: Any, node: Any) -> Rules:  # noqa: ANN401
    axis = operation.axis
    if axis is None:
        return _SAME if type(operation).__name__ == "Normalization" else "tile"
    axes = set(axis) if isinstance(axis, list | tuple) else {axis}
    return _SAME if axes <= {-1, len(node.outputs[0].shape) - 1} else "tile"


def _averaged(operation: Any, node: Any) -> Rules:  # noqa: ANN401
    """Handle the layer, which averages maps, and the operation, which averages along an axis."""
    return _along_channels(operation, node) if hasattr(operation, "axis") else _SAME


def _joined(operation: Any, node: Any) -> Rules:  # noqa: ANN401
    return _SAME if operation.axis in {-1, len(node.outputs[0].shape) - 1} else "unknown"


def _dense(operation: Any, node: Any) -> Rules:  # noqa: ANN401, ARG001
    return _SAME  # on (N, h, w, C) it is a convolution of 1 px


def _prelu(operation: Any, node: Any) -> Rules:  # noqa: ANN401, ARG001
    return _SAME if set(operation.alpha.shape[:-1]) <= {1} else "tile"


def _pair(value: Any) -> tuple[int, int]:  # noqa: ANN401
    return (value[0], value[1]) if isinstance(value, list | tuple) else (value, value)


_BY_NAME: dict[str, Callable[[Any, Any], Rules]] = {
    **dict.fromkeys(_ALONG_AXIS, _along_channels),
    **dict.fromkeys(("Conv2D", "DepthwiseConv2D", "SeparableConv2D"), _window),
    **dict.fromkeys(("AveragePooling2D", "MaxPooling2D"), _window),
    **dict.fromkeys(("Cropping2D", "ZeroPadding2D"), _edges),
    "Average": _averaged,
    "Concatenate": _joined,
    "Conv2DTranspose": _transposed,
    "Dense": _dense,
    "PReLU": _prelu,
    "Pad": _padded,
    "Resizing": _resized,
    "UpSampling2D": _upsampled,
}
