"""OpenVINO as an engine: the outputs of Keras, built from the layers, Keras where they differ."""

import threading
from importlib import import_module

import keras
import numpy as np
import pytest
import tensorflow as tf
import warm_python

import tiledseg as ts
from tiledseg.config import RuntimeConfig
from tiledseg.engine import Network
from tiledseg.engine.graph import Graph
from tiledseg.engine.layers import Layers, UnsupportedError, read_layers
from tiledseg.errors import ModelError, SettingError
from tiledseg.evaluate import Evaluator

openvino = pytest.importorskip("openvino")
openvino_engine = pytest.importorskip("tiledseg.engine.openvino.layers")
compiled = pytest.importorskip("tiledseg.engine.openvino.predictor").compiled
outcomes = pytest.importorskip("tests.fuzz_openvino").outcomes
layers = keras.layers
WRONG = ("differs", "failed", "crash", "started")
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
    return Network.of(model, RuntimeConfig(engine="openvino", precision=precision)).fastest()


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


def test_a_normalisation_after_any_convolution_equals_that_of_keras():
    inputs = keras.Input((None, None, 3))
    norm, gates = layers.BatchNormalization, []
    x = norm()(inputs)
    for layer in (
        layers.Conv2D(6, 3, padding="same"),
        layers.Conv2D(6, 11, padding="same", activation="relu", use_bias=False),
        layers.Conv2D(4, 3, padding="same", activation="relu"),
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu"),
        layers.SeparableConv2D(70, 3, padding="same", use_bias=False),
        layers.Conv2DTranspose(5, 2, strides=2),
        layers.Dense(4, activation="relu"),
        layers.Conv2D(6, 3, strides=2, padding="same", groups=2, activation="tanh"),
    ):
        y = layer(x)
        x = norm()(y)
        gates.append(layers.GlobalAveragePooling2D(keepdims=True)(y) if len(gates) in {0, 2} else None)
    x = layers.Concatenate()([layers.Multiply()([x, gates[0]]), norm(center=False)(layers.Conv2D(2, 1)(x))])
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        size = np.prod(variable.shape[:-1]) if len(variable.shape) == 4 else 1
        drawn = rng.uniform(0.3, 2, variable.shape) if "moving" in variable.path else None
        variable.assign(rng.normal(0, size**-0.5, variable.shape) if drawn is None else drawn)
    wanted = Network.of(model)(TILES)
    np.testing.assert_allclose(by_openvino(model)(TILES), wanted, atol=1e-5 * np.abs(wanted).max())
    for variable in model.weights:  # as in a network that is not trained
        if "beta" in variable.path or "moving_mean" in variable.path:
            variable.assign(np.zeros(variable.shape))
        elif "gamma" in variable.path:
            variable.assign(np.ones(variable.shape))
    wanted = Network.of(model)(TILES)
    np.testing.assert_allclose(by_openvino(model)(TILES), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        ({"kernel_size": 3, "padding": "same", "activation": "relu"}, 0),
        ({"filters": 1, "kernel_size": 3, "padding": "same"}, 0),
        ({"kernel_size": (2, 5), "padding": "same", "strides": 2, "use_bias": False}, 0),
        ({"kernel_size": 3, "padding": "same", "dilation_rate": 2}, 0),
        ({"kernel_size": 1}, 1),
        ({"kernel_size": 3, "padding": "same", "groups": 2}, 1),
    ],
)
def test_a_convolution_takes_two_maps_without_a_copy_of_both(settings, copies):
    inputs = keras.Input((None, None, 3))
    one = layers.Conv2D(16, 3, padding="same", activation="tanh")(inputs)
    other = layers.Conv2D(32, 1, activation="tanh")(inputs)
    x = layers.BatchNormalization()(
        layers.Conv2D(**{"filters": 6} | settings)(layers.Concatenate()([one, other]))
    )
    model = keras.Model(inputs, x)
    for variable in model.weights:
        if "moving" in variable.path or "gamma" in variable.path:
            variable.assign(np.random.default_rng(1).uniform(0.5, 2, variable.shape))
    weights = {variable.path: variable.numpy() for variable in model.weights}
    built = openvino_engine.build(read_layers(model), weights, (2, 32, 48, 3))
    assert sum(node.get_type_name() == "Concat" for node in built.get_ops()) == copies
    found, wanted = compiled(built, "f32")(TILES), model(TILES, training=False).numpy()
    assert wanted.std() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("step", "kernel", "joined"),
    [((2, 2), 3, [4, 4]), ((2, 2), (2, 5), [3, 6]), ((3, 2), 4, [6, 5]), ((2, 2), 1, [2, 2])],
)
@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_a_transposed_convolution_and_the_next_one_are_one(step, kernel, joined, bias, monkeypatch):
    monkeypatch.setattr(openvino_engine, "_WORTH", 0)  # small tiles are enough
    inputs = keras.Input((None, None, 3))
    small = layers.Conv2D(32, 3, step, padding="same", activation="tanh")(inputs)
    large = layers.Conv2DTranspose(16, step, step, bias_initializer=keras.initializers.Constant(bias))(small)
    skip = layers.Conv2D(16, 1, activation="tanh")(inputs)
    x = layers.Conv2D(16, kernel, padding="same", activation="relu")(layers.Concatenate()([large, skip]))
    model, tiles = keras.Model(inputs, x), TILES[:, :30]
    weights = {variable.path: variable.numpy() for variable in model.weights}
    built = openvino_engine.build(read_layers(model), weights, tiles.shape)
    grown = [node for node in built.get_ops() if node.get_type_name() == "ConvolutionBackpropData"]
    assert [list(node.input_value(1).get_shape())[2:] for node in grown] == [joined]
    found, wanted = compiled(built, "f32")(tiles), model(tiles, training=False).numpy()
    assert wanted.std() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.skipif(not CAN_BF16, reason="this processor has no bf16")
def test_bf16_is_close_to_f32_and_used_on_request_only():
    model = network()
    exact, near = Network.of(model)(TILES), by_openvino(model, "bf16")(TILES)
    assert 1e-5 < np.abs(near - exact).max() < 0.05
    np.testing.assert_allclose(by_openvino(model)(TILES), exact, atol=1e-5)


@pytest.mark.skipif(not CAN_BF16, reason="this processor has no bf16")
def test_an_evaluation_in_bf16_says_what_it_costs():
    image = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
    model, wanted = network(classes=1), image.mean(axis=2) > 127
    result = Evaluator({"runtime": {"precision": "bf16"}}).evaluate(model, [(image, wanted)])
    (cost,) = result.precision_costs
    masks = [
        ts.tiled_predict(model, image, output="mask", runtime={"precision": one}) for one in ("f32", "bf16")
    ]
    assert cost.foreground_px == masks[0].sum()
    assert cost.changed_px == (masks[0] != masks[1]).sum()
    assert cost.dice_f32 == Evaluator().evaluate(model, [(image, wanted)]).images[0].dice
    assert cost.dice_bf16 == result.images[0].dice
    assert f"bf16 in place of f32: mean dice {cost.dice_f32:.4f} -> {cost.dice_bf16:.4f}" in str(result)
    assert not Evaluator().evaluate(model, [(image, wanted)]).precision_costs


def test_bf16_is_replaced_where_it_is_emulated_and_never_called_exact(monkeypatch, caplog):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    model, runtime = network(), {"precision": "bf16"}
    Network.of(model, runtime).fastest()
    np.testing.assert_allclose(
        Network.of(model, runtime).fastest()(TILES), Network.of(model)(TILES), atol=1e-5
    )
    assert caplog.text.count("does not multiply bf16") == 1
    tiling = ts.TilingConfig(tile_size=64, overlap="exact", blend="crop")
    assert ts.plan(model, (200, 200, 3), tiling).verdict == "exact"
    plan = ts.plan(model, (200, 200, 3), tiling, runtime=runtime)
    assert plan.verdict == "approximate"
    assert "bf16" in plan.reason


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


def test_new_weights_are_noticed():
    model = network()
    before = by_openvino(model)(TILES)
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    after = by_openvino(model)(TILES)
    np.testing.assert_allclose(after, Network.of(model)(TILES), atol=1e-5)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("engine", ["openvino", "keras"])
@pytest.mark.parametrize("first", [layers.ReLU, lambda: layers.Rescaling(-2, 1), layers.BatchNormalization])
def test_an_image_that_is_one_tile_is_run_in_place_and_not_changed(first, engine):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Activation("tanh")(first()(inputs)))
    image = np.random.default_rng(0).normal(size=(32, 48, 3)).astype(np.float32)
    given = image.copy()
    given.flags.writeable = False
    for _ in range(2):
        found = ts.tiled_predict(model, given, runtime={"engine": engine})
        np.testing.assert_array_equal(given, image)
        np.testing.assert_allclose(found, model(image[None])[0], atol=1e-5)


@pytest.mark.parametrize("place", range(4))
def test_one_weight_that_is_changed_is_noticed(place):
    model = network()
    variable = model.weights[place]
    values = variable.numpy()
    before = Network.of(model).predictor.fingerprint
    values.flat[-1] += 1e-3
    variable.assign(values)
    assert Network.of(model).predictor.fingerprint != before
    values.flat[-1] = np.nan
    variable.assign(values)
    with pytest.raises(ModelError, match=f"NaN or infinity in {variable.path}"):
        Network.of(model)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_changed_weights_of_16_bits_are_noticed(dtype):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(1, 1, dtype=dtype)])
    before = Network.of(model).predictor.fingerprint
    model.weights[0].assign(model.weights[0].numpy() + 1)
    assert Network.of(model).predictor.fingerprint != before


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
    done = warm_python.run(FREED, request.path.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("interrupted\n")


@pytest.mark.parametrize("asked", [True, False])
def test_it_is_not_used_where_it_differs_from_keras(asked, monkeypatch, caplog):
    model, build = network(), openvino_engine.build
    monkeypatch.setattr(
        import_module("tiledseg.engine.openvino.predictor"),
        "build",
        lambda layers, weights, shape: build(
            layers, {path: values * np.float32(1.01) for path, values in weights.items()}, shape
        ),
    )
    wanted = Network.of(model)(TILES)
    predictor = Network.of(model, RuntimeConfig(engine="openvino" if asked else "auto")).fastest()
    if asked:
        with pytest.raises(ModelError, match=r"agree with Keras within 0\.0001.*Use engine='keras'"):
            predictor(TILES)
    else:
        np.testing.assert_array_equal(predictor(TILES), wanted)
        predictor(TILES)
        assert caplog.text.count("instead of OpenVINO: a difference of") == 1


class Foreign(layers.Layer):
    """Runs Python in the graph, which OpenVINO cannot."""

    def call(self, x):
        doubled = tf.numpy_function(lambda a: a * np.float32(2), [x], tf.float32)
        doubled.set_shape(x.shape)
        return doubled


def test_keras_runs_what_it_does_not_know_and_nothing_is_logged(caplog):
    model = network(extra=Foreign())
    np.testing.assert_array_equal(Network.of(model).fastest()(TILES), Network.of(model)(TILES))
    assert not caplog.text
    with pytest.raises(ModelError, match=r"`engine` must.*Foreign 'foreign' is not known.*engine='keras'"):
        by_openvino(model)(TILES)


def pooled(x):
    return layers.MaxPooling2D(3, 1, "same")(layers.Conv2D(4, 3, padding="same")(x))


def gated(x):
    return x * keras.ops.sigmoid(x)


@pytest.mark.parametrize(
    "extra",
    [
        layers.UpSampling2D(1, interpolation="bicubic"),
        layers.Conv2D(4, 3, padding="same", activation=tf.sin),
        layers.ReLU(threshold=0.1),
        lambda x: x + np.ones(4, np.float32),
        lambda x: layers.Dropout(0.5)(x, training=True),
        # OpenVINO would compute these in front of the pooling.
        lambda x: layers.Activation("silu")(pooled(x)),
        lambda x: layers.Activation("gelu")(layers.Activation("tanh")(pooled(x))),
        lambda x: gated(pooled(x)),
        lambda x: layers.ELU(-0.5)(pooled(x)),
    ],
)
def test_an_argument_that_it_does_not_know_goes_to_keras(extra):
    with pytest.raises(ModelError, match="`engine` must"):
        by_openvino(network(extra=extra))(TILES)


def records_of(*chain):
    """Return the records of layers one after the other, and their weights."""
    x = inputs = keras.Input((None, None, 3))
    for layer in chain:
        x = layer(x)
    model = keras.Model(inputs, x)
    return read_layers(model).to_record(), {one.path: one.numpy() for one in model.weights}


CONV = layers.Conv2D(3, 3, padding="same")


@pytest.mark.parametrize(
    ("chain", "changes", "message"),
    [
        ([CONV], {"config": {"secret": 1}}, "secret"),
        ([CONV], {"config": {"strides": [1, 0]}}, r"strides=\[1, 0\]"),
        ([CONV], {"config": {"filters": "3"}}, "filters='3'"),
        ([CONV], {"config": {"padding": "full"}}, "padding='full'"),
        ([CONV], {"weights": {"kernel": "absent/bias"}}, r"kernel of shape \(3,\)"),
        ([CONV], {"args": []}, r"an argument among \[\]"),
        ([CONV], {"args": [{"map": 0}, {"map": 0}]}, "2 inputs"),
        ([layers.ZeroPadding2D(1)], {"config": {"padding": [[1, 1]]}}, "padding="),
        ([layers.ReLU()], {"config": {"max_value": -1}}, "max_value=-1"),
        ([layers.ReLU(6, 0.1)], {}, "max_value=6.* with negative_slope"),
        ([lambda x: layers.Add()([x, x])], {"args": [[{"map": 0}]]}, "1 inputs"),
        ([lambda x: x + 2], {"args": [{"map": 0}, "2"]}, "the argument '2'"),
        ([lambda x: x + 2], {"args": [1, 2]}, "an operand that is no map"),
        ([layers.LayerNormalization()], {}, "normalisation over 3 channels"),
        ([layers.Conv2D(3, 40)], {}, r"\[32, 48\] px under a kernel of \[40, 40\]"),
        ([layers.Cropping2D(16)], {}, r"cropping .* of \[32, 48\] px"),
        ([layers.Conv2DTranspose(3, 3, dilation_rate=2)], {}, "dilation"),
        ([layers.GlobalAveragePooling2D()], {}, "the output has 2 axes"),
        (
            [lambda x: layers.MultiHeadAttention(1, 2, attention_axes=(1, 2))(x, layers.ReLU()(x))],
            {},
            "attention between two maps",
        ),
        ([layers.GlobalAveragePooling2D(), layers.Reshape((3, 1, 1))], {}, r"target_shape=\[3, 1, 1\]"),
    ],
)
def test_layers_of_a_record_that_it_does_not_know_are_refused(chain, changes, message):
    record, weights = records_of(*chain)
    for part, change in changes.items():
        first = record["layers"][0]
        first[part] = first[part] | change if isinstance(change, dict) else change
    weights["absent/bias"] = np.zeros(3, np.float32)
    with pytest.raises(UnsupportedError, match=message):
        openvino_engine.build(Layers.from_record(record), weights, (1, 32, 48, 3))


@pytest.mark.parametrize(("part", "name"), [("config", "strides"), ("weights", "kernel")])
def test_a_layer_of_a_record_that_lacks_a_part_is_refused(part, name):
    record, weights = records_of(CONV)
    del record["layers"][0][part][name]
    with pytest.raises(UnsupportedError, match=f"a layer without {name}"):
        openvino_engine.build(Layers.from_record(record), weights, (1, 32, 48, 3))


def test_layers_of_one_px_and_the_mean_of_maps_equal_those_of_keras():
    inputs = keras.Input((None, None, 3))
    pooled_ = layers.Dense(3, activation="sigmoid")(layers.GlobalAveragePooling2D()(inputs))
    gate = layers.Multiply()([inputs, layers.Reshape((1, 1, 3))(pooled_)])
    elu = layers.ELU(0.5)(layers.Conv2D(3, 1)(gate))
    leaky = layers.ReLU(negative_slope=0.2)(layers.ReLU()(elu) - elu)
    model = keras.Model(inputs, layers.Average()([leaky, elu, gate, layers.ReLU(0.5)(inputs)]))
    np.testing.assert_allclose(by_openvino(model)(TILES), Network.of(model)(TILES), atol=1e-5)


def test_networks_that_are_no_graph_of_layers_in_float32_are_not_recorded():
    inputs = keras.Input((None, None, 3))
    both = [layers.Conv2D(1, 1)(inputs), layers.Conv2D(2, 1)(inputs)]
    named = layers.Conv2D(3, 1, name="a")(layers.Conv2D(3, 1, name="b")(inputs))
    twins = keras.Model(inputs, named)
    twins.get_layer("b")._kernel._path = twins.get_layer("a").kernel.path
    for model, message in (
        (keras.Model(inputs, both), "a graph of one input and one output"),
        (
            keras.Model(inputs, layers.Conv2D(1, 1, dtype="mixed_float16")(inputs)),
            "in mixed_float16",
        ),
        (twins, "two weights have the path a/kernel"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            read_layers(model)


def test_it_is_chosen_without_being_asked_for():
    found = Network.of(network())
    fastest = found.fastest()
    assert fastest is not found.predictor
    np.testing.assert_allclose(fastest(TILES), found(TILES), atol=1e-5)
    for runtime in (RuntimeConfig(engine="keras"), RuntimeConfig(devices=("CPU:0",))):
        assert Network.of(found, runtime).fastest() is found.predictor


def test_a_network_is_copied_to_the_devices_that_are_asked_for():
    model, image, tiling = network(), TILES[0], {"tile_size": 16, "overlap": 4}
    found = [ts.tiled_predict(model, image, tiling, runtime={"devices": ("CPU:0",)}) for _ in range(2)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], ts.tiled_predict(model, image, tiling), atol=1e-5)
    model.set_weights([2 * one for one in model.get_weights()])
    again = ts.tiled_predict(model, image, tiling, runtime={"devices": ("CPU:0",)})
    np.testing.assert_allclose(again, ts.tiled_predict(model, image, tiling), atol=1e-5)
    with pytest.raises(SettingError, match=r"be among CPU:0.*; got TPU:9"):
        ts.tiled_predict(model, image, tiling, runtime={"devices": ("TPU:9",)})


def test_layers_in_a_graph_of_a_bundle_are_checked():
    graph = Network.of(network()).predictor.graph
    record = graph.to_record()
    old = record | {"floats_per_px": 4 * record["floats_at_once_per_px"]}
    del old["floats_at_once_per_px"]
    assert Graph.from_record(old) == Graph.from_record(record) == graph
    steps = record["receptive_field"][0]["steps"]
    for place, value, message in ((0, [99], "a step from the maps"), (3, 0.5, "0.5 in a rule")):
        good = steps[0][place]
        steps[0][place] = value
        with pytest.raises(ValueError, match=message):
            Graph.from_record(record)
        steps[0][place] = good


def test_a_network_whose_layers_cannot_be_recorded_has_a_digest_of_its_weights():
    model = network(extra=Foreign())
    before = Network.of(model).digest
    assert Network.of(model).digest == before
    model.set_weights([one + 1 for one in model.get_weights()])
    assert Network.of(model).digest != before


def test_memory_that_runs_out_in_keras_is_an_error_that_says_so(monkeypatch):
    def compiled(*_):
        def call(tiles):
            raise MemoryError

        return call

    monkeypatch.setattr("tiledseg.engine.keras._compiled", compiled)
    predictor = Network.of(network()).predictor
    for tiles in (TILES, TILES[:1]):
        with pytest.raises((MemoryError, ModelError)):
            predictor(tiles)
    monkeypatch.undo()
    assert predictor(TILES[:1]).shape == (1, 32, 48, 2)


def test_weights_whose_sum_is_too_large_are_finite():
    model = network()
    model.get_layer(index=1).set_weights([np.full((3, 3, 3, 8), 3e38, "f4"), np.zeros(8, "f4")])
    assert Network.of(model).predictor.fingerprint


def test_a_network_without_weights_and_one_of_two_maps(monkeypatch):
    inputs = keras.Input((None, None, 3))
    image, tiling = TILES[0], {"tile_size": 16, "overlap": 4}
    mean = keras.Model(inputs, layers.AveragePooling2D(1)(inputs))
    np.testing.assert_allclose(ts.tiled_predict(mean, image, tiling), image, atol=1e-6)
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(ModelError, match="be channels_last; got channels_first"):
        Network.of(keras.Model(inputs, layers.AveragePooling2D(1)(inputs)))


def test_without_it_keras_runs_or_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("tiledseg.engine.network.find_spec", lambda _name: None)
    found = Network.of(network())
    assert found.fastest() is found.predictor
    for options in ({"engine": "openvino"}, {"precision": "bf16"}):
        with pytest.raises(ModelError, match=r"not installed.*pip install openvino"):
            Network.of(found, RuntimeConfig(**options)).fastest()


def test_drawn_layers_and_small_graphs_equal_keras_or_are_refused():
    wrong = {seed: text for seed, text in outcomes(0, 15, warm_python.run).items() if text.startswith(WRONG)}
    assert not wrong


@pytest.mark.slow
def test_two_thousand_drawn_layers_and_graphs_equal_keras_or_are_refused():
    found = outcomes(0, 2000)
    assert not {seed: text for seed, text in found.items() if text.startswith(WRONG)}
    assert sum(text == "equal" for text in found.values()) > 1000


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
