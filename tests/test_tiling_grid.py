"""Geometry of tiles: one axis, the product of two, and windows, which are partitions of unity."""

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiledseg.config import Blend
from tiledseg.errors import SettingError
from tiledseg.tiling import AxisGrid, Box, TileGrid, axis_windows

blends = st.sampled_from(get_args(Blend))


@st.composite
def axes(draw, longest=300):
    tile = draw(st.integers(1, 64))
    overlap = draw(st.integers(0, tile - 1))
    alignment = draw(st.integers(1, tile - overlap))
    return AxisGrid(draw(st.integers(1, longest)), tile, overlap, alignment)


@given(axes())
def test_tiles_cover_the_axis_and_none_is_superfluous(axis):
    assert axis.origins[0] == 0
    assert axis.origins[-1] + axis.tile >= axis.length
    assert all(origin + axis.tile < axis.length for origin in axis.origins[:-1])


@given(axes())
def test_origins_are_aligned_and_the_last_tile_ends_within_one_step_of_the_image(axis):
    assert all(origin % axis.alignment == 0 for origin in axis.origins)
    if len(axis.origins) > 1:
        assert axis.origins[-1] + axis.tile - axis.length < axis.alignment


@given(axes())
def test_overlaps_are_even_and_at_least_the_least_overlap(axis):
    gaps = [right - left for left, right in zip(axis.origins, axis.origins[1:], strict=False)]
    assert all(0 < gap <= axis.tile - axis.overlap for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= axis.alignment


@given(axes())
def test_there_are_as_few_tiles_as_possible(axis):
    step = (axis.tile - axis.overlap) // axis.alignment * axis.alignment
    fewest, end = 1, axis.tile
    while end < axis.length:
        fewest, end = fewest + 1, end + step
    assert len(axis.origins) == fewest


@given(axes())
def test_neighbours_share_the_px_that_lie_in_both(axis):
    tiles = [range(origin, origin + axis.tile) for origin in axis.origins]
    both = [sorted(set(one) & set(two)) for one, two in itertools.pairwise(tiles)]
    assert axis.shared == tuple((px[0], px[-1] + 1) for px in both if px)


@given(axes())
def test_cores_partition_the_axis_inside_their_tiles(axis):
    ends = [0, *(stop for _, stop in axis.cores)]
    assert [start for start, _ in axis.cores] == ends[:-1]
    assert ends[-1] == axis.length
    for origin, (start, stop) in zip(axis.origins, axis.cores, strict=True):
        assert origin <= start < stop <= origin + axis.tile


@given(st.integers(1, 300), st.integers(1, 64), st.data())
def test_unaligned_grids_are_symmetric(length, tile, data):
    axis = AxisGrid(length, tile, data.draw(st.integers(0, tile - 1)))
    mirrored = [max(length - tile, 0) - origin for origin in reversed(axis.origins)]
    differences = [abs(a - b) for a, b in zip(mirrored, axis.origins, strict=True)]
    middle_is_uneven = len(axis.origins) % 2 == 1 and axis.origins[-1] % 2 == 1
    assert sum(differences) == (1 if middle_is_uneven else 0)


def test_the_founding_image_by_hand():
    assert AxisGrid(2560, 512, 64).origins == (0, 410, 819, 1229, 1638, 2048)
    assert AxisGrid(2560, 512, 64, 128).origins == (0, 384, 640, 1024, 1408, 1664, 2048)
    assert AxisGrid(1920, 512, 0).origins == (0, 469, 939, 1408)
    assert AxisGrid(513, 512, 0).origins == (0, 1)
    assert AxisGrid(100, 512, 64).origins == (0,)


def test_the_grid_is_the_product_of_its_axes_row_by_row():
    grid = TileGrid(AxisGrid(10, 4, 1), AxisGrid(7, 4, 1), "crop")
    assert len(grid) == 6
    assert [tile.read_box for tile in grid][1] == Box(0, 4, 3, 7)
    assert grid[-1].id == 5
    assert grid[-1].read_box.slices == (slice(6, 10), slice(3, 7))
    assert [tile.id for tile in grid[2:4]] == [2, 3]
    assert grid[3].core_in_tile == Box(0, 3, 0, 4)
    assert sum(tile.core_box.shape[0] * tile.core_box.shape[1] for tile in grid) == 70
    with pytest.raises(IndexError):
        grid[6]


def test_redundancy_of_the_founding_image():
    assert TileGrid(AxisGrid(1920, 512), AxisGrid(2560, 512)).redundancy == pytest.approx(
        20 * 512**2 / 1920 / 2560
    )


@pytest.mark.parametrize(
    ("setting", "fix"),
    [
        ({"length": 0, "tile": 4}, "`length`"),
        ({"length": 4, "tile": 0}, "`tile`"),
        ({"length": 4, "tile": 4, "overlap": 4}, "Use at most 3"),
        ({"length": 4, "tile": 4, "overlap": -1}, "`overlap` .*Use 0 to 3"),
        ({"length": 4, "tile": 4, "overlap": 2, "alignment": 3}, "`alignment` .*2 px; got 3"),
        ({"length": 4, "tile": 4, "alignment": 0}, "`alignment`"),
        ({"length": 1_000_001, "tile": 2, "overlap": 1}, "at most 1000000 tiles along an axis of 1000001 px"),
    ],
)
def test_impossible_axes_are_refused(setting, fix):
    with pytest.raises(SettingError, match=fix):
        AxisGrid(**setting)
    assert AxisGrid(1_000_000, 2, 1).length == 1_000_000


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), True, None, "8"])
@pytest.mark.parametrize("name", ["length", "tile", "overlap", "alignment"])
def test_values_that_are_not_whole_numbers_are_refused(name, value):
    with pytest.raises(SettingError, match=f"`{name}` must be (a whole number|in .0, tile)"):
        AxisGrid(**({"length": 40, "tile": 16, "overlap": 4, "alignment": 1} | {name: value}))


@given(axes(), blends)
def test_weights_are_parts_of_4096_and_sum_to_one(axis, blend):
    parts = np.zeros(axis.length, int)
    for window in axis_windows(axis, blend):
        assert window.weights.dtype == np.float32
        own = window.weights * 4096
        assert (own >= 0).all()
        np.testing.assert_array_equal(own, np.rint(own))
        parts[window.start : window.stop] += own.astype(int)
    assert (parts == 4096).all()


@given(axes(), st.sampled_from(["constant", "linear", "hann", "gaussian"]))
def test_weights_equal_the_window_within_one_part(axis, blend):
    place = np.arange(0.5, axis.tile)
    end = np.minimum(place, axis.tile - place)
    shape = {
        "constant": np.ones(axis.tile),
        "linear": end,
        "hann": np.sin(np.pi * end / axis.tile) ** 2,
        "gaussian": np.exp(-0.5 * ((place - axis.tile / 2) * 8 / axis.tile) ** 2),
    }[blend]
    total = np.zeros(axis.padded_length)
    for origin in axis.origins:
        total[origin : origin + axis.tile] += shape
    for origin, window in zip(axis.origins, axis_windows(axis, blend), strict=True):
        wanted = (shape / total[origin : origin + axis.tile])[window.in_tile]
        np.testing.assert_allclose(window.weights, wanted, rtol=0, atol=1 / 4096)


@given(axes(), blends)
def test_support_lies_in_tile_and_image(axis, blend):
    for origin, window in zip(axis.origins, axis_windows(axis, blend), strict=True):
        assert 0 <= window.start < window.stop <= axis.length
        assert (window.start - origin, window.stop - origin) == (window.in_tile.start, window.in_tile.stop)
        assert window.in_tile.stop <= axis.tile


@given(axes(), blends)
def test_a_px_of_one_tile_has_weight_one(axis, blend):
    windows = axis_windows(axis, blend)
    count = np.zeros(axis.length, int)
    for window in windows:
        count[window.start : window.stop] += 1
    for window in windows:
        assert (window.weights[count[window.start : window.stop] == 1] == 1).all()


def test_linear_by_hand():
    first, second = axis_windows(AxisGrid(6, 4, 2), "linear")
    np.testing.assert_allclose(first.weights, [1, 1, 0.75, 0.25])
    np.testing.assert_allclose(second.weights, [0.25, 0.75, 1, 1])


def test_the_windows_of_crop_are_the_cores():
    assert [(w.start, w.stop) for w in axis_windows(AxisGrid(10, 4, 2), "crop")] == [
        (0, 3),
        (3, 5),
        (5, 7),
        (7, 10),
    ]


@pytest.mark.parametrize("blend", ["constant", "linear", "hann", "gaussian"])
def test_windows_of_a_symmetric_grid_are_mirror_images(blend):
    windows = axis_windows(AxisGrid(640, 128, 32), blend)
    for left, right in zip(windows, reversed(windows), strict=True):
        np.testing.assert_allclose(left.weights, right.weights[::-1], rtol=0, atol=1 / 4096)
