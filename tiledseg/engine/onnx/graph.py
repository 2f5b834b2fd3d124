"""Properties of an ONNX graph: total stride, receptive field, size of its feature maps.

The graph is walked at three sizes of the input. What depends only on constants and shapes is evaluated.
The receptive field is known only if the walks at all sizes agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tiledseg.engine.graph import total_stride
from tiledseg.engine.onnx import axes, convolution
from tiledseg.engine.onnx.constants import check_made, evaluated
from tiledseg.engine.onnx.tensors import LOST, UntrackedError, Value, Walk, joined, name_of
from tiledseg.tiling import Axis, ReceptiveField, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tiledseg.engine.onnx.file import Constant, Node, OnnxFile
    from tiledseg.engine.onnx.tensors import Inputs, Layout

_FIRST = (13_440, 26_880)  # px: multiples of most strides
_LEAST = 1_500  # px of the other sizes


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """The properties of a graph and of one of its outputs."""

    stride: tuple[int, int]  # total stride (y, x) in px
    products_per_px: float  # multiplications by a weight, per px of the input
    receptive_field: ReceptiveField
    output: Layout | None  # layout of the output; None where not known
    batch: int | None  # tiles per call; None where free
    final_activation: Literal["sigmoid", "softmax"] | None  # of the output; None for any other operation
    facts: tuple[bytes, ...] = ()  # computed from the size, and used on maps, the same at all sizes


def read_graph(file: OnnxFile, output: str, *, channels_last: bool) -> OnnxGraph:
    """Walk through a graph at three sizes, or at its own where that is fixed."""
    batch = file.input.shape[0]
    found = _read(file, output, batch or 2, channels_last=channels_last)
    if batch is None and found.output is None:  # it may be that its batch is fixed where it is not seen
        alone = _read(file, output, 1, channels_last=channels_last)
        return replace(alone if alone.output is not None else found, batch=1)
    return replace(found, batch=batch)


def _read(file: OnnxFile, output: str, batch: int, *, channels_last: bool) -> OnnxGraph:
    fixed = file.input.shape[1:3] if channels_last else file.input.shape[2:4]

    def walked(height: int, width: int) -> tuple[Walk, Value]:
        size = (fixed[0] or height, fixed[1] or width)
        return walk_at(file, output, size, channels_last=channels_last, batch=batch)

    first, value = walked(*_FIRST)
    y, x = stride = total_stride(first.scales)
    many = [-(-_LEAST // step) for step in stride]
    others = (
        walked(y * (many[0] + 1), x * (many[1] + 2)),
        walked(y * (many[0] + 2), x * (many[1] + 5)),
    )
    size = (fixed[0] or _FIRST[0]) * (fixed[1] or _FIRST[1])
    if all(_same(first, value, *other) for other in others):
        field_ = _receptive_field(first, value, stride)
    else:
        names = dict.fromkeys(name for walk, _ in others for name in walk.unknown)
        field_ = ReceptiveField(None, (), tuple(names) or ("shapes that do not follow the input's size",))
        value = LOST if any(other.lost for _, other in others) else value
    if field_.axes is None and (y > 4096 or x > 4096):  # from a graph that was not understood
        stride = _plain_stride(file)
    products, last = first.products / batch / size, _activation(file, output)
    return OnnxGraph(stride, products, field_, value.layout, None, last, tuple(first.facts))


def _activation(file: OnnxFile, output: str) -> Literal["sigmoid", "softmax"] | None:
    """Return the activation that makes an output."""
    kind = next((node.kind for node in file.nodes if output in node.outputs), "")
    return {"Sigmoid": "sigmoid", "Softmax": "softmax"}.get(kind)  # type: ignore[return-value]


def _same(walk: Walk, value: Value, other: Walk, found: Value) -> bool:
    def kinds(layout: Layout | None) -> Any:  # tuples of tuples
        return layout and tuple(tuple(kind for kind, _ in axis) for axis in layout)

    pairs = ((walk.steps, other.steps), (walk.facts, other.facts), (kinds(value.layout), kinds(found.layout)))
    return all(one == two for one, two in pairs) and walk.unknown == other.unknown


def _plain_stride(file: OnnxFile) -> tuple[int, int]:
    """Return the product of the strides of convolutions and poolings."""
    strides = [
        node.attributes["strides"]
        for node in file.nodes
        if node.kind in {"Conv", "MaxPool", "AveragePool"} and len(node.attributes.get("strides", ())) == 2
    ]
    return math.prod(one[0] for one in strides), math.prod(one[1] for one in strides)


def _receptive_field(walk: Walk, value: Value, stride: tuple[int, int]) -> ReceptiveField:
    if not walk.tile_dependent and not walk.unknown and value.layout is not None:
        steps = tuple(_needed(list(one), value.number) for one in walk.steps)
        y, x = (Axis(one, value.number, step) for one, step in zip(steps, stride, strict=True))
        if y.fits and x.fits:
            return ReceptiveField((y, x))
        walk.unknown["operations whose maps differ in size"] = None
    return ReceptiveField(None, tuple(walk.tile_dependent), tuple(walk.unknown))


def _needed(steps: list[Step], output: int) -> tuple[Step, ...]:
    """Leave out the steps that an output does not depend on."""
    needed, kept = {output}, []
    for step in reversed(steps):
        if step.output in needed:
            needed.update(step.inputs)
            kept.append(step)
    return tuple(reversed(kept))


def _alive(nodes: tuple[Node, ...], floats: dict[str, int]) -> float:
    """Return the most numbers that feature maps have together at any time of the computation."""
    # Engines compute about half of the operations px by px in the memory of their input; measured.
    last = {name: place for place, node in enumerate(nodes) for name in node.inputs}
    alive = most = 0.0
    for place, node in enumerate(nodes):
        made = sum(floats.get(name, 0) for name in node.outputs)
        ended = [floats[name] for name in set(node.inputs) if last[name] == place and name in floats]
        in_place = min(made, max(ended, default=0)) / 2 if node.kind in _POINTWISE else 0
        most = max(most, alive + made - in_place)
        alive += made - sum(ended) - sum(floats.get(name, 0) for name in node.outputs if name not in last)
    return most


def walk_at(
    file: OnnxFile, output: str, size: tuple[int, int], *, channels_last: bool, batch: int
) -> tuple[Walk, Value]:
    """Walk through a graph at one size of the input; return the walk and the output."""
    stated = file.input.shape[3 if channels_last else 1]
    walk, channels = Walk(file.opset, stated is not None), stated or 1
    places = (("y", size[0]), ("x", size[1]))
    rest = (*places, ("c", channels)) if channels_last else (("c", channels), *places)
    factors = (("n", batch), *rest)
    shape = tuple(length for _, length in factors)
    values = _constants(file.constants)
    layout = tuple(() if factor in {("n", 1), ("c", 1)} else (factor,) for factor in factors)
    values[file.input.name] = Value(shape, layout)
    needed = _needed_by(file.nodes, output)
    _walk(walk, [node for node in file.nodes if needed.intersection(node.outputs)], values)
    aside = Walk(file.opset, walk.knows_channels)  # an engine computes other outputs, too
    _walk(aside, [node for node in file.nodes if not needed.intersection(node.outputs)], values)
    walk.scales += aside.scales
    walk.floats |= aside.floats
    walk.products += aside.products
    walk.largest = max(walk.largest, aside.largest)
    return walk, values.get(output, LOST)


def _needed_by(nodes: Sequence[Node], output: str) -> set[str]:
    """Return the names of what an output is computed from, and its own."""
    needed = {output}
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(_names_in(node))
    return needed


def _names_in(node: Node) -> Iterator[str]:
    """Give the names of a node's inputs, and of those of its branches."""
    yield from node.inputs
    for attribute in node.attributes.values():
        if isinstance(attribute, tuple):
            inner, _, outputs = attribute
            yield from (name for one in inner for name in _names_in(one))
            yield from outputs


def _constants(constants: dict[str, Constant]) -> dict[str, Value]:
    return {name: Value(one.shape, data=one.values) for name, one in constants.items()}


def _walk(walk: Walk, nodes: Sequence[Node], values: dict[str, Value]) -> None:
    for node in nodes:
        inputs = [values.get(name, LOST) if name else None for name in node.inputs]
        outputs = _branch(walk, node, inputs, values) if node.kind == "If" else _after(walk, node, inputs)
        for name, value in zip(node.outputs, outputs, strict=False):
            values[name] = value
            if (value.layout is not None or value.lost) and value.shape is not None:
                walk.floats[name] = math.prod(value.shape)


def _branch(walk: Walk, node: Node, inputs: Inputs, values: dict[str, Value]) -> list[Value]:
    """Walk through the branch of a known condition."""
    condition = inputs[0].data if inputs[0] else None
    if condition is None:
        walk.unknown[name_of(node)] = None
        return [LOST for _ in node.outputs]
    branch = "then_branch" if condition.all() else "else_branch"
    if inputs[0] and inputs[0].from_size:
        walk.facts.append(branch.encode())
    nodes, constants, outputs = node.attributes[branch]
    inner = values | _constants(constants)
    _walk(walk, nodes, inner)
    return [inner.get(name, LOST) for name in outputs]


def _after(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    if node.kind in {"Shape", "Size"} and inputs[0] and inputs[0].shape is not None:
        return [_shape_of(node, inputs[0].shape)]
    if any(one.lost for one in inputs if one):
        if not walk.unknown and not walk.tile_dependent:  # it takes places in the whole map
            walk.unknown[name_of(node)] = None
        return _shapes_alone(walk, node, inputs)
    if all(one.layout is None for one in inputs if one):
        return _constant_outputs(node, inputs)
    outputs = _by_rule(walk, node, inputs)
    if outputs is None:
        walk.unknown[name_of(node)] = None
        return _shapes_alone(walk, node, inputs)
    return outputs


def _by_rule(walk: Walk, node: Node, inputs: Inputs) -> list[Value] | None:
    """Apply the rule of an operator; return None where it does not know the operation."""
    rule = _RULES.get(node.kind)
    try:
        return rule(walk, node, inputs) if rule else None
    except (UntrackedError, LookupError, TypeError, ValueError, ZeroDivisionError):
        return None


def _shapes_alone(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Go on with shapes where the px are lost: the memory depends on them."""
    aside = Walk(walk.opset, knows_channels=False)
    known = all(one is None or one.shape is not None for one in inputs)
    found = _by_rule(aside, node, [one and _anew(node, one) for one in inputs]) if known else None
    walk.largest = max(walk.largest, aside.largest)
    return [Value(one.shape, lost=True) for one in found] if found else [LOST for _ in node.outputs]


def _anew(node: Node, value: Value) -> Value:
    """Lay out a map by its shape, with px only where an operator takes them along its last two axes."""
    if value.layout is None and not value.lost:
        return value
    shape = value.shape or ()
    if node.kind == "Reshape":  # of one factor, which any shape divides
        return Value(shape, (joined((("c", math.prod(shape)),)), *((),) * (len(shape) - 1)))
    kinds = "ncyx" if node.kind in _OVER_PX and len(shape) == 4 else "c" * len(shape)
    return Value(shape, tuple(joined((factor,)) for factor in zip(kinds, shape, strict=True)))


def _shape_of(node: Node, shape: tuple[int, ...]) -> Value:
    if node.kind == "Size":
        return Value((), data=np.array(math.prod(shape)), from_size=True)
    part = shape[slice(node.attributes.get("start"), node.attributes.get("end"))]
    return Value((len(part),), data=np.array(part, np.int64), from_size=True)


def _constant_outputs(node: Node, inputs: Inputs) -> list[Value]:
    """Evaluate an operation on constants, where it is a small one."""
    found, data = None, [one.data if one else None for one in inputs]
    from_size = any(one.from_size for one in inputs if one)
    if not from_size:
        check_made(node, data)
    if all(one is None or one.data is not None for one in inputs):
        found = evaluated(node, data)
    if found is None:
        kept = inputs[0].shape if node.kind in _KEEPING and inputs[0] else None
        return [Value(kept) for _ in node.outputs]
    return [Value(one.shape, data=one, from_size=from_size) for one in found]


@dataclass(frozen=True, slots=True)
class AtSize:
    """What a graph computes of one tile of a size."""

    output: tuple[int, int] | None  # size of the output; None where it cannot be derived
    largest: int  # numbers of the largest map
    alive: float  # numbers of the maps that are in memory at once
    facts: tuple[bytes, ...]  # computed from the size, and used on maps


def at_size(file: OnnxFile, output: str, size: tuple[int, int], *, channels_last: bool) -> AtSize:
    """Walk through a graph at one size of the input."""
    batch = file.input.shape[0] or 1
    walk, value = walk_at(file, output, size, channels_last=channels_last, batch=batch)
    lengths = dict(factor for axis in value.layout or () for factor in axis)
    found = (lengths["y"], lengths["x"]) if {"y", "x"} <= lengths.keys() else None
    return AtSize(found, walk.largest, _alive(file.nodes, walk.floats) / batch, tuple(walk.facts))


_KEEPING = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear"})  # the shape of large constants

_POINTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil
    Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish
    Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow
    Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan
    Tanh ThresholdedRelu Where Xor
""".split()  # noqa: SIM905  a list of names is read as one

_WHOLE = """
    Attention DynamicQuantizeLinear GroupNormalization
""".split()  # noqa: SIM905

_OVER_PX = """
    AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool
    GlobalMaxPool GroupNormalization InstanceNormalization LRN LpPool MaxPool Pad Resize SpaceToDepth Upsample
""".split()  # noqa: SIM905

_REDUCING = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare
""".split()  # noqa: SIM905

_RULES: dict[str, Callable[[Walk, Node, Inputs], list[Value]]] = {
    **dict.fromkeys(_POINTWISE, axes.pointwise),
    **dict.fromkeys(_WHOLE, convolution.whole),
    **dict.fromkeys(_REDUCING, axes.reduced),
    **dict.fromkeys(("ArgMax", "ArgMin"), axes.largest),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), convolution.pooled),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), axes.global_pooled),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), axes.softmax),
    **dict.fromkeys(("LayerNormalization", "LpNormalization", "RMSNormalization"), axes.normalized),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), axes.first_pointwise),
    **dict.fromkeys(("Expand", "Tile"), axes.repeated),
    **dict.fromkeys(("ConvInteger", "QLinearConv"), convolution.conv_quantized),
    **dict.fromkeys(("CumSum", "MeanVarianceNormalization"), axes.accumulated),
    **dict.fromkeys(("NonMaxSuppression", "NonZero"), convolution.picked),
    **dict.fromkeys(("Resize", "Upsample"), convolution.resize),
    "BatchNormalization": axes.batch_normalized,
    "Concat": axes.concatenated,
    "Conv": convolution.conv,
    "ConvTranspose": convolution.conv_transposed,
    "DepthToSpace": convolution.depth_to_space,
    "Dropout": axes.dropped,
    "Flatten": axes.flattened,
    "Gather": axes.gathered,
    "Gemm": axes.gemm,
    "InstanceNormalization": axes.instance_normalized,
    "LRN": axes.across_channels,
    "MatMul": axes.multiplied,
    "Pad": convolution.pad,
    "Reshape": axes.reshape,
    "Slice": convolution.sliced,
    "SpaceToDepth": convolution.space_to_depth,
    "Split": axes.parted,
    "Squeeze": axes.squeezed,
    "TopK": axes.sorted_out,
    "Transpose": axes.transposed,
    "Unsqueeze": axes.unsqueezed_,
}
