"""Augmentation: one map for image and mask, colours for the image alone, the same from the same seed."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    PreprocessingConfig,
    RotateConfig,
    SharpenConfig,
    ShearConfig,
    StainConfig,
    TrainConfig,
    UNetConfig,
    WarpConfig,
    ZoomConfig,
    augmenting,
)
from tiledseg.data import CropSampler, Pair, prepare_pair
from tiledseg.errors import ArrayError, SettingError
from tiledseg.preprocess import prepare

GEOMETRIC = [
    FlipConfig(),
    RotateConfig(),
    RotateConfig(angles=(17.0, 90.0)),
    ZoomConfig(factors=(0.5, 2.0), stretch=1.5),
    ShearConfig(degrees=(15.0, 20.0)),
    ElasticConfig(alpha=150.0, sigma=8.0),
    WarpConfig(magnitude=0.1, sigma=10.0),
    LensConfig(amounts=(0.3, 0.3)),
    LensConfig(amounts=(-0.3, -0.3)),
]
PHOTOMETRIC = [
    BrightnessConfig(),
    ContrastConfig(),
    GammaConfig(),
    HueConfig(),
    StainConfig(),
    BlurConfig(probability=1.0),
    SharpenConfig(probability=1.0),
    NoiseConfig(probability=1.0),
    JpegConfig(probability=1.0),
]
WITHOUT_EFFECT = [
    FlipConfig(horizontal=0.0, vertical=0.0),
    RotateConfig(most=0.0),
    RotateConfig(angles=(0.0,)),
    ZoomConfig(factors=(1.0, 1.0)),
    ShearConfig(degrees=(0.0, 0.0)),
    ElasticConfig(alpha=0.0),
    WarpConfig(magnitude=0.0),
    LensConfig(amounts=(0.0, 0.0)),
    BrightnessConfig(gains=(1.0, 1.0), offsets=(0.0, 0.0)),
    ContrastConfig(factors=(1.0, 1.0)),
    GammaConfig(gammas=(1.0, 1.0)),
    HueConfig(degrees=(0.0, 0.0), saturations=(1.0, 1.0)),
    StainConfig(factors=(1.0, 1.0), shifts=(0.0, 0.0), tilt=0.0),
    BlurConfig(sigmas=(0.0, 0.0), probability=1.0),
    SharpenConfig(amounts=(0.0, 0.0), probability=1.0),
    NoiseConfig(sigmas=(0.0, 0.0), probability=1.0),
]


def named(config):
    return config.name


def sampler(image, mask=None, transforms=(), shape=None, **options):
    """Take crops of one image; by default of its own size."""
    mask = np.zeros(image.shape[:2], np.uint8) if mask is None else mask
    channels = image.shape[2]
    config = PreprocessingConfig(dtype=str(image.dtype), channels=channels)
    pair = prepare_pair(Pair("one", image, mask), config, classes=options.get("classes", 1))
    return CropSampler([pair], shape or mask.shape, length=64, transforms=transforms, **options)


def crop(image, mask=None, transforms=(), shape=None, place=0, **options):
    images, masks = sampler(image, mask, transforms, shape, **options).batch(0, [place])
    return images[0], masks[0]


def places(height, width):
    """Make an image whose two channels say where each px is, counted from the image's middle."""
    y, x = np.indices((height, width), np.float32)
    return np.stack([y - (height - 1) / 2, x - (width - 1) / 2], axis=-1)


def photo(height=48, width=64, seed=0):
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.random((height, width, 3), np.float32), (0, 0), 2)
    noise = (noise - noise.min()) / np.ptp(noise)
    return np.rint(40 + 170 * noise).astype(np.uint8)


def blobs(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return (cv2.GaussianBlur(rng.random((height, width), np.float32), (0, 0), 3) > 0.5).astype(np.uint8)


def moved(transform, height=96, width=96, place=0):
    """Say where the px of a crop in the middle of a large image come from, from the crop's middle."""
    image, mask = places(5 * height, 5 * width), np.zeros((5 * height, 5 * width), np.uint8)
    mask[mask.shape[0] // 2, mask.shape[1] // 2] = 1
    prepared = sampler(image, mask, [transform], (height, width), foreground_share=1.0)
    still = sampler(image, mask, (), (height, width), foreground_share=1.0)
    return prepared.batch(0, [place])[0][0] - still.batch(0, [place])[0][0].mean(axis=(0, 1))


# --- image and mask move together ---------------------------------------------------------------


@pytest.mark.parametrize("transform", GEOMETRIC, ids=named)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_an_image_that_shows_its_mask_still_does(transform, height, width, seed):
    mask = blobs(height, width, seed)
    image, moved_mask = crop(mask[..., None] * np.uint8(255), mask, [transform], (32, 40), seed=seed)
    certain = (image == 0) | (image == 1)  # all px around are alike
    assert np.array_equal(image[certain], moved_mask[certain])
    assert np.abs(image - moved_mask).max(initial=0) <= 0.75 + 0.02  # the nearest px has the most weight


def test_image_and_mask_move_together_under_all_transforms():
    mask = blobs(150, 180)
    for place in range(20):
        image, moved_mask = crop(mask[..., None] * np.uint8(255), mask, GEOMETRIC, (64, 64), place)
        certain = (image == 0) | (image == 1)
        assert np.array_equal(image[certain], moved_mask[certain])
        assert certain.mean() > 0.5


@pytest.mark.parametrize("transform", GEOMETRIC, ids=named)
def test_masks_keep_their_labels(transform):
    labels = np.array([0, 2, 5], np.uint8)[np.random.default_rng(0).integers(0, 3, (60, 60))]
    _, masks = sampler(photo(60, 60), labels, [transform], (40, 40), classes=6).batch(0, range(12))
    assert (masks.sum(axis=-1) == 1).all()
    assert set(np.unique(masks.argmax(axis=-1))) == {0, 2, 5}


@pytest.mark.parametrize("transform", PHOTOMETRIC, ids=named)
def test_no_change_of_colours_touches_a_mask(transform):
    mask = blobs(48, 64)
    moving = [RotateConfig(), ElasticConfig(alpha=100.0, sigma=6.0)]
    plain = sampler(photo(), mask, moving).batch(0, range(8))
    coloured = sampler(photo(), mask, [*moving, transform]).batch(0, range(8))
    assert np.array_equal(plain[1], coloured[1])
    assert not np.array_equal(plain[0], coloured[0])


@pytest.mark.parametrize("transform", [*GEOMETRIC, *PHOTOMETRIC], ids=named)
def test_each_transform_has_an_effect(transform):
    image = photo()
    plain, _ = crop(image)
    images, _ = sampler(image, transforms=[transform]).batch(0, range(8))
    assert np.abs(images - plain).max() > 0.01


@pytest.mark.parametrize("transform", WITHOUT_EFFECT, ids=named)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_neutral_settings_change_nothing(transform, dtype):
    image = photo() if dtype == "uint8" else (photo().astype(np.uint16) * 257)
    image = (image / np.float32(65535)).astype(np.float32) if dtype == "float32" else image
    image[:2] = 0  # the ends of the range are the hard ones
    image[-2:] = 1 if dtype == "float32" else np.iinfo(dtype).max
    mask = blobs(48, 64)
    (plain, plain_mask), (image, moved_mask) = crop(image, mask), crop(image, mask, [transform])
    exact = dtype == "uint8"
    assert np.abs(image - plain).max() <= (0 if exact else 1e-5)
    assert np.array_equal(plain_mask, moved_mask)


@pytest.mark.parametrize("transform", [*GEOMETRIC, *PHOTOMETRIC], ids=named)
def test_a_transform_of_probability_zero_is_never_applied(transform):
    if transform.name == "flip":
        return
    image = photo()
    images, _ = sampler(image, transforms=[transform.changed(probability=0.0)]).batch(0, range(8))
    assert (images == crop(image)[0]).all()


@pytest.mark.parametrize("transform", [ShearConfig(), StainConfig()], ids=named)
def test_probabilities_are_shares_of_the_crops(transform):
    image = photo(16, 16)
    images, _ = sampler(image, transforms=[transform.changed(probability=0.5)]).batch(0, range(64))
    changed = (images != crop(image)[0]).any(axis=(1, 2, 3)).mean()
    assert 0.3 < changed < 0.7


# --- where px come from -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (32, 48), (31, 31)])
@pytest.mark.parametrize(("angle", "quarters"), [(0.0, 0), (90.0, 1), (180.0, 2), (270.0, 3), (-90.0, 3)])
def test_quarter_turns_are_exact_and_anticlockwise(angle, quarters, shape):
    if quarters % 2 and shape[0] != shape[1]:
        return
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    turned, _ = crop(image, transforms=[RotateConfig(angles=(angle,))])
    assert np.array_equal(turned, crop(np.ascontiguousarray(np.rot90(image, quarters)))[0])


def test_flips_are_exact():
    image = photo()
    for setting, expected in (({"vertical": 0.0}, image[:, ::-1]), ({"horizontal": 0.0}, image[::-1])):
        flip = FlipConfig(**({"horizontal": 1.0, "vertical": 1.0} | setting))
        assert np.array_equal(crop(image, transforms=[flip])[0], crop(np.ascontiguousarray(expected))[0])


def test_a_rotation_turns_by_its_angle():
    source = moved(RotateConfig(angles=(30.0,)))
    right, down = (source[48, 80] - source[48, 16]) / 64, (source[80, 48] - source[16, 48]) / 64
    assert np.allclose(right, (math.sin(math.pi / 6), math.cos(math.pi / 6)), atol=2e-3)
    assert np.allclose(down, (math.cos(math.pi / 6), -math.sin(math.pi / 6)), atol=2e-3)
    assert np.abs(source.mean(axis=(0, 1))).max() < 0.05


def test_any_angle_is_drawn_within_the_limit():
    def angle(place):
        source = moved(RotateConfig(most=50.0), place=place)
        return math.degrees(math.atan2(*(source[48, 80] - source[48, 16])))

    angles = np.array([angle(place) for place in range(40)])
    assert np.abs(angles).max() <= 50.1
    assert angles.min() < -25
    assert angles.max() > 25


def test_a_zoom_enlarges_about_the_middle():
    source = moved(ZoomConfig(factors=(2.0, 2.0)))
    assert np.allclose(source, places(96, 96) / 2, atol=0.04)
    source = moved(ZoomConfig(factors=(0.5, 0.5)))
    assert np.allclose(source, places(96, 96) * 2, atol=0.04)


def test_a_stretch_keeps_the_area():
    for place in range(20):
        source = moved(ZoomConfig(factors=(1.0, 1.0), stretch=2.0), place=place)
        tall, wide = source[80, 48, 0] - source[16, 48, 0], source[48, 80, 1] - source[48, 16, 1]
        assert tall * wide == pytest.approx(64**2, rel=2e-3)
        assert 0.5 - 1e-3 <= tall / wide <= 2 + 4e-3


def test_a_shear_slants_along_one_axis():
    slants = set()
    for place in range(20):
        source = moved(ShearConfig(degrees=(20.0, 20.0)), place=place)
        off = (source - places(96, 96))[0, 0] / places(96, 96)[0, 0, 0]
        slants.add(tuple(round(abs(float(value)), 2) for value in off))
    tan = round(math.tan(math.radians(20)), 2)
    assert slants == {(tan, 0.0), (0.0, tan)}


def test_the_largest_shift_of_a_warp_is_its_magnitude():
    warp = WarpConfig(magnitude=0.1, sigma=12.0)
    shifts = np.stack([moved(warp, place=place) - places(96, 96) for place in range(10)])
    heights = np.abs(shifts).max(axis=(1, 2, 3))
    assert heights.max() <= 9.6 + 1 / 32
    assert heights.mean() > 0.9 * 9.6
    assert np.abs(np.diff(shifts, axis=1)).max() < 1  # smooth: as a Gaussian's slope allows


def test_an_elastic_field_equals_smoothed_noise():
    shifts = np.stack([moved(ElasticConfig(alpha=100.0, sigma=8.0), place=p) for p in range(30)])
    shifts -= places(96, 96)
    spread = 100 / (math.sqrt(3) * 2 * 8 * math.sqrt(math.pi))  # of uniform noise under a Gaussian
    inside = shifts[:, 24:-24, 24:-24]
    assert inside.std() == pytest.approx(spread, rel=0.1)
    apart = (inside[:, 8:] * inside[:, :-8]).mean() / (inside**2).mean()
    assert apart == pytest.approx(math.exp(-0.25), abs=0.07)  # the autocorrelation at one sigma


@pytest.mark.parametrize("amount", [0.3, -0.3])
def test_a_lens_follows_its_formula(amount):
    lens = LensConfig(amounts=(amount, amount), radius=0.4, centres=((0.5, 0.5),))
    source, at = moved(lens), places(96, 96)
    distance, found = np.hypot(*np.moveaxis(at, -1, 0)), np.hypot(*np.moveaxis(source, -1, 0))
    disc = 0.4 * 96
    expected = distance * np.sin(np.pi / 2 * np.minimum(distance / disc, 1)) ** amount
    off_middle = distance > 4
    assert np.abs(found - expected)[off_middle].max() < 0.25
    assert np.abs(source - at)[distance > disc + 2].max() < 0.05
    assert (found < distance)[(distance > 4) & (distance < 30)].all() == (amount > 0)


def test_a_lens_lies_on_each_of_its_centres():
    found = set()
    for place in range(40):
        shift = np.abs(moved(LensConfig(amounts=(0.5, 0.5), radius=0.2), place=place) - places(96, 96)).sum(
            -1
        )
        y, x = (np.average(axis, weights=shift) for axis in np.indices(shift.shape))
        found.add((round(y / 96, 1), round(x / 96, 1)))
    assert found == {(0.5, 0.5), (0.3, 0.3), (0.3, 0.7), (0.7, 0.3), (0.7, 0.7)}


def test_transforms_act_in_their_order():
    def through(*transforms):
        return moved_by(transforms)[48, 80] - moved_by(transforms)[48, 16]

    def moved_by(transforms):
        return crop(places(288, 288), None, transforms, (96, 96), foreground_share=0.0)[0]

    turn, shrink = RotateConfig(angles=(90.0,)), ZoomConfig(factors=(1.0, 1.0), stretch=2.0)
    first, then = through(turn, shrink), through(shrink, turn)
    assert abs(np.linalg.norm(first) - np.linalg.norm(then)) > 1  # a stretch before or after a turn


def test_beyond_the_edge_the_image_is_mirrored():
    image = places(20, 20)
    small, _ = crop(image, transforms=[ZoomConfig(factors=(0.5, 0.5))])
    expected = np.array([np.abs(np.abs(2 * (i - 9.5)) - 0) for i in range(20)])
    folded = np.where(expected > 9.5, 19 - expected, expected)
    assert np.allclose(np.abs(small[:, 10, 0]), folded, atol=0.05)


@given(height=st.integers(1, 40), width=st.integers(1, 40), tall=st.integers(1, 90), wide=st.integers(1, 90))
def test_any_image_gives_crops_of_any_size(height, width, tall, wide):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    ways = [GEOMETRIC, [RotateConfig()], []]
    for transforms in ways:
        images, masks = sampler(image, None, transforms, (tall, wide)).batch(0, [0, 1])
        assert images.shape == (2, tall, wide, 3)
        assert masks.shape == (2, tall, wide, 1)
        assert image.min() / 255 - 1e-6 <= images.min() <= images.max() <= image.max() / 255 + 1e-6


# --- values ---------------------------------------------------------------------


@pytest.mark.parametrize(("most", "told"), [(4095, True), (65535, False)])
def test_images_that_use_little_of_their_range_are_told(most, told, caplog):
    image = np.random.default_rng(0).integers(0, most, (20, 20, 3), np.uint16, endpoint=True)
    image[0, 0] = most
    sampler(image, None, [NoiseConfig()], (16, 16))
    assert ("Values reach only 4095 of 65535" in caplog.text) == told
    assert ("noise of `augment` are shares of it" in caplog.text) == told
    caplog.clear()
    sampler(image, None, [FlipConfig()], (16, 16))
    assert ("Set `preprocessing.white`" in caplog.text) == told


def test_values_are_shares_of_the_white_that_is_set(caplog):
    image = np.random.default_rng(0).integers(0, 4095, (20, 20, 3), np.uint16, endpoint=True)
    transforms = [BrightnessConfig(gains=(1, 1), offsets=(0.5, 0.5), probability=1.0)]
    mask = np.zeros((20, 20), np.uint8)
    config = PreprocessingConfig(dtype="uint16", white=4095)
    pair = prepare_pair(Pair("a", image, mask), config)
    crops, _ = CropSampler([pair], (20, 20), transforms=transforms).batch(0, [0])
    np.testing.assert_allclose(crops[0], np.minimum(image / 4095 + 0.5, 1), atol=1 / 4095)
    assert not caplog.text
    with pytest.raises(ArrayError, match=r"up to `preprocessing.white`=4000; got 40"):
        prepare_pair(Pair("a", image, mask), config.changed(white=4000))


def test_brightening_is_a_line():
    image = photo()
    bright = BrightnessConfig(gains=(1.2, 1.2), offsets=(10 / 255, 10 / 255))
    expected = np.minimum(np.rint(1.2 * image.astype(float) + 10), 255) / 255
    assert np.abs(crop(image, transforms=[bright])[0] - expected).max() < 1e-6


def test_contrast_keeps_the_mean_of_each_channel():
    image = photo().astype(np.float32) / 255
    flat, _ = crop(image, transforms=[ContrastConfig(factors=(0.5, 0.5))])
    assert np.allclose(flat.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=1e-5)
    assert np.allclose(flat.std(axis=(0, 1)), image.std(axis=(0, 1)) / 2, atol=1e-5)


def test_gamma_is_a_power():
    image = photo().astype(np.float32) / 255
    assert np.allclose(crop(image, transforms=[GammaConfig(gammas=(2.0, 2.0))])[0], image**2, atol=1e-5)


def test_hues_turn_and_grey_stays():
    luma = np.array([0.299, 0.587, 0.114])
    image = np.full((4, 4, 3), (0.5, 0.3, 0.3), np.float32)
    turned, _ = crop(image, transforms=[HueConfig(degrees=(120.0, 120.0), saturations=(1.0, 1.0))])
    assert turned[0, 0].argmax() == 1  # from red to green
    assert turned[0, 0] @ luma == pytest.approx(image[0, 0] @ luma, abs=1e-5)
    grey, _ = crop(image, transforms=[HueConfig(saturations=(0.0, 0.0))])
    assert np.allclose(grey, image[0, 0] @ luma, atol=1e-5)
    plain = np.full((4, 4, 3), 0.4, np.float32)
    assert np.allclose(crop(plain, transforms=[HueConfig(degrees=(90.0, 90.0))])[0], 0.4, atol=1e-5)


def test_more_of_a_stain_is_more_of_its_optical_density():
    stains = np.eye(3) * 0.9 + 0.1
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    density = stains[0] * 0.3
    image = np.full((4, 4, 3), 10**-density, np.float32)
    more = StainConfig(stains=stains.tolist(), factors=(1.5, 1.5), shifts=(0.0, 0.0), tilt=0.0)
    expected = (10**-density + 1 / 256) ** 1.5 - 1 / 256
    assert np.allclose(crop(image, transforms=[more])[0], expected, atol=1e-5)


def test_each_crop_has_different_stains():
    image = photo()
    tilted = StainConfig(factors=(1.0, 1.0), shifts=(0.0, 0.0), tilt=0.1)
    images, _ = sampler(image, transforms=[tilted]).batch(0, range(8))
    assert len(np.unique(images.mean(axis=(1, 2)).round(4), axis=0)) == 8


def test_a_blur_has_its_width():
    image = np.zeros((41, 41, 1), np.float32)
    image[20, 20] = 1
    spot, _ = crop(image, transforms=[BlurConfig(sigmas=(2.0, 2.0), probability=1.0)])
    off = np.arange(41) - 20
    assert spot.sum() == pytest.approx(1, abs=1e-4)
    assert (spot[..., 0].sum(axis=0) * off**2).sum() == pytest.approx(4, rel=0.05)


def test_sharpening_undoes_part_of_a_blur():
    image = photo(seed=3).astype(np.float32) / 255
    blurred = cv2.GaussianBlur(image, (0, 0), 1)
    sharpen = SharpenConfig(amounts=(0.8, 0.8), probability=1.0)
    sharp, _ = crop(blurred, transforms=[sharpen])
    assert np.abs(sharp - image).mean() < np.abs(blurred - image).mean()
    assert np.allclose(sharp.mean(), image.mean(), atol=2e-3)


def test_noise_has_its_spread():
    image = np.full((64, 64, 3), 0.5, np.float32)
    noisy, _ = crop(image, transforms=[NoiseConfig(sigmas=(0.1, 0.1), probability=1.0)])
    assert noisy.std() == pytest.approx(0.1, rel=0.05)
    assert noisy.mean() == pytest.approx(0.5, abs=0.005)
    assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 0.05


def test_jpeg_equals_the_output_of_the_codec():
    image = photo()
    lossy, _ = crop(image, transforms=[JpegConfig(qualities=(50, 50), probability=1.0)])
    code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    assert np.abs(lossy * 255 - cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1]).max() < 1e-3
    deep = np.random.default_rng(0).integers(20_000, 40_000, (48, 64, 3), np.uint16)
    assert np.unique(crop(deep, transforms=[JpegConfig(probability=1.0)])[0]).size > 256  # its depth stays


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_any_dtype_and_any_number_of_channels(dtype, channels):
    image = np.random.default_rng(0).random((40, 40, channels), np.float32)
    if dtype != "float32":
        image = (image * np.iinfo(dtype).max).astype(dtype)
    transforms = [
        one.changed(probability=1.0) if one.name != "flip" else one for one in augmenting("default", channels)
    ]
    images, _ = sampler(image, None, transforms, (24, 32)).batch(0, range(4))
    assert images.shape == (4, 24, 32, channels)
    assert images.dtype == np.float32
    assert np.isfinite(images).all()
    if dtype != "float32":
        assert 0 <= images.min() <= images.max() <= 1
    assert images.std() > 0.01


EXTREMES = [
    ZoomConfig(factors=(0.1, 0.1), stretch=4.0),
    ZoomConfig(factors=(10.0, 10.0)),
    ShearConfig(degrees=(60.0, 60.0)),
    ElasticConfig(alpha=1300.0, sigma=8.0),
    ElasticConfig(alpha=1e6, sigma=1.0),
    ElasticConfig(alpha=1e6, sigma=1e3),
    WarpConfig(magnitude=1.0, sigma=1.0),
    WarpConfig(magnitude=1.0, sigma=1e3),
    LensConfig(amounts=(0.9, 0.9), radius=2.0),
    LensConfig(amounts=(-0.9, -0.9), radius=0.01),
    BrightnessConfig(gains=(10.0, 10.0), offsets=(1.0, 1.0)),
    BrightnessConfig(gains=(0.0, 0.0), offsets=(-1.0, -1.0)),
    ContrastConfig(factors=(0.0, 0.0)),
    ContrastConfig(factors=(10.0, 10.0)),
    GammaConfig(gammas=(0.1, 0.1)),
    GammaConfig(gammas=(10.0, 10.0)),
    HueConfig(degrees=(180.0, 180.0), saturations=(4.0, 4.0)),
    StainConfig(factors=(4.0, 4.0), shifts=(1.0, 1.0), tilt=0.5),
    StainConfig(factors=(4.0, 4.0), shifts=(-1.0, -1.0), tilt=0.5),
    BlurConfig(sigmas=(50.0, 50.0), probability=1.0),
    SharpenConfig(amounts=(10.0, 10.0), sigma=50.0, probability=1.0),
    NoiseConfig(sigmas=(1.0, 1.0), probability=1.0),
    JpegConfig(qualities=(1, 1), probability=1.0),
]


@pytest.mark.parametrize("transform", EXTREMES, ids=named)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_ends_of_every_range_give_images(transform, dtype):
    image = photo(33, 47)
    image[:3], image[-3:] = 0, 255
    image = image if dtype == "uint8" else (image / np.float32(255)).astype(np.float32)
    mask = blobs(33, 47)
    later = [RotateConfig(), StainConfig(), GammaConfig(), NoiseConfig(probability=1.0)]
    images, masks = sampler(image, mask, [transform, *later], (40, 40)).batch(0, range(8))
    assert np.isfinite(images).all()
    assert set(np.unique(masks)) <= {0.0, 1.0}
    assert dtype == "float32" or 0 <= images.min() <= images.max() <= 1


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [HueConfig(), StainConfig()], ids=named)
def test_colours_of_an_image_without_any_are_refused(transform):
    with pytest.raises(ArrayError, match=f"one. must be RGB for the transforms {transform.name}; got 1 ch"):
        sampler(photo()[..., :1], transforms=[transform])
    network = UNetConfig(input_shape=(None, None, 1), levels=3)
    with pytest.raises(SettingError, match=rf"`augment` must do without {transform.name}.*with 1 channels"):
        TrainConfig(network=network, preprocessing=PreprocessingConfig(channels=1), augment=(transform,))


def test_the_default_for_grey_images_has_no_colours():
    network = UNetConfig(input_shape=(None, None, 1), levels=3)
    grey = TrainConfig(network=network, preprocessing=PreprocessingConfig(channels=1))
    names = {one.name for one in TrainConfig().transforms}
    assert names - {one.name for one in grey.transforms} == {"hue", "stain"}


@pytest.mark.parametrize("transform", [GammaConfig(), JpegConfig()], ids=named)
def test_floats_of_another_range_are_refused_where_one_is_needed(transform):
    image = photo().astype(np.float32)
    with pytest.raises(ArrayError, match=rf"values in \[0, 1\] for the transforms {transform.name}; got"):
        sampler(image, transforms=[transform])
    images, _ = sampler(image, transforms=[BrightnessConfig(), BlurConfig(), *GEOMETRIC]).batch(0, [0])
    assert images.max() > 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ("all", "augment.*'default', 'flips', 'founding' or 'none'; got all"),
        (True, "augment"),
        ([{"name": "flp"}], r"augment\.name` must be a known name; got flp\. Did you mean `flip`"),
        ([{"probability": 0.5}], r"augment\.name` must be a known name; got nothing\. Known: blur, "),
        ([{"name": "flip", "horizontel": 1.0}], "horizontel.*Did you mean `horizontal`"),
        ([{"name": "rotate", "angles": [90, "180"]}], r"RotateConfig\.angles.*180"),
        ([{"name": "zoom", "factors": [1.5, 0.5]}], r"factors.*in this order.*Use \(0\.5, 1\.5\)"),
        ([{"name": "zoom", "factors": [0.0, 0.5]}], r"factors.*lie in \[0\.1, 10\]"),
        ([{"name": "shear", "probability": 1.5}], r"ShearConfig\.probability.*1\.5"),
        ([{"name": "stain", "stains": [[1, 0, 0], [0, 1, 0]]}], r"StainConfig\.stains"),
        ([{"name": "stain", "stains": [[1, 0, 0], [0, 1, 0], [1, 1, 0]]}], r"stains.*not in one plane"),
        ([{"name": "jpeg", "qualities": [50, 101]}], r"qualities.*100"),
        ([{"name": "jpeg", "qualities": [90, 50]}], r"qualities.*in this order"),
        ([{"name": "lens", "centres": []}], r"LensConfig\.centres"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, text):
    with pytest.raises(SettingError, match=text):
        TrainConfig(augment=settings)


def test_settings_survive_json_and_toml():
    config = TrainConfig(augment=(*GEOMETRIC, *PHOTOMETRIC))
    assert TrainConfig.from_json(config.to_json()) == config
    text = '[[augment]]\nname = "rotate"\nangles = [90, 180]\n\n[[augment]]\nname = "jpeg"\n'
    assert TrainConfig.from_toml(text).transforms == (RotateConfig(angles=(90, 180)), JpegConfig())
    assert TrainConfig(augment=()).transforms == TrainConfig(augment="none").transforms == ()


def test_the_founding_set_has_all_of_the_experiments_transforms():
    founding = {(one.name, one) for one in augmenting("founding", 3)}
    names = {name for name, _ in founding}
    assert names == {"flip", "rotate", "zoom", "shear", "elastic", "warp", "lens", "sharpen", "brightness"}
    by_name = dict(founding)
    assert (by_name["elastic"].alpha, by_name["elastic"].sigma) == (1300, 8)
    assert (by_name["warp"].magnitude, by_name["warp"].sigma) == (0.02, 40)
    assert {one.amounts for _, one in founding if one.name == "lens"} == {(0.3, 0.3), (-0.3, -0.3)}


# --- the same from the same seed ----------------------------------------------------------------


def test_crops_do_not_depend_on_how_they_are_asked_for():
    image, mask = photo(90, 120), blobs(90, 120)
    transforms = [*augmenting("default", 3), *GEOMETRIC]
    whole = sampler(image, mask, transforms, (40, 40), seed=5).batch(3, range(24))
    other = sampler(image, mask, transforms, (40, 40), seed=5)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda place: other.batch(3, [place]), reversed(range(24))))
    for which in (0, 1):
        together = np.concatenate([part[which] for part in reversed(parts)])
        assert np.array_equal(together, whole[which])


def test_crops_do_not_depend_on_the_threads_of_opencv():
    image, mask = photo(190, 220), blobs(190, 220)
    transforms = [*augmenting("default", 3), *GEOMETRIC]
    threads = cv2.getNumThreads()
    try:
        found = []
        for number in (1, 4):
            cv2.setNumThreads(number)
            found.append(sampler(image, mask, transforms, (160, 160), seed=5).batch(3, range(16)))
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


def test_epochs_and_seeds_differ():
    image = photo(90, 120)
    transforms = augmenting("default", 3)
    one = sampler(image, None, transforms, (40, 40), seed=5).batch(3, range(4))[0]
    for seed, epoch in ((5, 4), (6, 3)):
        assert not np.array_equal(
            sampler(image, None, transforms, (40, 40), seed=seed).batch(epoch, range(4))[0], one
        )


def test_images_are_never_changed():
    image, mask = photo(), blobs(48, 64)
    before = image.copy(), mask.copy()
    for transforms in (augmenting("default", 3), augmenting("founding", 3), ()):
        sampler(image, mask, transforms, (32, 32)).batch(0, range(16))
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_crops_are_prepared_as_for_prediction(scale):
    config = PreprocessingConfig(scale=scale, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    image = photo(64, 80)
    pair = prepare_pair(Pair("one", image, blobs(64, 80)), config)
    exact = np.asarray(prepare(image, config))
    images, _ = CropSampler([pair], exact.shape[:2], length=1).batch(0, [0])
    rounding = 0.0 if scale == 1 else 0.5 / 255 / 0.2  # shrunk px are rounded to their dtype
    assert np.abs(images[0] - exact).max() <= rounding * (1 + 1e-5)
