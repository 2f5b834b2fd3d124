"""Settings of the transforms that move px: image and mask together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from tiledseg.config._base import Config, Share, _plain
from tiledseg.config._range import Range, between

__all__ = [
    "ElasticConfig",
    "FlipConfig",
    "LensConfig",
    "RotateConfig",
    "ShearConfig",
    "WarpConfig",
    "ZoomConfig",
]

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
