"""Network: models that it accepts and refuses, and their properties."""

import gc
import re
import sys
import weakref

import keras
import numpy as np
import pytest
import warm_python

import tiledseg as ts
from tiledseg._memory import available_memory
from tiledseg.config import RuntimeConfig
from tiledseg.engine import Network
from tiledseg.errors import ModelError, SettingError

layers = keras.layers


def network(height=None, width=None, channels=3, classes=2):
    inputs = keras.Input((height, width, channels))
    shrunk = layers.Conv2D(4, 3, padding="same", strides=2, activation="relu")(inputs)
    shrunk = layers.MaxPooling2D()(shrunk)
    large = layers.UpSampling2D()(layers.Conv2DTranspose(4, 2, strides=2)(shrunk))
    merged = layers.Concatenate()([large, inputs])
    return keras.Model(inputs, layers.Conv2D(classes, 1, activation="softmax")(merged))


def test_a_keras_network_states_channels_sizes_and_stride():
    predictor = Network.of(network(32, 64))
    assert (predictor.channels, predictor.classes) == (3, 2)
    assert predictor.tile_size == (32, 64)
    assert predictor.stride == (4, 4)
    assert Network.of(network()).tile_size == (None, None)


def test_the_memory_of_a_network_is_that_of_the_maps_that_are_alive_at_once():
    known = Network.of(network())
    # The input (3 channels), the enlarged map (4) and what joins them (7) are in memory together.
    assert known.predictor.graph.floats_per_px == 3 + 4 + 7


def test_strides_of_nested_sequential_and_uneven_networks():
    inner = network(classes=3)
    inputs = keras.Input((None, None, 3))
    nested = layers.MaxPooling2D((2, 3))(inner(inputs))
    nested = layers.Conv2DTranspose(1, (2, 3), strides=(2, 3))(nested)
    assert Network.of(keras.Model(inputs, nested)).stride == (4, 12)
    plain = keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(2, 3, padding="same")])
    assert Network.of(plain).stride == (1, 1)


@pytest.mark.parametrize(
    "dtype", ["uint8", "float32", *(pytest.param(one, marks=pytest.mark.slow) for one in ("float64", "bool"))]
)
def test_the_compiled_call_equals_the_network_for_any_batch(dtype):
    model = network()
    predictor = Network.of(model)
    tiles = np.random.default_rng(0).integers(0, 2, (5, 16, 24, 3)).astype(dtype)
    whole = np.asarray(model(tiles.astype(np.float32)))
    for size in (4, 5, 1, 3):
        outputs = predictor(tiles[:size])
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, whole[:size], atol=1e-6)


def test_a_second_predictor_of_a_network_uses_the_compiled_function():
    traces = []

    class Counting(layers.Layer):
        def call(self, x):
            traces.append(x.shape)
            return x * 1.0

    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, Counting()(inputs))
    tiles = np.ones((2, 8, 8, 1), np.float32)
    Network.of(model)(tiles)
    count = len(traces)
    for _ in range(3):
        Network.of(model)(tiles[:1])
    assert len(traces) == count


def test_a_network_that_was_called_can_be_freed():
    model = network()
    Network.of(model)(np.zeros((1, 8, 8, 3), np.float32))
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_new_weights_are_used_at_once():
    model = network()
    predictor = Network.of(model)
    tiles = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    before = predictor(tiles)
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    assert np.abs(predictor(tiles) - before).max() > 1e-4


def test_the_network_runs_in_inference_mode():
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layers.Dropout(0.5)(layers.BatchNormalization()(inputs)))
    tiles = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    np.testing.assert_allclose(Network.of(model)(tiles), tiles, rtol=1e-2)
    assert np.asarray(model.layers[1].moving_mean).item() == 0


def _two_inputs():
    a, b = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    return keras.Model([a, b], layers.Add()([a, b]))


def _two_outputs():
    a = keras.Input((8, 8, 1))
    return keras.Model(a, [layers.ReLU()(a), layers.ReLU()(a)])


def _classifier():
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(2)])


def _smaller():
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(1, 3)])


def _vector():
    return keras.Sequential([keras.Input((8,)), layers.Dense(2)])


def _broken():
    model = network()
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    return model


class _Unbuilt(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_two_inputs, "have one input; got 2"),
        (_two_outputs, "have one output; got 2"),
        (_classifier, r"return a map, \(N, h, w, K\)"),
        (_smaller, "map of its input's size; got 6 px for 8 px along y"),
        (_vector, "take one image"),
        (_broken, "finite weights; got NaN or infinity in conv2d"),
        (_Unbuilt, "have an input shape"),
        (lambda: "bundle/", "tiledseg.load_model"),
        (lambda: None, "or a callable; got NoneType"),
    ],
)
def test_networks_that_cannot_be_tiled_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        Network.of(make())


def test_a_network_of_free_size_with_smaller_outputs_is_refused_before_it_runs():
    model = keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(1, 3)])
    with pytest.raises(ModelError, match="got 14 px for 16 px along y"):
        Network.of(model)(np.zeros((1, 16, 16, 1), np.float32))


def test_a_size_that_the_network_cannot_take_is_refused():
    with pytest.raises(SettingError, match=r"total stride 4 px; got 10\. Use 8 or 12"):
        Network.of(network())(np.zeros((1, 10, 10, 3), np.float32))
    with pytest.raises(SettingError, match="be 32 px along y, the network's input; got 64"):
        Network.of(network(32, 64))(np.zeros((1, 64, 64, 3), np.float32))
    with pytest.raises(ModelError, match="have 3 channels"):
        Network.of(network())(np.zeros((1, 16, 16, 1), np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t[:, ::2], r"\(N, h, w\) = \(2, 8, 8\); got \(2, 4, 8, 3\)"),
        (lambda t: t[:, 0], r"got \(2, 8, 3\)"),
        (lambda t: (t + 5).astype(np.int64), r"0 and 1: tiles are blended; got int64 up to 6"),
        (lambda t: t * 1j, "one array of real numbers"),
        (lambda t: [t, t[:1]], "cannot be converted to an array"),
        (lambda _: None, "one array of real numbers"),
    ],
)
def test_callables_that_do_not_return_a_map_are_refused(call, message):
    with pytest.raises(ModelError, match=message):
        Network.of(call)(np.ones((2, 8, 8, 3), np.float32))


def test_a_callable_must_return_the_same_channels_each_time():
    channels = iter([1, 2])
    predictor = Network.of(lambda tiles: np.zeros((*tiles.shape[:3], next(channels))))
    predictor(np.zeros((1, 4, 4, 1)))
    with pytest.raises(ModelError, match="have 1 channels"):
        predictor(np.zeros((1, 4, 4, 1)))


def test_a_network_has_the_settings_of_a_segmenter_and_defaults_for_other_models():
    config = ts.UNetConfig(input_shape=(32, 32, 3), levels=2, base_filters=4)
    tiling = ts.TilingConfig(tile_size=32, overlap=8)
    segmenter = ts.Segmenter(
        ts.build_model(config), config, ("cell",), threshold=0.25, tiling=tiling, tta="flips"
    )
    own = Network.of(segmenter)
    assert own.has_settings
    assert (own.labels, own.threshold, own.tiling, own.tta) == (("cell",), 0.25, tiling, "flips")
    assert own.preprocessing == segmenter.preprocessing
    assert (own.channels, own.classes, own.tile_size) == (3, 1, (32, 32))
    for model in (segmenter.network, lambda tiles: tiles, Network.of(segmenter.network).predictor):
        other = Network.of(model)
        assert not other.has_settings
        assert (other.labels, other.threshold, other.tiling, other.tta) == ((), 0.5, None, None)


def test_a_network_resolves_to_itself_and_accepts_another_runtime():
    known = Network.of(network(), {"engine": "keras"})
    assert Network.of(known) is known
    other = Network.of(known, RuntimeConfig(memory=1 << 20))
    assert (other.runtime.engine, other.memory, other.predictor) == ("auto", 1 << 20, known.predictor)
    with pytest.raises(SettingError, match="engine"):
        Network.of(known, {"engine": "onnx"})


def within(known, memory):
    return Network.of(known, {"memory": memory})


def test_the_batch_size_depends_on_tile_size_tiles_and_memory():
    known = Network.of(network())
    need = known.bytes_per_tile((64, 64))
    assert need >= 4 * 64 * 64 * 3
    assert within(known, 3 * need).batch_size((64, 64), 100) == 3
    assert within(known, 100 * need).batch_size((64, 64), 2) == 2
    assert within(known, 100 * need).batch_size((64, 64), 2, given=8) == 8
    assert known.batch_size((512, 512), 100) == 1
    with pytest.raises(SettingError, match="1 tiles of 64x64 px need about"):
        within(known, need - 1).batch_size((64, 64), 100)
    with pytest.raises(SettingError, match=r"8 tiles of 64x64 px need about .* `memory` is"):
        within(known, 3 * need).batch_size((64, 64), 100, given=8)


def test_available_memory_is_within_the_limit_of_a_container(tmp_path, monkeypatch):
    machine = available_memory()
    assert machine > 2**27
    monkeypatch.setattr("tiledseg._memory._CGROUP", tmp_path)
    assert available_memory() > 2**27
    for name, text in (
        ("memory.max", "67108864\n"),
        ("memory.current", "50331648\n"),
        ("memory.stat", "anon 5\ninactive_file 1048576\n"),
    ):
        (tmp_path / name).write_text(text)
    assert available_memory() == (64 - 48 + 1) * 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 2**27


FORK = """
import multiprocessing
import numpy as np, tiledseg as ts
def make():
    return ts.UNetBuilder(ts.UNetConfig(input_shape=(32, 32, 3), levels=2, base_filters=4)).build()
def predicted(model=None):
    return ts.tiled_predict(model or make(), np.zeros((40, 40, 3), np.uint8)).shape
def job(queue, *arguments):
    try:
        queue.put(str(predicted(*arguments)))
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")
def child(*arguments):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=job, args=(queue, *arguments))
    process.start()
    process.join(600)
    print("hangs" if process.exitcode is None else queue.get())
    process.kill()
child()  # Keras is loaded: importing starts no threads
model = make()
child(model)  # the weights were made by TensorFlow
predicted(model)
child(model)
child()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork")
def test_a_fork_is_refused_after_the_backend_has_computed():
    done = warm_python.run(FORK)
    allowed, built, used, new = done.stdout.splitlines()
    assert allowed == "(40, 40, 1)"
    for line in (built, used, new):
        assert re.match("ModelError: .*spawn", line)


SHARED = """
import numpy as np, tensorflow as tf, tiledseg as ts
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
config = ts.UNetConfig(input_shape=(32, 32, 3), levels=1, base_filters=2)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    shared = ts.build_model(config)
    image = np.random.default_rng(0).random((40, 40, 3), np.float32)
    found = ts.tiled_predict(shared, image)
alone = ts.build_model(config)
alone.set_weights(shared.get_weights())
print(np.abs(ts.tiled_predict(alone, image) - found).max())
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="devices of TensorFlow")
def test_a_network_that_devices_share_predicts_as_on_one():
    done = warm_python.run(SHARED)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1e-6
