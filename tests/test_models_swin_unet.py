"""Attention within windows: compared with loops over windows and px; tiled compared with whole."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tiledseg as ts
from tiledseg.engine import Network
from tiledseg.models import build_model, builder_for
from tiledseg.models.architectures.swin_unet import DepthToSpace, SpaceToDepth, WindowAttention
from tiledseg.tiling import Windows

SWIN = {
    "name": "swin_unet",
    "patch": 2,
    "window": 4,
    "embedding": 8,
    "depths": (2, 2),
    "heads": (1, 2),
    "drop_path": 0.0,
}


def drawn(layer, channels):
    layer.build((None, None, None, channels))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    return layer


def neighbours(place: int, length: int, window: int, shift: int) -> range:
    """Return the px of an axis that a px attends to."""
    if length == window:
        return range(length)
    start = (place - shift) // window * window + shift
    return range(max(start, 0), min(start + window, length))


def attended(layer: WindowAttention, x: np.ndarray) -> np.ndarray:
    """Compute the output of the layer px by px."""
    weights = {weight.path.split("/", 1)[1]: weight.numpy() for weight in layer.weights}
    height, width, channels = x.shape
    depth, side = channels // layer.heads, 2 * layer.window - 1
    qkv = x @ weights["qkv/kernel"] + weights["qkv/bias"]
    query, key, value = np.moveaxis(qkv.reshape(height, width, 3, layer.heads, depth), 2, 0)
    merged = np.empty((height, width, layer.heads, depth))
    for y, x_ in np.ndindex(height, width):
        rows = neighbours(y, height, layer.window, layer.shift)
        columns = neighbours(x_, width, layer.window, layer.shift)
        for head in range(layer.heads):
            seen = [(v, u) for v in rows for u in columns]
            logits = np.array(
                [
                    query[y, x_, head] @ key[v, u, head] / np.sqrt(depth)
                    + weights["bias_table"][
                        (y - v + layer.window - 1) * side + x_ - u + layer.window - 1, head
                    ]
                    for v, u in seen
                ]
            )
            share = np.exp(logits - logits.max())
            merged[y, x_, head] = share @ [value[v, u, head] for v, u in seen] / share.sum()
    out: np.ndarray = merged.reshape(x.shape) @ weights["projection/kernel"] + weights["projection/bias"]
    return out


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(4, 4), (8, 4), (8, 12)])
def test_window_attention_equals_loops_over_px(shift, size):
    layer = drawn(WindowAttention(heads=2, window=4, shift=shift), 6)
    x = np.random.default_rng(1).normal(size=(2, *size, 6)).astype(np.float32)
    got = np.asarray(layer(x))
    for one in range(2):
        np.testing.assert_allclose(got[one], attended(layer, x[one]), atol=1e-4)


@pytest.mark.parametrize("shift", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_window_attention_of_free_size_is_the_same(shift):
    layer = drawn(WindowAttention(heads=2, window=4, shift=shift), 6)
    inputs = keras.Input((None, None, 6))
    free = keras.Model(inputs, layer(inputs))
    for size in [(4, 4), (4, 8), (12, 8)]:
        x = np.random.default_rng(1).normal(size=(1, *size, 6)).astype(np.float32)
        np.testing.assert_allclose(free.predict(x, verbose=0), layer(x), atol=1e-5)  # in a graph


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_layers_survive_keras_own_saving(tmp_path):
    inputs = keras.Input((8, 8, 4))
    x = DepthToSpace(2)(SpaceToDepth(2)(inputs))
    network = keras.Model(inputs, WindowAttention(2, 4, 2)(x))
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    x = np.random.default_rng(0).random((1, 8, 8, 4), np.float32)
    np.testing.assert_array_equal(again(x), network(x))
    np.testing.assert_array_equal(keras.Model(inputs, DepthToSpace(2)(SpaceToDepth(2)(inputs)))(x), x)


def test_places_in_windows_by_hand():
    plain, shifted = Windows(4).places(12), Windows(4, 1).places(12)
    assert plain.sources(5, 5) == (4, 7)
    assert plain.spoiled(12, 0, 0) == (0, 0)
    assert plain.spoiled(12, 1, 5) == (4, 8)
    assert shifted.sources(5, 8) == (5, 8)
    assert shifted.sources(4, 5) == (1, 8)
    assert shifted.spoiled(12, 0, 0) == (1, 3)
    assert shifted.spoiled(12, 2, 4) == (5, 7)


def test_tiles_on_the_windows_grid_are_exact():
    network = build_model(SWIN | {"input_shape": (None, None, 3)})
    image = np.random.default_rng(0).random((160, 128, 3), dtype=np.float32)
    tiling = ts.TilingConfig(tile_size=96, overlap="exact")
    plan = ts.plan(network, image.shape, tiling)
    assert plan.verdict == "exact"
    assert plan.stride == (16, 16)
    whole = np.asarray(network(image[None]))[0]
    tiled = ts.tiled_predict(network, image, tiling)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    moved = ts.tiled_predict(network, image, ts.TilingConfig(tile_size=96, overlap=0))
    assert np.abs(moved - whole).max() > 1e-3


def test_the_receptive_field_of_the_default_swin_unet_by_hand():
    network = builder_for({"name": "swin_unet", "input_shape": (None, None, 3)}).build(blank=True)
    predictor = Network.of(network)
    # Tokens spoiled at the start, by level: a plain layer rounds up to whole windows of 8, a
    # shifted one to half a window more; merging halves, expanding doubles.
    spoiled = 0
    for level in range(4):
        spoiled = -(-spoiled // 2) if level else 0
        spoiled = -(-spoiled // 8) * 8
        spoiled += 4
    for _ in range(3):
        spoiled = -(-2 * spoiled // 8) * 8 + 4
    assert predictor.receptive_field.halo == ((4 * spoiled, 4 * spoiled),) * 2
    assert predictor.stride == (256, 256)
