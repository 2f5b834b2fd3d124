"""The layout of tiles: whether tiled equals whole, and the tile that fits in memory."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiledseg as ts
from tiledseg.engine import Network
from tiledseg.errors import SettingError
from tiledseg.models import UNetBuilder

layers, ops = keras.layers, keras.ops


@pytest.fixture
def in_float64():
    """So that a px counts as touched however little of a change arrives."""
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


def shifted_there_and_back(x):
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
            strided, even_kernels, valid_and_padded, shifted_there_and_back, overlapping_pools, odd_pools,
            bilinear, bicubic, long_transposed, short_transposed, separable, nested_and_shared,
            with_operations, resized,
        ]
    },
}  # fmt: skip


def network(build, size=(None, None), *, weights=None):
    """Positive weights: nothing cancels, and nothing is cut off by an activation."""
    inputs = keras.Input((*size, 1))
    model = keras.Model(inputs, build(inputs))
    rng = np.random.default_rng(1)
    for variable in model.trainable_weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    if weights:
        model.set_weights(weights)
    return model


def lying(pixels, axis):
    return np.swapaxes(pixels, 1, 2) if axis else pixels


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", GRAPHS)
def test_halo_and_receptive_field_are_those_of_the_network(name, axis):
    """Neither a px more nor a px less than what a cut and what single px change."""
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
    want = lying(np.asarray(whole(lying(image, axis))), axis)[:, tile : 2 * tile]
    got = lying(np.asarray(part(lying(image[:, tile : 2 * tile], axis))), axis)
    spoiled = np.flatnonzero((np.abs(got - want) > rounding * np.abs(want)).any(axis=(0, 2, 3)))
    left, right = spoiled[spoiled < tile // 2], spoiled[spoiled >= tile // 2]
    assert (max(left, default=-1) + 1, tile - min(right, default=tile)) == field.halo[axis]

    middle = (3 * tile) // 2 // along * along
    impulses = np.ones((along + 1, 3 * tile, narrow, 1))
    for one in range(along):
        impulses[one, middle + one] = 1e4
    answer = lying(np.asarray(whole(lying(impulses, axis))), axis)
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
def test_what_sees_the_whole_tile_is_named_and_makes_exact_impossible(build, seen):
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
    ],
)
def test_what_is_not_known_is_said(build, name):
    inputs = keras.Input((16, 16, 1))
    outputs = build(inputs)
    model = keras.Model(inputs, layers.Reshape((16, 16, 1))(outputs))
    plan = ts.plan(model, (40, 40))
    assert plan.verdict == "approximate"
    assert f"the receptive field of {name}" in plan.reason
    assert plan.reason.endswith("is not known")


def test_a_callable_or_an_own_call_is_not_known_but_one_tile_is_exact():
    class Flipping(keras.Model):
        def call(self, x):
            return super().call(x)[:, ::-1]

    inputs = keras.Input((16, 16, 1))
    for model in (lambda tiles: tiles, Flipping(inputs, conv(inputs))):
        assert ts.plan(model, (40, 40), ts.TilingConfig(tile_size=16)).verdict == "approximate"
        assert ts.plan(model, (16, 16), ts.TilingConfig(tile_size=16, overlap="exact")).verdict == "exact"
        with pytest.raises(SettingError, match="is not known"):
            ts.plan(model, (40, 40), ts.TilingConfig(tile_size=16, overlap="exact"))


def whole_of(model, image, grid):
    """What the network gives for the image and the padding at the grid's far ends."""
    more = [(0, axis.padded_length - axis.length) for axis in (grid.y, grid.x)]
    padded = np.pad(image, (*more, (0, 0)), mode="reflect")
    return np.asarray(model(padded[None]))[0, : image.shape[0], : image.shape[1]]


def fcn(kernels, strides):
    def build(x):
        y = x
        for kernel, step in zip(kernels, strides, strict=True):
            y = layers.Conv2D(3, kernel, step, padding="same", activation="tanh")(y)
        for kernel, step in zip(kernels, strides, strict=True):
            if step > 1:
                y = layers.Conv2DTranspose(3, kernel, step, padding="same")(y)
        return layers.Conv2D(2, 1)(layers.Concatenate()([x, y]))

    inputs = keras.Input((None, None, 1))
    return keras.Model(inputs, build(inputs))


def drawn_unet(levels, kernel):
    config = ts.UNetConfig(
        input_shape=(None, None, 1), levels=levels, base_filters=2, base_kernel=kernel, dropout=0.0
    )
    return UNetBuilder(config).build()


NETWORKS = st.one_of(
    st.tuples(st.just(drawn_unet), st.integers(2, 4), st.sampled_from([3, 5])),
    st.tuples(
        st.just(fcn),
        st.tuples(st.integers(3, 5), st.integers(3, 5)),
        st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ),
)


@given(NETWORKS, st.integers(0, 40), st.integers(30, 200), st.integers(30, 200))
@settings(max_examples=12)
def test_an_exact_tiling_equals_the_whole(drawn, spare, height, width):
    model = drawn[0](*drawn[1:])
    predictor = Network.of(model)
    step = predictor.stride[0]
    need = 2 * max(predictor.receptive_field.halo[0])
    tile = -(-(need + step + spare) // step) * step
    image = np.random.default_rng(height).random((height, width, 1), np.float32)
    tiling = ts.TilingConfig(tile_size=tile, overlap="exact")
    plan = ts.plan(model, image.shape, tiling)
    tiled = ts.tiled_predict(model, image, tiling)
    assert plan.verdict == "exact"
    np.testing.assert_allclose(tiled, whole_of(model, image, plan.grid), atol=1e-5)


def test_a_px_less_of_overlap_is_neither_called_exact_nor_exact():
    model = fcn((3, 4, 5), (1, 1, 1))
    image = np.random.default_rng(0).random((16 + 7 * 9, 16, 1), np.float32)
    exact, less = (ts.TilingConfig(tile_size=16, overlap=px, blend="crop") for px in (9, 8))
    assert ts.plan(model, image.shape, exact).halo == ((4, 5), (4, 5))
    for tiling, verdict in [(exact, "exact"), (less, "approximate")]:
        plan = ts.plan(model, image.shape, tiling)
        assert plan.verdict == verdict
        off = np.abs(ts.tiled_predict(model, image, tiling) - whole_of(model, image, plan.grid)).max()
        assert (off <= 1e-5) == (verdict == "exact")
    assert "an overlap of 9 px" in ts.plan(model, image.shape, less).reason


def test_an_aligned_step_less_is_not_exact():
    model = drawn_unet(3, 3)
    image = np.random.default_rng(0).random((96 + 3 * 56, 96, 1), np.float32)
    plan = ts.plan(model, image.shape, ts.TilingConfig(tile_size=96, overlap=40, blend="crop"))
    assert plan.grid.y.origins == (0, 56, 112, 168)
    assert plan.verdict == "approximate"
    tiled = ts.tiled_predict(model, image, plan.tiling)
    assert np.abs(tiled - whole_of(model, image, plan.grid)).max() > 1e-5


def test_every_blend_but_crop_uses_tile_ends():
    model = drawn_unet(2, 3)
    plan = ts.plan(model, (200, 200), ts.TilingConfig(tile_size=64, overlap=32, blend="hann"))
    assert plan.verdict == "approximate"
    assert plan.reason.endswith("exact needs the blend crop")
    pointwise = keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(1, 1)])
    assert ts.plan(pointwise, (900, 900)).verdict == "exact"


def test_the_plan_names_the_tile_that_exact_takes():
    free = drawn_unet(4, 3)
    with pytest.raises(SettingError, match=r"at least 104 px along y for overlap=\"exact\".*got 96"):
        ts.plan(free, (300, 300), ts.TilingConfig(tile_size=96, overlap="exact"))
    small = ts.plan(free, (300, 300), ts.TilingConfig(tile_size=96))
    assert small.verdict == "approximate"
    assert "tiles of at least 104 px" in small.reason
    assert ts.plan(free, (300, 300), ts.TilingConfig(tile_size=104, overlap="exact")).verdict == "exact"
    fixed = ts.UNetBuilder(ts.UNetConfig(input_shape=(96, 96, 1), levels=4, base_filters=1)).build()
    plan = ts.plan(fixed, (300, 300))
    assert plan.verdict == "impossible"
    assert "the network takes 96 px" in plan.reason
    text = str(ts.plan(free, (300, 300), ts.TilingConfig(tile_size=104, overlap="exact")))
    for line in ("halo           46 px above", "field of view  51 px above", "verdict        exact: "):
        assert line in text


def test_the_plan_keeps_the_setting_and_gives_the_px_in_its_grid():
    model, tiling = drawn_unet(3, 3), ts.TilingConfig(tile_size=96, overlap="exact")
    for shape, px in [((300, 90), (44, 0)), ((90, 90), (0, 0))]:
        plan = ts.plan(model, shape, tiling)
        assert plan.tiling == tiling  # an image of another size needs another overlap
        assert (plan.grid.y.overlap, plan.grid.x.overlap) == px


def test_exact_is_a_setting_that_files_can_hold():
    tiling = ts.TilingConfig(overlap="exact")
    assert tiling.blend == "crop"
    assert ts.TilingConfig.from_json(tiling.to_json()) == tiling
    assert ts.TilingConfig.from_toml('overlap = "exact"') == tiling
    with pytest.raises(SettingError, match='be crop with overlap="exact"; got hann'):
        ts.TilingConfig(overlap="exact", blend="hann")
    with pytest.raises(SettingError, match=r'a fraction of the tile or "exact"; got exakt'):
        ts.TilingConfig(overlap="exakt")
    with pytest.raises(SettingError, match="Only a network tells what is exact"):
        ts.Tiler(tiling).grid((900, 900))


def convolution(size=None, kernel=3, levels=1):
    inputs = keras.Input((size, size, 3))
    x = inputs
    for _ in range(levels):
        x = keras.layers.Conv2D(4, kernel, padding="same", activation="relu")(x)
    return keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(x))


# The largest tile that fits.


@pytest.mark.parametrize("overlap", [64, 0.25, 0])
@pytest.mark.parametrize("share", [2.0, 0.9, 0.3, 0.02])
def test_the_best_tile_fits_the_budget_and_no_other_computes_less(share, overlap):
    model, shape = convolution(), (600, 800, 3)
    predictor = Network.of(model)
    budget = int(share * predictor.bytes_per_tile(shape[:2]))
    plan = ts.plan(
        model, shape, ts.TilingConfig(tile_size="auto", overlap=overlap), runtime={"memory": budget}
    )
    assert predictor.bytes_per_tile(plan.grid.tile_shape) <= budget
    if share > 1:
        assert len(plan.grid) == 1
        assert plan.grid.redundancy == 1
    for tile in (96, 128, 192, 256, 400, (600, 400), (300, 800), (320, 432)):
        other = ts.TilingConfig(tile_size=tile, overlap=overlap)
        grid = ts.Tiler(other).grid(shape)
        if predictor.bytes_per_tile(grid.tile_shape) <= budget:
            assert plan.grid.redundancy <= grid.redundancy + 1e-9


def test_the_founding_network_of_free_size_computes_few_px_twice():
    config = ts.UNetConfig(input_shape=(None, None, 3), base_filters=1)  # its memory is a sixteenth, too
    model = ts.UNetBuilder(config).build()
    tiling = ts.TilingConfig(tile_size="auto")
    for budget in (300 << 20, 1 << 30):
        plan = ts.plan(model, (1920, 2560, 3), tiling, runtime={"memory": budget})
        assert plan.grid.redundancy <= 1.10, budget
        assert plan.network_bytes <= budget


@pytest.mark.parametrize("shape", [(1, 1), (40, 500), (333, 77), (100, 2000)])
def test_any_size_can_be_predicted_with_the_best_tile(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    model = convolution()
    budget = 3 * Network.of(model).bytes_per_tile((100, 100))
    auto = ts.tiled_predict(model, image, ts.TilingConfig(tile_size="auto"), runtime={"memory": budget})
    whole = np.asarray(model(image[None].astype(np.float32)))[0]
    assert auto.shape == (*shape, 1)
    exact = ts.TilingConfig(tile_size="auto", overlap="exact")
    np.testing.assert_allclose(
        ts.tiled_predict(model, image, exact, runtime={"memory": budget}), whole, atol=1e-5
    )


def test_a_fixed_network_keeps_its_tile_and_a_small_budget_is_refused():
    plan = ts.plan(convolution(48), (90, 70), ts.TilingConfig(tile_size="auto", overlap=8))
    assert plan.grid.tile_shape == (48, 48)
    with pytest.raises(SettingError, match=r"`memory` must hold one tile of \d+x\d+ px"):
        ts.plan(convolution(), (600, 800), ts.TilingConfig(tile_size="auto"), runtime={"memory": 1000})
    with pytest.raises(SettingError, match="be known in px; got auto"):
        ts.Tiler(ts.TilingConfig(tile_size="auto")).grid((90, 70))
    assert ts.TilingConfig(tile_size="auto").overlap == 64
    assert ts.TilingConfig().overlap == 0.25
