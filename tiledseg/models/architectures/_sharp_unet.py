"""The Sharp U-Net (Zunair and Ben Hamza, arXiv 2107.12461): sharpened skips."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiledseg._backend import keras
from tiledseg.config import SharpUNetConfig
from tiledseg.models.architectures._blocks import ConvBlock
from tiledseg.models.architectures._builder import NetworkBuilder

__all__ = ["SharpUNetBuilder"]

layers = keras.layers

_KERNEL = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)


@keras.saving.register_keras_serializable(package="tiledseg")
class Sharpening(keras.initializers.Initializer):
    """First and only values of the kernel of a sharpening filter, the same for every feature."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:  # noqa: ANN401
        """Give the kernel (3, 3, features, 1)."""
        return keras.ops.broadcast_to(keras.ops.cast(_KERNEL[..., None, None], dtype or "float32"), shape)


@dataclass(frozen=True)
class SharpUNetBuilder(NetworkBuilder[SharpUNetConfig]):
    """Builds the Sharp U-Net that its settings describe.

    Encoder and decoder are those of a U-Net with kernels of 3 px. A skip passes a depthwise
    convolution with the kernel of the paper, 8 in the middle and -1 around it, which training
    leaves alone.
    """

    config: SharpUNetConfig = field(default_factory=SharpUNetConfig)  # the settings

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Give the features of every level, the finest first, the bridge last."""
        x, features, bridge = image, [], self.config.levels - 1
        for level in range(bridge):
            features.append(self._block(f"encoder_{level}", level)(x))
            x = layers.MaxPooling2D(name=f"encoder_{level}_pool")(features[-1])
        return [*features, self._block("bridge", bridge)(x)]

    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
        """Merge the features from the bridge up to the finest level, all skips sharpened."""
        x = features[-1]
        for level in reversed(range(self.config.levels - 1)):
            name = f"decoder_{level}"
            filters = self.config.base_filters * 2**level
            x = layers.Conv2DTranspose(filters, 2, strides=2, name=f"{name}_up")(x)
            sharp = layers.DepthwiseConv2D(
                3,
                padding="same",
                use_bias=False,
                depthwise_initializer=Sharpening(),
                trainable=False,
                name=f"skip_{level}_sharp",
            )
            x = layers.Concatenate(name=f"{name}_concat")([x, sharp(features[level])])
            x = self._block(name, level)(x)
        return x

    def _block(self, name: str, level: int) -> ConvBlock:
        config = self.config
        return ConvBlock(
            name=name,
            filters=config.base_filters * 2**level,
            kernel=3,
            dilation=1,
            dropout=0.0,
            norm=config.norm,
            activation=config.activation,
        )
