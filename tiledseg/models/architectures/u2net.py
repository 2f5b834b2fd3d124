"""The U²-Net (Qin et al., arXiv 2005.09007): a U-Net whose blocks are U-Nets.

A block is a convolution, a small U-Net on its features, and the sum of both. From the fifth level on
the small U-Net has dilation instead of pooling. Each level of the decoder, and the deepest level of
the encoder, has an output: a convolution of 3 px, enlarged bilinearly. A convolution of 1 px fuses
the six outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import U2NetConfig
from tiledseg.models.builder import ConvNorm, NetworkBuilder, SideOutput, final_activation, head

layers = keras.layers

# Table 1 of the paper: inner and outer filters of the blocks, the encoder's six and the decoder's five.
_ENCODER = {
    "full": [(32, 64), (32, 128), (64, 256), (128, 512), (256, 512), (256, 512)],
    "lite": [(16, 64)] * 6,
}
_DECODER = {
    "full": [(16, 64), (32, 64), (64, 128), (128, 256), (256, 512)],
    "lite": [(16, 64)] * 5,
}
_HEIGHTS = (7, 6, 5, 4)
"""Number of levels of the U-Net in a block, by level; deeper blocks have dilation instead of pooling."""


@dataclass(frozen=True)
class U2NetBuilder(NetworkBuilder[U2NetConfig]):
    """Builds the U²-Net that its settings describe."""

    config: U2NetConfig = field(default_factory=U2NetConfig)

    def encode(self, image: Any) -> list[Any]:
        """Return the features of the six levels, the finest first."""
        x, features = image, []
        for level, widths in enumerate(_ENCODER[self.config.size]):
            if level:
                x = layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
            x = self._block(x, widths, f"encoder_{level}", level)
            features.append(x)
        return features

    def decode(self, features: list[Any]) -> list[Any]:
        """Return the merged features of the six levels, the finest first."""
        merged = [features[-1]]
        for level, widths in reversed(list(enumerate(_DECODER[self.config.size]))):
            name = f"decoder_{level}"
            x = _enlarged(merged[0], 2, f"{name}_up")
            x = layers.Concatenate(name=f"{name}_concat")([x, features[level]])
            merged.insert(0, self._block(x, widths, name, level))
        return merged

    def finish(self, features: list[Any]) -> Any:
        """Fuse the outputs of the six levels."""
        config, sides = self.config, []
        for level, merged in enumerate(features):
            x = layers.Conv2D(config.classes, 3, padding="same", name=f"side_{level}_conv")(merged)
            sides.append(_enlarged(x, 2**level, f"side_{level}_enlarged") if level else x)
        x = layers.Concatenate(name="sides")(sides)
        return head(x, config.classes, config.final_activation)

    def side_outputs(self, network: keras.Model) -> tuple[SideOutput, ...]:
        """Return the outputs of the six levels, if there is deep supervision."""
        if not self.config.deep_supervision:
            return ()
        activation = final_activation(self.config.classes, self.config.final_activation)
        outputs = [network.get_layer("side_0_conv").output]
        outputs += [network.get_layer(f"side_{level}_enlarged").output for level in range(1, 6)]
        return tuple(
            SideOutput(layers.Activation(activation, dtype="float32", name=f"side_{level}")(output))
            for level, output in enumerate(outputs)
        )

    def _block(self, x: Any, widths: tuple[int, int], name: str, level: int) -> Any:
        inner, outer = (max(1, round(self.config.width * width)) for width in widths)
        x = self._conv(x, outer, f"{name}_in")
        small = self._pooling if level < len(_HEIGHTS) else self._dilating
        return layers.Add(name=f"{name}_sum")([small(x, (inner, outer), name, level), x])

    def _pooling(self, x: Any, widths: tuple[int, int], name: str, level: int) -> Any:
        """Run a small U-Net with pooling; its deepest level has dilation instead."""
        height, features = _HEIGHTS[level], []
        for depth in range(height - 1):
            if depth:
                x = layers.MaxPooling2D(name=f"{name}_down_{depth}_pool")(x)
            x = self._conv(x, widths[0], f"{name}_down_{depth}")
            features.append(x)
        x = self._conv(x, widths[0], f"{name}_bottom", 2)
        for depth in reversed(range(height - 1)):
            if depth < height - 2:
                x = _enlarged(x, 2, f"{name}_up_{depth}_enlarged")
            x = layers.Concatenate(name=f"{name}_up_{depth}_concat")([x, features[depth]])
            x = self._conv(x, widths[0 if depth else 1], f"{name}_up_{depth}")
        return x

    def _dilating(self, x: Any, widths: tuple[int, int], name: str, level: int) -> Any:  # noqa: ARG002
        """Run a small U-Net with dilation instead of pooling, at one resolution."""
        features = []
        for depth in range(3):
            x = self._conv(x, widths[0], f"{name}_down_{depth}", 2**depth)
            features.append(x)
        x = self._conv(x, widths[0], f"{name}_bottom", 8)
        for depth in reversed(range(3)):
            x = layers.Concatenate(name=f"{name}_up_{depth}_concat")([x, features[depth]])
            x = self._conv(x, widths[0 if depth else 1], f"{name}_up_{depth}", 2**depth)
        return x

    def _conv(self, x: Any, filters: int, name: str, dilation: int = 1) -> Any:
        return ConvNorm(self.config.norm, self.config.activation, dilation=dilation)(x, filters, name)


def _enlarged(x: Any, factor: int, name: str) -> Any:
    return layers.UpSampling2D(factor, interpolation="bilinear", name=name)(x)
