"""segment and its result; objects that predict_files writes in the pass that predicts."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

import tiledseg as ts
from tiledseg.config import PredictConfig
from tiledseg.errors import ArrayError, CancelledError, FileError, SettingError
from tiledseg.io import PixelSize, level_scale_of, open_image, read_image, write_image
from tiledseg.objects import label_objects

if TYPE_CHECKING:
    from pathlib import Path

rng = np.random.default_rng(0)
IMAGE = (rng.random((40, 50)) < 0.4).repeat(8, 0).repeat(9, 1)[:300, :410].astype(np.uint8) * 255
TILING = {"tile_size": 128, "overlap": 32}


def bright(tiles: np.ndarray) -> np.ndarray:
    return tiles[..., :1] / 255


def two(tiles: np.ndarray) -> np.ndarray:
    return np.stack([255 - tiles[..., 0], tiles[..., 0]], axis=-1) / 255


@pytest.mark.parametrize(("tile", "overlap", "connectivity"), [(40, 0, 4), (97, 13, 8), (200, 30, 4)])
def test_objects_do_not_depend_on_the_tiling(tile: int, overlap: int, connectivity: int) -> None:
    config = {"connectivity": connectivity, "min_area": 100}
    result = ts.segment(bright, IMAGE, {"tile_size": tile, "overlap": overlap}, objects=config)
    whole = label_objects(IMAGE[..., None] / np.float32(255), config, image=IMAGE)
    np.testing.assert_array_equal(result.labels, whole.labels)
    assert result.objects.table.keys() == whole.table.keys()
    for name, column in whole.table.items():
        np.testing.assert_array_equal(result.objects.table[name], column)


def test_a_path_a_lazy_array_and_a_segmenters_method_give_the_same_labels(tmp_path: Path) -> None:
    da = pytest.importorskip("dask.array")
    here = ts.segment(bright, IMAGE, TILING)
    write_image(tmp_path / "a.png", IMAGE)
    lazy = da.from_array(IMAGE, chunks=100)
    out = tmp_path / "labels.npy"
    for result in (
        ts.segment(bright, tmp_path / "a.png", TILING),
        ts.segment(bright, lazy, TILING),
        ts.segment(bright, IMAGE, TILING, out=out),
    ):
        labels = np.load(result.labels) if result.labels is out else result.labels
        np.testing.assert_array_equal(labels, here.labels)
        assert result.counts() == here.counts() == {"foreground": len(here.objects)}
    computed = label_objects(ts.tiled_predict(bright, lazy, TILING))
    np.testing.assert_array_equal(computed.labels, here.labels)


@pytest.mark.parametrize("outputs", [bright, two])
def test_objects_are_cut_where_the_mask_is(outputs: object) -> None:
    class Segmenter:
        network = None
        preprocessing = ts.PreprocessingConfig(channels=1)
        labels = ("cell",) if outputs is bright else ("background", "cell")
        threshold = 0.3
        tiling = ts.TilingConfig(**TILING)

    Segmenter.network = staticmethod(lambda tiles: outputs(tiles * 255))
    grey = rng.integers(0, 256, (200, 260), np.uint8)
    result = ts.segment(Segmenter(), grey, keep_map=True)
    mask = ts.tiled_predict(Segmenter(), grey, output="mask")
    np.testing.assert_array_equal(np.asarray(result.labels) > 0, mask == 1)
    assert result.classes == ("cell",)
    assert result.map.shape == (200, 260, len(Segmenter.labels))
    higher = ts.segment(bright, grey, TILING, objects={"threshold": 0.81})
    np.testing.assert_array_equal(higher.labels > 0, grey / np.float32(255) >= np.float32(0.81))


def test_the_result_shows_itself_and_escapes_names() -> None:
    class Segmenter:
        network = staticmethod(lambda tiles: tiles)
        preprocessing = ts.PreprocessingConfig(channels=1)
        labels = ("<b>cell",)
        threshold = 0.5
        tiling = ts.TilingConfig(**TILING)

    result = ts.segment(Segmenter(), ts.open_image(IMAGE, pixel_size=0.5), seams=True)
    n = len(result.objects)
    assert repr(result) == f"Segmentation({n} objects in 300 x 410 px, px of 0.5 x 0.5 µm: {n} <b>cell)"
    text = result._repr_html_()
    assert "<b>" not in text
    assert "&lt;b&gt;cell" in text
    assert "data:image/png;base64," in text
    assert f"{n - 5} more rows" in text
    assert result.seams is not None
    assert result.seams.score < 1e-6
    picture = result.picture(100)
    assert picture.shape == (60, 82, 3)
    assert (picture == (230, 159, 0)).all(axis=-1).any()


def test_plot_draws_on_given_axes() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    ax = figure.subplots()
    result = ts.segment(bright, IMAGE, TILING)
    assert result.plot(ax) is ax
    assert ax.images[0].get_extent() == [0, 410, 300, 0]


def test_save_writes_a_folder_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ts.segment(bright, ts.open_image(IMAGE, pixel_size=(0.5, 0.25)), TILING, keep_map=True)
    folder = result.save(tmp_path / "out")
    names = ["labels.ome.tif", "map.npy", "mask.ome.tif", "objects.csv", "objects.geojson", "overlay.png"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "run.json"]
    with open_image(folder / "labels.ome.tif") as labels, open_image(folder / "mask.ome.tif") as mask:
        np.testing.assert_array_equal(np.asarray(labels), result.labels)
        np.testing.assert_array_equal(mask, 255 * (np.asarray(result.labels) > 0))  # as all mask files
        assert labels.pixel_size == PixelSize(0.5, 0.25)
    facts = json.loads((folder / "run.json").read_text("utf-8"))
    assert (facts["objects"], facts["pixel_size_um"]) == (len(result.objects), [0.5, 0.25])
    assert len((folder / "objects.csv").read_text("utf-8").splitlines()) == len(result.objects) + 1
    with pytest.raises(FileError, match="new or empty"):
        result.save(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("tiledseg.predict.segmentation.write_text", full)
    with pytest.raises(FileError, match="no space"):
        result.save(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_save_writes_outlines_in_px_of_level_0(tmp_path: Path) -> None:
    slide = np.zeros((300, 500, 3), np.uint8)
    slide[100:200, 120:400] = 255
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        options = {"tile": (64, 64), "photometric": "rgb"}
        writer.write(slide, subifds=1, **options)
        writer.write(slide[::2, ::2], subfiletype=1, **options)
    with open_image(tmp_path / "slide.tif", level=1) as image:
        folder = ts.segment(bright, image, TILING).save(tmp_path / "out")
    (found,) = json.loads((folder / "objects.geojson").read_text("utf-8"))["features"]
    corners = np.array(found["geometry"]["coordinates"][0])
    assert [corners.min(axis=0).tolist(), corners.max(axis=0).tolist()] == [[120, 100], [400, 200]]
    assert found["properties"]["measurements"]["Area px^2"] == 100 * 280
    assert level_scale_of(folder / "mask.ome.tif") == level_scale_of(folder / "labels.ome.tif") == (2, 2)
    assert json.loads((folder / "run.json").read_text("utf-8"))["image"] == "slide.tif"


def test_wrong_arguments_are_refused_before_anything_is_computed() -> None:
    def never(_tiles: np.ndarray) -> np.ndarray:
        raise AssertionError

    with pytest.raises(SettingError, match="Did you mean `min_area`"):
        ts.segment(never, IMAGE, TILING, objects={"min_aera": 3})
    with pytest.raises(SettingError, match=r"suffix.*labels\.png"):
        ts.segment(never, IMAGE, TILING, out="labels.png")
    with pytest.raises(ArrayError, match="`out` must have shape"):
        ts.segment(never, IMAGE, TILING, out=np.zeros((3, 3), np.uint32))
    with pytest.raises(SettingError, match="area_unit"):
        ts.segment(bright, IMAGE, TILING, objects={"area_unit": "um2"})
    with pytest.raises(SettingError, match="`threshold` must have 1 value"):
        ts.segment(bright, IMAGE, TILING, objects={"threshold": (0.5, 0.5)})
    with pytest.raises(CancelledError):
        ts.segment(bright, IMAGE, TILING, callback=lambda *_: False)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    for name, image in (("a", IMAGE), ("b", IMAGE[::-1])):
        with tifffile.TiffWriter(folder / f"{name}.tif") as writer:
            writer.write(image, subifds=1, tile=(64, 64))
            writer.write(image[::2, ::2], subfiletype=1, tile=(64, 64))
    return folder


def test_everything_is_written_in_one_pass_and_agrees(slides: Path, tmp_path: Path) -> None:
    pytest.importorskip("roifile")
    calls = []

    def counted(tiles: np.ndarray) -> np.ndarray:
        calls.append(len(tiles))
        return bright(tiles)

    write = ("mask", "labels", "objects", "geojson", "coco", "roi", "overlay")
    config = {"write": write, "objects": {"min_area": 100}, "formats": {"compress": True}}
    result = ts.predict_files(counted, slides, tmp_path / "out", config, tiling=TILING)
    assert str(result) == "2 predicted, 0 skipped, 0 failed"
    per_image = ts.plan(bright, IMAGE, TILING).n_tiles
    assert sum(calls) <= 2 * per_image + 2  # and one on zeros, for the number of channels
    here = ts.segment(bright, IMAGE, TILING, objects={"min_area": 100})
    files = {what: path.name for what, path in result.outcomes[0].written.items()}
    assert files == {
        "mask": "a.png", "labels": "a.ome.tif", "objects": "a.csv", "geojson": "a.geojson.gz",
        "coco": "a.json", "roi": "a.zip", "overlay": "a.png",
    }  # fmt: skip
    with open_image(tmp_path / "out" / "labels" / "a.ome.tif") as labels:
        np.testing.assert_array_equal(np.asarray(labels), here.labels)
    table = np.genfromtxt(tmp_path / "out" / "objects" / "a.csv", delimiter=",", names=True)
    for name, column in here.objects.table.items():
        np.testing.assert_array_equal(table[name], column)
    found = json.loads((tmp_path / "out" / "coco" / "a.json").read_text("utf-8"))
    assert [one["area"] for one in found["annotations"]] == here.objects.table["area"].tolist()


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def test_the_objects_of_all_images_are_counted_in_one_table(slides: Path, tmp_path: Path) -> None:
    config = {"write": ("objects",), "objects": {"min_area": 100}, "existing": "skip"}
    out = tmp_path / "out"
    ts.predict_files(bright, slides / "a.tif", out, config, tiling=TILING)
    table = ts.segment(bright, IMAGE, TILING, objects={"min_area": 100}).objects.table
    row = {"image": "a.tif", "objects": str(len(table["area"])), "area": str(table["area"].sum())}
    assert rows_of(out / "counts.csv") == [row]
    empty = slides / "empty.png"
    write_image(empty, np.zeros((40, 50), np.uint8))
    ts.predict_files(bright, empty, out, config | {"pixel_size": 0.5}, tiling=TILING)
    assert [one["image"] for one in rows_of(out / "counts.csv")] == ["a.tif", "empty.png"]
    assert rows_of(out / "counts.csv")[1] == {
        "image": "empty.png", "objects": "0", "area": "0", "area_um2": "0"
    }  # fmt: skip


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_objects_of_each_class_are_counted(form: str, tmp_path: Path) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "in" / "day 2").mkdir(parents=True)
    image = np.zeros((60, 90), np.uint8)
    image[5:20, 5:20] = 1  # one object of class 1, two of class 3
    image[30:40, 10:20] = image[30:40, 40:60] = 3
    write_image(tmp_path / "in" / "day 2" / "a.png", image)
    write_image(tmp_path / "in" / "b.png", np.where(image == 1, image, 0))  # has the first class alone

    def network(tiles: np.ndarray) -> np.ndarray:
        return (tiles == np.arange(4)).astype(np.float32)

    config = {"write": ("objects",), "table_format": form, "recursive": True}
    ts.predict_files(network, tmp_path / "in", tmp_path / "out", config)
    assert rows_of(tmp_path / "out" / "counts.csv") == [
        {"image": "b.png", "objects": "1", "class 1": "1", "class 2": "0", "class 3": "0", "area": "225"},
        {"image": "day 2/a.png", "objects": "3", "class 1": "1", "class 2": "0", "class 3": "2"}
        | {"area": "525"},
    ]


def test_a_table_of_the_users_own_is_not_replaced(
    slides: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "counts.csv").write_text("patient,cells\n1,2\n")
    result = ts.predict_files(bright, slides / "a.tif", tmp_path, {"write": ("objects",)}, tiling=TILING)
    assert not result.failed
    assert (tmp_path / "counts.csv").read_text() == "patient,cells\n1,2\n"
    assert "counts.csv" in caplog.text


@pytest.mark.parametrize("more", [{"threshold": "otsu"}, {"blur": 1.5}, {"mask_format": "npy"}])
def test_objects_are_those_of_the_mask_that_is_written(more: dict, slides: Path, tmp_path: Path) -> None:
    config = {"write": ("mask", "labels"), "labels_format": "npy", **more}
    ts.predict_files(bright, slides / "a.tif", tmp_path / "out", config, tiling=TILING)
    (mask,) = (tmp_path / "out" / "masks").iterdir()
    wanted = label_objects(read_image(mask) > 0).labels
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "labels" / "a.npy"), wanted)


def test_objects_of_a_level_are_written_in_px_of_level_0(slides: Path, tmp_path: Path) -> None:
    config = {"write": ("geojson",), "level": 1, "objects": {"min_area": 100}}
    ts.predict_files(bright, slides / "a.tif", tmp_path / "out", config, tiling=TILING)
    text = (tmp_path / "out" / "geojson" / "a.geojson").read_text("utf-8")
    features = json.loads(text)["features"]
    found = label_objects(IMAGE[::2, ::2] > 0, {"min_area": 100}).table
    corners = np.concatenate([one["geometry"]["coordinates"][0] for one in features])
    assert corners.max(axis=0).tolist() == [2 * found["box_x1"].max(), 2 * found["box_y1"].max()]


def test_a_resumed_run_makes_objects_of_its_finished_map(slides: Path, tmp_path: Path) -> None:
    def network(tiles: np.ndarray) -> np.ndarray:
        return bright(tiles)

    network.fingerprint = "v1"  # type: ignore[attr-defined]
    maps = {"mask_format": "npy", "probs_format": "npy", "probs_dtype": "float32"}
    config = PredictConfig(write=("mask", "probs", "labels", "objects"), resume=True, **maps)
    run = (slides / "a.tif", tmp_path / "out", config)
    ts.predict_files(network, *run, tiling=TILING)
    table = tmp_path / "out" / "objects" / "a.csv"
    before = table.read_bytes()
    table.unlink()
    network.__code__ = (lambda tiles: 1 / 0).__code__  # type: ignore[attr-defined]  # must not run again
    assert str(ts.predict_files(network, *run, tiling=TILING)) == "1 predicted, 0 skipped, 0 failed"
    assert table.read_bytes() == before
    assert str(ts.predict_files(network, *run, tiling=TILING)) == "0 predicted, 1 skipped, 0 failed"
    assert sorted(os.listdir(tmp_path / "out" / "labels")) == ["a.ome.tif"]  # noqa: PTH208
    with pytest.raises(SettingError, match=r"`write` must hold probs to resume objects"):
        PredictConfig(write=("mask", "objects"), resume=True, mask_format="npy")


def test_one_file_that_fails_leaves_no_objects_and_does_not_stop_the_others(
    slides: Path, tmp_path: Path
) -> None:
    (slides / "broken.tif").write_bytes(b"no image")
    config = {"write": ("labels", "objects", "geojson")}
    result = ts.predict_files(bright, slides, tmp_path / "out", config, tiling=TILING)
    assert str(result).startswith("2 predicted, 0 skipped, 1 failed")
    for folder in ("labels", "objects", "geojson"):
        assert [path.name[0] for path in sorted((tmp_path / "out" / folder).iterdir())] == ["a", "b"]
