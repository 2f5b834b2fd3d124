"""Settings of the Attention U-Net."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tiledseg.config._base import Count
from tiledseg.config._networks._base import Activation, ArchitectureConfig, Norm

__all__ = ["AttentionUNetConfig"]


class AttentionUNetConfig(ArchitectureConfig):
    """The Attention U-Net of Oktay et al. (arXiv 1804.03999), in two dimensions.

    Level i has ``base_filters * 2**i`` filters; the defaults are the widths of the authors' code
    (``feature_scale`` 4). A gate weighs each px of a skip by one coefficient in [0, 1], computed
    from the skip and the next coarser features; the finest skip has none, as in the paper.

    Attributes
    ----------
    name : {"attention_unet"}
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
        Resolutions, the bridge counted in; a gate needs 3.
    base_filters : int
        Filters of the first level; doubled at each deeper one.
    norm : {"batch", "batch_renorm", "group", "none"}
        Normalisation between convolution and activation, and after each gate.
    activation : str
        Keras name of the activation after each convolution, or ``mish``.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["attention_unet"] = "attention_unet"
    levels: Annotated[Count, Field(ge=3, le=12)] = 5
    base_filters: Count = 16
    norm: Norm = "batch"
    activation: Activation = "relu"

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** (self.levels - 1))

    def _because(self) -> tuple[str, str]:
        return f" with {self.levels} levels", ", or fewer levels"
