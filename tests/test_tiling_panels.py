"""Panels: a map divided into groups of columns equals one stitched in whole rows."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.test_tiling_grid import axes
from tiledseg import Stitcher, TileGrid, Tiler, TilingConfig
from tiledseg.config import Blend
from tiledseg.tiling import AxisGrid, Box, Panels, axis_windows, stitch_block
from tiledseg.tiling.panels import plan_panels

rng = np.random.default_rng(0)


@pytest.mark.parametrize("width", [1, 700, 3001])
def test_each_column_of_tiles_begins_in_one_panel(width: int) -> None:
    grid = Tiler(TilingConfig(tile_size=64, overlap=16)).grid((70, width))
    windows = axis_windows(grid.x, grid.blend)
    plans = plan_panels(grid, windows, Blocks((70, width, 1), step=32))
    assert [column for plan in plans for column in plan.columns] == list(range(len(windows)))
    for plan in plans:
        assert all(plan.start <= windows[column].start < plan.stop for column in plan.columns)


def test_rows_are_finished_once_all_panels_have_them() -> None:
    grid = Tiler(TilingConfig(tile_size=16, overlap=4)).grid((30, 50))
    stitcher = Stitcher(grid, 1, Blocks((30, 50, 1)))
    first, *others = Panels.of(grid, Blocks((30, 50, 1))).plans
    order = [
        row * len(grid.x.origins) + column for row in range(len(grid.y.origins)) for column in first.columns
    ]
    stitcher.skip(order)
    assert others
    assert stitcher.finished_rows == 0
    stitcher.skip(set(range(len(grid))) - set(order))
    assert stitcher.finished_rows == 30


class Blocks:
    """A sink that takes blocks and counts its finished rows."""

    def __init__(self, shape: tuple[int, ...], step: int = 8) -> None:
        self.shape, self.dtype, self.block_shape = shape, np.dtype(np.float32), (step, step)
        self.pixels = np.full(shape, np.nan, np.float32)
        self.keys: list[tuple[slice, slice]] = []
        self.most = None

    def __setitem__(self, key: tuple[slice, slice] | slice, values: np.ndarray) -> None:
        self.keys.append(key)
        if self.most is not None and len(self.keys) > self.most:
            raise KeyboardInterrupt
        self.pixels[key] = values

    def finished_rows(self, start: int, stop: int) -> int:
        done = np.isfinite(self.pixels[:, start:stop]).all(axis=(1, 2))
        rows = len(done) if done.all() else int(done.argmin())
        return rows if rows == len(done) else rows // self.block_shape[0] * self.block_shape[0]


@pytest.fixture(autouse=True)
def narrow_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiledseg.tiling.panels._PANEL", 16)


def stitched(image: np.ndarray, tiling: TilingConfig, out: object, ids: list[int] | None = None) -> list[int]:
    tiler = Tiler(tiling)
    grid = tiler.grid(image.shape)
    stitcher = Stitcher(grid, image.shape[2], out)
    ids = Panels.of(grid, out).order() if ids is None else ids
    for batch in tiler.batches(image, 3, ids=ids):
        stitcher.add(batch.ids, batch.tiles)
    stitcher.merge()
    return ids


@settings(max_examples=40)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 130),
    channels=st.integers(1, 2),
    tile=st.integers(3, 40),
    overlap=st.floats(0, 0.9),
    blend=st.sampled_from(["crop", "constant", "gaussian"]),
    seed=st.integers(0, 9),
)
def test_stitching_in_panels_returns_the_image(
    height: int, width: int, channels: int, tile: int, overlap: float, blend: str, seed: int
) -> None:
    image = np.random.default_rng(seed).random((height, width, channels), np.float32)
    tiling = TilingConfig(tile_size=tile, overlap=overlap, blend=blend)
    out = Blocks(image.shape)
    ids = stitched(image, tiling, out)
    assert sorted(ids) == list(range(len(Tiler(tiling).grid(image.shape))))
    np.testing.assert_allclose(out.pixels, image, rtol=1e-6, atol=1e-6)


def test_any_order_of_tiles_gives_the_same_map() -> None:
    image = rng.random((60, 100, 1), np.float32)
    tiling = TilingConfig(tile_size=16, overlap=6)
    ids = np.random.default_rng(1).permutation(len(Tiler(tiling).grid(image.shape))).tolist()
    out = Blocks(image.shape)
    stitched(image, tiling, out, ids)
    np.testing.assert_allclose(out.pixels, image, rtol=1e-6)


def test_regions_written_to_the_sink_are_aligned_with_its_blocks() -> None:
    image = rng.random((60, 100, 1), np.float32)
    out = Blocks(image.shape)
    stitched(image, TilingConfig(tile_size=16, overlap=6), out)
    for rows, columns in out.keys:
        assert rows.start % 8 == 0
        assert rows.stop % 8 == 0 or rows.stop == 60
        assert columns.start % 16 == 0
        assert columns.stop - columns.start <= 16


@settings(max_examples=25)
@given(most=st.integers(0, 40), tile=st.integers(8, 24), overlap=st.floats(0, 0.8), again=st.integers(0, 20))
def test_a_resumed_run_gives_the_same_map_bit_for_bit(
    most: int, tile: int, overlap: float, again: int
) -> None:
    image = np.random.default_rng(most).random((50, 90, 2), np.float32)
    tiling = TilingConfig(tile_size=tile, overlap=overlap)
    whole, parts = Blocks(image.shape), Blocks(image.shape)
    everything = stitched(image, tiling, whole)
    for stop in (most, again, None):
        parts.most, parts.keys = stop, []
        before = np.isfinite(parts.pixels).mean()
        try:
            ids = stitched(image, tiling, parts)
        except KeyboardInterrupt:
            continue
        assert before == 0 or len(ids) <= len(everything)
        assert before < 1 or not ids
    np.testing.assert_array_equal(parts.pixels, whole.pixels)


def test_a_resumed_run_computes_few_tiles_twice() -> None:
    image = rng.random((160, 160, 1), np.float32)
    tiling = TilingConfig(tile_size=8, overlap=2)
    out = Blocks(image.shape)
    everything = len(Panels.of(Tiler(tiling).grid(image.shape), out).order())
    stitched(image, tiling, out)
    out.pixels[80:, 80:] = np.nan
    ids = stitched(image, tiling, out)
    assert everything / 4 <= len(ids) < everything * 0.34
    np.testing.assert_allclose(out.pixels, image, rtol=1e-6)


@settings(max_examples=50)
@given(y=axes(60), x=axes(130), blend=st.sampled_from(get_args(Blend)), seed=st.integers(0, 99))
def test_ones_stay_ones_and_outputs_in_0_to_1_stay_there(
    y: AxisGrid, x: AxisGrid, blend: str, seed: int
) -> None:
    assume(len(y.origins) * len(x.origins) <= 500)
    grid, draw = TileGrid(y, x, blend), np.random.default_rng(seed)
    values = np.array([0, 1e-7, 1 / 3, 1 - 2**-24, 1], np.float32)
    outputs = draw.choice(values, (len(grid), *grid.tile_shape, 2))
    outputs[..., 0] = 1
    stitcher = Stitcher(grid, 2, Blocks((*grid.shape, 2)))
    ids = draw.permutation(len(grid))
    stitcher.add(ids, outputs[ids])
    box = Box(y.length // 3, y.length, x.length // 2, x.length)
    for found in (stitcher.merge().pixels, stitch_block(grid, box, dict(enumerate(outputs)), 2)):
        assert (found[..., 0] == 1).all()
        assert found.min() >= 0
        assert found.max() <= 1
