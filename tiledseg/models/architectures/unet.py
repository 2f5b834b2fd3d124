"""U-Nets: that of Ronneberger et al. (arXiv 1505.04597), and those that change its skips or its encoder."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from tiledseg._backend import keras
from tiledseg._validate import settings_of
from tiledseg.config import (
    AttentionUNetConfig,
    EfficientUNetConfig,
    EncoderUNetConfig,
    SharpUNetConfig,
    UNetConfig,
)
from tiledseg.models.builder import INITIALIZER, ConvBlock, NetworkBuilder, encoded, joined, normalised
from tiledseg.models.encoder import Encoder

layers = keras.layers
_KERNEL = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)
_Config_co = TypeVar("_Config_co", bound=UNetConfig | AttentionUNetConfig | SharpUNetConfig, covariant=True)


@dataclass(frozen=True)
class _LevelsBuilder(NetworkBuilder[_Config_co]):
    """Builds a U-Net; each level, a `_block`, has half the size and twice the filters of the one before."""

    def encode(self, image: Any) -> list[Any]:
        """Return the features of every level.

        Parameters
        ----------
        image : tensor
            Images (N, H, W, C).

        Returns
        -------
        list of tensor
            The finest first, the bridge last.
        """
        return encoded(image, self.config.levels, self._block)

    def decode(self, features: list[Any]) -> Any:
        """Merge the features from the bridge up to the finest level.

        Parameters
        ----------
        features : list of tensor
            Those of every level, the finest first.

        Returns
        -------
        tensor
            Features (N, H, W, F).
        """
        x = features[-1]
        for level in reversed(range(self.config.levels - 1)):
            x = joined(x, self._skip(features[level], x, level), self._filters(level), f"decoder_{level}")
            x = self._block(x, f"decoder_{level}", level)
        return x

    def _skip(self, features: Any, coarser: Any, level: int) -> Any:  # noqa: ARG002
        """Return what the decoder gets of the encoder's features at a level."""
        return features

    @abstractmethod
    def _block(self, x: Any, name: str, level: int) -> Any: ...

    def _filters(self, level: int) -> int:
        return int(self.config.base_filters * 2**level)


@dataclass(frozen=True)
class UNetBuilder(_LevelsBuilder[UNetConfig]):
    """Builds the U-Net that its settings describe, with kernels that shrink with depth.

    A level of the encoder is two convolutions, each activated, then normalised, with dropout
    between them, and a max-pooling by 2; the deepest level is the bridge. A level of the decoder
    is a transposed convolution by 2, the concatenation with the encoder's features of the same
    size, and two convolutions as before. A convolution of 1 px gives the output, in float32.

    Layers are named after their position: ``encoder_0_conv_a``, ``bridge_norm_b``, ``decoder_0_up``,
    ``output``. Group normalisation uses the largest of 8, 4, 2 and 1 groups that divides the number
    of filters.

    Attributes
    ----------
    config : UNetConfig or dict
        The settings.

    Raises
    ------
    SettingError
        If `config` contains the settings of another architecture, or is not a settings object or dict.

    Examples
    --------
    >>> UNetBuilder().count()
    125045745
    """

    config: UNetConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", settings_of(UNetConfig, self.config, "config", optional=False))

    def _block(self, x: Any, name: str, level: int) -> Any:
        config = self.config
        block = ConvBlock(
            name=name,
            filters=self._filters(level),
            kernel=max(3, config.base_kernel - 2 * level),
            dilation=max(1, config.dilation - level),
            dropout=config.dropout * level,
            norm=config.norm,
            activation=config.activation,
        )
        return block(x)


@dataclass(frozen=True)
class AttentionUNetBuilder(_LevelsBuilder[AttentionUNetConfig]):
    """Builds the Attention U-Net (Oktay et al., arXiv 1804.03999): gates on the skips of a U-Net."""

    # Encoder and decoder are those of a U-Net, with normalisation between convolution and activation. A gate
    # (figure 2 and equations 1 to 3 of the paper) adds the skip, after a convolution of 2 px with stride 2,
    # and the coarser features, after a convolution of 1 px. It rectifies the sum and reduces it to one
    # coefficient per px in [0, 1]. It multiplies the skip by the bilinearly enlarged coefficients.

    config: AttentionUNetConfig = field(default_factory=AttentionUNetConfig)

    def _skip(self, features: Any, coarser: Any, level: int) -> Any:
        if not level:  # the finest skip alone has no gate
            return features
        name, filters = f"gate_{level}", self._filters(level)
        theta = layers.Conv2D(filters, 2, strides=2, use_bias=False, name=f"{name}_theta")(features)
        phi = layers.Conv2D(filters, 1, name=f"{name}_phi")(coarser)
        x = layers.Activation("relu", name=f"{name}_relu")(layers.Add(name=f"{name}_add")([theta, phi]))
        x = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_psi")(x)
        x = layers.UpSampling2D(interpolation="bilinear", name=f"{name}_enlarged")(x)
        x = layers.Multiply(name=f"{name}_weighed")([features, x])
        x = layers.Conv2D(filters, 1, name=f"{name}_out")(x)
        return normalised(x, self.config.norm, f"{name}_norm")

    def _block(self, x: Any, name: str, level: int) -> Any:
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


@keras.saving.register_keras_serializable(package="tiledseg")
class Sharpening(keras.initializers.Initializer):
    """Constant kernel of a sharpening filter, the same for every feature."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Return the kernel (3, 3, features, 1)."""
        return keras.ops.broadcast_to(keras.ops.cast(_KERNEL[..., None, None], dtype or "float32"), shape)


@dataclass(frozen=True)
class SharpUNetBuilder(_LevelsBuilder[SharpUNetConfig]):
    """Builds the Sharp U-Net (Zunair and Ben Hamza, arXiv 2107.12461): sharpened skips."""

    # Encoder and decoder are those of a U-Net with kernels of 3 px. Each skip passes a depthwise convolution
    # with the kernel of the paper, 8 in the middle and -1 around it, which is not trained.

    config: SharpUNetConfig = field(default_factory=SharpUNetConfig)

    def _skip(self, features: Any, coarser: Any, level: int) -> Any:  # noqa: ARG002
        sharpening = keras.layers.DepthwiseConv2D(
            3,
            padding="same",
            use_bias=False,
            depthwise_initializer=Sharpening(),
            trainable=False,
            name=f"skip_{level}_sharp",
        )
        return sharpening(features)

    def _block(self, x: Any, name: str, level: int) -> Any:
        config = self.config
        return ConvBlock(name, self._filters(level), config.norm, config.activation)(x)


@dataclass(frozen=True)
class EncoderUNetBuilder(NetworkBuilder[EfficientUNetConfig | EncoderUNetConfig]):
    """Builds the U-Net whose encoder is a network of ``keras.applications``."""

    # Each level of the decoder is a transposed convolution by 2, the concatenation with the encoder's tap of
    # that stride, if there is one, and two convolutions of 3 px, each activated, then normalised. The encoder
    # expects RGB pixels that were prepared as the `preprocessing` of its settings states; it does no
    # preprocessing itself.

    def encode(self, image: Any) -> list[Any]:
        """Return the features at the encoder's taps, the finest first."""
        return self._encoder(image)

    def decode(self, features: list[Any]) -> Any:
        """Merge the features from the deepest up to the image's own size."""
        skips = dict(zip(self._encoder.strides, features, strict=True))
        x, config = features[-1], self.config
        for n, filters in enumerate(config.decoder_filters):
            level = len(config.decoder_filters) - 1 - n
            name = f"decoder_{level}"
            x = joined(x, skips.get(2**level), filters, name)
            x = ConvBlock(name, filters, config.norm, config.activation, dropout=config.dropout)(x)
        return x

    def fill(self, network: keras.Model) -> None:
        """Copy pretrained weights into the encoder, if there are any."""
        self._encoder.fill(network)

    @property
    def _encoder(self) -> Encoder:
        config = self.config
        return Encoder(config.encoder, config.encoder_weights, depth=len(config.decoder_filters))
