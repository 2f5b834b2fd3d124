"""Results of an evaluation: summary, intervals, curves, threshold, comparison of two models."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from tiledseg.config import EvaluateConfig, TilingConfig
from tiledseg.data import Pair, find_pairs
from tiledseg.engine import CallablePredictor
from tiledseg.errors import ArrayError, FileError, ModelError, SettingError
from tiledseg.evaluate import (
    EvaluationResult,
    Evaluator,
    classes_of_map,
    compare,
    find_maps,
    read_map,
    score_map,
    side_by_side,
)
from tiledseg.io import write_image, write_mask, write_probs
from tiledseg.metrics import (
    SEAM_DISTANCES,
    InstanceCounts,
    average_precision,
    calibration_error,
    count_probabilities,
)
from tiledseg.samples import smear

TILES = TilingConfig(tile_size=32, overlap=0, blend="crop")


def echo(tiles: Any) -> Any:
    """Return what it is given: the image is the map."""
    return tiles


def by_nearness(classes: int) -> CallablePredictor:
    """A network with known classes: the grey value is the label."""
    centres = np.linspace(0, 255, classes, dtype=np.float32)

    def call(tiles: Any) -> Any:
        nearness = 1 / (1 + np.abs(tiles - centres))
        return nearness / nearness.sum(axis=-1, keepdims=True)

    predictor = CallablePredictor(call)
    predictor.classes = classes
    return predictor


def boxes(*tops: int) -> np.ndarray:
    """Cells of 10 x 10 px below each other, in two by three tiles."""
    mask = np.zeros((64, 96), np.uint8)
    for top in tops:
        mask[top : top + 10, 20:30] = 1
    return mask


def images(n_images: int, noise: float = 0.3) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps with some noise, each with its truth."""
    pairs = []
    for seed in range(n_images):
        truth = boxes(5, 30)
        rng = np.random.default_rng(seed)
        probs = np.clip(0.2 + 0.6 * truth + rng.normal(0, noise * rng.random(), truth.shape), 0, 1)
        pairs.append((probs.astype(np.float32), truth))
    return pairs


def test_cells_and_outlines_of_a_map_counted_by_hand():
    scores = score_map(boxes(5, 31, 46), boxes(5, 30), boundary_px=1)
    assert (scores.cells.found, scores.cells.missed, scores.cells.false) == (2, 0, 1)
    assert scores.cells.mean_dice == pytest.approx((1 + 0.9) / 2)
    assert scores.panoptic_quality == pytest.approx((1 + 9 / 11) / 2.5)
    # outlines have 36 px each; those of the box moved by 1 px stay within 1 px, the third lies far off
    assert scores.boundary_f1 == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
    assert scores.hausdorff95 == 16  # 10 of its px, at its lower side; 5 of 108 px may lie further off


def test_cells_of_all_images_are_scored_together_with_intervals():
    truth = boxes(5, 30)
    maps = [truth, boxes(5, 31), boxes(5, 33), boxes(5), boxes(5, 30, 50), np.zeros_like(truth)]
    result = EvaluationResult(tuple(score_map(one, truth, name=str(n)) for n, one in enumerate(maps)))
    sums, bounds = result.summary(), result.intervals(resamples=4000)
    # 12 true and 10 predicted cells; IoU 1 for 7 of them, 9/11 for one, and 7/13 for another
    assert sums["cells_ap50"] == pytest.approx(9 / (12 + 10 - 9))
    assert sums["cells_ap75"] == pytest.approx(8 / (12 + 10 - 8))
    assert sums["cells_dice"] == pytest.approx((7 + 0.9 + 0.7) / 9)
    for name in ("cells_ap50", "cells_ap75", "cells_dice"):
        assert bounds[name].value == pytest.approx(sums[name])
    rng = np.random.default_rng(5)  # the same by another way: cells added up draw by draw
    drawn = [rng.integers(0, 6, 6) for _ in range(4000)]
    counts = [one.cells for one in result.images]
    scores = [sum((counts[n] for n in some), InstanceCounts()) for some in drawn]
    low, high = np.quantile([average_precision(one, 0.75) for one in scores], (0.025, 0.975))
    assert (bounds["cells_ap75"].low, bounds["cells_ap75"].high) == pytest.approx((low, high), abs=0.04)
    assert f"AP at IoU 0.5 {sums['cells_ap50']:.3f} (" in str(result)


def test_several_segmenters_are_scored_by_their_mean_map():
    pairs = images(3)
    squared = lambda tiles: tiles**2  # noqa: E731
    config = EvaluateConfig(tiling=TILES, threshold=0.4)
    both = Evaluator(config).evaluate([echo, squared], pairs)
    wanted = [score_map((probs + probs**2) / 2, truth, threshold=0.4) for probs, truth in pairs]
    assert [one.counts for one in both.images] == [one.counts for one in wanted]
    assert [one.cells for one in both.images] == [one.cells for one in wanted]
    alone = Evaluator(config).evaluate(echo, pairs)
    assert Evaluator(config).evaluate((echo,), pairs).images[0].counts == alone.images[0].counts
    table = side_by_side({"echo": alone, "both": both}).splitlines()
    assert [line.split()[0] for line in table] == ["dice", "echo", "both"]
    assert f"{both.summary()['dice_mean']:.3f}" in table[2]
    with pytest.raises(ModelError, match="must be a segmenter, or several; got none"):
        Evaluator(config).evaluate([], pairs)
    with pytest.raises(ModelError, match=r"segmenter\[1\].*classes of the first"):
        Evaluator(config).evaluate([by_nearness(2), by_nearness(3)], pairs)


def test_one_image_or_none_has_no_intervals_of_cells():
    alone = EvaluationResult((score_map(boxes(), boxes()),))
    assert alone.summary()["cells_ap50"] == 1  # nothing is there, and nothing is predicted
    assert math.isnan(alone.summary()["cells_dice"])
    assert math.isnan(alone.intervals()["cells_ap50"].low)
    assert math.isnan(EvaluationResult(()).intervals()["cells_ap50"].value)


def test_areas_smaller_than_cell_px_are_not_counted():
    found = boxes(5, 30)
    found[0, 0] = 1
    assert score_map(found, boxes(5, 30), cell_px=1).cells.false == 1
    assert score_map(found, boxes(5, 30), cell_px=2).cells.false == 0
    by_default = score_map(found, boxes(5, 30)).cells  # below a twentieth of the 100 px of a cell
    assert (by_default.false, by_default.small_predicted, by_default.small_true) == (0, 1, 0)
    without_cells = score_map(found, np.zeros_like(found)).cells
    assert (without_cells.false, without_cells.small_predicted) == (2, 1)
    result = EvaluationResult((score_map(found, boxes(5, 30)),))
    assert "a twentieth of a typical cell: 1 predicted and 0 true areas" in str(result)
    assert result.summary()["cells_left_out"] == 1
    assert Evaluator(EvaluateConfig(cell_px=2)).evaluate(
        echo, [(found.astype(np.float32), boxes(5, 30))]
    ).cells.false == 0  # fmt: skip


def test_true_cells_can_be_given():
    touching = np.zeros((20, 40), np.uint8)
    touching[5:15, 5:35] = 1
    cells = np.where(np.arange(40) < 20, 1, 2) * touching
    assert score_map(touching, touching).cells.true == 1
    cells[:, 19] = touching[:, 19] * 2  # below and above the half of the area
    scores = score_map(touching, touching, cells=cells).cells
    assert (scores.true, scores.found, scores.missed, scores.false) == (2, 1, 1, 0)
    assert scores.merged == 1


def test_predicted_cells_may_be_split():
    truth = np.zeros((40, 60), np.int32)
    cv2.circle(truth, (20, 20), 11, 1, -1)
    cv2.circle(truth, (38, 20), 9, 2, -1)
    mask = (truth > 0).astype(np.uint8)
    assert score_map(mask, mask, cells=truth).cells.merged == 1
    split = score_map(mask, mask, cells=truth, objects={"split": "watershed"}).cells
    assert (split.found, split.missed, split.false, split.merged) == (2, 0, 0, 0)
    config = EvaluateConfig(objects={"split": "watershed"})
    probs = mask.astype(np.float32)
    assert Evaluator(config).evaluate(echo, [(probs, mask)]).cells.predicted == 2


def test_masks_of_single_cells_give_the_true_cells(tmp_path):
    touching = np.zeros((20, 40), np.uint8)
    touching[5:15, 5:35] = 1
    for number, part in enumerate([np.s_[:, :20], np.s_[:, 20:]], start=1):
        one = np.zeros_like(touching)
        one[part] = touching[part]
        write_mask(tmp_path / f"7_{number}.png", one)
    files = tuple(sorted(tmp_path.iterdir()))
    pair = Pair("7", touching.astype(np.float32), files, mask_parts="instances")
    (one,) = Evaluator().evaluate(echo, [pair]).images
    assert one.dice == 1
    assert (one.cells.true, one.cells.missed, one.cells.merged) == (2, 1, 1)


def test_each_class_has_its_own_cells_and_outlines():
    truth = boxes(5) + 2 * boxes(30)
    scores = score_map(boxes(5) + 2 * boxes(45), truth, classes=3)
    assert [(one.found, one.missed, one.false) for one in scores.instances] == [(1, 0, 0), (0, 1, 1)]
    assert scores.distances[0] == 0
    assert scores.panoptic_quality == 0.5


def test_empty_maps_agree_and_are_far_from_full_ones():
    empty, full = np.zeros((9, 9), np.uint8), np.ones((9, 9), np.uint8)
    both = score_map(empty, empty)
    assert (both.dice, both.boundary_f1, both.hausdorff95, both.panoptic_quality) == (1, 1, 0, 1)
    none = score_map(empty, full)
    assert (none.dice, none.boundary_f1, none.hausdorff95, none.panoptic_quality) == (0, 0, math.inf, 0)


def test_summary_counts_cells_of_all_images():
    result = EvaluationResult(
        (score_map(boxes(5), boxes(5, 30), name="a"), score_map(boxes(5, 45), boxes(5), name="b"))
    )
    sums = result.summary()
    assert [sums[f"cells{end}"] for end in ("", "_found", "_missed", "_false")] == [3, 2, 1, 1]
    assert sums["panoptic_quality"] == 2 / (2 + 0.5 + 0.5)
    assert sums["panoptic_quality_mean"] == pytest.approx(1 / 1.5)


def test_stitched_and_precomputed_maps_get_the_same_scores():
    for probs, truth in images(2):
        ready = Evaluator().score_maps([probs], [(probs, truth)], tile_px=(32, 32))
        stitched = Evaluator(EvaluateConfig(tiling=TILES)).evaluate(echo, [(probs, truth)])
        one, two = ready.images[0], stitched.images[0]
        assert one.counts == two.counts
        assert one.instances == two.instances
        assert one.seam_errors == two.seam_errors
        assert one.seam_ratio == pytest.approx(two.seam_ratio)


def test_errors_are_counted_by_their_distance_from_seams():
    truth = np.zeros((40, 64), np.uint8)
    found = truth.copy()
    found[:, 32] = found[:, 34] = 1  # beside the border between 31 and 32, and 2 px further
    errors = score_map(found, truth, borders=((), (32,))).seam_errors
    assert errors is not None
    assert errors.px == (40 * 4, 40 * 4, 40 * 8, 40 * 16, 40 * 32, 0, 0, 0)
    assert errors.wrong == (40, 40, 0, 0, 0, 0, 0, 0)
    assert errors.shares[:2] == (0.25, 0.25)
    assert math.isnan(errors.shares[-1])
    assert len(errors.px) == len(SEAM_DISTANCES)


def test_a_px_near_a_border_of_either_axis_is_near():
    errors = score_map(np.eye(16) > 0, np.eye(16) > 0, borders=((8,), (8,))).seam_errors
    assert errors is not None
    assert errors.px[:3] == (16 * 16 - 12 * 12, 12 * 12 - 8 * 8, 8 * 8)


def test_values_beyond_0_to_1_are_not_scored():
    probs, truth = images(1)[0]
    assert score_map(probs, truth).probabilities is not None
    with pytest.raises(ArrayError, match=r"in \[0, 1\]; got values from .* to .*sigmoid or softmax"):
        score_map(probs * 2, truth)
    with pytest.raises(ModelError, match="set activation to sigmoid or softmax"):
        Evaluator(EvaluateConfig(tiling=TILES)).evaluate(lambda tiles: tiles * 2, [(probs, truth)])


def test_several_classes_have_a_calibration_but_no_curve():
    truth = np.array([[0, 1, 2, 2]])
    probs = np.full((1, 4, 3), 0.1, np.float32)
    np.put_along_axis(probs, np.array([[0, 1, 2, 1]])[..., np.newaxis], 0.8, axis=2)
    result = EvaluationResult((score_map(probs, truth),))
    assert result.threshold_curve() is None
    assert result.summary()["calibration_error"] == pytest.approx(0.8 - 0.75)


def test_curve_holds_the_scores_of_other_thresholds():
    pairs = images(3)
    result = Evaluator().evaluate(echo, pairs)
    curve = result.threshold_curve()
    assert curve is not None
    for threshold in (0.25, 0.5, 0.75):
        other = Evaluator(EvaluateConfig(threshold=threshold)).evaluate(echo, pairs).summary()
        place = curve.thresholds.index(threshold)
        assert curve.dice_mean[place] == pytest.approx(other["dice_mean"])
        assert curve.precision[place] == pytest.approx(other["precision"])
        assert curve.recall[place] == pytest.approx(other["recall"])
    assert max(curve.dice_mean) == curve.dice_mean[curve.thresholds.index(curve.best)]


def test_threshold_is_chosen_on_other_images():
    truth = boxes(5, 30)
    valid = [(np.where(truth, 0.9, 0.6).astype(np.float32), truth)]
    tests = [(np.where(truth, 0.8, 0.7).astype(np.float32), truth)]
    result = Evaluator().evaluate(echo, tests, valid=valid)
    assert 0.6 < result.threshold < 0.7  # the nearest to 0.5 of those that cut the validation image right
    assert result.threshold_from == "chosen on 1 validation images"
    assert result.images[0].precision < 1
    assert Evaluator().evaluate(echo, tests).threshold_from == "the default"


def test_a_threshold_is_stated_or_chosen_not_both():
    (pair,) = images(1)
    with pytest.raises(SettingError, match="threshold"):
        Evaluator(EvaluateConfig(threshold=0.5)).evaluate(echo, [pair], valid=images(1))
    with pytest.raises(SettingError, match="valid"):
        Evaluator().evaluate(echo, [pair], valid=[pair])


def test_flips_are_averaged():
    left = np.zeros((32, 32), np.float32)
    left[:, :16] = 1

    def west(tiles: Any) -> Any:
        """Answer the left half, whatever is seen."""
        return np.broadcast_to(left[..., np.newaxis], (len(tiles), 32, 32, 1))

    pair = (np.zeros((32, 32, 1), np.float32), left > 0)
    one = Evaluator(EvaluateConfig(threshold=0.75, tiling=TILES)).evaluate(west, [pair])
    flipped = Evaluator(EvaluateConfig(threshold=0.75, tiling=TILES, tta="flips")).evaluate(west, [pair])
    assert one.summary()["dice"] == 1
    assert flipped.summary()["dice"] == 0  # each side is said by half of the flips


def test_intervals_hold_the_means_and_are_the_same_each_time():
    result = Evaluator().evaluate(echo, images(8))
    bounds = result.intervals()
    for name, one in bounds.items():
        assert one.value == pytest.approx(result.summary()[name])
        assert one.low <= one.value <= one.high
    assert bounds == result.intervals()
    assert result.intervals(level=0.5)["dice_mean"].high < bounds["dice_mean"].high


def test_intervals_draw_whole_slides_if_names_contain_them():
    pairs = [Pair(f"slide{place % 2}_{place}", *pair) for place, pair in enumerate(images(6))]
    alone = Evaluator().evaluate(echo, pairs)
    grouped = Evaluator(EvaluateConfig(group_regex=r"^(slide\d)_")).evaluate(echo, pairs)
    assert alone.groups is None
    assert grouped.groups == ("slide0", "slide1") * 3
    means = [np.mean([one.dice for one in grouped.images[start::2]]) for start in (0, 1)]
    bounds = grouped.intervals()["dice_mean"]
    assert (bounds.low, bounds.high) == (pytest.approx(min(means)), pytest.approx(max(means)))
    assert bounds != alone.intervals()["dice_mean"]
    other = Evaluator(EvaluateConfig(threshold=0.4)).evaluate(echo, pairs)
    assert compare(grouped, other).differences["dice"] != compare(alone, other).differences["dice"]


def test_names_without_a_group_are_refused_before_anything_is_predicted():
    def model(tiles: Any) -> Any:
        raise AssertionError

    with pytest.raises(SettingError, match="match every name"):
        Evaluator(EvaluateConfig(group_regex="^slide")).evaluate(model, images(1))
    with pytest.raises(SettingError, match="regular expression"):
        EvaluateConfig(group_regex="(")


def test_worst_images_come_first():
    result = Evaluator().evaluate(echo, images(6))
    worst = result.worst(2)
    assert worst[0].dice == min(one.dice for one in result.images)
    assert [one.dice for one in worst] == sorted(one.dice for one in result.images)[:2]


def test_images_without_a_score_are_not_the_worst():
    truth = np.array([[1, 1, 0, 0]])
    maps = {"a": [0, 1, 1, 0], "void": [0, 1, 1, 0], "b": [0, 0, 1, 1], "c": [1, 1, 0, 0]}
    truths = {name: truth if name != "void" else truth * 0 + 255 for name in maps}
    scores = tuple(
        score_map(np.array([found]), truths[name], name=name, ignore_label=255)
        for name, found in maps.items()
    )
    assert [one.name for one in EvaluationResult(scores).worst(4)] == ["b", "a", "c"]


def test_a_threshold_of_two_classes_is_told_and_calibrates_the_label_it_gives():
    probs = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    two = lambda tiles: np.concatenate([1 - tiles, tiles], axis=-1)  # noqa: E731
    result = Evaluator({"threshold": 0.7}).evaluate(two, [(probs, probs > 0.6)])
    assert "threshold 0.7, stated" in str(result)
    assert "largest output" in str(Evaluator().evaluate(two, [(probs, probs > 0.6)]))
    label = probs >= 0.7
    counts = count_probabilities(np.where(label, probs, 1 - probs), label == (probs > 0.6))
    assert result.summary()["calibration_error"] == pytest.approx(calibration_error(counts))


def test_a_comparison_draws_the_groups_of_either_result():
    pairs = [Pair(f"s{place // 4}_{place}", *one) for place, one in enumerate(images(8))]
    grouped, single = (
        Evaluator({"group_regex": regex}).evaluate(model, pairs)
        for regex, model in ((r"s(\d)", echo), (None, lambda tiles: tiles**2))
    )
    orders = (grouped, single), (single, grouped)
    both = [compare(one, two).differences["dice"].difference for one, two in orders]
    assert (both[0].low, both[0].high) == pytest.approx((-both[1].high, -both[1].low))
    other = replace(single, config=EvaluateConfig(group_regex="s"))
    with pytest.raises(SettingError, match=r"group images as `first` does.*one group_regex"):
        compare(grouped, other)


# files


def test_json_holds_curves_and_intervals(tmp_path):
    result = Evaluator(EvaluateConfig(tiling=TILES)).evaluate(echo, images(3))
    result.to_json(tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert content["intervals"]["dice_mean"]["value"] == pytest.approx(content["summary"]["dice_mean"])
    assert len(content["threshold_curve"]["dice_mean"]) == 255
    assert len(content["reliability"]["observed"]) == 16
    assert sum(content["seam_errors"]["px"]) == 3 * 64 * 96
    assert content["threshold_from"] == "the default"


def test_infinite_distances_are_null(tmp_path):
    EvaluationResult((score_map(boxes(), boxes(5)),)).to_json(tmp_path / "scores.json")
    assert (
        json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["images"][0]["hausdorff95"] is None
    )


def test_markdown_is_a_table_that_names_cannot_break(tmp_path):
    result = EvaluationResult((score_map(boxes(5), boxes(5), name="a|b_[c]\n"),))
    result.to_markdown(tmp_path / "scores.md")
    lines = (tmp_path / "scores.md").read_text(encoding="utf-8").split("\n")
    assert lines[0].startswith("| image | dice |")
    assert lines[2].startswith("| a\\|b\\_\\[c\\]\\\\n | 1.000 |")
    assert {line.replace("\\|", "").count("|") for line in lines[: lines.index("")]} == {lines[0].count("|")}


# precomputed maps


@pytest.mark.parametrize("suffix", ["png", "tif", "probs.tif"])
def test_maps_are_read_as_probabilities(tmp_path, suffix):
    path = tmp_path / f"map.{suffix}"
    grey = np.array([[0, 51, 255]], np.uint8)
    if suffix == "probs.tif":
        write_probs(path, grey / np.float32(255), dtype="float32")
    else:
        write_image(path, grey)
    assert read_map(path).reshape(1, 3) == pytest.approx(np.array([[0, 0.2, 1]]))


@pytest.mark.parametrize(("name", "channels"), [("a.npy", 3), ("a.npy", 1), ("a.tif", 4), ("a.tif", 1)])
def test_the_classes_of_a_map_are_known_without_its_px(tmp_path, monkeypatch, name, channels):
    path = tmp_path / name
    probs = np.full((40, 50, channels), 0.25, np.float32)
    if name == "a.npy":
        np.save(path, probs)
    else:
        write_probs(path, probs)
    assert read_map(path).shape[2:] == (channels,)
    for reader in ("read_image", "read_probs"):
        monkeypatch.setattr(f"tiledseg.evaluate.map_files.{reader}", lambda _: pytest.fail("it reads px"))
    assert classes_of_map(path) == channels


def touching_cells():
    """Make rows of cells that touch, numbered from 1."""
    y, x = np.mgrid[:120, :180] // 12
    return np.where(y % 2, 15 * y + x + 1, 0)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.png", np.uint8),
        ("a.tif", np.uint16),
        ("a.tif", np.int32),
        ("a.tif", np.float32),
        ("a.npy", np.int64),
    ],
)
def test_maps_of_cell_numbers_are_foreground_and_their_cells_are_compared(tmp_path, name, dtype):
    cells = touching_cells()
    found = cells.astype(dtype)
    found[12:24, :12] = 0  # one is missed
    if name == "a.npy":
        np.save(tmp_path / name, found)
    elif name == "a.png":
        write_image(tmp_path / name, found)
    else:
        tifffile.imwrite(tmp_path / name, found)
    np.testing.assert_array_equal(read_map(tmp_path / name), found > 0)
    pair = Pair("a", np.zeros((120, 180, 3), np.uint8), cells, mask_parts="instances")
    (scores,) = Evaluator().score_maps([tmp_path / name], [pair]).images
    assert scores.dice == pytest.approx(2 * 74 / (75 + 74))
    assert (scores.cells.true, scores.cells.predicted, scores.cells.found) == (75, 74, 74)


def test_masks_of_which_0_is_white_are_read_as_masks_are(tmp_path):
    truth = touching_cells() > 0
    pair = Pair("a", np.zeros((120, 180, 3), np.uint8), truth)
    tifffile.imwrite(tmp_path / "a.tif", truth)  # tifffile stores booleans so
    assert Evaluator().score_maps([tmp_path / "a.tif"], [pair]).images[0].dice == 1
    tifffile.imwrite(tmp_path / "a.tif", np.uint8(255) * truth, photometric="miniswhite")
    (failed,) = Evaluator().score_maps([tmp_path / "a.tif"], [pair]).failed
    assert "0 is white" in failed.error
    assert "tiledseg.io.read_mask, which takes this" in failed.error


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
@pytest.mark.parametrize("count", [2, 20, 21])
def test_few_cell_numbers_are_read_where_the_true_cells_are_numbered(tmp_path, dtype, count):
    y, x = np.mgrid[:120, :180] // 24
    cells = np.where((y % 2 == 0) & (8 * y // 2 + x < count), 8 * y // 2 + x + 1, 0).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", cells)
    image = np.zeros((120, 180, 3), np.uint8)
    numbered = Pair("a", image, cells, mask_parts="instances")
    (scores,) = Evaluator().score_maps([tmp_path / "a.tif"], [numbered]).images
    assert (scores.dice, scores.cells.true, scores.cells.found) == (1, count, count)
    if count > 20:  # which can only be numbers
        return
    (failed,) = Evaluator().score_maps([tmp_path / "a.tif"], [Pair("a", image, cells > 0)]).failed
    assert 'set mask_parts="instances", as for the masks' in failed.error


def test_grey_maps_are_those_of_one_class(tmp_path):
    write_image(tmp_path / "grey.png", np.zeros((4, 4, 3), np.uint8))
    assert classes_of_map(tmp_path / "grey.png") == 1


def test_maps_of_16_bits_have_values_up_to_1(tmp_path):
    write_image(tmp_path / "map.png", np.array([[0, 65535]], np.uint16))
    assert read_map(tmp_path / "map.png").tolist() == [[0, 1]]


def test_a_coloured_picture_is_no_map(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    write_image(tmp_path / "grey.png", picture)
    assert read_map(tmp_path / "grey.png").shape == (4, 4)
    picture[0, 0, 1] = 9
    write_image(tmp_path / "colours.png", picture)
    with pytest.raises(FileError, match="before it is coloured"):
        read_map(tmp_path / "colours.png")


def test_maps_are_found_by_name_and_broken_ones_reported(tmp_path):
    truth = boxes(5, 30)
    for name in ("1", "2", "10"):
        write_mask(tmp_path / "maps" / f"{name}.png", truth)
    (tmp_path / "maps" / "2.png").write_bytes(b"no picture")
    pairs = [Pair(name, truth * 255, truth) for name in ("10", "2", "1")]
    maps = find_maps(tmp_path / "maps", pairs)
    assert [path.stem for path in maps] == ["10", "2", "1"]
    result = Evaluator().score_maps(maps, pairs)
    assert [one.name for one in result.images] == ["10", "1"]
    assert [one.name for one in result.failed] == ["2"]
    assert result.summary()["dice"] == 1
    with pytest.raises(FileError, match="one map of 3; got none"):
        find_maps(tmp_path / "maps", [Pair("3", truth, truth)])


def test_a_map_of_another_size_is_reported():
    result = Evaluator().score_maps([boxes(5)[:-1]], [(boxes(5) * 255, boxes(5))])
    assert "map" in result.failed[0].error


def test_there_is_one_map_for_each_pair():
    with pytest.raises(SettingError, match="one for each of 1 pairs; got 2"):
        Evaluator().score_maps([boxes(5), boxes(5)], [(boxes(5), boxes(5))])


def test_labels_outside_the_classes_fail_only_one_image():
    pairs = [(boxes(5), boxes(5)), (boxes(5), boxes(5))]
    result = Evaluator().score_maps([boxes(5) * 3, boxes(5)], pairs)
    assert len(result.images) == len(result.failed) == 1
    with pytest.raises(ArrayError, match=r"\[0, 1\]"):
        score_map(boxes(5) * 3, boxes(5))


# comparison of two results


def test_two_evaluations_are_compared_image_by_image():
    truth = boxes(5, 30)
    first = [score_map(boxes(5), truth, name=str(place)) for place in range(4)]
    second = [score_map(truth, truth, name=str(place)) for place in (3, 2, 1, 9)]
    compared = compare(EvaluationResult(tuple(first)), EvaluationResult(tuple(second)), names=("a", "b"))
    assert [one.name for one, _ in compared.pairs] == ["1", "2", "3"]
    assert compared.left_out == ("0", "9")
    one = compared.differences["dice"]
    assert (one.first, one.second) == (pytest.approx(2 / 3), 1)
    assert one.difference.low == one.difference.value == one.difference.high == pytest.approx(1 / 3)
    assert (one.better, one.worse) == (3, 0)
    assert "dice" in str(compared)
    paths = ("runs/segpc/20260101-120000/best", "runs/segpc/20260101-130000/best")  # they begin alike
    heading, _, *lines = str(replace(compared, names=paths)).splitlines()
    assert all(path in heading for path in paths)
    assert {len(line) for line in lines} == {len(heading)}


def test_paired_interval_is_narrower_than_those_of_the_means():
    rng = np.random.default_rng(0)
    results: list[list[Any]] = [[], []]
    for place in range(30):
        hard = rng.integers(0, 8)
        for images_of, wrong in zip(results, (hard + 1, hard), strict=True):
            found = boxes(5)
            found[5 : 5 + wrong, 20:30] = 0
            images_of.append(score_map(found, boxes(5), name=str(place)))
    first, second = (EvaluationResult(tuple(one)) for one in results)
    interval = compare(first, second).differences["dice"].difference
    assert interval.low > 0
    mean = first.intervals()["dice_mean"]
    assert interval.high - interval.low < (mean.high - mean.low) / 2


def test_swapped_models_have_the_negative_difference():
    first = Evaluator().evaluate(echo, images(6))
    second = Evaluator(EvaluateConfig(threshold=0.4)).evaluate(echo, images(6))
    one, two = (compare(*pair).differences["iou"] for pair in ((first, second), (second, first)))
    assert one.difference.value == pytest.approx(-two.difference.value)
    assert (one.better, one.worse) == (two.worse, two.better)


def test_results_that_cannot_be_compared_are_refused():
    one = EvaluationResult((score_map(boxes(5), boxes(5), name="a"),))
    other = EvaluationResult((score_map(boxes(5), boxes(5), name="b"),))
    with pytest.raises(SettingError, match="image with `first`"):
        compare(one, other)
    with pytest.raises(SettingError, match="each image once"):
        compare(one, EvaluationResult(one.images * 2))
    several = score_map(boxes(5), boxes(5), name="a", classes=3)
    smaller = score_map(boxes(5)[:-1], boxes(5)[:-1], name="a")
    with pytest.raises(SettingError, match=r"classes of first, 2 with the .*; got 3 with the background"):
        compare(one, EvaluationResult((several,)))
    named = EvaluationResult((several,), labels=("background", "a", "b"))
    with pytest.raises(SettingError, match=r"\(background, a, b\); got .*\(background, b, a\).*same order"):
        compare(named, replace(named, labels=("background", "b", "a")))
    for unlike in (score_map(boxes(5), boxes(5, 30), name="a"), smaller):
        with pytest.raises(SettingError, match=r"the mask that `first` has for a, .*; got .* px in classes"):
            compare(one, EvaluationResult((unlike,)))
    two = score_map(boxes(5), boxes(5), name="a", classes=2)  # the background has counts of its own
    assert compare(one, EvaluationResult((two,))).differences["dice"].difference.value == 0


# large images


def test_a_map_of_known_channels_is_scored_without_being_stored():
    sample = smear(1024, 256, seed=0)
    grey, truth = np.ascontiguousarray(sample.image[..., :1]), sample.mask
    evaluator = Evaluator(EvaluateConfig(tiling=TilingConfig(tile_size=64, overlap=0), batch_size=4))
    model = by_nearness(classes=32)
    tracemalloc.start()
    streamed = evaluator.evaluate(model, [(grey, truth)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < truth.size * 4 * 32 / 2  # the map alone is twice that
    kept = evaluator.evaluate(lambda tiles: model(tiles), [(grey, truth)])  # noqa: PLW0108  a plain callable
    assert streamed.counts == kept.counts
    assert streamed.images[0].seam_ratio == pytest.approx(kept.images[0].seam_ratio)
    assert streamed.summary()["calibration_error"] == pytest.approx(kept.summary()["calibration_error"])
    assert streamed.images[0].seconds > 0


@pytest.mark.parametrize("n_images", [-1, 1.5, True])
def test_the_number_of_worst_images_must_be_whole(n_images):
    with pytest.raises(SettingError, match="`n_images` must be a whole number"):
        EvaluationResult(()).worst(n_images)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_images_and_truth_are_not_scored_as_maps(folder, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "a.png", boxes(5).astype(np.uint8))
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(FileError, match=f"maps.*{folder}.a.png. Name the folder of the maps"):
        Evaluator().score_maps(find_maps(tmp_path / folder, pairs), pairs)


def test_foreground_that_does_not_count_is_named(caplog):
    pair = Pair("a", np.zeros((20, 20, 3), np.uint8), np.eye(20, dtype=np.uint8) * 255, ignore_label=255)
    assert Evaluator().score_maps([np.zeros((20, 20))], [pair]).images[0].dice == 1
    assert "check `mask_threshold` and `ignore_label`" in caplog.text
    caplog.clear()
    Evaluator().score_maps([np.zeros((20, 20))], [replace(pair, ignore_label=None)])
    assert "ignore_label" not in caplog.text


def test_an_image_of_which_no_px_counts_has_no_score():
    void = Pair("v", np.zeros((20, 20, 3), np.uint8), np.full((20, 20), 255, np.uint8), ignore_label=255)
    counted = Pair("a", np.zeros((20, 20, 3), np.uint8), np.eye(20, dtype=np.uint8))
    maps = [np.full((20, 20), 0.7, np.float32)] * 2
    result = Evaluator().score_maps(maps, [void, counted])
    names = ("dice", "iou", "boundary_f1", "hausdorff95", "average_precision", "panoptic_quality")
    assert all(math.isnan(getattr(result.images[0], name)) for name in names)
    alone = Evaluator().score_maps(maps[:1], [counted]).summary()
    assert {name: result.summary()[f"{name}_mean"] for name in names[:3]} == {
        name: alone[f"{name}_mean"] for name in names[:3]
    }


def test_no_threshold_is_chosen_on_images_of_which_no_px_counts():
    void = Pair("v", np.ones((20, 20, 3), np.uint8), np.full((20, 20), 255, np.uint8), ignore_label=255)
    counted = Pair("a", np.zeros((20, 20, 3), np.uint8), np.eye(20, dtype=np.uint8))
    result = Evaluator().score_maps([np.zeros((20, 20), np.float32)], [void])
    assert result.threshold_curve() is None
    assert str(result)
    with pytest.raises(SettingError, match="at counted px"):
        Evaluator(EvaluateConfig(threshold="valid")).evaluate(
            lambda tiles: tiles[..., :1], [counted], valid=[void]
        )
