"""U-Nets (arXiv 1505.04597) whose encoder is a network of ``keras.applications``.

Each level of the decoder is a transposed convolution by 2, the concatenation with the encoder's tap
of that stride, if there is one, and two convolutions of 3 px, each activated, then normalised. The
encoder expects RGB pixels that were prepared as the `preprocessing` of its settings states; it does
no preprocessing itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiledseg.config import EfficientUNetConfig, EncoderUNetConfig
from tiledseg.models.blocks import ConvBlock, joined
from tiledseg.models.builder import NetworkBuilder
from tiledseg.models.encoder import Encoder

if TYPE_CHECKING:
    from tiledseg._backend import keras


@dataclass(frozen=True)
class EncoderUNetBuilder(NetworkBuilder[EfficientUNetConfig | EncoderUNetConfig]):
    """Builds the U-Net whose encoder is a network of ``keras.applications``."""

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Return the features at the encoder's taps, the finest first."""
        return self._encoder(image)

    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
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
