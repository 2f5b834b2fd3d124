"""OpenVINO as an engine: the outputs of Keras, one conversion, Keras where they differ."""

import logging
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import tiledseg as ts
from tiledseg.config import RuntimeConfig
from tiledseg.engine import Network
from tiledseg.errors import ModelError, SettingError

openvino = pytest.importorskip("openvino")
layers = keras.layers
TILES = np.random.default_rng(0).random((2, 32, 48, 3), np.float32)
CAN_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def network(extra=lambda x: x, classes=2):
    inputs = keras.Input((None, None, 3))
    inner = layers.Conv2D(8, 3, padding="same", strides=2, activation="relu")(inputs)
    inner = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(inner))
    large = layers.Conv2DTranspose(4, 2, strides=2)(inner)
    merged = layers.Concatenate()([extra(large), inputs])
    return keras.Model(inputs, layers.Conv2D(classes, 1, activation="sigmoid")(merged))


def by_openvino(model, precision="f32"):
    return Network.of(model, RuntimeConfig(engine="openvino", precision=precision)).fastest(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TILEDSEG_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch):
    """Count the conversions."""
    done, export = [], keras.Model.export
    monkeypatch.setattr(
        keras.Model, "export", lambda self, *args, **options: done.append(1) or export(self, *args, **options)
    )
    return done


def test_its_outputs_equal_those_of_keras_for_any_batch():
    model = network()
    predictor, whole = by_openvino(model), Network.of(model)(TILES)
    assert whole.std() > 0.01
    for tiles in (TILES, TILES[:1], TILES.astype(np.float64), TILES[::-1, :, ::-1][::-1, :, ::-1]):
        outputs = predictor(tiles)
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, whole[: len(tiles)], atol=1e-5)
    np.testing.assert_allclose(
        predictor(TILES[:, :16, :16]), Network.of(model)(TILES[:, :16, :16]), atol=1e-5
    )


@pytest.mark.skipif(not CAN_BF16, reason="this processor has no bf16")
def test_bf16_is_close_to_f32_and_used_on_request_only():
    model = network()
    exact, near = Network.of(model)(TILES), by_openvino(model, "bf16")(TILES)
    assert 1e-5 < np.abs(near - exact).max() < 0.05
    np.testing.assert_allclose(by_openvino(model)(TILES), exact, atol=1e-5)


def test_predictions_in_several_threads_equal_those_of_keras():
    image = np.random.default_rng(1).integers(0, 256, (90, 110, 3), np.uint8)
    model, tiling, results = network(), ts.TilingConfig(tile_size=32, overlap=8), {}
    by_keras = ts.tiled_predict(model, image, tiling, runtime={"engine": "keras"})

    def predict(key):
        results[key] = ts.tiled_predict(model, image, tiling, runtime={"engine": "openvino"})

    threads = [threading.Thread(target=predict, args=(key,)) for key in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key in range(3):
        np.testing.assert_allclose(results[key], by_keras, atol=1e-4)


def test_a_network_is_converted_once_and_recognised_by_weights_and_structure(conversions):
    model = network()
    before = by_openvino(model)(TILES)
    by_openvino(model)(TILES)
    same = network()  # its layers have other names
    same.set_weights(model.get_weights())
    np.testing.assert_array_equal(by_openvino(same)(TILES), before)
    assert len(conversions) == 1
    other = network(extra=layers.ReLU())
    other.set_weights(model.get_weights())
    by_openvino(other)(TILES)
    assert len(conversions) == 2


def test_new_weights_are_noticed_and_converted(conversions):
    model = network()
    before = by_openvino(model)(TILES)
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    after = by_openvino(model)(TILES)
    np.testing.assert_allclose(after, Network.of(model)(TILES), atol=1e-5)
    assert np.abs(after - before).max() > 1e-3
    assert len(conversions) == 2


def test_a_damaged_file_in_the_cache_is_made_again(conversions, own_cache, caplog):
    model = network()
    before = by_openvino(model)(TILES)
    (file,) = own_cache.glob("*/network.bin")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)
    same = network()
    same.set_weights(model.get_weights())
    np.testing.assert_array_equal(by_openvino(same)(TILES), before)
    assert "is damaged" in caplog.text
    assert len(conversions) == 2
    assert bytes(content) != next(own_cache.glob("*/network.bin")).read_bytes()


FREED = """
import gc, signal, sys
sys.path.insert(0, sys.argv[1])
from test_engine_openvino import TILES, by_openvino, network

first, second = network(), network()
by_openvino(first)(TILES)
by_openvino(second)(TILES)
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_control_c_works_after_networks_are_freed_in_any_order(request):
    command = [sys.executable, "-c", FREED, str(request.path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("interrupted\n")


def test_a_cache_that_cannot_be_written_is_not_needed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TILEDSEG_CACHE_DIR", str(tmp_path / "file"))
    model = network()
    np.testing.assert_allclose(by_openvino(model)(TILES), Network.of(model)(TILES), atol=1e-5)


@pytest.mark.parametrize("asked", [True, False])
def test_it_is_not_used_where_it_differs_from_keras(asked, monkeypatch, caplog):
    monkeypatch.setattr("tiledseg.engine.network._WORTH", 0)
    model, wrong, export = network(), network(), keras.Model.export
    monkeypatch.setattr(
        keras.Model, "export", lambda _self, *args, **options: export(wrong, *args, **options)
    )
    wanted = Network.of(model)(TILES)
    predictor = Network.of(model, RuntimeConfig(engine="openvino" if asked else "auto")).fastest(1)
    if asked:
        with pytest.raises(ModelError, match=r"agree with Keras within 0\.0001.*Use engine='keras'"):
            predictor(TILES)
    else:
        np.testing.assert_array_equal(predictor(TILES), wanted)
        assert "instead of OpenVINO: a difference of" in caplog.text


class Foreign(layers.Layer):
    """Runs Python in the graph, which OpenVINO cannot."""

    def call(self, x):
        doubled = tf.numpy_function(lambda a: a * np.float32(2), [x], tf.float32)
        doubled.set_shape(x.shape)
        return doubled


def test_keras_runs_what_it_cannot_convert_and_logs_one_line(monkeypatch, caplog):
    monkeypatch.setattr("tiledseg.engine.network._WORTH", 0)
    model = network(extra=Foreign())
    wanted = Network.of(model)(TILES)
    predictor = Network.of(model).fastest(1)
    np.testing.assert_array_equal(predictor(TILES), wanted)
    assert caplog.text.count("Keras runs the network instead of OpenVINO") == 1
    predictor(TILES)
    assert caplog.text.count("instead of OpenVINO") == 1
    with pytest.raises(ModelError, match="`engine` must"):
        by_openvino(network(extra=Foreign()))(TILES)


def test_it_is_chosen_automatically_for_much_work(caplog):
    caplog.set_level(logging.DEBUG, "tiledseg")
    found = Network.of(network())
    assert found.fastest(1 << 20) is found.predictor
    large = found.fastest(1 << 40)
    assert large is not found.predictor
    np.testing.assert_allclose(large(TILES), found(TILES), atol=1e-5)
    assert "OpenVINO f32 agrees with Keras" in caplog.text
    by_keras = Network.of(found, RuntimeConfig(engine="keras"))
    assert by_keras.fastest(1 << 40) is found.predictor


def test_without_it_keras_runs_or_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr("tiledseg.engine.network.find_spec", lambda _name: None)
    found = Network.of(network())
    assert found.fastest(1 << 40) is found.predictor
    for options in ({"engine": "openvino"}, {"precision": "bf16"}):
        with pytest.raises(ModelError, match=r"not installed.*pip install 'tiledseg\[fast\]'"):
            Network.of(found, RuntimeConfig(**options)).fastest(1)


def test_impossible_runtimes_are_refused():
    image = np.zeros((40, 40, 3), np.uint8)
    for options, error, message in [
        ({"engine": "onnx"}, SettingError, "RuntimeConfig.engine.*keras.*got onnx"),
        ({"precision": "int8"}, SettingError, "RuntimeConfig.precision.*bf16.*got int8"),
        ({"engine": "keras", "precision": "bf16"}, SettingError, "be f32 with engine='keras'"),
        ({"engine": "openvino"}, ModelError, "CallablePredictor"),
    ]:
        with pytest.raises(error, match=message):
            ts.tiled_predict(lambda tiles: tiles, image, runtime=options)
