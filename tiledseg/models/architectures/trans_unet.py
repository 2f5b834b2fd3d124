"""The TransUNet (Chen et al., arXiv 2102.04306): R50-ViT as the encoder, a cascaded upsampler.

The residual network is that of BiT (arXiv 1912.11370): convolutions with standardised kernels and
group normalisation. Its maps of stride 2, 4 and 8 are skips. The px of its map of stride 16 are the
tokens of the transformer (arXiv 2010.11929). Each of the four levels of the decoder enlarges
bilinearly, concatenates the skip and convolves twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import TransUNetConfig
from tiledseg.models.builder import ConvNorm, NetworkBuilder, head
from tiledseg.tiling import Slide

layers, ops = keras.layers, keras.ops

_EPSILON = 1e-6
_MAX_GROUPS = 32


@dataclass(frozen=True)
class TransUNetBuilder(NetworkBuilder[TransUNetConfig]):
    """Builds the TransUNet that its settings describe."""

    config: TransUNetConfig = field(default_factory=TransUNetConfig)

    def encode(self, image: Any) -> list[Any]:
        """Return the residual network's maps of stride 2, 4 and 8, and the tokens of stride 16."""
        width = self.config.width
        x = StandardisedConv2D(width, 7, strides=2, padding="same", use_bias=False, name="root_conv")(image)
        features = [_rectified(_grouped(x, "root_norm"), "root_relu")]
        x = layers.MaxPooling2D(3, strides=2, padding="same", name="root_pool")(features[0])
        for stage, units in enumerate(self.config.units):
            for unit in range(units):
                step = 2 if stage and not unit else 1
                x = _unit(x, width * 2**stage, step, f"stage_{stage}_unit_{unit}")
            features.append(x)
        return [*features[:-1], self._transformed(x)]

    def decode(self, features: list[Any]) -> Any:
        """Enlarge the map of tokens four times, with the skips of stride 8, 4 and 2."""
        x = _convolved(features[-1], 2 * self.config.decoder_filters[0], "decoder_in")
        for n, filters in enumerate(self.config.decoder_filters):
            name = f"decoder_{len(self.config.decoder_filters) - 1 - n}"
            x = layers.UpSampling2D(interpolation="bilinear", name=f"{name}_up")(x)
            if n < len(features) - 1:
                x = layers.Concatenate(name=f"{name}_concat")([x, features[-2 - n]])
            x = _convolved(_convolved(x, filters, f"{name}_a"), filters, f"{name}_b")
        return x

    def finish(self, features: Any) -> Any:
        """Return the output by a convolution of 3 px."""
        return head(features, self.config.classes, self.config.final_activation, kernel=3)

    def _transformed(self, x: Any) -> Any:
        config = self.config
        x = layers.Conv2D(config.hidden, 1, name="tokens")(x)
        x = self._dropped(Placed(name="tokens_placed")(x), "tokens_dropout")
        for n in range(config.layers):
            x = self._layer(x, f"transformer_{n}")
        return layers.LayerNormalization(epsilon=_EPSILON, name="transformer_norm")(x)

    def _layer(self, x: Any, name: str) -> Any:
        config = self.config
        y = layers.LayerNormalization(epsilon=_EPSILON, name=f"{name}_norm_a")(x)
        y = layers.MultiHeadAttention(
            config.heads, config.hidden // config.heads, attention_axes=(1, 2), name=f"{name}_attention"
        )(y, y)
        x = layers.Add(name=f"{name}_add_a")([x, y])
        y = layers.LayerNormalization(epsilon=_EPSILON, name=f"{name}_norm_b")(x)
        y = layers.Dense(config.mlp, activation="gelu", name=f"{name}_dense_a")(y)
        y = layers.Dense(config.hidden, name=f"{name}_dense_b")(self._dropped(y, f"{name}_dropout_a"))
        return layers.Add(name=f"{name}_add_b")([x, self._dropped(y, f"{name}_dropout_b")])

    def _dropped(self, x: Any, name: str) -> Any:
        return layers.Dropout(self.config.dropout, name=name)(x) if self.config.dropout else x


@keras.saving.register_keras_serializable("tiledseg")
class StandardisedConv2D(keras.layers.Conv2D):
    """A convolution whose kernels are standardised per filter (arXiv 1903.10520)."""

    @property
    def context(self) -> tuple[Slide, Slide]:
        """The px under the kernel."""
        y, x = (Slide(size, step, None) for size, step in zip(self.kernel_size, self.strides, strict=True))
        return y, x

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve with the standardised kernel."""
        kernel = ops.convert_to_tensor(kernel)  # JAX does not compute moments of a variable
        mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, (kernel - mean) * ops.rsqrt(variance + 1e-5))


@keras.saving.register_keras_serializable("tiledseg")
class Placed(keras.layers.Layer):
    """Adds a trained embedding of each position."""

    context = "tile"

    def build(self, shape: Any) -> None:
        """Make the embedding for maps (N, h, w, C)."""
        self.embedding = self.add_weight(shape[1:], initializer="zeros", name="embedding")

    def call(self, x: Any) -> Any:
        """Map x (N, h, w, C) to the same shape."""
        return x + ops.cast(self.embedding, x.dtype)


def _unit(x: Any, filters: int, step: int, name: str) -> Any:
    """Apply a bottleneck unit of 4 x `filters` channels; the convolution of 3 px has the stride."""
    y = x
    for part, kernel, stride in (("a", 1, 1), ("b", 3, step)):
        y = _standardised(y, filters, kernel, stride, f"{name}_conv_{part}")
        y = _rectified(_grouped(y, f"{name}_norm_{part}"), f"{name}_relu_{part}")
    y = _grouped(_standardised(y, 4 * filters, 1, 1, f"{name}_conv_c"), f"{name}_norm_c")
    if step > 1 or x.shape[-1] != 4 * filters:
        x = _standardised(x, 4 * filters, 1, step, f"{name}_project")
        x = layers.GroupNormalization(4 * filters, epsilon=1e-5, name=f"{name}_project_norm")(x)
    return _rectified(layers.Add(name=f"{name}_add")([x, y]), f"{name}_relu")


def _standardised(x: Any, filters: int, kernel: int, step: int, name: str) -> Any:
    return StandardisedConv2D(filters, kernel, strides=step, padding="same", use_bias=False, name=name)(x)


def _grouped(x: Any, name: str) -> Any:
    return layers.GroupNormalization(gcd(x.shape[-1], _MAX_GROUPS), epsilon=_EPSILON, name=name)(x)


def _rectified(x: Any, name: str) -> Any:
    return layers.Activation("relu", name=name)(x)


def _convolved(x: Any, filters: int, name: str) -> Any:
    return ConvNorm("batch", bias=False)(x, filters, name)
