"""Scores of maps whose px are counted by hand."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledseg.config import EvaluateConfig, PreprocessingConfig, TilingConfig
from tiledseg.data import Pair
from tiledseg.errors import ArrayError, ModelError, SettingError, TiledSegError
from tiledseg.evaluate import EvaluationResult, Evaluator, FailedPair, ImageScores, read_map, score_map
from tiledseg.io import write_image, write_mask
from tiledseg.metrics import BoundaryCounts, Counts, InstanceCounts
from tiledseg.predict import tiled_predict

# tp at 2 px, fp at 2, fn at 1, tn at 3
TRUTH = np.array([[1, 1, 0, 0], [0, 1, 0, 0]], np.uint8)
MAP = np.array([[0.9, 0.8, 0.7, 0.1], [0.6, 0.2, 0.1, 0.3]], np.float32)
COUNTS = Counts(tp=2, fp=2, fn=1, tn=3)
SMALL = TilingConfig(tile_size=32, overlap=8)


def echo(tiles: Any) -> Any:
    """Return what it is given: the image is the map."""
    return tiles


def slope(height: int, width: int) -> np.ndarray:
    """A map that rises by 1/1000 per px along x."""
    return np.tile(np.arange(width, dtype=np.float32) / 1000, (height, 1))


def two(tiles: Any) -> Any:
    """Return background and foreground."""
    return np.concatenate([1 - tiles, tiles], axis=-1)


class Steps:
    """Adds 0.1 more in each tile than in the one before: every border is a step."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, tiles: Any) -> Any:
        outputs = tiles + 0.1 * (self.calls + np.arange(len(tiles))).reshape(-1, 1, 1, 1)
        self.calls += len(tiles)
        return outputs


@dataclass
class FakeSegmenter:
    """All of a Segmenter but Keras."""

    network: Any = echo
    preprocessing: PreprocessingConfig = field(
        default_factory=lambda: PreprocessingConfig(dtype="float32", channels=1)
    )
    labels: tuple[str, ...] = ("cell",)
    threshold: float = 0.75
    tiling: TilingConfig | None = SMALL


def evaluate(pairs: Any, model: Any = echo, **settings: Any) -> EvaluationResult:
    return Evaluator(EvaluateConfig(**settings)).evaluate(model, pairs)


def test_scores_of_a_map_counted_by_hand():
    (one,) = evaluate([(MAP, TRUTH)]).images
    assert one.counts == (COUNTS,)
    assert (one.dice, one.iou, one.precision, one.recall) == (4 / 7, 2 / 5, 2 / 4, 2 / 3)
    assert (one.name, one.shape, one.tiles, one.megapixels) == ("pairs[0]", (2, 4), 1, 8e-6)
    assert math.isnan(one.seam_ratio)
    assert one.seconds > 0


def test_a_map_too_large_for_outlines_has_the_scores_of_its_px(monkeypatch, caplog):
    monkeypatch.setattr(import_module("tiledseg.evaluate.score_map"), "_MOST_PX", 4)
    scores = score_map(MAP, TRUTH, name="slide")
    assert scores.counts[0].tp == 2
    assert scores.boundary == ()
    assert "slide: too large for scores of outlines and cells" in caplog.text


def test_a_threshold_of_validation_images_needs_them_and_labels_are_no_map(tmp_path):
    with pytest.raises(SettingError, match='be given with threshold="valid"'):
        Evaluator(EvaluateConfig(threshold="valid")).evaluate(echo, [(MAP, TRUTH)])
    write_mask(tmp_path / "labels.png", np.arange(600).reshape(20, 30) % 4, foreground=None)
    with pytest.raises(TiledSegError, match=r"hold 0 and 255.*got uint8 with the values 0, 1, 2, 3"):
        read_map(tmp_path / "labels.png")


@pytest.mark.parametrize(
    ("model", "threshold", "tp"),
    [(echo, None, 2), (echo, 0.85, 1), (FakeSegmenter(), None, 2), (FakeSegmenter(), 0.15, 3)],
)
def test_a_given_threshold_replaces_the_segmenters(model, threshold, tp):
    result = evaluate([(MAP, TRUTH)], model, threshold=threshold)
    assert result.images[0].counts[0].tp == tp
    assert result.threshold == (threshold or (0.75 if isinstance(model, FakeSegmenter) else 0.5))


def test_pooled_scores_weigh_px_equally_and_means_weigh_images_equally():
    full = np.ones((2, 8), np.float32)
    result = evaluate([(MAP, TRUTH), (full, full > 0)])
    assert result.counts == (Counts(tp=18, fp=2, fn=1, tn=3),)
    sums = result.summary()
    assert sums["images"] == 2
    assert sums["dice"] == 36 / 39
    assert sums["dice_mean"] == pytest.approx((4 / 7 + 1) / 2)
    assert sums["recall_median"] == pytest.approx((2 / 3 + 1) / 2)
    assert sums["megapixels"] == 24e-6
    assert sums["megapixels_per_second"] == pytest.approx(24e-6 / sums["seconds"])


def test_several_classes_are_scored_one_by_one_without_the_background():
    truth = np.array([[0, 1, 1, 2, 2, 2]])
    found = np.array([[0, 1, 2, 2, 2, 0]])
    image = np.zeros((1, 6, 3), np.float32)
    np.put_along_axis(image, found[..., np.newaxis], 1, axis=2)
    result = evaluate([(image, truth)])
    assert result.counts == (Counts(1, 1, 0, 4), Counts(1, 0, 1, 4), Counts(2, 1, 1, 2))
    assert result.images[0].dice == pytest.approx((2 / 3 + 4 / 6) / 2)
    scores = result.by_class()["class 1"]
    assert [scores[name] for name in ("dice", "iou", "precision", "recall")] == [2 / 3, 1 / 2, 1, 1 / 2]
    assert scores["specificity"] == 1
    assert list(result.by_class()) == ["class 1", "class 2"]
    assert "class 2: dice 0.667" in str(result)


def test_classes_have_the_segmenters_names():
    assert list(evaluate([(MAP, TRUTH)], FakeSegmenter()).by_class()) == ["cell"]


def test_nothing_to_find_and_nothing_found_agree():
    (one,) = evaluate([(np.zeros((3, 3), np.float32), np.zeros((3, 3), bool))]).images
    assert one.dice == one.iou == 1
    assert math.isnan(one.precision)
    assert math.isnan(one.recall)


def test_a_map_without_steps_at_its_borders_has_a_seam_ratio_of_1():
    image = slope(60, 100) + slope(100, 60).T
    (one,) = evaluate([(image, image > 0.05)], tiling=SMALL).images
    assert one.tiles == 3 * 4
    assert one.seam_ratio == pytest.approx(1, rel=1e-3)


def test_a_step_at_each_border_shows_in_the_seam_ratio():
    image = slope(32, 96)
    tiling = TilingConfig(tile_size=32, overlap=0, blend="crop")
    (one,) = evaluate([(image, image > 0.05)], Steps(), tiling=tiling).images
    assert one.seam_ratio == pytest.approx((0.001 + 0.1) / 0.001, rel=1e-3)


def test_borders_of_a_shrunk_image_are_found_in_the_image():
    image = np.zeros((64, 128, 1), np.float32)
    preprocessing = PreprocessingConfig(dtype="float32", channels=1, scale=0.5)
    tiling = TilingConfig(tile_size=32, overlap=0, blend="crop")
    probs = tiled_predict(FakeSegmenter(Steps(), preprocessing, tiling=tiling), image)
    steps = np.abs(np.diff(probs[32, :, 0]))
    assert 63 in np.flatnonzero(steps == steps.max())  # between px 63 and 64: twice 32
    (one,) = evaluate(
        [(image, image[..., 0] > 0)], FakeSegmenter(Steps(), preprocessing, tiling=tiling)
    ).images
    assert one.seam_ratio > 2


def test_broken_pairs_are_reported_and_the_others_scored(tmp_path):
    grey = (MAP * 255).astype(np.uint8)
    good, bad, mask = tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "mask.png"
    write_image(good, grey)
    write_mask(mask, TRUTH)
    bad.write_bytes(good.read_bytes()[:-20])
    pairs = [
        (bad, mask),
        Pair("seven", good, mask),
        (MAP, TRUTH[:1]),
        (MAP, TRUTH * 3),
        (MAP, TRUTH * np.float32(0.3)),
        (tmp_path / "none.png", mask),
        (good, mask),
    ]
    result = evaluate(pairs, lambda tiles: tiles / 255)
    assert [one.name for one in result.images] == ["seven", "good"]
    assert [one.counts for one in result.images] == [(COUNTS,), (COUNTS,)]
    assert [one.name for one in result.failed] == ["bad", "pairs[2]", "pairs[3]", "pairs[4]", "none"]
    assert "(2, 4)" in result.failed[1].error
    assert "failed: bad: " in str(result)
    assert "and 2 more failed" in str(result)
    assert result.summary()["failed"] == 5


def test_all_pairs_are_checked_before_the_first_is_predicted(caplog):
    def model(tiles):
        assert "pairs[1]" in caplog.text
        return tiles

    result = evaluate([(MAP, TRUTH), (MAP, TRUTH.T)], model)
    assert len(result.images) == len(result.failed) == 1


def test_labels_beyond_the_classes_fail_before_anything_is_predicted():
    def model(tiles):
        raise AssertionError

    result = evaluate([(np.ones((4, 4, 1), np.float32), np.full((4, 4), 2))], FakeSegmenter(model))
    assert len(result.failed) == 1


def test_a_network_that_is_broken_stops_the_evaluation():
    with pytest.raises(TiledSegError, match="finite"):
        evaluate([(MAP, TRUTH)], lambda tiles: tiles * np.nan)


@pytest.mark.parametrize("pairs", [[], [MAP], [(MAP,)], [("a.png", None)]])
def test_invalid_pairs_are_refused(pairs):
    with pytest.raises(SettingError, match="pairs"):
        evaluate(pairs)


def test_a_result_without_images_has_no_scores():
    result = evaluate([(MAP, TRUTH.T)])
    sums = result.summary()
    assert math.isnan(sums["dice"])
    assert math.isnan(sums["megapixels_per_second"])
    assert result.by_class() == {}
    assert "0 scored, 1 failed" in str(result)


def test_callback_gets_what_was_scored():
    scored = []
    result = Evaluator().evaluate(echo, [(MAP, TRUTH)], callback=scored.append)
    (one,) = scored
    assert one.scores == result.images[0]
    assert (one.image == MAP).all()
    assert (one.truth == TRUTH).all()
    assert (one.predicted == (MAP >= 0.5)).all()


def test_progress_is_logged(caplog, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with caplog.at_level("INFO", "tiledseg"):
        Evaluator().evaluate(echo, [(MAP, TRUTH)], progress=True)
    assert "images: 100 % (1 of 1)" in caplog.text


@pytest.mark.parametrize(
    "prediction", [MAP, MAP[..., np.newaxis], MAP.astype(np.float64), MAP >= 0.5, (MAP >= 0.5) * 1]
)
def test_precomputed_maps_get_the_same_scores(prediction):
    assert score_map(prediction, TRUTH) == score_map(MAP, TRUTH)
    assert score_map(prediction, TRUTH).counts == (COUNTS,)


@given(
    truth=hnp.arrays(np.uint8, (4, 5), elements=st.integers(0, 2)),
    found=hnp.arrays(np.uint8, (4, 5), elements=st.integers(0, 2)),
)
def test_equal_labels_and_probabilities_get_equal_scores(truth, found):
    probs = np.eye(3, dtype=np.float32)[found]
    assert score_map(found, truth, classes=3).counts == score_map(probs, truth).counts


def test_borders_of_a_precomputed_map_are_scored():
    image = slope(20, 80)
    image[:, 40:] += 0.004
    assert score_map(image, image > 0.05, borders=((), (40,))).seam_ratio == pytest.approx(5, rel=1e-3)


@pytest.mark.parametrize(
    ("prediction", "truth", "text"),
    [
        (MAP, TRUTH[:, :2], "truth"),
        (MAP * np.nan, TRUTH, "finite"),
        (np.zeros((2, 4, 2), np.uint8), TRUTH, "probabilities"),
        (np.zeros((2, 4), complex), TRUTH, "real dtype"),
        (np.full((2, 4), 2), TRUTH, "labels"),
        (MAP, TRUTH * 255, "labels"),
    ],
)
def test_invalid_maps_and_masks_are_named(prediction, truth, text):
    with pytest.raises(ArrayError, match=text):
        score_map(prediction, truth)


RESULT = EvaluationResult(
    (
        ImageScores("a,\n\udcff", (2, 4), (COUNTS,), 1.25, 12, 0.5),
        ImageScores("a name that is much longer than the table", (2, 4), (Counts(0, 0, 0, 8),)),
    ),
    (FailedPair("b\n", "cannot be read"),),
    ("cell",),
)


def test_csv_holds_every_number_in_full(tmp_path):
    path = tmp_path / "scores.csv"
    RESULT.to_csv(path)
    with path.open(encoding="utf-8", newline="") as file:
        first, second, failed = csv.DictReader(file)
    assert first["name"] == "a,\n\\udcff"
    assert float(first["dice"]) == 4 / 7
    assert [int(first[part]) for part in ("height", "width", "tp", "fp", "fn", "tn", "tiles")] == [
        2,
        4,
        2,
        2,
        1,
        3,
        12,
    ]
    assert (float(first["seam_ratio"]), float(first["seconds"]), first["error"]) == (1.25, 0.5, "")
    assert second["precision"] == second["seam_ratio"] == second["seconds"] == ""
    assert (failed["error"], failed["dice"]) == ("cannot be read", "")


def test_csv_of_several_classes_counts_each(tmp_path):
    EvaluationResult((score_map(TRUTH * 2, TRUTH, classes=3),)).to_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert [row[f"fn_{label}"] for label in range(3)] == ["0", "3", "0"]


def test_csv_with_only_failures_has_its_columns(tmp_path):
    EvaluationResult((), (FailedPair("a", "why"),)).to_csv(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == "name,error\na,why\n"


def test_json_holds_everything(tmp_path):
    path = tmp_path / "scores.json"
    RESULT.to_json(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["summary"]["dice"] == RESULT.summary()["dice"]
    assert content["classes"]["cell"]["recall"] == 2 / 3
    assert content["images"][0]["iou"] == 2 / 5
    assert content["images"][1]["precision"] is None
    assert content["failed"] == [{"name": "b\n", "error": "cannot be read"}]
    assert content["threshold"] == 0.5


TABLE = """\
image                              dice    iou  precision  recall  outline     pq  hd95  found  missed  false  seams  seconds
-----------------------------------------------------------------------------------------------------------------------------
7                                 0.571  0.400      0.500   0.667    0.750  0.667   2.0      1       0      1   1.00    12.50
…t is much longer than the table  1.000  1.000          -       -        -      -     -      -       -      -      -        -
-----------------------------------------------------------------------------------------------------------------------------
mean                              0.786  0.700      0.500   0.667    0.750  0.667
  95 % from                       0.571  0.400          -       -        -      -
  95 % to                         1.000  1.000          -       -        -      -
median                            0.786  0.700      0.500   0.667    0.750  0.667   2.0
all together                      0.571  0.400      0.500   0.667    0.750  0.667            1       0      1

2 scored, 1 failed; seam ratio 1.000, calibration error -, - Mpx/s
threshold 0.5, stated
cells: AP at IoU 0.5 0.500, at 0.75 0.000, Dice of those found 1.000
cells: 0 merged, 0 split; left out below a twentieth of a typical cell: 0 predicted and 0 true areas
failed: b\\n: cannot be read"""  # noqa: E501


def test_columns_of_the_table_are_aligned():
    images = (
        ImageScores(
            "7",
            (1920, 2560),
            (COUNTS,),
            1.0,
            35,
            12.5,
            boundary=(BoundaryCounts(true=4, true_near=3, found=8, found_near=6),),
            distances=(2.0,),
            instances=(InstanceCounts(1, 2, (1,) + (0,) * 9, 1.0, 1.0),),
        ),
        RESULT.images[1],
    )
    assert str(EvaluationResult(images, RESULT.failed)) == TABLE


def test_table_has_one_line_per_image_whatever_its_name():
    assert str(RESULT).split("\n")[2].startswith("a,\\n\\udcff ")


@pytest.mark.parametrize(
    ("models", "match"),
    [
        ([lambda tiles: tiles + 0.5, lambda tiles: tiles - 0.5], r"probabilities in \[0, 1\]"),
        ([echo, two], r"`segmenter\[1\]` must have the classes of the first, 1; got 2"),
        ([two, echo], r"`segmenter\[1\]` must have the classes of the first, 2; got 1"),
    ],
    ids=["beyond", "more", "fewer"],
)
def test_maps_of_an_ensemble_have_to_agree_before_they_are_averaged(models: list[Any], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        Evaluator().evaluate(models, [(MAP, TRUTH)])


def test_an_image_in_both_lists_of_an_evaluation_is_told_by_its_arguments() -> None:
    with pytest.raises(SettingError, match="`valid` must have no image of `pairs`"):
        Evaluator().evaluate(echo, [(MAP, TRUTH)], valid=[(MAP, TRUTH)])


def test_cells_of_an_evaluation_are_those_of_its_threshold() -> None:
    with pytest.raises(SettingError, match=r"`objects.threshold` must be left out.* got 0.9\. Set"):
        EvaluateConfig(objects={"threshold": 0.9})
    with pytest.raises(SettingError, match=r"`threshold` must be left out for a map of labels; got 0.9"):
        score_map(MAP, TRUTH, objects={"threshold": 0.9})


def test_cells_are_limited_by_their_area_where_a_px_size_is_stated() -> None:
    image = np.zeros((40, 40), np.float32)
    image[2:8, 2:8], image[20:36, 20:36] = 1, 1  # 36 and 256 px, 9 and 64 µm²
    settings = {"objects": {"min_area": 10, "area_unit": "um2"}, "pixel_size": 0.5, "cell_px": 1}
    (one,) = Evaluator(settings).evaluate(echo, [(image, image > 0)]).images
    assert (one.cells.true, one.cells.predicted) == (2, 1)


def test_an_error_of_a_callback_is_named() -> None:
    with pytest.raises(SettingError, match="`callback` failed: ZeroDivisionError"):
        Evaluator().evaluate(echo, [(MAP, TRUTH)], callback=lambda _: 1 // 0)


def test_results_hold_scores_of_the_same_classes() -> None:
    one, other = score_map(MAP, TRUTH), score_map(two(MAP[..., np.newaxis]), TRUTH)
    with pytest.raises(SettingError, match="`images` must have the same classes; got scores of 1 and 2"):
        EvaluationResult((one, other))
    with pytest.raises(SettingError, match=r"`images\[0\]` must be of type ImageScores.* result.images"):
        EvaluationResult((EvaluationResult((one,)),))  # type: ignore[arg-type]
