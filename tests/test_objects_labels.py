"""Labels of objects: those of the whole map, however it arrives."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledseg import ObjectsConfig
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import PixelSize, open_image
from tiledseg.objects import ObjectBatch, Objects, ObjectsSink, label_objects

masks = hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 2))
RING = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]])


def whole(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """Label the connected areas of each class of a whole map, and number them in reading order."""
    found = np.zeros(mask.shape, np.int64)
    for label in np.unique(mask[mask > 0]):
        ids = cv2.connectedComponents((mask == label).astype(np.uint8), connectivity=connectivity)[1]
        found = np.where(ids > 0, ids + found.max(), found)
    values, first = np.unique(found, return_index=True)
    order = values[np.argsort(first)]
    numbers = np.zeros(found.max() + 1, np.int64)
    numbers[order[order > 0]] = np.arange(1, np.count_nonzero(order) + 1)
    return numbers[found]


def filled(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """Give each area of background that one object alone encloses to that object."""
    labels = whole(mask, connectivity)
    areas = whole((mask == 0).astype(np.uint8), 12 - connectivity)
    result, inner = labels.copy(), np.pad(labels, 1, constant_values=-1)
    for area in range(1, areas.max() + 1):
        here = np.pad(areas == area, 1)
        near = {n for shift in (1, -1) for axis in (0, 1) for n in inner[np.roll(here, shift, axis)].tolist()}
        if len(near - {0}) == 1 and -1 not in near:
            result[areas == area] = (near - {0}).pop()
    return result


def fed(mask: np.ndarray, heights: list[int], config: dict[str, Any]) -> tuple[np.ndarray, Objects]:
    """Feed a map to a sink in bands of rows."""
    sink, row, number = ObjectsSink(mask.shape, mask.dtype, config), 0, 0
    while row < len(mask):
        height = heights[number % len(heights)]
        sink[row : row + height] = mask[row : row + height]
        row, number = row + height, number + 1
    out = np.empty(mask.shape, np.uint32)
    return out, sink.finish(out)


@given(masks, st.sampled_from([4, 8]), st.lists(st.integers(1, 9), min_size=1))
def test_labels_do_not_depend_on_bands(mask, connectivity, heights):
    labels, _ = fed(mask, heights, {"connectivity": connectivity})
    np.testing.assert_array_equal(labels, whole(mask, connectivity))


@given(masks, st.sampled_from([4, 8]), st.lists(st.integers(1, 9), min_size=1))
def test_holes_do_not_depend_on_bands(mask, connectivity, heights):
    labels, _ = fed(mask, heights, {"connectivity": connectivity, "fill_holes": True})
    np.testing.assert_array_equal(labels, filled(mask, connectivity))


@given(masks, st.integers(1, 7), st.integers(1, 7), st.randoms(use_true_random=False))
def test_blocks_may_arrive_in_any_order(mask, height, width, random):
    corners = [(y, x) for y in range(0, mask.shape[0], height) for x in range(0, mask.shape[1], width)]
    random.shuffle(corners)
    sink = ObjectsSink(mask.shape, mask.dtype, {"fill_holes": True}, image=mask)
    for y, x in corners:
        sink[y : y + height, x : x + width] = mask[y : y + height, x : x + width]
    table = sink.finish().table
    wanted = label_objects(mask, {"fill_holes": True}, image=mask).table
    for name, column in wanted.items():
        np.testing.assert_array_equal(table[name], column, err_msg=name)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_labels_of_a_map_of_several_bands(density, connectivity):
    mask = (np.random.default_rng(1).random((700, 90)) < density).astype(np.uint8)
    objects = label_objects(mask, {"connectivity": connectivity})
    assert objects.labels.dtype == np.uint32
    np.testing.assert_array_equal(objects.labels, whole(mask, connectivity))


def test_a_spiral_is_one_object():
    mask = np.zeros((601, 601), bool)
    for inset in range(0, 300, 4):
        mask[inset : 601 - inset, inset : 601 - inset] = True
        mask[inset + 2 : 599 - inset, inset + 2 : 599 - inset] = False
        mask[inset + 2 : inset + 4, inset + 1] = mask[inset + 2 : inset + 4, inset + 2] = True
    np.testing.assert_array_equal(label_objects(mask).labels, whole(mask.astype(np.uint8), 4))


def test_one_class_takes_the_threshold():
    probs = np.array([[0.2, 0.6, 0.7]], np.float32)
    assert label_objects(probs[..., None]).labels.tolist() == [[0, 1, 1]]
    assert label_objects(probs, ObjectsConfig(threshold=0.65)).labels.tolist() == [[0, 0, 1]]


def test_several_classes_take_the_largest_probability():
    probs = np.array([[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]], np.float32)
    objects = label_objects(probs)
    assert objects.labels.tolist() == [[0, 1, 2]]
    assert objects.table["class"].tolist() == [1, 2]
    np.testing.assert_allclose(objects.table["probability_mean"], [0.8, 0.6], rtol=1e-6)


def test_a_hole_is_filled_where_asked():
    assert label_objects(RING).table["area"].tolist() == [8]
    assert label_objects(RING, {"fill_holes": True}).table["area"].tolist() == [9]


@pytest.mark.parametrize("at_once", [1 << 17, 2])  # px
def test_a_filled_hole_counts_with_the_probability_of_the_objects_class(at_once, monkeypatch):
    monkeypatch.setattr("tiledseg.objects.collect._VALUES", at_once)
    probs = np.zeros((3, 3, 3), np.float32)
    probs[..., 2] = 0.9
    probs[1, 1] = (0.5, 0.3, 0.2)
    table = label_objects(probs, {"fill_holes": True}).table
    assert (table["area"].tolist(), table["class"].tolist()) == ([9], [2])
    np.testing.assert_allclose(table["probability_mean"], (8 * 0.9 + 0.2) / 9, rtol=1e-6)
    np.testing.assert_allclose(table["probability_min"], 0.2, rtol=1e-6)


def test_an_area_with_another_object_is_no_hole():
    mask = np.pad(np.ones((5, 5), np.uint8), 1)
    mask[2:5, 2:5] = 0
    mask[3, 3] = 1
    assert label_objects(mask, {"fill_holes": True}).table["area"].tolist() == [16, 1]


def test_an_open_hole_is_not_filled():
    assert label_objects(RING[:3], {"fill_holes": True}).table["area"].tolist() == [5]


def test_objects_out_of_the_limits_are_left_out_and_the_rest_is_numbered_again():
    mask = np.array([[1, 0, 1, 1, 0, 1, 1, 1]])
    assert label_objects(mask, {"min_area": 2}).labels.tolist() == [[0, 0, 1, 1, 0, 2, 2, 2]]
    assert label_objects(mask, {"max_area": 2}).labels.tolist() == [[1, 0, 2, 2, 0, 0, 0, 0]]


def test_objects_at_the_border_are_left_out_where_asked():
    mask = np.zeros((5, 7), np.uint8)
    mask[2, [0, 2, 4, 6]] = 1
    assert label_objects(mask, {"keep_border": False}).labels[2].tolist() == [0, 0, 1, 0, 2, 0, 0]


def test_a_map_without_objects_has_an_empty_table():
    objects = label_objects(
        np.zeros((5, 4)), image=np.zeros((5, 4, 3), np.uint8), config={"fill_holes": True}
    )
    assert len(objects) == 0
    assert {len(column) for column in objects.table.values()} == {0}
    assert not objects.labels.any()


def test_labels_are_written_where_asked(tmp_path):
    out = np.memmap(tmp_path / "labels", np.uint32, "w+", shape=(5, 5))
    assert label_objects(RING, out=out).labels is out
    np.testing.assert_array_equal(out, RING)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArrayError, match=r"`out` must have shape \(5, 5\) and dtype uint32"):
        label_objects(RING, out=np.zeros((5, 5)))
    with pytest.raises(ArrayError, match=r"`image` must have the map's size"):
        label_objects(RING, image=np.zeros((5, 6)))
    with pytest.raises(ArrayError, match=r"probabilities in \[0, 1\]"):
        label_objects(RING * 2.0)
    with pytest.raises(ArrayError, match=r"finite.*25 NaN .* the first at \(y, x\) = \(0, 0\)"):
        label_objects(RING * np.nan)
    with pytest.raises(ArrayError, match="labels from 0 up"):
        label_objects(-RING)
    with pytest.raises(ArrayError, match=r"\(H, W\)"):
        label_objects(np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(SettingError, match="max_area"):
        ObjectsConfig(min_area=5, max_area=4)
    with pytest.raises(ArrayError, match="`map` must be an array"):
        label_objects("map.png")
    with pytest.raises(ArrayError, match=r"`map` must hold labels below 2\^63"):
        label_objects(RING.astype(np.uint64) << np.uint64(63))
    for size in (0, (0.5, -1), PixelSize(0, 1)):
        with pytest.raises(SettingError, match="`pixel_size` must be µm per px above 0"):
            label_objects(RING, pixel_size=size)
    assert label_objects(RING, pixel_size=0.5).table["area_um2"][0] == RING.sum() / 4


def test_out_is_an_array_or_a_path():
    with pytest.raises(ArrayError, match="`out` must be an array with shape, dtype and slice assignment"):
        label_objects(RING, out=[])


def test_objects_of_more_numbers_than_two_bytes_hold_are_told_apart():
    mask = np.zeros((2, 140_000), np.uint8)
    mask[:, ::2] = 1
    table = label_objects(mask).table
    assert (table["box_x0"] == np.arange(0, 140_000, 2)).all()
    assert (table["centroid_x"] == table["box_x0"]).all()
    assert (table["area"] == 2).all()


def test_labels_are_written_to_a_file(tmp_path):
    mask = (np.random.default_rng(2).random((600, 90)) < 0.4).astype(np.uint8)
    wanted = label_objects(mask)
    for name in ("labels.ome.tif", "labels.npy"):
        found = label_objects(mask, out=tmp_path / name, pixel_size=PixelSize(0.5, 0.5))
        assert found.labels == tmp_path / name
        with open_image(tmp_path / name) as labels:
            assert labels.dtype == np.uint32
            np.testing.assert_array_equal(labels[:, :], wanted.labels)


def test_an_interrupted_file_of_labels_is_resumed_only_for_the_same_objects(tmp_path, monkeypatch):
    mask = (np.random.default_rng(2).random((1200, 90)) < 0.4).astype(np.uint8)
    path = tmp_path / "labels.ome.tif"
    sink = ObjectsSink(mask.shape, mask.dtype)
    sink[0:1200] = mask
    monkeypatch.setattr("tiledseg.objects.runs._CHUNK", 512 * 90)

    def stop(batch: ObjectBatch) -> None:
        if batch.y.max() > 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sink.finish(path, each=stop)
    assert not path.exists()
    with pytest.raises(FileError, match="objects"):
        label_objects(np.flipud(mask), out=path)
    label_objects(mask, out=path)
    with open_image(path) as labels:
        np.testing.assert_array_equal(labels[:, :], label_objects(mask).labels)


def test_a_file_of_labels_that_fails_leaves_nothing(tmp_path):
    def fail(batch: ObjectBatch) -> None:
        raise ValueError("on purpose")

    sink = ObjectsSink((60, 50), np.uint8)
    sink[0:60] = np.ones((60, 50), np.uint8)
    with pytest.raises(ValueError, match="on purpose"):
        sink.finish(tmp_path / "labels.ome.tif", each=fail)
    assert list(tmp_path.iterdir()) == []


def test_areas_in_micrometres_need_the_size_of_a_px():
    mask = np.array([[1, 0, 1, 1, 0, 1, 1, 1]])
    config = {"min_area": 1, "max_area": 2.5, "area_unit": "um2"}
    found = label_objects(mask, config, pixel_size=PixelSize(0.5, 2.0))
    assert found.labels.tolist() == [[1, 0, 2, 2, 0, 0, 0, 0]]
    assert found.table["area_um2"].tolist() == [1, 2]
    with pytest.raises(SettingError, match="pixel_size"):
        label_objects(mask, config)


def test_each_class_may_have_its_threshold():
    probs = np.array([[[0.4, 0.6, 0.0], [0.3, 0.0, 0.7], [0.1, 0.0, 0.9]]], np.float32)
    assert label_objects(probs, {"threshold": (0.5, 0.8)}).labels.tolist() == [[1, 0, 2]]
    with pytest.raises(SettingError, match="threshold"):
        label_objects(probs, {"threshold": (0.5, 0.8, 0.9)})
    for one in (probs[..., 1], probs[..., 1:2]):
        assert label_objects(one, {"threshold": (0.5,)}).labels.tolist() == [[1, 0, 0]]
        with pytest.raises(SettingError, match="must have 1 value"):
            label_objects(one, {"threshold": (0.5, 0.8)})


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_a_threshold_cuts_a_map_of_background_and_foreground(threshold):
    probs = np.random.default_rng(0).random((9, 12, 1)).astype(np.float32)
    both, one = np.concatenate([1 - probs, probs], axis=2), label_objects(probs, {"threshold": threshold})
    found = label_objects(both, {"threshold": threshold})
    assert np.array_equal(found.labels, one.labels)
    assert all(np.array_equal(found.table[name], one.table[name], equal_nan=True) for name in one.table)


def test_one_threshold_of_several_classes_is_refused():
    with pytest.raises(SettingError, match=r"threshold` must be 2 values, .*, or be left out; got 0.9"):
        label_objects(np.full((4, 5, 3), 1 / 3), {"threshold": 0.9})


def test_px_that_are_missing_or_come_twice_are_refused():
    sink = ObjectsSink((4, 4), np.uint8)
    sink[0:2] = np.ones((2, 4), np.uint8)
    with pytest.raises(ArrayError, match="row 2"):
        sink.finish()
    with pytest.raises(ArrayError, match="once"):
        sink[1:3] = np.ones((2, 4), np.uint8)
    sink[2:2] = np.ones((0, 4), np.uint8)
    with pytest.raises(ArrayError, match=r"`px` must have shape \(1, 4\); got \(4, 2\)"):
        sink[2:3] = np.ones((4, 2), np.uint8)


def test_a_sink_takes_the_indices_of_arrays():
    whole_map = np.zeros((9, 7, 3), np.float32)
    whole_map[2:5, 3:6, 1] = 1
    sink = ObjectsSink(whole_map.shape, np.float32)
    sink[:, :4, ...] = whole_map[:, :4]
    sink[..., 4:7, :] = whole_map[:, 4:]
    assert sink.finish().table["area"].tolist() == [9]
    for key in (3, np.s_[::2], np.s_[..., 1:2], None):
        with pytest.raises(ArrayError, match=r"slices with a step of 1|take all channels"):
            ObjectsSink(whole_map.shape, np.float32)[key] = whole_map
