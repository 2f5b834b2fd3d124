"""DeepLabV3+ (Chen et al., arXiv 1802.02611): a dilated encoder, a pyramid of dilations, a short decoder.

Each convolution is followed by batch normalisation and ReLU. A separable convolution is a depthwise
one and one of 1 px, each followed by both (section 3.1 of the paper, as in its Xception). Upsampling
is bilinear, by integer factors, with px centres at half-integer coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import DeepLabV3PlusConfig
from tiledseg.models.builder import INITIALIZER, ConvNorm, NetworkBuilder, final_activation, normalised
from tiledseg.models.encoder import Encoder

layers = keras.layers

_LOW_STRIDE = 4
_LOW_FILTERS = 48
_PYRAMID_STRIDE = 16  # the rates are stated for this stride


@dataclass(frozen=True)
class DeepLabV3PlusBuilder(NetworkBuilder[DeepLabV3PlusConfig]):
    """Builds the DeepLabV3+ that its settings describe."""

    config: DeepLabV3PlusConfig = field(default_factory=DeepLabV3PlusConfig)

    def encode(self, image: Any) -> list[Any]:
        """Return the encoder's map of stride 4 and its deepest one."""
        strides, features = self._encoder.strides, self._encoder(image)
        return [features[strides.index(_LOW_STRIDE)], features[-1]]

    def decode(self, features: list[Any]) -> Any:
        """Convolve the deepest map at several rates, and refine the result by the finer map."""
        low, deep = features
        factor = self.config.output_stride // _LOW_STRIDE
        x = layers.UpSampling2D(factor, interpolation="bilinear", name="decoder_up")(self._pyramid(deep))
        low = _convolved(low, _LOW_FILTERS, "decoder_low")
        x = layers.Concatenate(name="decoder_concat")([x, low])
        for part in "ab":
            x = _separable(x, self.config.filters, 1, f"decoder_{part}")
        return x

    def finish(self, features: Any) -> Any:
        """Map features at stride 4 to one map per class, enlarge the maps, and return probabilities."""
        config = self.config
        x = layers.Conv2D(config.classes, 1, dtype="float32", name="logits")(features)
        x = layers.UpSampling2D(_LOW_STRIDE, interpolation="bilinear", dtype="float32", name="enlarged")(x)
        activation = final_activation(config.classes, config.final_activation)
        return layers.Activation(activation, dtype="float32", name="output")(x)

    def fill(self, network: keras.Model) -> None:
        """Copy pretrained weights into the encoder, if there are any."""
        self._encoder.fill(network)

    @property
    def _encoder(self) -> Encoder:
        config = self.config
        return Encoder(config.encoder, config.encoder_weights, config.output_stride)

    def _pyramid(self, x: Any) -> Any:
        config = self.config
        factor = _PYRAMID_STRIDE // config.output_stride
        parts = [_convolved(x, config.filters, "pyramid_0")]
        for n, rate in enumerate(config.rates, 1):
            parts.append(_separable(x, config.filters, rate * factor, f"pyramid_{n}"))
        if config.image_pooling:
            mean = layers.GlobalAveragePooling2D(keepdims=True, name="pyramid_mean")(x)
            mean = _convolved(mean, config.filters, "pyramid_image")
            parts.append(Spread(name="pyramid_spread")([mean, x]))
        x = layers.Concatenate(name="pyramid_concat")(parts)
        x = _convolved(x, config.filters, "pyramid_joined")
        return layers.Dropout(config.dropout, name="pyramid_dropout")(x) if config.dropout else x


def _convolved(x: Any, filters: int, name: str) -> Any:
    return ConvNorm("batch", kernel=1, bias=False)(x, filters, name)


def _separable(x: Any, filters: int, rate: int, name: str) -> Any:
    x = layers.DepthwiseConv2D(
        3,
        padding="same",
        dilation_rate=rate,
        use_bias=False,
        depthwise_initializer=INITIALIZER,
        name=f"{name}_depthwise",
    )(x)
    x = layers.Activation("relu", name=f"{name}_depthwise_act")(
        normalised(x, "batch", f"{name}_depthwise_norm")
    )
    return _convolved(x, filters, name)


@keras.saving.register_keras_serializable("tiledseg")
class Spread(keras.layers.Layer):
    """Broadcasts one px to the size of a map."""

    context = "px"

    def call(self, inputs: Any) -> Any:
        """Map a px (N, 1, 1, F) and a map (N, h, w, C) to (N, h, w, F)."""
        px, like = inputs
        return px + keras.ops.zeros_like(like[..., :1])

    def compute_output_shape(self, shapes: Any) -> Any:
        """Return the shape of the output."""
        return (*shapes[1][:3], shapes[0][3])
