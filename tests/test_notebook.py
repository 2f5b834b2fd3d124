"""What public objects show of themselves in a notebook, and the pictures on matplotlib's axes."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import tiledseg as ts
from tiledseg import plots
from tiledseg._backend import keras
from tiledseg.config import TilingConfig
from tiledseg.data import Pair, describe, statistics_of, survey
from tiledseg.evaluate import compare, score_map
from tiledseg.export import write_geojson
from tiledseg.io import read_mask, write_mask
from tiledseg.metrics import (
    components,
    count,
    hausdorff95,
    match_instances,
    outline_distances,
    reliability,
    seam_ratio,
)
from tiledseg.objects import label_objects, tiled_objects
from tiledseg.samples import smear, write_samples
from tiledseg.train import TrainingResult

SAMPLE = smear(height=480, width=640, seed=1, cell_px=(120, 200))
EPOCHS = [1, 2, 3]
HISTORY = {name: [0.5, 0.25, 0.125] for name in ("loss", "val_loss", "dice", "val_dice")} | {"epoch": EPOCHS}


@pytest.fixture(scope="module")
def demo():
    return ts.load_model("demo")


@pytest.fixture(scope="module")
def result(demo):
    return ts.segment(demo, SAMPLE.image, {"tile_size": 64, "overlap": 32}, seams=True)


@pytest.fixture(scope="module")
def scores(demo):
    return ts.Evaluator().evaluate(demo, [(SAMPLE.image, SAMPLE.mask)])


def shown(thing: object) -> ET.Element:
    """Parse what an object shows: a wrong tag or a character that is not escaped raises an error."""
    text = thing._repr_html_().replace("&nbsp;", " ").replace("<br>", "<br/>")
    assert len(repr(thing)) < 1500
    return ET.fromstring(f"<div>{text}</div>")


def text_of(thing: object) -> str:
    return " ".join(shown(thing).itertext())


def test_a_plan_shows_its_tiles_and_its_rows(demo):
    plan = ts.plan(demo, (4000, 3000, 3), {"tile_size": 128, "overlap": 32})
    drawn = shown(plan)
    svg = drawn.find(".//svg")
    grid = plan.grid
    assert svg.get("viewBox") == f"0 0 {grid.shape[1]} {grid.shape[0]}"
    (lines,) = svg.findall("path")
    assert lines.get("d").count("H") == len(grid.y.origins) - 1
    assert lines.get("d").count("V") == len(grid.x.origins) - 1
    names = [cell.text for cell in drawn.findall(".//th")]
    assert {"image", "tiles", "verdict"} <= set(names)
    assert names == [line[:15].strip() for line in str(plan).splitlines()]


def test_tiles_that_a_region_leaves_out_are_covered(demo):
    roi = np.zeros(SAMPLE.mask.shape, bool)
    roi[:100, :100] = True
    plan = ts.plan(demo, SAMPLE.image, {"tile_size": 32, "overlap": 8}, roi=roi)
    covered = [one for one in shown(plan).findall(".//rect") if one.get("style") == "fill:#8888"]
    assert len(covered) == len(plan.grid) - plan.n_tiles > 0


def test_a_grid_of_many_tiles_stays_small():
    grid = ts.Tiler(TilingConfig(tile_size=64, overlap=16)).grid((100_000, 100_000))
    assert len(grid._repr_html_()) < 60_000
    assert f"{len(grid)} of 64 x 64 px" in text_of(grid)


def test_a_segmenter_says_what_it_is(demo):
    assert repr(demo) == "Segmenter(unet: any x any px, 3 channels, uint8 -> plasma cell)"
    assert "plasma cell" in text_of(demo)


def test_a_result_shows_outlines_rows_and_seams(result):
    assert f"{len(result.objects)} object" in text_of(result)
    assert shown(result).find(".//img").get("src").startswith("data:image/png;base64,")
    assert "mean disagreement" in text_of(result.seams)
    assert repr(result.seams).startswith("SeamReport(")


def test_an_evaluation_has_a_short_repr_and_a_table(scores):
    assert len(repr(scores)) < 100
    assert "all together" in text_of(scores)


def test_results_that_hold_arrays_have_a_short_repr(demo, scores, tmp_path):
    write_samples(tmp_path / "in", n_images=3, height=64, width=96)
    files = ts.predict_files(demo, tmp_path / "in" / "images", tmp_path / "out")
    seen = []
    ts.Evaluator().evaluate(demo, [(SAMPLE.image, SAMPLE.mask)], callback=seen.append)
    both = compare(scores, scores, names=("one", "<b>"))
    for value in (files, *seen, both, *scores.images, scores.threshold_curve(), scores.probabilities):
        assert repr(value).startswith(f"{type(value).__name__}(")
        assert len(repr(value)) < 200
    assert repr(files) == "FilesResult(3 predicted, 0 skipped, 0 failed)"
    assert "dice +0.000" in repr(both)
    assert "&lt;b&gt;" in both._repr_html_()
    assert "boundary_f1" in text_of(both)


def test_a_training_shows_its_curves(demo):
    run = TrainingResult(demo, HISTORY, 3, Path("runs/<1>"))
    assert repr(run) == f"TrainingResult(3 epochs, best 3 with val_dice 0.1250, in {Path('runs/<1>')})"
    labels = [one.get("aria-label") for one in shown(run).findall(".//svg")]
    assert labels == ["loss", "dice"]


def test_an_open_image_shows_a_thumbnail_and_its_facts():
    with ts.open_image(SAMPLE.image, pixel_size=0.25) as image:
        assert "0.25 µm" in text_of(image)
        assert shown(image).find(".//img") is not None
        assert "480 x 640 px" in repr(image)


def test_datasets_show_pairs_and_numbers(tmp_path):
    write_samples(tmp_path, n_images=2, height=64, width=96)
    found = survey({"images": tmp_path / "images", "masks": tmp_path / "masks"})
    assert repr(found) == "Survey(2 pairs, 0 problems)"
    assert "smear_0000" in text_of(found)
    assert "foreground" in text_of(statistics_of(describe(found.pairs, tmp_path)))


def test_settings_show_each_value():
    assert "gaussian" in text_of(TilingConfig())


def test_text_is_escaped(demo):
    other = demo.changed(labels=("<script>alert(1)</script>",))
    assert "<script>" not in other._repr_html_()


# matplotlib


def test_every_picture_returns_the_axes_it_drew_on(demo, result, scores):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots(2, 5)
    probabilities = demo.predict(SAMPLE.image)
    draws = (
        lambda ax: plots.plot_overlay(SAMPLE.image, SAMPLE.mask, ax=ax),
        lambda ax: plots.plot_labels(result.labels, ax=ax),
        lambda ax: plots.plot_probabilities(probabilities, ax=ax),
        lambda ax: plots.plot_tiles(result.plan, SAMPLE.image, ax=ax),
        lambda ax: plots.plot_seams(result.seams, ax=ax),
        lambda ax: plots.plot_history(HISTORY, ax=ax),
        lambda ax: plots.plot_thresholds(scores.threshold_curve(), ax=ax),
        lambda ax: plots.plot_calibration(reliability(scores.probabilities), ax=ax),
        lambda ax: plots.plot_worst(scores.images, ax=ax),
        lambda ax: plots.plot_histogram(result.objects.table, ax=ax),
    )
    for draw, ax in zip(draws, axes.ravel(), strict=True):
        assert draw(ax) is ax
        assert ax.has_data()
    figure.canvas.draw()
    pyplot.close(figure)


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda: plots.plot_overlay(SAMPLE.image, SAMPLE.mask[:-1]), "479"),
        (lambda: plots.plot_labels(np.zeros((4, 4))), "labels.*float64"),
        (lambda: plots.plot_probabilities(np.zeros((4, 4)), 1), "channel.*1"),
        (lambda: plots.plot_history(HISTORY, ("lost",)), "lost"),
        (lambda: plots.plot_thresholds(None), "ThresholdCurve"),
        (lambda: plots.plot_histogram({"area": [1]}, "ara"), "ara"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, match):
    with pytest.raises(ts.TiledSegError, match=match):
        draw()


# images and settings as people hand them over


def test_images_of_other_libraries_give_the_same_map(demo):
    image, wanted = SAMPLE.image, demo.predict(SAMPLE.image)
    pillow = pytest.importorskip("PIL.Image").fromarray(image)
    assert np.array_equal(demo.predict(pillow), wanted)
    with pytest.raises(ts.TiledSegError, match=r"mode P.*convert"):
        demo.predict(pillow.convert("P"))


class DataArray:
    """What xarray.DataArray has of names and axes."""

    def __init__(self, data, dims):
        self.data, self.dims, self.sizes = data, dims, dict(zip(dims, data.shape, strict=True))
        self.shape, self.dtype = data.shape, data.dtype

    def __getitem__(self, region):
        return self.data[region]

    def isel(self, chosen):
        index = tuple(chosen.get(axis, slice(None)) for axis in self.dims)
        return DataArray(self.data[index], tuple(axis for axis in self.dims if axis not in chosen))

    def transpose(self, *order):
        return DataArray(self.data.transpose([self.dims.index(axis) for axis in order]), order)


DataArray.__module__ = "xarray.core.dataarray"


def test_axes_of_xarray_are_taken_by_name(demo):
    moved = DataArray(np.moveaxis(SAMPLE.image, -1, 0)[None], ("time", "band", "y", "x"))
    assert np.array_equal(demo.predict(moved), demo.predict(SAMPLE.image))
    with pytest.raises(ts.TiledSegError, match=r"dimensions y, x.*'a': 480"):
        demo.predict(DataArray(SAMPLE.mask, ("a", "b")))


class Dataset(dict):
    """What xarray.Dataset has of arrays and axes."""

    dims = ("y", "x")


Dataset.__module__ = "xarray.core.dataset"


@pytest.mark.parametrize("call", [ts.tiled_predict, ts.plan, ts.segment])
def test_a_dataset_of_xarray_is_told_with_its_arrays(demo, call):
    with pytest.raises(ts.TiledSegError, match=r"got a Dataset of red, mask\. .*image\['red'\]"):
        call(demo, Dataset(red=SAMPLE.image, mask=SAMPLE.mask))
    with pytest.raises(ts.TiledSegError, match="got a Dataset of red"):
        label_objects(Dataset(red=SAMPLE.mask))


def test_labels_of_xarray_are_drawn_upright():
    pytest.importorskip("matplotlib")
    (drawn,) = plots.plot_labels(across(SAMPLE.mask)).images
    assert drawn.get_array().shape[:2] == SAMPLE.mask.shape


def across(values):
    return DataArray(values.T, ("x", "y"))


class Lazy:
    """What the arrays of Dask and others have."""

    def __init__(self, values):
        self._values, self.shape, self.dtype = values, values.shape, values.dtype

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype)

    def __getitem__(self, region):
        return self._values[region]


@pytest.mark.parametrize("of", [across, Lazy])
def test_masks_of_other_libraries_are_those_of_numpy(of, tmp_path):
    image, mask = SAMPLE.image, SAMPLE.mask
    wanted = label_objects(mask, image=image).table
    found = label_objects(of(mask), image=Lazy(image)).table
    assert all(np.array_equal(found[name], wanted[name], equal_nan=True) for name in wanted)
    assert score_map(of(mask), of(mask)).counts == score_map(mask, mask).counts
    pairs = [(Lazy(image), of(mask)), Pair("b", Lazy(image), of(mask))]
    assert ts.Evaluator().score_maps([mask, of(mask)], pairs).summary()["dice"] == 1
    assert np.array_equal(tiled(image, of(mask)), tiled(image, mask))
    write_mask(tmp_path / "mask.png", of(mask))
    assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)
    assert write_geojson(tmp_path / "a.geojson", of(mask)) == len(wanted["label"])
    assert np.array_equal(components(of(mask)), components(mask))
    assert match_instances(of(components(mask)), components(mask)).missed == 0
    assert count(of(mask), mask) == count(mask, mask)
    assert hausdorff95(outline_distances(of(mask), mask)) == 0
    probs = mask / np.float32(2)
    assert seam_ratio(of(probs), [100], [200]) == seam_ratio(probs, [100], [200])
    objects = tiled_objects(components, of(mask), {"tile_size": 128, "overlap": 64})
    assert np.array_equal(np.sort(objects.table["area"]), np.sort(wanted["area"]))


def test_axes_of_xarray_that_are_taken_by_position_have_one_order():
    image = DataArray(SAMPLE.mask, ("y", "x"))
    tiler = ts.Tiler({"tile_size": 64, "overlap": 0})
    tile = next(iter(tiler.batches(image))).tiles[0]
    assert np.array_equal(tile[..., 0], SAMPLE.mask[:64, :64])
    with pytest.raises(ts.TiledSegError, match=r"in the order y, x here; got x, y\. Pass image\.transpose"):
        next(iter(tiler.batches(across(SAMPLE.mask))))


def tiled(image, roi):
    return ts.tiled_predict(lambda tiles: tiles[..., :1] / 255, image, roi=roi, fill_value=0.5)


def test_tensors_of_pairs_are_read():
    image, mask = (keras.ops.convert_to_tensor(one[:64, :64]) for one in (SAMPLE.image, SAMPLE.mask))
    assert ts.Evaluator().score_maps([mask], [(image, mask)]).summary()["dice"] == 1
    assert label_objects(mask).table["area"].sum() == np.asarray(mask).sum()


@pytest.mark.parametrize("call", [ts.tiled_predict, ts.segment, ts.plan])
def test_a_setting_in_the_wrong_place_is_named_with_its_place(demo, call):
    with pytest.raises(ts.TiledSegError, match=r"tiling=\{'tile_size': 256\}"):
        call(demo, SAMPLE.image, tile_size=256)
    with pytest.raises(ts.TiledSegError, match=r"`roy`.*`roi`"):
        call(demo, SAMPLE.image, roy=None)
    with pytest.raises(ts.TiledSegError, match=r"Known: batch_size(?!.*unknown)"):
        call(demo, SAMPLE.image, xxxxxxxx=None)


@pytest.mark.parametrize(
    ("call", "setting"),
    [
        (lambda **given: ts.predict_files("demo", ".", "out", **given), {"write": ("mask",)}),
        (ts.Trainer, {"epochs": 3}),
        (ts.Evaluator, {"threshold": 0.4}),
        (ts.Tiler, {"tile_size": 64}),
    ],
)
def test_a_setting_without_its_config_is_named_with_it(call, setting):
    with pytest.raises(ts.TiledSegError, match=re.escape(f"config={setting}")):
        call(**setting)
    with pytest.raises(ts.TiledSegError, match=r"`confg`.*`config`"):
        call(confg=None)
    with pytest.raises(ts.TiledSegError, match=r"Known: (?!.*(return|unknown))"):
        call(xxxxxxxx=None)


def test_text_in_place_of_a_number_is_shown_as_text():
    with pytest.raises(ts.TiledSegError, match="the text '5'"):
        ts.TrainConfig(epochs="5")
