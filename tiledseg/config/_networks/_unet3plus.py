"""Settings of the UNet 3+."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from tiledseg._validate import invalid
from tiledseg.config._base import Count
from tiledseg.config._networks._base import Activation, ArchitectureConfig, Norm
from tiledseg.errors import SettingError

__all__ = ["UNet3PlusConfig"]


class UNet3PlusConfig(ArchitectureConfig):
    """The UNet 3+ of Huang et al. (arXiv 2004.08790).

    Five levels; level i of the encoder has ``base_filters * 2**i`` filters. Each level of the
    decoder joins features of all five scales, brought to `skip_filters` each, so it has
    ``5 * skip_filters``. The defaults are the paper's, without its options.

    Attributes
    ----------
    name : {"unet3plus"}
        The architecture.
    base_filters : int
        Filters of the first level; doubled at each deeper one.
    skip_filters : int
        Filters that each scale has in each level of the decoder.
    norm : {"batch", "batch_renorm", "group", "none"}
        Normalisation between convolution and activation.
    activation : str
        Keras name of the activation after each convolution, or ``mish``.
    deep_supervision : bool
        Whether training has the loss of an output of each coarser level besides.
    classification_guided : bool
        Whether a branch says which classes an image has at all; the map of one that it has not
        is set to 0. It looks at the whole tile, and needs a sigmoid at the end.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["unet3plus"] = "unet3plus"
    base_filters: Count = 64
    skip_filters: Count = 64
    norm: Norm = "batch"
    activation: Activation = "relu"
    deep_supervision: bool = False
    classification_guided: bool = False

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return 16

    @model_validator(mode="after")
    def _fits(self) -> Self:
        sigmoid = self.final_activation == "sigmoid" or (self.final_activation is None and self.classes == 1)
        if self.classification_guided and not sigmoid:
            raise invalid(
                SettingError,
                "classification_guided",
                must="stand with final_activation sigmoid",
                got=f"final_activation={self.final_activation} with {self.classes} classes",
                fix='Set final_activation="sigmoid", or leave the guide out.',
            )
        return self
