"""Attention within windows (Liu et al., arXiv 2103.14030), and moving px between place and channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledseg._backend import keras
from tiledseg.tiling import Grow, Slide, Windows

__all__ = ["DepthToSpace", "SpaceToDepth", "WindowAttention"]

ops = keras.ops

_APART = -100.0  # added to the logits of px that are not neighbours, as the authors do


@keras.saving.register_keras_serializable("tiledseg")
class SpaceToDepth(keras.layers.Layer):
    """Lays the px of each block behind one another, as channels."""

    def __init__(self, block: int, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.block = block

    @property
    def looks_at(self) -> tuple[Slide, Slide]:
        """The px of a block."""
        return Slide(self.block, self.block), Slide(self.block, self.block)

    def compute_output_shape(self, shape: Any) -> Any:  # noqa: ANN401
        """Give the shape of the output."""
        n, *size, channels = shape
        return (n, *(length and length // self.block for length in size), channels * self.block**2)

    def call(self, x: Any) -> Any:  # noqa: ANN401
        """Map x (N, h, w, C) to (N, h / block, w / block, C block²)."""
        return ops.space_to_depth(x, self.block)

    def get_config(self) -> dict[str, Any]:
        """Give the settings that rebuild it."""
        return {**super().get_config(), "block": self.block}


@keras.saving.register_keras_serializable("tiledseg")
class DepthToSpace(keras.layers.Layer):
    """Lays the channels of each px beside one another, as a block of px."""

    def __init__(self, block: int, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.block = block

    @property
    def looks_at(self) -> tuple[Grow, Grow]:
        """The px that a block is made of."""
        return Grow(self.block, self.block), Grow(self.block, self.block)

    def compute_output_shape(self, shape: Any) -> Any:  # noqa: ANN401
        """Give the shape of the output."""
        n, *size, channels = shape
        return (n, *(length and length * self.block for length in size), channels // self.block**2)

    def call(self, x: Any) -> Any:  # noqa: ANN401
        """Map x (N, h, w, C) to (N, h block, w block, C / block²)."""
        return ops.depth_to_space(x, self.block)

    def get_config(self) -> dict[str, Any]:
        """Give the settings that rebuild it."""
        return {**super().get_config(), "block": self.block}


@keras.saving.register_keras_serializable("tiledseg")
class WindowAttention(keras.layers.Layer):
    """Lets the px of a window attend to each other, with a bias for their relative places.

    The windows of a shifted layer straddle those of one that is not. At the ends of the map they
    are cut off: what the cyclic shift brings together there is kept apart. Along an axis that
    holds one window only nothing is shifted.
    """

    def __init__(self, heads: int, window: int, shift: int = 0, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.heads, self.window, self.shift = heads, window, shift

    @property
    def looks_at(self) -> tuple[Windows, Windows]:
        """The px of a window, whose place in the map matters."""
        return Windows(self.window, self.shift), Windows(self.window, self.shift)

    def build(self, shape: Any) -> None:  # noqa: ANN401
        """Make the weights for maps (N, h, w, C)."""
        channels = shape[-1]
        self.query_key_value = keras.layers.Dense(3 * channels, dtype=self.dtype_policy, name="qkv")
        self.query_key_value.build((None, channels))
        self.projection = keras.layers.Dense(channels, dtype=self.dtype_policy, name="projection")
        self.projection.build((None, channels))
        self.bias_table = self.add_weight(
            ((2 * self.window - 1) ** 2, self.heads),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="bias_table",
        )

    def compute_output_shape(self, shape: Any) -> Any:  # noqa: ANN401
        """Give the shape of the output, that of the input."""
        return shape

    def call(self, x: Any) -> Any:  # noqa: ANN401
        """Map x (N, h, w, C) to the same shape."""
        _, *size, _ = ops.shape(x)
        shifts = [self._shift_along(length) for length in size] if self.shift else None
        if shifts:
            x = _rolled(x, shifts, size)
        apart = self._apart(size, shifts) if shifts else 0.0
        x = self._attended(self._windows(x, size), apart)
        x = self._whole(x, size)
        return (
            _rolled(x, [length - one for length, one in zip(size, shifts, strict=True)], size)
            if shifts
            else x
        )

    def _attended(self, x: Any, apart: Any) -> Any:  # noqa: ANN401
        """Map windows (N, windows, px, C) to the same shape."""
        _, windows, px, channels = ops.shape(x)
        depth = channels // self.heads
        parts = ops.reshape(self.query_key_value(x), (-1, windows, px, 3, self.heads, depth))
        query, key, value = ops.unstack(ops.transpose(parts, (3, 0, 1, 4, 2, 5)), 3)
        logits = ops.matmul(query * depth**-0.5, ops.swapaxes(key, -1, -2)) + self._bias() + apart
        x = ops.transpose(ops.matmul(ops.softmax(logits), value), (0, 1, 3, 2, 4))
        return self.projection(ops.reshape(x, (-1, windows, px, channels)))

    def _bias(self) -> Any:  # noqa: ANN401
        """Give the bias (heads, px, px) by relative place."""
        place = np.stack(np.divmod(np.arange(self.window**2), self.window))
        apart = place[:, :, None] - place[:, None] + self.window - 1
        bias = ops.take(self.bias_table, apart[0] * (2 * self.window - 1) + apart[1], axis=0)
        return ops.cast(ops.transpose(bias, (2, 0, 1)), self.compute_dtype)

    def _shift_along(self, length: Any) -> Any:  # noqa: ANN401
        """Give the shift along an axis: none where one window holds it all."""
        if isinstance(length, int):
            return self.shift if length > self.window else 0
        return ops.where(length > self.window, self.shift, 0)

    def _apart(self, size: list[Any], shifts: list[Any]) -> Any:  # noqa: ANN401
        """Say which px of a window came together by the shift alone: (windows, 1, px, px)."""
        y, x = (
            _at_end(length, self.window) + _at_end(length, shift)
            for length, shift in zip(size, shifts, strict=True)
        )
        part = self._windows(ops.reshape(3 * y[:, None] + x[None], (1, *size, 1)), size)[0]
        differ = ops.cast(part != ops.swapaxes(part, -1, -2), self.compute_dtype)
        return differ[:, None] * _APART

    def _windows(self, x: Any, size: list[Any]) -> Any:  # noqa: ANN401
        """Cut a map (N, h, w, C) into windows (N, windows, px, C)."""
        rows, columns = (length // self.window for length in size)
        x = ops.reshape(x, (-1, rows, self.window, columns, self.window, x.shape[-1]))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, rows * columns, self.window**2, x.shape[-1]))

    def _whole(self, x: Any, size: list[Any]) -> Any:  # noqa: ANN401
        """Lay windows (N, windows, px, C) together again."""
        rows, columns = (length // self.window for length in size)
        x = ops.reshape(x, (-1, rows, columns, self.window, self.window, x.shape[-1]))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, *size, x.shape[-1]))

    def get_config(self) -> dict[str, Any]:
        """Give the settings that rebuild it."""
        return {**super().get_config(), "heads": self.heads, "window": self.window, "shift": self.shift}


def _rolled(x: Any, shifts: list[Any], size: list[Any]) -> Any:  # noqa: ANN401
    """Move a map up and to the left, what leaves it coming in again at the other end."""
    for axis, (shift, length) in enumerate(zip(shifts, size, strict=True), 1):
        x = ops.take(x, (ops.arange(length) + shift) % length, axis=axis)
    return x


def _at_end(length: Any, last: Any) -> Any:  # noqa: ANN401
    """Mark the last px of an axis by 1, the others by 0."""
    return ops.cast(ops.arange(length) >= length - last, "int32")
