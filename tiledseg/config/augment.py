"""Settings of augmentation: transforms that move px, transforms that change values, and sets of both."""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo

from tiledseg._validate import invalid
from tiledseg.config.base import Choice
from tiledseg.config.fields import Count, Share, as_numbers, as_tuple, by_name
from tiledseg.errors import SettingError

_Number = TypeVar("_Number", int, float)


def _in_order(value: tuple[_Number, _Number], info: ValidationInfo) -> tuple[_Number, _Number]:
    """Check that a range begins with its least value."""
    if value[0] > value[1]:
        must, fix = "be the least and the largest value, in this order", f"Use {value[::-1]}."
        raise invalid(SettingError, str(info.field_name), must=must, got=value, fix=fix)
    return value


_Range: TypeAlias = Annotated[tuple[float, float], as_numbers, AfterValidator(_in_order)]
"""Least and largest value that may be drawn; both the same for one value always."""


def _within(least: float, most: float) -> AfterValidator:
    """Make a check that a range lies between two numbers."""

    def check(value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if value[0] < least or value[1] > most:
            fix = f"Use {(max(least, min(value[0], most)), min(most, max(value[1], least)))}."
            must = f"lie in [{least}, {most}]"
            raise invalid(SettingError, str(info.field_name), must=must, got=value, fix=fix)
        return value

    return AfterValidator(check)


_Stain = Annotated[tuple[float, float, float], as_numbers]
_Centre = Annotated[tuple[Share, Share], as_numbers]


class _ChanceConfig(Choice):
    """Base of the settings of transforms that change some of the crops."""

    probability: Share = 1.0
    """Share of the crops that are changed."""


class FlipConfig(Choice):
    """Mirror the crop."""

    name: Literal["flip"] = "flip"
    horizontal: Share = 0.5
    """Share of the crops that are mirrored left to right."""
    vertical: Share = 0.5
    """Share of the crops that are mirrored top to bottom."""


class RotateConfig(_ChanceConfig):
    """Rotate the crop about its centre.

    The corners show the image around the crop.
    """

    name: Literal["rotate"] = "rotate"
    angles: Annotated[tuple[float, ...], as_numbers] = ()
    """One of these is drawn, in degrees, anticlockwise; empty for any angle."""
    most: Annotated[float, Field(ge=0, le=180)] = 180.0
    """Without `angles`, the largest angle in either direction, in degrees."""


class ZoomConfig(_ChanceConfig):
    """Enlarge or shrink the content of the crop, about its centre."""

    name: Literal["zoom"] = "zoom"
    factors: Annotated[_Range, _within(0.1, 10)] = (0.8, 1.25)
    """Least and largest factor; below 1 the crop shows more of the image, at a smaller size. The
    logarithm of the factor is drawn evenly."""
    stretch: Annotated[float, Field(ge=1, le=4)] = 1.0
    """Largest ratio of the factors along y and x; 1 for the same factor along both."""


class ShearConfig(_ChanceConfig):
    """Shear the crop along y or x, chosen at random."""

    name: Literal["shear"] = "shear"
    degrees: Annotated[_Range, _within(-60, 60)] = (-10.0, 10.0)
    """Smallest and largest angle of the shear, in degrees."""


class ElasticConfig(_ChanceConfig):
    """Move each px by a smoothed random field (Simard et al. 2003, "Best practices")."""

    name: Literal["elastic"] = "elastic"
    alpha: Annotated[float, Field(ge=0, le=1e6)] = 300.0
    """Factor of the smoothed field, in px: random numbers in [-1, 1], one per px, are smoothed and
    multiplied by it, so that px move by about ``0.16 * alpha / sigma``."""
    sigma: Annotated[float, Field(ge=1, le=1e3)] = 16.0
    """Standard deviation of the smoothing in px. With ``alpha`` over ``3 * sigma**2`` the image folds over
    itself."""


class WarpConfig(_ChanceConfig):
    """Move each px by a smooth random displacement field of a given magnitude."""

    name: Literal["warp"] = "warp"
    magnitude: Annotated[float, Field(ge=0, le=1)] = 0.02
    """The largest shift along an axis, as a share of the crop's shorter side."""
    sigma: Annotated[float, Field(ge=1, le=1e3)] = 40.0
    """Standard deviation of the smoothing in px."""


class LensConfig(_ChanceConfig):
    """Distort a disc of the crop like a lens.

    A px at the distance r from the centre of a disc of radius R shows what was at
    ``r * sin(pi * r / (2 * R)) ** amount``.
    """

    name: Literal["lens"] = "lens"
    amounts: Annotated[_Range, _within(-0.9, 0.9)] = (-0.3, 0.3)
    """Smallest and largest amount: above 0 enlarges the centre (barrel), below 0 shrinks it (pincushion)."""
    radius: Annotated[float, Field(gt=0, le=2)] = 0.3
    """Radius of the disc as a share of the crop's shorter side."""
    centres: Annotated[tuple[_Centre, ...], as_numbers, Field(min_length=1)] = (
        (0.5, 0.5),
        (0.3, 0.3),
        (0.3, 0.7),
        (0.7, 0.3),
        (0.7, 0.7),
    )
    """One of these is drawn as the centre of the disc: (y, x) as shares of height and width."""


_FLATTEST = 0.05  # volume that three unit vectors span: under it they are in one plane, or nearly
_HED: tuple[tuple[float, float, float], ...] = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


class BrightnessConfig(_ChanceConfig):
    """Make the image brighter or darker: ``gain * value + offset``."""

    name: Literal["brightness"] = "brightness"
    gains: Annotated[_Range, _within(0, 10)] = (0.85, 1.15)
    """Least and largest factor."""
    offsets: Annotated[_Range, _within(-1, 1)] = (-0.05, 0.05)
    """Smallest and largest value that is added, as a share of white."""


class ContrastConfig(_ChanceConfig):
    """Increase or reduce the contrast: scale the distance of values from their mean, channel by channel."""

    name: Literal["contrast"] = "contrast"
    factors: Annotated[_Range, _within(0, 10)] = (0.8, 1.25)
    """Least and largest factor of the differences from the mean."""


class GammaConfig(_ChanceConfig):
    """Raise values to a power: above 1 the mid-tones become darker, below 1 lighter."""

    name: Literal["gamma"] = "gamma"
    gammas: Annotated[_Range, _within(0.1, 10)] = (0.75, 1.33)
    """Least and largest exponent, drawn evenly by logarithm."""


class HueConfig(_ChanceConfig):
    """Rotate the hues and change the saturation; the brightness stays. Only for RGB."""

    name: Literal["hue"] = "hue"
    degrees: Annotated[_Range, _within(-180, 180)] = (-8.0, 8.0)
    """Least and largest turn of the hues about the grey axis."""
    saturations: Annotated[_Range, _within(0, 4)] = (0.75, 1.3)
    """Least and largest factor of the saturation; 0 makes grey."""


class StainConfig(_ChanceConfig):
    """Change the amount of each stain, in optical density. Only for RGB.

    The image is split into the share of each stain (Ruifrok and Johnston 2001), each share is
    multiplied and shifted, and the stains themselves change their colour a little (after Tellez
    et al. 2018).
    """

    name: Literal["stain"] = "stain"
    stains: Annotated[tuple[_Stain, ...], as_numbers, Field(min_length=3, max_length=3)] = _HED
    """Optical density (red, green, blue) of each of three stains, not in one plane; the default is
    haematoxylin, eosin and DAB."""
    factors: Annotated[_Range, _within(0, 4)] = (0.8, 1.25)
    """Least and largest factor of a stain's amount, one drawn per stain."""
    shifts: Annotated[_Range, _within(-1, 1)] = (-0.03, 0.03)
    """Least and largest optical density (decadic) that a stain gains, one drawn per stain."""
    tilt: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    """Standard deviation of the noise that is added to each element of the stains' unit vectors, so that
    stains have another colour in each crop."""

    def _check(self) -> None:
        (a, b, c), (d, e, f), (g, h, i) = self.stains
        volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        lengths = math.prod(math.hypot(*stain) for stain in self.stains)
        if lengths == 0 or abs(volume) / lengths < _FLATTEST:
            raise self._invalid(
                "stains",
                "be three colours that are not in one plane",
                "Of two stains, take as the third what is at right angles to both.",
            )


class BlurConfig(_ChanceConfig):
    """Blur with a Gaussian."""

    name: Literal["blur"] = "blur"
    sigmas: Annotated[_Range, _within(0, 50)] = (0.3, 1.5)
    """Least and largest standard deviation in px."""
    probability: Share = 0.3


class SharpenConfig(_ChanceConfig):
    """Sharpen: add the difference from the blurred image."""

    name: Literal["sharpen"] = "sharpen"
    amounts: Annotated[_Range, _within(0, 10)] = (0.2, 1.0)
    """Least and largest factor of that difference."""
    sigma: Annotated[float, Field(gt=0, le=50)] = 1.0
    """Standard deviation of the blur in px."""
    probability: Share = 0.2


class NoiseConfig(_ChanceConfig):
    """Add normal noise, independent in each px and channel."""

    name: Literal["noise"] = "noise"
    sigmas: Annotated[_Range, _within(0, 1)] = (0.005, 0.03)
    """Least and largest standard deviation, as a share of white."""
    probability: Share = 0.3


class JpegConfig(_ChanceConfig):
    """Compress as JPEG with 8 bits, and add the difference to the image."""

    name: Literal["jpeg"] = "jpeg"
    qualities: Annotated[tuple[Count, Count], as_numbers, AfterValidator(_in_order), _within(1, 100)] = (
        40,
        95,
    )
    """Least and largest quality, in [1, 100]."""
    probability: Share = 0.3


NEEDS_RGB = frozenset({"hue", "stain"})
"""Names of the transforms that take only RGB."""


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

TransformConfig: TypeAlias = Annotated[
    GeometricConfig | PhotometricConfig, Field(discriminator="name"), by_name
]
"""A transform with its settings, or only its name."""

Transforms: TypeAlias = Annotated[tuple[TransformConfig, ...], as_tuple]
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
