"""Encoders: networks of `keras.applications` with taps, dilation, and pretrained weights."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import tiledseg.models.backbones as backbones
from tiledseg.config import DeepLabV3PlusConfig, EncoderUNetConfig, PreprocessingConfig, TilingConfig
from tiledseg.errors import FileError, SettingError
from tiledseg.models import Segmenter, build_model, builder_for, load_model
from tiledseg.predict import plan
from tiledseg.preprocess import prepare

pytestmark = pytest.mark.filterwarnings(  # Keras' own way of reading its variables
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

LITE0 = Path(__file__).parents[1] / "examples" / "lite0.py"
MOBILE = {"name": "encoder_unet", "encoder": "mobilenet", "decoder_filters": (8, 8, 8, 8, 8)}
CUT = MOBILE | {"decoder_filters": (8, 8, 8)}


def names(kind: object) -> set[str]:
    parts = get_args(kind)
    return set().union(*map(names, parts)) if parts else {kind}


ENCODERS = sorted(names(EncoderUNetConfig.model_fields["encoder"].annotation))
DILATED = sorted(names(DeepLabV3PlusConfig.model_fields["encoder"].annotation))

# Parameters of the networks without their tops, as `keras.applications` builds them; EfficientNet
# without the seven numbers of its own normalisation.
COUNTS = {
    "convnext-tiny": 27_820_128,
    "densenet121": 7_037_504,
    "efficientnet-b0": 4_049_564,
    "efficientnet-lite0": 3_413_024,  # 4,652,008 published, less 1,281,000 of the top, and 42,016 statistics
    "efficientnetv2-b0": 5_919_312,
    "inceptionv3": 21_802_784,
    "mobilenet": 3_228_864,
    "mobilenetv2": 2_257_984,
    "mobilenetv3-small": 939_120,
    "resnet50": 23_587_712,
    "resnet50v2": 23_564_800,
    "vgg16": 14_714_688,
    "xception": 20_861_480,
}
QUICK = {"efficientnet-lite0", "mobilenet", "resnet50v2", "vgg16"}


def without_weights(settings: dict) -> keras.Model:
    """Build a network whose variables never get a value."""

    def build() -> keras.Model:
        with keras.StatelessScope(initialize_variables=False):
            return build_model(settings)

    with ThreadPoolExecutor(1) as thread:  # the next network of this thread would give them values
        return thread.submit(build).result()


def encoder_of(settings: dict, **changes):
    return build_model(settings | {"input_shape": (None, None, 3)} | changes).get_layer("encoder")


def image(size=(64, 96), channels=3, n=1):
    return np.random.default_rng(0).random((n, *size, channels), dtype=np.float32)


@cache
def mobile() -> keras.Model:
    """Build an encoder with weights once for all tests that only read it."""
    return encoder_of(MOBILE)


@cache
def around(name: str) -> keras.Model:
    """Build a network around an encoder once for all tests, without weights."""
    return without_weights({"name": "encoder_unet", "encoder": name, "input_shape": (64, 96, 3)})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ENCODERS]
)
def test_every_encoder_is_tapped_at_the_last_map_of_each_size(name):
    network = around(name)
    assert network.output_shape == (None, 64, 96, 1)
    encoder = network.get_layer("encoder")
    sizes = [tuple(one.shape[1:3]) for one in encoder.outputs]
    assert sizes == [(64 // stride, 96 // stride) for stride in (1, 2, 4, 8, 16, 32)][-len(sizes) :]
    order = encoder.operations
    for tap in encoder.outputs[:-1]:
        later = order[order.index(tap._keras_history.operation) + 1 :]
        joined = [one for one in later if type(one).__name__ in {"Add", "Concatenate"}]
        assert tap.shape[1] not in [one.output.shape[1] for one in joined], (
            "there is a later block of this size"
        )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COUNTS]
)
def test_encoder_has_the_parameters_of_the_published_one(name):
    assert around(name).get_layer("encoder").count_params() == COUNTS[name]


def test_lite_encoder_has_no_global_pooling():
    lite = {"name": "encoder_unet", "encoder": "efficientnet-lite0", "input_shape": (None, None, 3)}
    network = without_weights(lite | {"decoder_filters": (8, 8, 8, 8)})
    layers = network.get_layer("encoder").layers
    assert not [one.name for one in layers if isinstance(one, keras.layers.GlobalAveragePooling2D)]
    used = {one.activation.__name__ for one in layers if isinstance(one, keras.layers.Activation)}
    assert used == {"relu6"}
    assert plan(network, (600, 700), TilingConfig(overlap="exact", blend="crop")).verdict == "exact"


def test_an_encoder_takes_one_channel():
    network = without_weights(CUT | {"name": "encoder_unet", "input_shape": (64, 96, 1)})
    assert network(image(channels=1)).shape == (1, 64, 96, 1)


@pytest.mark.parametrize("levels", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_an_encoder_is_cut_off_where_the_decoder_begins(levels):
    cut = build_model(MOBILE | {"decoder_filters": (8,) * levels, "input_shape": (None, None, 3)})
    assert EncoderUNetConfig(**MOBILE | {"decoder_filters": (8,) * levels}).stride == 2**levels
    assert cut(image((2**levels, 3 * 2**levels))).shape == (1, 2**levels, 3 * 2**levels, 1)
    whole, encoder = mobile(), cut.get_layer("encoder")
    values = {variable.path: variable.numpy() for variable in whole.weights}
    for variable in encoder.weights:
        variable.assign(values[variable.path])
    assert len(encoder.weights) < len(values)
    for ours, theirs in zip(encoder(image()), whole(image())[:levels], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_encoder_equals_keras_applications():
    ours = mobile()
    theirs = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 96, 3))
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(image())[-1], theirs(image()), atol=1e-6)


# --- dilation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [8, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("resnet50v2", marks=pytest.mark.slow),
        "mobilenet",
        pytest.param("mobilenetv2", marks=pytest.mark.slow),
    ],
)
def test_dilated_encoder_contains_the_outputs_of_the_strided_one(name, stride):
    whole = mobile() if name == "mobilenet" else encoder_of({"name": "encoder_unet", "encoder": name})
    dilated = encoder_of({"name": "deeplabv3plus", "encoder": name, "output_stride": stride})
    dilated.set_weights(whole.get_weights())
    for strided, dense in zip(whole(image()), dilated(image()), strict=True):
        every = dense.shape[1] // strided.shape[1]
        scale = np.abs(strided).max()
        np.testing.assert_allclose(dense[:, ::every, ::every] / scale, strided / scale, atol=1e-5)
    assert dilated.outputs[-1].shape[1:3] == (None, None)
    assert dense.shape[1:3] == (64 // stride, 96 // stride)


# --- weights from elsewhere ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mobilenet():
    keras.utils.set_random_seed(5)
    return keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3))


def test_weights_of_a_network_that_keras_saved_are_copied(mobilenet, tmp_path):
    path = str(tmp_path / "pretrained.keras")
    mobilenet.save(path)
    encoder = encoder_of(CUT, encoder_weights=path)
    for got, want in zip(encoder.get_weights(), mobilenet.get_weights(), strict=False):  # it is cut off
        np.testing.assert_array_equal(got, want)


def test_weights_in_safetensors_are_copied(mobilenet, tmp_path):
    path = tmp_path / "pretrained.safetensors"
    save_file({variable.path: variable.numpy() for variable in mobilenet.weights}, path)
    encoder = encoder_of(MOBILE, encoder_weights=str(path))
    for got, want in zip(encoder.get_weights(), mobilenet.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_an_encoder_that_is_cut_off_takes_the_weights_of_the_whole_one(mobilenet, tmp_path):
    arrays = {variable.path: variable.numpy() for variable in mobilenet.weights}
    cut = CUT | {"encoder_weights": str(tmp_path / "pretrained.safetensors")}
    save_file(arrays, tmp_path / "pretrained.safetensors")
    for variable in encoder_of(cut).weights:
        np.testing.assert_array_equal(variable, arrays[variable.path])
    save_file(damaged(arrays, "more"), tmp_path / "pretrained.safetensors")
    with pytest.raises(FileError, match="must contain nothing for other/kernel"):
        encoder_of(cut)


@pytest.mark.skipif(not LITE0.exists(), reason="is in the repository and the sdist, beside the tests")
def test_lite_weights_of_pytorch_get_the_names_and_axes_of_the_encoder(tmp_path):
    example = importlib.util.module_from_spec(importlib.util.spec_from_file_location("lite0", LITE0))
    example.__spec__.loader.exec_module(example)
    path = tmp_path / "lite0.safetensors"
    lite = MOBILE | {"encoder": "efficientnet-lite0"}
    drawn = {variable.path: variable.numpy() for variable in encoder_of(lite).weights}
    there = {}
    for theirs, ours in example.layers():
        for name, mine in (("weight", "kernel"), *example.STATISTICS.items()):
            if (values := drawn.get(f"{ours}/{mine}")) is not None:
                if mine == "kernel":  # PyTorch has (out, in, height, width)
                    values = values.transpose((2, 3, 0, 1) if ours.endswith("dwconv") else (3, 2, 0, 1))
                there[f"{theirs}.{name}"] = values
    save_file(example.renamed(there), path)
    for variable in encoder_of(lite, encoder_weights=str(path)).weights:
        np.testing.assert_array_equal(variable, drawn[variable.path])


def test_keras_has_no_weights_of_the_lite_encoder():
    with pytest.raises(FileError, match=r"must be a \.safetensors file"):
        encoder_of(CUT | {"encoder": "efficientnet-lite0", "encoder_weights": "imagenet"})


def test_published_weights_are_loaded_by_keras(mobilenet, tmp_path, monkeypatch):
    path = tmp_path / "published.weights.h5"
    mobilenet.save_weights(path)
    asked = []

    def published(name, origin, **options):
        asked.append(origin)
        return str(path)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", published)
    encoder = encoder_of(CUT, encoder_weights="imagenet")
    assert len(asked) == 1
    assert asked[0].endswith("mobilenet_1_0_224_tf_no_top.h5")
    np.testing.assert_array_equal(encoder.get_weights()[0], mobilenet.get_weights()[0])


def test_without_a_connection_the_error_advises_a_file(monkeypatch):
    def unreachable(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", unreachable)
    with pytest.raises(FileError, match=r"available from Keras; got OSError: no route.*Give the path"):
        build_model(CUT | {"encoder_weights": "imagenet", "input_shape": (64, 64, 3)})


def damaged(arrays: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    first = next(iter(arrays))
    if how == "less":
        return {name: values for name, values in arrays.items() if name != first}
    changed = {"shape": arrays[first][:1], "nan": arrays[first] * np.float32(np.nan)}
    return arrays | ({"other/kernel": arrays[first]} if how == "more" else {first: changed[how]})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("less", r"must contain .* for conv1/kernel; got nothing"),
        ("more", r"must contain nothing for other/kernel"),
        ("shape", r"must contain .*3, 3, 3, 32.* for conv1/kernel; got .*1, 3, 3, 32"),
        ("nan", r"must contain finite values for conv1/kernel"),
    ],
)
def test_weights_of_another_network_are_refused(how, message, mobilenet, tmp_path):
    path = tmp_path / "pretrained.safetensors"
    save_file(damaged({variable.path: variable.numpy() for variable in mobilenet.weights}, how), path)
    with pytest.raises(FileError, match=message):
        encoder_of(CUT, encoder_weights=str(path))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    for name in ("cut.safetensors", "cut.weights.h5", "cut.keras"):
        (tmp_path / name).write_bytes(b"\x08\0\0\0\0\0\0\0 not it")
        with pytest.raises(FileError, match="encoder_weights"):
            encoder_of(CUT, encoder_weights=str(tmp_path / name))
    with pytest.raises(FileError, match="must be a file; got nothing"):
        encoder_of(CUT, encoder_weights=str(tmp_path / "gone.keras"))
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(FileError, match="MobileNet without its top"):
        encoder_of(CUT, encoder_weights=str(tmp_path / "other.weights.h5"))


@pytest.mark.slow
def test_efficientnet_file_with_another_normalisation_is_refused(tmp_path):
    theirs = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(64, 64, 3))
    path = str(tmp_path / "own.weights.h5")
    theirs.save_weights(path)
    settings = {"name": "efficient_unet", "encoder_weights": path}
    with pytest.raises(FileError, match="must normalise pixels as the published weights do"):
        encoder_of(settings)
    normalisation = next(layer for layer in theirs.layers if isinstance(layer, keras.layers.Normalization))
    normalisation.set_weights(
        [np.array(values, np.float32) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        + [np.array(0)]
    )
    theirs.save_weights(path)
    encoder = encoder_of(settings)
    np.testing.assert_array_equal(encoder.get_weights()[0], theirs.get_layer("stem_conv").get_weights()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_weights": "imagnet"}, "must be imagenet, None, or the path"),
        ({"encoder_weights": "weights.pkl"}, "must be imagenet, None, or the path"),
        ({"encoder_weights": "imagenet", "input_shape": (64, 64, 1)}, "must have 3 channels, RGB"),
        ({"encoder": "resnet51"}, "encoder"),
        ({"encoder": "nasnetmobile"}, "encoder"),
        ({"decoder_filters": (8, 8)}, "decoder_filters"),
        ({"decoder_filters": (8,) * 6}, "decoder_filters"),
        ({"decoder_filters": (8,) * 4, "input_shape": (24, 32, 3)}, "multiple of 16 along y with 4 decoder"),
    ],
)
def test_encoder_settings_that_cannot_be_used_are_refused(changes, message):
    with pytest.raises(SettingError, match=message):
        EncoderUNetConfig(**changes)


def test_a_bundle_loads_without_the_file_of_pretrained_weights(mobilenet, tmp_path):
    path = tmp_path / "pretrained.safetensors"
    save_file({variable.path: variable.numpy() for variable in mobilenet.weights}, path)
    config = EncoderUNetConfig(**CUT, encoder_weights=str(path), input_shape=(64, 64, 3))
    segmenter = Segmenter(build_model(config), config, ("cell",), config.preprocessing)
    copied = segmenter.network.get_layer("encoder").get_weights()
    for got, want in zip(copied, mobilenet.get_weights(), strict=False):  # it is cut off
        np.testing.assert_array_equal(got, want)
    folder = segmenter.save(tmp_path / "bundle")
    path.unlink()
    assert str(tmp_path) not in "".join(
        (folder / name).read_text("utf-8") for name in ("config.json", "README.md")
    )
    again = load_model(folder)
    assert again.preprocessing == PreprocessingConfig(mean=(0.5,), std=(0.5,))
    np.testing.assert_array_equal(again.network(image((64, 64))), segmenter.network(image((64, 64))))


# --- pixels ----------------------------------------------------------------------------------------

PREPARED = {
    "densenet121": keras.applications.densenet.preprocess_input,
    "inceptionv3": keras.applications.inception_v3.preprocess_input,
    "mobilenetv2": keras.applications.mobilenet_v2.preprocess_input,
    "resnet50": keras.applications.resnet.preprocess_input,
    "resnet50v2": keras.applications.resnet_v2.preprocess_input,
    "vgg16": keras.applications.vgg16.preprocess_input,
}


@pytest.mark.parametrize("name", PREPARED)
def test_pixels_are_prepared_as_the_published_weights_expect(name):
    config = EncoderUNetConfig(encoder=name, encoder_weights="imagenet")
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    got = np.asarray(prepare(rgb, config.preprocessing))
    want = PREPARED[name](rgb.astype(np.float32))
    if name in {"resnet50", "vgg16"}:  # they expect BGR: the network reverses the channels itself
        want = want[..., ::-1]
    np.testing.assert_allclose(got, want, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "build"),
    [("efficientnetv2-b0", "EfficientNetV2B0"), ("efficientnetv2-s", "EfficientNetV2S")],
)
@pytest.mark.slow
def test_pixels_are_prepared_as_the_networks_own_layers_do(name, build):
    theirs = getattr(keras.applications, build)(include_top=False, weights=None, input_shape=(32, 32, 3))
    stem = keras.Model(theirs.input, theirs.get_layer("stem_conv").input)
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    config = EncoderUNetConfig(encoder=name, encoder_weights="imagenet")
    got = np.asarray(prepare(rgb, config.preprocessing))
    np.testing.assert_allclose(got, np.asarray(stem(rgb[None].astype(np.float32)))[0], atol=1e-5)


@pytest.mark.slow
def test_published_weights_of_resnet_get_bgr_of_an_rgb_image(tmp_path):
    theirs = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    theirs.save_weights(tmp_path / "pretrained.weights.h5")
    rgb = image((32, 32))
    expected = theirs(rgb[..., ::-1])
    del theirs
    settings = {"name": "encoder_unet", "encoder": "vgg16", "input_shape": (32, 32, 3)}
    network = build_model(settings | {"encoder_weights": str(tmp_path / "pretrained.weights.h5")})
    deepest = keras.Model(network.input, network.get_layer("decoder_4_up").input)
    np.testing.assert_allclose(deepest(rgb), expected, atol=1e-6)
    assert "bgr" not in [layer.name for layer in without_weights(settings).layers]


def test_layers_of_a_backbone_are_cached_and_never_changed():
    settings = {"name": "deeplabv3plus", "encoder": "mobilenet", "output_stride": 8}
    first = builder_for(settings).build(blank=True).get_config()
    builder_for(settings | {"output_stride": 16}).build(blank=True)
    assert backbones._cached_layers.cache_info().hits >= 1
    assert builder_for(settings).build(blank=True).get_config() == first


def test_same_seed_same_weights_whether_the_layers_are_cached_or_not():
    backbones._cached_layers.cache_clear()
    networks = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        networks.append(encoder_of(CUT))
    first, again, other = (network.get_weights()[0] for network in networks)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
