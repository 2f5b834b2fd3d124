"""Augmentation: one geometric map for image and mask, and changes of the image's values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._lazy import cv2
from tiledseg._validate import invalid
from tiledseg.config import NEEDS_RGB
from tiledseg.errors import ArrayError
from tiledseg.preprocess import blurred

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import (
        BlurConfig,
        BrightnessConfig,
        ContrastConfig,
        ElasticConfig,
        FlipConfig,
        GammaConfig,
        HueConfig,
        JpegConfig,
        LensConfig,
        NoiseConfig,
        RotateConfig,
        SharpenConfig,
        ShearConfig,
        StainConfig,
        WarpConfig,
        ZoomConfig,
    )
    from tiledseg.data.cache import PreparedPair

_Rng = np.random.Generator
_Matrix = np.ndarray[Any, np.dtype[np.float64]]
_Displace: TypeAlias = "Callable[[FloatArray], FloatArray]"
"""Maps positions (..., 2), (x, y) in px from the crop's centre, to the positions that their px come from."""

_COARSEST = 8  # px: step of the grid on which a displacement field is computed
_STEPS_PER_RADIUS = 24  # of a lens
_LUMA = np.array([0.299, 0.587, 0.114])  # of Rec. 601
_FAINT = np.float32(1 / 256)  # added before the logarithm: a px without light has no optical density
_NEEDS_UNIT_RANGE = frozenset({"gamma", "hue", "stain", "jpeg"})  # transforms of values in [0, 1]
SHARES_OF_WHITE: frozenset[str] = frozenset({"brightness", "noise"})
"""Transforms that add shares of the largest value of the dtype."""
_QUANTILES = 2**16


@dataclass(frozen=True, slots=True, eq=False)
class CropMap:
    """Where the px of a crop come from, in px from the crop's centre."""

    matrix: _Matrix  # (2, 3): from a position (x, y) in the crop to one in the image
    displacement: FloatArray | None  # (h, w, 2): added to that, along x and y; None for none

    @property
    def is_identity(self) -> bool:
        """Whether every px stays where it is."""
        return self.displacement is None and np.array_equal(self.matrix, np.eye(2, 3))


IDENTITY = CropMap(np.eye(2, 3), None)


def draw_map(transforms: Sequence[Any], shape: tuple[int, int], rng: _Rng) -> CropMap:
    """Draw each transform, and fold all of them into one map, so that px are interpolated once."""
    # a displacement field is smooth: it is computed on a coarse grid and enlarged
    step = min((_step_of(one, shape) for one in transforms if one.name in _FIELDS), default=1)
    grid = _coarse_grid(shape, step)
    moves = [_drawn(one, shape, grid, step, rng) for one in transforms]
    straight, places = np.eye(3), grid if any(callable(move) for move in moves) else None
    for move in reversed(moves):  # the last transform is the first on the way back to the image
        if callable(move):
            places = None if places is None else move(places)
        elif move is not None:
            straight = move @ straight
            places = None if places is None else _moved(places, move)
    if places is None:
        return CropMap(straight[:2], None)
    return CropMap(straight[:2], _enlarged(places - _moved(grid, straight), shape, step))


def _drawn(
    config: Any,
    shape: tuple[int, int],
    grid: FloatArray,
    step: int,
    rng: _Rng,
) -> _Matrix | _Displace | None:
    """Draw one transform: a matrix, a displacement, or None where chance leaves it out."""
    if config.name != "flip" and rng.random() >= config.probability:
        return None
    if config.name in _FIELDS:
        return _FIELDS[config.name](config, shape, grid, step, rng)
    return _MATRICES[config.name](config, rng)


def _flip(config: FlipConfig, rng: _Rng) -> _Matrix:
    x, y = rng.random(2) < (config.horizontal, config.vertical)
    return np.diag([-1.0 if x else 1.0, -1.0 if y else 1.0, 1.0])


def _rotate(config: RotateConfig, rng: _Rng) -> _Matrix:
    degrees = rng.choice(config.angles) if config.angles else rng.uniform(-config.most, config.most)
    turn = math.radians(degrees)
    cos, sin = round(math.cos(turn), 12), round(math.sin(turn), 12)  # quarter turns are exact
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _zoom(config: ZoomConfig, rng: _Rng) -> _Matrix:
    factor = math.exp(rng.uniform(*np.log(config.factors)))
    stretch = math.exp(rng.uniform(-1, 1) * math.log(config.stretch) / 2)
    return np.diag([stretch / factor, 1 / (factor * stretch), 1])


def _shear(config: ShearConfig, rng: _Rng) -> _Matrix:
    slant = math.tan(math.radians(rng.uniform(*config.degrees)))
    matrix = np.eye(3)
    matrix[(0, 1) if rng.random() < 0.5 else (1, 0)] = slant
    return matrix


_MATRICES: dict[str, Callable[[Any, _Rng], _Matrix]] = {
    "flip": _flip,
    "rotate": _rotate,
    "zoom": _zoom,
    "shear": _shear,
}


def _step_of(config: Any, shape: tuple[int, int]) -> int:
    """Say how coarse a grid may be to hold a displacement field."""
    fine = config.radius * min(shape) / _STEPS_PER_RADIUS if config.name == "lens" else config.sigma / 4
    return max(1, min(_COARSEST, int(fine)))


def _elastic(
    config: ElasticConfig, shape: tuple[int, int], grid: FloatArray, step: int, rng: _Rng
) -> _Displace:
    del shape
    # a point of the grid stands for step * step px, so that sigma and alpha shrink by the step
    field = _smooth(grid.shape, config.sigma / step, rng) * np.float32(config.alpha / step)
    return lambda places: places + field


def _warp(config: WarpConfig, shape: tuple[int, int], grid: FloatArray, step: int, rng: _Rng) -> _Displace:
    field = _smooth(grid.shape, config.sigma / step, rng)
    height = max(-field.min(), field.max(), 1e-12)
    field *= np.float32(config.magnitude * min(shape) / height)
    return lambda places: places + field


def _smooth(shape: tuple[int, ...], sigma: float, rng: _Rng) -> FloatArray:
    noise = rng.random(shape, np.float32) * 2 - 1
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)


def _lens(config: LensConfig, shape: tuple[int, int], grid: FloatArray, step: int, rng: _Rng) -> _Displace:
    del grid, step
    amount = rng.uniform(*config.amounts)
    y, x = config.centres[int(rng.integers(len(config.centres)))]
    middle = np.array([(x - 0.5) * shape[1], (y - 0.5) * shape[0]], np.float32)
    radius = config.radius * min(shape)

    def displace(places: FloatArray) -> FloatArray:
        off = places - middle
        share = np.minimum(np.hypot(off[..., 0], off[..., 1]) / radius, 1)
        factor = np.sin(math.pi / 2 * np.maximum(share, 1e-6)) ** amount
        return np.asarray(middle + off * factor[..., None], np.float32)

    return displace


_FIELDS: dict[str, Callable[[Any, tuple[int, int], FloatArray, int, _Rng], _Displace]] = {
    "elastic": _elastic,
    "warp": _warp,
    "lens": _lens,
}
GEOMETRIC = frozenset({*_MATRICES, *_FIELDS})
"""Names of the transforms that move px."""


def _coarse_grid(shape: tuple[int, int], step: int) -> FloatArray:
    """Return the centres (x, y) of grid cells of `step` px that cover a crop and a margin of one cell."""
    y, x = (
        np.arange(-1, math.ceil(length / step) + 1, dtype=np.float32) * step + (step - length) / 2
        for length in shape
    )
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)


def _moved(places: FloatArray, matrix: _Matrix) -> FloatArray:
    moved = places @ matrix[:2, :2].T + matrix[:2, 2]
    return np.asarray(moved, np.float32)


def _enlarged(field: FloatArray, shape: tuple[int, int], step: int) -> FloatArray:
    height, width = field.shape[:2]
    large = cv2.resize(field, (width * step, height * step), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large[step : step + shape[0], step : step + shape[1]])


def check_values(pair: PreparedPair, transforms: Sequence[Any]) -> None:
    """Check that transforms of values can be applied to an image."""
    if pair.shape[2] != 3 and (wrong := [one.name for one in transforms if one.name in NEEDS_RGB]):
        raise invalid(
            ArrayError,
            pair.name,
            must=f"be RGB for the transforms {', '.join(wrong)}",
            got=f"{pair.shape[2]} channels",
            fix="Leave these transforms out.",
        )
    wrong = [one.name for one in transforms if one.name in _NEEDS_UNIT_RANGE]
    least, largest = pair.extremes
    if wrong and pair.dtype.kind == "f" and (least < 0 or largest > 1):
        raise invalid(
            ArrayError,
            pair.name,
            must=f"have values in [0, 1] for the transforms {', '.join(wrong)}",
            got=f"[{least:.6g}, {largest:.6g}]",
            fix="Bring the values into that range, or leave these transforms out.",
        )


def change_values(
    pixels: AnyArray, transforms: Sequence[Any], rng: np.random.Generator, white: float
) -> AnyArray:
    """Change the values of an image, in the order of the settings; values are rounded once, at the end."""
    chosen = [one for one in transforms if rng.random() < one.probability]
    if not chosen:
        return pixels
    image = _as_float(pixels, white)  # integers stay in [0, 1]; floats are clipped where a transform needs it
    for one in chosen:
        image = _CHANGES[one.name](image, one, rng)
        if pixels.dtype.kind == "u":
            np.clip(image, 0, 1, out=image)
    return _as_dtype(image, pixels.dtype, white)


def _as_float(pixels: AnyArray, white: float) -> FloatArray:
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    return np.asarray(pixels * np.float32(1 / white), np.float32)


def _as_dtype(image: FloatArray, dtype: np.dtype[Any], white: float) -> AnyArray:
    if dtype.kind == "f":
        return image
    depth = cv2.CV_8U if dtype.itemsize == 1 else cv2.CV_16U
    return _like(cv2.addWeighted(image, white, image, 0, 0, dtype=depth), image)  # rounds and clips


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
    """Rotate the hue and scale the saturation, both in one matrix."""
    turn, saturation = math.radians(rng.uniform(*config.degrees)), rng.uniform(*config.saturations)
    grey = np.tile(_LUMA, (3, 1))
    around = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turned = math.cos(turn) * np.eye(3) + math.sin(turn) * around + (1 - math.cos(turn)) / 3
    return np.asarray(cv2.transform(image, grey + saturation * (np.eye(3) - grey) @ turned), np.float32)


def _stain(image: FloatArray, config: StainConfig, rng: _Rng) -> FloatArray:
    """Separate optical density into stains, change their amounts, and recombine them with tilted stains."""
    stains = _unit(np.array(config.stains))
    tilted = _unit(stains + rng.normal(0, config.tilt, (3, 3)))
    factors, shifts = rng.uniform(*config.factors, 3), rng.uniform(*config.shifts, 3)
    mixed = (np.linalg.inv(stains) * factors @ tilted).T  # of columns: OpenCV's px are columns
    gained = (shifts @ tilted)[:, None] * -math.log(10)
    light = cv2.transform(cv2.log(np.clip(image, 0, 1) + _FAINT), np.hstack([mixed, gained]))
    white = np.log1p(_FAINT)  # a stain only takes light away
    return np.asarray(cv2.exp(np.minimum(light, white)), np.float32) - _FAINT


def _unit(stains: AnyArray) -> AnyArray:
    return np.asarray(stains / np.linalg.norm(stains, axis=1, keepdims=True))


def _blur(image: FloatArray, config: BlurConfig, rng: _Rng) -> FloatArray:
    sigma = rng.uniform(*config.sigmas)
    return blurred(image, sigma) if sigma > 0 else image


def _sharpen(image: FloatArray, config: SharpenConfig, rng: _Rng) -> FloatArray:
    amount = np.float32(rng.uniform(*config.amounts))
    return np.asarray(image * (1 + amount) - blurred(image, config.sigma) * amount)


def _noise(image: FloatArray, config: NoiseConfig, rng: _Rng) -> FloatArray:
    sigma = np.float32(rng.uniform(*config.sigmas))
    chance = rng.integers(0, _QUANTILES, image.shape, np.uint16)
    return np.asarray(image + np.take(_normal_quantiles() * sigma, chance))


@cache
def _normal_quantiles() -> FloatArray:
    """List evenly spaced quantiles: drawing one of them is fast, and normal to 16 bits."""
    normal = NormalDist()
    quantiles = ((index + 0.5) / _QUANTILES for index in range(_QUANTILES))
    return np.fromiter(map(normal.inv_cdf, quantiles), np.float32, _QUANTILES)


def _jpeg(image: FloatArray, config: JpegConfig, rng: _Rng) -> FloatArray:
    quality = int(rng.integers(*config.qualities, endpoint=True))
    plain = _as_dtype(image, np.dtype(np.uint8), 255)
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
