"""Scores of px, curves and calibration against oracles worked out by hand, or in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledseg.errors import ArrayError, SettingError
from tiledseg.metrics import (
    CURVE_THRESHOLDS,
    Counts,
    calibration_error,
    count,
    count_classes,
    count_probabilities,
    counts_at_thresholds,
    match_instances,
    reliability,
)

# 3x4 px:  tp at 2 px, fp at 1, fn at 3, tn at 6
TRUTH = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], np.uint8)
FOUND = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], np.uint8)
EMPTY, FULL = np.zeros((3, 4), np.uint8), np.ones((3, 4), np.uint8)
PROBS = np.array([[0.0, 0.25, 0.5], [0.75, 1.0, 0.5]], np.float32)
TRUE = np.array([[False, True, False], [True, True, True]])
probabilities = hnp.arrays(np.float32, (4, 6), elements=st.floats(0, 1, width=32))
masks = hnp.arrays(np.uint8, (5, 7), elements=st.integers(0, 1))


def scores(counts: Counts) -> list[float]:
    names = ("dice", "iou", "precision", "recall", "specificity", "accuracy")
    return [getattr(counts, name) for name in names]


def test_scores_of_a_case_counted_by_hand():
    counts = count(TRUTH, FOUND)
    assert counts == Counts(tp=2, fp=1, fn=3, tn=6)
    assert scores(counts) == pytest.approx([4 / 8, 2 / 6, 2 / 3, 2 / 5, 6 / 7, 8 / 12])


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        (EMPTY, EMPTY, [1, 1, math.nan, math.nan, 1, 1]),
        (FULL, FULL, [1, 1, 1, 1, math.nan, 1]),
        (EMPTY, FULL, [0, 0, 0, math.nan, 0, 0]),
        (FULL, EMPTY, [0, 0, math.nan, 0, math.nan, 0]),
    ],
    ids=["both empty", "both full", "nothing to find", "nothing found"],
)
def test_empty_and_full_masks_have_the_stated_scores(truth, found, expected):
    assert scores(count(truth, found)) == pytest.approx(expected, nan_ok=True)


def test_no_pixel_at_all_has_no_accuracy():
    assert math.isnan(count(np.zeros((0, 4), int), np.zeros((0, 4), int)).accuracy)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.int64, np.uint64])
def test_every_integer_dtype_gives_the_same_counts(dtype):
    assert count(TRUTH.astype(dtype), FOUND) == Counts(2, 1, 3, 6)
    assert {type(n) for n in (count(TRUTH.astype(dtype), FOUND).tp,)} == {int}


def test_classes_are_counted_each_against_the_rest():
    truth, found = np.array([[0, 1, 2], [2, 1, 0]]), np.array([[0, 2, 2], [2, 1, 1]])
    assert count_classes(truth, found, 3) == (Counts(1, 0, 1, 4), Counts(1, 1, 1, 3), Counts(2, 1, 0, 3))


@given(masks, masks)
def test_iou_and_dice_agree_and_counts_cover_all_pixels(truth, found):
    counts = count(truth, found)
    assert counts.tp + counts.fp + counts.fn + counts.tn == truth.size
    overlap = counts.dice
    assert counts.iou == pytest.approx(overlap / (2 - overlap))
    mirrored = count(found, truth)
    assert (mirrored.fp, mirrored.fn) == (counts.fn, counts.fp)


@given(masks, masks, st.integers(0, 5))
def test_counts_of_parts_add_up_to_the_whole(truth, found, row):
    parts = count(truth[:row], found[:row]) + count(truth[row:], found[row:])
    assert parts == count(truth, found)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            TRUTH * np.uint8(255),
            r"`prediction` must hold labels.* got 255 in 5 of 12 px.*mask >= 128",
        ),
        (TRUTH * 2, r"\[0, 1\]; got 2 in 5 of 12 px.*prediction > 0.*several classes"),
        (-TRUTH.astype(int), r"got -1 in 5 of 12 px"),
        (TRUTH / 2, r"boolean or integer; got float64.*probs >= 0\.5"),
        (TRUTH[..., None], r"shape \(H, W\); got \(3, 4, 1\)"),
        (TRUTH[:2], r"have the size of `truth`, \(3, 4\); got \(2, 4\)"),
    ],
    ids=["0 and 255", "unknown label", "negative label", "float", "3 axes", "other size"],
)
def test_masks_that_are_no_labels_are_refused_with_a_fix(mask, message):
    with pytest.raises(ArrayError, match=message):
        count(TRUTH, mask)


def test_truth_is_checked_like_the_prediction():
    with pytest.raises(ArrayError, match="`truth` must hold labels"):
        count(TRUTH * np.uint8(255), FOUND)


def test_one_class_is_refused():
    with pytest.raises(SettingError, match=r"`classes` must be a whole number of at least 2.*; got 1"):
        count_classes(TRUTH, FOUND, 1)


def test_counts_add_up_by_sum_and_never_overflow():
    once = count([[1, 1]], [[1, 0]])
    assert sum([once, once, once]) == Counts(3, 0, 3, 0)
    assert Counts(*np.array([200, 200, 0, 0], np.uint8)).dice == pytest.approx(2 / 3)
    with pytest.raises(TypeError, match="Counts"):
        once + match_instances([[1]], [[1]])


def test_where_no_px_counts_there_is_no_score():
    assert np.isnan([Counts(0, 0, 0, 0).dice, Counts(0, 0, 0, 0).iou]).all()
    assert (Counts(0, 0, 0, 1).dice, Counts(0, 0, 0, 1).iou) == (1, 1)


def test_curve_counted_by_hand():
    curve = dict(zip(CURVE_THRESHOLDS, counts_at_thresholds(count_probabilities(PROBS, TRUE)), strict=True))
    assert curve[0.5] == Counts(tp=3, fp=1, fn=1, tn=1)
    assert curve[0.5 + 1 / 256] == Counts(tp=2, fp=0, fn=2, tn=2)
    assert curve[0.25] == Counts(tp=4, fp=1, fn=0, tn=1)


@given(probabilities, hnp.arrays(bool, (4, 6)))
def test_curve_counts_as_each_threshold_does(probs, true):
    curve = counts_at_thresholds(count_probabilities(probs, true))
    assert len(curve) == len(CURVE_THRESHOLDS)
    for threshold, counts in zip(CURVE_THRESHOLDS, curve, strict=True):
        assert counts == count(true, probs >= np.float32(threshold))


@given(probabilities, hnp.arrays(bool, (4, 6)), st.integers(0, 4))
def test_parts_add_up_to_the_whole(probs, true, row):
    whole = count_probabilities(probs, true)
    parts = count_probabilities(probs[:row], true[:row]) + count_probabilities(probs[row:], true[row:])
    assert (parts.px == whole.px).all()
    assert (parts.hits == whole.hits).all()
    assert parts.total == pytest.approx(whole.total)


def test_a_probability_of_1_is_in_the_last_bin():
    counts = count_probabilities([0.0, 1 / 256, 255 / 256, 1.0], [False, False, True, True])
    assert np.flatnonzero(counts.px).tolist() == [0, 1, 255]
    assert (len(counts.px), counts.px[255], counts.hits[255], counts.total[255]) == (256, 2, 2, 511 / 256)


def test_reliability_and_its_error_worked_out_by_hand():
    probs = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1], np.float32)
    counts = count_probabilities(probs, np.array([True, True, True, False, False, False]))
    table = reliability(counts)
    assert table.px.sum() == 6
    assert (table.px[14], table.px[1]) == (4, 2)
    assert (table.predicted[14], table.observed[14]) == pytest.approx((0.9, 0.75))
    assert (table.predicted[1], table.observed[1]) == pytest.approx((0.1, 0.0))
    assert np.isnan(table.predicted[0])
    assert calibration_error(counts) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)


def test_certain_and_right_is_calibrated():
    assert calibration_error(count_probabilities([0.0, 1.0], np.array([False, True]))) == 0
    assert calibration_error(count_probabilities([0.0, 1.0], np.array([True, False]))) == 1
    assert math.isnan(calibration_error(count_probabilities(np.zeros(0), np.zeros(0, bool))))


@pytest.mark.parametrize(
    ("probs", "hits", "message"),
    [
        ([0.5, 1.5], [True, True], r"lie in \[0, 1\]; got 0.5 to 1.5"),
        ([0.5, np.nan], [True, True], r"lie in \[0, 1\]"),
        ([-0.1], [True], r"lie in \[0, 1\]"),
        ([0.5], [1], "boolean"),
        ([0.5], [True, False], r"shape \(1,\)"),
    ],
)
def test_values_that_are_no_probabilities_are_refused(probs, hits, message):
    with pytest.raises(ArrayError, match=message):
        count_probabilities(probs, hits)
