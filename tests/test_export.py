"""Exports: other libraries read the same px from them."""

from __future__ import annotations

import gzip
import json
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tiledseg
from tiledseg.cli import main
from tiledseg.config import PredictConfig
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.export import write_coco, write_geojson, write_roi
from tiledseg.objects import label_objects
from tiledseg.samples import smear

if TYPE_CHECKING:
    from pathlib import Path

coco = pytest.importorskip("pycocotools.mask")
shapely = pytest.importorskip("shapely")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'

masks = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))
SPECKS = np.array([[1, 0, 1, 1]])


def painted(polygon: shapely.Polygon, size: tuple[int, int]) -> np.ndarray:
    """Return the px whose centre lies inside."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return shapely.contains_xy(polygon, columns + 0.5, rows + 0.5)


def features(path: Path) -> list[dict]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    return content["features"]


def polygon(feature: dict) -> shapely.Polygon | shapely.MultiPolygon:
    return shapely.geometry.shape(feature["geometry"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


def test_outline_of_a_px_is_its_four_corners(folder):
    write_geojson(folder / "a.geojson", np.array([[0, 0, 0], [0, 0, 1]]))
    (one,) = features(folder / "a.geojson")
    assert one["geometry"]["coordinates"] == [[[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]]


def test_holes_are_rings_of_their_own_also_where_they_touch_at_a_corner(folder):
    mask = np.ones((4, 4), np.uint8)
    mask[1, 1] = mask[2, 2] = 0
    write_geojson(folder / "a.geojson", mask)
    (one,) = features(folder / "a.geojson")
    shell, *holes = one["geometry"]["coordinates"]
    assert shell == [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
    assert [sorted(map(tuple, set(map(tuple, hole)))) for hole in holes] == [
        [(1, 1), (1, 2), (2, 1), (2, 2)],
        [(2, 2), (2, 3), (3, 2), (3, 3)],
    ]


@settings(max_examples=40, deadline=None)
@given(masks)
def test_polygons_are_valid_and_cover_the_px_of_their_object(folder, labels):
    objects = label_objects(labels)
    assert write_geojson(folder / "a.geojson", labels, names=("1", "2")) == len(objects)
    seen = np.zeros_like(labels)
    for one, area in zip(features(folder / "a.geojson"), objects.table["area"], strict=True):
        found = polygon(one)
        assert found.is_valid
        assert found.area == area
        seen[painted(found, labels.shape)] = int(one["properties"]["classification"]["name"])
    assert (seen == labels).all()
    write_geojson(folder / "b.geojson", objects, names=("1", "2"))
    assert (folder / "a.geojson").read_bytes() == (folder / "b.geojson").read_bytes()


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)))
def test_each_label_of_an_instance_map_is_one_object_in_all_formats(folder, labels):
    known = np.unique(labels[labels > 0]).tolist()
    assert write_geojson(folder / "a.geojson", labels, instances=True) == len(known)
    assert write_coco(folder / "a.json", [("a.png", labels)], instances=True) == len(known)
    found = json.loads((folder / "a.json").read_text(encoding="utf-8"))["annotations"]
    for label, feature, one in zip(known, features(folder / "a.geojson"), found, strict=True):
        wanted = labels == label
        assert feature["geometry"]["type"] == ("Polygon" if parts(wanted) == 1 else "MultiPolygon")
        assert polygon(feature).is_valid
        assert (painted(polygon(feature), labels.shape) == wanted).all()
        assert one["area"] == polygon(feature).area == wanted.sum()
        assert (decoded(one) == wanted).all()


def parts(mask: np.ndarray) -> int:
    return len(label_objects(mask))


def decoded(one: dict) -> np.ndarray:
    packed = one["segmentation"] | {"counts": one["segmentation"]["counts"].encode()}
    assert coco.toBbox(packed).tolist() == one["bbox"]
    return coco.decode(packed).astype(bool)


@settings(max_examples=30, deadline=None)
@given(masks)
def test_imagej_regions_cover_the_px_of_their_object(folder, labels):
    roifile = pytest.importorskip("roifile")
    objects = label_objects(labels)
    assert write_roi(folder / "a.zip", objects, names=("cell", "a/b")) == len(objects)
    if not len(objects):
        return
    found = roifile.roiread(folder / "a.zip")
    seen = np.zeros(labels.shape, int)
    for one in found if isinstance(found, list) else [found]:
        rings = one.coordinates(multi=True)
        inside = np.zeros(labels.shape, bool)
        for ring in [rings] if isinstance(rings, np.ndarray) else rings:
            inside ^= painted(shapely.Polygon(ring), labels.shape)  # even-odd, as ImageJ fills it
        name, _, number = one.name.rpartition("-")
        assert name == ("cell", "a_b")[one.group - 1]
        seen[inside] = int(number)
    assert (seen == objects.labels).all()


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(4, 24), st.integers(4, 24))), st.sampled_from([0.5, 1.0, 2.5])
)
def test_simplified_outlines_stay_valid_and_within_the_tolerance(folder, noise, tolerance):
    write_geojson(folder / "a.geojson", noise)
    write_geojson(folder / "b.geojson", noise, tolerance=tolerance)
    for exact, fewer in zip(features(folder / "a.geojson"), features(folder / "b.geojson"), strict=True):
        assert polygon(fewer).is_valid
        for a, b in zip(exact["geometry"]["coordinates"], fewer["geometry"]["coordinates"], strict=True):
            assert {tuple(corner) for corner in b} <= {tuple(corner) for corner in a}
            assert shapely.distance(shapely.points(a), shapely.LinearRing(b)).max() <= tolerance + 1e-9
        assert exact["id"] == fewer["id"]


def test_simplified_parts_of_an_object_do_not_meet(tmp_path):
    labels = np.zeros((30, 20), np.uint8)
    labels[2:13, 2:7] = 1
    labels[7, 5:7] = 0  # a notch, which a speck in front of it may not fill
    labels[7, 7] = 1
    labels[20:26, 2:8] = 1  # another part, far away
    write_geojson(tmp_path / "a.geojson", labels, instances=True, tolerance=2.5)
    (feature,) = features(tmp_path / "a.geojson")
    assert polygon(feature).is_valid
    assert polygon(feature).area == np.count_nonzero(labels)


def test_a_disk_is_simplified_to_few_corners(folder):
    y, x = np.mgrid[:101, :101]
    disk = (y - 50) ** 2 + (x - 50) ** 2 <= 40**2
    write_geojson(folder / "a.geojson", disk, tolerance=1)
    (one,) = features(folder / "a.geojson")
    assert len(one["geometry"]["coordinates"][0]) < 30
    assert polygon(one).area == pytest.approx(disk.sum(), rel=0.05)


def test_geojson_has_the_properties_that_qupath_reads(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[2:8, 3:9] = 1
    labels[4, 5] = 0
    labels[10:15, 20:28] = 2
    path = tmp_path / "cells.geojson"
    assert write_geojson(path, labels, names=("cell", "nucleus"), image="7.png") == 2
    first, second = features(path)
    assert polygon(first).area == 35
    assert polygon(second).bounds == (20, 10, 28, 15)  # x before y
    assert first["properties"]["objectType"] == "detection"
    assert second["properties"]["classification"] == {"name": "nucleus", "color": [0, 158, 115]}
    assert second["properties"]["measurements"]["Area px^2"] == 40
    assert all(isinstance(value, int | float) for value in first["properties"]["measurements"].values())
    ids = {uuid.UUID(one["id"]) for one in (first, second)}
    assert len(ids) == 2
    write_geojson(tmp_path / "again.geojson.gz", labels, names=("cell", "nucleus"), image="7.png")
    assert gzip.decompress((tmp_path / "again.geojson.gz").read_bytes()) == path.read_bytes()
    options = {"object_type": "annotation", "image": "8.png"}
    write_geojson(tmp_path / "other.geojson", labels, names=("cell", "nucleus"), **options)
    others = features(tmp_path / "other.geojson")
    assert ids.isdisjoint(uuid.UUID(one["id"]) for one in others)
    assert {one["properties"]["objectType"] for one in others} == {"annotation"}


def read_as_qupath(path):
    """Read objects by the rules of QuPath 0.4 to 0.6; a ring that JTS refuses is an error there."""
    found = json.loads(path.read_bytes().decode("ascii"), parse_constant=pytest.fail)
    assert found["type"] == "FeatureCollection"
    for one in found["features"]:
        assert str(uuid.UUID(one["id"])) == one["id"]
        kind, coordinates = one["geometry"]["type"], one["geometry"]["coordinates"]
        parts = {"Polygon": [coordinates], "MultiPolygon": coordinates}[kind]
        for ring in (ring for part in parts for ring in part):
            assert len(ring) >= 4
            assert ring[0] == ring[-1]
            assert all(len(corner) == 2 for corner in ring)
        properties = one["properties"]
        assert properties["objectType"] in {"detection", "annotation"}
        assert len(properties["classification"]["color"]) == 3
        yield one["geometry"], properties["classification"]["name"], properties["measurements"]


@settings(max_examples=15, deadline=None)
@given(masks)
def test_qupath_reads_what_is_written(folder, labels):
    objects = label_objects(labels)
    write_geojson(folder / "a.geojson", objects, names=("Zelle, groß", "b"), image="ß.png")
    found = list(read_as_qupath(folder / "a.geojson"))
    assert [shapely.geometry.shape(one).area for one, _, _ in found] == objects.table["area"].tolist()
    assert {name for _, name, _ in found} <= {"Zelle, groß", "b"}
    for _, _, measured in found:
        assert all(type(value) in {int, float} for value in measured.values())


@pytest.mark.filterwarnings("ignore")  # geopandas', about px as degrees
def test_geopandas_reads_valid_polygons_of_the_same_areas(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    objects = label_objects(smear(240, 320, seed=1).mask, {"min_area": 5})
    write_geojson(tmp_path / "a.geojson", objects)
    frame = geopandas.read_file(tmp_path / "a.geojson")
    assert frame.is_valid.all()
    np.testing.assert_array_equal(frame.area, objects.table["area"])


def test_measurements_on_a_level_are_those_of_its_px_in_level_0(tmp_path):
    small = SPECKS[:40, :40] > 0
    write_geojson(tmp_path / "small.geojson", small, scale=(2, 2))
    write_geojson(tmp_path / "large.geojson", small.repeat(2, axis=0).repeat(2, axis=1))
    for one, other in zip(
        *map(features, (tmp_path / "small.geojson", tmp_path / "large.geojson")), strict=True
    ):
        found, wanted = (feature["properties"]["measurements"] for feature in (one, other))
        assert one["geometry"] == other["geometry"]
        for name in ("Area px^2", "Centroid y", "Centroid x", "Equivalent diameter px", "Solidity"):
            assert found[name] == pytest.approx(wanted[name], rel=1e-2 if name == "Solidity" else 1e-8)


def test_objects_that_cover_no_px_of_level_0_are_left_out(tmp_path):
    labels = np.zeros((10, 20), np.uint8)
    labels[4:9, 4:9] = labels[2, 2] = 1
    assert write_coco(tmp_path / "a.json", [("a", labels)], scale=(0.4, 0.4)) == 1
    (one,) = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["annotations"]
    assert decoded(one).sum() == one["area"] == 4


def test_what_was_found_on_a_level_is_written_in_px_of_level_0(tmp_path):
    labels = np.zeros((10, 20), np.uint8)
    labels[2:4, 5:9] = 1
    write_geojson(tmp_path / "a.geojson", labels, scale=(2, 2.5))
    (feature,) = features(tmp_path / "a.geojson")
    assert polygon(feature).bounds == (12.5, 4, 22.5, 8)
    values = feature["properties"]["measurements"]
    assert (values["Area px^2"], values["Centroid y"], values["Centroid x"]) == (40, 5.5, 17)
    assert "Perimeter px" not in values  # of px that are not square
    write_coco(tmp_path / "a.json", [("a", labels)], scale=(2, 2.5))
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (20, 50)
    (one,) = content["annotations"]
    whole = decoded(one)
    assert whole[4:8, 12:22].all()
    assert whole.sum() == one["area"] == 40
    roifile = pytest.importorskip("roifile")
    write_roi(tmp_path / "a.zip", labels, scale=(2, 4000.5))
    found = roifile.roiread(tmp_path / "a.zip")
    corners = (found[0] if isinstance(found, list) else found).coordinates()
    assert sorted(set(corners[:, 0].tolist())) == [20002.5, 36004.5]


def test_coco_of_large_masks_is_read_by_its_own_library(tmp_path):
    images = [(f"{seed}.png", smear(240, 320, seed=seed).mask) for seed in range(2)]
    n_objects = write_coco(tmp_path / "cells.json", images, names=("cell",), cell_px=20)
    content = json.loads((tmp_path / "cells.json").read_text(encoding="utf-8"))
    assert [one["file_name"] for one in content["images"]] == ["0.png", "1.png"]
    assert content["categories"] == [{"id": 1, "name": "cell"}]
    assert n_objects == len(content["annotations"]) > 0
    assert [one["id"] for one in content["annotations"]] == list(range(1, n_objects + 1))
    for one in content["annotations"]:
        mask = images[one["image_id"] - 1][1]
        assert decoded(one).sum() == one["area"] >= 20
        assert mask[decoded(one)].all()


@settings(max_examples=40, deadline=None)
@given(masks)
def test_coco_polygons_are_read_as_the_same_px(folder, labels):
    options = {"names": ("a", "b"), "segmentation": "polygons"}
    write_coco(folder / "p.json", [("7.png", labels)], **options)
    seen = np.zeros_like(labels)
    for one in json.loads((folder / "p.json").read_text(encoding="utf-8"))["annotations"]:
        if isinstance(one["segmentation"], dict):  # it has holes
            own = decoded(one)
        else:
            own = coco.decode(coco.merge(coco.frPyObjects(one["segmentation"], *labels.shape))).astype(bool)
        assert own.sum() == one["area"]
        seen[own] = one["category_id"]
    assert (seen == labels).all()


def test_files_that_are_read_by_slicing_are_exported(tmp_path):
    stored = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint32, (3000, 2000))
    stored[1000:2999, 7] = 70000
    stored[0, 0] = 3
    assert write_geojson(tmp_path / "a.geojson", stored, instances=True) == 2
    assert polygon(features(tmp_path / "a.geojson")[1]).bounds == (7, 1000, 8, 2999)


def test_objects_whose_labels_lie_in_a_file_are_exported_and_instances_are_measured(tmp_path):
    mask = smear(120, 160, seed=1).mask
    stored = label_objects(mask, out=tmp_path / "labels.npy")
    write_geojson(tmp_path / "a.geojson", stored)
    write_geojson(tmp_path / "b.geojson", label_objects(mask))
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "b.geojson").read_bytes()
    labels = np.load(tmp_path / "labels.npy")
    write_geojson(tmp_path / "c.geojson", labels * 5, instances=True)
    assert (tmp_path / "c.geojson").read_bytes() == (tmp_path / "a.geojson").read_bytes()  # with measurements
    with pytest.raises(SettingError, match="without labels"):
        write_geojson(tmp_path / "d.geojson", replace(stored, labels=None))


def test_small_areas_are_left_out(tmp_path):
    assert write_geojson(tmp_path / "a.geojson", SPECKS, cell_px=2) == 1
    assert write_coco(tmp_path / "a.json", [("a", SPECKS)], cell_px=3) == 0
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["annotations"] == []
    assert write_geojson(tmp_path / "a.geojson", SPECKS, cell_px=4, instances=True) == 0


def test_invalid_labels_and_names_are_refused(tmp_path):
    with pytest.raises(SettingError, match=r"name the labels 1 to 2.*instances=True"):
        write_geojson(tmp_path / "a.geojson", np.array([[2]]))
    with pytest.raises(ArrayError, match="labels"):
        write_geojson(tmp_path / "a.geojson", np.array([[0.5]]))
    with pytest.raises(ArrayError, match="labels"):
        write_coco(tmp_path / "a.json", [("a", np.array([[-1]]))])
    with pytest.raises(ArrayError, match=r"\(H, W\)"):
        write_geojson(tmp_path / "a.geojson", np.ones((4, 4, 1), np.uint8))
    with pytest.raises(SettingError, match=r"`object_type` must be one of.*cell"):
        write_geojson(tmp_path / "a.geojson", SPECKS, object_type="cell")
    with pytest.raises(SettingError, match="`scale` must be two numbers above 0"):
        write_geojson(tmp_path / "a.geojson", SPECKS, scale=(0, 1))
    with pytest.raises(SettingError, match="`tolerance` must be at least 0; got -1"):
        write_geojson(tmp_path / "a.geojson", SPECKS, tolerance=-1)
    with pytest.raises(ArrayError, match="bool with instances"):
        write_geojson(tmp_path / "a.geojson", SPECKS > 0, instances=True)
    with pytest.raises(SettingError, match=r"`segmentation` must be polygons.*got rle for 70000 x 70000 px"):
        write_coco(tmp_path / "a.json", [("a", SPECKS)], scale=(70000, 17500))
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        write_coco(tmp_path / "file" / "a.json", [])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_single_str_is_refused_as_names(tmp_path):
    with pytest.raises(SettingError, match=r'`names` must be a sequence.*Pass \("cell",\)'):
        write_geojson(tmp_path / "a.geojson", np.ones((4, 4), np.uint8), names="cell")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["png", "ome-tiff", "ome-zarr"])
def test_what_is_computed_on_a_level_is_exported_in_px_of_level_0(tmp_path, form):
    slide = np.zeros((512, 512, 3), np.uint8)
    slide[200:400, 200:400] = 255
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        options = {"tile": (64, 64), "photometric": "rgb"}
        writer.write(slide, subifds=1, **options)
        writer.write(slide[::2, ::2], subfiletype=1, **options)
    config = PredictConfig(level=1, mask_format=form)
    tiledseg.predict_files(
        lambda tiles: tiles[..., :1] / 255, tmp_path / "slide.tif", tmp_path / "out", config
    )
    assert main(["export", str(tmp_path / "out" / "masks"), "--output", str(tmp_path / "objects")]) == 0
    (found,) = json.loads((tmp_path / "objects" / "geojson" / "slide.geojson").read_text())["features"]
    assert np.ptp(found["geometry"]["coordinates"][0], axis=0).tolist() == [200, 200]
    assert np.min(found["geometry"]["coordinates"][0], axis=0).tolist() == [200, 200]


def test_suffixes_count_in_any_case(tmp_path):
    write_geojson(tmp_path / "a.GeoJSON.GZ", SPECKS)
    assert len(json.loads(gzip.decompress((tmp_path / "a.GeoJSON.GZ").read_bytes()))["features"]) == 2
    assert write_roi(tmp_path / "a.ZIP", SPECKS) == 2
    with pytest.raises(SettingError, match=r"suffix \.zip; got .*a\.roi"):
        write_roi(tmp_path / "a.roi", SPECKS)


@pytest.mark.parametrize("white", [255, 65535])
def test_a_mask_of_black_and_white_is_no_instance(tmp_path, white):
    mask = SPECKS.astype(np.uint16) * white
    with pytest.raises(ArrayError, match=r"number for each object.* pass labels > 0"):
        write_geojson(tmp_path / "a.geojson", mask, instances=True)
    with pytest.raises(SettingError, match="picture of a mask: pass labels > 0"):
        write_coco(tmp_path / "a.json", [("a.png", mask)])
    assert write_geojson(tmp_path / "a.geojson", mask > 0) == 2
    assert not (tmp_path / "a.json").exists()
