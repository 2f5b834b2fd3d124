"""Convolutions, pooling, and layers that change the size of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import cv2, lazy
from tiledseg.engine.openvino.activations import activated
from tiledseg.engine.openvino.use import Use, along_channels, channels, constant, rank, shape

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
    return activated(x, use.take("activation"), use)


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
