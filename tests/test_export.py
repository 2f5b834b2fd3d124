"""Exports: other libraries read the same px from them."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.export import write_coco, write_geojson
from tiledseg.metrics import components
from tiledseg.objects import Cell, cells_of
from tiledseg.samples import smear

coco = pytest.importorskip("pycocotools.mask")
shapely = pytest.importorskip("shapely")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'

masks = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))


def painted(polygon: shapely.Polygon, size: tuple[int, int]) -> np.ndarray:
    """Return the px whose centre lies inside."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return shapely.contains_xy(polygon, columns + 0.5, rows + 0.5)


def test_outline_of_a_px_is_its_four_corners():
    (cell,) = cells_of(np.array([[0, 0, 0], [0, 0, 1]]))
    assert cell.rings() == [[(2, 1), (3, 1), (3, 2), (2, 2), (2, 1)]]


def test_a_hole_is_a_separate_ring():
    mask = np.ones((3, 3), np.uint8)
    mask[1, 1] = 0
    (cell,) = cells_of(mask)
    shell, hole = cell.rings()
    assert shell == [(0, 0), (3, 0), (3, 3), (0, 3), (0, 0)]
    assert sorted(set(hole)) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_px_that_touch_at_a_corner_are_two_cells_and_holes_that_do_are_two_rings():
    assert len(list(cells_of(np.eye(2, dtype=np.uint8)))) == 2
    mask = np.ones((4, 4), np.uint8)
    mask[1, 1] = mask[2, 2] = 0
    (cell,) = cells_of(mask)
    assert len(cell.rings()) == 3


@given(masks)
def test_polygons_are_valid_and_cover_the_px_of_their_cell(labels):
    seen = np.zeros_like(labels)
    for cell in cells_of(labels):
        shell, *holes = cell.rings()
        polygon = shapely.Polygon(shell, holes)
        assert polygon.is_valid
        assert polygon.area == cell.area
        seen[painted(polygon, labels.shape)] = cell.label
    assert (seen == labels).all()


@given(masks)
def test_cells_are_the_connected_areas_of_each_label(labels):
    for label in (1, 2):
        own = [cell for cell in cells_of(labels) if cell.label == label]
        assert len(own) == components(labels == label).max(initial=0)
        for cell in own:
            assert isinstance(cell, Cell)
            height, width = cell.mask.shape
            assert cell.mask.any(axis=0).all()
            assert cell.mask.any(axis=1).all()
            assert (labels[cell.y : cell.y + height, cell.x : cell.x + width][cell.mask] == label).all()


def test_geojson_has_the_properties_that_qupath_reads(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[2:8, 3:9] = 1
    labels[4, 5] = 0
    labels[10:15, 20:28] = 2
    path = tmp_path / "cells.geojson"
    assert write_geojson(path, labels, names=("cell", "nucleus"), image="7.png") == 2
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert shapely.geometry.shape(first["geometry"]).area == 35
    assert shapely.geometry.shape(second["geometry"]).bounds == (20, 10, 28, 15)  # x before y
    assert first["properties"]["objectType"] == "annotation"
    assert second["properties"]["classification"] == {"name": "nucleus", "color": [0, 158, 115]}
    ids = {uuid.UUID(one["id"]) for one in content["features"]}
    assert len(ids) == 2
    write_geojson(tmp_path / "again.geojson", labels, names=("cell", "nucleus"), image="7.png")
    assert (tmp_path / "again.geojson").read_bytes() == path.read_bytes()
    write_geojson(tmp_path / "other.geojson", labels, names=("cell", "nucleus"), image="8.png")
    others = json.loads((tmp_path / "other.geojson").read_text(encoding="utf-8"))["features"]
    assert ids.isdisjoint(uuid.UUID(one["id"]) for one in others)


@given(labels=masks)
def test_coco_run_lengths_are_read_as_the_same_px(labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("coco") / "cells.json"
    write_coco(path, [("7.png", labels)], names=("a", "b"))
    content = json.loads(path.read_text(encoding="utf-8"))
    cells = list(cells_of(labels))
    assert len(content["annotations"]) == len(cells)
    seen = np.zeros_like(labels)
    for one in content["annotations"]:
        packed = {"size": one["segmentation"]["size"], "counts": one["segmentation"]["counts"].encode()}
        own = coco.decode(packed).astype(bool)
        assert coco.area(packed) == one["area"]
        assert coco.toBbox(packed).tolist() == one["bbox"]
        seen[own] = one["category_id"]
    assert (seen == labels).all()


def test_coco_of_large_masks_is_read_by_its_own_library(tmp_path):
    images = [(f"{seed}.png", smear(240, 320, seed=seed).mask) for seed in range(2)]
    n_cells = write_coco(tmp_path / "cells.json", images, names=("cell",), cell_px=20)
    content = json.loads((tmp_path / "cells.json").read_text(encoding="utf-8"))
    assert [one["file_name"] for one in content["images"]] == ["0.png", "1.png"]
    assert content["categories"] == [{"id": 1, "name": "cell"}]
    assert n_cells == len(content["annotations"]) > 0
    for one in content["annotations"]:
        own = coco.decode(one["segmentation"] | {"counts": one["segmentation"]["counts"].encode()})
        mask = images[one["image_id"] - 1][1]
        assert own.sum() == one["area"] >= 20
        assert mask[own.astype(bool)].all()


def test_small_areas_are_left_out(tmp_path):
    labels = np.array([[1, 0, 1, 1]])
    assert write_geojson(tmp_path / "a.geojson", labels, cell_px=2) == 1
    assert write_coco(tmp_path / "a.json", [("a", labels)], cell_px=3) == 0
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["annotations"] == []


def test_invalid_labels_and_names_are_refused(tmp_path):
    with pytest.raises(SettingError, match="name the labels 1 to 2"):
        write_geojson(tmp_path / "a.geojson", np.array([[2]]))
    with pytest.raises(ArrayError, match="labels"):
        write_geojson(tmp_path / "a.geojson", np.array([[0.5]]))
    with pytest.raises(ArrayError, match="labels"):
        write_coco(tmp_path / "a.json", [("a", np.array([[-1]]))])
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        write_coco(tmp_path / "file" / "a.json", [])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_single_str_is_refused_as_names(tmp_path):
    with pytest.raises(SettingError, match=r'`names` must be a sequence.*Pass \("cell",\)'):
        write_geojson(tmp_path / "a.geojson", np.ones((4, 4), np.uint8), names="cell")
    assert not list(tmp_path.iterdir())
