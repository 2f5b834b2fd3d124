"""The UNet 3+ (Huang et al., arXiv 2004.08790): every level of the decoder sees every scale.

Level i of the decoder uses the encoder's features of level i and, max-pooled, of all finer levels,
and the decoder's features of all coarser levels, enlarged bilinearly. Each of them passes a
convolution of 3 px, and one more convolution merges them. The coarsest level is the encoder's.

With deep supervision, training adds an output for each coarser level: a convolution of 3 px,
enlarged bilinearly, with the same weight as the map's own loss. With the classification-guided
module, dropout, a convolution of 1 px and a global max-pooling of the coarsest level give the
probability that a class is present. Training adds the loss of this probability, and the outputs are
multiplied by it, thresholded at 0.5. The paper has one class; here each class has its own guide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import UNet3PlusConfig
from tiledseg.models.builder import ConvNorm, NetworkBuilder, SideOutput, head, side_head

layers = keras.layers

_LEVELS = 5


@keras.saving.register_keras_serializable(package="tiledseg")
def cut_at_half(x: Any) -> Any:
    """Threshold probabilities at 0.5."""
    return keras.ops.cast(x >= 0.5, x.dtype)


@dataclass(frozen=True)
class UNet3PlusBuilder(NetworkBuilder[UNet3PlusConfig]):
    """Builds the UNet 3+ that its settings describe."""

    config: UNet3PlusConfig = field(default_factory=UNet3PlusConfig)

    def encode(self, image: Any) -> list[Any]:
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

    def finish(self, features: list[Any]) -> Any:
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

    def _side_output(self, network: keras.Model, level: int) -> Any:
        config = self.config
        last = "encoder_4_b_act" if level == _LEVELS - 1 else f"decoder_{level}_act"
        features = network.get_layer(last).output
        x = side_head(features, config.classes, config.final_activation, level, kernel=3)
        if not config.classification_guided:
            return x
        cut = network.get_layer("guide_cut").output
        return layers.Multiply(dtype="float32", name=f"side_{level}_guided")([x, cut])

    def _conv(self, x: Any, filters: int, name: str) -> Any:
        return ConvNorm(self.config.norm, self.config.activation)(x, filters, name)


def _at_level(x: Any, level: int, wanted: int, name: str) -> Any:
    """Resample features of one level to the grid of another."""
    if level < wanted:
        return layers.MaxPooling2D(2 ** (wanted - level), name=f"{name}_pool")(x)
    if level > wanted:
        return layers.UpSampling2D(2 ** (level - wanted), interpolation="bilinear", name=f"{name}_up")(x)
    return x
