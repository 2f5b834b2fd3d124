"""The one preparation of pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiledseg.config import PreprocessingConfig
from tiledseg.errors import ArrayError, SettingError
from tiledseg.preprocess import prepare


def noise(height=60, width=50, channels=3):
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)


def test_values_by_hand():
    config = PreprocessingConfig(mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.1))
    image = np.array([[[255, 51, 0]]], np.uint8)
    np.testing.assert_allclose(np.asarray(prepare(image, config)), [[[1, 0.2, -2]]], rtol=1e-6)
    deep = prepare(np.array([[65535]], np.uint16), PreprocessingConfig(dtype="uint16", channels=1))
    assert np.asarray(deep).item() == 1
    plain = prepare(np.array([[0.3]]), PreprocessingConfig(dtype="float32", channels=1))
    assert np.asarray(plain).item() == np.float32(0.3)


@given(st.integers(1, 70), st.integers(1, 70), st.floats(0.05, 1), st.data())
@settings(max_examples=150)
def test_shrinking_is_the_mean_of_the_area_whatever_region_is_asked(height, width, scale, data):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 2), np.uint8)
    prepared = prepare(image, PreprocessingConfig(channels=2, scale=scale))
    h, w, _ = prepared.shape
    assert (h, w) == (max(1, round(height * scale)), max(1, round(width * scale)))
    whole = np.asarray(prepared)
    opencv = cv2.resize(image.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA) / 255
    np.testing.assert_allclose(whole, opencv.reshape(h, w, 2), atol=1e-5)
    y0, x0 = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, h)), data.draw(st.integers(x0 + 1, w))
    np.testing.assert_allclose(prepared[y0:y1, x0:x1], whole[y0:y1, x0:x1], atol=1e-6)


def test_the_mean_of_an_image_survives_shrinking():
    image = noise()
    shrunk = np.asarray(prepare(image, PreprocessingConfig(scale=0.1)))
    np.testing.assert_allclose(shrunk.mean(axis=(0, 1)), image.mean(axis=(0, 1)) / 255, atol=1e-6)


def test_the_image_is_never_changed():
    image = noise()
    before = image.copy()
    np.asarray(prepare(image, PreprocessingConfig(scale=0.5)))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (noise().astype(np.uint16), "have dtype uint8, as the network was trained on; got uint16"),
        (noise().astype(np.float32), "got float32"),
        (noise().astype(bool), "got bool"),
        (noise(channels=4), r"drop it with image\[..., :3\]"),
        (noise()[..., 0], "numpy.repeat"),
        (np.moveaxis(noise(), -1, 0), r"reads as \(C, H, W\)"),
    ],
)
def test_other_images_than_the_network_was_trained_on_are_refused(image, message):
    with pytest.raises(ArrayError, match=message):
        prepare(image, PreprocessingConfig())


def test_the_hint_for_grey_images_works():
    grey = noise()[..., 0]
    with pytest.raises(ArrayError) as error:
        prepare(grey, PreprocessingConfig())
    hint = str(error.value).partition("with ")[2].rstrip(".")
    colour = eval(hint, {"numpy": np, "image": grey})
    assert prepare(colour, PreprocessingConfig()).shape == (60, 50, 3)


def test_nan_behind_a_scale_is_found_with_its_place():
    image = np.zeros((400, 30), np.float32)
    image[300, 7] = np.nan
    with pytest.raises(ArrayError, match=r"the first at \(y, x\) = \(300, 7\)"):
        np.asarray(prepare(image, PreprocessingConfig(dtype="float32", channels=1, scale=0.5)))


@pytest.mark.parametrize(
    "setting",
    [
        {"scale": 0.0},
        {"scale": 1.5},
        {"std": (0.0,)},
        {"mean": (1.0, 2.0)},
        {"dtype": "int8"},
        {"channels": 0},
    ],
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(SettingError, match=next(iter(setting))):
        PreprocessingConfig(**setting)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_percentiles_of_the_whole_image_become_0_and_1(dtype, channels):
    rng = np.random.default_rng(0)
    image = (rng.normal(0.4, 0.1, (700, 4500, channels)).clip(0, 1) * np.iinfo(dtype).max).astype(dtype)
    config = PreprocessingConfig(dtype=dtype, channels=channels, percentiles=(1.0, 99.5))
    low, high = (
        np.percentile(image, q, axis=(0, 1), method="inverted_cdf").astype(np.float64) for q in (1, 99.5)
    )
    expected = (image - low) / (high - low)
    prepared = prepare(image, config)
    np.testing.assert_allclose(prepared[0:700, 0:4500], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(prepared[600:640, 90:95], np.asarray(prepared)[600:640, 90:95])


def test_percentiles_come_before_mean_and_std_and_survive_a_flat_channel():
    image = np.full((20, 30, 1), 7, np.uint8)
    config = PreprocessingConfig(channels=1, percentiles=(0.0, 100.0), mean=(0.5,), std=(2.0,))
    np.testing.assert_allclose(np.asarray(prepare(image, config)), -0.25)
    image[:10] = 9
    np.testing.assert_allclose(np.unique(np.asarray(prepare(image, config))), [-0.25, 0.25])


@pytest.mark.parametrize("percentiles", [(99.0, 1.0), (5.0,), (0.0, 101.0)])
def test_percentiles_that_do_not_rise_are_refused(percentiles):
    with pytest.raises(SettingError, match="percentiles"):
        PreprocessingConfig(percentiles=percentiles)


def test_percentiles_of_floats_are_refused():
    with pytest.raises(SettingError, match="uint8 or uint16, of which they are exact"):
        PreprocessingConfig(dtype="float32", percentiles=(1.0, 99.0))
