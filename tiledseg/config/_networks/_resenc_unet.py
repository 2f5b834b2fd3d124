"""Settings of the residual encoder U-Net."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tiledseg._validate import invalid
from tiledseg.config._base import Count, _plain
from tiledseg.config._networks._base import ArchitectureConfig
from tiledseg.errors import SettingError

__all__ = ["ResEncUNetConfig"]


class ResEncUNetConfig(ArchitectureConfig):
    """The residual encoder U-Net of nnU-Net (Isensee et al., arXiv 2404.09556), in two dimensions.

    Level i has ``min(base_filters * 2**i, most_filters)`` filters. The defaults are what nnU-Net
    plans for patches of 512 px: poolings down to 4 px, and 1, 3, 4, 6, 6, ... residual blocks.

    Attributes
    ----------
    name : {"resenc_unet"}
        The architecture.
    levels : int
        Resolutions, the deepest counted in.
    base_filters : int
        Filters of the first level; doubled at each deeper one.
    most_filters : int
        Filters that no level exceeds.
    blocks : tuple of int or None
        Residual blocks of each level of the encoder; None for nnU-Net's 1, 3, 4 and then 6.
    norm : {"instance", "batch", "group", "none"}
        Normalisation after each convolution. ``instance`` is nnU-Net's; it looks at the whole
        tile, so that tiling cannot be exact.
    deep_supervision : bool
        Whether training has losses of the coarser levels besides, each half of the next finer
        one's, as nnU-Net does.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["resenc_unet"] = "resenc_unet"
    levels: Annotated[Count, Field(ge=2, le=12)] = 8
    base_filters: Count = 32
    most_filters: Count = 512
    blocks: Annotated[tuple[Count, ...], BeforeValidator(_plain)] | None = None
    norm: Literal["instance", "batch", "group", "none"] = "instance"
    deep_supervision: bool = True

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** (self.levels - 1))

    @property
    def blocks_per_level(self) -> tuple[int, ...]:
        """Residual blocks of each level of the encoder."""
        return self.blocks or ((1, 3, 4) + (6,) * self.levels)[: self.levels]

    def _because(self) -> tuple[str, str]:
        return f" with {self.levels} levels", ", or fewer levels"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.blocks_per_level) != self.levels:
            raise invalid(
                SettingError,
                "blocks",
                must=f"have one number for each of {self.levels} levels",
                got=self.blocks,
                fix="Give as many, or leave it out.",
            )
        return self
