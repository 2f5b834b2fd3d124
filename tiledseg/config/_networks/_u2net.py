"""Settings of the U²-Net."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tiledseg.config._networks._base import Activation, ArchitectureConfig, Norm

__all__ = ["U2NetConfig"]


class U2NetConfig(ArchitectureConfig):
    """The U²-Net of Qin et al. (arXiv 2005.09007): a U-Net whose blocks are U-Nets.

    Attributes
    ----------
    name : {"u2net"}
        The architecture.
    size : {"full", "lite"}
        The paper's larger network, or its smaller one (with a dagger there).
    width : float
        Factor of all filters, in (0, 1]; 1 is the paper's.
    norm : {"batch", "batch_renorm", "group", "none"}
        Normalisation between convolution and activation.
    activation : str
        Keras name of the activation after each convolution, or ``mish``.
    deep_supervision : bool
        Whether training has the losses of the six outputs that are fused besides, as the paper does.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["u2net"] = "u2net"
    size: Literal["full", "lite"] = "full"
    width: Annotated[float, Field(gt=0, le=1)] = 1.0
    norm: Norm = "batch"
    activation: Activation = "relu"
    deep_supervision: bool = True

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return 32
