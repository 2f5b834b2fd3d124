"""tiled_objects: objects of functions that label one tile, whatever the tiling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledseg.errors import ArrayError, ModelError, SettingError
from tiledseg.io import PixelSize, write_image
from tiledseg.objects import label_objects, tiled_objects

measure = pytest.importorskip("skimage.measure")
rng = np.random.default_rng(0)


def in_reading_order(labels: np.ndarray) -> np.ndarray:
    known, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    numbers = np.zeros(len(known), int)
    shown = known > 0
    numbers[np.flatnonzero(shown)[np.argsort(first[shown])]] = np.arange(1, shown.sum() + 1)
    return numbers[inverse].reshape(labels.shape)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30))),
    st.integers(1, 5),
    st.integers(4, 20),
    st.sampled_from([1, 2]),
)
def test_components_of_tiles_are_those_of_the_whole(noise, overlap, more, connectivity):
    def components(tile: np.ndarray) -> np.ndarray:
        return 7 * measure.label(tile, connectivity=connectivity)  # numbers with gaps

    tiling = {"tile_size": overlap + more, "overlap": overlap}
    found = tiled_objects(components, noise, tiling, measure=False)
    whole = in_reading_order(measure.label(noise, connectivity=connectivity))
    np.testing.assert_array_equal(found.labels, whole)
    assert found.table["area"].tolist() == np.bincount(whole.ravel())[1:].tolist()


@pytest.mark.parametrize(("tile", "overlap"), [(50, 25), (64, 8), (57, 1), (400, 100)])
def test_touching_cells_of_a_known_answer_are_found_again(tile, overlap):
    y, x = np.mgrid[:150, :220]
    centres = rng.random((60, 2)) * (150, 220)
    nearest = ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(axis=-1)
    truth = np.where(rng.random(60)[nearest] < 0.7, nearest + 1, 0)  # convex cells that touch one another
    image = truth.astype(np.uint16)
    found = tiled_objects(lambda part: part.astype(int), image, {"tile_size": tile, "overlap": overlap})
    np.testing.assert_array_equal(found.labels, in_reading_order(truth))
    wanted = measure.regionprops_table(found.labels, image, properties=("area", "centroid", "mean_intensity"))
    np.testing.assert_allclose(found.table["area"], wanted["area"])
    np.testing.assert_allclose(found.table["centroid_x"], wanted["centroid-1"])
    np.testing.assert_allclose(found.table["channel_0_mean"], wanted["mean_intensity"])


@pytest.mark.parametrize("numbers", [1, 10**9])  # of a whole slide, for example
def test_very_many_objects_of_a_tile_are_told_apart(numbers):
    image = np.zeros((70, 140), np.uint8)
    image[::2, ::2] = 1
    found = tiled_objects(
        lambda part: numbers * measure.label(part), image, {"tile_size": 68, "overlap": 20}, measure=False
    )
    assert found.table["area"].tolist() == [1] * (35 * 70)


def test_the_tile_in_whose_middle_an_object_lies_decides():
    image = np.zeros((40, 100), np.uint8)
    image[10:20, 44:52] = 1

    def worse_at_borders(part: np.ndarray) -> np.ndarray:
        labels = part.astype(int)
        labels[:, :8] = labels[:, -8:] = 0  # what a network sees of an object near a border is not the object
        return labels

    found = tiled_objects(worse_at_borders, image, {"tile_size": 64, "overlap": 28})
    np.testing.assert_array_equal(found.labels, image)


def test_what_tiles_see_only_at_their_borders_is_no_object():
    image = np.zeros((100, 100), np.uint8)
    image[10:20, 44:52] = 1
    image[48:52, 38:42] = 2  # whole in the two tiles of the right, that agree on it
    image[48:52, 60:64] = 3  # cut by the border of the two tiles of the left

    def seen_at_borders(part: np.ndarray) -> np.ndarray:
        labels = part.astype(int)
        labels[:, 8:-4][part[:, 8:-4] > 1] = 0
        return labels

    found = tiled_objects(seen_at_borders, image, {"tile_size": 64, "overlap": 28})
    np.testing.assert_array_equal(found.labels, image == 1)


def test_an_object_longer_than_tiles_is_joined_and_what_two_tiles_disagree_on_is_one():
    image = np.zeros((30, 300), np.uint8)
    image[12:15] = 1
    image[20:26, 100:110] = 1
    calls = []

    def shifted(part: np.ndarray) -> np.ndarray:
        calls.append(part.shape)
        labels = measure.label(part)
        return np.roll(labels, len(calls) % 2, axis=0)  # each second tile sees it a row lower

    found = tiled_objects(shifted, image, {"tile_size": 64, "overlap": 20})
    assert len(calls) > 4
    assert len(found) == 2
    assert found.table["box_x1"].tolist() == [300, 110]


# Of three tiles at x = 0, 44 and 88: rows and columns of each object, by the tile that sees it, and px joined
SEEN = {
    "joined at one border of two": ({0: [(0, 10, 30, 64)], 1: [(2, 12, 44, 60)]}, 10 * 34 + 2 * 16),
    "side by side within both tiles": (
        {0: [(0, 11, 50, 64)], 1: [(0, 1, 44, 64), (1, 11, 50, 108)], 2: [(1, 11, 88, 120)]},
        10 * 70 + 14,
    ),
}


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("seen", SEEN)
def test_parts_are_joined_where_they_continue_one_another_at_a_border(seen, turns):
    by_tile, px = SEEN[seen]

    def label(part: np.ndarray) -> np.ndarray:
        tile = int(part.min()) // 44
        labels = np.zeros((16, 64), int)
        for number, (y0, y1, x0, x1) in enumerate(by_tile.get(tile, ()), 1):
            labels[y0:y1, x0 - 44 * tile : x1 - 44 * tile] = number
        return np.rot90(labels, turns)

    places = np.tile(np.arange(152, dtype=np.uint8), (16, 1))
    found = tiled_objects(label, np.rot90(places, turns), {"tile_size": 64, "overlap": 20}, measure=False)
    assert found.table["area"].tolist() == [px]


def test_labels_go_to_a_file_and_the_px_size_into_the_table(tmp_path):
    image = rng.random((90, 120)) < 0.5
    out = tmp_path / "labels.npy"
    found = tiled_objects(
        measure.label, image, {"tile_size": 32, "overlap": 8}, out=out, pixel_size=PixelSize(0.5, 0.5)
    )
    assert found.labels == out
    whole = label_objects(image, {"connectivity": 8})
    np.testing.assert_array_equal(np.load(out), whole.labels)
    np.testing.assert_allclose(found.table["area_um2"], whole.table["area"] / 4)


def test_an_object_of_parts_with_empty_rows_between_has_no_solidity():
    image = np.zeros((40, 30), np.uint8)
    image[5:10, 4:8] = image[20:30, 4:8] = 3
    image[3:9, 20:26] = 2
    found = tiled_objects(lambda part: part.astype(int), image)
    assert found.table["area"].tolist() == [36, 60]
    assert found.table["solidity"][0] == 1
    assert np.isnan(found.table["solidity"][1])


def test_what_is_no_label_of_its_part_is_refused():
    image = np.zeros((50, 60), np.uint8)
    with pytest.raises(ModelError, match=r"tile 0 at \(y, x\) = \(0, 0\).*got float64"):
        tiled_objects(lambda part: part.astype(float), image)
    with pytest.raises(ModelError, match=r"be integers of shape \(50, 60\)"):
        tiled_objects(lambda part: np.zeros((2, 2), int), image)
    with pytest.raises(SettingError, match="`overlap` must be at least 1 px"):
        tiled_objects(lambda part: part, image, {"tile_size": 20, "overlap": 0})
    with pytest.raises(ModelError, match=r"got bool.*components"):
        tiled_objects(lambda part: part > 0, image)
    with pytest.raises(ModelError, match=r"got tuple.*predict_instances\(tile\)\[0\]"):
        tiled_objects(lambda part: (part, {}), image)
    with pytest.raises(ArrayError, match=r"below 2\^63"):
        tiled_objects(lambda part: part + np.uint64(1 << 63), image)


def test_out_is_refused_before_a_tile_is_labelled():
    def never(_part: np.ndarray) -> np.ndarray:
        raise AssertionError

    with pytest.raises(SettingError, match=r"labels\.png"):
        tiled_objects(never, np.zeros((9, 9), np.uint8), out="labels.png")


def test_a_function_may_change_its_part_and_the_image_may_be_a_file(tmp_path):
    image = np.zeros((40, 50, 3), np.uint8)
    image[5:15, 30:40] = 7
    write_image(tmp_path / "image.png", image)

    def in_place(part: np.ndarray) -> np.ndarray:
        labels = (part[..., 0] > 0).astype(int)
        part[:] = 1
        return labels

    tiling = {"tile_size": 32, "overlap": 16}
    found = tiled_objects(in_place, image, tiling, pixel_size=(0.5, 0.25))
    assert found.table["area_um2"].tolist() == [12.5]
    assert image.max() == 7
    read = tiled_objects(in_place, tmp_path / "image.png", tiling)
    np.testing.assert_array_equal(read.labels, found.labels)
