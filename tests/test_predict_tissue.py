"""Tissue on drawn slides of twenty kinds: the share of its px that is computed, and of all others."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import tiledseg as ts

SIDE = 700
TILING = {"tile_size": 16, "overlap": 0}


def smooth(rng, grain):
    """Draw smooth noise of standard deviation 1."""
    noise = cv2.GaussianBlur(rng.standard_normal((SIDE // grain + 2, SIDE // grain + 2)), (0, 0), 1.0)
    return cv2.resize(noise / noise.std(), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def pieces(*ellipses):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for centre, axes, angle in ellipses:
        cv2.ellipse(mask, centre, axes, angle, 0, 360, 1, -1)
    return mask > 0


TWO = pieces(((250, 300), (110, 80), 30), ((450, 450), (75, 100), 70))


def slide(rng, mask=TWO, tissue=(200, 150, 190), nuclei=(120, 70, 150), light=(243, 242, 244), noise=3.0):
    """Draw stained tissue with nuclei on an empty slide."""
    image = np.full((SIDE, SIDE, 3), light, np.float32)
    depth = np.clip(0.9 + 0.15 * smooth(rng, 20)[..., None], 0.5, 1.3)
    stained = np.array(light) - (np.array(light) - tissue) * depth
    dots = (smooth(rng, 5) > 1.2)[..., None]
    image[mask] = np.where(dots, nuclei, stained)[mask]
    image += rng.normal(0, noise, image.shape)
    return image


def finished(image):
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def pen(image, colour, rng, *, noise=4.0):
    """Draw thick strokes, an arrow and a ring, beside the tissue."""
    layer = np.zeros((SIDE, SIDE), np.uint8)
    cv2.line(layer, (40, 60), (450, 80), 255, 14, cv2.LINE_AA)
    cv2.line(layer, (575, 100), (625, 650), 255, 11, cv2.LINE_AA)
    cv2.circle(layer, (125, 575), 60, 255, 9, cv2.LINE_AA)
    cover = layer[..., None] / 255
    return image * (1 - cover) + (np.array(colour) + rng.normal(0, noise, image.shape)) * cover


def border(image, rng, level, spread, tint=(0, 0, 0)):
    frame = np.array(level) + np.array(tint) + rng.normal(0, spread, image.shape)
    inside = np.zeros((SIDE, SIDE), bool)
    inside[30:-45, 75:-20] = True
    return np.where(inside[..., None], image, frame)


def coverslip(image, colour, width, turn=0.0):
    layer = np.zeros((SIDE, SIDE), np.uint8)
    points = cv2.boxPoints(((350, 360), (620, 590), turn)).astype(int)
    cv2.polylines(layer, [points], isClosed=True, color=255, thickness=width, lineType=cv2.LINE_AA)
    cover = layer[..., None] / 255
    return image * (1 - cover) + np.array(colour) * cover


def shaded(image):
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    return image * (1 - 0.25 * (y * y + x * x) / 2)[..., None]


def bubbles(image):
    image = image.copy()
    for centre, radius in (((100, 150), 45), ((600, 550), 30), ((500, 125), 60)):
        cv2.circle(image, centre, radius, (120, 121, 122), 5, cv2.LINE_AA)
    return image


def dusty(image, rng):
    image = image.copy()
    for x, y in rng.integers(0, SIDE, (60, 2)):
        cv2.circle(image, (int(x), int(y)), int(rng.integers(1, 3)), (35, 33, 30), -1, cv2.LINE_AA)
    return image


def jpeg(image):
    coded = cv2.imencode(".jpg", finished(image), [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR).astype(np.float32)


BROWN = {"tissue": (205, 185, 160), "nuclei": (125, 80, 50)}
BLUE = {"tissue": (185, 190, 215), "nuclei": (100, 105, 165)}
FAINT = {"tissue": (233, 220, 229), "nuclei": (205, 185, 205)}
STRONG = {"tissue": (215, 95, 150), "nuclei": (85, 50, 120)}
SMALL = pieces(((200, 250), (20, 12), 0), ((400, 350), (15, 22), 20), ((500, 500), (17, 17), 0))
CORE = pieces(((350, 350), (280, 14), 35))
ALMOST_ALL = pieces(((350, 350), (345, 340), 0))

KINDS = {
    "eosin and haematoxylin": slide,
    "immunohistochemistry": lambda r: slide(r, **BROWN),
    "blue counterstain": lambda r: slide(r, **BLUE),
    "faint": lambda r: slide(r, **FAINT, noise=2.0),
    "strong": lambda r: slide(r, **STRONG),
    "black border with noise": lambda r: border(slide(r), r, 8, 8),
    "dark tinted border": lambda r: border(slide(r), r, 14, 5, (6, 0, 10)),
    "grey border": lambda r: border(slide(r), r, 45, 9),
    "blue pen": lambda r: pen(slide(r), (40, 60, 170), r),
    "green pen": lambda r: pen(slide(r), (20, 120, 40), r),
    "red pen": lambda r: pen(slide(r), (200, 30, 35), r),
    "black pen": lambda r: pen(slide(r), (25, 25, 28), r),
    "yellow pen": lambda r: pen(slide(r), (235, 220, 60), r),
    "violet pen": lambda r: pen(slide(r), (110, 10, 160), r),
    "coverslip": lambda r: coverslip(slide(r), (165, 167, 168), 5),
    "turned tinted coverslip": lambda r: coverslip(slide(r), (176, 188, 190), 4, 3.0),
    "shading, pink light": lambda r: shaded(slide(r, light=(240, 226, 233))),
    "bubbles, dust, jpeg": lambda r: jpeg(dusty(bubbles(slide(r)), r)),
    "small pieces with a pen and a border": lambda r: border(
        pen(slide(r, SMALL), (30, 40, 120), r), r, 10, 10
    ),
    "a core and a coverslip": lambda r: coverslip(slide(r, CORE), (150, 150, 150), 6),
    "grey image": lambda r: slide(r).mean(axis=2),
    "tissue almost everywhere": lambda r: slide(r, ALMOST_ALL),
}
MASKS = dict.fromkeys(KINDS, TWO) | {
    "small pieces with a pen and a border": SMALL,
    "a core and a coverslip": CORE,
    "tissue almost everywhere": ALMOST_ALL,
}


SIMILAR = {
    "immunohistochemistry",
    "blue counterstain",
    "strong",
    "dark tinted border",
    "grey border",
    "black border with noise",
    "blue pen",
    "green pen",
    "red pen",
    "violet pen",
    "coverslip",
}
"""Kinds of which others are much alike."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in SIMILAR else ()) for kind in KINDS]
)
def test_tissue_is_computed_and_little_else(kind):
    image, tissue = finished(KINDS[kind](np.random.default_rng(0))), MASKS[kind]
    plan = ts.plan(lambda tiles: tiles[..., :1], image, TILING, roi="tissue")
    computed = np.zeros(tissue.shape, bool)
    for tile_id in np.flatnonzero(plan.in_roi):
        computed[plan.tile(tile_id).read_box.slices] = True
    assert computed[tissue].mean() >= 0.99
    assert computed[~tissue].mean() <= 0.2


@pytest.mark.parametrize("kind", ["plain", "black", "noise", "tint", "pen"])
def test_what_is_more_saturated_than_the_tissue_does_not_hide_it(kind):
    rng = np.random.default_rng(0)
    image = (242 + rng.integers(-3, 4, (500, 500, 3))).astype(np.uint8)
    image[150:350, 150:350] = np.array([205, 160, 190]) + rng.integers(-12, 13, (200, 200, 3))
    if kind == "black":
        image[:, :125] = 0
    elif kind == "noise":
        image[:, :13] = rng.integers(0, 4, (500, 13, 3))
    elif kind == "tint":
        image[:, :25] = (12, 7, 9)
    elif kind == "pen":
        image[25:100, 25:175] = (20, 120, 40)
    ones = ts.tiled_predict(lambda tiles: np.ones((*tiles.shape[:3], 1)), image, TILING, roi="tissue")
    assert (ones[150:350, 150:350] == 1).all()
    assert ones.mean() < 0.25


def test_tissue_is_found_where_white_is_less_than_the_largest_value():
    image = finished(slide(np.random.default_rng(0)))
    demo = ts.load_model("demo")
    eight = demo.changed(preprocessing=demo.preprocessing.changed(pixel_size=None, scale=1.0))
    twelve = demo.changed(preprocessing=eight.preprocessing.changed(dtype="uint16", white=4080))
    tiling = {"tile_size": 128}
    found = [
        ts.plan(model, pixels, tiling, roi="tissue").in_roi
        for model, pixels in ((eight, image), (twelve, image.astype(np.uint16) * 16))
    ]
    np.testing.assert_array_equal(*found)
    assert not found[0].all()
