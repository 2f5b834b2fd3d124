"""Models in other formats: what other engines compute from the files is what the segmenter computes."""

from importlib import import_module

import keras
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")

import tiledseg as ts  # noqa: E402
from tests import fuzz_openvino  # noqa: E402
from tests.test_models_architectures import SMALL, small  # noqa: E402
from tiledseg.cli import main  # noqa: E402
from tiledseg.engine.layers import UnsupportedError, read_layers  # noqa: E402
from tiledseg.engine.onnx.writer import to_onnx  # noqa: E402
from tiledseg.errors import FileError, ModelError, SettingError  # noqa: E402
from tiledseg.models.architectures.swin_unet import (  # noqa: E402
    DepthToSpace,
    SpaceToDepth,
    WindowAttention,
)


def ran(content, tiles, *, last=False):
    """Run an ONNX model by ONNX Runtime; tiles and outputs are channels last."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options)
    tiles = tiles if last else np.ascontiguousarray(tiles.transpose(0, 3, 1, 2))
    outputs = session.run(None, {"image": tiles})[0]
    return outputs if last else outputs.transpose(0, 2, 3, 1)


def relative(found, wanted):
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max() / max(1, np.abs(wanted).max())


@pytest.fixture(scope="module")
def demo():
    return ts.load_model("demo")


def test_onnx_takes_any_size_and_has_the_halo_of_the_bundle(demo, tmp_path):
    path = demo.export(tmp_path / "net.onnx", "onnx")
    tiles = np.random.default_rng(0).normal(0, 1, (2, 72, 104, 3)).astype(np.float32)
    wanted = keras.ops.convert_to_numpy(demo.network(tiles, training=False))
    assert relative(ran(path.read_bytes(), tiles), wanted) < 1e-5
    tiling = {"tile_size": 256, "overlap": "exact"}
    bundle = ts.plan(
        demo.changed(preprocessing=ts.PreprocessingConfig(), tiling=None), (900, 1300, 3), tiling
    )
    again = ts.plan(ts.load_model(path), (900, 1300, 3), tiling)
    assert (again.verdict, again.halo, again.receptive_field) == (
        ("exact", bundle.halo, bundle.receptive_field)
    )
    known = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert known["stride"] == "8"
    assert known["labels"] == '["plasma cell"]'


def test_openvino_files_hold_float32(demo, tmp_path):
    path = demo.export(tmp_path / "net.xml", "openvino")
    tiles = np.random.default_rng(1).normal(0, 1, (1, 64, 96, 3)).astype(np.float32)
    ready = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = ready(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))[0].transpose(0, 2, 3, 1)
    assert relative(found, keras.ops.convert_to_numpy(demo.network(tiles, training=False))) < 1e-5
    n_bytes = 4 * demo.network.count_params()
    assert path.with_suffix(".bin").stat().st_size >= n_bytes


@pytest.mark.parametrize(
    ("name", "to", "error", "text"),
    [
        ("net.bin", "onnx", FileError, r"\.onnx"),
        ("taken.onnx", "onnx", FileError, "new file"),
        ("taken.xml", "openvino", FileError, r"taken\.bin"),
        ("net.onnx", "onxx", SettingError, "onnx"),
    ],
)
def test_wrong_targets_are_refused_before_the_network_is_converted(demo, tmp_path, name, to, error, text):
    for taken in ("taken.onnx", "taken.bin"):
        (tmp_path / taken).write_text("mine")
    with pytest.raises(error, match=text):
        demo.export(tmp_path / name, to)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["taken.bin", "taken.onnx"]


def test_a_network_of_an_onnx_file_is_written_as_it_is(demo, tmp_path):
    path = demo.export(tmp_path / "net.onnx", "onnx")
    segmenter = ts.Segmenter(network=ts.load_model(path), labels=("cell",), preprocessing=demo.preprocessing)
    again = segmenter.export(tmp_path / "again.onnx", "onnx")
    tiles = np.random.default_rng(2).normal(0, 1, (1, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(ran(again.read_bytes(), tiles), ran(path.read_bytes(), tiles))


def test_nothing_is_written_where_outputs_differ(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(
        import_module("tiledseg.models.formats"), "outputs_of", lambda _, tiles: np.zeros((1, 256, 256, 1))
    )
    with pytest.raises(ModelError, match=r"ONNX Runtime.*1e-05.*Nothing was written"):
        demo.export(tmp_path / "net.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_layer_that_onnx_cannot_express_is_named(tmp_path):
    inputs = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(1, 3, padding="same", activation=lambda x: keras.ops.sigmoid(x / 2))(inputs)
    with pytest.raises(UnsupportedError, match=r"Conv2D|lambda"):
        to_onnx(read_layers(keras.Model(inputs, x)), {}, (8, 8), (1, 1), channels=1)


def test_the_command_writes_a_model(tmp_path, capsys):
    assert main(["export-model", "demo", str(tmp_path / "net.onnx"), "--to", "onnx"]) == 0
    said = capsys.readouterr().err
    assert "multiples of 8" in said
    assert "PreprocessingConfig(scale=0.125, mean=(0.6,), std=(0.2,))" in said
    assert main(["export-model", str(tmp_path / "net.onnx"), str(tmp_path / "b.onnx")]) == 2
    assert "bundle" in capsys.readouterr().err


def test_the_operations_of_many_layers_compute_what_keras_computes():
    layers, rng = keras.layers, np.random.default_rng(0)
    inputs = keras.Input((None, None, 3))
    x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(8, 3, padding="same", activation="gelu")(inputs))
    x = layers.LeakyReLU(0.2)(layers.LayerNormalization()(x))
    x = layers.GroupNormalization(2)(layers.AveragePooling2D(2)(layers.Activation("mish")(x)))
    y = WindowAttention(2, 4, 2)(layers.SeparableConv2D(8, 3, padding="same")(x))
    y = WindowAttention(1, 4, 0)(y)
    y = layers.MultiHeadAttention(2, 3, attention_axes=(1, 2))(y, y)
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Add()([x, y]))
    x = layers.Cropping2D(1)(layers.ZeroPadding2D(1)(layers.MaxPooling2D(2)(layers.UpSampling2D(2)(x))))
    x = layers.Concatenate()([DepthToSpace(2)(SpaceToDepth(2)(x)), layers.ELU()(x)])
    model = keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(x))
    for variable in model.weights:
        variable.assign(rng.normal(0.1, 0.3, variable.shape))
    tiles = rng.random((1, 32, 48, 3), np.float32)
    weights = {one.path: one.numpy() for one in model.weights}
    made = to_onnx(read_layers(model), weights, (32, 48), (8, 8), channels=3)
    wanted = keras.ops.convert_to_numpy(model(tiles, training=False))
    assert relative(ran(made.content, tiles), wanted) < 1e-5


def compared(seeds):
    """Compare drawn networks with Keras; return how many were equal, and what differed."""
    equal, wrong = 0, []
    for seed in seeds:
        keras.utils.clear_session()
        try:
            model, tiles = fuzz_openvino.drawn(np.random.default_rng(seed))
            weights = {one.path: one.numpy() for one in model.weights}
            last, size = bool(seed % 2), tiles.shape[1:3]
            made = to_onnx(
                read_layers(model), weights, size, (1, 1), channels=tiles.shape[3], channels_last=last
            )
        except (UnsupportedError, ValueError):
            continue
        tiles = tiles if made.fixed_by is None else tiles[:1]
        wanted = keras.ops.convert_to_numpy(model(tiles, training=False))
        if relative(ran(made.content, tiles, last=last), wanted) < 1e-5:
            equal += 1
        else:
            wrong.append(seed)
    return equal, wrong


def test_drawn_networks_compute_what_keras_computes():
    equal, wrong = compared((15, 17, 54))
    assert equal == 3
    assert wrong == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are using a softmax")
def test_many_drawn_networks_compute_what_keras_computes():
    equal, wrong = compared(range(12, 400))
    assert equal >= 100
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("entry", [one for one in SMALL if one != "unet3plus guided"])
def test_every_architecture_is_exported_with_its_verdict(entry, tmp_path):
    config = small(entry)
    network = ts.build_model(config)
    segmenter = ts.Segmenter(network, config, tuple("abcdefgh"[: config.classes]))
    path = segmenter.export(tmp_path / "net.onnx", "onnx")
    plans = [
        ts.plan(one, (200, 300, 3), {"tile_size": config.input_shape[0] or 256})
        for one in (network, ts.load_model(path))
    ]
    assert plans[0].verdict == plans[1].verdict
    if config.name != "swin_unet":  # its shifted windows are not recognized in an ONNX graph
        assert plans[0].halo == plans[1].halo
