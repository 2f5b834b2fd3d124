"""Tiler: images that it accepts and refuses, batches, default tilings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiledseg import Tiler, TilingConfig
from tiledseg.errors import ArrayError, SettingError
from tiledseg.tiling import Box, default_tiling


def first_tiles(image, **settings):
    return next(iter(Tiler(TilingConfig(**({"tile_size": 4, "overlap": 0} | settings))).batches(image)))


def test_tiles_have_the_dtype_of_the_image_and_their_own_memory():
    image = np.arange(64, dtype=">u2").reshape(8, 8)
    batch = first_tiles(image)
    assert batch.tiles.dtype == np.uint16
    batch.tiles[:] = 0
    assert image.max() == 63


@pytest.mark.parametrize("kept", [lambda tiles: tiles, lambda tiles: tiles[:, 1:], lambda tiles: tiles.data])
def test_what_is_kept_of_a_batch_is_not_overwritten_by_later_ones(kept):
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    tiler = Tiler(TilingConfig(tile_size=8, overlap=2))
    some, wanted = [], []
    for number, batch in enumerate(tiler.batches(image, 3)):
        if number % 3 == 1:
            some.append(kept(batch.tiles))
            wanted.append(np.array(some[-1]))
    assert len(some) > 3
    for one, two in zip(some, wanted, strict=True):
        np.testing.assert_array_equal(np.array(one), two)


def test_without_copies_a_tile_is_a_part_of_the_image_where_it_has_whole_rows():
    tiler = Tiler(TilingConfig(tile_size=4, overlap=0))
    image = np.arange(96, dtype=np.float32).reshape(8, 4, 3)
    unaligned = np.zeros(image.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(image.shape)
    unaligned[:] = image
    for array, batch_size, options, shared in (
        (image, 1, {"copy": False}, True),
        (image[..., 0].copy(), 1, {"copy": False}, True),
        (image, 1, {}, False),
        (image, 2, {"copy": False}, False),
        (image, 1, {"copy": False, "dtype": np.float64}, False),
        (image[:, :3], 1, {"copy": False}, False),
        (image[:3], 1, {"copy": False}, False),
        (np.concatenate([image, image], axis=1), 1, {"copy": False}, False),
        (image.astype(">f4"), 1, {"copy": False}, False),
        (unaligned, 1, {"copy": False}, False),
    ):
        found = list(tiler.batches(array, batch_size, **options))
        wanted = list(tiler.batches(array, batch_size))
        for one, two in zip(found, wanted, strict=True):
            assert np.shares_memory(one.tiles, array) == shared
            np.testing.assert_array_equal(one.tiles, two.tiles)


def test_batches_follow_the_given_ids():
    image = np.arange(64).reshape(8, 8)
    batches = list(Tiler(TilingConfig(tile_size=4, overlap=0)).batches(image, 2, ids=[3, 0, 2]))
    assert [batch.ids.tolist() for batch in batches] == [[3, 0], [2]]
    assert batches[0].tiles[0, 0, 0, 0] == image[4, 4]
    assert len(batches[1]) == 1
    for ids in ([4], [-1], [0, 1.0]):
        with pytest.raises(SettingError, match="`ids`"):
            Tiler(TilingConfig(tile_size=4, overlap=0)).batches(image, ids=ids)


def test_only_the_regions_of_the_tiles_are_read():
    class Recorder:
        shape, dtype, regions = (6, 10), np.dtype("uint8"), []

        def __getitem__(self, key):
            self.regions.append(key)
            return np.zeros((6, 10), np.uint8)[key]

    source = Recorder()
    list(Tiler(TilingConfig(tile_size=6, overlap=2)).batches(source))
    assert source.regions == [(slice(0, 6), slice(0, 6)), (slice(0, 6), slice(4, 10))]


def test_memmap_is_read_as_an_array(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (9, 11, 3), np.uint8)
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    np.testing.assert_array_equal(first_tiles(mapped).tiles, first_tiles(image).tiles)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(5), r"shape \(H, W\) or \(H, W, C\); got \(5,\)"),
        (np.zeros((2, 5, 5, 3)), "one image at a time"),
        (np.zeros((3, 64, 64)), r"\(C, H, W\).*numpy.moveaxis\(image, 0, -1\)"),
        (np.zeros((0, 5)), "empty image"),
        (np.zeros((5, 5, 0)), "at least 1 px and 1 channel"),
        (np.zeros((5, 5), complex), "got complex128"),
        (np.zeros((5, 5), object), "got object"),
        (np.zeros((5, 5), "datetime64[s]"), "datetime64"),
        ([[1, 2], [3, 4]], "an array with shape and dtype; got list"),
    ],
)
def test_arrays_that_are_not_images_are_refused(image, message):
    with pytest.raises(ArrayError, match=message):
        first_tiles(image)


def test_nan_is_refused_with_its_position():
    image = np.zeros((8, 8), np.float32)
    image[5, 6] = np.nan
    image[7, 7] = np.inf
    with pytest.raises(ArrayError, match=r"2 NaN or infinite values, the first at \(y, x\) = \(5, 6\)"):
        list(Tiler(TilingConfig(tile_size=4, overlap=0)).batches(image))


def test_a_padding_value_that_the_dtype_cannot_hold_is_refused():
    with pytest.raises(SettingError, match=r"whole number in \[0, 255\]"):
        first_tiles(np.zeros((3, 3), np.uint8), pad_mode="constant", pad_value=300.0)
    for value in (-1.0, 2.0, 0.5):
        with pytest.raises(SettingError, match=r"whole number in \[0, 1\] for bool"):
            first_tiles(np.zeros((3, 3), bool), pad_mode="constant", pad_value=value)
    assert first_tiles(np.zeros((3, 3), bool), pad_mode="constant", pad_value=1.0).tiles.sum() == 16 - 9


def test_a_tile_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(SettingError, match=r"total stride 16 px; got 100\. Use 96 or 112"):
        Tiler(TilingConfig(tile_size=100, overlap=0)).grid((50, 50), stride=(16, 16))


def test_alignment_and_stride_both_divide_the_origins():
    grid = Tiler(TilingConfig(tile_size=48, overlap=4, alignment=6)).grid((200, 200), stride=(4, 4))
    assert grid.y.alignment == 12
    assert all(origin % 12 == 0 for origin in grid.y.origins)


@pytest.mark.parametrize("batch_size", [0, -1, True])
def test_a_batch_size_under_one_is_refused(batch_size):
    with pytest.raises(SettingError, match="`batch_size`"):
        Tiler().batches(np.zeros((5, 5)), batch_size)


def test_a_grid_of_another_image_is_refused():
    tiler = Tiler(TilingConfig(tile_size=4, overlap=0))
    with pytest.raises(ArrayError, match="grid's height and width"):
        tiler.batches(np.zeros((5, 5)), grid=tiler.grid((6, 5)))


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_a_box_of_any_size_is_padded_like_a_tile(mode):
    image = np.random.default_rng(0).integers(1, 256, (30, 40, 2), np.uint8)
    tiler = Tiler(TilingConfig(tile_size=16, overlap=4, pad_mode=mode))
    box = Box(10, 45, 35, 50)
    want = np.pad(image, ((0, 15), (0, 10), (0, 0)), mode=mode)[box.slices]
    np.testing.assert_array_equal(tiler.read(image, box), want)


@given(length=st.integers(1, 2000), stride=st.integers(1, 600), times=st.none() | st.integers(1, 40))
def test_the_default_tiling_fits_every_tile_and_stride(length, stride, times):
    tile = None if times is None else stride * times
    tiling = default_tiling((tile, tile), (stride, stride))
    grid = Tiler(tiling).grid((length, length), (stride, stride))
    assert grid.y.tile == tile or (tile is None and grid.y.tile % stride == 0)
    assert tiling.overlap_px[0] in {grid.y.tile // 4, grid.y.tile - stride}


def test_the_default_overlap_shrinks_to_leave_a_step():
    assert default_tiling().tile_shape == (512, 512)
    assert default_tiling((33, 35)) == default_tiling((33, 35), (1, 1))
    assert default_tiling((256, 128), (256, 32)).overlap_px == (0, 32)
    assert default_tiling((256, 256), (224, 32)).overlap_px == (32, 64)


@pytest.mark.parametrize(
    ("shape", "clip", "tiles"),
    [
        ((156, 90), (True, True), (160, 96)),
        ((156, 90), (False, True), (512, 96)),
        ((156, 90), (False, False), (512, 512)),
        ((511, 513), (True, True), (512, 512)),
        ((1, 600), (True, True), (32, 512)),
    ],
)
def test_a_tile_is_clipped_to_the_image_rounded_up_to_the_stride(shape, clip, tiles):
    tiler = Tiler(TilingConfig(tile_size=512, overlap=64, alignment=64))
    assert tiler.grid(shape).tile_shape == (512, 512)  # by default, no axis is clipped
    grid = tiler.grid(shape, (32, 32), clip=clip)
    assert grid.tile_shape == tiles
    assert grid.y.origins == (0,)
    image = np.zeros(shape, np.uint8)
    assert next(tiler.batches(image, grid=grid)).tiles.shape[1:3] == tiles
