"""Settings of the transforms that change px values: of the image alone, never of the mask.

Values are shares of white: of the largest value of an integer dtype, of 1 for floats.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tiledseg._validate import invalid
from tiledseg.config._base import Config, Count, Share, _plain
from tiledseg.config._range import Range, between, in_order
from tiledseg.errors import SettingError

__all__ = [
    "BlurConfig",
    "BrightnessConfig",
    "ContrastConfig",
    "GammaConfig",
    "HueConfig",
    "JpegConfig",
    "NoiseConfig",
    "SharpenConfig",
    "StainConfig",
]

_Stain = Annotated[tuple[float, float, float], BeforeValidator(_plain)]
_Quality = Annotated[Count, Field(le=100)]
_FLATTEST = 0.05  # volume that three unit vectors span: under it they are in one plane, or nearly
_HED: tuple[tuple[float, float, float], ...] = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


class BrightnessConfig(Config):
    """Make the image brighter or darker: ``gain * value + offset``.

    Attributes
    ----------
    name : {"brightness"}
        The transform.
    gains : tuple of float
        Least and largest factor.
    offsets : tuple of float
        Least and largest share of white that is added.
    probability : float
        Share of the crops that are changed.
    """

    name: Literal["brightness"] = "brightness"
    gains: Annotated[Range, AfterValidator(between(0, 10))] = (0.85, 1.15)
    offsets: Annotated[Range, AfterValidator(between(-1, 1))] = (-0.05, 0.05)
    probability: Share = 1.0


class ContrastConfig(Config):
    """Spread or press the values about their mean, channel by channel.

    Attributes
    ----------
    name : {"contrast"}
        The transform.
    factors : tuple of float
        Least and largest factor of the differences from the mean.
    probability : float
        Share of the crops that are changed.
    """

    name: Literal["contrast"] = "contrast"
    factors: Annotated[Range, AfterValidator(between(0, 10))] = (0.8, 1.25)
    probability: Share = 1.0


class GammaConfig(Config):
    """Raise values to a power: over 1 darkens the mid-tones, under 1 lightens them.

    Attributes
    ----------
    name : {"gamma"}
        The transform.
    gammas : tuple of float
        Least and largest exponent, drawn evenly by logarithm.
    probability : float
        Share of the crops that are changed.
    """

    name: Literal["gamma"] = "gamma"
    gammas: Annotated[Range, AfterValidator(between(0.1, 10))] = (0.75, 1.33)
    probability: Share = 1.0


class HueConfig(Config):
    """Turn the hues and change the saturation, the brightness kept; RGB alone.

    Attributes
    ----------
    name : {"hue"}
        The transform.
    degrees : tuple of float
        Least and largest turn of the hues about the grey axis.
    saturations : tuple of float
        Least and largest factor of the saturation; 0 makes grey.
    probability : float
        Share of the crops that are changed.
    """

    name: Literal["hue"] = "hue"
    degrees: Annotated[Range, AfterValidator(between(-180, 180))] = (-8.0, 8.0)
    saturations: Annotated[Range, AfterValidator(between(0, 4))] = (0.75, 1.3)
    probability: Share = 1.0


class StainConfig(Config):
    """Stain the slide another way: more or less of each stain, in optical density; RGB alone.

    The image is split into the share of each stain (Ruifrok and Johnston 2001), each share is
    multiplied and shifted, and the stains themselves change their colour a little (after Tellez
    et al. 2018).

    Attributes
    ----------
    name : {"stain"}
        The transform.
    stains : tuple
        Optical density (red, green, blue) of each of three stains, not in one plane; at first
        haematoxylin, eosin and DAB.
    factors : tuple of float
        Least and largest factor of a stain's amount, one drawn per stain.
    shifts : tuple of float
        Least and largest optical density (decadic) that a stain gains, one drawn per stain.
    tilt : float
        Standard deviation of what is added to each element of the stains' unit vectors, so that
        each crop has stains of its own colour.
    probability : float
        Share of the crops that are changed.
    """

    name: Literal["stain"] = "stain"
    stains: Annotated[tuple[_Stain, ...], BeforeValidator(_plain), Field(min_length=3, max_length=3)] = _HED
    factors: Annotated[Range, AfterValidator(between(0, 4))] = (0.8, 1.25)
    shifts: Annotated[Range, AfterValidator(between(-1, 1))] = (-0.03, 0.03)
    tilt: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    probability: Share = 1.0

    @model_validator(mode="after")
    def _spans(self) -> Self:
        (a, b, c), (d, e, f), (g, h, i) = self.stains
        volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        lengths = math.prod(math.hypot(*stain) for stain in self.stains)
        if lengths == 0 or abs(volume) / lengths < _FLATTEST:
            raise invalid(
                SettingError,
                "stains",
                must="be three colours that are not in one plane",
                got=self.stains,
                fix="Of two stains, take as the third what is at right angles to both.",
            )
        return self


class BlurConfig(Config):
    """Blur with a Gaussian.

    Attributes
    ----------
    name : {"blur"}
        The transform.
    sigmas : tuple of float
        Least and largest standard deviation in px.
    probability : float
        Share of the crops that are blurred.
    """

    name: Literal["blur"] = "blur"
    sigmas: Annotated[Range, AfterValidator(between(0, 50))] = (0.3, 1.5)
    probability: Share = 0.3


class SharpenConfig(Config):
    """Sharpen: add the difference from the blurred image.

    Attributes
    ----------
    name : {"sharpen"}
        The transform.
    amounts : tuple of float
        Least and largest factor of that difference.
    sigma : float
        Standard deviation of the blur in px.
    probability : float
        Share of the crops that are sharpened.
    """

    name: Literal["sharpen"] = "sharpen"
    amounts: Annotated[Range, AfterValidator(between(0, 10))] = (0.2, 1.0)
    sigma: Annotated[float, Field(gt=0, le=50)] = 1.0
    probability: Share = 0.2


class NoiseConfig(Config):
    """Add normal noise, each px and channel by itself.

    Attributes
    ----------
    name : {"noise"}
        The transform.
    sigmas : tuple of float
        Least and largest standard deviation, as a share of white.
    probability : float
        Share of the crops that get noise.
    """

    name: Literal["noise"] = "noise"
    sigmas: Annotated[Range, AfterValidator(between(0, 1))] = (0.005, 0.03)
    probability: Share = 0.3


class JpegConfig(Config):
    """Compress as JPEG does and add what that changed, at 8 bits, to the image.

    Attributes
    ----------
    name : {"jpeg"}
        The transform.
    qualities : tuple of int
        Least and largest quality, in [1, 100].
    probability : float
        Share of the crops that are compressed.
    """

    name: Literal["jpeg"] = "jpeg"
    qualities: Annotated[tuple[_Quality, _Quality], BeforeValidator(_plain), AfterValidator(in_order)] = (
        40,
        95,
    )
    probability: Share = 0.3
