"""Settings of the TransUNet."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tiledseg._validate import invalid
from tiledseg.config._base import Count, _plain
from tiledseg.config._networks._base import ArchitectureConfig
from tiledseg.errors import SettingError

__all__ = ["TransUNetConfig"]


class TransUNetConfig(ArchitectureConfig):
    """The TransUNet of Chen et al. (arXiv 2102.04306): a residual network, a transformer, a U-Net's decoder.

    The defaults are the authors' R50-ViT-B_16. Every token attends to all of the tile, so that
    tiles are never exact; the embedding of the tokens' places fixes the size.

    Attributes
    ----------
    name : {"trans_unet"}
        The architecture.
    input_shape : tuple
        (height, width, channels); height and width in px, multiples of 16; no free size.
    classes : int
        Output channels: 1 for one class against background, else one per class.
    final_activation : str or None
        Keras name of the activation of the output; None for ``sigmoid`` with one class and
        ``softmax`` with several.
    width : int
        Channels of the residual network's first convolution; a multiple of 8.
    units : tuple of int
        Bottleneck units at stride 4, 8 and 16.
    hidden : int
        Channels of a token.
    layers : int
        Layers of the transformer.
    heads : int
        Heads of its attention; they divide `hidden`.
    mlp : int
        Channels between the two dense layers of a transformer's layer.
    decoder_filters : tuple of int
        Filters of the decoder at stride 8, 4, 2 and 1.
    dropout : float
        Fraction that the embedding and the dense layers of the transformer drop, in [0, 1).

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["trans_unet"] = "trans_unet"
    width: Annotated[Count, Field(multiple_of=8)] = 64
    units: Annotated[tuple[Count, Count, Count], BeforeValidator(_plain)] = (3, 4, 9)
    hidden: Count = 768
    layers: Count = 12
    heads: Count = 12
    mlp: Count = 3072
    decoder_filters: Annotated[tuple[Count, Count, Count, Count], BeforeValidator(_plain)] = (
        256,
        128,
        64,
        16,
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return 16

    def _because(self) -> tuple[str, str]:
        return ", the size of a token", ""

    @model_validator(mode="after")
    def _tokens_fit(self) -> Self:
        if None in self.input_shape:
            raise invalid(
                SettingError,
                "input_shape",
                must="have a height and a width, since each token's place is learnt",
                got=self.input_shape,
                fix="Use (512, 512, 3), say.",
            )
        if self.hidden % self.heads:
            raise invalid(
                SettingError,
                "heads",
                must=f"divide the {self.hidden} channels of a token",
                got=self.heads,
                fix="Use a divisor of `hidden`.",
            )
        return self
