"""Curves, calibration and intervals against oracles worked out by hand, or in another way."""

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
    Interval,
    SeamTally,
    bootstrap_interval,
    calibration_error,
    count,
    count_probabilities,
    counts_at_thresholds,
    reliability,
    seam_ratio,
)

PROBS = np.array([[0.0, 0.25, 0.5], [0.75, 1.0, 0.5]], np.float32)
TRUE = np.array([[False, True, False], [True, True, True]])

probabilities = hnp.arrays(np.float32, (4, 6), elements=st.floats(0, 1, width=32))


def test_curve_counted_by_hand():
    curve = dict(zip(CURVE_THRESHOLDS, counts_at_thresholds(count_probabilities(PROBS, TRUE)), strict=True))
    assert curve[0.5] == Counts(tp=3, fp=1, fn=1, tn=1)
    assert curve[0.5 + 1 / 256] == Counts(tp=2, fp=0, fn=2, tn=2)
    assert curve[0.25] == Counts(tp=4, fp=1, fn=0, tn=1)


@given(probabilities, hnp.arrays(bool, (4, 6)))
def test_curve_counts_as_cutting_at_each_threshold_does(probs, true):
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


def test_reliability_and_its_error_worked_out_by_hand():
    probs = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1], np.float32)
    counts = count_probabilities(probs, np.array([True, True, True, False, False, False]))
    table = reliability(counts)
    assert table.px.sum() == 6
    assert (table.px[14], table.px[1]) == (4, 2)
    assert (table.said[14], table.came[14]) == pytest.approx((0.9, 0.75))
    assert (table.said[1], table.came[1]) == pytest.approx((0.1, 0.0))
    assert np.isnan(table.said[0])
    assert calibration_error(counts) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)


def test_sure_and_right_is_calibrated():
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
def test_what_are_no_probabilities_is_refused(probs, hits, message):
    with pytest.raises(ArrayError, match=message):
        count_probabilities(probs, hits)


# seams in bands


@given(
    image=hnp.arrays(np.uint8, (40, 12)),
    cuts=st.lists(st.integers(1, 39), unique=True, max_size=5),
    borders=st.lists(st.integers(1, 39), unique=True, max_size=3),
)
def test_seams_do_not_depend_on_the_bands_that_rows_come_in(image, cuts, borders):
    tally = SeamTally((40, 12), borders, [6])
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        tally.add(image[start:stop])
    whole = seam_ratio(image, borders, [6])
    for axis in ("y", "x", "both"):
        assert getattr(tally.ratio, axis) == pytest.approx(getattr(whole, axis), nan_ok=True)


# intervals


def test_interval_of_a_mean_has_the_width_that_theory_says():
    values = np.random.default_rng(1).normal(10, 2, 400)
    interval = bootstrap_interval(values)
    assert interval.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.high - interval.value == pytest.approx(half, rel=0.1)
    assert interval.value - interval.low == pytest.approx(half, rel=0.1)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        interval = bootstrap_interval(rng.normal(0, 1, 30), level=0.8, resamples=300, seed=seed)
        covered += interval.low <= 0 <= interval.high
    assert 0.72 < covered / 200 < 0.88


def test_seed_fixes_the_interval():
    values = [0.1, 0.5, 0.9, 0.3]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, resamples=20, seed=3) != bootstrap_interval(
        values, resamples=20, seed=4
    )


def test_interval_of_a_pooled_score():
    counts = np.array([[2.0, 1, 1], [20, 1, 3], [5, 5, 0]])

    def pooled(rows):
        tp, fp, fn = np.moveaxis(rows.sum(axis=1), -1, 0)
        return 2 * tp / (2 * tp + fp + fn)

    interval = bootstrap_interval(counts, pooled)
    assert interval.value == 54 / 65
    assert 4 / 6 <= interval.low < interval.value < interval.high <= 40 / 44


def test_images_without_a_value_are_left_out():
    assert bootstrap_interval([0.5, math.nan]).value == 0.5
    assert math.isnan(bootstrap_interval([0.5, math.nan]).low)
    assert all(math.isnan(part) for part in (bootstrap_interval([]).value, bootstrap_interval([]).high))


def test_whole_groups_are_drawn():
    values, slides = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], ["a", "a", "a", "b", "b", "b"]
    apart, together = bootstrap_interval(values), bootstrap_interval(values, groups=slides)
    assert (together.value, together.low, together.high) == (0.5, 0, 1)  # one slide twice: 1 in 4
    assert apart.low > 0
    assert bootstrap_interval(values, groups=list("abcdef")) == apart
    assert math.isnan(bootstrap_interval(values, groups=["a"] * 6).low)
    # slides of one image weigh as one image does
    uneven = bootstrap_interval([0.0, 1.0, 1.0, 1.0], groups=["a", "b", "b", "b"], resamples=500)
    assert uneven.value == 0.75


def test_an_infinite_distance_stays_one():
    interval = bootstrap_interval([1.0, 2.0, math.inf], lambda rows: np.median(rows, axis=1))
    assert interval == Interval(2.0, 1.0, math.inf)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"level": 1}, "level"),
        ({"level": 0}, "level"),
        ({"resamples": 0}, "resamples"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_of_an_interval_are_checked(options, name):
    with pytest.raises(SettingError, match=name):
        bootstrap_interval([1.0, 2.0], **options)


def test_each_row_has_a_group():
    with pytest.raises(SettingError, match="one group for each"):
        bootstrap_interval([1.0, 2.0], groups=["a"])


def test_values_of_another_shape_are_refused():
    with pytest.raises(SettingError, match="one row per image"):
        bootstrap_interval(np.zeros((2, 2, 2)))
