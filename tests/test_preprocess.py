"""The preparation of pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiledseg.config import PreprocessingConfig
from tiledseg.errors import ArrayError, SettingError, StitchError
from tiledseg.preprocess import ResizingSink, prepare, shrunk


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
def test_shrinking_is_the_mean_of_the_area_in_any_region(height, width, scale, data):
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


def test_shrinking_preserves_the_mean_of_an_image():
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
        (noise().astype(np.uint16), "dtype uint8.*got uint16"),
        (noise().astype(np.float32), "got float32"),
        (noise().astype(bool), "got bool"),
        (noise(channels=4), r"drop it with image\[..., :3\]"),
        (noise()[..., 0], "numpy.repeat"),
        (np.moveaxis(noise(), -1, 0), r"\(C, H, W\)"),
    ],
)
def test_images_of_another_dtype_or_channels_are_refused(image, message):
    with pytest.raises(ArrayError, match=message):
        prepare(image, PreprocessingConfig())


def test_the_hint_for_grey_images_works():
    grey = noise()[..., 0]
    with pytest.raises(ArrayError) as error:
        prepare(grey, PreprocessingConfig())
    hint = str(error.value).partition("with ")[2].partition(". ")[0]
    colour = eval(hint, {"numpy": np, "image": grey})
    assert prepare(colour, PreprocessingConfig()).shape == (60, 50, 3)


def test_nan_in_a_scaled_image_is_reported_with_its_position():
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
    values = rng.standard_normal((520, 4100, channels), np.float32)  # a little more than one block
    values = np.clip(0.1 * values + 0.4, 0, 1, out=values)
    image = np.multiply(values, np.iinfo(dtype).max, out=values).astype(dtype)
    config = PreprocessingConfig(dtype=dtype, channels=channels, percentiles=(1.0, 99.5))
    low, high = (
        np.percentile(image, q, axis=(0, 1), method="inverted_cdf").astype(np.float64) for q in (1, 99.5)
    )
    prepared = prepare(image, config)
    for rows in (slice(0, 20), slice(500, 520)):
        expected = (image[rows] - low) / (high - low)
        np.testing.assert_allclose(prepared[rows, 0:4100], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(prepared[505:515, 90:95], np.asarray(prepared)[505:515, 90:95])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"mean": (1e38,)}, "mean"),
        ({"mean": (0.5, -1e8, 0.5)}, "mean"),
        ({"mean": (1e38,), "std": (1e38,)}, "mean"),
        ({"mean": (1e20,), "std": (1e3,), "dtype": "float32"}, "mean"),
        ({"std": (1e-38,)}, "std"),
        ({"std": (1e39,)}, "std"),
    ],
)
def test_numbers_that_leave_nothing_of_an_image_in_float32_are_refused(settings, name):
    with pytest.raises(SettingError, match=rf"`{name}` must .*float32.*of the images' values"):
        PreprocessingConfig(**settings)
    PreprocessingConfig(mean=(30000.0,), std=(5000.0,), dtype="float32")


def test_percentiles_are_applied_before_mean_and_std_and_a_flat_channel_works():
    image = np.full((20, 30, 1), 7, np.uint8)
    config = PreprocessingConfig(channels=1, percentiles=(0.0, 100.0), mean=(0.5,), std=(2.0,))
    np.testing.assert_allclose(np.asarray(prepare(image, config)), -0.25)
    image[:10] = 9
    np.testing.assert_allclose(np.unique(np.asarray(prepare(image, config))), [-0.25, 0.25])


@pytest.mark.parametrize(("dtype", "largest"), [("uint8", 255), ("uint16", 65535)])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_an_image_whose_percentiles_are_one_value_stays_within_one_of_it(dtype, largest, gamma):
    image = np.zeros((40, 50, 1), dtype)
    image[3, 4] = largest  # one bright px of 2,000
    config = PreprocessingConfig(dtype=dtype, channels=1, percentiles=(1.0, 99.0), gamma=gamma)
    np.testing.assert_allclose(np.asarray(prepare(image, config))[3, 3:5, 0], [0, 1], atol=1e-6)


def test_white_is_the_value_that_becomes_1_and_no_value_is_above_it():
    image = np.linspace(0, 4095, 48).astype(np.uint16).reshape(4, 4, 3)
    config = PreprocessingConfig(dtype="uint16", white=4095)
    np.testing.assert_allclose(prepare(image, config), image / 4095, rtol=1e-6)
    dark = np.asarray(prepare(image, config.changed(gamma=2.0)))
    np.testing.assert_allclose(dark, (image / 4095) ** 2, rtol=1e-5, atol=1e-9)
    sharp = np.asarray(prepare(image, config.changed(sharpen=100.0)))
    assert sharp.max() == 1
    with pytest.raises(
        ArrayError, match=r"`image` must have values up to `preprocessing.white`=4000; got 4095"
    ):
        np.asarray(prepare(image, config.changed(white=4000)))


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 256), ("float32", 1)])
def test_white_is_a_value_of_the_dtype(dtype, white):
    with pytest.raises(SettingError, match=r"white.*left out with dtype=float32"):
        PreprocessingConfig(dtype=dtype, white=white)


@pytest.mark.parametrize("percentiles", [(99.0, 1.0), (5.0,), (0.0, 101.0)])
def test_percentiles_that_do_not_rise_are_refused(percentiles):
    with pytest.raises(SettingError, match="percentiles"):
        PreprocessingConfig(percentiles=percentiles)


def test_percentiles_of_floats_are_refused():
    with pytest.raises(SettingError, match="`percentiles` must be left out with dtype=float32"):
        PreprocessingConfig(dtype="float32", percentiles=(1.0, 99.0))


def one_px(red, green, blue, **settings):
    image = np.array([[[red, green, blue]]], np.uint8)
    return np.asarray(prepare(image, PreprocessingConfig(**settings))).ravel()


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"colour": "bgr"}, [0.2, 0.4, 1.0]),
        # hue: 60° * (0.4 - 0.2) / 0.8 = 15°; saturation: 0.8 / 1; value: 1
        ({"colour": "hsv"}, [15 / 360, 0.8, 1.0]),
        ({"colour": "grey3"}, [0.299 + 0.587 * 0.4 + 0.114 * 0.2] * 3),
        ({"gamma": 2.0}, [1.0, 0.16, 0.04]),
        ({"gamma": 0.5}, [1.0, 0.4**0.5, 0.2**0.5]),
        ({"gamma": 2.0, "colour": "grey3"}, [0.299 + 0.587 * 0.16 + 0.114 * 0.04] * 3),
        ({"gamma": 2.0, "colour": "bgr", "mean": (0.5,), "std": (2.0,)}, [-0.23, -0.17, 0.25]),
    ],
)
def test_gamma_and_colour_by_hand(settings, wanted):
    np.testing.assert_allclose(one_px(255, 102, 51, **settings), wanted, atol=2e-6)


def test_lab_of_known_colours():
    white = one_px(255, 255, 255, colour="lab")
    np.testing.assert_allclose(white, [1, 128 / 255, 128 / 255], atol=1e-3)
    red = one_px(255, 0, 0, colour="lab")  # L = 53.24, a = 80.09, b = 67.20, under D65
    np.testing.assert_allclose(red, [0.5324, 208.09 / 255, 195.2 / 255], atol=2e-3)


def test_gamma_of_floats_keeps_their_sign():
    config = PreprocessingConfig(dtype="float32", channels=1, gamma=2.0)
    image = np.array([[-0.5, 0.0, 3.0]], np.float32)
    np.testing.assert_allclose(np.asarray(prepare(image, config)).ravel(), [-0.25, 0, 9])


def test_percentiles_are_taken_after_gamma_and_channel_order():
    image = noise()
    config = PreprocessingConfig(percentiles=(1.0, 99.0), gamma=2.0, colour="bgr")
    values = (image / 255.0)[..., ::-1] ** 2
    low, high = (np.percentile(values, q, axis=(0, 1), method="inverted_cdf") for q in (1, 99))
    np.testing.assert_allclose(np.asarray(prepare(image, config)), (values - low) / (high - low), atol=1e-5)


def test_sharpening_by_hand():
    # beside an edge the blurred image is closer to the mean; far from it nothing changes
    image = np.full((1, 40, 1), 100, np.uint8)
    image[:, 20:] = 200
    config = PreprocessingConfig(channels=1, sharpen=0.5, sharpen_sigma=1.0)
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    right = weights[5:].sum() / weights.sum()  # share of the blur's weight on the other side of the edge
    sharp = np.asarray(prepare(image, config)).ravel() * 255
    np.testing.assert_allclose(sharp[19], 100 - 0.5 * 100 * right, rtol=1e-5)
    np.testing.assert_allclose(sharp[20], 200 + 0.5 * 100 * right, rtol=1e-5)
    np.testing.assert_allclose(sharp[[0, 15, 24, 39]], [100, 100, 200, 200], rtol=1e-5)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.3, 5), st.sampled_from([1.0, 0.5]), st.data())
@settings(max_examples=100)
def test_a_region_is_sharpened_as_in_the_whole_image(height, width, sigma, scale, data):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    config = PreprocessingConfig(sharpen=2.0, sharpen_sigma=sigma, scale=scale, gamma=0.7, colour="hsv")
    prepared = prepare(image, config)
    whole = np.asarray(prepare(image, config.changed(gamma=1.0, colour="rgb")))
    h, w, _ = prepared.shape
    y0, x0 = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, h)), data.draw(st.integers(x0 + 1, w))
    part = prepare(image, config.changed(gamma=1.0, colour="rgb"))[y0:y1, x0:x1]
    np.testing.assert_allclose(part, whole[y0:y1, x0:x1], atol=2e-6)
    assert 0 <= whole.min() <= whole.max() <= 1  # integers stay in their range
    small = np.asarray(prepare(image, config.changed(sharpen=0.0, gamma=1.0, colour="rgb")))
    radius = int(np.ceil(4 * sigma))
    padded = np.pad(small.astype(np.float64), ((radius, radius), (radius, radius), (0, 0)), "reflect")
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    across = sum(one * padded[:, k : k + w] for k, one in enumerate(weights))
    blurred = sum(one * across[k : k + h] for k, one in enumerate(weights))
    np.testing.assert_allclose(whole, np.clip(small + 2 * (small - blurred), 0, 1), atol=1e-5)


def test_an_image_cached_for_training_is_sharpened_once():
    image = noise()
    config = PreprocessingConfig(sharpen=1.0, gamma=2.0)
    cached = shrunk(image, config)
    assert cached.dtype == np.uint8
    half_a_level = 2 * 0.5 / 255
    again = np.asarray(prepare(cached, config.changed(sharpen=0.0)))
    np.testing.assert_allclose(again, np.asarray(prepare(image, config)), atol=half_a_level + 1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": "bgr", "channels": 1}, "colour` must be rgb, since other colours take 3 channels"),
        ({"colour": "lab", "dtype": "float32"}, "dtype=float32, whose range is not known"),
        ({"colour": "hsv", "percentiles": (1.0, 99.0)}, "rgb or bgr with percentiles"),
        ({"colour": "cv2.COLOR_BGR2HSV"}, "colour"),
        ({"gamma": 0.0}, "gamma"),
        ({"sharpen": -1.0}, "sharpen"),
        ({"sharpen_sigma": 0.0}, "sharpen_sigma"),
    ],
)
def test_impossible_colours_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        PreprocessingConfig(**settings)


def test_saved_settings_without_the_newer_fields_still_load():
    old = '{"dtype": "uint8", "channels": 3, "scale": 1.0, "percentiles": null, "mean": [0.5], "std": [2.0]}'
    config = PreprocessingConfig.from_json(old)
    assert (config.gamma, config.sharpen, config.colour) == (1.0, 0.0, "rgb")
    image = noise()
    np.testing.assert_allclose(np.asarray(prepare(image, config)), (image / 255 - 0.5) / 2, atol=1e-6)


@pytest.mark.parametrize("pieces", [[5], [1, 1, 1, 1, 1], [2, 3], [4, 1]])
def test_enlarging_is_bilinear_for_any_pieces(pieces):
    small = np.array([[0.0], [1.0], [0.0], [1.0], [1.0]], np.float32)[..., None]
    out = np.zeros((10, 1, 1), np.float32)
    sink, start = ResizingSink(out, small.shape), 0
    for piece in pieces:
        sink[start : start + piece] = small[start : start + piece]
        start += piece
    by_hand = [0, 0.25, 0.75, 0.75, 0.25, 0.25, 0.75, 1, 1, 1]
    np.testing.assert_allclose(out[:, 0, 0], by_hand, atol=1e-6)
    assert sink.written_rows == 10


def test_enlarging_refuses_rows_out_of_order():
    sink = ResizingSink(np.zeros((10, 4, 1), np.float32), (5, 2, 1))
    with pytest.raises(StitchError, match="follow row 0; got row 1"):
        sink[1:2] = np.zeros((1, 2, 1), np.float32)
