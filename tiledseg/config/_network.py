"""Settings of the networks, one class per architecture, and of the preparation of pixels."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from tiledseg._checks import broken
from tiledseg.config._base import Config, Count, _plain
from tiledseg.errors import SettingError

__all__ = ["InputShape", "PreprocessingConfig", "UNetConfig"]

InputShape: TypeAlias = Annotated[tuple[Count | None, Count | None, Count], BeforeValidator(_plain)]
"""(height, width, channels) of a network's input in px; None for a free size."""


class UNetConfig(Config):
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
    final_activation : str or None
        Keras name of the activation of the output; None for ``sigmoid`` with one class and
        ``softmax`` with several.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["unet"] = "unet"
    input_shape: InputShape = (512, 512, 3)
    classes: Count = 1
    levels: Annotated[Count, Field(le=12)] = 8
    base_filters: Count = 16
    base_kernel: Annotated[Count, Field(ge=3)] = 9
    dilation: Count = 1
    norm: Literal["batch", "batch_renorm", "group", "none"] = "batch"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    activation: Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish"] = "relu"
    final_activation: Literal["sigmoid", "softmax", "linear"] | None = None

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** (self.levels - 1))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.base_kernel % 2 == 0:
            raise broken(
                SettingError,
                "base_kernel",
                must="be odd",
                got=self.base_kernel,
                fix=f"Use {self.base_kernel - 1} or {self.base_kernel + 1}.",
            )
        if self.dropout * (self.levels - 1) >= 1:
            raise broken(
                SettingError,
                "dropout",
                must=f"stay under 1 at the deepest of {self.levels} levels",
                got=self.dropout,
                fix=f"Use less than {1 / (self.levels - 1):.3g}.",
            )
        if self.final_activation == "softmax" and self.classes == 1:
            raise broken(
                SettingError,
                "final_activation",
                must="not be softmax with one class",
                got="softmax",
                fix="Use sigmoid, or classes=2 with the background as a class.",
            )
        for axis, size in zip("yx", self.input_shape[:2], strict=True):
            if size is not None and size % self.stride:
                low = size // self.stride * self.stride
                raise broken(
                    SettingError,
                    "input_shape",
                    must=f"be a multiple of {self.stride} along {axis} with {self.levels} levels",
                    got=size,
                    fix=f"Use {f'{low} or ' if low else ''}{low + self.stride}, or fewer levels.",
                )
        return self


class PreprocessingConfig(Config):
    """The one preparation of pixels, the same in training and prediction.

    Attributes
    ----------
    dtype : {"uint8", "uint16", "float32"}
        Dtype of the images. Integers are divided by their largest value; floats stay.
    channels : int
        Channels of the images: 3 for RGB, 1 for grey.
    scale : float
        Factor in (0, 1] by which an image is shrunk (area average) before tiling; the
        probabilities are enlarged by as much after it.
    mean : tuple of float
        Subtracted per channel after the division; one for all channels, or one for each.
    std : tuple of float
        Divided by per channel after that; one for all channels, or one for each; positive.

    Raises
    ------
    SettingError
        If a value is out of its range, or `mean` or `std` does not fit `channels`.
    """

    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    channels: Count = 3
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    mean: Annotated[tuple[float, ...], BeforeValidator(_plain)] = (0.0,)
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_plain)] = (1.0,)

    @model_validator(mode="after")
    def _per_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels}:
                raise broken(
                    SettingError,
                    name,
                    must=f"have 1 or {self.channels} values",
                    got=values,
                    fix="Give one value for all channels, or one for each.",
                )
        return self
