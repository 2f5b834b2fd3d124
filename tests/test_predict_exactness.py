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

layers = keras.layers


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
@settings(max_examples=6)
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
    for line in ("halo            46 px above", "receptive field 51 px above", "verdict         exact: "):
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
    image = np.random.default_rng(0).integers(0, 32, (*shape, 3), np.uint8)  # larger sums round by more
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


def turned(image, copy):
    """One of the eight copies: bit 0 mirrors y, bit 1 mirrors x, bit 2 then transposes."""
    image = image[:: -1 if copy & 1 else 1, :: -1 if copy & 2 else 1]
    return image.swapaxes(0, 1) if copy & 4 else image


def turned_back(found, copy):
    return turned(found.swapaxes(0, 1) if copy & 4 else found, copy & 3)


LOPSIDED = {
    "high kernel": lambda x: layers.Conv2D(2, kernel_size=(9, 1), padding="same")(layers.Identity()(x)),
    "wide steps": lambda x: layers.UpSampling2D((1, 4))(
        layers.Conv2D(2, (3, 5), strides=(1, 4), padding="same")(x)
    ),
    "shifted": lambda x: layers.Conv2D(2, 9)(layers.ZeroPadding2D(((8, 0), (0, 8)))(x)),
}


@pytest.mark.parametrize(("tta", "copies"), [("flips", 4), ("d4", 8)])
@pytest.mark.parametrize("name", LOPSIDED)
def test_the_copies_of_a_tile_are_exact_too(name, tta, copies):
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, LOPSIDED[name](inputs))
    image = np.random.default_rng(0).random((96, 128, 1), np.float32)
    parts = []
    for copy in range(copies):
        whole = np.asarray(model(np.ascontiguousarray(turned(image, copy))[None]))[0]
        parts.append(turned_back(whole, copy))
    tiling = {"tile_size": 32, "overlap": "exact"}
    assert ts.plan(model, image, tiling, tta=tta).verdict == "exact"
    found = ts.tiled_predict(model, image, tiling, tta=tta)
    np.testing.assert_allclose(found, np.mean(parts, axis=0), atol=1e-5)


def test_an_overlap_that_is_exact_for_a_tile_alone_is_not_for_its_copies():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, LOPSIDED["high kernel"](inputs))
    tiling = {"tile_size": 32, "overlap": (8, 0), "blend": "crop"}
    verdicts = [ts.plan(model, (96, 128, 1), tiling, tta=tta).verdict for tta in (None, "flips", "d4")]
    assert verdicts == ["exact", "exact", "approximate"]
