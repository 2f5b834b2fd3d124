"""Settings of the Swin-Unet."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tiledseg._validate import invalid
from tiledseg.config._base import Count, _plain
from tiledseg.config._networks._base import ArchitectureConfig
from tiledseg.errors import SettingError

__all__ = ["SwinUNetConfig"]

_Counts = Annotated[tuple[Count, ...], Field(min_length=1, max_length=6), BeforeValidator(_plain)]


class SwinUNetConfig(ArchitectureConfig):
    """The Swin-Unet of Cao et al. (arXiv 2105.05537): a U-Net of shifted-window transformers.

    The paper's own has windows of 7 px and images of 224 px; windows of 8 px fit tiles of 256 and
    512 px.

    Attributes
    ----------
    name : {"swin_unet"}
        The architecture.
    input_shape : tuple
        (height, width, channels); height and width in px, multiples of
        ``patch * 2**(levels - 1) * window``, or None for a free size.
    classes : int
        Output channels: 1 for one class against background, else one per class.
    final_activation : str or None
        Keras name of the activation of the output; None for ``sigmoid`` with one class and
        ``softmax`` with several.
    patch : int
        Size of a patch in px, from which one token is made: 2, 4 or 8.
    window : int
        Size of a window in tokens, within which they attend to each other; from 2 up.
    embedding : int
        Channels of the first level; doubled at each deeper one.
    depths : tuple of int
        Blocks of each level of the encoder, every second one with shifted windows; those of the
        decoder are the same but for the deepest level, which it does not have. Their number is
        the number of levels.
    heads : tuple of int
        Heads of the attention at each level; they divide its channels.
    mlp_ratio : int
        Channels between the two dense layers of a block, as a multiple of the block's.
    drop_path : float
        Largest share of the blocks that are skipped in training, in [0, 1): 0 at the first block
        of the encoder, this at its last one; as deep in the decoder as in the encoder.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["swin_unet"] = "swin_unet"
    patch: Literal[2, 4, 8] = 4
    window: Annotated[Count, Field(ge=2)] = 8
    embedding: Count = 96
    depths: _Counts = (2, 2, 2, 2)
    heads: _Counts = (3, 6, 12, 24)
    mlp_ratio: Count = 4
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.2

    @property
    def stride(self) -> int:
        """Total stride in px, that of the windows counted in; input sizes are multiples of it."""
        return int(self.patch * 2 ** (len(self.depths) - 1) * self.window)

    def _because(self) -> tuple[str, str]:
        levels = len(self.depths)
        return f" with patch={self.patch}, {levels} levels and window={self.window}", ", or another window"

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if len(self.heads) != len(self.depths):
            raise invalid(
                SettingError,
                "heads",
                must=f"have {len(self.depths)} values, as many as `depths`",
                got=self.heads,
                fix="Give one number per level.",
            )
        for level, heads in enumerate(self.heads):
            channels = self.embedding * 2**level
            if channels % heads:
                raise invalid(
                    SettingError,
                    "heads",
                    must=f"divide the {channels} channels of level {level}",
                    got=heads,
                    fix="Use a divisor, or another `embedding`.",
                )
        return self
