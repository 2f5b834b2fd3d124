"""The tile that fits in memory, test-time augmentation, tissue alone, several devices; and seams."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import tiledseg as ts
from tiledseg.config import EvaluateConfig
from tiledseg.engine import Network
from tiledseg.errors import ModelError, SettingError
from tiledseg.predict import seam_report

TILING = ts.TilingConfig(tile_size=32, overlap=8)
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)


def red(tiles):
    return tiles[..., :1]


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


# Test-time augmentation.


def _position_aware(tiles):
    """Return something that changes with every turn of a tile."""
    y, x = np.mgrid[: tiles.shape[1], : tiles.shape[2]]
    return tiles[..., :1] * np.float32(0.5) + (y * 3 + x * x * 0.1).astype(np.float32)[..., None]


@pytest.mark.parametrize(("tta", "number"), [("flips", 4), ("d4", 8)])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_copies_of_a_tile_are_averaged_in_full_batches(tta, number, batch_size):
    sizes = []

    def network(tiles):
        sizes.append(len(tiles))
        return _position_aware(tiles)

    tile = IMAGE[:32, :32].astype(np.float32)
    turns = [
        (np.rot90, k, flipped) for k in (range(4) if tta == "d4" else (0, 2)) for flipped in (False, True)
    ]
    wanted = np.zeros((32, 32, 1), np.float64)
    for turn, k, flipped in turns:
        seen = turn(tile, k)[::-1] if flipped else turn(tile, k)
        answer = _position_aware(np.ascontiguousarray(seen)[None])[0]
        wanted += turn(answer[::-1] if flipped else answer, -k)
    probs = ts.tiled_predict(network, tile, TILING, tta=tta, batch_size=batch_size)
    np.testing.assert_allclose(probs, wanted / number, rtol=1e-5)
    assert sum(sizes) == number
    assert max(sizes) <= batch_size
    assert len(sizes) == -(-number // batch_size)
    sizes.clear()
    ts.tiled_predict(network, IMAGE, TILING, tta=tta, batch_size=batch_size)
    assert max(sizes) <= batch_size
    assert sum(sizes) == number * len(ts.plan(network, IMAGE.shape, TILING).grid)


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(SettingError, match="be one of flips, d4; got rotations"):
        ts.tiled_predict(red, IMAGE, TILING, tta="rotations")
    oblong = ts.TilingConfig(tile_size=(32, 48), overlap=8)
    with pytest.raises(SettingError, match="be flips for tiles that are not square"):
        ts.tiled_predict(red, IMAGE, oblong, tta="d4")
    np.testing.assert_allclose(ts.tiled_predict(red, IMAGE, oblong, tta="flips"), IMAGE[..., :1], rtol=1e-6)


def test_batches_of_copies_are_halved_too_when_memory_runs_out():
    sizes = []

    def network(tiles):
        sizes.append(len(tiles))
        if len(tiles) > 2:
            raise MemoryError
        return red(tiles)

    probs = ts.tiled_predict(network, IMAGE, TILING, tta="d4", batch_size=8)
    np.testing.assert_allclose(probs, IMAGE[..., :1], rtol=1e-6)
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[3:]) <= 4


# Tissue.


def _slide():
    slide = np.full((400, 600, 3), 240, np.uint8)
    slide += np.random.default_rng(0).integers(0, 8, slide.shape, np.uint8)
    slide[100:180, 300:420] = (150, 60, 140)
    return slide


def test_only_tissue_is_computed_and_all_of_it():
    slide, calls = _slide(), []

    def network(tiles):
        calls.append(len(tiles))
        return red(tiles)

    probs = ts.tiled_predict(network, slide, TILING, roi="tissue", fill_value=-1)
    tissue = slide[..., 1] < 100
    np.testing.assert_allclose(probs[tissue][:, 0], 150, rtol=1e-6)
    np.testing.assert_allclose(probs[:50], -1, rtol=1e-5)
    assert sum(calls) < 0.2 * len(ts.plan(network, slide.shape, TILING).grid)
    calls.clear()
    ts.tiled_predict(network, slide[..., 1], TILING, roi="tissue")  # one channel: what is dark
    assert 0 < sum(calls) < 0.2 * len(ts.plan(network, slide.shape, TILING).grid)


@pytest.mark.parametrize("image", [IMAGE[..., 0] // 64, np.full((90, 70, 3), 7, np.uint8)])
def test_where_there_is_no_background_all_is_computed(image):
    calls = []
    ts.tiled_predict(lambda t: calls.append(len(t)) or red(t), image, TILING, roi="tissue")
    assert sum(calls) == len(ts.plan(red, image.shape, TILING).grid)


def test_a_large_slide_is_looked_at_in_bands():
    class Watched:
        shape, dtype, rows = (5000, 3000), np.dtype("uint8"), []

        def __getitem__(self, key):
            self.rows.append(key[0].stop - key[0].start)
            return np.full((key[0].stop - key[0].start, key[1].stop - key[1].start), 200, np.uint8)

    ts.tiled_predict(red, Watched(), ts.TilingConfig(tile_size=500), roi="tissue")
    assert max(Watched.rows) <= 500
    with pytest.raises(SettingError, match='an array or "tissue"'):
        ts.tiled_predict(red, IMAGE, roi="cells")


# Seams.


def test_tiles_that_agree_have_seams_without_a_disagreement():
    report = seam_report(red, IMAGE, TILING)
    grid = ts.plan(red, IMAGE.shape, TILING).grid
    rows, columns = len(grid.y.origins), len(grid.x.origins)
    assert len(report.seams) == rows * (columns - 1) + columns * (rows - 1)
    assert report.score == 0
    assert not report.disagreement.any()


def test_the_seam_report_says_where_and_how_much_tiles_disagree():
    tiling = ts.TilingConfig(tile_size=32, overlap=8, blend="crop")
    grid = ts.plan(red, (56, 56), tiling).grid
    assert len(grid) == 4
    numbers = iter([0.0, 0.1, 0.3, 0.6])
    report = seam_report(
        lambda tiles: np.full((1, 32, 32, 1), next(numbers), np.float32),
        IMAGE[:56, :56],
        tiling,
        batch_size=1,
    )
    assert [seam.tiles for seam in report.seams] == [(0, 1), (0, 2), (1, 3), (2, 3)]
    np.testing.assert_allclose([seam.mean for seam in report.seams], [0.1, 0.3, 0.5, 0.3], rtol=1e-5)
    assert report.worst.tiles == (1, 3)
    np.testing.assert_allclose(report.disagreement[:24, 24:32], 0.1, rtol=1e-5)
    np.testing.assert_allclose(report.disagreement[24:32, 24:32], 0.5, rtol=1e-5)
    assert not report.disagreement[:24, :24].any()
    assert report.score == pytest.approx(0.3, rel=1e-5)
    assert "the worst, 0.5000, between tiles 1 and 3 at (y, x) = (24, 24)" in str(report)


def test_the_report_leaves_tiles_out_that_the_roi_does():
    calls, mask = [], np.zeros((90, 70), bool)
    mask[:10, :10] = True
    report = seam_report(lambda t: calls.append(len(t)) or red(t), IMAGE, TILING, roi=mask)
    assert sum(calls) == 1
    assert report.seams == ()
    assert str(report) == "no tiles overlap"


# Devices.

_ON_TWO = """
import os
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import keras, numpy as np, tensorflow as tf, threading
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tiledseg as ts

class Noted(keras.layers.Layer):
    where = set()
    def call(self, x):
        Noted.where.add(self.weight.value.device[-5:])
        return x * self.weight
    def build(self, shape):
        self.weight = self.add_weight(shape=(1,), initializer="ones")

inputs = keras.Input((None, None, 3))
model = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(Noted()(inputs)))
image = np.random.default_rng(0).random((200, 150, 3), np.float32)
tiling = ts.TilingConfig(tile_size=32, overlap=8)
one = ts.tiled_predict(model, image, tiling, runtime={"engine": "keras"})
Noted.where.clear()
two = ts.tiled_predict(model, image, tiling, runtime={"devices": ("CPU:0", "CPU:1")})
assert Noted.where == {"CPU:0", "CPU:1"}, Noted.where
np.testing.assert_allclose(two, one, atol=1e-6)
model.set_weights([weight + 1 for weight in model.get_weights()])
new = ts.tiled_predict(model, image, tiling, runtime={"devices": ("CPU:0", "CPU:1")})
np.testing.assert_allclose(new, ts.tiled_predict(model, image, tiling), atol=1e-5)
try:
    ts.tiled_predict(model, image, tiling, runtime={"devices": ("GPU:7",)})
except ts.errors.SettingError as error:
    assert "be some of CPU:0, CPU:1; got GPU:7" in str(error), error
else:
    raise SystemExit("no error")
"""


def test_two_devices_share_the_tiles_of_an_image():
    subprocess.run([sys.executable, "-c", _ON_TWO], check=True)


def test_devices_are_refused_for_a_callable():
    with pytest.raises(ModelError, match="be None but for a Keras network"):
        ts.tiled_predict(red, IMAGE, TILING, runtime={"devices": ("CPU:0",)})


def test_an_evaluation_says_how_far_tiles_disagree():
    truth, evaluator = np.zeros((90, 70), np.uint8), ts.Evaluator(EvaluateConfig(tiling=TILING))
    agreeing = evaluator.evaluate(lambda tiles: tiles[..., :1] / 255, [(IMAGE, truth)])
    assert agreeing.images[0].disagreement == 0
    ramp = np.linspace(0, 1, 32, dtype=np.float32)[None, :, None, None]
    steep = evaluator.evaluate(lambda tiles: np.zeros_like(tiles[..., :1]) + ramp, [(IMAGE, truth)])
    assert steep.images[0].disagreement > 0.1
    alone = evaluator.evaluate(lambda tiles: tiles[..., :1] / 255, [(IMAGE[:32, :32], truth[:32, :32])])
    assert np.isnan(alone.images[0].disagreement)


@pytest.mark.parametrize(
    "options",
    [{"tta": ""}, {"tta": ["flips"]}, *({"runtime": {"devices": one}} for one in ((), "CPU:0", 2))],
)
def test_wrong_runtimes_are_refused(options):
    with pytest.raises(SettingError, match="must "):
        ts.tiled_predict(lambda tiles: tiles[..., :1], np.zeros((20, 20, 1), np.uint8), **options)
