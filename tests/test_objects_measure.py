"""Measurements of objects: equal to those of scikit-image."""

from __future__ import annotations

import numpy as np
import pytest

from tiledseg.objects import label_objects

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


def test_the_table_becomes_a_data_frame():
    pytest.importorskip("pandas")
    frame = label_objects(np.array([[1, 0, 2]])).to_pandas()
    assert frame.index.tolist() == [1, 2]
    assert frame["class"].tolist() == [1, 2]
