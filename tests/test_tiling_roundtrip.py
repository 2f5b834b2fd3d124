"""Stitching the tiles of any image with any tiling returns the image."""

from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_tiling_grid import axes
from tiledseg.config import Blend, TilingConfig
from tiledseg.tiling import Stitcher, Tiler

if TYPE_CHECKING:
    from tiledseg.tiling import TileGrid

DTYPES = ["bool", "uint8", "int16", "uint16", ">u2", "float16", "float32", "float64", ">f4"]
LAYOUTS = ["contiguous", "fortran", "reversed", "strided", "read-only", "broadcast"]


def pixels(shape, dtype, layout, seed):
    """Draw pixels of a dtype in a memory layout."""
    wide = tuple(2 * size for size in shape)
    values = np.random.default_rng(seed).integers(0, 200, wide)
    values = (values % 2 if dtype == "bool" else values).astype(dtype)
    image = values[tuple(slice(size) for size in shape)].copy()
    if layout == "fortran":
        return np.asfortranarray(image)
    if layout == "reversed":
        return image[::-1, ::-1]
    if layout == "strided":
        return values[tuple(slice(None, None, 2) for _ in shape)]
    if layout == "broadcast":
        return np.broadcast_to(image[:1], shape)
    image.flags.writeable = layout != "read-only"
    return image


@st.composite
def cases(draw):
    y, x = draw(axes(90)), draw(axes(90))
    channels = draw(st.sampled_from([None, 1, 2, 3, 5]))
    shape = (y.length, x.length) + (() if channels is None else (channels,))
    image = pixels(
        shape, draw(st.sampled_from(DTYPES)), draw(st.sampled_from(LAYOUTS)), draw(st.integers(0, 9))
    )
    config = TilingConfig(
        tile_size=(y.tile, x.tile),
        overlap=(y.overlap, x.overlap),
        alignment=(y.alignment, x.alignment),
        blend=draw(st.sampled_from(get_args(Blend))),
        pad_mode=draw(st.sampled_from(["reflect", "symmetric", "edge", "wrap", "constant"])),
    )
    return image, config, draw(st.integers(1, 9))


def stitched(image, config, batch_size, ids=None):
    tiler = Tiler(config)
    grid = tiler.grid(image.shape)
    stitcher = Stitcher(grid, image.shape[2] if image.ndim == 3 else 1)
    for batch in tiler.batches(image, batch_size, grid=grid, ids=ids):
        stitcher.add(batch.ids, batch.tiles)
    return stitcher.merge()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_stitching_the_tiles_of_an_image_returns_it(case):
    check_round_trip(*case)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(cases())
def test_stitching_the_tiles_of_an_image_returns_it_for_many_more(case):
    check_round_trip(*case)


def check_round_trip(image, config, batch_size):
    before = image.copy()
    result = stitched(image, config, batch_size)
    wanted = image.reshape(*image.shape[:2], -1).astype(np.float32)
    assert result.dtype == np.float32
    exact = config.blend == "crop" or (config.blend == "constant" and _without_overlap(image, config))
    np.testing.assert_allclose(result, wanted, rtol=0 if exact else 1e-6, atol=0)
    np.testing.assert_array_equal(image, before)


def _without_overlap(image, config):
    """Return whether no two tiles of the grid overlap."""
    grid: TileGrid = Tiler(config).grid(image.shape)
    return all(
        right - left >= axis.tile
        for axis in (grid.y, grid.x)
        for left, right in zip(axis.origins, axis.origins[1:], strict=False)
    )


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_tiles_does_not_matter(case, random):
    image, config, batch_size = case
    ids = list(range(len(Tiler(config).grid(image.shape))))
    random.shuffle(ids)
    np.testing.assert_allclose(
        stitched(image, config, batch_size, ids), stitched(image, config, 1), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge", "wrap", "constant"])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_padding_equals_that_of_numpy(mode, height, width, tile):
    image = np.arange(height * width, dtype=np.float32).reshape(height, width)
    config = TilingConfig(tile_size=tile, overlap=0, pad_mode=mode, pad_value=7.0, alignment=tile)
    grid = Tiler(config).grid(image.shape)
    below, right = grid.y.padded_length - height, grid.x.padded_length - width
    options = {"constant_values": 7} if mode == "constant" else {}
    padded = np.pad(image, ((0, below), (0, right)), mode=mode, **options)
    for batch in Tiler(config).batches(image, 4):
        for tile_id, cut in zip(batch.ids, batch.tiles, strict=True):
            np.testing.assert_array_equal(cut[..., 0], padded[grid[int(tile_id)].read_box.slices])


@given(cases(), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_outputs_in_0_to_1_stay_there_and_ones_stay_ones(case, channels, random):
    image, config, _ = case
    grid = Tiler(config).grid(image.shape)
    ids = list(range(len(grid)))
    random.shuffle(ids)
    draw = np.random.default_rng(random.randrange(1000))
    ones, drawn = Stitcher(grid, channels), Stitcher(grid, channels)
    for tile_id in ids:
        ones.add([tile_id], np.ones((1, *grid.tile_shape, channels), np.float32))
        high = 1 - draw.integers(0, 3, (1, *grid.tile_shape, channels)) * np.float32(2**-24)
        drawn.add([tile_id], high.astype(np.float32))
    assert (ones.merge() == 1).all()
    assert drawn.merge().min() >= 0
    assert drawn.merge().max() <= 1
