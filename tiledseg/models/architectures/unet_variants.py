"""U-Nets of other blocks and skips: the MultiResUNet, nnU-Net's residual encoder, the U²-Net, the UNet 3+."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import MultiResUNetConfig, ResEncUNetConfig, U2NetConfig, UNet3PlusConfig
from tiledseg.models.builder import (
    INITIALIZER,
    ConvNorm,
    NetworkBuilder,
    SideOutput,
    final_activation,
    head,
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

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Return the features of every level, the finest first: the outputs of ResPaths, then the bridge."""
        x, features, bridge = image, [], self.config.levels - 1
        for level in range(bridge):
            x = self._block(x, f"encoder_{level}", level)
            features.append(self._path(x, level))
            x = layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
        return [*features, self._block(x, "bridge", bridge)]

    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
        """Merge the features from the bridge up to the finest level."""
        x = features[-1]
        for level in reversed(range(self.config.levels - 1)):
            x = joined(x, features[level], self.config.base_filters * 2**level, f"decoder_{level}")
            x = self._block(x, f"decoder_{level}", level)
        return x

    def finish(self, features: Any) -> Any:  # noqa: ANN401
        """Turn features into the output by a normalised convolution of 1 px, in float32."""
        config = self.config
        x = layers.Activation("linear", dtype="float32", name="float32")(features)
        x = self._conv(None, 1)(x, config.classes, "output")
        activation = final_activation(config.classes, config.final_activation)
        return layers.Activation(activation, dtype="float32", name="output")(x)

    def _conv(self, activation: str | None, kernel: int = 3) -> ConvNorm:
        norm = self.config.norm
        return ConvNorm(norm, activation, kernel, bias=norm == "none", scale=False)

    def _block(self, x: Any, name: str, level: int) -> Any:  # noqa: ANN401
        widths, activation = self.config.widths(level), self.config.activation
        beside = self._conv(None, 1)(x, sum(widths), f"{name}_beside")
        parts = []
        for part, width in zip("abc", widths, strict=True):
            x = self._conv(activation)(x, width, f"{name}_{part}")
            parts.append(x)
        x = normalised(layers.Concatenate(name=f"{name}_join")(parts), self.config.norm, f"{name}_join_norm")
        return self._added(beside, x, name)

    def _path(self, x: Any, level: int) -> Any:  # noqa: ANN401
        filters = self.config.base_filters * 2**level
        for step in range(self.config.levels - 1 - level):
            name = f"path_{level}_{step}"
            beside = self._conv(None, 1)(x, filters, f"{name}_beside")
            x = self._added(beside, self._conv(self.config.activation)(x, filters, name), name)
        return x

    def _added(self, beside: Any, x: Any, name: str) -> Any:  # noqa: ANN401
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
    """Builds the U²-Net (Qin et al., arXiv 2005.09007): a U-Net whose blocks are U-Nets."""

    # A block is a convolution, a small U-Net on its features, and the sum of both. From the fifth level on
    # the small U-Net has dilation instead of pooling. Each level of the decoder, and the deepest level of
    # the encoder, has an output: a convolution of 3 px, enlarged bilinearly. A convolution of 1 px fuses
    # the six outputs.

    config: U2NetConfig = field(default_factory=U2NetConfig)

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
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

    def finish(self, features: list[Any]) -> Any:  # noqa: ANN401
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

    def _block(self, x: Any, widths: tuple[int, int], name: str, level: int) -> Any:  # noqa: ANN401
        inner, outer = (max(1, round(self.config.width * width)) for width in widths)
        x = self._conv(x, outer, f"{name}_in")
        small = self._pooling if level < len(_HEIGHTS) else self._dilating
        return layers.Add(name=f"{name}_sum")([small(x, (inner, outer), name, level), x])

    def _pooling(self, x: Any, widths: tuple[int, int], name: str, level: int) -> Any:  # noqa: ANN401
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

    def _dilating(self, x: Any, widths: tuple[int, int], name: str, level: int) -> Any:  # noqa: ANN401, ARG002
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

    def _conv(self, x: Any, filters: int, name: str, dilation: int = 1) -> Any:  # noqa: ANN401
        return ConvNorm(self.config.norm, self.config.activation, dilation=dilation)(x, filters, name)


def _enlarged(x: Any, factor: int, name: str) -> Any:  # noqa: ANN401
    return layers.UpSampling2D(factor, interpolation="bilinear", name=name)(x)


_LEVELS = 5


@keras.saving.register_keras_serializable(package="tiledseg")
def cut_at_half(x: Any) -> Any:  # noqa: ANN401
    """Threshold probabilities at 0.5."""
    return keras.ops.cast(x >= 0.5, x.dtype)


@dataclass(frozen=True)
class UNet3PlusBuilder(NetworkBuilder[UNet3PlusConfig]):
    """Builds the UNet 3+ (Huang et al., arXiv 2004.08790): each level of the decoder sees every scale."""

    # Level i of the decoder uses the encoder's features of level i and, max-pooled, of all finer levels,
    # and the decoder's features of all coarser levels, enlarged bilinearly. Each of them passes a
    # convolution of 3 px, and one more convolution merges them. The coarsest level is the encoder's.
    #
    # With deep supervision, training adds an output for each coarser level: a convolution of 3 px,
    # enlarged bilinearly, with the same weight as the map's own loss. With the classification-guided
    # module, dropout, a convolution of 1 px and a global max-pooling of the coarsest level give the
    # probability that a class is present. Training adds the loss of this probability, and the outputs are
    # multiplied by it, thresholded at 0.5. The paper has one class; here each class has its own guide.

    config: UNet3PlusConfig = field(default_factory=UNet3PlusConfig)

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Return the features of every level, the finest first."""
        x, features = image, []
        for level in range(_LEVELS):
            if level:
                x = layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)
            for part in "ab":
                x = self._conv(x, self.config.base_filters * 2**level, f"encoder_{level}_{part}")
            features.append(x)
        return features

    def decode(self, features: list[Any]) -> list[Any]:
        """Return the merged features of every level, the finest first."""
        merged = list(features)
        for level in reversed(range(_LEVELS - 1)):
            parts = [
                self._conv(
                    _at_level(merged[other], other, level, f"decoder_{level}_from_{other}"),
                    self.config.skip_filters,
                    f"decoder_{level}_from_{other}",
                )
                for other in range(_LEVELS)
            ]
            x = layers.Concatenate(name=f"decoder_{level}_concat")(parts)
            merged[level] = self._conv(x, _LEVELS * self.config.skip_filters, f"decoder_{level}")
        return merged

    def finish(self, features: list[Any]) -> Any:  # noqa: ANN401
        """Turn the finest features into the output; with a guide, absent classes become 0."""
        probs = head(features[0], self.config.classes, self.config.final_activation, kernel=3)
        if not self.config.classification_guided:
            return probs
        x = layers.Dropout(0.5, name="guide_dropout")(features[-1])
        x = layers.Conv2D(self.config.classes, 1, dtype="float32", name="guide_conv")(x)
        x = layers.GlobalMaxPooling2D(keepdims=True, dtype="float32", name="guide_pool")(x)
        x = layers.Activation("sigmoid", dtype="float32", name="guide_presence")(x)
        x = layers.Activation(cut_at_half, dtype="float32", name="guide_cut")(x)
        return layers.Multiply(dtype="float32", name="guided")([probs, x])

    def side_outputs(self, network: keras.Model) -> tuple[SideOutput, ...]:
        """Return the outputs of the coarser levels and of the guide, as the settings state."""
        sides = []
        if self.config.deep_supervision:
            sides += [SideOutput(self._side_output(network, level)) for level in range(1, _LEVELS)]
        if self.config.classification_guided:
            presence = layers.Flatten(dtype="float32", name="presence")
            sides.append(SideOutput(presence(network.get_layer("guide_presence").output), "presence"))
        return tuple(sides)

    def _side_output(self, network: keras.Model, level: int) -> Any:  # noqa: ANN401
        config = self.config
        last = "encoder_4_b_act" if level == _LEVELS - 1 else f"decoder_{level}_act"
        features = network.get_layer(last).output
        x = side_head(features, config.classes, config.final_activation, level, kernel=3)
        if not config.classification_guided:
            return x
        cut = network.get_layer("guide_cut").output
        return layers.Multiply(dtype="float32", name=f"side_{level}_guided")([x, cut])

    def _conv(self, x: Any, filters: int, name: str) -> Any:  # noqa: ANN401
        return ConvNorm(self.config.norm, self.config.activation)(x, filters, name)


def _at_level(x: Any, level: int, wanted: int, name: str) -> Any:  # noqa: ANN401
    """Resample features of one level to the grid of another."""
    if level < wanted:
        return layers.MaxPooling2D(2 ** (wanted - level), name=f"{name}_pool")(x)
    if level > wanted:
        return layers.UpSampling2D(2 ** (level - wanted), interpolation="bilinear", name=f"{name}_up")(x)
    return x
