"""Operations of OpenVINO as nodes of ONNX: a function for each kind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg.engine.layers import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray
    from tiledseg.engine.onnx.nodes import OnnxWriter, Operation

    _Translation = Callable[[OnnxWriter, Operation, list[Any]], Any]

_TO_THE_END = np.iinfo(np.int64).max


def _name(writer: OnnxWriter, value: Any) -> str:  # noqa: ANN401
    """Return the name of an input: of a map, or of a constant."""
    return value if isinstance(value, str) else writer.constant(value[0])


def _ints(value: Any) -> list[int]:  # noqa: ANN401
    return [int(one) for one in np.ravel(value[0])]


def _plain(kind: str, **fixed: Any) -> _Translation:  # noqa: ANN401
    """Return the function for an operation that ONNX has under the same or another name."""

    def translated(writer: OnnxWriter, _operation: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
        return writer.node(kind, *(_name(writer, one) for one in inputs), **fixed)

    return translated


def _pads(attributes: dict[str, Any]) -> list[int]:
    return [*attributes["pads_begin"], *attributes["pads_end"]]


def _window(attributes: dict[str, Any]) -> dict[str, Any]:
    if attributes["auto_pad"] not in {"explicit", "notset"}:
        raise UnsupportedError(f"padding {attributes['auto_pad']}")
    names = [name for name in ("strides", "dilations") if name in attributes]
    return {"pads": _pads(attributes), **{name: list(attributes[name]) for name in names}}


def _convolution(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    x, kernel = inputs
    return writer.node("Conv", x, writer.constant(kernel[0]), **_window(one.attributes))


def _group_convolution(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    x, (kernel, *_) = inputs
    joined = writer.constant(kernel.reshape(-1, *kernel.shape[2:]))
    return writer.node("Conv", x, joined, group=kernel.shape[0], **_window(one.attributes))


def _transposed(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    x, kernel = inputs
    added = list(one.attributes["output_padding"])
    return writer.node(
        "ConvTranspose", x, writer.constant(kernel[0]), output_padding=added, **_window(one.attributes)
    )


def _pooled(kind: str) -> _Translation:
    def pooled(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
        settings = _window(one.attributes)
        settings.pop("dilations", None)
        if one.attributes["rounding_type"] != "floor":
            raise UnsupportedError(f"pooling that rounds {one.attributes['rounding_type']}")
        return writer.node(kind, inputs[0], kernel_shape=list(one.attributes["kernel"]), **settings)

    return pooled


def _reduced(kind: str) -> _Translation:
    def reduced(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
        keep = int(one.attributes["keep_dims"])
        return writer.node(kind, inputs[0], axes=_ints(inputs[1]), keepdims=keep)

    return reduced


def _normalized(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    """Subtract the mean and divide by the standard deviation."""
    x, axes, epsilon = inputs[0], _ints(inputs[1]), float(one.attributes["eps"])
    if len(one.shapes_in[0]) == 3 and axes == [2]:  # of groups of channels
        groups = one.shapes_in[0][1][0]
        scale, offset = writer.floats(np.ones(groups)), writer.floats(np.zeros(groups))
        return writer.node("InstanceNormalization", x, scale, offset, epsilon=epsilon)
    centred = writer.node("Sub", x, writer.node("ReduceMean", x, axes=axes, keepdims=1))
    squares = writer.node("Mul", centred, centred)
    variance = writer.node("ReduceMean", squares, axes=axes, keepdims=1)
    spread = writer.node("Sqrt", writer.node("Add", variance, writer.floats(epsilon)))
    return writer.node("Div", centred, spread)


def _transpose(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    return writer.node("Transpose", inputs[0], perm=_ints(inputs[1]))


def _multiplied(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    names = [_name(writer, value) for value in inputs]
    for place, setting in enumerate(("transpose_a", "transpose_b")):
        if one.attributes[setting]:
            order = list(range(len(one.shapes_in[place])))
            names[place] = writer.node("Transpose", names[place], perm=[*order[:-2], order[-1], order[-2]])
    return writer.node("MatMul", *names)


def _reshaped(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    return writer.node("Reshape", inputs[0], writer.shape(one.shapes_out[0], like=one.shapes_in[0]))


def _broadcast(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    before, after = one.shapes_in[0], one.shapes_out[0]
    lengths = [(1,) * len(new) if new == old else new for old, new in zip(before, after, strict=True)]
    names = [
        writer.constant([new[0]], np.int64) if len(set(new)) == 1 else writer.length(new) for new in lengths
    ]
    return writer.node("Expand", inputs[0], writer.node("Concat", *names, axis=0))


def _interpolated(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    scales = []
    for before, after in zip(one.shapes_in[0], one.shapes_out[0], strict=True):
        factors = {new / old for old, new in zip(before, after, strict=True)}
        if len(factors) > 1:
            raise UnsupportedError("an interpolation by another factor at each size")
        scales.append(factors.pop())
    attributes = one.attributes
    mode = {"linear_onnx": "linear", "nearest": "nearest"}[attributes["mode"]]
    settings = {"mode": mode, "coordinate_transformation_mode": attributes["coordinate_transformation_mode"]}
    if mode == "nearest":
        settings["nearest_mode"] = attributes["nearest_mode"]
    return writer.node("Resize", inputs[0], "", writer.floats(scales), **settings)


def _padded(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    pads = writer.constant([*_ints(inputs[1]), *_ints(inputs[2])], np.int64)
    if one.attributes["pad_mode"] != "constant":
        raise UnsupportedError(f"padding {one.attributes['pad_mode']}")
    return writer.node("Pad", inputs[0], pads, writer.floats(inputs[3][0]))


def _sliced(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    x, (start, *_), stops, (step, *_), (axes, *_) = inputs
    ends = []
    for place, axis in enumerate(np.ravel(axes)):
        lengths = one.shapes_in[0][int(axis)]
        cut = {int(stop[place]) - length for stop, length in zip(stops, lengths, strict=True)}
        if len(cut) > 1:
            raise UnsupportedError("a slice that ends elsewhere at each size")
        ends.append(cut.pop() or _TO_THE_END)
    return _slice(writer, x, np.ravel(start), ends, np.ravel(axes), np.ravel(step))


def _slice(
    writer: OnnxWriter,
    x: str,
    starts: AnyArray | Sequence[int],
    ends: Sequence[int],
    axes: AnyArray | Sequence[int],
    steps: AnyArray | Sequence[int] = (),
) -> Any:  # noqa: ANN401
    lists = [starts, ends, axes, steps if len(steps) else [1] * len(ends)]
    return writer.node("Slice", x, *(writer.constant(one, np.int64) for one in lists))


def _rolled(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    """Move the end of an axis to its beginning."""
    x = inputs[0]
    for shift, axis in zip(_ints(inputs[1]), _ints(inputs[2]), strict=True):
        if shift:
            parts = [
                _slice(writer, x, [-shift], [_TO_THE_END], [axis]),
                _slice(writer, x, [0], [-shift], [axis]),
            ]
            x = writer.node("Concat", *parts, axis=axis)
    return x


def _split(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    return writer.node(
        "Split", inputs[0], outputs=int(one.attributes["num_splits"]), axis=_ints(inputs[1])[0]
    )


def _squeezed(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    return writer.node("Squeeze", inputs[0], writer.constant(_ints(inputs[1]), np.int64))


def _gathered(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    places = writer.constant(np.asarray(inputs[1][0], np.int64))
    return writer.node("Gather", inputs[0], places, axis=_ints(inputs[2])[0])


def _concatenated(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    return writer.node("Concat", *(_name(writer, value) for value in inputs), axis=one.attributes["axis"])


def _softmax(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    return writer.node("Softmax", inputs[0], axis=one.attributes["axis"])


def _blocks(kind: str, **fixed: Any) -> _Translation:  # noqa: ANN401
    def moved(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
        if one.attributes["mode"] != "blocks_first":
            raise UnsupportedError(f"{kind} of {one.attributes['mode']}")
        return writer.node(kind, inputs[0], blocksize=one.attributes["block_size"], **fixed)

    return moved


def _clamped(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    limits = [writer.floats(one.attributes[name]) for name in ("min", "max")]
    return writer.node("Clip", inputs[0], *limits)


def _sloped(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    x, (slope, *_) = inputs
    if slope.size == 1:
        return writer.node("LeakyRelu", x, alpha=float(np.ravel(slope)[0]))
    return writer.node("PRelu", x, writer.constant(slope))


def _selu(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    x, alpha, gamma = inputs
    alpha, gamma = (float(np.ravel(one[0])[0]) for one in (alpha, gamma))
    return writer.node("Selu", x, alpha=alpha, gamma=gamma)


def _elu(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    return writer.node("Elu", inputs[0], alpha=float(one.attributes["alpha"]))


def _gelu(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    """Write x / 2 (1 + erf(x / sqrt 2)), which operator sets before 20 have no name for."""
    if one.attributes["approximation_mode"].lower() != "erf":
        raise UnsupportedError("an approximate gelu")
    (x,) = inputs
    erf = writer.node("Erf", writer.node("Mul", x, writer.floats(math.sqrt(0.5))))
    factor = writer.node("Add", erf, writer.floats(1.0))
    return writer.node("Mul", writer.node("Mul", x, factor), writer.floats(0.5))


def _mish(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:  # noqa: ANN401
    (x,) = inputs
    return writer.node("Mul", x, writer.node("Tanh", writer.node("Softplus", x)))


TRANSLATIONS: dict[str, _Translation] = {
    "Add": _plain("Add"),
    "AvgPool": _pooled("AveragePool"),
    "Broadcast": _broadcast,
    "Clamp": _clamped,
    "Concat": _concatenated,
    "Convolution": _convolution,
    "ConvolutionBackpropData": _transposed,
    "DepthToSpace": _blocks("DepthToSpace", mode="DCR"),
    "Divide": _plain("Div"),
    "Elu": _elu,
    "Exp": _plain("Exp"),
    "Gather": _gathered,
    "Gelu": _gelu,
    "GroupConvolution": _group_convolution,
    "Interpolate": _interpolated,
    "MVN": _normalized,
    "MatMul": _multiplied,
    "MaxPool": _pooled("MaxPool"),
    "Maximum": _plain("Max"),
    "Minimum": _plain("Min"),
    "Mish": _mish,
    "Multiply": _plain("Mul"),
    "PRelu": _sloped,
    "Pad": _padded,
    "ReduceMax": _reduced("ReduceMax"),
    "ReduceMean": _reduced("ReduceMean"),
    "Relu": _plain("Relu"),
    "Reshape": _reshaped,
    "Roll": _rolled,
    "Selu": _selu,
    "Sigmoid": _plain("Sigmoid"),
    "Slice": _sliced,
    "SoftPlus": _plain("Softplus"),
    "Softmax": _softmax,
    "SpaceToDepth": _blocks("SpaceToDepth"),
    "Split": _split,
    "Squeeze": _squeezed,
    "Subtract": _plain("Sub"),
    "Tanh": _plain("Tanh"),
    "Transpose": _transpose,
}
"""By the kind of operation."""
