"""What the settings of all architectures share."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, model_validator

from tiledseg._validate import invalid
from tiledseg.config.base import Config, Count, _plain
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from tiledseg.config.preprocessing import PreprocessingConfig

__all__ = ["Activation", "ArchitectureConfig", "InputShape", "Norm"]

InputShape: TypeAlias = Annotated[tuple[Count | None, Count | None, Count], BeforeValidator(_plain)]
"""(height, width, channels) of a network's input in px; None for a free size."""

Activation: TypeAlias = Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish"]
"""Keras name of an activation inside a network."""

Norm: TypeAlias = Literal["batch", "batch_renorm", "group", "none"]
"""A normalisation of features."""


class ArchitectureConfig(Config):
    """Base of the settings of an architecture.

    A subclass sets `name` to a ``Literal`` of its own, by which it is selected, and gives its
    `stride`.

    Attributes
    ----------
    name : str
        The architecture.
    input_shape : tuple
        (height, width, channels); height and width in px, multiples of the stride, or None for a
        free size.
    classes : int
        Output channels: 1 for one class against background, else one per class.
    final_activation : str or None
        Keras name of the activation of the output; None for ``sigmoid`` with one class and
        ``softmax`` with several.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: str
    input_shape: InputShape = (512, 512, 3)
    classes: Count = 1
    final_activation: Literal["sigmoid", "softmax", "linear"] | None = None

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        raise NotImplementedError

    @property
    def preprocessing(self) -> PreprocessingConfig | None:
        """Preparation of pixels that the weights were learnt with; None where any will do."""
        return None

    def told(self) -> dict[str, Any]:
        """Give the settings as JSON has them, without the folders of this machine.

        Returns
        -------
        dict
            Of the path in ``encoder_weights`` the file's name is left: the file is read when the
            network is first built, and needed no more.
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
            If it gives another number of channels, or other values than the weights were learnt with.
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
                    must=f"be {getattr(wanted, part)}, which the network's weights were learnt with",
                    got=getattr(given, part),
                    fix="Leave it out, or take no weights that were learnt elsewhere.",
                )

    def _because(self) -> tuple[str, str]:
        """Say what the stride follows from, and what else to change than the size."""
        return "", ""

    @model_validator(mode="after")
    def _states_its_name(self) -> Self:
        self.model_fields_set.add("name")  # what was given says nothing without it
        return self

    @model_validator(mode="after")
    def _fits_the_shapes(self) -> Self:
        if self.final_activation == "softmax" and self.classes == 1:
            raise invalid(
                SettingError,
                "final_activation",
                must="not be softmax with one class",
                got="softmax",
                fix="Use sigmoid, or classes=2 with the background as a class.",
            )
        reason, instead = self._because()
        for axis, size in zip("yx", self.input_shape[:2], strict=True):
            if size is not None and size % self.stride:
                low = size // self.stride * self.stride
                raise invalid(
                    SettingError,
                    "input_shape",
                    must=f"be a multiple of {self.stride} along {axis}{reason}",
                    got=size,
                    fix=f"Use {f'{low} or ' if low else ''}{low + self.stride}{instead}.",
                )
        return self
