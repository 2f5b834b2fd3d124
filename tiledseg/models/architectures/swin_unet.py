"""The Swin-Unet (Cao et al., arXiv 2105.05537): encoder and decoder of shifted-window transformers.

A block is attention within windows, then two dense layers, each after layer normalisation and each
with a residual connection. Merging moves the px of 2 x 2 into channels and reduces these to half;
expanding is the reverse. A skip is the output of an encoder level before merging, as in figure 1 of
the paper; it is joined by concatenation and a dense layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiledseg._backend import keras
from tiledseg.config import SwinUNetConfig
from tiledseg.models.builder import NetworkBuilder
from tiledseg.tiling import Grow, Slide, Windows

layers, ops = keras.layers, keras.ops

_EPSILON = 1e-5
_MASKED = -100.0  # added to the logits of px that are not neighbours, as the authors do


@dataclass(frozen=True)
class SwinUNetBuilder(NetworkBuilder[SwinUNetConfig]):
    """Builds the Swin-Unet that its settings describe."""

    config: SwinUNetConfig = field(default_factory=SwinUNetConfig)

    def encode(self, image: Any) -> list[Any]:
        """Return the tokens of every level, the finest first, the bottleneck last."""
        config, features = self.config, []
        x = layers.Conv2D(config.embedding, config.patch, strides=config.patch, name="patches")(image)
        x = _normalised(x, "patches_norm")
        for level in range(len(config.depths)):
            if level:
                x = SpaceToDepth(2, name=f"merge_{level}")(x)
                x = _dense(
                    _normalised(x, f"merge_{level}_norm"),
                    self._channels(level),
                    f"merge_{level}_dense",
                    bias=False,
                )
            x = self._level(x, level, "encoder")
            features.append(x)
        return features

    def decode(self, features: list[Any]) -> Any:
        """Expand the bottleneck, and join the tokens of each level."""
        x = _normalised(features[-1], "bottleneck_norm")
        for level in reversed(range(len(features) - 1)):
            x = _expanded(x, 2, self._channels(level), f"expand_{level}")
            x = layers.Concatenate(name=f"decoder_{level}_concat")([x, features[level]])
            x = _dense(x, self._channels(level), f"decoder_{level}_dense")
            x = self._level(x, level, "decoder")
        x = _normalised(x, "decoder_norm") if len(features) > 1 else x
        return _expanded(x, self.config.patch, self.config.embedding, "expand_patches")

    def _level(self, x: Any, level: int, part: str) -> Any:
        before, total = sum(self.config.depths[:level]), sum(self.config.depths)
        for n in range(self.config.depths[level]):
            skipped = self.config.drop_path * (before + n) / max(1, total - 1)
            x = self._block(x, level, f"{part}_{level}_block_{n}", skipped, shifted=n % 2 == 1)
        return x

    def _block(self, x: Any, level: int, name: str, skipped: float, *, shifted: bool) -> Any:
        config, channels = self.config, self._channels(level)
        shift = config.window // 2 if shifted else 0
        y = _normalised(x, f"{name}_norm_a")
        y = WindowAttention(config.heads[level], config.window, shift, name=f"{name}_attention")(y)
        x = _added(x, y, skipped, f"{name}_add_a")
        y = _dense(_normalised(x, f"{name}_norm_b"), config.mlp_ratio * channels, f"{name}_dense_a")
        y = _dense(layers.Activation("gelu", name=f"{name}_gelu")(y), channels, f"{name}_dense_b")
        return _added(x, y, skipped, f"{name}_add_b")

    def _channels(self, level: int) -> int:
        return int(self.config.embedding * 2**level)


def _expanded(x: Any, factor: int, channels: int, name: str) -> Any:
    x = _dense(x, channels * factor**2, f"{name}_dense", bias=False)
    return _normalised(DepthToSpace(factor, name=name)(x), f"{name}_norm")


def _dense(x: Any, channels: int, name: str, *, bias: bool = True) -> Any:
    kernels = keras.initializers.TruncatedNormal(stddev=0.02)
    return layers.Dense(channels, use_bias=bias, kernel_initializer=kernels, name=name)(x)


def _normalised(x: Any, name: str) -> Any:
    return layers.LayerNormalization(epsilon=_EPSILON, name=name)(x)


def _added(x: Any, y: Any, skipped: float, name: str) -> Any:
    if skipped:
        y = layers.Dropout(skipped, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(y)
    return layers.Add(name=name)([x, y])


class _Moved(keras.layers.Layer):
    """Moves px between blocks of a length and channels."""

    def __init__(self, block: int, **options: Any) -> None:
        super().__init__(**options)
        self.block = block

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild the layer."""
        return {**super().get_config(), "block": self.block}


@keras.saving.register_keras_serializable("tiledseg")
class SpaceToDepth(_Moved):
    """Moves the px of each block into channels."""

    @property
    def context(self) -> tuple[Slide, Slide]:
        """The px of a block."""
        return Slide(self.block, self.block), Slide(self.block, self.block)

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape of the output."""
        n, *size, channels = shape
        return (n, *(length and length // self.block for length in size), channels * self.block**2)

    def call(self, x: Any) -> Any:
        """Map x (N, h, w, C) to (N, h / block, w / block, C block²)."""
        return ops.space_to_depth(x, self.block)


@keras.saving.register_keras_serializable("tiledseg")
class DepthToSpace(_Moved):
    """Moves the channels of each px into a block of px."""

    @property
    def context(self) -> tuple[Grow, Grow]:
        """The one px from which a block is made."""
        return Grow(self.block, self.block), Grow(self.block, self.block)

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape of the output."""
        n, *size, channels = shape
        return (n, *(length and length * self.block for length in size), channels // self.block**2)

    def call(self, x: Any) -> Any:
        """Map x (N, h, w, C) to (N, h block, w block, C / block²)."""
        return ops.depth_to_space(x, self.block)


@keras.saving.register_keras_serializable("tiledseg")
class WindowAttention(keras.layers.Layer):
    """Lets the px of a window attend to each other, with a bias for their relative positions."""

    # The windows of a shifted layer overlap the borders of those that are not shifted. The shift is
    # cyclic: px from opposite ends of the map do not attend to each other. An axis with only one
    # window is not shifted.

    def __init__(self, heads: int, window: int, shift: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.heads, self.window, self.shift = heads, window, shift

    @property
    def context(self) -> tuple[Windows, Windows]:
        """The px of a window, which depends on the position in the map."""
        return Windows(self.window, self.shift), Windows(self.window, self.shift)

    def build(self, shape: Any) -> None:
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

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape of the output, that of the input."""
        return shape

    def call(self, x: Any) -> Any:
        """Map x (N, h, w, C) to the same shape."""
        _, *size, _ = ops.shape(x)
        shifts = [self._shift_along(length) for length in size] if self.shift else None
        if shifts:
            x = _rolled(x, shifts, size)
        mask = self._shift_mask(size, shifts) if shifts else 0.0
        x = self._attended(self._windows(x, size), mask)
        x = self._whole(x, size)
        if not shifts:
            return x
        return _rolled(x, [length - one for length, one in zip(size, shifts, strict=True)], size)

    def _attended(self, x: Any, mask: Any) -> Any:
        """Map windows (N, windows, px, C) to the same shape."""
        _, windows, px, channels = ops.shape(x)
        depth = channels // self.heads
        parts = ops.reshape(self.query_key_value(x), (-1, windows, px, 3, self.heads, depth))
        query, key, value = ops.unstack(ops.transpose(parts, (3, 0, 1, 4, 2, 5)), 3)
        logits = ops.matmul(query * depth**-0.5, ops.swapaxes(key, -1, -2)) + self._bias() + mask
        x = ops.transpose(ops.matmul(ops.softmax(logits), value), (0, 1, 3, 2, 4))
        return self.projection(ops.reshape(x, (-1, windows, px, channels)))

    def _bias(self) -> Any:
        """Return the bias (heads, px, px), which depends on the relative position."""
        position = np.stack(np.divmod(np.arange(self.window**2), self.window))
        y, x = position[:, :, None] - position[:, None] + self.window - 1
        bias = ops.take(self.bias_table, y * (2 * self.window - 1) + x, axis=0)
        return ops.cast(ops.transpose(bias, (2, 0, 1)), self.compute_dtype)

    def _shift_along(self, length: Any) -> Any:
        """Return the shift along an axis: 0 if one window covers the axis."""
        if isinstance(length, int):
            return self.shift if length > self.window else 0
        return ops.where(length > self.window, self.shift, 0)

    def _shift_mask(self, size: list[Any], shifts: list[Any]) -> Any:
        """Mask pairs of px that are in one window only by the cyclic shift: (windows, 1, px, px)."""
        y, x = (
            _at_end(length, self.window) + _at_end(length, shift)
            for length, shift in zip(size, shifts, strict=True)
        )
        part = self._windows(ops.reshape(3 * y[:, None] + x[None], (1, *size, 1)), size)[0]
        differ = ops.cast(part != ops.swapaxes(part, -1, -2), self.compute_dtype)
        return differ[:, None] * _MASKED

    def _windows(self, x: Any, size: list[Any]) -> Any:
        """Cut a map (N, h, w, C) into windows (N, windows, px, C)."""
        rows, columns = (length // self.window for length in size)
        x = ops.reshape(x, (-1, rows, self.window, columns, self.window, x.shape[-1]))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, rows * columns, self.window**2, x.shape[-1]))

    def _whole(self, x: Any, size: list[Any]) -> Any:
        """Join windows (N, windows, px, C) to a map again."""
        rows, columns = (length // self.window for length in size)
        x = ops.reshape(x, (-1, rows, columns, self.window, self.window, x.shape[-1]))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, *size, x.shape[-1]))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild the layer."""
        return {**super().get_config(), "heads": self.heads, "window": self.window, "shift": self.shift}


def _rolled(x: Any, shifts: list[Any], size: list[Any]) -> Any:
    """Shift a map up and to the left, cyclically."""
    for axis, (shift, length) in enumerate(zip(shifts, size, strict=True), 1):
        x = ops.take(x, (ops.arange(length) + shift) % length, axis=axis)
    return x


def _at_end(length: Any, last: Any) -> Any:
    """Mark the last px of an axis by 1, the others by 0."""
    return ops.cast(ops.arange(length) >= length - last, "int32")
