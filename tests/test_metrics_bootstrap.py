"""Intervals against theory and oracles worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tiledseg.errors import SettingError
from tiledseg.metrics import (
    Interval,
    bootstrap_interval,
)


def test_interval_of_a_mean_has_the_width_of_theory():
    values = np.random.default_rng(1).normal(10, 2, 400)
    interval = bootstrap_interval(values)
    assert interval.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.high - interval.value == pytest.approx(half, rel=0.1)
    assert interval.value - interval.low == pytest.approx(half, rel=0.1)


def test_interval_covers_the_mean_at_its_level():
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


def test_rows_without_columns_have_an_interval():
    zero = bootstrap_interval(np.ones((4, 0)), lambda rows: rows.sum(axis=(1, 2)))
    assert (zero.low, zero.high) == (0, 0)


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


@pytest.mark.parametrize("at_once", [1 << 20, 7, 1])  # numbers
def test_the_interval_leaves_out_the_same_share_of_the_resamples_at_both_ends(at_once, monkeypatch):
    monkeypatch.setattr("tiledseg.metrics.bootstrap._AT_ONCE", at_once)
    scores = iter(range(-1, 101))  # of the rows as they are, and of each resample

    def measure(rows):
        return np.array([next(scores) for _ in rows], float)

    interval = bootstrap_interval([1.0, 2.0], measure, resamples=101, level=0.5)
    assert interval == Interval(-1.0, 25.0, 75.0)
    assert next(scores, None) is None


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
