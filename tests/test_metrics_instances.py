"""Single cells against oracles worked out by hand, or in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledseg.errors import ArrayError, SettingError
from tiledseg.metrics import (
    IOU_THRESHOLDS,
    InstanceCounts,
    average_precision,
    components,
    match_instances,
    outline_distances,
    panoptic_quality,
    typical_px,
    without_small,
)

EMPTY, FULL = np.zeros((6, 7), np.uint8), np.ones((6, 7), np.uint8)
masks = hnp.arrays(np.uint8, (6, 8), elements=st.integers(0, 1))


# cell 1: 4 px, all found and 1 more; cell 2: 3 px, 1 found; cell 3: 2 px, found as it is; a false one
CELLS = np.array([[1, 1, 0, 2, 2, 2, 0, 3, 0, 0], [1, 1, 0, 0, 0, 0, 0, 3, 0, 0]])
FOUND = np.array([[9, 9, 9, 0, 0, 5, 0, 2, 0, 7], [9, 9, 0, 0, 0, 5, 0, 2, 0, 0]])
# IoU: 4/5, 1/4, 1


def test_cells_matched_by_hand():
    counts = match_instances(CELLS, FOUND)
    assert (counts.true, counts.predicted) == (3, 4)
    assert counts.matches == tuple(2 if threshold <= 0.8 else 1 for threshold in IOU_THRESHOLDS)
    assert (counts.found, counts.missed, counts.false) == (2, 1, 2)
    assert counts.iou_sum == pytest.approx(4 / 5 + 1)
    assert counts.mean_dice == pytest.approx((8 / 9 + 1) / 2)
    assert panoptic_quality(counts) == pytest.approx(1.8 / (2 + 2 / 2 + 1 / 2))
    assert average_precision(counts) == pytest.approx((7 * 2 / 5 + 3 * 1 / 6) / 10)


def test_half_is_a_match_and_of_two_halves_one_is():
    assert match_instances([[1, 1]], [[1, 0]]).found == 1  # its IoU is 0.5
    halves = match_instances([[1, 1, 3]], [[1, 2, 3]])
    assert (halves.found, halves.false, halves.missed, halves.iou_sum) == (2, 1, 0, 1.5)
    assert match_instances([[1, 2, 3]], [[1, 1, 3]]).missed == 1


def test_merged_and_split_cells_are_counted():
    merged = match_instances([[1, 1, 0, 2, 2, 0, 3]], [[1, 1, 1, 1, 1, 0, 2]])
    assert (merged.merged, merged.split) == (1, 0)
    split = match_instances([[1, 1, 1, 1, 1, 0, 3]], [[1, 1, 0, 2, 2, 0, 3]])
    assert (split.merged, split.split) == (0, 1)


@pytest.mark.parametrize(("of_each", "several"), [(2, 0), (3, 1)])
def test_a_cell_is_in_another_with_more_than_half_of_its_px(of_each, several):
    cells = np.repeat([[1, 2, 3]], [5, 5, 4], axis=1)
    other = np.zeros_like(cells)
    other[0, 5 - of_each : 5 + of_each] = 7
    other[0, 12:] = 7  # half of cell 3
    assert match_instances(cells, other).merged == match_instances(other, cells).split == several
    assert match_instances(cells, other).split == match_instances(other, cells).merged == 0


def test_exactly_half_of_a_cell_in_another_is_not_in_it():
    two, across = np.array([[1, 1, 1, 1, 2, 2, 2, 2]]), np.array([[0, 0, 5, 5, 5, 5, 0, 0]])
    for truth, found in ((two, across), (across, two)):
        counts = match_instances(truth, found)
        assert (counts.merged, counts.split) == (0, 0)


def test_a_precision_is_that_of_one_of_the_thresholds():
    counts = match_instances(CELLS, FOUND)
    assert [average_precision(counts, iou) for iou in (0.5, 0.95)] == pytest.approx([2 / 5, 1 / 6])
    with pytest.raises(SettingError, match=r"`iou` must be one of 0.5, .*; got 0.51"):
        average_precision(counts, 0.51)


def test_small_instances_are_left_out_and_counted():
    ids = np.array([[5, 0, 7, 7, 0, 9, 9, 9]])
    assert without_small(ids, 0)[1] == 0
    left, n = without_small(ids, 3)
    assert (left.tolist(), n) == ([[0, 0, 0, 0, 0, 9, 9, 9]], 2)
    assert typical_px(ids) == 2
    assert typical_px(EMPTY) == 0


@pytest.mark.parametrize("seed", range(6))
def test_matches_equal_those_of_an_assignment_of_all_pairs(seed):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(seed)
    truth, found = rng.integers(0, 9, (6, 7)), rng.integers(0, 9, (6, 7))
    truth, found = (np.where(rng.random((6, 7)) < 0.6, truth, ids) for ids in (truth, found))
    found = np.where(rng.random((6, 7)) < 0.8, truth, found)
    one, other = (np.unique(ids[ids > 0]) for ids in (truth, found))
    iou = np.array(
        [
            [((truth == a) & (found == b)).sum() / ((truth == a) | (found == b)).sum() for b in other]
            for a in one
        ]
    )
    counts = match_instances(truth, found)
    for threshold, matches in zip(IOU_THRESHOLDS, counts.matches, strict=True):
        pairs = optimize.linear_sum_assignment(-(iou >= threshold).astype(float))
        assert matches == (iou[pairs] >= threshold).sum()


@pytest.mark.parametrize(
    ("truth", "found", "score"),
    [(EMPTY, EMPTY, 1.0), (FULL, FULL, 1.0), (EMPTY, FULL, 0.0), (FULL, EMPTY, 0.0)],
)
def test_cells_of_empty_and_full_masks_have_the_stated_scores(truth, found, score):
    counts = match_instances(truth, found)
    assert average_precision(counts) == panoptic_quality(counts) == score
    assert math.isnan(counts.mean_dice) == (score == 0 or truth is EMPTY)


def test_cells_of_two_images_count_together():
    counts = match_instances(CELLS, FOUND)
    assert counts + InstanceCounts() == counts
    assert (counts + counts).missed == 2
    assert panoptic_quality(counts + counts) == panoptic_quality(counts)


def test_numbers_of_instances_are_only_names():
    renamed = np.where(FOUND > 0, FOUND * 10_000_019, 0)
    assert match_instances(CELLS, renamed) == match_instances(CELLS, FOUND)


@given(masks, masks)
def test_no_cell_has_two_partners_and_none_is_better_than_equal(truth, found):
    cells, others = components(truth), components(found)
    counts = match_instances(cells, others)
    assert counts.true == cells.max()
    assert max(counts.matches) == counts.found <= min(counts.true, counts.predicted)
    assert 0 <= panoptic_quality(counts) <= 1
    same = match_instances(cells, cells)
    assert average_precision(same) == panoptic_quality(same) == 1


def test_areas_that_touch_at_a_corner_are_separate():
    mask = np.array([[1, 0, 1, 1], [0, 1, 0, 1]])
    assert components(mask).tolist() == [[1, 0, 2, 2], [0, 3, 0, 2]]
    assert components(mask, least_px=2).tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]
    assert components([[1, 0, 1, 1]], least_px=2).tolist() == [[0, 0, 1, 1]]  # the first alone is small
    assert components(EMPTY).max() == 0
    assert components(np.zeros((0, 3), bool)).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: components(FULL * 255), "`mask` must .* mask >= 128"),
        (lambda: components(FULL / 2), "boolean or integer; got float64"),
        (lambda: outline_distances(FULL, FULL * 2), r"\[0, 1\]; got 2 in 42 of 42 px"),
        (lambda: outline_distances(FULL, FULL[:3]), "have the size of `truth`"),
        (lambda: match_instances(-CELLS, FOUND), "labels from 0 up; got -3, -2, -1"),
        (lambda: match_instances(CELLS, FOUND / 2), "boolean or integer"),
    ],
)
def test_invalid_masks_are_refused(call, message):
    with pytest.raises(ArrayError, match=message):
        call()


def test_least_size_is_checked():
    with pytest.raises(SettingError, match="least_px"):
        components(FULL, least_px=0)
