"""What outputs mean: probabilities, logits with a declared activation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from ml_dtypes import bfloat16

import tiledseg as ts
from tiledseg._backend import keras
from tiledseg.config import EvaluateConfig, PredictConfig, RuntimeConfig
from tiledseg.engine import Network
from tiledseg.errors import ModelError, SettingError, StitchError
from tiledseg.evaluate import score_map
from tiledseg.io import read_image, read_mask, write_image

TILING = {"tile_size": 32, "overlap": 8}
VALUES = np.random.default_rng(0).normal(0, 3, (50, 61, 3)).astype(np.float32)
PIXELS = np.random.default_rng(1).integers(0, 256, (50, 61, 3), np.uint8)


def logit(tiles):
    return tiles[..., :1]


def two(tiles):
    """Softmax of background and foreground."""
    return np.concatenate([1 - tiles[..., :1] / 255, tiles[..., :1] / 255], axis=-1)


@pytest.mark.parametrize("output", ["mask", "labels", "uint8"])
def test_logits_become_no_mask_before_they_are_declared(output):
    with pytest.raises(ModelError, match=r"values from -.* activation to sigmoid or softmax"):
        ts.tiled_predict(logit, VALUES, TILING, output=output)
    assert ts.tiled_predict(logit, VALUES, TILING).min() < 0


def test_declared_logits_are_activated_before_they_are_blended():
    runtime = RuntimeConfig(activation="sigmoid")
    crop = {"tile_size": 32, "overlap": 8, "blend": "crop"}
    probs = ts.tiled_predict(logit, VALUES, crop, runtime=runtime)
    np.testing.assert_allclose(probs[..., 0], 1 / (1 + np.exp(-VALUES[..., 0])), atol=1e-6)
    mask = ts.tiled_predict(logit, VALUES, crop, runtime=runtime, output="mask")
    np.testing.assert_array_equal(mask, VALUES[..., 0] >= 0)
    powers = np.exp(VALUES.astype(np.float64))
    several = ts.tiled_predict(lambda tiles: tiles, VALUES, crop, runtime={"activation": "softmax"})
    np.testing.assert_allclose(several, powers / powers.sum(axis=-1, keepdims=True), atol=1e-6)
    extreme = ts.tiled_predict(logit, np.full((9, 9, 1), 5000.0), runtime={"activation": "sigmoid"})
    assert (extreme == 1).all()


def test_an_activation_that_the_network_has_is_refused():
    inputs = keras.Input((None, None, 3))
    ends_in_sigmoid = keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(inputs))
    with pytest.raises(SettingError, match="ends in a sigmoid; got sigmoid"):
        Network.of(ends_in_sigmoid, RuntimeConfig(activation="sigmoid"))
    with pytest.raises(SettingError, match="Use sigmoid"):
        ts.tiled_predict(logit, VALUES, runtime={"activation": "softmax"})


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_logits_that_are_not_finite_are_an_error(activation, value):
    def network(tiles):
        logits = tiles[..., :2].copy()
        logits[0, 3, 3, 0] = value
        return logits[..., :1] if activation == "sigmoid" else logits

    with pytest.raises(StitchError, match=r"must be finite; .* in tile 0 at \(y, x\) = \(0, 0\)"):
        ts.tiled_predict(network, VALUES, TILING, runtime={"activation": activation}, output="mask")


def test_an_activation_of_what_looks_like_probabilities_is_told_once(caplog):
    ts.tiled_predict(logit, VALUES, TILING, runtime={"activation": "sigmoid"})
    assert not caplog.text
    ts.tiled_predict(two, PIXELS, TILING, runtime={"activation": "softmax"})
    assert caplog.text.count("lie in [0, 1], 0 to 1, before the softmax") == 1


def test_a_segmenter_of_logits_states_its_activation(tmp_path):
    config = ts.UNetConfig(
        input_shape=(None, None, 3), levels=2, base_filters=2, base_kernel=3, final_activation="linear"
    )
    network = ts.build_model(config)
    with pytest.raises(SettingError, match="ends in logits"):
        ts.Segmenter(network=network, architecture=config, labels=("cell",))
    segmenter = ts.Segmenter(network=network, architecture=config, labels=("cell",), activation="sigmoid")
    loaded = ts.load_model(segmenter.save(tmp_path / "bundle"))
    assert loaded.activation == "sigmoid"
    crop = {"tile_size": 64, "overlap": 0}
    image = np.zeros((64, 64, 3), np.uint8)
    raw = network(np.zeros((1, 64, 64, 3), np.float32)).numpy()[0]
    np.testing.assert_allclose(loaded.predict(image, crop), 1 / (1 + np.exp(-raw)), atol=1e-6)


def test_files_and_scores_are_not_made_of_logits(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    result = ts.predict_files(lambda tiles: tiles[..., :1] - 99, tmp_path / "a.png", tmp_path / "out")
    assert "activation to sigmoid" in result.failed[0].error
    assert not list((tmp_path / "out" / "masks").iterdir())
    declared = PredictConfig(runtime={"activation": "sigmoid"})
    ts.predict_files(lambda tiles: tiles[..., :1] - 99, tmp_path / "a.png", tmp_path / "out", declared)
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "masks" / "a.png"), PIXELS[..., 0] >= 99)
    truth = (VALUES[..., 0] >= 0).astype(np.uint8)
    crop = {"tile_size": 32, "overlap": 0}
    with pytest.raises(ModelError, match="activation"):
        ts.Evaluator({"tiling": crop}).evaluate(logit, [(VALUES, truth)])
    scored = ts.Evaluator({"tiling": crop, "runtime": declared.runtime}).evaluate(logit, [(VALUES, truth)])
    assert scored.summary()["dice"] == 1


@pytest.mark.parametrize("form", ["png", "npy"])
def test_a_threshold_cuts_the_foreground_of_two_classes(form, tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    p = (PIXELS[..., 0] / np.float32(255)).astype(np.float32)
    for threshold in (None, 0.9):
        out = tmp_path / f"{threshold}"
        config = PredictConfig(threshold=threshold, mask_format=form)
        ts.predict_files(two, tmp_path / "a.png", out, config, tiling={"tile_size": 64, "overlap": 0})
        np.testing.assert_array_equal(read_image(out / "masks" / f"a.{form}"), p >= (threshold or 0.5))
    truth = (p >= 0.9).astype(np.uint8)
    config = EvaluateConfig(threshold=0.9, tiling={"tile_size": 64, "overlap": 0})
    result = ts.Evaluator(config).evaluate(two, [(PIXELS, truth)])
    assert (result.threshold, result.summary()["dice"]) == (0.9, 1.0)


@pytest.mark.parametrize("form", ["png", "npy"])
def test_a_threshold_is_found_for_the_foreground_of_two_classes(form, tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    config = PredictConfig(threshold="otsu", mask_format=form)
    for name, network in (("two", two), ("one", lambda tiles: tiles[..., :1] / 255)):
        assert not ts.predict_files(network, tmp_path / "a.png", tmp_path / name, config).failed
    masks = [read_image(tmp_path / name / "masks" / f"a.{form}") for name in ("two", "one")]
    np.testing.assert_array_equal(masks[0] * 255, masks[1])


def test_a_threshold_of_more_classes_is_refused(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    thirds = lambda tiles: tiles / 765  # noqa: E731
    for stated in (0.5, 0.9):
        config = PredictConfig(threshold=stated)
        (failed,) = ts.predict_files(thirds, tmp_path / "a.png", tmp_path / f"{stated}", config).failed
        assert "be left out with 3 classes" in failed.error
        with pytest.raises(SettingError, match="be left out with 3 classes"):
            ts.Evaluator({"threshold": stated}).evaluate(thirds, [(PIXELS, np.zeros((50, 61), np.uint8))])
    with pytest.raises(SettingError, match="be left out for maps that hold labels"):
        ts.Evaluator({"threshold": 0.4}).score_maps([np.eye(9) > 0], [(np.zeros((9, 9)), np.eye(9) > 0)])


def test_scores_of_two_classes_use_the_threshold():
    probs = np.stack([1 - np.eye(4) * 0.7, np.eye(4) * 0.7], axis=-1)
    truth = np.eye(4, dtype=np.uint8)
    assert score_map(probs, truth, threshold=0.6).dice == 1
    assert score_map(probs, truth * 0, threshold=0.8).dice == 1


def test_a_network_that_takes_channels_first_is_told():
    inputs = keras.Input((3, 64, 64))
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, data_format="channels_first")(inputs))
    with pytest.raises(ModelError, match=r"takes channels first.*moveaxis"):
        Network.of(model)


def moved(shape, axes):
    """A network in channels last between two moves of the axis."""
    inputs = keras.Input(shape)
    mapped = keras.layers.Conv2D(2, 1, activation="softmax")(keras.layers.Permute((2, 3, 1))(inputs))
    return keras.Model(inputs, keras.layers.Permute(axes)(mapped))


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, None, None), (1, 48, 64)])
def test_channels_first_are_told_also_where_no_layer_says_so(shape):
    with pytest.raises(ModelError, match=r"channels last.*which is channels first.*moveaxis"):
        Network.of(moved(shape, (3, 1, 2)))


def test_layers_within_a_network_that_takes_channels_last_may_take_channels_first():
    inputs = keras.Input((32, 32, 3))
    first = keras.layers.Permute((3, 1, 2))(inputs)
    first = keras.layers.MaxPooling2D(1, data_format="channels_first")(first)
    last = keras.layers.Permute((2, 3, 1))(first)
    assert Network.of(keras.Model(inputs, last)).tile_size == (32, 32)


@pytest.mark.parametrize("size", [None, 32])
@pytest.mark.parametrize("form", [lambda one: [one], lambda one: {"map": one}], ids=["list", "mapping"])
@pytest.mark.parametrize("engine", ["auto", "keras"])
def test_a_list_or_mapping_of_one_map_is_that_map(size, form, engine):
    inputs = keras.Input((size, size, 3))
    mapped = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(inputs)
    runtime = RuntimeConfig(engine=engine)
    alone = ts.tiled_predict(keras.Model(inputs, mapped), VALUES, TILING, runtime=runtime)
    found = ts.tiled_predict(keras.Model([inputs], form(mapped)), VALUES, TILING, runtime=runtime)
    np.testing.assert_array_equal(found, alone)


def test_an_input_of_whole_numbers_takes_no_fractions():
    inputs = keras.Input((None, None, 3), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1)(keras.layers.Rescaling(1 / 255)(inputs)))
    whole = np.asarray(model(PIXELS[None]))[0]
    np.testing.assert_allclose(ts.tiled_predict(model, PIXELS, TILING), whole, atol=1e-6)
    for image in (PIXELS / 255, PIXELS + 1.0):
        with pytest.raises(ModelError, match="`tiles` must be whole numbers of uint8; got values from"):
            ts.tiled_predict(model, image, TILING)


def test_a_network_need_not_state_the_size_of_its_map():
    inputs = keras.Input((None, None, 3))
    dense = keras.layers.EinsumDense("nhwc,cd->nhwd", output_shape=(None, None, 2))
    model = keras.Model(inputs, dense(inputs))
    found = ts.tiled_predict(model, VALUES, TILING)
    np.testing.assert_allclose(found, VALUES @ dense.kernel.numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_input_that_keras_casts_is_cast(dtype):
    inputs = keras.Input((None, None, 3), dtype=dtype)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(inputs))
    whole = np.asarray(model(VALUES[None]), np.float32)[0]
    np.testing.assert_allclose(ts.tiled_predict(model, VALUES, TILING), whole, atol=1e-6)


def test_channels_that_are_no_softmax_are_told_once(caplog):
    def apart(tiles):
        """A sigmoid of each of two classes."""
        return np.stack([tiles[..., 0] / 255, tiles[..., 1] / 255], axis=-1)

    for _ in range(2):
        ts.tiled_predict(apart, PIXELS, TILING)
        ts.tiled_predict(two, PIXELS, TILING, output="mask")
    assert "softmax" not in caplog.text
    ts.tiled_predict(apart, PIXELS, TILING, output="mask")
    assert caplog.text.count("The 2 channels of the network sum to") == 1
    truth = PIXELS[..., 0] > 127
    ts.Evaluator().evaluate(apart, [(PIXELS, truth), (PIXELS, truth)])
    assert caplog.text.count("predict one class at a time") == 2


def test_outputs_in_bfloat16_are_read():
    probs = ts.tiled_predict(lambda tiles: (tiles[..., :1] / 256).astype(bfloat16), PIXELS, TILING)
    np.testing.assert_allclose(probs[..., 0], PIXELS[..., 0] / 256, rtol=1e-2)
