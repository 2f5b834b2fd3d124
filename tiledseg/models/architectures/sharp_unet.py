"""The Sharp U-Net (Zunair and Ben Hamza, arXiv 2107.12461): sharpened skips.

Encoder and decoder are those of a U-Net with kernels of 3 px. Each skip passes a depthwise
convolution with the kernel of the paper, 8 in the middle and -1 around it, which is not trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiledseg._backend import keras
from tiledseg.config import SharpUNetConfig
from tiledseg.models.blocks import ConvBlock, encoded, joined
from tiledseg.models.builder import NetworkBuilder

_KERNEL = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)


@keras.saving.register_keras_serializable(package="tiledseg")
class Sharpening(keras.initializers.Initializer):
    """Constant kernel of a sharpening filter, the same for every feature."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:  # noqa: ANN401
        """Return the kernel (3, 3, features, 1)."""
        return keras.ops.broadcast_to(keras.ops.cast(_KERNEL[..., None, None], dtype or "float32"), shape)


@dataclass(frozen=True)
class SharpUNetBuilder(NetworkBuilder[SharpUNetConfig]):
    """Builds the Sharp U-Net that its settings describe."""

    config: SharpUNetConfig = field(default_factory=SharpUNetConfig)

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Return the features of every level, the finest first, the bridge last."""
        return encoded(image, self.config.levels, self._block)

    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
        """Merge the features from the bridge up to the finest level, all skips sharpened."""
        x = features[-1]
        for level in reversed(range(self.config.levels - 1)):
            sharpened = keras.layers.DepthwiseConv2D(
                3,
                padding="same",
                use_bias=False,
                depthwise_initializer=Sharpening(),
                trainable=False,
                name=f"skip_{level}_sharp",
            )(features[level])
            x = joined(x, sharpened, self.config.base_filters * 2**level, f"decoder_{level}")
            x = self._block(x, f"decoder_{level}", level)
        return x

    def _block(self, x: Any, name: str, level: int) -> Any:  # noqa: ANN401
        config = self.config
        return ConvBlock(name, config.base_filters * 2**level, config.norm, config.activation)(x)
