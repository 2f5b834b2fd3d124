"""Keras graphs: receptive field, halo, and layers that depend on the whole tile."""

import keras
import numpy as np
import pytest

import tiledseg as ts
from tiledseg.engine import Network
from tiledseg.errors import SettingError
from tiledseg.models import UNetBuilder

layers, ops = keras.layers, keras.ops


@pytest.fixture
def in_float64():
    """Compute in float64, so that the smallest change of a px is noticed."""
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


def conv(x, kernel=3, **options):
    return layers.Conv2D(2, kernel, **{"padding": "same"} | options)(x)


def up(x, kernel=2, strides=2, **options):
    return layers.Conv2DTranspose(2, kernel, strides=strides, **{"padding": "same"} | options)(x)


def unet(**options):
    def build(x):
        config = ts.UNetConfig(**{
            "input_shape": (None, None, 1), "base_filters": 1, "base_kernel": 3, "dropout": 0.0,
        } | options)  # fmt: skip
        network = UNetBuilder(config).build()
        return keras.Model(network.input, network.get_layer("output").input)(x)

    return build


def strided(x):
    y = conv(conv(x, 3, strides=2), 4, strides=2)
    return up(up(y, 4), 3)


def even_kernels(x):
    y = layers.MaxPooling2D(2)(
        conv(conv(x, (2, 4), activation=layers.LeakyReLU()), (5, 2), dilation_rate=(2, 1))
    )
    return layers.Add()([conv(x, (4, 1)), up(conv(y, 2), 5)])


def valid_and_padded(x):
    y = layers.ZeroPadding2D(((3, 0), (1, 2)))(x)
    y = layers.Conv2D(2, (4, 2), padding="valid")(y)
    y = layers.ZeroPadding2D(((0, 0), (1, 0)))(y)
    return layers.Cropping2D(((0, 0), (0, 3)))(y)


def cropped_and_padded(x):
    y = layers.Cropping2D(((5, 0), (0, 4)))(x)
    return layers.ZeroPadding2D(((5, 0), (0, 4)))(y)


def overlapping_pools(x):
    y = layers.AveragePooling2D(3, 2, padding="same")(conv(x))
    y = layers.MaxPooling2D((2, 3), 3, padding="same")(y)
    return layers.UpSampling2D(6)(conv(y))


def odd_pools(x):
    y = layers.ZeroPadding2D(((1, 0), (0, 1)))(x)
    y = layers.MaxPooling2D(2, padding="valid")(y)
    return conv(layers.UpSampling2D(2)(y))


def bilinear(x):
    y = layers.MaxPooling2D((2, 3))(conv(x))
    return conv(layers.UpSampling2D((2, 3), interpolation="bilinear")(conv(y)))


def bicubic(x):
    return layers.UpSampling2D((3, 2), interpolation="bicubic")(layers.AveragePooling2D((3, 2))(x))


def long_transposed(x):
    y = layers.Conv2DTranspose(2, 5, strides=3, padding="valid")(conv(x, 3, strides=3))
    return layers.Cropping2D(((1, 1), (2, 0)))(y)


def short_transposed(x):
    return conv(layers.Conv2DTranspose(2, 1, strides=2, padding="valid")(layers.MaxPooling2D()(x)))


def separable(x):
    y = layers.SeparableConv2D(2, (3, 5), padding="same", dilation_rate=2)(x)
    return layers.DepthwiseConv2D((4, 3), padding="same")(y)


def nested_and_shared(x):
    inner = keras.Input((None, None, 2))
    shared = keras.Sequential([keras.Input((None, None, 2)), layers.Conv2D(2, (3, 2), padding="same")])
    block = keras.Model(inner, layers.Concatenate()([shared(shared(inner)), inner]))
    once = layers.Conv2D(2, 1)
    fused = layers.Conv2D(2, 1)
    y = fused(block(once(x)))
    return layers.MaxPooling2D(1)(fused(block(shared(y))))


def normalised(x):
    return conv(layers.Normalization(axis=None, mean=0.5, variance=2.0)(x))


def with_operations(x):
    y = ops.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0)), mode="reflect")
    y = layers.Conv2D(2, (4, 4), activation="relu")(y)
    y = ops.relu(y) * 2.0 + layers.LayerNormalization(axis=-1, center=False, trainable=False)(y) * 0
    return ops.maximum(y, 0) + ops.mean(x, axis=-1, keepdims=True)


def resized(x):
    height, width = x.shape[1:3]
    small = layers.Resizing(height // 4, width // 3)(conv(x))
    return layers.Resizing(height, width)(small) + layers.Resizing(height, width, "nearest")(small)


FIXED = [resized]
SINGLE = [bilinear, bicubic, resized]  # TensorFlow interpolates in float32, whatever comes in
GRAPHS = {
    "3 levels": unet(levels=3),
    "4 levels": unet(levels=4),
    "5 levels": unet(levels=5),
    "wide": unet(levels=3, base_kernel=7, dilation=2, norm="batch"),
    **{
        build.__name__: build
        for build in [
            strided, even_kernels, valid_and_padded, cropped_and_padded, overlapping_pools, odd_pools,
            bilinear, bicubic, long_transposed, short_transposed, separable, nested_and_shared,
            with_operations, resized, normalised,
        ]
    },
}  # fmt: skip


SIMILAR = {("3 levels", 0), ("4 levels", 0), ("4 levels", 1), ("5 levels", 0), ("5 levels", 1), ("wide", 1)}
"""U-Nets are square: those of few levels stand for deeper ones, and one axis for the other."""


def network(build, size=(None, None), *, weights=None):
    """Positive weights: no values cancel, and no activation cuts them off."""
    inputs = keras.Input((*size, 1))
    model = keras.Model(inputs, build(inputs))
    rng = np.random.default_rng(1)
    for variable in model.trainable_weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    if weights:
        model.set_weights(weights)
    return model


def along_rows(pixels, axis):
    return np.swapaxes(pixels, 1, 2) if axis else pixels


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    ("name", "axis"),
    [
        pytest.param(name, axis, marks=pytest.mark.slow if (name, axis) in SIMILAR else ())
        for name in GRAPHS
        for axis in (0, 1)
    ],
)
def test_halo_and_receptive_field_equal_those_measured(name, axis):
    # compared with the px that differ at a cut, and with those that a change of single px affects
    build = GRAPHS[name]
    predictor = Network.of(network(build, (48, 48) if build in FIXED else (None, None)))
    field, rounding = predictor.receptive_field, 1e-5 if build in SINGLE else 1e-13
    assert (field.tile_dependent, field.unknown) == ((), ())
    along, across = predictor.stride[axis], predictor.stride[1 - axis]
    tile = -(-(2 * max(field.halo[axis]) + 40) // along) * along
    narrow = across * -(-24 // across)
    sizes = [(narrow, size) if axis else (size, narrow) for size in (3 * tile, tile)]
    whole = network(build, sizes[0] if build in FIXED else (None, None))
    part = network(build, sizes[1], weights=whole.get_weights()) if build in FIXED else whole

    image = np.random.default_rng(0).uniform(1, 2, (2, 3 * tile, narrow, 1))
    want = along_rows(np.asarray(whole(along_rows(image, axis))), axis)[:, tile : 2 * tile]
    got = along_rows(np.asarray(part(along_rows(image[:, tile : 2 * tile], axis))), axis)
    spoiled = np.flatnonzero((np.abs(got - want) > rounding * np.abs(want)).any(axis=(0, 2, 3)))
    left, right = spoiled[spoiled < tile // 2], spoiled[spoiled >= tile // 2]
    assert (max(left, default=-1) + 1, tile - min(right, default=tile)) == field.halo[axis]

    middle = (3 * tile) // 2 // along * along
    impulses = np.ones((along + 1, 3 * tile, narrow, 1))
    for one in range(along):
        impulses[one, middle + one] = 1e4
    answer = along_rows(np.asarray(whole(along_rows(impulses, axis))), axis)
    touched = (np.abs(answer[:-1] - answer[-1]) > rounding * np.abs(answer[-1])).any(axis=(2, 3))
    shift = [np.flatnonzero(rows) - middle - one for one, rows in enumerate(touched)]
    before = max(int(rows.max()) for rows in shift if len(rows))
    after = max(-int(rows.min()) for rows in shift if len(rows))
    assert (max(before, 0), max(after, 0)) == field.extent[axis]


def test_a_two_conv_unet_needs_46_px_at_three_poolings_and_94_at_four():
    for levels, halo in [(3, 22), (4, 46), (5, 94)]:
        field = Network.of(network(unet(levels=levels))).receptive_field
        assert field.halo == ((halo, halo), (halo, halo))


class Own(layers.Layer):
    def call(self, x):
        return x * 1.0


class OwnConv(layers.Conv2D):
    def call(self, x):
        return super().call(x)


def squeezed(x):
    weights = layers.Dense(2, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    return conv(x) * layers.Reshape((1, 1, 2))(weights)


def attended(x):
    height, width = x.shape[1:3]
    rows = layers.Reshape((height * width, 1))(x)
    return layers.Reshape((height, width, 1))(layers.MultiHeadAttention(1, 2)(rows, rows))


@pytest.mark.parametrize(
    ("build", "seen"),
    [
        (lambda x: layers.GroupNormalization(1)(conv(x)), "GroupNormalization"),
        (layers.LayerNormalization(axis=(1, 2, 3)), "LayerNormalization"),
        (layers.UnitNormalization(axis=1), "UnitNormalization"),
        (lambda x: layers.BatchNormalization()(x, training=True), "BatchNormalization"),
        (layers.Softmax(axis=1), "Softmax"),
        (lambda x: x - ops.mean(x, axis=(1, 2), keepdims=True), "Mean"),
        (lambda x: x + np.ones((16, 16, 1), np.float32), "Add"),
        (layers.PReLU(), "PReLU"),
        (squeezed, "GlobalAveragePooling2D"),
        (lambda x: x * layers.GlobalMaxPooling2D(keepdims=True)(x), "GlobalMaxPooling2D"),
        (lambda x: layers.Reshape((16, 16, 1))(layers.Dense(256)(layers.Flatten()(x))), "Flatten"),
        (attended, "MultiHeadAttention"),
    ],
)
def test_layers_that_depend_on_the_whole_tile_make_exact_impossible(build, seen):
    inputs = keras.Input((16, 16, 1))
    model = keras.Model(inputs, build(inputs))
    plan = ts.plan(model, (40, 40))
    assert plan.verdict == "impossible"
    assert f"seen by {seen}" in plan.reason
    assert plan.halo is plan.receptive_field is None
    assert ts.plan(model, (16, 16)).verdict == "exact"  # one tile is the whole
    with pytest.raises(SettingError, match=f"the whole tile is seen by {seen}"):
        ts.plan(model, (40, 40), ts.TilingConfig(tile_size=16, overlap="exact"))


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (Own(), "Own"),
        (OwnConv(1, 3, padding="same"), "OwnConv"),
        (layers.Conv2D(1, 1, activation=lambda y: y - ops.mean(y)), "Conv2D"),
        (layers.Conv2D(1, 1, activation=layers.Softmax(axis=1)), "Conv2D"),
        (layers.Lambda(lambda y: y[:, ::-1]), "Lambda"),
        (lambda x: ops.flip(x, axis=1), "Flip"),
        (lambda x: layers.Reshape((32, 8, 1))(layers.Permute((2, 1, 3))(x)), "Permute"),
        (
            lambda x: layers.Cropping2D(((0, 1), (0, 1)))(
                layers.Conv2DTranspose(1, 2, strides=1, output_padding=0)(x)
            ),
            "Conv2DTranspose",
        ),
        (layers.Resizing(16, 16, crop_to_aspect_ratio=True), "Resizing"),
        (lambda x: layers.Resizing(16, 16)(layers.Resizing(24, 24)(x)), "Resizing"),
    ],
)
def test_an_unknown_layer_is_named_in_the_plan(build, name):
    inputs = keras.Input((16, 16, 1))
    outputs = build(inputs)
    model = keras.Model(inputs, layers.Reshape((16, 16, 1))(outputs))
    plan = ts.plan(model, (40, 40))
    assert plan.verdict == "approximate"
    assert f"the receptive field of {name}" in plan.reason
    assert plan.reason.endswith("is not known")


def test_a_callable_or_an_overridden_call_is_exact_in_one_tile_only():
    class Flipping(keras.Model):
        def call(self, x):
            return super().call(x)[:, ::-1]

    inputs = keras.Input((16, 16, 1))
    for model in (lambda tiles: tiles, Flipping(inputs, conv(inputs))):
        assert ts.plan(model, (40, 40), ts.TilingConfig(tile_size=16)).verdict == "approximate"
        assert ts.plan(model, (16, 16), ts.TilingConfig(tile_size=16, overlap="exact")).verdict == "exact"
        with pytest.raises(SettingError, match="is not known"):
            ts.plan(model, (40, 40), ts.TilingConfig(tile_size=16, overlap="exact"))
