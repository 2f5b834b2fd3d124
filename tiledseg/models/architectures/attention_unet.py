"""The Attention U-Net (Oktay et al., arXiv 1804.03999): gates on the skips of a U-Net.

Encoder and decoder are those of a U-Net, with normalisation between convolution and activation.
A gate (figure 2 and equations 1 to 3 of the paper) adds the skip, after a convolution of 2 px with
stride 2, and the coarser features, after a convolution of 1 px. It rectifies the sum and reduces it
to one coefficient per px in [0, 1]. It multiplies the skip by the bilinearly enlarged coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import AttentionUNetConfig
from tiledseg.models.blocks import INITIALIZER, encoded, joined, normalised
from tiledseg.models.builder import NetworkBuilder

layers = keras.layers


@dataclass(frozen=True)
class AttentionUNetBuilder(NetworkBuilder[AttentionUNetConfig]):
    """Builds the Attention U-Net that its settings describe."""

    config: AttentionUNetConfig = field(default_factory=AttentionUNetConfig)

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Return the features of every level, the finest first, the bridge last."""
        return encoded(image, self.config.levels, self._block)

    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
        """Merge the features from the bridge up to the finest level, whose skip alone has no gate."""
        x = features[-1]
        for level in reversed(range(self.config.levels - 1)):
            skip = self._gated(features[level], x, level) if level else features[0]
            x = joined(x, skip, self._filters(level), f"decoder_{level}")
            x = self._block(x, f"decoder_{level}", level)
        return x

    def _gated(self, skip: Any, gating: Any, level: int) -> Any:  # noqa: ANN401
        name, filters = f"gate_{level}", self._filters(level)
        theta = layers.Conv2D(filters, 2, strides=2, use_bias=False, name=f"{name}_theta")(skip)
        phi = layers.Conv2D(filters, 1, name=f"{name}_phi")(gating)
        x = layers.Activation("relu", name=f"{name}_relu")(layers.Add(name=f"{name}_add")([theta, phi]))
        x = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_psi")(x)
        x = layers.UpSampling2D(interpolation="bilinear", name=f"{name}_enlarged")(x)
        x = layers.Multiply(name=f"{name}_weighed")([skip, x])
        x = layers.Conv2D(filters, 1, name=f"{name}_out")(x)
        return normalised(x, self.config.norm, f"{name}_norm")

    def _block(self, x: Any, name: str, level: int) -> Any:  # noqa: ANN401
        for part in "ab":
            x = layers.Conv2D(
                self._filters(level),
                3,
                padding="same",
                kernel_initializer=INITIALIZER,
                name=f"{name}_conv_{part}",
            )(x)
            x = normalised(x, self.config.norm, f"{name}_norm_{part}")
            x = layers.Activation(self.config.activation, name=f"{name}_act_{part}")(x)
        return x

    def _filters(self, level: int) -> int:
        return int(self.config.base_filters * 2**level)
