"""What the settings of all architectures share."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from tiledseg._validate import invalid
from tiledseg.config.base import Choice
from tiledseg.config.fields import Count, as_numbers
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from tiledseg.config.preprocessing import PreprocessingConfig

InputShape: TypeAlias = Annotated[tuple[Count | None, Count | None, Count], as_numbers]
"""(height, width, channels) of a network's input in px; None for a free size."""

Activation: TypeAlias = Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish"]
"""Keras name of an activation inside a network."""

Norm: TypeAlias = Literal["batch", "batch_renorm", "group", "none"]
"""A normalisation of features."""

Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
"""Fraction of features that is dropped in training."""


def multiples(step: int, near: int) -> str:
    """Name the positive multiples of a step beside a number."""
    low = near // step * step
    return f"{low} or {low + step}" if low else str(step)


def _kinds(base: type[ArchitectureConfig]) -> list[type[ArchitectureConfig]]:
    """List the settings of all architectures that are derived from some."""
    below = base.__subclasses__()
    return [*below, *(one for kind in below for one in _kinds(kind))]


class ArchitectureConfig(Choice):
    """Base of the settings of an architecture.

    A subclass sets `name` to a ``Literal`` of its own, by which it is selected, and gives its
    `stride`.
    """

    input_shape: InputShape = (512, 512, 3)
    """(height, width, channels); height and width in px, multiples of `stride`, or None for a free size.
    """
    classes: Count = 1
    """Output channels: 1 for one class against background, else one per class."""
    final_activation: Literal["sigmoid", "softmax", "linear"] | None = None
    """Keras name of the activation of the output; None for ``sigmoid`` with one class and ``softmax`` with
    several."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        raise NotImplementedError

    @property
    def preprocessing(self) -> PreprocessingConfig | None:
        """Preparation of pixels that pretrained weights expect; None without such weights."""
        return None

    def portable(self) -> dict[str, Any]:
        """Give the settings as JSON has them, without the folders of this machine.

        Returns
        -------
        dict
            Of the path in ``encoder_weights`` only the file's name stays: the file is read when the
            network is first built, and not needed afterwards.
        """
        settings = self.model_dump(mode="json")
        if settings.get("encoder_weights"):
            settings["encoder_weights"] = PurePath(settings["encoder_weights"]).name
        return settings

    def check_preprocessing(self, given: PreprocessingConfig) -> None:
        """Check that a preparation of pixels gives what the network takes.

        Parameters
        ----------
        given : PreprocessingConfig
            The preparation.

        Raises
        ------
        SettingError
            If it gives another number of channels, or other values than pretrained weights expect.
        """
        channels = self.input_shape[2]
        if given.channels != channels:
            raise invalid(
                SettingError,
                "preprocessing.channels",
                must=f"be {channels}, the network's input channels",
                got=given.channels,
                fix=f"Use PreprocessingConfig(channels={channels}).",
            )
        wanted = self.preprocessing or given
        for part in ("mean", "std"):
            if getattr(given, part) != getattr(wanted, part):
                raise invalid(
                    SettingError,
                    f"preprocessing.{part}",
                    must=f"be {getattr(wanted, part)}, which the network's pretrained weights expect",
                    got=getattr(given, part),
                    fix="Leave it out, or take no pretrained weights.",
                )

    @classmethod
    def _instead_of(cls, key: str) -> str:
        fields = (kind.model_fields for kind in _kinds(ArchitectureConfig) if key in kind.model_fields)
        names = sorted({one["name"].default for one in fields if not one["name"].is_required()})
        return f"Networks that have it: {', '.join(names)}." if names else super()._instead_of(key)

    def _because(self) -> tuple[str, str]:
        """Say what the stride follows from, and what else to change than the size."""
        return "", ""

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        if self.final_activation == "softmax" and self.classes == 1:
            fix = "Use sigmoid, or classes=2 with the background as a class."
            raise self._invalid("final_activation", "not be softmax with one class", fix)
        reason, instead = self._because()
        for axis, size in zip("yx", self.input_shape[:2], strict=True):
            if size is not None and size % self.stride:
                fix = f"Use {multiples(self.stride, size)}{instead}."
                must = f"be a multiple of {self.stride} along {axis}{reason}"
                raise self._invalid("input_shape", must, fix, got=size)
        return self


class OnnxConfig(ArchitectureConfig):
    """What is known of a network in an ONNX file: it cannot be trained here, and is never built anew."""

    name: Literal["onnx"] = "onnx"
    strides: Annotated[tuple[Count, Count], as_numbers] = (1, 1)
    """Total stride along y and x in px."""
    output: str
    """Name of the output."""
    layout: Literal["channels_first", "channels_last"]
    """Where the input has its channels."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return math.lcm(*self.strides)

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        return self  # the file says what it takes


class LevelsConfig(ArchitectureConfig):
    """Base of the settings of networks with levels, each of half the size of the one before."""

    levels: Annotated[Count, Field(le=12)] = 5
    """Resolutions, the deepest included."""
    base_filters: Count = 32
    """Filters of the first level; doubled at each deeper one."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** (self.levels - 1))

    def _because(self) -> tuple[str, str]:
        return f" with {self.levels} levels", ", or fewer levels"


class ConvolutionsConfig(ArchitectureConfig):
    """Base of the settings of networks whose convolutions have a normalisation and an activation."""

    norm: Norm = "batch"
    """Normalisation between convolution and activation."""
    activation: Activation = "relu"
    """Keras name of the activation after each convolution, or ``mish``."""
