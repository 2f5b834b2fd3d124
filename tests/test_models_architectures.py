"""The contract of every architecture: one entry each, one suite for all."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf

import tiledseg as ts
from tiledseg.config import ArchitectureConfig, NetworkConfig, PreprocessingConfig, TrainConfig
from tiledseg.engine import Network
from tiledseg.errors import SettingError
from tiledseg.models import Segmenter, build_loss, build_model, builder_for, load_model, training_network

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"levels": 3, "base_filters": 4, "base_kernel": 5, "dropout": 0.0},
    "attention_unet": {"levels": 3, "base_filters": 4},
    "efficient_unet": {"decoder_filters": (8, 8, 8, 8, 8)},
    "encoder_unet": {"encoder": "mobilenet", "decoder_filters": (8, 8, 8, 8, 8)},
    "deeplabv3plus": {
        "encoder": "mobilenet",
        "rates": (1, 2, 3),
        "filters": 32,
        "image_pooling": False,
        "dropout": 0.0,
    },
    "swin_unet": {
        "patch": 2,
        "window": 4,
        "embedding": 24,
        "depths": (2, 2),
        "heads": (1, 2),
        "mlp_ratio": 2,
        "drop_path": 0.0,
    },
    "trans_unet": {
        "width": 8,
        "units": (1, 1, 1),
        "hidden": 16,
        "layers": 1,
        "heads": 2,
        "mlp": 32,
        "decoder_filters": (8, 8, 8, 8),
        "dropout": 0.0,
    },
    "multires_unet": {"levels": 2, "base_filters": 6},
    "resenc_unet": {"levels": 4, "base_filters": 4, "most_filters": 16, "blocks": (1, 2, 1, 1)},
    "resenc_unet exact": {"levels": 3, "base_filters": 4, "blocks": (1, 2, 1), "norm": "batch"},
    "sharp_unet": {"levels": 3, "base_filters": 4},
    "u2net": {"size": "lite", "width": 0.125},
    "unet3plus": {"base_filters": 4, "skip_filters": 4},
    "unet3plus guided": {
        "base_filters": 4,
        "skip_filters": 4,
        "deep_supervision": True,
        "classification_guided": True,
        "final_activation": "sigmoid",
    },
}
"""Settings of a network that is built, run and trained in seconds, but has all parts.

The first word is the name of the architecture; further words distinguish several entries of one architecture.
"""


def conv(kernel: int, before: int, after: int, *, bias: bool = True) -> int:
    return kernel * kernel * before * after + bias * after


def twice(before: int, after: int) -> int:
    """Two 3 px convolutions, each with batch normalisation."""
    return conv(3, before, after) + conv(3, after, after) + 2 * 4 * after


def attention_unet() -> int:
    # The paper's 6.40 million parameters are those of the network in three dimensions.
    widths = [16, 32, 64, 128, 256]
    encoder = sum(twice(before, after) for before, after in zip([3, *widths], widths, strict=False))
    decoder = sum(conv(2, 2 * width, width) + twice(2 * width, width) for width in widths[:-1])
    gates = sum(
        conv(2, width, width, bias=False)  # theta
        + conv(1, 2 * width, width)  # phi
        + conv(1, width, 1)  # psi
        + conv(1, width, width) + 4 * width  # out
        for width in widths[1:-1]
    )  # fmt: skip
    return encoder + decoder + gates + conv(1, 16, 1)


def unet_decoder(taps: list[int], deepest: int) -> int:
    """Five levels of a transposed convolution, the tap of that size and two convolutions."""
    total, before = 0, deepest
    for filters, tap in zip((256, 128, 64, 32, 16), [*reversed(taps), 0], strict=True):
        total += conv(2, before, filters) + twice(filters + tap, filters)
        before = filters
    return total + conv(1, 16, 1)


def deeplabv3plus() -> int:
    def joined(before: int, after: int) -> int:
        return conv(1, before, after, bias=False) + 4 * after

    def separable(before: int, after: int) -> int:
        return 9 * before + 4 * before + joined(before, after)

    pyramid = 2 * joined(2048, 256) + 3 * separable(2048, 256) + joined(5 * 256, 256)
    decoder = joined(256, 48) + separable(256 + 48, 256) + separable(256, 256)
    return 23_587_712 + pyramid + decoder + conv(1, 256, 1)


def swin_unet(window: int) -> int:
    def norm(channels: int) -> int:
        return 2 * channels

    def block(channels: int, heads: int) -> int:
        attention = conv(1, channels, 3 * channels) + conv(1, channels, channels)
        mlp = conv(1, channels, 4 * channels) + conv(1, 4 * channels, channels)
        return 2 * norm(channels) + attention + (2 * window - 1) ** 2 * heads + mlp

    def dense(before: int, after: int) -> int:
        return conv(1, before, after, bias=False)

    widths, heads = (96, 192, 384, 768), (3, 6, 12, 24)
    levels = [2 * block(*one) for one in zip(widths, heads, strict=True)]
    merges = sum(norm(4 * width) + dense(4 * width, 2 * width) for width in widths[:-1])
    expands = sum(
        dense(2 * width, 4 * width) + norm(width) + conv(1, 2 * width, width) for width in widths[:-1]
    )
    ends = conv(4, 3, 96) + norm(96) + norm(768) + norm(96) + dense(96, 16 * 96) + norm(96) + conv(1, 96, 9)
    return sum(levels) + sum(levels[:-1]) + merges + expands + ends


def r50_vit_b16() -> int:
    """Count a ResNet-50 of three stages with group normalisation, and 12 layers of ViT-B on 196 patches."""

    def unit(before: int, middle: int, after: int) -> int:
        kernels = conv(1, before, middle, bias=False) + conv(3, middle, middle, bias=False)
        return kernels + conv(1, middle, after, bias=False) + 2 * (2 * middle + after)

    total, before = conv(7, 3, 64, bias=False) + 2 * 64, 64
    for middle, count in zip((64, 128, 256), (3, 4, 9), strict=True):
        after = 4 * middle
        shortcut = conv(1, before, after, bias=False) + 2 * after
        total += unit(before, middle, after) + shortcut + (count - 1) * unit(after, middle, after)
        before = after
    layer = 2 * 2 * 768 + 4 * conv(1, 768, 768) + conv(1, 768, 3072) + conv(1, 3072, 768)
    return total + conv(1, 1024, 768) + 14 * 14 * 768 + 12 * layer + 2 * 768


def trans_unet() -> int:
    widths, skips = [512, 256, 128, 64, 16], [512, 256, 64, 0]
    decoder = conv(3, 768, 512, bias=False) + 4 * 512
    for before, skip, after in zip(widths[:-1], skips, widths[1:], strict=True):
        decoder += conv(3, before + skip, after, bias=False) + conv(3, after, after, bias=False) + 8 * after
    return r50_vit_b16() + decoder + conv(3, 16, 9)


def resenc_unet() -> int:
    # No publication states the number. Convolutions have a bias, except in shortcuts; each is followed by
    # an instance normalisation with 2 parameters per filter.
    widths = [min(32 * 2**level, 512) for level in range(8)]
    blocks = [1, 3, 4, 6, 6, 6, 6, 6]

    def normed(kernel: int, before: int, after: int) -> int:
        return conv(kernel, before, after) + 2 * after

    total, before = normed(3, 3, 32), 32
    for width, count in zip(widths, blocks, strict=True):
        total += normed(3, before, width) + (2 * count - 1) * normed(3, width, width)
        total += (before != width) * (before * width + 2 * width)
        before = width
    for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
        total += conv(2, below, width) + normed(3, 2 * width, width)
    return total + conv(1, 32, 1)


COUNTS: dict[str, list[tuple[dict[str, Any], str, int]]] = {
    "unet": [({}, "all", 125_045_745)],  # the founding experiment's own number
    "attention_unet": [({}, "all", attention_unet())],
    "multires_unet": [({}, "all", 7_262_750)],  # the paper's table 2, and the authors' code
    "resenc_unet": [({}, "all", resenc_unet())],
    # That of the U-Net in the authors' code, on grey images: sharpening adds no trained parameters.
    "sharp_unet": [({"input_shape": (256, 256, 1)}, "trained", 7_759_521)],
    # The number that PyTorch counts in the authors' code, without the statistics of normalisations.
    "u2net": [({}, "trained", 44_009_869), ({"size": "lite"}, "trained", 1_131_181)],
    "unet3plus": [({}, "trained", 26_971_777)],  # the paper's table 1 says 26.97 million
    # The numbers of `keras.applications` for the encoders without their tops.
    "efficient_unet": [({}, "all", 4_049_564 + unet_decoder([16, 24, 40, 112], 1280))],
    "encoder_unet": [({}, "all", 5_919_312 + unet_decoder([16, 32, 48, 112], 1280))],
    "deeplabv3plus": [({}, "all", deeplabv3plus())],
    # Derived above: 27.17 million.
    "swin_unet": [({"window": 7, "input_shape": (224, 224, 3), "classes": 9}, "all", swin_unet(7))],
    # Derived above: 105.28 million.
    "trans_unet": [({"input_shape": (224, 224, 3), "classes": 9}, "all", trans_unet())],
}
"""Parameters that a paper or its authors' code states, or derived as the comment says."""

COSTLY: list[tuple[str, dict[str, Any]]] = [("u2net", {}), ("encoder_unet", {})]
"""Those that are much alike: with fewer layers, or around another encoder."""

OTHERS: dict[str, dict[str, Any]] = {
    "efficient_unet": {
        "encoder": "efficientnet-b1",
        "encoder_weights": "imagenet",
        "decoder_filters": (8, 8, 8, 8, 4),
    },
    "encoder_unet": {
        "encoder": "mobilenetv2",
        "encoder_weights": "imagenet",
        "decoder_filters": (8, 8, 8, 8, 4),
    },
    "deeplabv3plus": {
        "encoder": "mobilenetv2",
        "encoder_weights": "imagenet",
        "output_stride": 8,
        "rates": (1, 2, 4),
    },
    "swin_unet": {
        "patch": 4,
        "depths": (2, 1),
        "heads": (2, 2),
    },
    "trans_unet": {
        "width": 16,
        "units": (1, 2, 1),
        "heads": 4,
        "decoder_filters": (8, 8, 8, 4),
    },
    "resenc_unet": {
        "levels": {"levels": 3, "blocks": (1, 2, 1)},
        "blocks": {"blocks": (1, 1, 1, 1)},
        "most_filters": {"most_filters": 8},
    },
    "u2net": {"width": {"width": 0.25}},
}
"""Changes of settings for which the suite cannot find another value by itself."""

FIXED: frozenset[str] = frozenset({"trans_unet"})
"""Architectures that need a fixed size."""

LARGE = frozenset({"efficient_unet", "encoder_unet", "u2net"})
"""Architectures that are large even with small settings: most of their tests are slow."""

NAMES = sorted(SMALL)
PLAIN = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in COUNTS]
"""One entry per architecture, for tests in which further entries make no difference."""

CASES = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in NAMES]
SIMILAR = LARGE | {"deeplabv3plus", "multires_unet", "resenc_unet exact", "unet3plus", "unet3plus guided"}
"""Entries of which the parts, layers of Keras, are in a smaller architecture too."""

OTHER = [pytest.param(name, marks=pytest.mark.slow) if name in SIMILAR else name for name in NAMES]
UNLIKE = [pytest.param(name, marks=pytest.mark.slow) if name in SIMILAR else name for name in COUNTS]
"""One entry per architecture, of those that are not similar."""

OWN = [
    name
    if name in {"unet", "resenc_unet", "sharp_unet", "swin_unet", "trans_unet"}
    else pytest.param(name, marks=pytest.mark.slow)
    for name in COUNTS
]
"""Architectures with layers of their own."""

SIZE = 64


def small(entry: str, **settings: Any) -> ArchitectureConfig:
    name = entry.split(maxsplit=1)[0]
    size = SIZE if name in FIXED else None
    return settings_of(name)(**({"input_shape": (size, size, 3)} | SMALL[entry] | settings))


def settings_of(name: str) -> type[ArchitectureConfig]:
    kinds = get_args(get_args(NetworkConfig)[0])
    return next(kind for kind in kinds if kind.model_fields["name"].default == name)


@cache
def built(entry: str) -> keras.Model:
    """Build the network of an entry once for all tests; its weights may be any."""
    return build_model(small(entry))


@pytest.fixture(scope="module", autouse=True)
def networks_are_freed() -> Iterator[None]:
    """Let the networks go that the tests of this module share."""
    yield
    built.cache_clear()


def images(config: ArchitectureConfig, n: int = 2, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).random((n, size, size, config.input_shape[2]), dtype=np.float32)


def masks(config: ArchitectureConfig, n: int = 2, size: int = SIZE) -> np.ndarray:
    """Draw one disc per tile, at different places; with several classes, one-hot."""
    y, x = np.mgrid[:size, :size] / size
    discs = np.stack([(y - 0.4) ** 2 + (x - 0.3 - 0.4 * i) ** 2 < 0.05 for i in range(n)])
    if config.classes == 1:
        return discs[..., None].astype(np.float32)
    return np.eye(config.classes, dtype=np.float32)[discs * (config.classes - 1)]


def test_every_architecture_has_its_entry():
    named = {kind.model_fields["name"].default for kind in get_args(get_args(NetworkConfig)[0])}
    assert named == {entry.split()[0] for entry in SMALL} == set(COUNTS)


# --- shapes ----------------------------------------------------------------------------------------


def check_probabilities(network: keras.Model, config: ArchitectureConfig) -> None:
    probs = np.asarray(network(images(config)))
    assert probs.shape == (2, SIZE, SIZE, config.classes)
    assert probs.dtype == np.float32
    assert probs.min() >= 0
    assert probs.max() <= 1
    if config.classes > 1 and config.final_activation is None:
        np.testing.assert_allclose(probs.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_output_has_size_range_and_dtype(name):
    check_probabilities(built(name), small(name))


@pytest.fixture
def mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", OWN)
def test_several_channels_and_classes_in_mixed_precision_keep_weights_and_output_in_float32(
    name, mixed_precision
):
    config = small(name, input_shape=(SIZE, SIZE, 4), classes=5)
    network = build_model(config)
    assert {str(variable.dtype) for variable in network.trainable_weights} == {"float32"}
    assert "bfloat16" in {layer.compute_dtype for layer in network.layers}
    check_probabilities(network, config)


@pytest.mark.parametrize("name", UNLIKE)
def test_a_blank_network_of_fixed_size_has_the_same_paths_and_gives_the_same(name):
    config, free = small(name), built(name)
    builder = builder_for(config.changed(input_shape=(SIZE, SIZE, 3)))
    fixed = builder.build(blank=True)
    paths = [variable.path for variable in free.weights]
    assert len(set(paths)) == len(paths)
    assert paths == [variable.path for variable in fixed.weights]
    assert [layer.name for layer in free.layers] == [layer.name for layer in fixed.layers]
    assert not any(np.asarray(variable).any() for variable in fixed.weights)
    assert builder.count() == free.count_params()
    fixed.set_weights(free.get_weights())
    np.testing.assert_allclose(free(images(config)), fixed(images(config)), atol=1e-6)
    if name in FIXED:
        return
    assert free.input_shape == (None, None, None, 3)
    stride = config.stride
    size = (stride, 2 * stride)
    assert free(np.zeros((1, *size, 3), np.float32)).shape == (1, *size, 1)


@pytest.mark.parametrize("name", PLAIN)
def test_wrong_sizes_name_the_nearest_right_ones(name):
    stride = small(name).stride
    size = SIZE + 1
    with pytest.raises(SettingError) as caught:
        small(name, input_shape=(SIZE, size, 3))
    assert f"multiple of {stride} along x" in str(caught.value)
    low = size // stride * stride
    assert f"Use {low} or {low + stride}" in str(caught.value)


@pytest.mark.parametrize("name", PLAIN)
def test_softmax_of_one_class_is_refused(name):
    with pytest.raises(SettingError, match="not be softmax with one class"):
        small(name, final_activation="softmax")


# --- parameters and settings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "which", "count"),
    [
        pytest.param(name, *one, marks=pytest.mark.slow if (name, one[0]) in COSTLY else ())
        for name, stated in COUNTS.items()
        for one in stated
    ],
)
def test_parameters_are_as_many_as_stated(name, settings, which, count):
    builder = builder_for(settings_of(name)(**settings))
    if which == "all":
        assert builder.count() == count
    else:
        weights = without_weights(builder).trainable_weights
        assert sum(int(np.prod(weight.shape)) for weight in weights) == count


def changes(name: str, field: str, config: ArchitectureConfig) -> list[dict[str, Any]]:
    """Find other values of a setting, by its type where no other ones are stated."""
    if field in OTHERS.get(name, {}):
        other = OTHERS[name][field]
        return [other if isinstance(other, dict) else {field: other}]
    value, info = getattr(config, field), type(config).model_fields[field]
    literals = [one for one in (info.annotation, *get_args(info.annotation)) if get_args(one)]
    if literals:
        words = [word for one in literals for word in get_args(one) if isinstance(word, str)]
        return [{field: word} for word in words if word not in {value, "softmax"}][:2]
    if isinstance(value, bool):
        return [{field: not value}]
    return [{field: value + step} for step in ((0.25,) if isinstance(value, float) else (1, 2))]


def without_weights(builder: Any) -> keras.Model:
    """Build a network whose variables never get a value."""

    def build() -> keras.Model:
        with keras.StatelessScope(initialize_variables=False):
            return builder.build(blank=True)

    with ThreadPoolExecutor(1) as thread:  # the next network of this thread would give them values
        return thread.submit(build).result()


@cache
def description(config: ArchitectureConfig) -> str:
    """Describe all that settings can change: layers, side outputs, preprocessing."""
    builder = builder_for(config)
    network = without_weights(builder)
    sides = [(str(side.output.shape), side.target, side.weight) for side in builder.side_outputs(network)]
    layers = network.get_config()["layers"]
    return json.dumps([layers, sides, str(config.preprocessing)], default=str)


HEADS = {(name, "final_activation") for name in SIMILAR | {"trans_unet"}}
"""Settings that are the same in a smaller architecture."""

SETTINGS = [
    pytest.param(name, field, marks=pytest.mark.slow if name in LARGE or (name, field) in HEADS else ())
    for name in COUNTS
    for field in settings_of(name).model_fields
    if field not in {"name", "input_shape", "classes"}
]


@pytest.mark.parametrize(("name", "field"), SETTINGS)
def test_each_setting_is_honoured_or_refused(name, field):
    config = small(name, classes=1 if field == "classification_guided" else 2)
    accepted = []
    for change in changes(name, field, config):
        with contextlib.suppress(SettingError):
            accepted.append(config.changed(**change))
    assert description(accepted[0]) != description(config)


def test_settings_of_one_architecture_are_refused_by_another():
    others = "`base_kernel` is not a setting of AttentionUNetConfig. Networks that have it: unet"
    with pytest.raises(SettingError, match=others):
        build_model({"name": "attention_unet", "base_kernel": 5})
    with pytest.raises(SettingError, match=r"must be a known name; got attention_net\. Did you mean `att"):
        TrainConfig(network={"name": "attention_net"})


@pytest.mark.parametrize("name", COUNTS)
def test_a_settings_file_selects_it(name):
    text = f'labels = ["a", "b"]\n[network]\nname = "{name}"\nclasses = 2\n'
    config = TrainConfig.from_toml(text)
    assert type(config.network) is settings_of(name)
    assert config.network.classes == 2
    assert TrainConfig.from_json(config.to_json()) == config


# --- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHER)
def test_every_trainable_weight_has_a_gradient(name):
    config = small(name)
    training = training_network(built(name), config)
    training.compile(loss=build_loss("bce_dice"))
    image, truth = images(config), masks(config)

    with tf.GradientTape() as tape:
        loss = training.compute_loss(image, truth, training(image, training=True))
    found = tape.gradient(loss, training.trainable_variables)
    assert found
    still = [
        variable.path
        for variable, gradient in zip(training.trainable_variables, found, strict=True)
        # A normalisation takes away what the bias before it adds.
        if gradient is None or not (np.asarray(gradient).any() or variable.path.endswith("conv/bias"))
    ]
    assert still == []


def test_training_adds_the_losses_of_side_outputs_and_validation_does_not():
    config = small("unet3plus guided")
    network, loss = build_model(config), build_loss("bce_dice")
    training = training_network(network, config)
    training.compile("sgd", loss, run_eagerly=True)
    image, truth = images(config), masks(config)
    truth[1] = 0  # no foreground: there, the guide should find nothing
    outputs = training(image)
    parts = [float(loss(truth, output)) for output in outputs[:-1]]
    presence = np.clip(np.asarray(outputs[-1]), 1e-7, 1 - 1e-7)
    assert presence.shape == (2, 1)
    guide = -np.mean([np.log(presence[0]), np.log(1 - presence[1])])
    assert len(parts) == 5
    whole = float(training.compute_loss(image, truth, outputs, training=True))
    assert whole == pytest.approx(sum(parts) + guide, rel=1e-5)
    assert float(training.evaluate(image, truth, verbose=0)) == pytest.approx(parts[0], rel=1e-5)
    sides = {variable.path for variable in training.weights} - {variable.path for variable in network.weights}
    assert {path.split("/")[-2] for path in sides} == {f"side_{level}_conv" for level in range(1, 5)}


def test_coarser_outputs_of_the_residual_encoder_weigh_half_of_the_next_finer_one():
    config = small("resenc_unet", levels=6, blocks=None)
    builder = builder_for(config)
    assert [side.weight for side in builder.side_outputs(without_weights(builder))] == [0.5, 0.25, 0.125]


def test_the_guide_sets_the_map_of_a_class_that_it_does_not_find_to_zero():
    network = build_model(small("unet3plus guided", classes=2))
    network.get_layer("guide_conv").bias.assign([1e6, -1e6])
    probs = np.asarray(network(images(small("unet3plus"))))
    assert (probs[..., 0] > 0).all()
    assert (probs[..., 1] == 0).all()


def test_sharpening_is_the_papers_and_is_not_trained():
    network = built("sharp_unet")
    for level in (0, 1):
        layer = network.get_layer(f"skip_{level}_sharp")
        assert layer.trainable_weights == []
        kernel = np.asarray(layer.kernel)[..., 0]
        assert (kernel.sum(axis=(0, 1)) == 0).all()
        assert (kernel[1, 1] == 8).all()
        assert ((kernel == -1).sum(axis=(0, 1)) == 8).all()


def test_a_gate_weighs_each_px_by_one_coefficient():
    network = built("attention_unet")
    assert network.get_layer("gate_1_psi").output.shape[-1] == 1
    assert "gate_0_psi" not in {layer.name for layer in network.layers}
    skip, weighed = (network.get_layer(name).output for name in ("encoder_1_act_b", "gate_1_weighed"))
    before, after = keras.Model(network.input, [skip, weighed])(images(small("unet")))
    before, after = np.asarray(before), np.asarray(after)
    factors = (after / np.where(before > 0.05, before, np.nan)).reshape(-1, before.shape[-1])
    spread = np.nanmax(factors, axis=1) - np.nanmin(factors, axis=1)
    seen = ~np.isnan(spread)
    assert seen.any()
    assert spread[seen].max() < 1e-4
    assert 0 < np.nanmin(factors) <= np.nanmax(factors) < 1


def test_each_level_of_unet3plus_joins_five_scales_of_64_filters():
    network = without_weights(builder_for({"name": "unet3plus"}))
    for level in range(4):
        assert network.get_layer(f"decoder_{level}_concat").output.shape[-1] == 320
        assert network.get_layer(f"decoder_{level}_conv").filters == 320


def dice(probs: np.ndarray, truth: np.ndarray) -> float:
    cut = probs >= 0.5
    return float(2 * (cut * truth).sum() / (cut.sum() + truth.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_hundred_steps_overfit_two_tiles(name):
    keras.utils.set_random_seed(0)
    config = small(name)
    network = build_model(config)
    training = training_network(network, config)
    training.compile(keras.optimizers.Adam(3e-3), build_loss("bce_dice"))
    image, truth = images(config) + masks(config), masks(config)
    training.fit(image, truth, batch_size=2, epochs=100, verbose=0)
    assert dice(np.asarray(network(image)), truth) > 0.95


# --- bundles ---------------------------------------------------------------------------------------


def segmenter_of(config: ArchitectureConfig, network: keras.Model | None = None) -> Segmenter:
    labels = tuple(f"class {i}" for i in range(config.classes))
    preprocessing = config.preprocessing or PreprocessingConfig(channels=config.input_shape[2])
    network = network or build_model(config)
    rng = np.random.default_rng(0)
    for variable in network.weights:
        if variable.path.endswith(("moving_mean", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1, variable.shape))
    return Segmenter(network, config, labels, preprocessing)


@pytest.mark.parametrize(
    "name",
    [
        # These have layers of Keras or of others here; bundles of U-Nets are tested by themselves.
        pytest.param(name, marks=pytest.mark.slow)
        if name in SIMILAR | {"attention_unet", "trans_unet", "unet"}
        else name
        for name in NAMES
    ],
)
def test_a_loaded_network_gives_the_same_bits_and_is_tiled_on_an_image_of_any_size(name, tmp_path):
    segmenter = segmenter_of(small(name), built(name))
    again = load_model(segmenter.save(tmp_path / "bundle"))
    assert again.architecture == segmenter.architecture
    assert again.preprocessing == segmenter.preprocessing
    tiles = images(segmenter.architecture)
    np.testing.assert_array_equal(again.network(tiles), segmenter.network(tiles))
    image = np.random.default_rng(0).integers(0, 256, (150, 190, 3), np.uint8)
    tiling = ts.TilingConfig(tile_size=SIZE if segmenter.architecture.name in FIXED else 128, overlap=0.125)
    plan = ts.plan(again, image.shape, tiling)
    assert plan.verdict in {"exact", "approximate", "impossible"}
    assert plan.stride == (segmenter.architecture.stride,) * 2
    probs = ts.tiled_predict(again, image, tiling)
    assert probs.shape == (150, 190, 1)
    assert probs.dtype == np.float32
    assert 0 <= probs.min() <= probs.max() <= 1


ELSEWHERE = """
import sys, numpy as np
from tiledseg.models import load_model
for folder in sys.argv[1:]:
    segmenter = load_model(folder)
    image = np.load(folder + ".image.npy")
    probs = segmenter.network.predict(image, verbose=0)
    np.testing.assert_allclose(probs, np.load(folder + ".probs.npy"), atol=1e-4)
import keras
print(keras.backend.backend())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_gives_the_same(backend, tmp_path):
    if find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    folders = []
    for name in NAMES:
        segmenter = segmenter_of(small(name))
        folders.append(str(segmenter.save(tmp_path / name)))
        image = images(segmenter.architecture)
        np.save(f"{folders[-1]}.image.npy", image)
        np.save(f"{folders[-1]}.probs.npy", np.asarray(segmenter.network(image)))
    env = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *folders], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == backend


@pytest.mark.parametrize("name", PLAIN)
def test_preprocessing_is_what_the_weights_expect(name):
    config = small(name)
    expected = config.preprocessing or PreprocessingConfig(channels=3)
    assert TrainConfig(network=config, crop_size=SIZE).preprocessing == expected
    other = expected.changed(mean=(0.123,))
    if config.preprocessing is None:
        assert TrainConfig(network=config, crop_size=SIZE, preprocessing=other).preprocessing == other
    else:
        with pytest.raises(SettingError, match=r"`preprocessing\.mean` must be"):
            TrainConfig(network=config, crop_size=SIZE, preprocessing=other)
        with pytest.raises(SettingError, match=r"`preprocessing\.mean` must be"):
            segmenter_of(config, built(name)).changed(preprocessing=other)


# --- tiling ----------------------------------------------------------------------------------------


def tame(network: keras.Model) -> keras.Model:
    """Make every layer an average with positive weights: no influence cancels, overflows or is cut off.

    The first and the last row of a kernel have the largest weights, so that distant px have a visible
    influence. In encoders, columns are summed: the images here are only one px wide at their coarsest level.
    """
    rng = np.random.default_rng(1)
    inner = [part for layer in network.layers for part in getattr(layer, "layers", ())]
    depthwise = [one for one in [*network.layers, *inner] if isinstance(one, keras.layers.DepthwiseConv2D)]
    alone = {layer.weights[0].path for layer in depthwise}
    for variable in network.trainable_variables:
        if variable.path.endswith(("bias", "beta")):
            continue  # zero
        shape = tuple(variable.shape)
        averaged = shape[:2] if variable.path in alone else shape[:-1]
        rows = np.full((shape[0], *[1] * (len(shape) - 1)), 10.0)
        rows[1:-1] = 1.0
        rows = rows / rows.mean() if len(shape) == 4 else 1.0
        columns = shape[1] if inner and len(shape) == 4 else 1
        variable.assign(rng.uniform(0.5, 1.5, shape) * rows * columns / int(np.prod(averaged)))
    for layer in inner:
        if isinstance(layer, keras.layers.ReLU):
            layer.max_value = None  # MobileNet's cuts off at 6
    return network


PROBED: dict[str, dict[str, Any]] = {"swin_unet": {"embedding": 8}}
"""Settings under which no influence averages away."""

HUGE = 1e28
"""A value whose influence on an output px is visible even with the smallest weights."""


VAST = {"u2net": "encoder_0_sum"}
"""Networks whose receptive field is too large even for that, and the layer up to which they are tested."""


def differs(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Return in which rows outputs (N, h, w, K) differ."""
    return (np.abs(got - want) > 2e-6 * np.abs(want)).any(axis=(2, 3))


@pytest.mark.parametrize("name", OTHER)
def test_receptive_field_derived_from_the_graph_is_that_of_the_network(name):
    config = small(name, input_shape=(None, None, 1) if name not in FIXED else (SIZE, SIZE, 1))
    if "guided" not in name:
        config = config.changed(final_activation="linear", **PROBED.get(name, {}))
    network = tame(build_model(config))
    if "guided" in name:
        network.get_layer("guide_conv").bias.assign([-1e6])  # a class is there if something is huge
    assert Network.of(network).stride == (config.stride, config.stride)
    if name in VAST:
        network = keras.Model(network.input, network.get_layer(VAST[name]).output)
    predictor = Network.of(network)
    field, stride = predictor.receptive_field, predictor.stride[0]
    assert field.unknown == ()
    if field.tile_dependent:
        check_whole_tile(network, config)
        return
    assert field.halo[0] == field.halo[1]
    check_field(network, stride, field.extent[0])
    check_halo(network, stride, field.halo[0])


def check_whole_tile(network: keras.Model, config: ArchitectureConfig) -> None:
    """Check that a change in one corner changes the opposite one."""
    size = SIZE if config.input_shape[0] else 8 * SIZE
    image = np.ones((2, size, SIZE, 1), np.float32)
    image[1, 0, 0] = HUGE
    assert differs(*np.split(np.asarray(network(image)), 2))[0, -1]


def check_field(network: keras.Model, stride: int, field: tuple[int, int]) -> None:
    middle = -(-(max(field) + 8) // stride) * stride
    pulses = np.ones((stride, 2 * middle + stride, stride, 1), np.float32)
    for one in range(stride):
        pulses[one, middle + one] = HUGE
    plain = np.ones_like(pulses[:1])
    # A few at a time: the compute library keeps the memory of the largest batch. Each batch has an image
    # without a pulse, since rounding depends on the size of a batch.
    parts = np.array_split(pulses, -(-stride // 4))
    answers = [np.asarray(network(np.concatenate([part, plain]))) for part in parts]
    touched = np.concatenate([differs(answer[:-1], answer[-1:]) for answer in answers])
    shifts = [np.flatnonzero(rows) - middle - one for one, rows in enumerate(touched)]
    before = max(int(rows.max()) for rows in shifts if len(rows))
    after = max(-int(rows.min()) for rows in shifts if len(rows))
    assert (before, after) == field


def check_halo(network: keras.Model, stride: int, halo: tuple[int, int]) -> None:
    tile = -(-(2 * max(halo) + 8) // stride) * stride
    image = np.full((1, 3 * tile, stride, 1), HUGE, np.float32)
    image[:, tile : 2 * tile] = 1
    want = np.asarray(network(image))[:, tile : 2 * tile]
    got = np.asarray(network(image[:, tile : 2 * tile]))
    spoiled = np.flatnonzero(differs(got, want)[0])
    left, right = spoiled[spoiled < tile // 2], spoiled[spoiled >= tile // 2]
    assert (max(left, default=-1) + 1, tile - min(right, default=tile)) == halo
