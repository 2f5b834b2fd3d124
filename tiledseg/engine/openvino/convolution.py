"""Convolutions and activations, pooling, and layers that change the size of a map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import cv2, lazy
from tiledseg.engine.openvino.use import CHANNELS, Use, along_channels, channels, constant, rank, shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openvino import opset13 as ops

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.openvino.use import Norm, Output
else:
    ops = lazy("openvino.opset13")


_SMALL = 1 << 20  # numbers of a kernel; of larger ones NumPy takes four times as long as OpenCV
_AT_ONCE = 64  # outputs of a kernel
_MOST_PX = 64  # of a kernel whose px OpenCV joins


def _same(size: Sequence[int], kernel: Sequence[int], step: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the padding before and after of ``padding="same"``, the smaller half before."""
    added = [
        max((-(-length // stride) - 1) * stride + window - length, 0)
        for length, window, stride in zip(size, kernel, step, strict=True)
    ]
    return [one // 2 for one in added], [one - one // 2 for one in added]


def _window(use: Use, x: Output, kernel: Sequence[int], dilation: Sequence[int]) -> dict[str, Any]:
    """Take strides, padding and data format; return strides and padding in px."""
    step, padding = use.pair("strides"), use.one_of("padding", "same", "valid")
    use.one_of("data_format", "channels_last")
    reach = [(size - 1) * spread + 1 for size, spread in zip(kernel, dilation, strict=True)]
    size = shape(x)[2:]
    before, after = _same(size, reach, step) if padding == "same" else ([0, 0], [0, 0])
    if padding == "valid" and any(one < two for one, two in zip(size, reach, strict=True)):
        raise use.refuse(f"a map of {size} px under a kernel of {reach} px")
    return {"strides": list(step), "pads_begin": before, "pads_end": after}


def convolution(use: Use) -> Output:
    """Build a Conv2D layer."""
    return _convolved(use, lambda kernel: kernel)


def standardised(use: Use) -> Output:
    """Build a convolution whose kernels are standardised per filter."""

    def changed(kernel: FloatArray) -> FloatArray:
        wide = kernel.astype(np.float64)
        centred = wide - wide.mean((0, 1, 2), keepdims=True)
        return np.asarray(centred / np.sqrt(wide.var((0, 1, 2), keepdims=True) + 1e-5), np.float32)

    return _convolved(use, changed)


def _convolved(use: Use, changed: Callable[[FloatArray], FloatArray]) -> Output:
    x, (height, width) = use.input(), use.pair("kernel_size")
    groups, filters, dilation = (
        int(use.number("groups")),
        int(use.number("filters")),
        use.pair("dilation_rate"),
    )
    kernel = changed(use.weight("kernel", height, width, channels(x) // groups, filters))
    options = _window(use, x, (height, width), dilation) | {"dilations": list(dilation)}
    kernel = _reversed(kernel, use.norm)
    if groups == 1:
        x = ops.convolution(x, constant(kernel, owned=True), **options)
    else:
        kernel = kernel.reshape(groups, filters // groups, *kernel.shape[1:])
        x = ops.group_convolution(x, constant(kernel, owned=True), **options)
    return _biased(use, x, filters)


def _reversed(kernel: FloatArray, norm: Norm | None = None) -> FloatArray:
    """Bring a kernel (h, w, in, out) to (out, in, h, w), scaled."""
    height, width, before, last = kernel.shape
    if kernel.size <= _SMALL:
        scaled = kernel if norm is None else kernel * norm[0].astype(np.float32)
        return np.array(scaled.transpose(3, 2, 0, 1), np.float32, order="C")
    px = kernel.reshape(height * width, before, last)
    found = np.empty((last, before, len(px)), np.float32)
    space = np.empty((len(px), _AT_ONCE, before), np.float32)  # new memory would take longer
    for start in range(0, last, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        some = space[:, : last - start]
        for one, turned in zip(px, some, strict=True):
            cv2.transpose(one[:, part], dst=turned)
        if norm is not None:
            some *= norm[0][part, None].astype(np.float32)
        if len(px) <= _MOST_PX:
            cv2.merge(list(some), dst=found[part])
        else:
            found[part] = some.transpose(1, 2, 0)
    return found.reshape(last, before, height, width)


def _scaled(kernel: FloatArray, norm: Norm | None, *shape: int) -> FloatArray:
    """Multiply a kernel by the scale of the normalisation that follows, laid along some of its axes."""
    return kernel if norm is None else (kernel * norm[0].reshape(shape)).astype(np.float32)


def _biased(use: Use, x: Output, filters: int) -> Output:
    """Add the bias, with what a normalisation adds to it, and apply the activation."""
    bias: AnyArray = np.zeros(1)
    if use.one_of("use_bias", True, False):  # noqa: FBT003
        bias = use.weight("bias", filters)
    if use.norm is not None:
        bias = bias * use.norm[0] + use.norm[1]
    if bias.any():
        x = ops.add(x, along_channels(bias, x))
    return _activated(x, use.take("activation"), use)


def _by_depth(x: Output, kernel: FloatArray, options: dict[str, Any]) -> Output:
    """Convolve each channel alone with kernels (h, w, channels, multiplier)."""
    return ops.group_convolution(x, constant(kernel.transpose(2, 3, 0, 1)[:, :, None]), **options)


def depthwise(use: Use) -> Output:
    """Build a DepthwiseConv2D layer."""
    x, size, many = use.input(), use.pair("kernel_size"), int(use.number("depth_multiplier"))
    dilation = use.pair("dilation_rate")
    kernel = use.weight("kernel", *size, channels(x), many)
    options = _window(use, x, size, dilation) | {"dilations": list(dilation)}
    kernel = _scaled(kernel, use.norm, channels(x), many)
    return _biased(use, _by_depth(x, kernel, options), channels(x) * many)


def separable(use: Use) -> Output:
    """Build a SeparableConv2D layer."""
    x, size, many = use.input(), use.pair("kernel_size"), int(use.number("depth_multiplier"))
    dilation, filters = use.pair("dilation_rate"), int(use.number("filters"))
    use.ignore("groups")
    depthwise = use.weight("depthwise_kernel", *size, channels(x), many)
    pointwise = use.weight("pointwise_kernel", 1, 1, channels(x) * many, filters)
    options = _window(use, x, size, dilation) | {"dilations": list(dilation)}
    pointwise = _scaled(pointwise[0, 0], use.norm, filters)
    return _biased(use, _pointwise(_by_depth(x, depthwise, options), pointwise), filters)


def _pointwise(x: Output, matrix: FloatArray) -> Output:
    """Multiply the channels of each px by a matrix (in, out)."""
    if rank(x) != 4:
        return ops.matmul(x, constant(matrix), False, False)  # noqa: FBT003
    kernel = matrix.T[:, :, None, None]
    return ops.convolution(x, constant(kernel), [1, 1], [0, 0], [0, 0], [1, 1])


def dense(use: Use) -> Output:
    """Build a Dense layer."""
    x, units = use.input(2, 4), int(use.number("units"))
    use.one_of("quantization_config", None)
    matrix = _scaled(use.weight("kernel", channels(x), units), use.norm, units)
    return _biased(use, _pointwise(x, matrix), units)


def transposed(use: Use) -> Output:
    """Build a Conv2DTranspose layer."""
    x, size, step = use.input(), use.pair("kernel_size"), use.pair("strides")
    filters, same = int(use.number("filters")), use.one_of("padding", "same", "valid") == "same"
    use.one_of("data_format", "channels_last")
    use.one_of("output_padding", None)
    if use.pair("dilation_rate") != (1, 1):
        raise use.refuse("dilation")
    over = [kernel - stride for kernel, stride in zip(size, step, strict=True)]
    cut = [max(one, 0) if same else 0 for one in over]
    kernel = _reversed(_scaled(use.weight("kernel", *size, filters, channels(x)), use.norm, filters, 1))
    x = ops.convolution_backprop_data(
        x,
        constant(kernel, owned=True),
        list(step),
        pads_begin=[one // 2 for one in cut],
        pads_end=[one - one // 2 for one in cut],
        dilations=[1, 1],
        output_padding=[max(-one, 0) for one in over],
    )
    return _biased(use, x, filters)


# Activations, as functions and as layers.


def _activated(x: Output, activation: Any, use: Use) -> Output:
    """Apply an activation: the name of a function, or a layer of Keras without weights."""
    if isinstance(activation, str) and activation in _ACTIVATIONS:
        return _ACTIVATIONS[activation](x)
    raise use.refuse(f"activation={activation!r}")


def _softmax(x: Output) -> Output:
    return ops.softmax(x, CHANNELS if rank(x) == 4 else rank(x) - 1)


def _hard_sigmoid(x: Output) -> Output:
    return ops.multiply(ops.clamp(ops.add(x, constant(3.0)), 0.0, 6.0), constant(1 / 6))


def leaky(x: Output, slope: float) -> Output:
    """Multiply negative values by a slope."""
    return ops.prelu(x, constant(np.full(1, slope)))


_ACTIVATIONS: dict[str, Callable[[Output], Output]] = {
    "linear": lambda x: x,
    "relu": ops.relu,
    "relu6": lambda x: ops.clamp(x, 0.0, 6.0),
    "leaky_relu": lambda x: leaky(x, 0.2),
    "elu": lambda x: ops.elu(x, 1.0),
    "selu": lambda x: ops.selu(x, constant(1.6732632423543772), constant(1.0507009873554805)),
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
    return _activated(use.input(2, 4), use.take("activation"), use)


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


# Pooling, and other sizes.


def _pooled(use: Use) -> tuple[Output, dict[str, Any]]:
    x, size = use.input(), use.pair("pool_size")
    return x, _window(use, x, size, (1, 1)) | {"kernel_shape": list(size)}


def max_pooled(use: Use) -> Output:
    """Build a MaxPooling2D layer."""
    x, options = _pooled(use)
    return ops.max_pool(x, dilations=[1, 1], **options).output(0)


def average_pooled(use: Use) -> Output:
    """Build an AveragePooling2D layer; padding does not count."""
    x, options = _pooled(use)
    return ops.avg_pool(x, exclude_pad=True, **options)


def global_pooled(reduce: Callable[..., Output]) -> Callable[[Use], Output]:
    """Return the function for a layer that reduces each map to one px."""

    def pooled(use: Use) -> Output:
        use.one_of("data_format", "channels_last")
        return reduce(use.input(), [2, 3], use.one_of("keepdims", True, False))  # noqa: FBT003

    return pooled


def upsampled(use: Use) -> Output:
    """Build an UpSampling2D layer."""
    x, size = use.input(), use.pair("size")
    use.one_of("data_format", "channels_last")
    nearest = use.one_of("interpolation", "nearest", "bilinear") == "nearest"
    lengths = [length * factor for length, factor in zip(shape(x)[2:], size, strict=True)]
    return ops.interpolate(
        x,
        np.array(lengths, np.int64),
        "nearest" if nearest else "linear_onnx",
        "sizes",
        coordinate_transformation_mode="asymmetric" if nearest else "half_pixel",
        nearest_mode="floor",
        axes=np.array([2, 3], np.int64),
    )


def padded(use: Use) -> Output:
    """Build a ZeroPadding2D layer."""
    x, (y, x_edges) = use.input(), use.edges("padding")
    use.one_of("data_format", "channels_last")
    begin, end = [0, 0, y[0], x_edges[0]], [0, 0, y[1], x_edges[1]]
    return ops.pad(x, np.array(begin), np.array(end), "constant", constant(0.0))


def cropped(use: Use) -> Output:
    """Build a Cropping2D layer."""
    x, edges = use.input(), use.edges("cropping")
    use.one_of("data_format", "channels_last")
    size = shape(x)[2:]
    start = [one[0] for one in edges]
    stop = [length - one[1] for length, one in zip(size, edges, strict=True)]
    if any(one >= two for one, two in zip(start, stop, strict=True)):
        raise use.refuse(f"cropping {edges} of {size} px")
    return ops.slice(x, np.array(start), np.array(stop), np.array([1, 1]), np.array([2, 3]))


def reshaped(use: Use) -> Output:
    """Build a Reshape layer that makes a map of 1 x 1 px."""
    x, target = use.input(2), use.take("target_shape")
    if target != [1, 1, channels(x)]:
        raise use.refuse(f"target_shape={target}")
    return ops.reshape(x, np.array([shape(x)[0], channels(x), 1, 1]), special_zero=False)


def blocks(move: Callable[..., Output]) -> Callable[[Use], Output]:
    """Return the function for a layer that moves blocks of px into channels, or back."""
    return lambda use: move(use.input(), "blocks_first", int(use.number("block")))
