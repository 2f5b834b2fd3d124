"""Measurements of objects: equal to those of scikit-image."""

from __future__ import annotations

import numpy as np
import pytest

from tiledseg.io import PixelSize
from tiledseg.objects import ObjectsSink, label_objects

regionprops_table = pytest.importorskip("skimage.measure").regionprops_table
NAMES = {
    "centroid_y": "centroid-0",
    "centroid_x": "centroid-1",
    "box_y0": "bbox-0",
    "box_x0": "bbox-1",
    "box_y1": "bbox-2",
    "box_x1": "bbox-3",
    "area": "area",
    "perimeter": "perimeter",
    "equivalent_diameter": "equivalent_diameter_area",
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "eccentricity": "eccentricity",
    "extent": "extent",
    "solidity": "solidity",
}
VALUES = {"mean": "intensity_mean", "sd": "intensity_std", "min": "intensity_min", "max": "intensity_max"}


def blobs(seed: int, density: float) -> np.ndarray:
    """Draw areas of many forms that cross the borders of bands."""
    coarse = np.random.default_rng(seed).random((140, 30)) < density
    fine = np.random.default_rng(seed + 1).random((560, 120)) < 0.9
    return (np.kron(coarse, np.ones((4, 4), bool)) & fine).astype(np.uint8)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("density", [0.2, 0.5])
def test_geometry_equals_that_of_scikit_image(density, connectivity):
    objects = label_objects(blobs(3, density), {"connectivity": connectivity})
    wanted = regionprops_table(
        objects.labels.astype(np.int64),
        properties=[*{name.split("-")[0] for name in NAMES.values()}, "orientation"],
    )
    for ours, theirs in NAMES.items():
        np.testing.assert_allclose(objects.table[ours], wanted[theirs], rtol=1e-5, atol=1e-6, err_msg=ours)
    longer = objects.table["major_axis"] - objects.table["minor_axis"] > 1e-6
    turned = (objects.table["orientation"] - wanted["orientation"] + np.pi / 2) % np.pi - np.pi / 2
    np.testing.assert_allclose(turned[longer], 0, atol=1e-6)


def test_values_equal_those_of_scikit_image():
    mask, rng = blobs(5, 0.4), np.random.default_rng(6)
    image = rng.integers(0, 65536, (*mask.shape, 2), dtype=np.uint16)
    probs = np.where(mask > 0, 0.5 + rng.random(mask.shape) / 2, 0.1).astype(np.float32)
    objects = label_objects(probs, image=image)
    labels = objects.labels.astype(np.int64)
    for prefix, picture in (
        ("probability", probs),
        ("channel_0", image[..., 0]),
        ("channel_1", image[..., 1]),
    ):
        wanted = regionprops_table(labels, picture.astype(np.float64), properties=list(VALUES.values()))
        for ours, theirs in VALUES.items():
            np.testing.assert_allclose(
                objects.table[f"{prefix}_{ours}"], wanted[theirs], rtol=1e-5, atol=1e-6
            )


def test_a_filled_hole_is_measured_too():
    mask = np.pad(np.ones((3, 3), np.uint8), 1)
    mask[2, 2] = 0
    table = label_objects(mask, {"fill_holes": True}, image=np.arange(25).reshape(5, 5)).table
    assert table["centroid_y"] == table["centroid_x"] == 2
    assert table["channel_0_mean"] == 12
    assert table["perimeter"] == 8


def test_one_px_has_no_perimeter_and_no_circularity():
    table = label_objects(np.array([[0, 1]])).table
    assert table["perimeter"] == table["major_axis"] == 0
    assert np.isnan(table["circularity"]).all()


def test_columns_in_micrometres_equal_those_of_scikit_image_with_spacing():
    mask = blobs(3, 0.3)
    objects = label_objects(mask, pixel_size=PixelSize(0.5, 0.8))
    names = {
        "area_um2": "area",
        "centroid_y_um": "centroid-0",
        "centroid_x_um": "centroid-1",
        "major_axis_um": "axis_major_length",
        "minor_axis_um": "axis_minor_length",
    }
    properties = ["area", "centroid", "axis_major_length", "axis_minor_length"]
    wanted = regionprops_table(objects.labels.astype(np.int64), properties=properties, spacing=(0.5, 0.8))
    for ours, theirs in names.items():
        np.testing.assert_allclose(objects.table[ours], wanted[theirs], rtol=1e-5, atol=1e-6, err_msg=ours)
    assert np.isnan(objects.table["perimeter_um"]).all()
    square = label_objects(mask, pixel_size=PixelSize(0.5, 0.5)).table
    np.testing.assert_allclose(square["perimeter_um"], square["perimeter"] / 2)


def test_a_large_object_is_measured_like_others(monkeypatch):
    mask = np.pad(blobs(4, 0.7), ((3, 2), (5, 4)))
    wanted = label_objects(mask, {"connectivity": 8}, image=mask).table
    monkeypatch.setattr("tiledseg.objects.collect._LARGE_PX", 100)
    monkeypatch.setattr("tiledseg.objects.collect._STRIP_PX", 300)
    monkeypatch.setattr("tiledseg.objects.runs._CHUNK", 120 * 7)
    table = label_objects(mask, {"connectivity": 8}, image=mask).table
    assert (wanted["area"] > 10_000).any()
    for name, column in wanted.items():
        np.testing.assert_allclose(table[name], column, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("large", [1 << 22, 100])  # px, from which on an object is measured row by row
def test_batches_have_the_px_and_the_rows_of_their_objects(large, monkeypatch):
    monkeypatch.setattr("tiledseg.objects.collect._LARGE_PX", large)
    mask, batches = blobs(4, 0.3), []
    sink = ObjectsSink(mask.shape, mask.dtype)
    sink[:] = mask
    labels = np.zeros(mask.shape, np.uint32)
    table = sink.finish(labels, each=batches.append).table
    painted = np.zeros(mask.shape, np.uint32)
    for batch in batches:
        of = np.repeat(batch.table["label"], np.diff(batch.first))
        for label, y, x0, x1 in zip(of, batch.y, batch.x0, batch.x1, strict=True):
            painted[y, x0:x1] = label
        np.testing.assert_array_equal(table["area"][batch.table["label"] - 1], batch.table["area"])
    np.testing.assert_array_equal(painted, labels)


def test_an_object_of_very_many_runs_is_passed_on_without_them(monkeypatch):
    monkeypatch.setattr("tiledseg.objects.collect._LARGE_PX", 10)
    monkeypatch.setattr("tiledseg.objects.collect._MOST_RUNS", 4)
    mask, batches = np.zeros((9, 9), np.uint8), []
    mask[:4, :4] = mask[4:, 5:] = 1
    sink = ObjectsSink(mask.shape, mask.dtype)
    sink[:] = mask
    sink.finish(each=batches.append)
    assert [(batch.table["area"].tolist(), len(batch.y)) for batch in batches] == [([16], 4), ([20], 0)]


@pytest.mark.parametrize("limit", ["spool._IN_MEMORY", "collect._VALUES", "spool._PX"])
def test_columns_do_not_depend_on_where_they_lie_and_how_much_is_measured_at_once(limit, monkeypatch):
    mask = blobs(4, 0.3)
    image = np.random.default_rng(0).integers(0, 256, mask.shape, np.uint8)
    wanted = label_objects(mask, image=image).table
    monkeypatch.setattr(f"tiledseg.objects.{limit}", 64)
    table = label_objects(mask, image=image).table
    for name, column in wanted.items():
        np.testing.assert_array_equal(table[name], column, err_msg=name)


def test_without_measuring_the_table_has_areas_and_boxes():
    mask, batches = blobs(4, 0.3), []
    sink = ObjectsSink(mask.shape, mask.dtype, image=mask)
    sink[:] = mask
    known = sink.finish(each=batches.append, measure=False).table
    table = label_objects(mask).table
    assert list(known) == ["label", "class", "box_y0", "box_x0", "box_y1", "box_x1", "area"]
    for name, column in known.items():
        np.testing.assert_array_equal(column, table[name], err_msg=name)
        parts = np.concatenate([batch.table[name] for batch in batches])
        np.testing.assert_array_equal(np.sort(parts), np.sort(column))
