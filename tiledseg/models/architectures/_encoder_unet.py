"""U-Nets (arXiv 1505.04597) whose encoder is a network of ``keras.applications``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tiledseg._backend import keras
from tiledseg.config import EfficientUNetConfig, EncoderUNetConfig
from tiledseg.models.architectures._blocks import ConvBlock
from tiledseg.models.architectures._builder import NetworkBuilder
from tiledseg.models.architectures._encoder import Encoder

__all__ = ["EncoderUNetBuilder"]


@dataclass(frozen=True)
class EncoderUNetBuilder(NetworkBuilder[EfficientUNetConfig | EncoderUNetConfig]):
    """Builds the U-Net whose encoder is a network of ``keras.applications``.

    Each level of the decoder is a transposed convolution by 2, the concatenation with the
    encoder's tap of that stride, where it has one, and two convolutions of 3 px, each activated,
    then normalised. The encoder gets pixels as its config's `preprocessing` says, in RGB, and
    contains no preparation of its own.
    """

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Give the encoder's taps, the finest first."""
        return self._encoder(image)

    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
        """Merge the taps from the deepest up to the image's own size."""
        skips = dict(zip(self._encoder.strides, features, strict=True))
        x = features[-1]
        for n, filters in enumerate(self.config.decoder_filters):
            level = len(self.config.decoder_filters) - 1 - n
            name = f"decoder_{level}"
            x = keras.layers.Conv2DTranspose(filters, 2, strides=2, name=f"{name}_up")(x)
            if 2**level in skips:
                x = keras.layers.Concatenate(name=f"{name}_concat")([x, skips[2**level]])
            x = self._block(name, filters)(x)
        return x

    def build(self, *, blank: bool = False) -> keras.Model:
        """Build the network, and take the encoder's weights over if there are any."""
        network = super().build(blank=blank)
        if not blank:
            self._encoder.fill(network)
        return network

    @property
    def _encoder(self) -> Encoder:
        config = self.config
        return Encoder(config.encoder, config.encoder_weights, halvings=len(config.decoder_filters))

    def _block(self, name: str, filters: int) -> ConvBlock:
        config = self.config
        return ConvBlock(
            name=name,
            filters=filters,
            kernel=3,
            dilation=1,
            dropout=config.dropout,
            norm=config.norm,
            activation=config.activation,
        )
