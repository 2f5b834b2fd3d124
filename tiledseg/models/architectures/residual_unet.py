"""U-Nets of residual blocks: the MultiResUNet, and the residual encoder U-Net of nnU-Net."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import MultiResUNetConfig, ResEncUNetConfig
from tiledseg.models.builder import (
    INITIALIZER,
    ConvNorm,
    NetworkBuilder,
    SideOutput,
    final_activation,
    joined,
    normalised,
    side_head,
)

layers = keras.layers

_SLOPE = 0.01


@dataclass(frozen=True)
class MultiResUNetBuilder(NetworkBuilder[MultiResUNetConfig]):
    """Builds the MultiResUNet (Ibtehaz and Rahman, arXiv 1902.04049): several scales in a block, ResPaths."""

    # A MultiRes block chains three convolutions of 3 px, with receptive fields of 3, 5 and 7 px. It
    # concatenates their outputs and adds a 1 px convolution of its input. A ResPath is a chain of 3 px
    # convolutions, each with a parallel 1 px convolution. Convolutions have no bias, since a normalisation
    # follows. A normalisation has no trained factor if an activation or a sum follows, as in the authors'
    # code.

    config: MultiResUNetConfig = field(default_factory=MultiResUNetConfig)

    def encode(self, image: Any) -> list[Any]:
        """Return the features of every level, the finest first: the outputs of ResPaths, then the bridge."""
        x, features, bridge = image, [], self.config.levels - 1
        for level in range(bridge):
            x = self._block(x, f"encoder_{level}", level)
            features.append(self._path(x, level))
            x = layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
        return [*features, self._block(x, "bridge", bridge)]

    def decode(self, features: list[Any]) -> Any:
        """Merge the features from the bridge up to the finest level."""
        x = features[-1]
        for level in reversed(range(self.config.levels - 1)):
            x = joined(x, features[level], self.config.base_filters * 2**level, f"decoder_{level}")
            x = self._block(x, f"decoder_{level}", level)
        return x

    def finish(self, features: Any) -> Any:
        """Turn features into the output by a normalised convolution of 1 px, in float32."""
        config = self.config
        x = layers.Activation("linear", dtype="float32", name="float32")(features)
        x = self._conv(None, 1)(x, config.classes, "output")
        activation = final_activation(config.classes, config.final_activation)
        return layers.Activation(activation, dtype="float32", name="output")(x)

    def _conv(self, activation: str | None, kernel: int = 3) -> ConvNorm:
        norm = self.config.norm
        return ConvNorm(norm, activation, kernel, bias=norm == "none", scale=False)

    def _block(self, x: Any, name: str, level: int) -> Any:
        widths, activation = self.config.widths(level), self.config.activation
        beside = self._conv(None, 1)(x, sum(widths), f"{name}_beside")
        parts = []
        for part, width in zip("abc", widths, strict=True):
            x = self._conv(activation)(x, width, f"{name}_{part}")
            parts.append(x)
        x = normalised(layers.Concatenate(name=f"{name}_join")(parts), self.config.norm, f"{name}_join_norm")
        return self._added(beside, x, name)

    def _path(self, x: Any, level: int) -> Any:
        filters = self.config.base_filters * 2**level
        for step in range(self.config.levels - 1 - level):
            name = f"path_{level}_{step}"
            beside = self._conv(None, 1)(x, filters, f"{name}_beside")
            x = self._added(beside, self._conv(self.config.activation)(x, filters, name), name)
        return x

    def _added(self, beside: Any, x: Any, name: str) -> Any:
        x = layers.Add(name=f"{name}_add")([beside, x])
        x = layers.Activation(self.config.activation, name=f"{name}_add_act")(x)
        return normalised(x, self.config.norm, f"{name}_add_norm")


@dataclass(frozen=True)
class ResEncUNetBuilder(NetworkBuilder[ResEncUNetConfig]):
    """Builds the residual encoder U-Net of nnU-Net (Isensee et al., arXiv 2404.09556), in two dimensions."""

    # A stem of one convolution is followed by levels of residual blocks as in ResNet-D. The first block of a
    # level has stride 2: its shortcut is an average pooling by 2 and, if the number of filters changes, a
    # convolution of 1 px. A level of the decoder is a transposed convolution by 2, the concatenation with the
    # skip, and one convolution. All activations are leaky rectifiers of slope 0.01.
    # nnU-Net compares coarser outputs with a shrunk mask; here they are enlarged bilinearly and compared with
    # the mask itself. As in nnU-Net, the deepest level of the decoder has no such output.

    config: ResEncUNetConfig = field(default_factory=ResEncUNetConfig)

    def encode(self, image: Any) -> list[Any]:
        """Return the features of every level, the finest first."""
        x, features = self._conv(image, self._filters(0), "stem"), []
        for level, blocks in enumerate(self.config.blocks_per_level):
            for block in range(blocks):
                x = self._block(x, level, f"encoder_{level}_{block}", step=2 if level and not block else 1)
            features.append(x)
        return features

    def decode(self, features: list[Any]) -> Any:
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

    def _block(self, x: Any, level: int, name: str, step: int) -> Any:
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

    def _conv(self, x: Any, filters: int, name: str, step: int = 1) -> Any:
        x = layers.Conv2D(
            filters, 3, step, padding="same", kernel_initializer=INITIALIZER, name=f"{name}_conv"
        )(x)
        x = normalised(x, self.config.norm, f"{name}_norm")
        return layers.LeakyReLU(negative_slope=_SLOPE, name=f"{name}_act")(x)

    def _filters(self, level: int) -> int:
        return int(min(self.config.base_filters * 2**level, self.config.most_filters))
