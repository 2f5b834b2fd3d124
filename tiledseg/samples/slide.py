"""A slide and what is on it: dye, debris, light and noise; the kinds of cells, and how they are painted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tiledseg._lazy import cv2
from tiledseg.preprocess import blurred

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import AnyArray, FloatArray

Range: TypeAlias = tuple[float, float]
Dye: TypeAlias = tuple[float, float, float]

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


@dataclass(frozen=True, slots=True)
class Look:
    """How a kind of nucleated cell looks; values are drawn uniformly from ranges."""

    size: Range  # diameter, as a share of a plasma cell's
    nucleus: float  # diameter of the nucleus, as a share of the cell's; 1 leaves no cytoplasm
    offset: Range  # distance of the nucleus from the centre: 0 at the centre, 1 at the edge
    cytoplasm: Dye  # amounts of azure, blue and eosin dye in the cytoplasm
    strength: Range = (0.85, 1.15)  # amount of dye in the nucleus and, relative to `cytoplasm`, around it
    wobble: Range = (0.02, 0.06)  # unevenness of the outline
    halo: float = 0.0  # how pale the zone beside the nucleus is, in [0, 1]
    lobes: int = 1  # parts of the nucleus


PLASMA = Look((1.0, 1.0), 0.64, (0.5, 1.0), (0.10, 1.15, 0.1), (0.8, 1.3), (0.02, 0.11), halo=0.55)
LYMPHOCYTE = Look((0.52, 0.68), 0.88, (0.0, 0.9), (0.12, 0.75, 0.0), (0.95, 1.3))
NEUTROPHIL = Look((0.7, 0.85), 0.52, (0.0, 0.2), (0.12, 0.06, 0.5), (0.85, 1.1), lobes=4)
BLAST = Look((0.85, 1.25), 0.78, (0.2, 0.8), (0.16, 0.35, 0.2), (0.7, 0.9), (0.04, 0.1), halo=0.2)
SMUDGE = Look((0.45, 0.7), 1.0, (0.0, 0.0), (0.0, 0.0, 0.0), (0.8, 1.1), (0.05, 0.13))


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell at its position."""

    look: Look  # its kind
    y: float  # row of its centre, in px
    x: float  # column of its centre, in px
    diameter: float  # in px
    label: int = 0  # its number in the labels; 0 if it is not a plasma cell


def paint_cell(rng: np.random.Generator, dyes: FloatArray, labels: AnyArray, cell: Cell) -> None:
    """Paint a nucleated cell over the dyes."""
    radius, half = cell.diameter / 2, math.ceil(cell.diameter * 0.95) + 3
    shape = [_outline(rng, radius, rng.uniform(*cell.look.wobble), rng.uniform(1, 1.25))]
    body = _filled(shape, half)
    middle = _nucleus_centre(rng, cell)
    nucleus = body if cell.look.nucleus >= 1 else _filled(_nucleus(rng, cell, middle), half) * body
    soft = 0.007 * cell.diameter
    cover, core = softened(body, soft), softened(nucleus, soft)
    around = _mixed(_cytoplasm(rng, cell, body, middle), cell.look.cytoplasm)
    inside = _chromatin(rng, cell, nucleus)
    layer = around * thrice(cover - np.minimum(core, cover)) + inside * thrice(core)
    here, there = _overlap(labels.shape, (cell.y, cell.x), half)
    dyes[here] = dyes[here] * thrice(1 - np.maximum(cover, core))[there] + layer[there]
    labels[here][body[there] >= 0.5] = cell.label


def paint_red(
    rng: np.random.Generator, dyes: FloatArray, centre: Range, diameter: float, blur: float
) -> None:
    """Paint a transparent red cell over the dyes."""
    half = math.ceil(diameter * 0.75 + 3 * blur) + 3
    here, there = _overlap(dyes.shape[:2], centre, half)
    if dyes[here].size == 0:
        return
    body = _filled([_outline(rng, diameter / 2, rng.uniform(0.02, 0.06), rng.uniform(1, 1.3))], half)
    depth = _depth(body) / diameter
    dent = np.exp(-(((0.5 - depth) / rng.uniform(0.15, 0.35)) ** 2)) * rng.uniform(0.1, 0.6)
    rim = np.exp(-depth / rng.uniform(0.025, 0.06))
    soft = max(blur, 0.012 * diameter)
    cover = softened(body, soft)
    glow = np.clip(softened(body, 3.5 * soft) - cover, 0, 1)  # the bright line that refraction draws outside
    eosin = softened(body * (1 - dent + 0.4 * rim), soft) * rng.uniform(0.75, 1.1)
    layer = cv2.merge([0.11 * softened(body * rim, soft), 0.02 * eosin, eosin])
    under = 1 - 0.7 * cover - 1.2 * np.minimum(glow, 0.5)
    dyes[here] = dyes[here] * thrice(under)[there] + layer[there]


def _nucleus_centre(rng: np.random.Generator, cell: Cell) -> FloatArray:
    """Draw the position of the nucleus, (y, x) in px from the cell's centre."""
    shift = cell.diameter / 2 * (1 - cell.look.nucleus) * rng.uniform(*cell.look.offset)
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([shift * math.sin(angle), shift * math.cos(angle)], np.float32)


def _nucleus(rng: np.random.Generator, cell: Cell, middle: FloatArray) -> list[FloatArray]:
    """Outline the nucleus: one round body, or lobes along an arc."""
    radius = cell.diameter / 2 * cell.look.nucleus
    if cell.look.lobes == 1:
        return [_outline(rng, radius, rng.uniform(0.015, 0.05), rng.uniform(1, 1.2)) + middle]
    start, turn = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.35)
    angles = start + turn * np.arange(cell.look.lobes)
    arc = 0.95 * radius * np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    lobes = [_outline(rng, 0.5 * radius, 0.07, rng.uniform(1, 1.5)) + middle + spot for spot in arc]
    bridges = [_outline(rng, 0.3 * radius, 0.02, 1.0) + middle + spot for spot in (arc[1:] + arc[:-1]) / 2]
    return lobes + bridges


def _cytoplasm(rng: np.random.Generator, cell: Cell, body: FloatArray, middle: FloatArray) -> FloatArray:
    """Draw the dye around the nucleus: mottled, darker at the edge, pale beside the nucleus."""
    diameter, size = cell.diameter, (body.shape[0], body.shape[1])
    mottled = 1 + 0.14 * texture(rng, size, 0.03 * diameter) + 0.13 * texture(rng, size, 0.16 * diameter)
    edge = 0.85 + 0.35 * np.exp(-_depth(body) / (0.07 * diameter))
    pale = _bump(size, -0.35 * middle, 0.27 * diameter) * cell.look.halo
    amount = rng.uniform(*cell.look.strength) * np.clip(mottled, 0.4, 1.8) * edge * (1 - pale)
    return np.asarray(amount, np.float32)


def _chromatin(rng: np.random.Generator, cell: Cell, nucleus: FloatArray) -> FloatArray:
    """Draw the dye in the nucleus: dark clumps, pink gaps between them, a dark edge."""
    grain, size = 0.06 * cell.diameter * rng.uniform(0.8, 1.3), (nucleus.shape[0], nucleus.shape[1])
    clumps = np.tanh(0.9 * texture(rng, size, grain) + 0.5 * texture(rng, size, 0.45 * grain) + 0.5)
    edge = np.exp(-_depth(nucleus) / (0.025 * cell.diameter))
    clumps = np.maximum(clumps, 1.6 * edge - 0.8)
    amount = rng.uniform(*cell.look.strength) * (0.85 + 0.24 * clumps)
    return np.asarray(cv2.merge([amount, 0.06 + 0.08 * clumps, 0.35 - 0.3 * clumps]), np.float32)


def _mixed(amount: FloatArray, dye: Dye) -> FloatArray:
    """Take amounts of three dyes together."""
    return np.asarray(cv2.merge([amount * np.float32(share) for share in dye]), np.float32)


def _bump(shape: tuple[int, int], middle: FloatArray, sigma: float) -> FloatArray:
    """Draw a Gaussian hill of height 1, `middle` (y, x) px from the centre of the patch."""
    y = np.arange(shape[0], dtype=np.float32)[:, None] - shape[0] // 2 - middle[0]
    x = np.arange(shape[1], dtype=np.float32)[None, :] - shape[1] // 2 - middle[1]
    return np.asarray(np.exp(-(y * y + x * x) / (2 * sigma * sigma)), np.float32)


def _depth(cover: FloatArray) -> FloatArray:
    """Compute the distance of each px from the outside, in px."""
    return np.asarray(cv2.distanceTransform((cover >= 0.5).astype(np.uint8), cv2.DIST_L2, 3), np.float32)


def _overlap(
    shape: tuple[int, ...], centre: Range, half: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Clip a patch of side ``2 * half + 1``: its slices in the image, and the part of it inside the image."""
    first = [round(middle) - half for middle in centre]
    start = [min(max(low, 0), length) for low, length in zip(first, shape, strict=False)]
    stop = [min(max(low + 2 * half + 1, 0), length) for low, length in zip(first, shape, strict=False)]
    here = (slice(start[0], stop[0]), slice(start[1], stop[1]))
    there = (slice(start[0] - first[0], stop[0] - first[0]), slice(start[1] - first[1], stop[1] - first[1]))
    return here, there


def _outline(rng: np.random.Generator, radius: float, wobble: float, stretch: float) -> FloatArray:
    """Draw a closed, smooth, roughly round line around (0, 0)."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    order = np.arange(2, 8)
    size = rng.normal(0, wobble, order.size) * 1.6 / order
    waves = size * np.cos(np.outer(angle, order) + rng.uniform(0, 2 * np.pi, order.size))
    distance = radius * np.clip(1 + waves.sum(1), 0.55, 1.6)
    tilt = rng.uniform(0, np.pi)
    long, short = distance * np.cos(angle) * math.sqrt(stretch), distance * np.sin(angle) / math.sqrt(stretch)
    points = (long * np.sin(tilt) + short * np.cos(tilt), long * np.cos(tilt) - short * np.sin(tilt))
    return np.stack(points, axis=1).astype(np.float32)


def _filled(outlines: list[FloatArray], half: int) -> FloatArray:
    """Fill outlines, with an edge of one px."""
    cover = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    for points in outlines:
        fixed = np.round((points[:, ::-1] + half) * 16).astype(np.int32)
        cv2.fillPoly(cover, [fixed], 255, lineType=cv2.LINE_AA, shift=4)
    return cover.astype(np.float32) / np.float32(255)
