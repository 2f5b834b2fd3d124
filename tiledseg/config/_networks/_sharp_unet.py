"""Settings of the Sharp U-Net."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tiledseg.config._base import Count
from tiledseg.config._networks._base import Activation, ArchitectureConfig, Norm

__all__ = ["SharpUNetConfig"]


class SharpUNetConfig(ArchitectureConfig):
    """The Sharp U-Net of Zunair and Ben Hamza (arXiv 2107.12461).

    A U-Net whose skips pass a fixed sharpening filter, each feature by itself. The defaults are
    the authors'.

    Attributes
    ----------
    name : {"sharp_unet"}
        The architecture.
    levels : int
        Resolutions, the bridge counted in; a skip needs 2.
    base_filters : int
        Filters of the first level; doubled at each deeper one.
    norm : {"batch", "batch_renorm", "group", "none"}
        Normalisation after each convolution; the paper has none.
    activation : str
        Keras name of the activation after each convolution, or ``mish``.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["sharp_unet"] = "sharp_unet"
    levels: Annotated[Count, Field(ge=2, le=12)] = 5
    base_filters: Count = 32
    norm: Norm = "none"
    activation: Activation = "relu"

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** (self.levels - 1))

    def _because(self) -> tuple[str, str]:
        return f" with {self.levels} levels", ", or fewer levels"
