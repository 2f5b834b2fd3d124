"""Geometry of tiles: one axis, and the product of two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiledseg.errors import SettingError
from tiledseg.tiling import AxisGrid, Box, TileGrid


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
    ],
)
def test_impossible_axes_are_refused(setting, fix):
    with pytest.raises(SettingError, match=fix):
        AxisGrid(**setting)


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), True, None, "8"])
@pytest.mark.parametrize("name", ["length", "tile", "overlap", "alignment"])
def test_values_that_are_not_whole_numbers_are_refused(name, value):
    with pytest.raises(SettingError, match=f"`{name}` must be (a whole number|in .0, tile)"):
        AxisGrid(**({"length": 40, "tile": 16, "overlap": 4, "alignment": 1} | {name: value}))
