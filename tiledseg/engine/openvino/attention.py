"""Attention, and the other layers of this package, as operations of OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import lazy
from tiledseg.engine.openvino.use import CHANNELS, channels, constant, shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openvino import opset13 as ops

    from tiledseg._types import FloatArray
    from tiledseg.engine.openvino.use import Output, Use
else:
    ops = lazy("openvino.opset13")

_MASKED = -100.0  # added to the logits of px that are not neighbours


def _reshape(x: Output, *lengths: int) -> Output:
    return ops.reshape(x, np.array(lengths, np.int64), special_zero=False)


def _matrix(x: Output, kernel: FloatArray, bias: FloatArray | None) -> Output:
    """Multiply the last axis by a matrix (in, out), and add the bias."""
    x = ops.matmul(x, constant(kernel), False, False)  # noqa: FBT003
    return x if bias is None else ops.add(x, constant(bias))


def _attended(query: Output, key: Output, value: Output, depth: int, added: Sequence[Any] = ()) -> Output:
    """Attend: all are (..., px, depth)."""
    query = ops.multiply(query, constant(depth**-0.5))
    logits = ops.matmul(query, key, False, True)  # noqa: FBT003
    for one in added:
        logits = ops.add(logits, constant(one))
    return ops.matmul(ops.softmax(logits, len(shape(logits)) - 1), value, False, False)  # noqa: FBT003


def _multi_head(use: Use) -> Output:
    """Self-attention between all px of a map."""
    query, value = use.inputs(4)
    if query is not value:
        raise use.refuse("attention between two maps")
    n, width, rows, columns = shape(query)
    heads, depth = int(use.number("num_heads")), int(use.number("key_dim"))
    use.one_of("value_dim", depth)
    use.one_of("attention_axes", [1, 2])
    use.one_of("use_gate", False)  # noqa: FBT003
    for name in ("output_shape", "sliding_window"):
        use.one_of(name, None)
    use.ignore("dropout", "flash_attention")
    biased = use.one_of("use_bias", True, False)  # noqa: FBT003
    tokens = _reshape(ops.transpose(query, [0, 2, 3, 1]), n, rows * columns, width)

    def part(name: str) -> Output:
        kernel = use.weight(f"{name}/kernel", width, heads, depth).reshape(width, -1)
        bias = use.weight(f"{name}/bias", heads, depth).reshape(-1) if biased else None
        y = _reshape(_matrix(tokens, kernel, bias), n, rows * columns, heads, depth)
        return ops.transpose(y, [0, 2, 1, 3])

    y = _attended(part("query"), part("key"), part("value"), depth)
    y = _reshape(ops.transpose(y, [0, 2, 1, 3]), n, rows * columns, heads * depth)
    kernel = use.weight("attention_output/kernel", heads, depth, width).reshape(-1, width)
    y = _matrix(y, kernel, use.weight("attention_output/bias", width) if biased else None)
    return ops.transpose(_reshape(y, n, rows, columns, width), [0, 3, 1, 2])


def _window_attention(use: Use) -> Output:
    """Self-attention within windows, cyclically shifted, as `WindowAttention` of the Swin-Unet."""
    x = use.input()
    heads, window, shift = (int(use.number(name)) for name in ("heads", "window", "shift"))
    n, width, *size = shape(x)
    shifts = [shift if length > window else 0 for length in size]
    x = ops.roll(ops.transpose(x, [0, 2, 3, 1]), [-one for one in shifts], [1, 2])
    rows, columns = (length // window for length in size)
    x = ops.transpose(_reshape(x, n, rows, window, columns, window, width), [0, 1, 3, 2, 4, 5])
    px, depth = window**2, width // heads
    x = _reshape(x, n, rows * columns, px, width)
    x = _matrix(x, use.weight("qkv/kernel", width, 3 * width), use.weight("qkv/bias", 3 * width))
    x = ops.transpose(_reshape(x, n, rows * columns, px, 3, heads, depth), [3, 0, 1, 4, 2, 5])
    parts = [ops.squeeze(one, [0]) for one in ops.split(x, 0, 3).outputs()]
    table = use.weight("bias_table", (2 * window - 1) ** 2, heads)
    added = [_position_bias(table, window), *([_shift_mask(size, window, shifts)] if any(shifts) else [])]
    x = ops.transpose(_attended(parts[0], parts[1], parts[2], depth, added), [0, 1, 3, 2, 4])
    x = _reshape(x, n, rows * columns, px, width)
    x = _matrix(x, use.weight("projection/kernel", width, width), use.weight("projection/bias", width))
    x = ops.transpose(_reshape(x, n, rows, columns, window, window, width), [0, 1, 3, 2, 4, 5])
    x = ops.roll(_reshape(x, n, *size, width), shifts, [1, 2])
    return ops.transpose(x, [0, 3, 1, 2])


def _position_bias(table: FloatArray, window: int) -> FloatArray:
    """Return the bias (heads, px, px), which depends on the relative position."""
    position = np.stack(np.divmod(np.arange(window**2), window))
    y, x = position[:, :, None] - position[:, None] + window - 1
    bias: FloatArray = table[y * (2 * window - 1) + x].transpose(2, 0, 1)
    return bias


def _shift_mask(size: Sequence[int], window: int, shifts: Sequence[int]) -> FloatArray:
    """Mask pairs of px that are in one window only by the cyclic shift: (windows, 1, px, px)."""
    y, x = (
        (np.arange(length) >= length - window).astype(int) + (np.arange(length) >= length - one)
        for length, one in zip(size, shifts, strict=True)
    )
    part = (3 * y[:, None] + x).reshape(size[0] // window, window, size[1] // window, window)
    part = part.transpose(0, 2, 1, 3).reshape(-1, window**2)
    differ = part[:, :, None] != part[:, None]
    return np.where(differ[:, None], np.float32(_MASKED), np.float32(0))


def _spread(use: Use) -> Output:
    px, like = use.inputs(4)
    n, channels, *_ = shape(px)
    return ops.broadcast(px, np.array([n, channels, *shape(like)[2:]], np.int64))


def _placed(use: Use) -> Output:
    x = use.input()
    _, channels, height, width = shape(x)
    return ops.add(x, constant(use.weight("embedding", height, width, channels).transpose(2, 0, 1)))


def _reversed(use: Use) -> Output:
    x = use.input()
    order = np.arange(channels(x))[::-1].astype(np.int64)
    return ops.gather(x, np.ascontiguousarray(order), np.int64(CHANNELS))


ATTENTION: dict[str, Callable[[Use], Output]] = {
    "layers.MultiHeadAttention": _multi_head,
    "tiledseg.Placed": _placed,
    "tiledseg.ReversedChannels": _reversed,
    "tiledseg.Spread": _spread,
    "tiledseg.WindowAttention": _window_attention,
}
"""By the kind of layer."""
