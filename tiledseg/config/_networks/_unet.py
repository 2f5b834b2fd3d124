"""Settings of the U-Net."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tiledseg._validate import invalid
from tiledseg.config._base import Count
from tiledseg.config._networks._base import Activation, ArchitectureConfig, Norm
from tiledseg.errors import SettingError

__all__ = ["UNetConfig"]


class UNetConfig(ArchitectureConfig):
    """The U-Net of Ronneberger et al. (arXiv 1505.04597) with large first kernels.

    Encoder level i has ``base_filters * 2**i`` filters, a kernel of
    ``max(3, base_kernel - 2 * i)`` px and a dilation of ``max(1, dilation - i)``.

    Attributes
    ----------
    name : {"unet"}
        The architecture.
    input_shape : tuple
        (height, width, channels); height and width in px, multiples of ``2**(levels - 1)``, or
        None for a free size.
    classes : int
        Output channels: 1 for one class against background, else one per class.
    final_activation : str or None
        Keras name of the activation of the output; None for ``sigmoid`` with one class and
        ``softmax`` with several.
    levels : int
        Resolutions, the bridge counted in.
    base_filters : int
        Filters of the first level; doubled at each deeper one.
    base_kernel : int
        Kernel of the first level in px, odd, from 3 up; 2 less at each deeper level, never under 3.
    dilation : int
        Dilation of the first level; 1 less at each deeper level, never under 1.
    norm : {"batch", "batch_renorm", "group", "none"}
        Normalisation after each convolution; the statistics of the two batch norms move by a
        tenth per step.
    dropout : float
        Level i drops ``dropout * i`` of its features, in [0, 1).
    activation : str
        Keras name of the activation after each convolution, or ``mish``.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["unet"] = "unet"
    levels: Annotated[Count, Field(le=12)] = 8
    base_filters: Count = 16
    base_kernel: Annotated[Count, Field(ge=3)] = 9
    dilation: Count = 1
    norm: Norm = "batch"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    activation: Activation = "relu"

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** (self.levels - 1))

    def _because(self) -> tuple[str, str]:
        return f" with {self.levels} levels", ", or fewer levels"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.base_kernel % 2 == 0:
            raise invalid(
                SettingError,
                "base_kernel",
                must="be odd",
                got=self.base_kernel,
                fix=f"Use {self.base_kernel - 1} or {self.base_kernel + 1}.",
            )
        if self.dropout * (self.levels - 1) >= 1:
            raise invalid(
                SettingError,
                "dropout",
                must=f"stay under 1 at the deepest of {self.levels} levels",
                got=self.dropout,
                fix=f"Use less than {1 / (self.levels - 1):.3g}.",
            )
        return self
