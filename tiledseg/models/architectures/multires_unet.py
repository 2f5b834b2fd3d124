"""The MultiResUNet (Ibtehaz and Rahman, arXiv 1902.04049): several scales in each block, ResPaths.

A MultiRes block chains three convolutions of 3 px, with receptive fields of 3, 5 and 7 px. It
concatenates their outputs and adds a 1 px convolution of its input. A ResPath is a chain of 3 px
convolutions, each with a parallel 1 px convolution. Convolutions have no bias, since a
normalisation follows. A normalisation has no trained factor if an activation or a sum follows, as in
the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import MultiResUNetConfig
from tiledseg.models.builder import ConvNorm, NetworkBuilder, final_activation, joined, normalised

layers = keras.layers


@dataclass(frozen=True)
class MultiResUNetBuilder(NetworkBuilder[MultiResUNetConfig]):
    """Builds the MultiResUNet that its settings describe."""

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
