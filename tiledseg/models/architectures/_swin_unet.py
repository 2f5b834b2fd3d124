"""The Swin-Unet (Cao et al., arXiv 2105.05537): encoder and decoder of shifted-window transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import SwinUNetConfig
from tiledseg.models.architectures._builder import NetworkBuilder
from tiledseg.models.architectures._windows import DepthToSpace, SpaceToDepth, WindowAttention

__all__ = ["SwinUNetBuilder"]

layers = keras.layers

_EPSILON = 1e-5


@dataclass(frozen=True)
class SwinUNetBuilder(NetworkBuilder[SwinUNetConfig]):
    """Builds the Swin-Unet that its settings describe.

    A block is attention within windows and two dense layers, each after layer normalisation and
    each added to what it took. Merging lays the px of 2 x 2 behind one another and halves their
    channels; expanding is the reverse. A skip is the output of a level of the encoder before it is
    merged, as in the paper's figure 1; it is joined by concatenation and a dense layer.
    """

    config: SwinUNetConfig = field(default_factory=SwinUNetConfig)  # the settings

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Give the tokens of every level, the finest first, the bottleneck last."""
        config, features = self.config, []
        x = layers.Conv2D(config.embedding, config.patch, strides=config.patch, name="patches")(image)
        x = _normalised(x, "patches_norm")
        for level in range(len(config.depths)):
            if level:
                x = SpaceToDepth(2, name=f"merge_{level}")(x)
                x = _dense(
                    _normalised(x, f"merge_{level}_norm"),
                    self._channels(level),
                    f"merge_{level}_dense",
                    bias=False,
                )
            x = self._level(x, level, "encoder")
            features.append(x)
        return features

    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
        """Expand the bottleneck, and join each level's tokens on the way up."""
        x = _normalised(features[-1], "bottleneck_norm")
        for level in reversed(range(len(features) - 1)):
            x = _expanded(x, 2, self._channels(level), f"expand_{level}")
            x = layers.Concatenate(name=f"decoder_{level}_concat")([x, features[level]])
            x = _dense(x, self._channels(level), f"decoder_{level}_dense")
            x = self._level(x, level, "decoder")
        x = _normalised(x, "decoder_norm") if len(features) > 1 else x
        return _expanded(x, self.config.patch, self.config.embedding, "expand_patches")

    def _level(self, x: Any, level: int, side: str) -> Any:  # noqa: ANN401
        before, total = sum(self.config.depths[:level]), sum(self.config.depths)
        for n in range(self.config.depths[level]):
            skipped = self.config.drop_path * (before + n) / max(1, total - 1)
            x = self._block(x, level, f"{side}_{level}_block_{n}", skipped, shifted=n % 2 == 1)
        return x

    def _block(self, x: Any, level: int, name: str, skipped: float, *, shifted: bool) -> Any:  # noqa: ANN401
        config, channels = self.config, self._channels(level)
        shift = config.window // 2 if shifted else 0
        y = _normalised(x, f"{name}_norm_a")
        y = WindowAttention(config.heads[level], config.window, shift, name=f"{name}_attention")(y)
        x = _added(x, y, skipped, f"{name}_add_a")
        y = _dense(_normalised(x, f"{name}_norm_b"), config.mlp_ratio * channels, f"{name}_dense_a")
        y = _dense(layers.Activation("gelu", name=f"{name}_gelu")(y), channels, f"{name}_dense_b")
        return _added(x, y, skipped, f"{name}_add_b")

    def _channels(self, level: int) -> int:
        return int(self.config.embedding * 2**level)


def _expanded(x: Any, factor: int, channels: int, name: str) -> Any:  # noqa: ANN401
    x = _dense(x, channels * factor**2, f"{name}_dense", bias=False)
    return _normalised(DepthToSpace(factor, name=name)(x), f"{name}_norm")


def _dense(x: Any, channels: int, name: str, *, bias: bool = True) -> Any:  # noqa: ANN401
    kernels = keras.initializers.TruncatedNormal(stddev=0.02)
    return layers.Dense(channels, use_bias=bias, kernel_initializer=kernels, name=name)(x)


def _normalised(x: Any, name: str) -> Any:  # noqa: ANN401
    return layers.LayerNormalization(epsilon=_EPSILON, name=name)(x)


def _added(x: Any, y: Any, skipped: float, name: str) -> Any:  # noqa: ANN401
    if skipped:
        y = layers.Dropout(skipped, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(y)
    return layers.Add(name=name)([x, y])
