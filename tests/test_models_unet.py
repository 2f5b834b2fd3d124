"""U-Nets: built as their settings state, of the right size, trainable, and saved by Keras itself."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from test_models_architectures import without_weights

from tiledseg.config import UNetConfig
from tiledseg.errors import SettingError
from tiledseg.models import UNetBuilder, build_loss, build_model

saved_by_keras = pytest.mark.filterwarnings(  # Keras' own way of reading its variables
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)
SMALL = UNetConfig(input_shape=(16, 24, 3), levels=3, base_filters=4, base_kernel=5)


def image(network, seed=0, n=1, size=(16, 24)):
    height, width = (have or free for have, free in zip(network.input_shape[1:3], size, strict=True))
    return np.random.default_rng(seed).random((n, height, width, network.input_shape[3]), dtype=np.float32)


def layer_names(network):
    return [layer.name for layer in network.layers]


# --- size ------------------------------------------------------------------------------------------


def test_founding_network_has_the_published_number_of_parameters():
    network = without_weights(UNetBuilder())
    assert network.count_params() == 125_045_745
    assert sum(int(np.prod(weight.shape)) for weight in network.trainable_weights) == 125_021_297
    assert network.input_shape == (None, 512, 512, 3)
    assert network.output_shape == (None, 512, 512, 1)
    kernels = [layer.kernel_size[0] for layer in network.layers if layer.name.endswith("_conv_a")]
    assert kernels == [9, 7, 5, 3, 3, 3, 3, 3, 3, 3, 3, 3, 5, 7, 9]
    assert network.get_layer("bridge_conv_b").output.shape == (None, 4, 4, 2048)
    rates = {layer.name: layer.rate for layer in network.layers if layer.name.endswith("_dropout")}
    assert rates["bridge_dropout"] == pytest.approx(0.35)
    assert rates["encoder_1_dropout"] == rates["decoder_1_dropout"] == pytest.approx(0.05)
    assert "encoder_0_dropout" not in rates


@pytest.mark.parametrize(("norm", "count"), [("batch", 125_045_745), ("none", 124_996_849)])
def test_parameters_are_counted_without_building(norm, count):
    assert UNetBuilder(UNetConfig(norm=norm)).count() == count


def test_two_levels_have_the_parameters_worked_out_by_hand():
    # 3 -> 2 and 2 -> 2 with 5 px; 2 -> 4 and 4 -> 4 with 3 px; up 4 -> 2 with 2 px;
    # 4 -> 2 and 2 -> 2 with 5 px
    convs = (150 + 2) + (100 + 2) + (72 + 4) + (144 + 4) + (32 + 2) + (200 + 2) + (100 + 2)
    norms = 4 * (2 + 2 + 4 + 4 + 2 + 2)
    head = 2 * 3 + 3
    config = UNetConfig(input_shape=(8, 8, 3), levels=2, base_filters=2, base_kernel=5, classes=3)
    assert without_weights(UNetBuilder(config)).count_params() == convs + norms + head


@pytest.mark.parametrize("norm", ["batch", "batch_renorm", "group", "none"])
@pytest.mark.parametrize(
    ("levels", "filters", "kernel", "channels", "classes"),
    [(1, 3, 3, 1, 1), (2, 5, 7, 4, 5), pytest.param(3, 2, 5, 3, 2, marks=pytest.mark.slow)],
)
def test_count_equals_the_built_network(norm, levels, filters, kernel, channels, classes):
    config = UNetConfig(
        input_shape=(16, 16, channels),
        levels=levels,
        base_filters=filters,
        classes=classes,
        base_kernel=kernel,
        norm=norm,
    )
    assert UNetBuilder(config).count() == without_weights(UNetBuilder(config)).count_params()


# --- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "classes"),
    [
        (1, 5),
        (3, 1),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1, 1), (3, 5), (4, 1), (4, 5))),
    ],
)
def test_output_has_the_size_of_the_input_and_one_channel_per_class(channels, classes):
    network = UNetBuilder(SMALL.changed(input_shape=(16, 24, channels), classes=classes)).build()
    probs = np.asarray(network(image(network, n=2)))
    assert probs.shape == (2, 16, 24, classes)
    assert probs.dtype == np.float32
    assert probs.min() >= 0
    assert probs.max() <= 1
    if classes > 1:
        np.testing.assert_allclose(probs.sum(axis=-1), 1, rtol=1e-5)


def test_free_size_takes_every_multiple_of_the_stride():
    network = UNetBuilder(SMALL.changed(input_shape=(None, None, 3))).build()
    for size in [(4, 4), (16, 24), (8, 40)]:
        assert network(image(network, size=size)).shape == (1, *size, 1)


def test_free_size_gives_what_the_fixed_size_gives():
    fixed, free = UNetBuilder(SMALL).build(), UNetBuilder(SMALL.changed(input_shape=(None, None, 3))).build()
    free.set_weights(fixed.get_weights())
    np.testing.assert_array_equal(fixed(image(fixed)), free(image(fixed)))


def test_size_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(SettingError, match=r"multiple of 4 along x with 3 levels; got 18\. Use 16 or 20"):
        SMALL.changed(input_shape=(16, 18, 3))


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("batch", keras.layers.BatchNormalization),
        ("batch_renorm", keras.layers.BatchNormalization),
        ("group", keras.layers.GroupNormalization),
        ("none", None),
    ],
)
def test_norm_follows_each_convolution(norm, kind):
    network = without_weights(UNetBuilder(SMALL.changed(norm=norm)))
    norms = [layer for layer in network.layers if "_norm_" in layer.name]
    assert len(norms) == (0 if norm == "none" else 10)
    assert all(isinstance(layer, kind) for layer in norms)
    if "batch" in norm:
        assert all(layer.renorm == (norm == "batch_renorm") for layer in norms)
    names = layer_names(network)
    if norms:
        assert names.index("encoder_0_norm_a") == names.index("encoder_0_conv_a") + 1


@pytest.mark.parametrize(("filters", "groups"), [(16, 8), (12, 4), (6, 2), (5, 1)])
def test_groups_divide_the_filters(filters, groups):
    network = without_weights(UNetBuilder(SMALL.changed(norm="group", base_filters=filters, levels=2)))
    assert network.get_layer("encoder_0_norm_a").groups == groups


def test_dilation_shrinks_with_depth():
    network = without_weights(UNetBuilder(SMALL.changed(dilation=2)))
    dilations = {layer.name: layer.dilation_rate for layer in network.layers if "_conv_" in layer.name}
    assert dilations["encoder_0_conv_a"] == dilations["decoder_0_conv_b"] == (2, 2)
    assert dilations["encoder_1_conv_a"] == dilations["bridge_conv_a"] == (1, 1)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish"])
def test_activation_stands_in_each_block_and_works(activation):
    network = UNetBuilder(SMALL.changed(activation=activation, levels=1)).build()
    convs = [layer for layer in network.layers if "_conv_" in layer.name]
    used = {keras.activations.serialize(layer.activation) for layer in convs}
    assert used == {activation}
    assert np.isfinite(network(image(network))).all()


def test_mish_is_x_times_tanh_of_softplus():
    x = np.linspace(-5, 5, 11, dtype=np.float32)
    np.testing.assert_allclose(keras.activations.get("mish")(x), x * np.tanh(np.log1p(np.exp(x))), rtol=1e-5)


@pytest.mark.parametrize(
    ("classes", "given", "used"),
    [(1, None, "sigmoid"), (3, None, "softmax"), (3, "sigmoid", "sigmoid"), (1, "linear", "linear")],
)
def test_final_activation(classes, given, used):
    network = without_weights(UNetBuilder(SMALL.changed(classes=classes, final_activation=given, levels=1)))
    assert keras.activations.serialize(network.get_layer("output").activation) == used


def test_no_dropout_no_layers():
    names = layer_names(without_weights(UNetBuilder(SMALL.changed(dropout=0.0))))
    assert not [name for name in names if "dropout" in name]


def test_skips_go_to_their_own_level():
    network = without_weights(UNetBuilder(SMALL))
    for level in (0, 1):
        up, skip = network.get_layer(f"decoder_{level}_concat").input
        assert up.shape == skip.shape == (None, 16 // 2**level, 24 // 2**level, 4 * 2**level)
        assert skip is network.get_layer(f"encoder_{level}_norm_b").output


def test_same_seed_same_weights():
    networks = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        networks.append(UNetBuilder(SMALL.changed(levels=1)).build())
    first, again, other = (network.get_layer("bridge_conv_a").kernel.numpy() for network in networks)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_blank_network_is_the_same_but_for_its_weights():
    builder = UNetBuilder(SMALL.changed(levels=2))
    blank, drawn = builder.build(blank=True), builder.build()
    assert blank.get_config() == drawn.get_config()
    assert not blank.get_layer("encoder_0_conv_a").kernel.numpy().any()
    assert drawn.get_layer("encoder_0_conv_a").kernel.numpy().any()


# --- training and precision ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "dilation"), [("batch", 1), ("batch_renorm", 1), ("group", 1), ("none", 1), ("none", 3)]
)
def test_a_training_step_changes_every_trainable_weight(norm, dilation):
    levels = 1 if norm == "batch_renorm" else 2
    config = SMALL.changed(norm=norm, dilation=dilation, activation="elu", levels=levels)
    network = UNetBuilder(config).build()
    before = [weight.numpy() for weight in network.trainable_weights]
    # A graph costs a second; the layer of the library's own is tried in one.
    network.compile(keras.optimizers.SGD(10.0), build_loss("bce_dice"), run_eagerly=norm != "batch_renorm")
    truth = image(network, seed=1, n=2)[..., :1] > 0.5
    network.train_on_batch(image(network, n=2), truth.astype(np.float32))
    still = [
        weight.path
        for weight, old in zip(network.trainable_weights, before, strict=True)
        if np.array_equal(weight.numpy(), old)
    ]
    assert still == []
    assert all(np.isfinite(weight.numpy()).all() for weight in network.weights)


@pytest.fixture
def mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def test_mixed_precision_still_gives_float32(mixed_precision):
    network = UNetBuilder(SMALL).build()
    assert network.get_layer("encoder_0_conv_a").compute_dtype == "bfloat16"
    assert {str(weight.dtype) for weight in network.weights} == {"float32"}
    assert np.asarray(network(image(network))).dtype == np.float32


@saved_by_keras
def test_keras_saves_and_loads_it_in_safe_mode(tmp_path):
    network = UNetBuilder(SMALL.changed(activation="mish", norm="batch_renorm", levels=2)).build()
    network.compile("sgd", build_loss("bce_dice"), run_eagerly=True)
    network.train_on_batch(image(network), image(network)[..., :1])
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_array_equal(network(image(network)), again(image(network)))
    assert type(again.loss) is type(network.loss)
    assert layer_names(type(network).from_config(network.get_config())) == layer_names(network)


# --- by name ---------------------------------------------------------------------------------------


def test_build_model_takes_a_mapping_or_settings():
    mapping = {"name": "unet", "input_shape": [16, 24, 3], "levels": 1, "base_filters": 4, "base_kernel": 5}
    assert build_model(mapping).get_config() == build_model(SMALL.changed(levels=1)).get_config()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "umet"}, "Did you mean `unet`?"),
        ({"levels": 2}, "`name` must be an architecture; got None"),
        ({"name": 3}, "`name` must be an architecture; got 3"),
        ({"name": "unet", "level": 2}, "Did you mean `levels`?"),
        ({"name": "unet", "levels": "two"}, "levels"),
        ("umet", "Did you mean `unet`?"),
        (3, "settings of an architecture, a mapping of them, or its name; got int"),
    ],
)
def test_build_model_refuses_what_it_does_not_know(config, message):
    with pytest.raises(SettingError) as caught:
        build_model(config)
    assert message in str(caught.value)
