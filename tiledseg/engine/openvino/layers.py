"""The network of OpenVINO that a network's layers describe: a function for each kind of layer.

Maps (N, h, w, C) of Keras are (N, C, h, w) here; arrays of other ranks are as in Keras. A function takes
every setting and every weight of its layer: one that is left over, or has a value that no function knows,
is an UnsupportedError, since a layer that is run but half understood would be wrong without a word.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import lazy
from tiledseg.engine.layers import Layer, UnsupportedError, maps_in
from tiledseg.engine.openvino import convolution
from tiledseg.engine.openvino.attention import ATTENTION
from tiledseg.engine.openvino.use import CHANNELS, Use, along_channels, channels, constant, rank, shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import openvino
    from openvino import opset13 as ops

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.layers import Layers
    from tiledseg.engine.openvino.use import Norm, Output
else:
    openvino = lazy("openvino")
    ops = lazy("openvino.opset13")


def _scaled(use: Use, x: Output) -> Output:
    """Multiply by gamma and add beta, where the layer has them."""
    if use.one_of("scale", True, False):  # noqa: FBT003
        x = ops.multiply(x, along_channels(use.weight("gamma", channels(x)), x))
    if use.one_of("center", True, False):  # noqa: FBT003
        x = ops.add(x, along_channels(use.weight("beta", channels(x)), x))
    return x


def _scale_and_offset(use: Use, count: int = -1) -> Norm:
    """Take the settings and weights of a batch normalisation: x * scale + offset."""
    names = ("moving_stddev", "renorm_mean", "renorm_stddev")
    for name in names if use.take("renorm") else ():
        use.weight(name, count)  # of training
    use.ignore("momentum", "renorm_clipping", "renorm_momentum", "synchronized")
    variance = use.weight("moving_variance", count).astype(np.float64)
    scale = 1 / np.sqrt(variance + use.number("epsilon"))
    if use.one_of("scale", True, False):  # noqa: FBT003
        scale = scale * use.weight("gamma", count)
    offset = -scale * use.weight("moving_mean", count)
    if use.one_of("center", True, False):  # noqa: FBT003
        offset = offset + use.weight("beta", count)
    return scale, offset


def _batch_normalised(use: Use) -> Output:
    x = use.input(2, 4)
    use.one_of("axis", -1, rank(x) - 1)
    scale, offset = _scale_and_offset(use, channels(x))
    if use.norm is not None:  # a convolution before it has done a part
        scale, offset = use.norm
    if (scale != 1).any():
        x = ops.multiply(x, along_channels(scale, x))
    return ops.add(x, along_channels(offset, x)) if offset.any() else x


def _layer_normalised(use: Use) -> Output:
    x = use.input()
    use.one_of("axis", [-1], [3])
    use.one_of("rms_scaling", False)  # noqa: FBT003
    if channels(x) < _FEW:  # their variance may be near 0: Keras' rounding is then that of the largest input
        raise UnsupportedError(f"a layer normalisation over {channels(x)} channels")
    return _scaled(use, _mean_variance(x, [CHANNELS], use.number("epsilon")))


def _mean_variance(x: Output, axes: list[int], epsilon: float) -> Output:
    return ops.mvn(x, np.array(axes, np.int64), True, epsilon, "inside_sqrt")  # noqa: FBT003


def _group_normalised(use: Use) -> Output:
    x, groups = use.input(), int(use.number("groups"))
    use.one_of("axis", -1, 3)
    n, channels, height, width = shape(x)
    groups = channels if groups == -1 else groups
    inside = channels // groups * height * width
    # OpenVINO's own GroupNormalization with one channel per group crashes the process where an addition
    # follows (2026.4): the mean and variance along an axis do not.
    y = ops.reshape(x, np.array([n, groups, inside]), special_zero=False)
    y = _mean_variance(y, [2], use.number("epsilon"))
    return _scaled(use, ops.reshape(y, np.array([n, channels, height, width]), special_zero=False))


# Merging, arithmetic, and what does nothing.


def _folded(join: Callable[[Output, Output], Output], many: int = 1 << 30) -> Callable[[Use], Output]:
    """Join maps one after the other, which are broadcast as in Keras."""

    def folded(use: Use) -> Output:
        first, *others = use.inputs(4) if use.kind.startswith("layers.") else use.operands()
        if not 0 < len(others) < many:
            raise use.refuse(f"{len(others) + 1} inputs")
        for other in others:
            first = join(first, other)
        return first

    return folded


def _average(use: Use) -> Output:
    maps = use.inputs(4)
    total = maps[0]
    for one in maps[1:]:
        total = ops.add(total, one)
    return ops.multiply(total, constant(1 / len(maps)))


def _concatenated(use: Use) -> Output:
    axis = use.one_of("axis", -1, 1, 2, 3)
    return ops.concat(use.inputs(4), {1: 2, 2: 3}.get(axis, CHANNELS))


def _unchanged(use: Use) -> Output:
    use.ignore("rate", "noise_shape", "stddev", "l1", "l2", "data_format")
    return use.input(2, 4)


def _rescaled(use: Use) -> Output:
    x = ops.multiply(use.input(), constant(use.number("scale")))
    return ops.add(x, constant(use.number("offset")))


def _scaled_sum(use: Use) -> Output:
    x, y = use.inputs(4)
    return ops.add(x, ops.multiply(y, constant(use.number("scale"))))


def _layer_scaled(use: Use) -> Output:
    x = use.input()
    use.ignore("init_values", "projection_dim")
    return ops.multiply(x, along_channels(use.only_weight(channels(x)), x))


_FEW = 8  # channels
_CONVOLUTIONS = {
    *("layers.Conv2D", "layers.Conv2DTranspose", "layers.Dense", "layers.DepthwiseConv2D"),
    *("layers.SeparableConv2D", "tiledseg.StandardisedConv2D"),
}

_FUNCTIONS: dict[str, Callable[[Use], Output]] = {
    **ATTENTION,
    "layers.Activation": convolution.activation,
    "layers.Add": _folded(ops.add),
    "layers.Average": _average,
    "layers.AveragePooling2D": convolution.average_pooled,
    "layers.BatchNormalization": _batch_normalised,
    "layers.Concatenate": _concatenated,
    "layers.Conv2D": convolution.convolution,
    "layers.Conv2DTranspose": convolution.transposed,
    "layers.Cropping2D": convolution.cropped,
    "layers.Dense": convolution.dense,
    "layers.DepthwiseConv2D": convolution.depthwise,
    "layers.ELU": convolution.elu,
    "layers.GlobalAveragePooling2D": convolution.global_pooled(ops.reduce_mean),
    "layers.GlobalMaxPooling2D": convolution.global_pooled(ops.reduce_max),
    "layers.GroupNormalization": _group_normalised,
    "layers.LayerNormalization": _layer_normalised,
    "layers.LeakyReLU": lambda use: convolution.leaky(use.input(2, 4), use.number("negative_slope")),
    "layers.MaxPooling2D": convolution.max_pooled,
    "layers.Maximum": _folded(ops.maximum),
    "layers.Minimum": _folded(ops.minimum),
    "layers.Multiply": _folded(ops.multiply),
    "layers.PReLU": convolution.prelu,
    "layers.ReLU": convolution.relu,
    "layers.Rescaling": _rescaled,
    "layers.Reshape": convolution.reshaped,
    "layers.SeparableConv2D": convolution.separable,
    "layers.Softmax": convolution.softmax_layer,
    "layers.Subtract": _folded(ops.subtract, 2),
    "layers.UpSampling2D": convolution.upsampled,
    "layers.ZeroPadding2D": convolution.padded,
    **dict.fromkeys(
        ("layers.Dropout", "layers.GaussianDropout", "layers.GaussianNoise", "layers.Identity"), _unchanged
    ),
    **dict.fromkeys(("layers.SpatialDropout2D", "layers.ActivityRegularization"), _unchanged),
    "ops.Add": _folded(ops.add),
    "ops.Divide": _folded(ops.divide),
    "ops.Maximum": _folded(ops.maximum),
    "ops.Minimum": _folded(ops.minimum),
    "ops.Multiply": _folded(ops.multiply),
    "ops.Subtract": _folded(ops.subtract),
    "ops.TrueDivide": _folded(ops.divide),
    "ops.Relu": convolution.activation_op("relu"),
    "ops.Relu6": convolution.activation_op("relu6"),
    "ops.Sigmoid": convolution.activation_op("sigmoid"),
    "ops.Silu": convolution.activation_op("silu"),
    "ops.Tanh": convolution.activation_op("tanh"),
    "applications.CustomScaleLayer": _scaled_sum,
    "applications.LayerScale": _layer_scaled,
    "tiledseg.DepthToSpace": convolution.blocks(ops.depth_to_space),
    "tiledseg.SpaceToDepth": convolution.blocks(ops.space_to_depth),
    "tiledseg.StandardisedConv2D": convolution.standardised,
}
"""By the kind of layer."""


def build(layers: Layers, weights: Mapping[str, FloatArray], size: tuple[int, ...]) -> openvino.Model:
    """Build what OpenVINO runs rightly; raise UnsupportedError for anything else."""
    network = built(layers, weights, size)
    for node in network.get_ordered_ops():
        if node.get_type_name() == "MaxPool":
            _check_pooled(node)
        elif node.get_type_name() == "Convolution":
            _divide(node)
    return network


def built(layers: Layers, weights: Mapping[str, FloatArray], size: tuple[int, ...]) -> openvino.Model:
    """Build the network for tiles of a shape (N, h, w, C); raise UnsupportedError for an unknown layer."""
    tiles = ops.parameter(list(size), np.float32)
    maps = {0: ops.transpose(tiles, [0, 3, 1, 2])}
    norms = _norms(layers, weights)
    for layer in layers.layers:
        maps[layer.output] = _output_of(Use(layer, maps, weights, norms.get(layer.output)))
    output = maps[layers.output]
    if rank(output) != 4:
        raise UnsupportedError(f"the output has {rank(output)} axes")
    return openvino.Model([ops.transpose(output, [0, 2, 3, 1])], [tiles], "network")


_VECTOR = 16  # channels that OpenVINO multiplies at once
_MOST_DIVIDED = 1 << 22  # weights of a kernel that is copied in two parts


def _divide(node: openvino.Node) -> None:
    """Convolve two maps and add, rather than copy both into one: a U-Net takes less time and memory."""
    joined, kernel = (node.input_value(place).get_node() for place in range(2))
    if (joined.get_type_name(), kernel.get_type_name()) != ("Concat", "Constant"):
        return
    maps = joined.input_values()
    counts = [channels(one) for one in maps]
    alone = len(maps) == 2 and len(joined.output(0).get_target_inputs()) == 1
    if not alone or joined.get_attributes()["axis"] != CHANNELS or any(one % _VECTOR for one in counts):
        return
    values = kernel.data
    if values.size > _MOST_DIVIDED or values.shape[2:] == (1, 1):
        return
    parts = values[:, : counts[0]], values[:, counts[0] :]
    names = ("strides", "pads_begin", "pads_end", "dilations")
    options = {name: node.get_attributes()[name] for name in names}
    first, second = (_convolved(one, part, options) for one, part in zip(maps, parts, strict=True))
    total = ops.add(first, second)
    for user in node.output(0).get_target_inputs():
        user.replace_source_output(total.output(0))


_PADS = ("pads_begin", "pads_end")
_WORTH = 1e8  # multiplications less: other kernels take 30 ms to compile


def _convolved(x: Output, kernel: FloatArray, options: dict[str, Any]) -> Output:
    """Convolve a map; together with the transposed convolution that made it, where that multiplies less."""
    grown = _grown(x) if {*options["strides"], *options["dilations"]} == {1} else None
    n, _, height, width = shape(x)
    if grown is None or n * height * width * _saved(grown[1], kernel) < _WORTH:
        own = np.array(kernel, order="C")  # also of a part that is contiguous, which is read-only
        return ops.convolution(x, constant(own, owned=True), **options)
    small, first, bias = grown
    if bias.any():  # that of a channel of ones: beyond the border there is no bias
        n, _, height, width = shape(small)
        small = ops.concat([small, constant(np.ones((n, 1, height, width)))], CHANNELS)
        first = np.concatenate([first, np.broadcast_to(bias[None], (1, *first.shape[1:]))])
    begin, end = (np.subtract(kernel.shape[2:], 1) - options[name] for name in _PADS)
    return ops.convolution_backprop_data(
        small,
        constant(_joined(first, kernel), owned=True),
        list(first.shape[2:]),
        pads_begin=list(begin),
        pads_end=list(end),
        dilations=[1, 1],
        output_padding=[0, 0],
    )


def _grown(x: Output) -> tuple[Output, FloatArray, FloatArray] | None:
    """Return input, kernel (in, out, h, w) and bias of a transposed convolution without overlap."""
    node, bias = x.get_node(), np.zeros((1, 1, 1), np.float32)
    if node.get_type_name() == "Add" and node.input_value(1).get_node().get_type_name() == "Constant":
        node, bias = node.input_value(0).get_node(), node.input_value(1).get_node().data
    if node.get_type_name() != "ConvolutionBackpropData" or len(x.get_target_inputs()) != 1:
        return None
    kernel, settings = node.input_value(1).get_node().data, node.get_attributes()
    cut = any(any(settings[name]) for name in (*_PADS, "output_padding"))
    return (
        None if cut or list(kernel.shape[2:]) != settings["strides"] else (node.input_value(0), kernel, bias)
    )


def _saved(first: FloatArray, kernel: FloatArray) -> int:
    """Return how many multiplications less a px takes in one step."""
    pairs = zip(first.shape[2:], kernel.shape[2:], strict=True)
    taps = math.prod(-(-(step + length - 1) // step) for step, length in pairs)
    return int(kernel.size + len(first) * (first.shape[1] - taps * len(kernel)))


def _joined(first: FloatArray, kernel: FloatArray) -> AnyArray:
    """Return the kernel (in, out, h, w) of a transposed convolution and a convolution after it."""
    height, width = kernel.shape[2:]
    sizes = (step + length - 1 for step, length in zip(first.shape[2:], (height, width), strict=True))
    both = np.zeros((len(first), len(kernel), *sizes))
    for y, x in np.ndindex(*first.shape[2:]):
        part = np.tensordot(first[:, :, y, x].astype(np.float64), kernel[:, :, ::-1, ::-1], (1, 1))
        both[:, :, y : y + height, x : x + width] += part
    return both


# OpenVINO 2026.4 moves an activation in front of a max pooling that follows a convolution, which is right
# only for a function that never falls. It makes SiLU and its like from a product of a map and its activation.
_RISING = {"Clamp", "Elu", "Exp", "PRelu", "Relu", "Selu", "Sigmoid", "SoftPlus", "Tanh"}
_FALLING = {"Gelu", "HSwish", "Mish", "Swish"}


def _check_pooled(node: openvino.Node) -> None:
    """Refuse a max pooling, or a rising activation after one, before an activation that falls somewhere."""
    users = [one.get_node() for one in node.output(0).get_target_inputs()]
    kinds = {one.get_type_name() for one in users}
    if kinds & _FALLING or ("Multiply" in kinds and kinds & (_RISING | {"Add"})):
        raise UnsupportedError(f"max pooling before {', '.join(sorted(kinds))} is not known")
    for one in users:
        if one.get_type_name() in _RISING:
            _check_pooled(one)


def _norms(layers: Layers, weights: Mapping[str, FloatArray]) -> dict[int, Norm]:
    """Divide each batch normalisation between the convolution that it alone follows, and itself."""
    # OpenVINO would do so as well, but its multiplication of kernels takes seconds for a large network.
    users: dict[int, list[Layer | None]] = {layers.output: [None]}
    for layer in layers.layers:
        for number in maps_in([layer.args, layer.kwargs]):
            users.setdefault(number, []).append(layer)
    found: dict[int, Norm] = {}
    for layer in layers.layers:
        activation = str(layer.config.get("activation") if layer.kind in _CONVOLUTIONS else None)
        match users.get(layer.output):
            case [Layer(kind="layers.BatchNormalization") as norm] if activation in {"linear", "relu"}:
                with _refused(norm):
                    scale, offset = _scale_and_offset(Use(norm, {}, weights))
                one, none = np.ones_like(scale), np.zeros_like(scale)
                if activation == "linear":
                    found[layer.output], found[norm.output] = (scale, offset), (one, none)
                elif (scale >= 0).all():  # then the ReLU of the product is the product of the ReLU
                    found[layer.output], found[norm.output] = (scale, none), (one, offset)
    return found


@contextmanager
def _refused(layer: Layer | Use) -> Iterator[None]:
    """Turn whatever a layer of unknown content raises into an UnsupportedError."""
    try:
        yield
    except UnsupportedError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise UnsupportedError(f"{layer.kind}: {error}") from error


def _output_of(use: Use) -> Output:
    function = _FUNCTIONS.get(use.kind)
    if function is None:
        raise UnsupportedError(f"{use.kind} is not known")
    with _refused(use):
        output = function(use)
    use.check_finished()
    return output
