"""Settings of the MultiResUNet."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tiledseg._validate import invalid
from tiledseg.config._base import Count
from tiledseg.config._networks._base import Activation, ArchitectureConfig, Norm
from tiledseg.errors import SettingError

__all__ = ["MultiResUNetConfig"]


class MultiResUNetConfig(ArchitectureConfig):
    """The MultiResUNet of Ibtehaz and Rahman (arXiv 1902.04049).

    Level i has MultiRes blocks of ``W = alpha * base_filters * 2**i`` filters, in three
    convolutions of W/6, W/3 and W/2, and a ResPath of ``levels - 1 - i`` residual convolutions on
    its skip. The defaults are the paper's.

    Attributes
    ----------
    name : {"multires_unet"}
        The architecture.
    levels : int
        Resolutions, the bridge counted in.
    base_filters : int
        Filters of the first level; doubled at each deeper one.
    alpha : float
        Factor of the filters inside MultiRes blocks, positive.
    norm : {"batch", "batch_renorm", "group", "none"}
        Normalisation after each convolution.
    activation : str
        Keras name of the activation after each convolution, or ``mish``.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["multires_unet"] = "multires_unet"
    levels: Annotated[Count, Field(le=12)] = 5
    base_filters: Count = 32
    alpha: Annotated[float, Field(gt=0)] = 1.67
    norm: Norm = "batch"
    activation: Activation = "relu"

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** (self.levels - 1))

    def widths(self, level: int) -> tuple[int, int, int]:
        """Give the filters of the three convolutions of a MultiRes block.

        Parameters
        ----------
        level : int
            Level, from 0.

        Returns
        -------
        tuple of int
            About W/6, W/3 and W/2, with the factors of the authors' code.
        """
        filters = self.alpha * self.base_filters * 2**level
        return int(filters * 0.167), int(filters * 0.333), int(filters * 0.5)

    def _because(self) -> tuple[str, str]:
        return f" with {self.levels} levels", ", or fewer levels"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.widths(0)[0] < 1:
            raise invalid(
                SettingError,
                "base_filters",
                must=f"give 6 filters or more with alpha={self.alpha}",
                got=self.base_filters,
                fix=f"Use {int(1 / (0.167 * self.alpha)) + 1} or more.",
            )
        return self
