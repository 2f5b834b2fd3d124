"""Settings of augmentation: transforms that move px, transforms that change values, and sets of both."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from tiledseg._validate import invalid
from tiledseg.config.base import Config, Count, Share, _plain, _tupled
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "NEEDS_RGB",
    "AugmentSet",
    "BlurConfig",
    "BrightnessConfig",
    "ContrastConfig",
    "ElasticConfig",
    "FlipConfig",
    "GammaConfig",
    "GeometricConfig",
    "HueConfig",
    "JpegConfig",
    "LensConfig",
    "NoiseConfig",
    "PhotometricConfig",
    "Range",
    "RotateConfig",
    "SharpenConfig",
    "ShearConfig",
    "StainConfig",
    "TransformConfig",
    "Transforms",
    "WarpConfig",
    "ZoomConfig",
    "augmenting",
    "between",
    "in_order",
]

_Number = TypeVar("_Number", int, float)


def in_order(value: tuple[_Number, _Number], info: ValidationInfo) -> tuple[_Number, _Number]:
    """Check that a range begins with its least value."""
    if value[0] > value[1]:
        raise invalid(
            SettingError,
            str(info.field_name),
            must="be the least and the largest value, in this order",
            got=value,
            fix=f"Use {value[::-1]}.",
        )
    return value


Range: TypeAlias = Annotated[tuple[float, float], BeforeValidator(_plain), AfterValidator(in_order)]
"""Least and largest value that may be drawn; both the same for one value always."""


def between(
    least: float, most: float
) -> Callable[[tuple[float, float], ValidationInfo], tuple[float, float]]:
    """Make a check that a range lies between two numbers."""

    def check(value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if value[0] < least or value[1] > most:
            raise invalid(
                SettingError,
                str(info.field_name),
                must=f"lie in [{least}, {most}]",
                got=value,
                fix=f"Use {(max(least, min(value[0], most)), min(most, max(value[1], least)))}.",
            )
        return value

    return check


_Centre = Annotated[tuple[Share, Share], BeforeValidator(_plain)]


class FlipConfig(Config):
    """Mirror the crop.

    Attributes
    ----------
    name : {"flip"}
        The transform.
    horizontal : float
        Share of the crops whose left and right change places.
    vertical : float
        Share of the crops whose top and bottom change places.
    """

    name: Literal["flip"] = "flip"
    horizontal: Share = 0.5
    vertical: Share = 0.5


class RotateConfig(Config):
    """Turn the crop about its middle.

    What comes in at the corners is the image around the crop.

    Attributes
    ----------
    name : {"rotate"}
        The transform.
    angles : tuple of float
        One of these is drawn, in degrees, anticlockwise; empty for any angle.
    most : float
        Without `angles`, the largest angle either way, in degrees.
    probability : float
        Share of the crops that are turned.
    """

    name: Literal["rotate"] = "rotate"
    angles: Annotated[tuple[float, ...], BeforeValidator(_plain)] = ()
    most: Annotated[float, Field(ge=0, le=180)] = 180.0
    probability: Share = 1.0


class ZoomConfig(Config):
    """Enlarge or shrink what the crop shows, about its middle.

    Attributes
    ----------
    name : {"zoom"}
        The transform.
    factors : tuple of float
        Least and largest factor; under 1 the crop shows more of the image, smaller. Drawn evenly
        by logarithm.
    stretch : float
        Largest ratio of the factors along y and x, either way; 1 for the same along both.
    probability : float
        Share of the crops that are zoomed.
    """

    name: Literal["zoom"] = "zoom"
    factors: Annotated[Range, AfterValidator(between(0.1, 10))] = (0.8, 1.25)
    stretch: Annotated[float, Field(ge=1, le=4)] = 1.0
    probability: Share = 1.0


class ShearConfig(Config):
    """Slant the crop along y or x, whichever chance says.

    Attributes
    ----------
    name : {"shear"}
        The transform.
    degrees : tuple of float
        Least and largest angle of the slant.
    probability : float
        Share of the crops that are sheared.
    """

    name: Literal["shear"] = "shear"
    degrees: Annotated[Range, AfterValidator(between(-60, 60))] = (-10.0, 10.0)
    probability: Share = 1.0


class ElasticConfig(Config):
    """Move each px by a smoothed random field (Simard et al. 2003, "Best practices").

    Attributes
    ----------
    name : {"elastic"}
        The transform.
    alpha : float
        Factor of the smoothed field, in px: random numbers in [-1, 1], one per px, are smoothed
        and multiplied by it, so that px move by about ``0.16 * alpha / sigma``.
    sigma : float
        Standard deviation of the smoothing in px. With ``alpha`` over ``3 * sigma**2`` the image
        folds over itself.
    probability : float
        Share of the crops that are deformed.
    """

    name: Literal["elastic"] = "elastic"
    alpha: Annotated[float, Field(ge=0, le=1e6)] = 300.0
    sigma: Annotated[float, Field(ge=1, le=1e3)] = 16.0
    probability: Share = 1.0


class WarpConfig(Config):
    """Move each px by a smooth random field of a given height.

    Attributes
    ----------
    name : {"warp"}
        The transform.
    magnitude : float
        The height of the field, that is the largest shift along an axis, as a share of the crop's
        shorter side.
    sigma : float
        Standard deviation of the smoothing in px.
    probability : float
        Share of the crops that are deformed.
    """

    name: Literal["warp"] = "warp"
    magnitude: Annotated[float, Field(ge=0, le=1)] = 0.02
    sigma: Annotated[float, Field(ge=1, le=1e3)] = 40.0
    probability: Share = 1.0


class LensConfig(Config):
    """Bulge or pinch a disc of the crop, as a lens lying on it does.

    A px at the distance r from the middle of a disc of radius R shows what was at
    ``r * sin(pi * r / (2 * R)) ** amount``.

    Attributes
    ----------
    name : {"lens"}
        The transform.
    amounts : tuple of float
        Least and largest amount; over 0 the middle is enlarged (barrel), under 0 it shrinks
        (pincushion).
    radius : float
        Radius of the disc as a share of the crop's shorter side.
    centres : tuple
        One of these is drawn as the middle of the disc: (y, x) as shares of height and width.
    probability : float
        Share of the crops that are distorted.
    """

    name: Literal["lens"] = "lens"
    amounts: Annotated[Range, AfterValidator(between(-0.9, 0.9))] = (-0.3, 0.3)
    radius: Annotated[float, Field(gt=0, le=2)] = 0.3
    centres: Annotated[tuple[_Centre, ...], BeforeValidator(_plain), Field(min_length=1)] = (
        (0.5, 0.5),
        (0.3, 0.3),
        (0.3, 0.7),
        (0.7, 0.3),
        (0.7, 0.7),
    )
    probability: Share = 1.0


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


NEEDS_RGB = frozenset({"hue", "stain"})
"""Names of the transforms that take RGB alone."""


GeometricConfig: TypeAlias = (
    FlipConfig | RotateConfig | ZoomConfig | ShearConfig | ElasticConfig | WarpConfig | LensConfig
)
"""Settings of a transform that moves px."""

PhotometricConfig: TypeAlias = (
    BrightnessConfig
    | ContrastConfig
    | GammaConfig
    | HueConfig
    | StainConfig
    | BlurConfig
    | SharpenConfig
    | NoiseConfig
    | JpegConfig
)
"""Settings of a transform that changes values."""

TransformConfig: TypeAlias = Annotated[GeometricConfig | PhotometricConfig, Field(discriminator="name")]
"""Settings of any transform; ``name`` says of which."""

Transforms: TypeAlias = Annotated[tuple[TransformConfig, ...], BeforeValidator(_tupled)]
"""Transforms in order."""

AugmentSet: TypeAlias = Literal["default", "flips", "founding", "none"]
"""Name of a set of transforms."""

_DEFAULT: tuple[TransformConfig, ...] = (
    FlipConfig(),
    RotateConfig(),
    ZoomConfig(stretch=1.1),
    ShearConfig(probability=0.3),
    ElasticConfig(probability=0.3),
    WarpConfig(probability=0.2),
    LensConfig(probability=0.2),
    StainConfig(probability=0.7),
    HueConfig(probability=0.5),
    BrightnessConfig(probability=0.7),
    ContrastConfig(probability=0.5),
    GammaConfig(probability=0.5),
    BlurConfig(),
    SharpenConfig(),
    NoiseConfig(),
    JpegConfig(),
)
_FLIPS: tuple[TransformConfig, ...] = (FlipConfig(), RotateConfig(angles=(0.0, 90.0, 180.0, 270.0)))
_FOUNDING: tuple[TransformConfig, ...] = (
    FlipConfig(),
    RotateConfig(angles=(90.0, 180.0, 270.0), probability=0.5),
    ZoomConfig(factors=(0.8, 0.8), probability=0.3),
    ShearConfig(probability=0.3),
    ElasticConfig(alpha=1300.0, sigma=8.0, probability=0.3),
    WarpConfig(magnitude=0.02, sigma=40.0, probability=0.3),
    LensConfig(amounts=(0.3, 0.3), probability=0.3),
    LensConfig(amounts=(-0.3, -0.3), probability=0.3),
    SharpenConfig(amounts=(1.0, 1.0), probability=0.3),
    BrightnessConfig(gains=(1.2, 1.2), offsets=(10 / 255, 10 / 255), probability=0.3),
)
_SETS: dict[str, tuple[TransformConfig, ...]] = {
    "default": _DEFAULT,
    "flips": _FLIPS,
    "founding": _FOUNDING,
    "none": (),
}


def augmenting(
    augment: AugmentSet | tuple[TransformConfig, ...], channels: int
) -> tuple[TransformConfig, ...]:
    """Spell a set of transforms out."""
    if isinstance(augment, tuple):
        return augment
    chosen = _SETS[augment]
    return chosen if channels == 3 else tuple(one for one in chosen if one.name not in NEEDS_RGB)
