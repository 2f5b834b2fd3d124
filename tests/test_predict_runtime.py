"""How a prediction is run: test-time augmentation, and several devices."""

import numpy as np
import pytest
import warm_python

import tiledseg as ts
from tiledseg.errors import ModelError, SettingError

TILING = ts.TilingConfig(tile_size=32, overlap=8)
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)


def red(tiles):
    return tiles[..., :1]


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
        ts.plan(red, IMAGE, oblong, tta="d4")
    np.testing.assert_allclose(ts.tiled_predict(red, IMAGE, oblong, tta="flips"), IMAGE[..., :1], rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 300), (37, 500), (250, 130), (4, 3)])
@pytest.mark.parametrize("overlap", [0.25, (8, 20)])
def test_an_automatic_tile_is_square_where_copies_are_transposed(shape, overlap):
    image = np.random.default_rng(0).random((*shape, 3), np.float32)
    tiling = {"tile_size": "auto", "overlap": overlap}
    tile = ts.plan(red, image, tiling, tta="d4").grid.tile_shape
    assert tile[0] == tile[1]
    found = ts.tiled_predict(red, image, tiling, tta="d4", batch_size=3)
    np.testing.assert_allclose(found, image[..., :1], atol=1e-6)


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
    assert "CPU:0, CPU:1; got GPU:7" in str(error), error
else:
    raise SystemExit("no error")
"""


def test_two_devices_share_the_tiles_of_an_image():
    done = warm_python.run(_ON_TWO)
    assert done.returncode == 0, done.stderr


def test_devices_are_refused_for_a_callable():
    with pytest.raises(ModelError, match="be None for any model but a Keras network"):
        ts.tiled_predict(red, IMAGE, TILING, runtime={"devices": ("CPU:0",)})


@pytest.mark.parametrize(
    "options",
    [{"tta": ""}, {"tta": ["flips"]}, *({"runtime": {"devices": one}} for one in ((), "CPU:0", 2))],
)
def test_wrong_runtimes_are_refused(options):
    with pytest.raises(SettingError, match="must "):
        ts.tiled_predict(lambda tiles: tiles[..., :1], np.zeros((20, 20, 1), np.uint8), **options)
