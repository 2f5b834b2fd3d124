"""The founding experiment's augmentor as a list of typed transforms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tiledseg.config._geometric import (
    ElasticConfig,
    FlipConfig,
    LensConfig,
    RotateConfig,
    ShearConfig,
    WarpConfig,
    ZoomConfig,
)
from tiledseg.config._photometric import BrightnessConfig, SharpenConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tiledseg.config._augment import TransformConfig
    from tiledseg.config._founding._note import Entry

__all__ = ["AUGMENTOR_KEYS", "transforms_of"]

_CHANCE = 0.3  # the experiment made a sample of each; here one sample meets some of them
_SWITCHES = (
    "hflip",
    "vflip",
    "rotation",
    "deformation",
    "distortion",
    "barrdistortion",
    "pincdistortion",
    "sharpening",
    "brightening",
)
_SIGMAS = ("deformation.sigmoid", "deformation.sigmoids", "deformation.sigma")
_LENSES = ("barrdistortion", "pincdistortion")
AUGMENTOR_KEYS = {f"augmentor.{key}" for key in (*_SWITCHES, "angles", "shrinks", "shears")} | {
    "deformation.alpha",
    *_SIGMAS,
    "distortion.gaussian_filter_rsigma",
    "distortion.distortions",
    "sharpening.k",
    "brightening.alpha",
    "brightening.beta",
    *(
        f"{kind}.{key}"
        for kind in ("barrdistortion", "pincdistortion")
        for key in ("radius", "amount", "centers")
    ),
}
"""Keys that describe transforms; the sections beside ``augmentor`` count where its switch is on."""


def transforms_of(entries: Iterable[Entry]) -> tuple[list[TransformConfig], dict[str, str]]:
    """Make the transforms that an augmentor switches on."""
    values = {f"{entry.section}.{entry.key}": entry.value for entry in entries if entry.readable}
    makers: dict[str, Callable[[dict[str, Any]], TransformConfig]] = {
        "rotation": lambda v: RotateConfig(angles=_floats(v["augmentor.angles"]), probability=0.5),
        "shrinks": lambda v: ZoomConfig(factors=_range(v["augmentor.shrinks"]), probability=_CHANCE),
        "shears": lambda v: ShearConfig(degrees=_degrees(v["augmentor.shears"]), probability=_CHANCE),
        "deformation": lambda v: ElasticConfig(
            alpha=float(v.get("deformation.alpha", 1300)),
            sigma=next((_first(v[key]) for key in _SIGMAS if key in v), 8.0),
            probability=_CHANCE,
        ),
        "distortion": lambda v: WarpConfig(
            magnitude=_first(v.get("distortion.distortions", 0.02)),
            sigma=float(v.get("distortion.gaussian_filter_rsigma", 40)),
            probability=_CHANCE,
        ),
        "barrdistortion": lambda v: _lens(v, "barrdistortion", 1),
        "pincdistortion": lambda v: _lens(v, "pincdistortion", -1),
        "sharpening": lambda v: SharpenConfig(
            amounts=_range([v.get("sharpening.k", 1.0)]), probability=_CHANCE
        ),
        "brightening": lambda v: BrightnessConfig(
            gains=_range([v.get("brightening.alpha", 1.2)]),
            offsets=_range([v.get("brightening.beta", 10) / 255]),
            probability=_CHANCE,
        ),
    }
    transforms: list[TransformConfig] = []
    problems: dict[str, str] = {}
    flips = [0.5 if values.get(f"augmentor.{key}") is True else 0.0 for key in ("hflip", "vflip")]
    if any(flips):
        transforms.append(FlipConfig(horizontal=flips[0], vertical=flips[1]))
    for key, make in makers.items():
        if values.get(f"augmentor.{key}"):
            try:
                transforms.append(make(values))
            except (TypeError, ValueError, KeyError, IndexError, SettingError) as error:
                problems[key] = f"its values are no use ({type(error).__name__}: {error})"
    return transforms, problems


def _lens(values: dict[str, Any], kind: str, sign: int) -> LensConfig:
    amount = sign * abs(float(values.get(f"{kind}.amount", 0.3)))
    lens = LensConfig(
        amounts=(amount, amount), radius=float(values.get(f"{kind}.radius", 0.3)), probability=_CHANCE
    )
    centres = values.get(f"{kind}.centers")
    return lens if centres is None else lens.changed(centres=tuple(map(_floats, centres)))


def _floats(values: Iterable[Any]) -> Any:  # noqa: ANN401  a tuple of as many floats
    return tuple(float(value) for value in values)


def _first(value: Any) -> float:  # noqa: ANN401
    """Take a number, or the first of a list: this package draws one strength for all samples."""
    return float(value[0] if isinstance(value, list | tuple) else value)


def _range(values: Any) -> tuple[float, float]:  # noqa: ANN401
    some = _floats(values)
    return min(some), max(some)


def _degrees(values: Any) -> tuple[float, float]:  # noqa: ANN401
    """Turn the tangents of shears into degrees, to either side."""
    most = math.degrees(math.atan(max(map(abs, _floats(values)))))
    return -most, most
