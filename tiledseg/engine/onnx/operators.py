"""Operations of OpenVINO as nodes of ONNX: what is written so far, and a function for each kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._lazy import extra
from tiledseg.engine.layers import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray

INPUT, OUTPUT = "image", "output"
_TO_THE_END = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of OpenVINO, seen at all sizes."""

    kind: str
    attributes: dict[str, Any]
    inputs: tuple[tuple[int, int], ...]  # the operation and the output that each input comes from
    shapes_in: tuple[tuple[tuple[int, ...], ...], ...]  # of each input, by axis, at each size
    shapes_out: tuple[tuple[tuple[int, ...], ...], ...]
    values: tuple[AnyArray, ...]  # of a constant, at each size


class FixedError(Exception):
    """An operation depends on the size in a way that no proportion describes."""


class OnnxWriter:
    """The nodes and constants that have been written so far."""

    def __init__(self, sizes: Sequence[tuple[int, ...]], height_axis: int) -> None:
        self._helper, self._numpy = extra("onnx.helper", "onnx"), extra("onnx.numpy_helper", "onnx")
        self.sizes = sizes  # (N, h, w, C) of the input
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._axes = {"n": 0, "h": height_axis, "w": height_axis + 1}
        self._known: dict[Any, str] = {}
        self._count = 0

    def name(self, kind: str) -> str:
        """Return a name that is not used yet."""
        self._count += 1
        return f"{kind.lower()}_{self._count}"

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Write a node; return the name of its output, or the names of several."""
        names = [self.name(kind) for _ in range(outputs)]
        self.nodes.append(self._helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: AnyArray | Sequence[int], dtype: Any = None) -> str:
        """Write a constant, int64 or float32 as it is; return its name."""
        array = np.ascontiguousarray(values, dtype)
        array = array.reshape(np.shape(values))  # the line above gives a number an axis
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key in self._known:
            return self._known[key]
        name = self.name("constant")
        self.constants.append(self._numpy.from_array(array, name))
        if key is not None:
            self._known[key] = name
        return name

    def floats(self, values: Any) -> str:
        """Write a constant of float32."""
        return self.constant(np.asarray(values, np.float32))

    def shape(self, lengths: Sequence[tuple[int, ...]], like: Sequence[tuple[int, ...]] = ()) -> str:
        """Write a shape, whose lengths are known at each size; an axis that is as in `like` is copied."""
        parts: list[int | None] = [
            one[0]
            if len(set(one)) == 1 and one[0] > 0
            else 0
            if place < len(like) and one == like[place]
            else None
            for place, one in enumerate(lengths)
        ]
        if parts.count(None) == 1:
            return self.constant([-1 if one is None else one for one in parts], np.int64)
        if None not in parts:
            return self.constant([one or 0 for one in parts], np.int64)
        names = [
            self.length(lengths[place]) if one is None else self.constant([one], np.int64)
            for place, one in enumerate(parts)
        ]
        return str(self.node("Concat", *names, axis=0))

    def length(self, lengths: tuple[int, ...]) -> str:
        """Write a length that is in proportion to the input's height, width or number of px."""
        for names in (("h",), ("w",), ("h", "w"), ("n",)):
            found = [np.prod([size["nhwc".index(one)] for one in names], dtype=int) for size in self.sizes]
            shares = {Fraction(one, int(two)) for one, two in zip(lengths, found, strict=True)}
            if len(shares) == 1:
                return self._share(names, shares.pop())
        raise FixedError("a length that is not in proportion to height and width")

    def rename(self, output: str) -> None:
        """Give the output of the network its name."""
        output = self.node("Identity", output) if output == INPUT else output
        for node in self.nodes:
            for side in (node.input, node.output):
                side[:] = [OUTPUT if one == output else one for one in side]

    def _share(self, names: Sequence[str], share: Fraction) -> str:
        key = (tuple(names), share)
        if key not in self._known:
            value = self._input_length(names[0])
            for one in names[1:]:
                value = self.node("Mul", value, self._input_length(one))
            if share.numerator != 1:
                value = self.node("Mul", value, self.constant([share.numerator], np.int64))
            if share.denominator != 1:
                value = self.node("Div", value, self.constant([share.denominator], np.int64))
            self._known[key] = value
        return self._known[key]

    def _input_length(self, name: str) -> str:
        if ("input", name) not in self._known:
            if "shape" not in self._known:
                self._known["shape"] = self.node("Shape", INPUT)
            index = self.constant([self._axes[name]], np.int64)
            self._known["input", name] = self.node("Gather", self._known["shape"], index, axis=0)
        return self._known["input", name]


_Translation: TypeAlias = Callable[[OnnxWriter, Operation, list[Any]], Any]


def _name(writer: OnnxWriter, value: Any) -> str:
    """Return the name of an input: of a map, or of a constant."""
    return value if isinstance(value, str) else writer.constant(value[0])


def _ints(value: Any) -> list[int]:
    return [int(one) for one in np.ravel(value[0])]


def _plain(kind: str, **fixed: Any) -> _Translation:
    """Return the function for an operation that ONNX has under the same or another name."""

    def translated(writer: OnnxWriter, _operation: Operation, inputs: list[Any]) -> Any:
        return writer.node(kind, *(_name(writer, one) for one in inputs), **fixed)

    return translated


def _window(attributes: dict[str, Any]) -> dict[str, Any]:
    if attributes["auto_pad"] not in {"explicit", "notset"}:
        raise UnsupportedError(f"padding {attributes['auto_pad']}")
    names = [name for name in ("strides", "dilations") if name in attributes]
    pads = [*attributes["pads_begin"], *attributes["pads_end"]]
    return {"pads": pads, **{name: list(attributes[name]) for name in names}}


def _group_convolution(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
    x, (kernel, *_) = inputs
    joined = writer.constant(kernel.reshape(-1, *kernel.shape[2:]))
    return writer.node("Conv", x, joined, group=kernel.shape[0], **_window(one.attributes))


def _transposed(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
    x, kernel = inputs
    added = list(one.attributes["output_padding"])
    return writer.node(
        "ConvTranspose", x, writer.constant(kernel[0]), output_padding=added, **_window(one.attributes)
    )


def _pooled(kind: str) -> _Translation:
    def pooled(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
        settings = _window(one.attributes)
        settings.pop("dilations", None)
        if one.attributes["rounding_type"] != "floor":
            raise UnsupportedError(f"pooling that rounds {one.attributes['rounding_type']}")
        return writer.node(kind, inputs[0], kernel_shape=list(one.attributes["kernel"]), **settings)

    return pooled


def _reduced(kind: str) -> _Translation:
    def reduced(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
        keep = int(one.attributes["keep_dims"])
        return writer.node(kind, inputs[0], axes=_ints(inputs[1]), keepdims=keep)

    return reduced


def _normalized(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
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


def _multiplied(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
    names = [_name(writer, value) for value in inputs]
    for place, setting in enumerate(("transpose_a", "transpose_b")):
        if one.attributes[setting]:
            order = list(range(len(one.shapes_in[place])))
            names[place] = writer.node("Transpose", names[place], perm=[*order[:-2], order[-1], order[-2]])
    return writer.node("MatMul", *names)


def _broadcast(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
    before, after = one.shapes_in[0], one.shapes_out[0]
    lengths = [(1,) * len(new) if new == old else new for old, new in zip(before, after, strict=True)]
    names = [
        writer.constant([new[0]], np.int64) if len(set(new)) == 1 else writer.length(new) for new in lengths
    ]
    return writer.node("Expand", inputs[0], writer.node("Concat", *names, axis=0))


def _interpolated(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
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


def _padded(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
    pads = writer.constant([*_ints(inputs[1]), *_ints(inputs[2])], np.int64)
    if one.attributes["pad_mode"] != "constant":
        raise UnsupportedError(f"padding {one.attributes['pad_mode']}")
    return writer.node("Pad", inputs[0], pads, writer.floats(inputs[3][0]))


def _sliced(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
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
) -> Any:
    lists = [starts, ends, axes, steps if len(steps) else [1] * len(ends)]
    return writer.node("Slice", x, *(writer.constant(one, np.int64) for one in lists))


def _rolled(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:
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


def _split(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
    return writer.node(
        "Split", inputs[0], outputs=int(one.attributes["num_splits"]), axis=_ints(inputs[1])[0]
    )


def _gathered(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:
    places = writer.constant(np.asarray(inputs[1][0], np.int64))
    return writer.node("Gather", inputs[0], places, axis=_ints(inputs[2])[0])


def _blocks(kind: str, **fixed: Any) -> _Translation:
    def moved(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
        if one.attributes["mode"] != "blocks_first":
            raise UnsupportedError(f"{kind} of {one.attributes['mode']}")
        return writer.node(kind, inputs[0], blocksize=one.attributes["block_size"], **fixed)

    return moved


def _clamped(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
    limits = [writer.floats(one.attributes[name]) for name in ("min", "max")]
    return writer.node("Clip", inputs[0], *limits)


def _sloped(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:
    x, (slope, *_) = inputs
    if slope.size == 1:
        return writer.node("LeakyRelu", x, alpha=float(np.ravel(slope)[0]))
    return writer.node("PRelu", x, writer.constant(slope))


def _selu(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:
    x, alpha, gamma = inputs
    alpha, gamma = (float(np.ravel(one[0])[0]) for one in (alpha, gamma))
    return writer.node("Selu", x, alpha=alpha, gamma=gamma)


def _gelu(writer: OnnxWriter, one: Operation, inputs: list[Any]) -> Any:
    """Write x / 2 (1 + erf(x / sqrt 2)), which operator sets before 20 have no name for."""
    if one.attributes["approximation_mode"].lower() != "erf":
        raise UnsupportedError("an approximate gelu")
    (x,) = inputs
    erf = writer.node("Erf", writer.node("Mul", x, writer.floats(math.sqrt(0.5))))
    factor = writer.node("Add", erf, writer.floats(1.0))
    return writer.node("Mul", writer.node("Mul", x, factor), writer.floats(0.5))


def _mish(writer: OnnxWriter, _one: Operation, inputs: list[Any]) -> Any:
    (x,) = inputs
    return writer.node("Mul", x, writer.node("Tanh", writer.node("Softplus", x)))


TRANSLATIONS: dict[str, _Translation] = {
    "Add": _plain("Add"),
    "AvgPool": _pooled("AveragePool"),
    "Broadcast": _broadcast,
    "Clamp": _clamped,
    "Concat": lambda writer, one, inputs: writer.node(
        "Concat", *(_name(writer, value) for value in inputs), axis=one.attributes["axis"]
    ),
    "Convolution": lambda writer, one, inputs: writer.node(
        "Conv", inputs[0], writer.constant(inputs[1][0]), **_window(one.attributes)
    ),
    "ConvolutionBackpropData": _transposed,
    "DepthToSpace": _blocks("DepthToSpace", mode="DCR"),
    "Divide": _plain("Div"),
    "Elu": lambda writer, one, inputs: writer.node("Elu", inputs[0], alpha=float(one.attributes["alpha"])),
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
    "Reshape": lambda writer, one, inputs: writer.node(
        "Reshape", inputs[0], writer.shape(one.shapes_out[0], like=one.shapes_in[0])
    ),
    "Roll": _rolled,
    "Selu": _selu,
    "Sigmoid": _plain("Sigmoid"),
    "Slice": _sliced,
    "SoftPlus": _plain("Softplus"),
    "Softmax": lambda writer, one, inputs: writer.node("Softmax", inputs[0], axis=one.attributes["axis"]),
    "SpaceToDepth": _blocks("SpaceToDepth"),
    "Split": _split,
    "Squeeze": lambda writer, _, inputs: writer.node(
        "Squeeze", inputs[0], writer.constant(_ints(inputs[1]), np.int64)
    ),
    "Subtract": _plain("Sub"),
    "Tanh": _plain("Tanh"),
    "Transpose": lambda writer, _, inputs: writer.node("Transpose", inputs[0], perm=_ints(inputs[1])),
}
"""By the kind of operation."""
