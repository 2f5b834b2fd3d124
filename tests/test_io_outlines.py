"""Outlines: px inside polygons, as shapely says; GeoJSON, ImageJ ROI and COCO as truth and as region."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import roifile
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy.interpolate import CubicSpline
from skimage.draw import polygon2mask

import tiledseg as ts
from tiledseg.config import DataConfig, PredictConfig
from tiledseg.data import Pair, find_pairs, load_pair, pairs_of
from tiledseg.errors import FileError, SettingError
from tiledseg.export import write_coco, write_geojson, write_roi
from tiledseg.io import OutlineMask, create_image, open_image, read_image, read_outlines, write_image

SHAPE = (40, 50)
ALL = (slice(0, 40), slice(0, 50))
IMAGE = np.zeros((*SHAPE, 3), np.uint8)
PX = {"axes": "YX"} | {
    f"PhysicalSize{axis}{end}": one for axis in "XY" for end, one in (("", 0.5), ("Unit", "µm"))
}


def feature(*polygons, name=None, kind="Polygon"):
    properties = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    coordinates = polygons[0] if kind == "Polygon" else list(polygons)
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def square(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def written(folder, *features, name="a.geojson"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return folder / name


def by_shapely(polygon):
    y, x = np.mgrid[:40, :50] + 0.5
    return shapely.contains_xy(polygon, x, y)


def inside(path, image=None):
    return OutlineMask(read_outlines(path, image), SHAPE)[ALL]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 55), st.floats(-5, 45)), min_size=3, max_size=12))
def test_px_are_inside_where_their_centre_is(tmp_path_factory, points):
    points = [(round(x, 2) + 0.003, round(y, 2) + 0.003) for x, y in points]  # no centre lies on an edge
    ring = shapely.Polygon(points)
    path = written(tmp_path_factory.mktemp("o"), feature([[*map(list, points)]]))
    y, x = np.mgrid[:40, :50] + 0.5
    near = shapely.distance(ring.boundary, shapely.points(x, y)) < 1e-6
    if ring.is_valid:
        np.testing.assert_array_equal((inside(path) == by_shapely(ring)) | near, True)


def test_holes_parts_and_edges_of_px(tmp_path):
    ring = feature([square(5, 5, 30, 30), square(10, 10, 20, 20)])
    wanted = np.zeros(SHAPE, bool)
    wanted[5:30, 5:30] = True
    wanted[10:20, 10:20] = False
    np.testing.assert_array_equal(inside(written(tmp_path, ring)), wanted)
    both = feature([square(0, 0, 3, 3)], [square(40, 30, 60, 50)], kind="MultiPolygon")
    wanted = np.zeros(SHAPE, bool)
    wanted[:3, :3] = wanted[30:, 40:] = True
    np.testing.assert_array_equal(inside(written(tmp_path, both)), wanted)
    parts = [feature([square(0, 0, 3, 3)])["geometry"], feature([square(40, 30, 60, 50)])["geometry"]]
    together = {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": parts}}
    (tmp_path / "one.geojson").write_text(json.dumps(together))  # a feature without a collection
    np.testing.assert_array_equal(inside(tmp_path / "one.geojson"), wanted)
    (tmp_path / "list.geojson").write_text(json.dumps([both, together]))
    assert len(read_outlines(tmp_path / "list.geojson")) == 3
    half = inside(written(tmp_path, feature([square(1.5, 1.5, 3.5, 3.5)])))  # centres on the edges
    assert (half[1:3, 1:3].all(), half.sum()) == (True, 4)


def test_a_circle_has_the_px_of_scikit_image(tmp_path):
    turn = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    points = np.stack([25.2 + 15 * np.cos(turn), 20.3 + 12 * np.sin(turn)], axis=1)
    found = inside(written(tmp_path, feature([points.tolist()])))
    np.testing.assert_array_equal(found, polygon2mask(SHAPE, points[:, ::-1] - 0.5))


def test_roi_of_imagej_have_the_same_px(tmp_path):
    points = np.array([(5, 5), (30, 8), (20, 35)], np.float32)
    roi = roifile.ImagejRoi.frompoints(points)
    roi.roitype, roi.name = roifile.ROI_TYPE.POLYGON, "tumour"
    roi.tofile(tmp_path / "a.roi")
    wanted = by_shapely(shapely.Polygon(points))
    np.testing.assert_array_equal(inside(tmp_path / "a.roi"), wanted)
    assert read_outlines(tmp_path / "a.roi")[0].name == "tumour"
    box = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=2, top=3, right=10, bottom=7)
    roifile.roiwrite(tmp_path / "both.zip", [roi, box], name=["one", "two"])
    wanted[3:7, 2:10] = True
    np.testing.assert_array_equal(inside(tmp_path / "both.zip"), wanted)
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=5, top=5, right=35, bottom=25)
    oval.tofile(tmp_path / "oval.roi")
    y, x = np.mgrid[:40, :50] + 0.5
    ellipse = ((x - 20) / 15) ** 2 + ((y - 15) / 10) ** 2 < 1
    assert (inside(tmp_path / "oval.roi") != ellipse).sum() <= 2
    line = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE)
    line.tofile(tmp_path / "line.roi")
    with pytest.raises(FileError, match="a ROI of type LINE"):
        read_outlines(tmp_path / "line.roi")


@pytest.mark.parametrize(("corner", "area"), [(0, 1200), (5, 1196), (10, 1180), (20, 1116), (60, 940)])
def test_rounded_rectangles_of_imagej_have_the_area_that_it_fills(corner, area, tmp_path):
    box = {"left": 5, "top": 6, "right": 45, "bottom": 36}
    roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, rounded_rect_arc_size=corner, **box)
    roi.tofile(tmp_path / "a.roi")
    assert inside(tmp_path / "a.roi").sum() == area
    if corner == 60:  # more than the rectangle has: an oval
        roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, **box).tofile(tmp_path / "b.roi")
        np.testing.assert_array_equal(inside(tmp_path / "a.roi"), inside(tmp_path / "b.roi"))


def test_splines_of_imagej_are_read_as_they_are_drawn(tmp_path):
    points = np.array([(15.5, 8), (30, 4), (44, 12.5), (35, 34), (20, 36), (5, 25)], np.float32)
    roi = roifile.ImagejRoi.frompoints(points)
    roi.roitype = roifile.ROI_TYPE.POLYGON
    roi.options |= roifile.ROI_OPTIONS.SPLINE_FIT
    roi.tofile(tmp_path / "a.roi")
    curve = CubicSpline(np.arange(7), np.concatenate([points, points[:1]]), bc_type="periodic")
    wanted = by_shapely(shapely.Polygon(curve(np.linspace(0, 6, 6000))))
    assert (inside(tmp_path / "a.roi") != wanted).sum() <= 2


def test_curves_of_a_composite_roi_of_imagej(tmp_path):
    k, path = 0.5522847, [0, 45, 20]  # an oval of four cubic curves, and a triangle with a quadratic one
    for ends in ((45, 20 + 15 * k, 25 + 20 * k, 35, 25, 35), (25 - 20 * k, 35, 5, 20 + 15 * k, 5, 20)):
        path += [3, *ends]
    for ends in ((5, 20 - 15 * k, 25 - 20 * k, 5, 25, 5), (25 + 20 * k, 5, 45, 20 - 15 * k, 45, 20)):
        path += [3, *ends]
    path += [4, 0, 20, 15, 1, 30, 15, 2, 35, 25, 20, 25, 4]
    form = {"left": 5, "top": 5, "right": 45, "bottom": 35, "shape_roi_size": len(path)}
    roi = roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT, multi_coordinates=np.array(path, np.float32), **form
    )
    roi.tofile(tmp_path / "a.roi")
    y, x = np.mgrid[:40, :50] + 0.5
    after = np.linspace(0, 1, 500)[:, None]
    bend = (1 - after) ** 2 * (30, 15) + 2 * after * (1 - after) * (35, 25) + after**2 * (20, 25)
    hole = by_shapely(shapely.Polygon(np.concatenate([[(20, 15)], bend])))
    wanted = (((x - 25) / 20) ** 2 + ((y - 20) / 15) ** 2 < 1) & ~hole
    assert (inside(tmp_path / "a.roi") != wanted).sum() <= 4


@pytest.mark.parametrize("subtype", ["TEXT", "IMAGE"])
def test_texts_and_pictures_of_imagej_are_no_areas(subtype, tmp_path):
    kind = roifile.ROI_SUBTYPE[subtype]
    roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, subtype=kind, right=9, bottom=9, image_data=b"1")
    roi.tofile(tmp_path / "a.roi")
    with pytest.raises(FileError, match=f"a ROI of type {subtype}"):
        read_outlines(tmp_path / "a.roi")


def test_the_names_that_imagej_gives_are_no_classes(tmp_path):
    names = ["0005-0012", "0009-0033", "0002-0009-0033-1"]  # y and x; slice, y, x and a number
    rois = [
        roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=9 * k, right=9 * k + 4, bottom=5, name=name)
        for k, name in enumerate(names)
    ]
    roifile.roiwrite(tmp_path / "a.zip", rois, name=names)
    assert load_pair(Pair("a", IMAGE, tmp_path / "a.zip"))[1].sum() == 60
    named = Pair("a", IMAGE, tmp_path / "a.zip", class_names=("0005", "0009", "0002-0009-0033"))
    assert np.unique(load_pair(named)[1]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("form", ["polygon", "counts", "compressed"])
def test_coco_is_read_for_one_image(form, tmp_path):
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[4:20, 6:31] = 1
    packed = coco_mask.encode(np.asfortranarray(wanted))
    area = {
        "polygon": [[6, 4, 31, 4, 31, 20, 6, 20]],
        "counts": {"size": [40, 50], "counts": _runs(wanted)},
        "compressed": {"size": [40, 50], "counts": packed["counts"].decode()},
    }[form]
    images = [{"id": n, "file_name": f"{name}.png", "height": 40, "width": 50} for n, name in enumerate("ab")]
    annotation = {"id": 1, "image_id": 1, "category_id": 7, "segmentation": area, "iscrowd": 0}
    content = {"images": images, "categories": [{"id": 7, "name": "cell"}], "annotations": [annotation]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(inside(tmp_path / "all.json", "b"), wanted)
    assert not inside(tmp_path / "all.json", "a").any()
    for name in "ab":
        write_image(tmp_path / "i" / f"{name}.png", IMAGE)
    pairs = find_pairs(tmp_path / "i", tmp_path / "all.json")
    assert [int(load_pair(pair)[1].sum()) for pair in pairs] == [0, wanted.sum()]


def _runs(mask):
    flat = mask.T.ravel()
    cuts = np.flatnonzero(np.diff(flat)) + 1
    return [0] * int(flat[0]) + np.diff([0, *cuts, flat.size]).tolist()


def test_classes_differ_by_their_names(tmp_path):
    path = written(
        tmp_path / "m",
        feature([square(0, 0, 20, 20)], name="tumour"),
        feature([square(10, 10, 30, 30)], name="stroma"),
        feature([square(5, 5, 12, 12)], name="tumour"),
    )
    with pytest.raises(FileError, match=r"class_names`? .*'stroma', 'tumour'.* mask_threshold=1"):
        load_pair(Pair("a", IMAGE, path))
    labels = load_pair(Pair("a", IMAGE, path, class_names=("tumour", "stroma")))[1]
    assert [(labels == one).sum() for one in (1, 2)] == [300, 400]  # stroma, the later class, holds
    with pytest.raises(FileError, match="have outlines of the classes tumour; got stroma"):
        load_pair(Pair("a", IMAGE, path, class_names=("tumour",)))
    assert load_pair(Pair("a", IMAGE, path, 1))[1].sum() == 700
    write_image(tmp_path / "i" / "a.png", IMAGE)
    config = DataConfig(
        images=str(tmp_path / "i"), masks=str(tmp_path / "m"), class_names=("tumour", "stroma")
    )
    np.testing.assert_array_equal(load_pair(pairs_of(config)[0])[1], labels)


def test_where_no_region_is_annotated_no_px_counts(tmp_path, caplog):
    pair = coco(tmp_path)
    pair = replace(pair, annotated_class="region", ignore_label=255)
    assert (load_pair(pair)[1] == 255).all()
    assert "no outline of region (of cell): no px counts" in caplog.text


def test_outlines_number_cells_that_touch(tmp_path):
    path = written(tmp_path, *(feature([square(x, 0, x + 10, 10)]) for x in (0, 10, 20)))
    pair = Pair("a", IMAGE, path, mask_parts="instances")
    assert np.unique(load_pair(pair)[1]).tolist() == [0, 1, 2, 3]
    scores = ts.Evaluator().score_maps([(load_pair(pair)[1] > 0).astype(np.float32)], [pair]).images[0]
    assert scores.cells.true == 3


def test_px_outside_annotated_regions_do_not_count(tmp_path):
    path = written(
        tmp_path,
        feature([square(0, 0, 25, 40)], name="Region*"),
        feature([square(5, 5, 15, 15)], name="cell"),
    )
    pair = Pair("a", IMAGE, path, annotated_class="Region*")
    labels = load_pair(pair)[1]
    assert (labels[:, 25:] == 255).all()
    assert (labels[:, :25].sum(), labels[5:15, 5:15].min()) == (100, 1)
    found = np.zeros(SHAPE, np.float32)
    found[5:15, 5:15] = found[:, 30:] = 1
    assert ts.Evaluator().score_maps([found], [pair]).summary()["dice"] == 1


@pytest.mark.parametrize("kind", ["array", "geojson", "png"])
def test_a_file_says_where_to_predict(kind, tmp_path):
    image = np.full((256, 256, 3), 200, np.uint8)
    region = np.zeros((256, 256), np.uint8)
    region[70:100, 140:200] = 1
    geojson = written(tmp_path, feature([square(140, 70, 200, 100)]))
    write_image(tmp_path / "mask.png", region * 255)
    roi = {"array": region, "geojson": geojson, "png": str(tmp_path / "mask.png")}[kind]
    tiling = {"tile_size": 64, "overlap": 0}
    plan = ts.plan(lambda tiles: tiles[..., :1] / 255, image, tiling, roi=roi)
    assert plan.n_tiles == 2
    probs = ts.tiled_predict(lambda tiles: tiles[..., :1] / 255, image, tiling, roi=roi)
    assert (probs[70:100, 140:200] > 0.7).all()
    with pytest.raises(SettingError, match="Check the path"):
        ts.plan(lambda tiles: tiles, image, roi="tisue")


def test_a_folder_has_the_regions_of_many_images(tmp_path):
    for name in "ab":
        write_image(tmp_path / "i" / f"{name}.png", np.full((128, 128, 3), 255, np.uint8))
    written(tmp_path / "roi", feature([square(0, 0, 10, 10)]))
    config = PredictConfig(roi=str(tmp_path / "roi"))
    model, tiling = (lambda tiles: tiles[..., :1] / 255), {"tile_size": 64, "overlap": 0}
    result = ts.predict_files(model, tmp_path / "i", tmp_path / "out", config, tiling=tiling)
    assert "hold one file named as b" in result.failed[0].error
    mask = read_image(tmp_path / "out" / "masks" / "a.png")
    assert (mask[:64, :64].all(), mask.sum()) == (True, 255 * 64 * 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "be GeoJSON or COCO"),
        ('{"type": "FeatureCollection"}', "be GeoJSON of polygons"),
        ('{"type": "Point", "coordinates": [1, 2]}', "hold polygons; got a Point"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [NaN, 3], [4, 5]]]}', "have finite points"),
        ('{"type": "Polygon", "coordinates": [[]]}', "points"),
        ('{"type": "Polygon", "coordinates": 3}', "be GeoJSON of polygons"),
    ],
)
def test_a_file_that_holds_no_areas_is_refused(text, message, tmp_path):
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(FileError, match=message):
        read_outlines(tmp_path / "a.geojson")


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [{"id": 1, "file_name": "a.png", "height": 1e999, "width": 4}], "annotations": []}',
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a", "height": 4, "width": 4}],
                "annotations": [{"image_id": 1, "segmentation": [[0, 0, float("nan"), 3, 4, 4]]}],
            }
        ),
        '{"type": "FeatureCollection", "features": 3}',
        "[" * 900 + "3" + "]" * 900,
    ],
)
def test_content_that_is_not_what_its_format_says_is_an_error_of_the_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileError, match=r"a\.json"):
        read_outlines(tmp_path / "a.json", "a")


def test_a_zip_of_rois_that_inflates_too_far_is_refused_before_it_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.roi", bytes(1 << 25))
    with pytest.raises(FileError, match="at most 16 MiB each"):
        read_outlines(tmp_path / "a.zip")


def test_a_file_of_outlines_has_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr("tiledseg.io.outlines._LARGEST", 100)
    with pytest.raises(FileError, match="one file for each image"):
        read_outlines(written(tmp_path, feature([square(0, 0, 9, 9)])))


def coco(folder, **changes):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 50}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]}],
    }
    (folder / "a.json").write_text(json.dumps(content | changes))
    return Pair("a", IMAGE, folder / "a.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": [{"id": 1, "file_name": "a.png", "height": 80, "width": 100}]},
            r"\(40, 50\); got \(80, 100",
        ),
        (
            {"images": [{"id": 1, "file_name": f"{n}.png", "height": 40, "width": 50} for n in "ab"]},
            "id 1 twice",
        ),
        ({"categories": [{"id": 1, "name": "cell"}, {"id": 1, "name": "dirt"}]}, "categories .* id 1 twice"),
        (
            {"images": [{"id": 1, "file_name": "b.png", "height": 40, "width": 50}]},
            r"hold one image a; got b\.png",
        ),
        (
            {
                "annotations": [
                    {"image_id": 1, "category_id": 1, "segmentation": {"size": [40, 50], "counts": [0, 1999]}}
                ]
            },
            r"run lengths of \(40, 50\) px; got 1999 of",
        ),
        (
            {"annotations": [{"image_id": "1", "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}]},
            r"annotations of its images; got image_id '1' for images with ids such as 1",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 2, "segmentation": [[0, 0, 9, 0, 9, 9]]}]},
            r"of its categories, 1; got category_id 2",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "segmentation": []}]},
            r"a segmentation for each annotation; got one with a box alone",
        ),
        (
            {
                "annotations": [
                    {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]], "iscrowd": 1}
                ]
            },
            r"got crowds .*ignore_label=255",
        ),
    ],
)
def test_coco_of_another_size_or_with_numbers_twice_is_refused(changes, message, tmp_path):
    assert load_pair(coco(tmp_path))[1].sum() == 100
    with pytest.raises(FileError, match=message):
        load_pair(coco(tmp_path, **changes))


def test_run_lengths_of_an_absurd_size_take_no_memory(tmp_path):
    area = {"size": [100_000, 100_000], "counts": [0, 10**10]}
    image = {"id": 1, "file_name": "a.png", "height": 100_000, "width": 100_000}
    coco(tmp_path, images=[image], annotations=[{"image_id": 1, "segmentation": area}])
    with pytest.raises(FileError, match="have at most"):
        read_outlines(tmp_path / "a.json", "a")


def test_a_key_twice_is_refused(tmp_path):
    ring = json.dumps([square(0, 0, 9, 9)])
    (tmp_path / "a.geojson").write_text(
        f'{{"type": "Polygon", "coordinates": {ring}, "coordinates": {ring}}}'
    )
    with pytest.raises(FileError, match="the key coordinates occurs twice"):
        read_outlines(tmp_path / "a.geojson")


def test_an_area_without_rings_covers_nothing(tmp_path):
    path = written(tmp_path, feature([], name="a"), feature([square(0, 0, 3, 3)], name="a"))
    assert load_pair(Pair("a", IMAGE, path))[1].sum() == 9


def test_class_names_count_by_their_text_not_by_their_bytes(tmp_path):
    path = written(tmp_path, feature([square(0, 0, 3, 3)], name="e\u0301"))
    assert load_pair(Pair("a", IMAGE, path, class_names=("x", "\u00e9")))[1].max() == 2


def test_outlines_are_in_px_of_level_0_whatever_level_is_read(tmp_path):
    with create_image(tmp_path / "a.ome.tif", (1200, 1000), np.uint8) as out:
        out[0:1200] = np.zeros((1200, 1000), np.uint8)
    path = written(tmp_path, feature([square(100, 200, 300, 600)]))
    whole, smaller = (load_pair(Pair("a", tmp_path / "a.ome.tif", path, level=level))[1] for level in (0, 1))
    assert whole.shape == (1200, 1000)
    np.testing.assert_array_equal(smaller, whole[::2, ::2])


def _roi(x0, name="cell", **stated):
    roi = roifile.ImagejRoi.frompoints(np.array([(x0, 0), (x0 + 10, 0), (x0 + 10, 10), (x0, 10)], np.float32))
    roi.roitype, roi.name = roifile.ROI_TYPE.POLYGON, name
    for key, value in stated.items():
        setattr(roi, key, value)
    return roi


def _zipped(path, *rois, others=()):
    with zipfile.ZipFile(path, "w") as archive:
        for number, roi in enumerate(rois):
            archive.writestr(f"regions/{number}.roi", roi.tobytes())
        for name in others:
            archive.writestr(name, b"" if name.endswith("/") else b"\0\5\x16\7")
    return path


@pytest.mark.parametrize("kind", ["geojson", "z_position", "position"])
def test_outlines_of_other_planes_are_left_out(kind, tmp_path):
    if kind == "geojson":
        both = [feature([square(x0, 0, x0 + 10, 10)], name="cell") for x0 in (0, 20)]
        for place, one in enumerate(both):
            one["geometry"]["plane"] = {"c": -1, "z": place, "t": 0}
        path = written(tmp_path, *both)
    else:
        path = _zipped(tmp_path / "a.zip", _roi(0, **{kind: 1}), _roi(20, **{kind: 2}))
    with pytest.raises(FileError, match=r"of one plane; got outlines at (z|slice) = 0, 1.* set `at`"):
        load_pair(Pair("a", IMAGE, path))
    labels = load_pair(Pair("a", IMAGE, path, at={"z": 1}))[1]
    assert (labels.sum(), labels[:10, 20:30].sum()) == (100, 100)
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((2, *SHAPE), np.uint8), imagej=True, metadata={"axes": "ZYX"}
    )
    with ts.open_image(tmp_path / "a.tif", at={"z": 1}) as image:
        tiling = {"tile_size": 10, "overlap": 0}
        assert ts.plan(lambda tiles: tiles / 255, image, tiling, roi=str(path)).n_tiles == 1


@pytest.mark.parametrize("kind", ["RECT", "OVAL"])
def test_regions_between_px_are_read_as_they_were_drawn(kind, tmp_path):
    roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE[kind], left=5, top=6, right=15, bottom=16, version=227)
    roi.options = roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    roi.xd, roi.yd, roi.widthd, roi.heightd = 5.6, 6.6, 10, 10
    roi.tofile(tmp_path / "a.roi")
    y, x = np.nonzero(inside(tmp_path / "a.roi"))
    assert (x.min(), x.max(), y.min(), y.max()) == (6, 15, 7, 16)


def test_zips_may_hold_folders_and_what_a_system_adds(tmp_path):
    path = _zipped(tmp_path / "a.zip", _roi(0), others=("regions/", "__MACOSX/._0.roi", ".DS_Store"))
    assert load_pair(Pair("a", IMAGE, path))[1].sum() == 100


@pytest.mark.parametrize("form", ["geojson", "geojson.gz", "zip", "coco", "polygons", "roi"])
def test_what_is_exported_is_read_as_truth(form, tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:12, 2:12], labels[5:8, 5:8], labels[20:30, 40:50], labels[30:40, 0:9] = 1, 0, 2, 1
    names, path = ("tumour", "stroma-2"), tmp_path / f"a.{form}"
    if form in {"coco", "polygons"}:
        path = tmp_path / "a.json"
        how = {"segmentation": "polygons"} if form == "polygons" else {}
        write_coco(path, [("a.png", labels)], names=names, **how)
    elif form == "roi":
        path = tmp_path / "b.zip"
        write_roi(path, labels, names=names)
    elif form == "zip":
        write_geojson(tmp_path / "a.geojson", labels, names=names)
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "a.geojson", "a.geojson")
    else:
        write_geojson(path, labels, names=names)
    found = load_pair(Pair("a", IMAGE, path, class_names=names))[1]
    np.testing.assert_array_equal(found, labels)


def test_folders_may_hold_compressed_outlines(tmp_path):
    write_image(tmp_path / "i" / "a.png", IMAGE)
    (tmp_path / "m").mkdir()
    write_geojson(tmp_path / "m" / "a.geojson.gz", np.ones(SHAPE, np.uint8), names=("cell",))
    assert load_pair(find_pairs(tmp_path / "i", tmp_path / "m")[0])[1].all()
    config = PredictConfig(roi=str(tmp_path / "m"))
    model = lambda tiles: tiles[..., :1] / 255  # noqa: E731
    assert not ts.predict_files(model, tmp_path / "i", tmp_path / "out", config).failed
    (tmp_path / "m" / "a.geojson.gz").write_bytes(b"\x1f\x8b\x08 damaged")
    with pytest.raises(FileError, match="be a compressed file"):
        read_outlines(tmp_path / "m" / "a.geojson.gz")


def test_an_object_without_a_place_and_other_formats(tmp_path):
    nowhere = feature([], name="a") | {"geometry": None}
    path = written(tmp_path, nowhere, feature([square(0, 0, 3, 3)], name="a"))
    assert load_pair(Pair("a", IMAGE, path))[1].sum() == 9
    (tmp_path / "b.json").write_text('{"version": "5", "shapes": [], "imagePath": "b.png"}')
    with pytest.raises(FileError, match="be GeoJSON or COCO; got the keys version, shapes, imagePath"):
        read_outlines(tmp_path / "b.json")
    for text in ('[{"id": 1, "annotations": []}]', "{}", "[3]"):  # the first as of Label Studio
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(FileError, match="be GeoJSON or COCO; got others"):
            read_outlines(tmp_path / "b.json")


def test_outlines_beside_their_image_are_told(tmp_path, caplog):
    near, far = feature([square(5, 5, 9, 9)]), feature([square(505, 5, 509, 9)])
    written(tmp_path, near, far)
    assert load_pair(Pair("a", IMAGE, tmp_path / "a.geojson"))[1].sum() == 16
    assert "1 of 2 outlines lie beside the image of (40, 50) px, at x from 505 to 509" in caplog.text
    written(tmp_path, far, far)
    with pytest.raises(FileError, match=r"outlines in its image, \(H, W\) = \(40, 50\); got all of them"):
        load_pair(Pair("a", IMAGE, tmp_path / "a.geojson"))
    tiling = {"tile_size": 32, "overlap": 0}
    with pytest.raises(FileError, match="have outlines in its image"):
        ts.tiled_predict(lambda tiles: tiles[..., :1] / 255, IMAGE, tiling, roi=tmp_path / "a.geojson")
    assert len(read_outlines(tmp_path / "a.geojson")) == 2
    written(tmp_path)  # a file without outlines is an image without them
    assert load_pair(Pair("a", IMAGE, tmp_path / "a.geojson"))[1].sum() == 0


@pytest.mark.parametrize(
    "rings",
    [
        [square(11.51, 48.12, 11.53, 48.14), square(11.55, 48.12, 11.58, 48.14)],  # in one px
        [square(11.42, 48.41, 11.53, 48.53), square(11.55, 48.12, 11.58, 48.14)],  # of one, by chance
        [square(11.1, 48.1, 11.2, 48.2), square(60.1, 40.1, 60.3, 40.3)],  # far from each other
    ],
)
def test_outlines_that_cover_no_px_are_in_other_units(rings, tmp_path):
    image = np.zeros((300, 400, 3), np.uint8)
    path = written(tmp_path, *(feature([ring]) for ring in rings))
    coco = {"images": [{"id": 1, "file_name": "a.png", "height": 300, "width": 400}], "categories": []}
    areas = [np.ravel(ring).tolist() for ring in rings]
    coco["annotations"] = [{"image_id": 1, "segmentation": [area]} for area in areas]
    (tmp_path / "a.json").write_text(json.dumps(coco))
    roi = roifile.ImagejRoi.frompoints(np.array(rings[0], np.float32))
    roi.tofile(tmp_path / "a.roi")
    for name in ("a.geojson", "a.json", "a.roi"):
        with pytest.raises(FileError, match=r"cover px of its image.*x from 11\.\d+ to .*not in degrees"):
            load_pair(Pair("a", image, tmp_path / name))
    with pytest.raises(FileError, match="not in degrees"):
        ts.tiled_predict(lambda tiles: tiles[..., :1] / 255, image, {"tile_size": 64}, roi=path)
    none = {"size": [300, 400], "counts": [300 * 400]}
    coco["annotations"] = [{"image_id": 1, "segmentation": none}]
    (tmp_path / "a.json").write_text(json.dumps(coco))
    with pytest.raises(FileError, match="got 1 that cover none"):
        load_pair(Pair("a", image, tmp_path / "a.json"))


@pytest.mark.parametrize("form", [dict, list])
def test_outlines_in_micrometres_are_refused_where_their_areas_say_so(form, tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((200, 300), np.uint8), metadata=PX)
    ring, hole, area = square(10, 10, 40, 50), square(20, 20, 30, 30), 30 * 40 - 10 * 10
    for factor, in_px in ((0.25, True), (1, False)):  # 0.5 x 0.5 µm per px
        one = feature([ring, hole])
        measured = {"Cell: Area \u03bcm^2": area * factor, "Solidity": math.nan, "Class": "a"}
        as_list = [{"name": name, "value": value} for name, value in measured.items()]
        one["properties"]["measurements"] = measured if form is dict else as_list
        path = written(tmp_path, one)
        pair = Pair("a", tmp_path / "a.ome.tif", path)
        if in_px:
            assert load_pair(pair)[1].sum() == area
            continue
        with pytest.raises(
            FileError, match=r"outlines in px; got areas .* µm² which .*0\.5 x 0\.5 µm per px"
        ):
            load_pair(pair)
        with (
            open_image(pair.image) as image,
            pytest.raises(FileError, match=r"Divide x and y by the µm per px"),
        ):
            ts.tiled_predict(lambda tiles: tiles[..., :1] / 255, image, {"tile_size": 64}, roi=path)


def test_outlines_that_look_like_micrometres_are_told(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((200, 300), np.uint8), metadata=PX)
    told = "a.geojson: all outlines lie in the upper left 100 x 150 of (200, 300) px, as if they were in µm"
    for rings, expected in (
        ([square(5, 5, 9, 9), square(140, 90, 149, 99)], True),
        ([square(5, 5, 9, 9), square(140, 90, 149, 105)], False),
        ([square(5, 5, 9, 9), square(70, 90, 80, 99)], False),
    ):
        caplog.clear()
        path = written(tmp_path, *(feature([ring]) for ring in rings))
        load_pair(Pair("a", tmp_path / "a.ome.tif", path))
        assert (told in caplog.text) == expected


def test_small_outlines_are_read_where_they_cover_a_px(tmp_path):
    image = np.zeros((300, 400, 3), np.uint8)
    for rings in ([square(7, 8, 8, 9)], [square(7.1, 8.1, 7.2, 8.2), square(20.2, 8, 21.3, 9)]):
        written(tmp_path, *(feature([ring]) for ring in rings))
        assert load_pair(Pair("a", image, tmp_path / "a.geojson"))[1].sum() == 1


def test_outlines_that_a_smaller_level_has_no_px_of_are_told(tmp_path, caplog):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.zeros((320, 320), np.uint8), tile=(64, 64), subifds=1, photometric="minisblack")
        writer.write(np.zeros((20, 20), np.uint8), tile=(32, 32), subfiletype=1, photometric="minisblack")
    written(tmp_path, feature([square(1, 1, 4, 4)]))
    assert not load_pair(Pair("a", tmp_path / "a.tif", tmp_path / "a.geojson", level=1))[1].any()
    assert "no px of level 1 is in one of its 1 outlines" in caplog.text


def test_coordinates_on_earth_are_no_px(tmp_path):
    content = json.loads(written(tmp_path, feature([square(5, 5, 9, 9)])).read_text())
    content["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    with pytest.raises(FileError, match=r"have coordinates in px; got those on earth .*CRS84"):
        read_outlines(tmp_path / "a.geojson")


def test_coco_that_names_its_images_as_windows_does(tmp_path):
    image = {"id": 1, "file_name": "train\\a.png", "height": 40, "width": 50}
    area = [[6, 4, 31, 4, 31, 20, 6, 20]]
    annotation = {"id": 1, "image_id": 1, "category_id": 7, "segmentation": area}
    content = {"images": [image], "categories": [{"id": 7, "name": "cell"}], "annotations": [annotation]}
    (tmp_path / "c.json").write_text(json.dumps(content))
    write_image(tmp_path / "i" / "a.png", IMAGE)
    (pair,) = find_pairs(tmp_path / "i", tmp_path / "c.json")
    assert (pair.name, load_pair(pair)[1].sum()) == ("a", 400)


@pytest.mark.parametrize("ring", [[[1]], [[1], [2], [3]], [1, 2, 3], [[]], [], [[1, 2], [3]]])
def test_points_without_two_coordinates_are_refused(tmp_path, ring):
    path = written(tmp_path, feature([ring]))
    with pytest.raises(FileError, match=r"finite points|polygons"):
        load_pair(Pair("a", IMAGE, path))


def test_a_file_of_nothing_is_no_roi(tmp_path):
    (tmp_path / "a.geojson").write_text("null")
    with pytest.raises(FileError, match="be GeoJSON"):
        load_pair(Pair("a", IMAGE, tmp_path / "a.geojson"))


@pytest.mark.parametrize("name", ["a.json", "a.roi"])
def test_a_damaged_or_locked_zip_is_refused(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"{}")
    whole = (tmp_path / "a.zip").read_bytes()
    place = whole.index(b"PK\x01\x02")  # of the list of files
    locked = bytearray(whole)
    locked[6] |= 1
    locked[place + 8] |= 1
    for data in (whole[:place] + b"X" + whole[place + 1 :], bytes(locked)):
        (tmp_path / "a.zip").write_bytes(data)
        with pytest.raises(FileError, match=r"a\.zip"):
            read_outlines(tmp_path / "a.zip")
