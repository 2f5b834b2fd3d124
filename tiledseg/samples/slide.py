"""The slide and the camera: dye, debris, light, and the smooth noise that textures are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._lazy import cv2
from tiledseg.preprocess import blurred

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import AnyArray, FloatArray

# Optical density (natural logarithm) of red, green and blue per unit of azure, blue and eosin dye.
_DENSITY = np.array([[0.79, 1.32, 0.31], [0.60, 0.47, 0.09], [0.115, 0.17, 0.175]])
_CACHED_PX = 1 << 16
_DUST = np.array([0.6, 1.3, 6.5], np.float32)  # dyes that together look black


@dataclass(frozen=True, slots=True)
class Stain:
    """Properties that differ between slides and cameras."""

    density: FloatArray  # optical density of red, green and blue (columns) per unit of each dye (rows)
    light: FloatArray  # red, green and blue of the empty slide, in [0, 255]
    film: float  # amount of dye in the film between the cells
    fall_off: float  # share of the light that is missing in the farthest corner
    defocus: float  # blur of the whole image, as a share of a cell's diameter


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw a slide's stain and light."""
    density = _DENSITY * rng.uniform(0.85, 1.15, (3, 1)) * rng.uniform(0.93, 1.07, (3, 3))
    light = np.array([203, 201, 207]) * rng.uniform(0.92, 1.06) * rng.uniform(0.975, 1.025, 3)
    return Stain(
        density.astype(np.float32),
        light.astype(np.float32),
        rng.uniform(0.08, 0.22),
        rng.uniform(0.06, 0.2),
        rng.uniform(0.001, 0.006),
    )


def film(rng: np.random.Generator, shape: tuple[int, int], cell_px: float, amount: float) -> FloatArray:
    """Draw the dyed film between the cells: cloudy, with fine flecks."""
    clouds = 1 + 0.22 * texture(rng, shape, 1.5 * cell_px) + 0.18 * texture(rng, shape, 0.12 * cell_px)
    flecks = texture(rng, shape, 0.07 * cell_px) + 0.7 * texture(rng, shape, 0.025 * cell_px)
    flecks = np.maximum(flecks - 1.1, 0) * (0.6 + 0.4 * np.tanh(texture(rng, shape, 0.8 * cell_px)))
    dyes = np.empty((*shape, 3), np.float32)
    dyes[..., 0] = amount * (0.2 * clouds + 0.25 * flecks)
    dyes[..., 1] = amount * (0.75 * clouds + 0.6 * flecks)
    dyes[..., 2] = amount
    return np.maximum(dyes, 0, out=dyes)


def scatter_debris(rng: np.random.Generator, dyes: FloatArray, cell_px: float) -> None:
    """Scatter droplets of fat, platelets, granules of stain and dust."""
    shape = dyes.shape[:2]
    area = shape[0] * shape[1] / cell_px**2  # in cells
    fat = np.zeros(shape, np.uint8)
    _specks(rng, fat, rng.poisson(rng.exponential(0.03) * area), (0.1, 0.5), cell_px)
    if fat.any():
        dyes *= thrice(1 - 0.85 * _soft(fat, 0.01 * cell_px))
    grains = np.zeros(shape, np.uint8)
    _specks(rng, grains, rng.poisson(rng.uniform(1, 6) * area), (0.006, 0.014), cell_px)
    for _ in range(rng.poisson(0.12 * area)):
        _platelet(rng, grains, cell_px)
    dyes[..., :2] += 0.45 * _soft(grains, 0.006 * cell_px)[..., None]
    dust = np.zeros(shape, np.uint8)
    _specks(rng, dust, rng.poisson(0.04 * area), (0.015, 0.03), cell_px)
    if dust.any():
        dyes += thrice(_soft(dust, 0.006 * cell_px)) * _DUST


def developed(rng: np.random.Generator, dyes: FloatArray, stain: Stain, cell_px: float) -> AnyArray:
    """Compute the photograph of the dyes: absorption, light, blur and noise."""
    passed = np.empty_like(dyes)
    light, colours = _light(rng, dyes.shape[:2], stain.fall_off), np.tile(stain.light, dyes.shape[1])
    for rows in _bands(dyes.shape):
        band = cv2.exp(cv2.transform(dyes[rows], -stain.density.T)) * thrice(light[rows])
        np.multiply(band.reshape(len(band), -1), colours, out=passed[rows].reshape(len(band), -1))
    passed = softened(passed, stain.defocus * cell_px)
    image = np.empty(passed.shape, np.uint8)
    for rows in _bands(dyes.shape):
        band = passed[rows] + 1.3 * rng.standard_normal(passed[rows].shape, dtype=np.float32)
        image[rows] = cv2.convertScaleAbs(np.maximum(band, 0, out=band))
    return image


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Split an image into rows that the processor's cache holds; new memory takes longer than the sums."""
    rows = max(1, _CACHED_PX // shape[1])
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def thrice(values: AnyArray) -> FloatArray:
    """Repeat values (h, w) for three dyes or colours; broadcasting a short axis takes longer."""
    return np.asarray(cv2.merge([values] * 3), np.float32)


def _soft(cover: AnyArray, sigma: float) -> FloatArray:
    """Turn a drawing in [0, 255] into a blurred cover in [0, 1]."""
    return softened(cover.astype(np.float32) / np.float32(255), sigma)


def _specks(
    rng: np.random.Generator, grains: AnyArray, n: int, sizes: tuple[float, float], cell_px: float
) -> None:
    """Draw round dots; `sizes` are radii as a share of a cell's diameter."""
    height, width = grains.shape
    for _ in range(n):
        centre = (int(rng.uniform(0, width) * 16), int(rng.uniform(0, height) * 16))
        radius = rng.uniform(*sizes) * cell_px
        cv2.circle(grains, centre, int(radius * 16), int(rng.uniform(60, 255)), -1, cv2.LINE_AA, 4)


def _platelet(rng: np.random.Generator, grains: AnyArray, cell_px: float) -> None:
    """Draw a platelet: a clump of faint granules."""
    height, width = grains.shape
    centre = rng.uniform(0, (height, width))
    spread = rng.uniform(0.02, 0.05) * cell_px
    for y, x in rng.normal(centre, spread, (14, 2)):
        spot = (int(x * 16), int(y * 16))
        cv2.circle(grains, spot, int(0.016 * cell_px * 16), int(rng.uniform(60, 170)), -1, cv2.LINE_AA, 4)


def _light(rng: np.random.Generator, shape: tuple[int, ...], fall_off: float) -> FloatArray:
    """Draw the light on the slide: 1 near the middle, less towards the corners."""
    middle = rng.uniform(0.3, 0.7, 2)
    y = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None] - np.float32(middle[0])
    x = np.linspace(0, 1, shape[1], dtype=np.float32)[None, :] - np.float32(middle[1])
    square = y * y + x * x
    return np.asarray(1 - fall_off * square / square.max(), np.float32)


def texture(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> FloatArray:
    """Draw smooth noise of mean 0 and standard deviation of about 1."""
    step = max(grain / 2, 1.0)
    coarse = [math.ceil(length / step) + 3 for length in shape]
    noise = cv2.GaussianBlur(rng.standard_normal(coarse, dtype=np.float32), (0, 0), 0.9)
    y, x = rng.uniform(0, step, 2)  # a random position of the lattice
    warp = np.array([[1 / step, 0, 1 + x / step], [0, 1 / step, 1 + y / step]])
    smooth = cv2.warpAffine(noise, warp, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.asarray(smooth / 0.31, np.float32)  # the blur leaves 0.31 of a standard deviation of 1


def softened(array: AnyArray, sigma: float) -> FloatArray:
    """Blur a drawing, unless sigma is very small."""
    return np.asarray(blurred(array, sigma) if sigma > 0.25 else array, np.float32)
