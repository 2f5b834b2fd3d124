"""The residual encoder U-Net of nnU-Net (Isensee et al., arXiv 2404.09556), in two dimensions.

A stem of one convolution is followed by levels of residual blocks as in ResNet-D. The first block of
a level has stride 2: its shortcut is an average pooling by 2 and, if the number of filters changes,
a convolution of 1 px. A level of the decoder is a transposed convolution by 2, the concatenation
with the skip, and one convolution. All activations are leaky rectifiers of slope 0.01.

nnU-Net compares coarser outputs with a shrunk mask; here they are enlarged bilinearly and compared
with the mask itself. As in nnU-Net, the deepest level of the decoder has no such output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import ResEncUNetConfig
from tiledseg.models.builder import INITIALIZER, NetworkBuilder, SideOutput, joined, normalised, side_head

layers = keras.layers

_SLOPE = 0.01


@dataclass(frozen=True)
class ResEncUNetBuilder(NetworkBuilder[ResEncUNetConfig]):
    """Builds the residual encoder U-Net that its settings describe."""

    config: ResEncUNetConfig = field(default_factory=ResEncUNetConfig)

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Return the features of every level, the finest first."""
        x, features = self._conv(image, self._filters(0), "stem"), []
        for level, blocks in enumerate(self.config.blocks_per_level):
            for block in range(blocks):
                x = self._block(x, level, f"encoder_{level}_{block}", step=2 if level and not block else 1)
            features.append(x)
        return features

    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
        """Merge the features from the deepest up to the finest level."""
        x = features[-1]
        for level in reversed(range(self.config.levels - 1)):
            x = joined(x, features[level], self._filters(level), f"decoder_{level}")
            x = self._conv(x, self._filters(level), f"decoder_{level}")
        return x

    def side_outputs(self, network: keras.Model) -> tuple[SideOutput, ...]:
        """Return the outputs of the coarser levels, if there is deep supervision."""
        config, sides = self.config, []
        for level in range(1, config.levels - 2) if config.deep_supervision else ():
            features = network.get_layer(f"decoder_{level}_act").output
            probs = side_head(features, config.classes, config.final_activation, level)
            sides.append(SideOutput(probs, weight=0.5**level))
        return tuple(sides)

    def _block(self, x: Any, level: int, name: str, step: int) -> Any:  # noqa: ANN401
        filters, beside = self._filters(level), x
        if step > 1:
            beside = layers.AveragePooling2D(step, name=f"{name}_beside_pool")(beside)
        if x.shape[-1] != filters:
            beside = layers.Conv2D(
                filters, 1, use_bias=False, kernel_initializer=INITIALIZER, name=f"{name}_beside_conv"
            )(beside)
            beside = normalised(beside, self.config.norm, f"{name}_beside_norm")
        x = self._conv(x, filters, f"{name}_a", step)
        x = layers.Conv2D(filters, 3, padding="same", kernel_initializer=INITIALIZER, name=f"{name}_b_conv")(
            x
        )
        x = layers.Add(name=f"{name}_add")([normalised(x, self.config.norm, f"{name}_b_norm"), beside])
        return layers.LeakyReLU(negative_slope=_SLOPE, name=f"{name}_act")(x)

    def _conv(self, x: Any, filters: int, name: str, step: int = 1) -> Any:  # noqa: ANN401
        x = layers.Conv2D(
            filters, 3, step, padding="same", kernel_initializer=INITIALIZER, name=f"{name}_conv"
        )(x)
        x = normalised(x, self.config.norm, f"{name}_norm")
        return layers.LeakyReLU(negative_slope=_SLOPE, name=f"{name}_act")(x)

    def _filters(self, level: int) -> int:
        return int(min(self.config.base_filters * 2**level, self.config.most_filters))
