"""Curves and calibration against oracles worked out by hand, or in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledseg.errors import ArrayError
from tiledseg.metrics import (
    CURVE_THRESHOLDS,
    Counts,
    calibration_error,
    count,
    count_probabilities,
    counts_at_thresholds,
    reliability,
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
