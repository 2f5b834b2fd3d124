"""Operators of ONNX on each px, along axes, and those that rearrange the same numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tiledseg.engine.onnx.constants import resolved, unsqueezed
from tiledseg.engine.onnx.convolution import picked, sampled
from tiledseg.engine.onnx.tensors import (
    SAME,
    UntrackedError,
    Value,
    check_channels,
    check_product,
    data_of,
    first_map,
    joined,
    kinds_of,
    layout_of,
    length_of,
    only_map,
    optional,
    shape_of,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg.engine.onnx.file import Node
    from tiledseg.engine.onnx.tensors import Factor, Inputs, Layout, Walk
    from tiledseg.tiling import Rule

_PLACES = frozenset({"n", "y", "x", "yn", "xn"})
_UNKNOWN = Value(None)


def pointwise(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Compute px by px, with constants and maps broadcast."""
    shape, layout = _broadcast(walk, node, [one for one in inputs if one])
    return [walk.step([one for one in inputs if one and one.layout is not None], shape, layout, SAME, SAME)]


def first_pointwise(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Compute px by px; further inputs are constants without places."""
    return pointwise(walk, node, [only_map(inputs)])


def _broadcast(walk: Walk, node: Node, values: Sequence[Value]) -> tuple[tuple[int, ...], Layout]:
    """Return the shape and the layout of an operation on several tensors, px by px."""
    rank = max(len(shape_of(one)) for one in values)
    padded = [((),) * (rank - len(shape_of(one))) + layout_of(one) for one in values]
    maps = [one for one, value in zip(padded, values, strict=True) if value.layout is not None]
    shape = np.broadcast_shapes(*(shape_of(one) for one in values))
    layout = tuple(_agreed([one[axis] for one in maps], shape[axis]) for axis in range(rank))
    for value, axes in zip(values, padded, strict=True):
        if value.layout is None:
            _check_constant(walk, node, value, axes, layout)
    return shape, layout


def _agreed(axes: Sequence[tuple[Factor, ...]], length: int) -> tuple[Factor, ...]:
    found = {axis for axis in axes if axis}
    if len(found) > 1:
        raise UntrackedError
    return found.pop() if found else joined((("c", length),))


def _check_constant(walk: Walk, node: Node, value: Value, axes: Layout, layout: Layout) -> None:
    """Note a constant that differs from place to place, or that was computed from the size."""
    if value.from_size and value.data is not None:
        walk.facts.append(value.data.astype(np.float64).tobytes() if value.data.size < 64 else b"large")
    uniform = (
        value.data is not None and value.data.size > 1 and bool((value.data == value.data.flat[0]).all())
    )
    places = {kind for one, other in zip(axes, layout, strict=True) if one for kind, _ in other}
    if places & _PLACES and not uniform:
        walk.tile(node, "a constant that differs from place to place")


def _along(walk: Walk, node: Node, value: Value, axes: Sequence[int]) -> tuple[Rule, Rule]:
    rank = len(shape_of(value))
    return walk.windows(value, kinds_of(layout_of(value), [axis % rank for axis in axes]), node)


def _mixed(walk: Walk, node: Node, value: Value, axes: Sequence[int]) -> Value:
    """Return a map of the same shape, each of whose numbers depends on all along some axes."""
    return walk.step([value], shape_of(value), layout_of(value), *_along(walk, node, value, axes))


def _stated_axes(node: Node, inputs: Inputs, rank: int) -> list[int]:
    given = optional(inputs, 1)
    axes = node.attributes.get("axes") if given is None else [int(one) for one in data_of(given).reshape(-1)]
    if axes:
        return [one % rank for one in axes]
    return [] if node.attributes.get("noop_with_empty_axes") else list(range(rank))


def _without(walk: Walk, node: Node, value: Value, axes: Sequence[int], *, keep: bool) -> Value:
    """Return a map of which some axes are reduced to one number."""
    y, x = _along(walk, node, value, axes)
    pairs = [
        (1, ()) if axis in axes else pair
        for axis, pair in enumerate(zip(shape_of(value), layout_of(value), strict=True))
        if keep or axis not in axes
    ]
    return walk.step([value], tuple(one for one, _ in pairs), tuple(one for _, one in pairs), y, x)


def reduced(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Reduce along axes."""
    value = first_map(inputs)
    axes = _stated_axes(node, inputs, len(shape_of(value)))
    return [_without(walk, node, value, axes, keep=bool(node.attributes.get("keepdims", 1)))]


def largest(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Take the place of the largest or smallest number along an axis."""
    axis = node.attributes.get("axis", 0) % len(shape_of(inputs[0]))
    return [_without(walk, node, first_map(inputs), [axis], keep=bool(node.attributes.get("keepdims", 1)))]


def softmax(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Normalize along an axis; before version 13 along all axes from it on."""
    value, rank = first_map(inputs), len(shape_of(inputs[0]))
    axis = node.attributes.get("axis", -1 if walk.opset >= 13 else 1) % rank
    axes = [axis] if walk.opset >= 13 else range(axis, rank)  # before, all axes from this one on
    return [_mixed(walk, node, value, axes)]


def normalized(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Normalize along an axis, or along all axes from one on."""
    value, rank = first_map(inputs), len(shape_of(inputs[0]))
    axis = node.attributes.get("axis", -1) % rank
    axes = [axis] if node.kind == "LpNormalization" else range(axis, rank)
    _broadcast(walk, node, [one for one in inputs if one])
    return [_mixed(walk, node, value, axes)]


def batch_normalized(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Normalize by constants."""
    if node.attributes.get("training_mode"):
        raise UntrackedError
    check_channels(walk, node, inputs)
    return across_channels(walk, node, inputs)


def across_channels(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Compute px by px, with neighbours along the second axis or constants for each of them."""
    if kinds_of(first_map(inputs).layout, [1]) - {"c"}:
        raise UntrackedError
    return first_pointwise(walk, node, inputs)


def dropped(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Pass what is not dropped in inference."""
    training = optional(inputs, 2)
    if training is not None and data_of(training).any():
        raise UntrackedError
    return first_pointwise(walk, node, inputs)


def accumulated(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Sum up, or normalize, along the axes that are stated."""
    value = first_map(inputs)
    if node.kind == "CumSum":
        axes = [int(one) for one in data_of(inputs[1]).reshape(-1)]
    else:
        axes = node.attributes.get("axes", [0, 2, 3])
    return [_mixed(walk, node, value, axes)]


def sorted_out(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Take the largest numbers along an axis, and their places."""
    value, count = first_map(inputs), int(data_of(inputs[1]).reshape(-1)[0])
    axis = node.attributes.get("axis", -1) % len(shape_of(value))
    if kinds_of(value.layout, [axis]) - {"c"}:
        return picked(walk, node, inputs)
    return [_at(value, axis, count) for _ in node.outputs]


def global_pooled(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Pool the whole map."""
    value = first_map(inputs)
    return [_without(walk, node, value, range(2, len(shape_of(value))), keep=True)]


def instance_normalized(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Normalize by the whole map."""
    value = first_map(inputs)
    check_channels(walk, node, inputs)
    return [_mixed(walk, node, value, range(2, len(shape_of(value))))]


def multiplied(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Multiply matrices: the last axis of the first by the last but one of the second."""
    a, b = (one or _UNKNOWN for one in inputs[:2])
    if min(len(shape_of(a)), len(shape_of(b))) < 2:
        raise UntrackedError
    return [_product(walk, node, a, b)]


def _product(walk: Walk, node: Node, a: Value, b: Value) -> Value:
    check_product(walk, node, a, b)
    (left, right), (shape_a, shape_b) = (layout_of(a), layout_of(b)), (shape_of(a), shape_of(b))
    leading = [
        Value(one.shape[:-2], one.layout and one.layout[:-2]) for one in (a, b) if one.shape is not None
    ]
    shape, layout = _broadcast(walk, node, leading)
    rows, columns = left[-2], right[-1]
    parts = []
    for value, contracted in ((a, left[-1]), (b, right[-2])):
        if value.layout is None:
            continue
        kinds = kinds_of((contracted,), [0])
        if value is b and a.layout is not None and kinds_of((rows,), [0]) - {"c"}:
            kinds |= kinds_of((columns,), [0])
            columns = joined((("c", shape_b[-1]),))
        y, x = walk.windows(value, kinds, node)
        parts.append(walk.step([value], shape_a if value is a else shape_b, value.layout, y, x))
    if len(parts) == 1:  # a product with weights
        walk.products += (
            math.prod(shape_b if b.layout is None else shape_a) * math.prod(shape) * length_of(rows)
        )
    return walk.step(parts, (*shape, shape_a[-2], shape_b[-1]), (*layout, rows, columns), SAME, SAME)


def gemm(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Multiply two matrices, and add a third."""
    a, b = (
        _permuted(one or _UNKNOWN, (1, 0)) if node.attributes.get(name) else one or _UNKNOWN
        for one, name in zip(inputs[:2], ("transA", "transB"), strict=True)
    )
    found = _product(walk, node, a, b)
    return pointwise(walk, node, [found, *inputs[2:]])


def _permuted(value: Value, order: Sequence[int]) -> Value:
    shape = tuple(shape_of(value)[axis] for axis in order)
    layout = tuple(layout_of(value)[axis] for axis in order)
    return Value(shape, layout if value.layout is not None else None, value.number, value.scale)


def transposed(_walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Permute axes."""
    rank = len(shape_of(inputs[0]))
    return [_permuted(first_map(inputs), node.attributes.get("perm", range(rank)[::-1]))]


def _reshaped(walk: Walk, value: Value, shape: tuple[int, ...]) -> list[Value]:
    layout = split(layout_of(value), shape)
    for kind, length in (factor for axis in layout for factor in axis):
        if kind in {"yp", "xp"}:  # tiles begin where windows begin
            y, x = value.scale
            walk.scales.append((y * length, x) if kind == "yp" else (y, x * length))
    return [_coarser(walk, _finer(walk, Value(shape, layout, value.number, value.scale)))]


def _finer(walk: Walk, value: Value) -> Value:
    """Recognize px followed by a plain number in one axis: channels become px."""
    rules, layout = {"y": SAME, "x": SAME}, []
    for axis in layout_of(value):
        kinds = tuple(kind for kind, _ in axis)
        if kinds in {("y", "c"), ("x", "c")}:
            (kind, length), (_, block) = axis
            rules[kind] = sampled(block - 1, 0, length * block, length, 1, block)
            axis = ((kind, length * block),)  # noqa: PLW2901
        layout.append(axis)
    return walk.step([value], shape_of(value), tuple(layout), rules["y"], rules["x"])


def _coarser(walk: Walk, value: Value) -> Value:
    """Recognize px within windows that became channels: windows become px."""
    layout = layout_of(value)
    kinds = [tuple(kind for kind, _ in axis) for axis in layout]
    alone = {kind for axis in kinds if len(axis) == 1 for kind in axis}
    inside = dict(factor for axis in layout for factor in axis if factor[0] in {"yp", "xp"})
    if len(kinds) != 4 or not {"yn", "xn"} <= alone or set(inside) & alone or set(inside) != {"yp", "xp"}:
        return value
    rename = {"yn": "y", "xn": "x", "yp": "c", "xp": "c"}
    sizes = dict(factor for axis in layout for factor in axis)
    rules = [
        sampled(
            0,
            inside[f"{one}p"] - 1,
            sizes[f"{one}n"],
            sizes[f"{one}n"] * inside[f"{one}p"],
            inside[f"{one}p"],
        )
        for one in "yx"
    ]
    axes = tuple(joined([(rename.get(kind, kind), length) for kind, length in axis]) for axis in layout)
    return walk.step([value], shape_of(value), axes, *rules)


def reshape(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Give a map another shape."""
    target = [int(one) for one in (data_of(inputs[1]) if len(inputs) > 1 else node.attributes["shape"])]
    shape = resolved(shape_of(inputs[0]), target, allow_zero=bool(node.attributes.get("allowzero")))
    return _reshaped(walk, first_map(inputs), shape)


def flattened(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Join axes."""
    shape = shape_of(inputs[0])
    axis = node.attributes.get("axis", 1)
    axis += len(shape) if axis < 0 else 0
    return _reshaped(walk, first_map(inputs), (math.prod(shape[:axis]), math.prod(shape[axis:])))


def squeezed(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Remove axes of length 1."""
    shape, given = shape_of(inputs[0]), optional(inputs, 1)
    axes = node.attributes.get("axes") if given is None else data_of(given).reshape(-1)
    if axes is None:
        raise UntrackedError
    places = {int(axis) % len(shape) for axis in axes}
    return _reshaped(
        walk, first_map(inputs), tuple(one for place, one in enumerate(shape) if place not in places)
    )


def unsqueezed_(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Insert axes of length 1."""
    given = optional(inputs, 1)
    axes = node.attributes["axes"] if given is None else [int(one) for one in data_of(given).reshape(-1)]
    return _reshaped(walk, first_map(inputs), unsqueezed(shape_of(inputs[0]), axes))


def repeated(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Repeat along plain axes; `Tile` states how often, `Expand` the shape."""
    value, stated = first_map(inputs), [int(one) for one in data_of(inputs[1])]
    shape, layout = shape_of(value), layout_of(value)
    missing = max(len(stated) - len(shape), 0)
    shape, layout = (1,) * missing + shape, ((),) * missing + layout
    if node.kind == "Expand":
        stated = [1] * (len(shape) - len(stated)) + stated
        stated = [max(want // one, 1) if one == 1 else 1 for want, one in zip(stated, shape, strict=True)]
    axes = []
    for axis, times in zip(layout, stated, strict=True):
        if times != 1 and kinds_of((axis,), [0]) - {"c"}:
            raise UntrackedError
        axes.append(axis if times == 1 else joined((("c", length_of(axis) * times),)))
    new = tuple(one * times for one, times in zip(shape, stated, strict=True))
    return [walk.step([value], new, tuple(axes), SAME, SAME)]


def concatenated(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Join maps along a plain axis."""
    rank = len(shape_of(inputs[0]))
    axis = node.attributes["axis"] % rank
    length = sum(shape_of(one)[axis] for one in inputs)
    if any(kinds_of(layout_of(one), [axis]) - {"c"} for one in inputs if one):
        raise UntrackedError
    others = [_at(one, axis, 1) for one in inputs if one]
    shape, layout = _broadcast(walk, node, others)
    whole = _at(Value(shape, layout), axis, length)
    maps = [one for one in inputs if one and one.layout is not None]
    return [walk.step(maps, shape_of(whole), layout_of(whole), SAME, SAME)]


def _at(value: Value, axis: int, length: int) -> Value:
    """Return a tensor of another length along a plain axis."""
    shape, layout = list(shape_of(value)), list(layout_of(value))
    shape[axis], layout[axis] = length, joined((("c", length),))
    data = (
        value.data[(slice(None),) * axis + (slice(0, 1),)] if value.data is not None and length == 1 else None
    )
    known = tuple(layout) if value.layout is not None else None
    return Value(tuple(shape), known, value.number, value.scale, data, value.from_size)


def parted(_walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Split a map along a plain axis."""
    value, given = first_map(inputs), optional(inputs, 1)
    axis = node.attributes.get("axis", 0) % len(shape_of(value))
    if kinds_of(value.layout, [axis]) - {"c"}:
        raise UntrackedError
    sizes = node.attributes.get("split") if given is None else [int(one) for one in data_of(given)]
    if sizes is None:
        count = len(node.outputs)
        each = -(-shape_of(value)[axis] // count)
        sizes = [each] * (count - 1) + [shape_of(value)[axis] - each * (count - 1)]
    return [_at(value, axis, size) for size in sizes]


def gathered(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Take parts along a plain axis."""
    value, index = first_map(inputs), data_of(inputs[1])
    axis = node.attributes.get("axis", 0) % len(shape_of(value))
    if kinds_of(value.layout, [axis]) - {"c"}:
        raise UntrackedError
    shape, layout = shape_of(value), layout_of(value)
    inner = tuple(joined((("c", one),)) for one in index.shape)
    new, axes = shape[:axis] + index.shape + shape[axis + 1 :], layout[:axis] + inner + layout[axis + 1 :]
    return [walk.step([value], new, axes, SAME, SAME)]
