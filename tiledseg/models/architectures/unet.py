"""The U-Net (Ronneberger et al., arXiv 1505.04597) with kernels that shrink with depth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiledseg._validate import settings_of
from tiledseg.config import UNetConfig
from tiledseg.models.blocks import ConvBlock, encoded, joined
from tiledseg.models.builder import NetworkBuilder


@dataclass(frozen=True)
class UNetBuilder(NetworkBuilder[UNetConfig]):
    """Builds the U-Net that its settings describe.

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

    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401
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

    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
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
            x = joined(x, features[level], self.config.base_filters * 2**level, f"decoder_{level}")
            x = self._block(x, f"decoder_{level}", level)
        return x

    def _block(self, x: Any, name: str, level: int) -> Any:  # noqa: ANN401
        config = self.config
        block = ConvBlock(
            name=name,
            filters=config.base_filters * 2**level,
            kernel=max(3, config.base_kernel - 2 * level),
            dilation=max(1, config.dilation - level),
            dropout=config.dropout * level,
            norm=config.norm,
            activation=config.activation,
        )
        return block(x)
