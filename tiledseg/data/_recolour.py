"""Changing the values of an image, in the order of the settings; rounded once, at the end.

Values are shares of white, float32. Transforms of integers stay in [0, 1]; floats are cut where a
transform cannot do without.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiledseg._validate import invalid
from tiledseg.config import NEEDS_RGB
from tiledseg.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import (
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
    from tiledseg.data._prepared import PreparedPair

__all__ = ["check_recolourable", "recoloured"]

_LUMA = np.array([0.299, 0.587, 0.114])  # of Rec. 601
_FAINT = np.float32(1 / 256)  # added before the logarithm: a px without light has no optical density
_NEEDS_SHARES = frozenset({"gamma", "hue", "stain", "jpeg"})
_QUANTILES = 2**16
_Rng = np.random.Generator


def check_recolourable(pair: PreparedPair, transforms: Sequence[Any]) -> None:
    """Check that transforms can be applied to an image."""
    if pair.shape[2] != 3 and (wrong := [one.name for one in transforms if one.name in NEEDS_RGB]):
        raise invalid(
            ArrayError,
            pair.name,
            must=f"be RGB for the transforms {', '.join(wrong)}",
            got=f"{pair.shape[2]} channels",
            fix="Leave these transforms out.",
        )
    wrong = [one.name for one in transforms if one.name in _NEEDS_SHARES]
    least, largest = pair.extremes
    if wrong and pair.dtype.kind == "f" and (least < 0 or largest > 1):
        raise invalid(
            ArrayError,
            pair.name,
            must=f"have values in [0, 1] for the transforms {', '.join(wrong)}",
            got=f"[{least:.6g}, {largest:.6g}]",
            fix="Bring the values into that range, or leave these transforms out.",
        )


def recoloured(pixels: AnyArray, transforms: Sequence[Any], rng: np.random.Generator) -> AnyArray:
    """Change an image."""
    chosen = [one for one in transforms if rng.random() < one.probability]
    if not chosen:
        return pixels
    image = _shares(pixels)
    for one in chosen:
        image = _CHANGES[one.name](image, one, rng)
        if pixels.dtype.kind == "u":
            np.clip(image, 0, 1, out=image)
    return _as_before(image, pixels.dtype)


def _shares(pixels: AnyArray) -> FloatArray:
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    return np.asarray(pixels * np.float32(1 / np.iinfo(pixels.dtype).max), np.float32)


def _as_before(image: FloatArray, dtype: np.dtype[Any]) -> AnyArray:
    if dtype.kind == "f":
        return image
    depth = cv2.CV_8U if dtype.itemsize == 1 else cv2.CV_16U
    white = float(np.iinfo(dtype).max)
    return _like(cv2.addWeighted(image, white, image, 0, 0, dtype=depth), image)  # rounded, and cut


def _brightness(image: FloatArray, config: BrightnessConfig, rng: _Rng) -> FloatArray:
    gain, offset = rng.uniform(*config.gains), rng.uniform(*config.offsets)
    return np.asarray(image * np.float32(gain) + np.float32(offset))


def _contrast(image: FloatArray, config: ContrastConfig, rng: _Rng) -> FloatArray:
    factor = np.float32(rng.uniform(*config.factors))
    height, width, channels = image.shape
    flat = image.reshape(height, -1)  # an inner axis of a few channels is slow
    sums = cv2.reduce(flat, 0, cv2.REDUCE_SUM, dtype=cv2.CV_64F).reshape(-1, channels).sum(axis=0)
    shift = np.tile(sums / (height * width) * (1 - factor), width).astype(np.float32)
    return _like(flat * factor + shift, image)


def _gamma(image: FloatArray, config: GammaConfig, rng: _Rng) -> FloatArray:
    exponent = math.exp(rng.uniform(*np.log(config.gammas)))
    return _like(cv2.pow(np.clip(image, 0, 1), exponent), image)


def _hue(image: FloatArray, config: HueConfig, rng: _Rng) -> FloatArray:
    """Turn and stretch the part of each colour that is not its grey, all in one matrix."""
    turn, saturation = math.radians(rng.uniform(*config.degrees)), rng.uniform(*config.saturations)
    grey = np.tile(_LUMA, (3, 1))
    around = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turned = math.cos(turn) * np.eye(3) + math.sin(turn) * around + (1 - math.cos(turn)) / 3
    return np.asarray(cv2.transform(image, grey + saturation * (np.eye(3) - grey) @ turned), np.float32)


def _stain(image: FloatArray, config: StainConfig, rng: _Rng) -> FloatArray:
    """Split optical density into stains, change their amounts, put them together with tilted stains."""
    stains = _unit(np.array(config.stains))
    tilted = _unit(stains + rng.normal(0, config.tilt, (3, 3)))
    factors, shifts = rng.uniform(*config.factors, 3), rng.uniform(*config.shifts, 3)
    mixed = (np.linalg.inv(stains) * factors @ tilted).T  # of columns: OpenCV's px are columns
    gained = (shifts @ tilted)[:, None] * -math.log(10)
    light = cv2.transform(cv2.log(np.clip(image, 0, 1) + _FAINT), np.hstack([mixed, gained]))
    at_most = np.log1p(_FAINT)  # no more light than there was before the slide
    return np.asarray(cv2.exp(np.minimum(light, at_most)), np.float32) - _FAINT


def _unit(stains: AnyArray) -> AnyArray:
    return np.asarray(stains / np.linalg.norm(stains, axis=1, keepdims=True))


def _blur(image: FloatArray, config: BlurConfig, rng: _Rng) -> FloatArray:
    return _blurred(image, rng.uniform(*config.sigmas))


def _sharpen(image: FloatArray, config: SharpenConfig, rng: _Rng) -> FloatArray:
    amount = np.float32(rng.uniform(*config.amounts))
    return np.asarray(image * (1 + amount) - _blurred(image, config.sigma) * amount)


def _blurred(image: FloatArray, sigma: float) -> FloatArray:
    if sigma <= 0:
        return image
    return _like(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), image)


def _noise(image: FloatArray, config: NoiseConfig, rng: _Rng) -> FloatArray:
    sigma = np.float32(rng.uniform(*config.sigmas))
    chance = rng.integers(0, _QUANTILES, image.shape, np.uint16)
    return np.asarray(image + np.take(_normal_quantiles() * sigma, chance))


@cache
def _normal_quantiles() -> FloatArray:
    """List evenly spaced quantiles: one drawn from these is normal to 16 bits, and soon drawn."""
    normal = NormalDist()
    quantiles = ((place + 0.5) / _QUANTILES for place in range(_QUANTILES))
    return np.fromiter(map(normal.inv_cdf, quantiles), np.float32, _QUANTILES)


def _jpeg(image: FloatArray, config: JpegConfig, rng: _Rng) -> FloatArray:
    quality = int(rng.integers(*config.qualities, endpoint=True))
    plain = _as_before(image, np.dtype(np.uint8))
    if image.shape[2] == 3:
        code = _encoded(cv2.cvtColor(plain, cv2.COLOR_RGB2BGR), quality)
        lossy = _like(cv2.imdecode(code, cv2.IMREAD_COLOR_RGB), image)
    else:
        codes = [_encoded(channel, quality) for channel in cv2.split(plain)]
        lossy = np.stack([_grey(code) for code in codes], axis=2)
    change = cv2.subtract(lossy, plain, dtype=cv2.CV_32F)
    return _like(cv2.addWeighted(image, 1, change.reshape(image.shape), 1 / 255, 0), image)


def _encoded(plain: AnyArray, quality: int) -> AnyArray:
    return cv2.imencode(".jpg", plain, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]


def _grey(code: AnyArray) -> AnyArray:
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))


def _like(array: object, image: AnyArray) -> AnyArray:
    return np.asarray(array).reshape(image.shape)  # OpenCV drops an axis of one channel


_CHANGES: dict[str, Callable[[FloatArray, Any, _Rng], FloatArray]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "gamma": _gamma,
    "hue": _hue,
    "stain": _stain,
    "blur": _blur,
    "sharpen": _sharpen,
    "noise": _noise,
    "jpeg": _jpeg,
}
