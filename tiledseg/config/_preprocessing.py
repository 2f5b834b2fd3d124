"""Settings of the preparation of pixels."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tiledseg._checks import broken
from tiledseg.config._base import Config, Count, _plain
from tiledseg.errors import SettingError

__all__ = ["PreprocessingConfig"]


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
    percentiles : tuple of float or None
        In place of the division: two percentiles of the whole image, per channel, that become 0
        and 1; nothing is cut off. For uint8 and uint16. Tiles of a tile set count as images.
    mean : tuple of float
        Subtracted per channel after that; one for all channels, or one for each.
    std : tuple of float
        Divided by per channel after that; one for all channels, or one for each; positive.

    Raises
    ------
    SettingError
        If a value is out of its range, `mean` or `std` does not fit `channels`, or `percentiles`
        do not rise or meet floats.
    """

    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    channels: Count = 3
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    percentiles: (
        Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], BeforeValidator(_plain)] | None
    ) = None
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

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.percentiles is None:
            return self
        if len(self.percentiles) != 2 or self.percentiles[0] >= self.percentiles[1]:
            raise broken(
                SettingError,
                "percentiles",
                must="be two, the first below the second",
                got=self.percentiles,
                fix="Use (1.0, 99.0), say.",
            )
        if self.dtype == "float32":
            raise broken(
                SettingError,
                "percentiles",
                must="meet uint8 or uint16, of which they are exact",
                got="float32",
                fix="Bring floats into their range yourself.",
            )
        return self
