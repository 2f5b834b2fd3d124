"""Settings of augmentation: which transforms there are, and sets of them that have a name."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from tiledseg.config._base import _tupled
from tiledseg.config._geometric import (
    ElasticConfig,
    FlipConfig,
    LensConfig,
    RotateConfig,
    ShearConfig,
    WarpConfig,
    ZoomConfig,
)
from tiledseg.config._photometric import (
    BlurConfig,
    BrightnessConfig,
    ContrastConfig,
    GammaConfig,
    HueConfig,
    JpegConfig,
    NoiseConfig,
    SharpenConfig,
    StainConfig,
)

__all__ = [
    "NEEDS_RGB",
    "AugmentSet",
    "GeometricConfig",
    "PhotometricConfig",
    "TransformConfig",
    "Transforms",
    "augmenting",
]

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
