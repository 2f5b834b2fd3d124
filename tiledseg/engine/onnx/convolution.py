"""Operators of ONNX that take several px (convolution, pooling), or change the size of a map."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from tiledseg.engine.onnx.constants import slices
from tiledseg.engine.onnx.tensors import (
    LOST,
    SAME,
    UntrackedError,
    Value,
    check_conv,
    check_scales,
    check_sizes,
    check_steps,
    data_of,
    first_map,
    joined,
    layout_of,
    only_map,
    optional,
    shape_of,
)
from tiledseg.tiling import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg.engine.onnx.file import Node
    from tiledseg.engine.onnx.tensors import Inputs, Layout, Walk
    from tiledseg.tiling import Rule

_FINEST = 4096  # largest numerator and denominator of a scale


def _image(value: Value) -> tuple[int, int]:
    """Return the height and the width of a map (N, C, y, x)."""
    layout = layout_of(value)
    kinds = [tuple(kind for kind, _ in axis) for axis in layout]
    if (
        len(kinds) != 4
        or kinds[2:] != [("y",), ("x",)]
        or not set(kinds[0]) <= {"n"}
        or set(kinds[1]) - {"c"}
    ):
        raise UntrackedError
    return layout[2][0][1], layout[3][0][1]


def _resized(walk: Walk, value: Value, channels: int, size: Sequence[int], rules: Sequence[Rule]) -> Value:
    """Return a map (N, C, y, x) of another size."""
    y, x = rules
    batch = layout_of(value)[0]
    shape = (shape_of(value)[0], channels, size[0], size[1])
    layout = (batch, joined((("c", channels),)), (("y", size[0]),), (("x", size[1]),))
    return walk.step([value], shape, layout, y, x)


def sampled(before: int, after: int, out: int, size: int, step: int = 1, factor: int = 1) -> Sample:
    """Return a rule whose size is read off the sizes of this walk."""
    return Sample(step, factor, before, after, out - size * Fraction(factor, step))


def _padding(node: Node, kernel: list[int], strides: list[int], size: Sequence[int]) -> list[tuple[int, int]]:
    """Return the px added before and after, along each axis; `kernel` with its dilation."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return [(0, 0)] * 2
    if auto == "NOTSET":
        pads = node.attributes.get("pads", [0] * 4)
        return [(pads[axis], pads[axis + 2]) for axis in (0, 1)]
    pairs = []
    for one, step, length in zip(kernel, strides, size, strict=True):
        total = max((-(-length // step) - 1) * step + one - length, 0)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return pairs


def _spread(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the length of the kernel with its dilation, and the strides."""
    check_steps(node, kernel)
    if len(kernel) != 2:
        raise UntrackedError
    dilations, strides = (node.attributes.get(name, [1, 1]) for name in ("dilations", "strides"))
    return [(one - 1) * apart + 1 for one, apart in zip(kernel, dilations, strict=True)], list(strides)


def _slid(walk: Walk, node: Node, value: Value, kernel: Sequence[int], channels: int) -> Value:
    if shape_of(value)[2:] == (1, 1) and layout_of(value)[2:] == ((), ()):  # after a global pooling
        return walk.step([value], *_single(value, channels), SAME, SAME)
    size = _image(value)
    spread, strides = _spread(node, kernel)
    outs, rules = [], []
    for length, one, step, (left, right) in zip(
        size, spread, strides, _padding(node, spread, strides, size), strict=True
    ):
        out = (length + left + right - one) // step + 1
        if node.attributes.get("ceil_mode"):
            ceiled = -(-(length + left + right - one) // step) + 1
            out = ceiled - ((ceiled - 1) * step >= length + left)
            if out != ceiled:  # engines disagree whether a window may start beyond the end
                raise UntrackedError
        outs.append(out)
        rules.append(sampled(left, one - 1 - left, out, length, step))
    return _resized(walk, value, channels, outs, rules)


def _single(value: Value, channels: int) -> tuple[tuple[int, ...], Layout]:
    """Return shape and layout of a map of one px."""
    return (shape_of(value)[0], channels, 1, 1), (layout_of(value)[0], joined((("c", channels),)), (), ())


def conv(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Convolve with constant weights."""
    value, weights = only_map(inputs), inputs[1]
    shape = shape_of(weights)
    check_conv(walk, node, inputs, shape[1] * node.attributes.get("group", 1), shape[0])
    out = _slid(walk, node, value, shape[2:], shape[0])
    walk.products += math.prod(shape) * math.prod(shape_of(out)[i] for i in (0, 2, 3))
    return [out]


def conv_quantized(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Convolve integers; scales and zero points stand between the map, the weights and the bias."""
    places = (0, 1) if node.kind == "ConvInteger" else (0, 3, 8)
    only_map(inputs)
    return conv(walk, node, [inputs[place] for place in places if place < len(inputs)])


def conv_transposed(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Convolve transposed, with constant weights."""
    value, weights = only_map(inputs), inputs[1]
    shape, size = shape_of(weights), _image(value)
    channels = shape[1] * node.attributes.get("group", 1)
    check_conv(walk, node, inputs, shape[0], channels)
    spread, strides = _spread(node, shape[2:])
    added = node.attributes.get("output_padding", [0, 0])
    wanted = node.attributes.get("output_shape")
    auto, pads = node.attributes.get("auto_pad", "NOTSET"), node.attributes.get("pads", [0] * 4)
    outs, rules = [], []
    for axis in (0, 1):
        whole = (size[axis] - 1) * strides[axis] + spread[axis] + added[axis]
        left, right = pads[axis], pads[axis + 2]
        if wanted is not None or auto in {"SAME_UPPER", "SAME_LOWER"}:
            cut = whole - (size[axis] * strides[axis] if wanted is None else wanted[axis - 2])
            if cut % 2 or cut < 0:  # engines disagree at which end an odd px is cut
                raise UntrackedError
            left = right = cut // 2
        elif auto == "VALID":
            left = right = 0
        out = whole - left - right
        outs.append(out)
        rules.append(sampled(spread[axis] - 1 - left, left, out, size[axis], 1, strides[axis]))
    walk.products += math.prod(shape) * math.prod(size) * shape_of(value)[0]
    return [_resized(walk, value, channels, outs, rules)]


def pooled(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Pool windows."""
    value = first_map(inputs)
    out = _slid(walk, node, value, node.attributes["kernel_shape"], shape_of(value)[1])
    return [out, Value(None, lost=True)]  # the places of the largest px are numbers within the whole map


def _scale(
    node: Node, inputs: Inputs, rank: int, opset: int
) -> tuple[list[Fraction | None], list[int | None]]:
    """Return the scale, or the size, of each axis of a Resize."""
    first = 2 if opset >= 11 and node.kind == "Resize" else 1
    axes = [one % rank for one in node.attributes.get("axes", range(rank))]
    scales: list[Fraction | None] = [Fraction(1)] * rank
    sizes: list[int | None] = [None] * rank
    stated, wanted = optional(inputs, first), optional(inputs, first + 1)
    if wanted is not None and shape_of(wanted) != (0,):
        if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise UntrackedError
        if not wanted.from_size:
            check_sizes(node, data_of(wanted).tolist())
        for axis, size in zip(axes, data_of(wanted), strict=True):
            scales[axis], sizes[axis] = None, int(size)
    else:
        values = node.attributes["scales"] if stated is None else data_of(stated)
        check_scales(node, [float(one) for one in values])
        for axis, scale in zip(axes, values, strict=True):
            scales[axis] = Fraction(float(scale)).limit_denominator(_FINEST)
            if abs(float(scales[axis] or 0) - float(scale)) > 1e-6 * float(scale):
                raise UntrackedError
    return scales, sizes


def resize(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Interpolate along y and x."""
    value = first_map(inputs)
    layout, shape = layout_of(value), list(shape_of(value))
    mode = node.attributes.get("mode", "nearest")
    old = node.kind == "Upsample" or walk.opset < 11
    places = node.attributes.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = node.attributes.get("nearest_mode", "floor" if old else "round_prefer_floor")
    rules, axes = {"y": SAME, "x": SAME}, list(layout)
    if places == "tf_crop_and_resize":  # also where no size changes
        raise UntrackedError
    scales, sizes = _scale(node, inputs, len(shape), walk.opset)
    for axis, (scale, size) in enumerate(zip(scales, sizes, strict=True)):
        length = shape[axis]
        ratio = Fraction(size, length) if scale is None and size is not None else scale or Fraction(1)
        out = length * ratio
        if ratio == 1:
            continue
        kinds = tuple(kind for kind, _ in layout[axis])
        if not kinds and axis in {2, 3} and walk.tile_dependent:  # one px after a global pooling
            shape[axis], axes[axis] = int(out), (("yx"[axis - 2], int(out)),)
            continue
        if kinds not in {("y",), ("x",)} or out.denominator != 1 or max(ratio.as_integer_ratio()) > _FINEST:
            raise UntrackedError
        if places == "align_corners":
            walk.tile(node, "align_corners: export it with align_corners=False")
        wide = _interpolated(ratio, mode, places, rounding, antialias=bool(node.attributes.get("antialias")))
        kind = kinds[0]
        rules[kind] = sampled(wide[2], wide[3], int(out), length, wide[0], wide[1])
        shape[axis], axes[axis] = int(out), ((kind, int(out)),)
    return [walk.step([value], tuple(shape), tuple(axes), rules["y"], rules["x"])]


def _interpolated(
    ratio: Fraction, mode: str, places: str, rounding: str, *, antialias: bool
) -> tuple[int, int, int, int]:
    """Return step, factor, before and after of an interpolation by a ratio."""
    large, small = ratio.as_integer_ratio()
    offset = {"asymmetric": 0, "tf_half_pixel_for_nn": small, "align_corners": 0}.get(places, small - large)
    if places not in {"asymmetric", "tf_half_pixel_for_nn", "align_corners", "half_pixel"} | {
        "half_pixel_symmetric", "pytorch_half_pixel"
    }:  # fmt: skip
        raise UntrackedError
    if mode in {"linear", "cubic", "bilinear"}:
        reach = (4 if mode == "cubic" else 2) * max(large, small if antialias else 0)
        return 2 * small, 2 * large, reach - 1 - offset, reach - 1 + offset
    low, high = {
        "floor": (2 * large - 1, 0),
        "ceil": (0, 2 * large - 1),
        "round_prefer_floor": (large, large - 1),
        "round_prefer_ceil": (large - 1, large),
    }[rounding]
    return 2 * small, 2 * large, low - offset, high + offset


def pad(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Pad along y and x: the added px count as spoiled; those of the other end depend on the whole map."""
    value = first_map(inputs)
    if len(inputs) > 1 and inputs[1] and inputs[1].from_size:
        walk.facts.append(data_of(inputs[1]).astype(np.int64).tobytes())
    pads = [int(one) for one in (data_of(inputs[1]) if len(inputs) > 1 else node.attributes["pads"])]
    shape, layout = list(shape_of(value)), list(layout_of(value))
    given = optional(inputs, 3)
    axes = range(len(shape)) if given is None else [int(one) % len(shape) for one in data_of(given)]
    rules = {"y": SAME, "x": SAME}
    for axis, left, right in zip(axes, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
        if not left and not right:
            continue
        out, kinds = shape[axis] + left + right, tuple(kind for kind, _ in layout[axis])
        if kinds in {("y",), ("x",)}:
            rules[kinds[0]] = sampled(left, -left, out, shape[axis])
            if node.attributes.get("mode") == "wrap":
                walk.tile(node, "px of the other end: export it with another padding")
        elif set(kinds) - {"c"}:
            raise UntrackedError
        layout[axis] = joined(((kinds[0] if kinds else "c", out),))
        shape[axis] = out
    return [walk.step([value], tuple(shape), tuple(layout), rules["y"], rules["x"])]


def sliced(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Take every n-th px of a part."""
    value = first_map(inputs)
    shape, layout = list(shape_of(value)), list(layout_of(value))
    rules = {"y": SAME, "x": SAME}
    for start, end, axis, step in zip(
        *slices(node, len(shape), [data_of(one) for one in inputs[1:] if one]), strict=True
    ):
        length = shape[axis]
        taken = range(length)[slice(start, end, step)]
        kinds = tuple(kind for kind, _ in layout[axis])
        if len(taken) == length and step == 1:
            continue
        if kinds in {("y",), ("x",)} and step > 0:
            rules[kinds[0]] = sampled(-taken.start, taken.start, len(taken), length, step)
        elif set(kinds) - {"c"}:
            raise UntrackedError
        layout[axis] = joined(((kinds[0] if kinds else "c", len(taken)),))
        shape[axis] = len(taken)
    return [walk.step([value], tuple(shape), tuple(layout), rules["y"], rules["x"])]


def depth_to_space(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Arrange channels as px."""
    value, block = first_map(inputs), node.attributes["blocksize"]
    size, channels = _image(value), shape_of(value)[1]
    rules = [sampled(block - 1, 0, one * block, one, 1, block) for one in size]
    return [_resized(walk, value, channels // block**2, [one * block for one in size], rules)]


def space_to_depth(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Arrange px as channels."""
    value, block = first_map(inputs), node.attributes["blocksize"]
    size, channels = _image(value), shape_of(value)[1]
    if any(one % block for one in size):
        raise UntrackedError
    rules = [sampled(0, block - 1, one // block, one, block) for one in size]
    return [_resized(walk, value, channels * block**2, [one // block for one in size], rules)]


def whole(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Note an operation that takes the whole map; its output has the layout of the input."""
    walk.tile(node)
    return [first_map(inputs)]


def picked(walk: Walk, node: Node, inputs: Inputs) -> list[Value]:
    """Note an operation that picks px of the whole map; how many depends on their values."""
    first_map(inputs)
    walk.tile(node)
    return [LOST for _ in node.outputs]
