"""The U-Net (Ronneberger et al., arXiv 1505.04597) with kernels that shrink with depth."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import UNetConfig
from tiledseg.models._blocks import ConvBlock, conv_count, head

__all__ = ["UNetBuilder"]

_INITIALIZER = "he_normal"


@dataclass(frozen=True, slots=True)
class UNetBuilder:
    """Builds the U-Net that its settings describe.

    A level of the encoder is two convolutions, each activated, then normalised, with dropout
    between them, and a max-pooling by 2; the deepest level is the bridge. A level of the decoder
    is a transposed convolution by 2, the concatenation with the encoder's features of the same
    size, and two convolutions as before. A convolution of 1 px gives the output, in float32.

    Layers are named after their place: ``encoder_0_conv_a``, ``bridge_norm_b``, ``decoder_0_up``,
    ``output``. Group normalisation takes the largest of 8, 4, 2 and 1 groups that divides the
    filters. First values come from Keras' generators: call ``keras.utils.set_random_seed`` before
    `build` for the same ones each time.

    Attributes
    ----------
    config : UNetConfig
        The settings.

    Examples
    --------
    >>> UNetBuilder().count()
    125045745
    """

    config: UNetConfig = field(default_factory=UNetConfig)

    def build(self, *, blank: bool = False) -> keras.Model:
        """Build the network.

        Parameters
        ----------
        blank : bool
            Whether to leave the kernels of the blocks at zero, for a caller that fills all
            weights in; drawing them takes seconds for the default network.

        Returns
        -------
        keras.Model
            Maps images (N, H, W, C) to outputs (N, H, W, K) float32; N and each free size is None.
        """
        initializer = "zeros" if blank else _INITIALIZER
        image = keras.layers.Input(self.config.input_shape, name="image")
        features = _decoded(_encoded(image, self.config, initializer), self.config, initializer)
        output = head(features, self.config.classes, self.config.final_activation)
        network = keras.Model(image, output, name=self.config.name)
        return _as_if_drawn(network) if blank else network

    def count(self) -> int:
        """Count the parameters without building the network.

        Returns
        -------
        int
            Parameters, those that are not trained counted in.
        """
        blocks = [_block(self.config, "", level, _INITIALIZER) for level in range(self.config.levels)]
        channels = [self.config.input_shape[2], *(block.filters for block in blocks)]
        total = conv_count(1, blocks[0].filters, self.config.classes)
        total += sum(block.count(before) for block, before in zip(blocks, channels, strict=False))
        for block, below in pairwise(blocks):
            total += conv_count(2, below.filters, block.filters) + block.count(2 * block.filters)
        return total


def _encoded(x: Any, config: UNetConfig, initializer: str) -> list[Any]:  # noqa: ANN401
    """Give the features of every level, the finest first, the bridge last."""
    features = []
    for level in range(config.levels - 1):
        features.append(_block(config, f"encoder_{level}", level, initializer)(x))
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(features[-1])
    return [*features, _block(config, "bridge", config.levels - 1, initializer)(x)]


def _decoded(features: list[Any], config: UNetConfig, initializer: str) -> Any:  # noqa: ANN401
    """Merge the features from the bridge up to the finest level."""
    x = features[-1]
    for level in reversed(range(config.levels - 1)):
        name = f"decoder_{level}"
        x = keras.layers.Conv2DTranspose(_filters(config, level), 2, strides=2, name=f"{name}_up")(x)
        x = keras.layers.Concatenate(name=f"{name}_concat")([x, features[level]])
        x = _block(config, name, level, initializer)(x)
    return x


def _block(config: UNetConfig, name: str, level: int, initializer: str) -> ConvBlock:
    return ConvBlock(
        name=name,
        filters=_filters(config, level),
        kernel=max(3, config.base_kernel - 2 * level),
        dilation=max(1, config.dilation - level),
        dropout=config.dropout * level,
        norm=config.norm,
        activation=config.activation,
        initializer=initializer,
    )


def _filters(config: UNetConfig, level: int) -> int:
    return int(config.base_filters * 2**level)


def _as_if_drawn(network: keras.Model) -> keras.Model:
    """Name the usual initializer again, so that a copy made of the configuration can be trained."""
    for layer in network.layers:
        if isinstance(getattr(layer, "kernel_initializer", None), keras.initializers.Zeros):
            layer.kernel_initializer = keras.initializers.get(_INITIALIZER)
    return network
