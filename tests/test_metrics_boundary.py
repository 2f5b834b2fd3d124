"""Outlines against oracles worked out by hand, or in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledseg.errors import SettingError
from tiledseg.metrics import (
    BoundaryCounts,
    OutlineDistances,
    boundary_f1,
    default_tolerance,
    hausdorff95,
    outline_distances,
)

EMPTY, FULL = np.zeros((6, 7), np.uint8), np.ones((6, 7), np.uint8)
masks = hnp.arrays(np.uint8, (6, 8), elements=st.integers(0, 1))


def box(top: int, left: int, height: int, width: int, shape: tuple[int, int] = (20, 24)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def test_distances_of_a_box_moved_by_three_px():
    distances = outline_distances(box(5, 5, 4, 4), box(5, 8, 4, 4))
    # of the 12 px around the first box, the column at its right lies on the second one's left column
    assert sorted(distances.true.tolist()) == sorted([0] * 4 + [1] * 2 + [2] * 2 + [3] * 4)
    assert sorted(distances.found.tolist()) == sorted(distances.true.tolist())
    assert distances.within(1) == BoundaryCounts(true=12, true_near=6, found=12, found_near=6)
    assert boundary_f1(distances.within(1)) == 0.5
    assert hausdorff95(distances) == 3.0


def test_distances_of_a_box_inside_another_differ_by_direction():
    distances = outline_distances(box(2, 2, 11, 11), box(7, 7, 1, 1))
    assert distances.found.tolist() == [5.0]
    assert distances.true.size == 40
    assert distances.true.max() == pytest.approx(math.hypot(5, 5))
    # 4 corners at 7.07, 8 px at 6.40: the 95th percentile of 40 lies between rank 37 and 38, both corners
    assert hausdorff95(distances) == pytest.approx(math.hypot(5, 5))
    counts = distances.within(5)
    assert (counts.true_near, counts.found_near) == (4, 1)
    assert boundary_f1(counts) == pytest.approx(2 * (4 / 40) / (1 + 4 / 40))


def test_the_95th_percentile_lies_between_two_ranks():
    up = np.arange(101, dtype=np.float32)  # rank 95 of 0 to 100
    assert hausdorff95(OutlineDistances(up, up / 2)) == hausdorff95(OutlineDistances(up / 2, up)) == 95
    assert hausdorff95(OutlineDistances(up[:2], up[:1])) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("truth", "found", "f1", "distance"),
    [
        (EMPTY, EMPTY, 1.0, 0.0),
        (FULL, FULL, 1.0, 0.0),
        (EMPTY, FULL, 0.0, math.inf),
        (FULL, EMPTY, 0.0, math.inf),
    ],
    ids=["both empty", "both full", "nothing to find", "nothing found"],
)
def test_outlines_of_empty_and_full_masks_have_the_stated_scores(truth, found, f1, distance):
    distances = outline_distances(truth, found)
    assert boundary_f1(distances.within(100)) == f1
    assert hausdorff95(distances) == distance


def test_a_full_mask_is_outlined_along_the_images_edge():
    assert outline_distances(FULL, FULL).true.size == 2 * (6 + 7) - 4


@given(masks, masks)
def test_distances_are_those_between_all_pairs_of_outline_px(truth, found):
    def outline(mask):
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.argwhere(mask & ~inner & 1).astype(float)

    true, other = outline(truth), outline(found)
    expected = [min((math.dist(a, b) for b in other), default=math.inf) for a in true]
    assert outline_distances(truth, found).true.tolist() == pytest.approx(expected)


@given(masks, masks)
def test_outline_scores_are_symmetric(truth, found):
    one, two = outline_distances(truth, found), outline_distances(found, truth)
    assert boundary_f1(one.within(1)) == pytest.approx(boundary_f1(two.within(1)))
    assert hausdorff95(one) == hausdorff95(two)


def test_outlines_of_two_images_count_together():
    one = outline_distances(box(5, 5, 4, 4), box(5, 8, 4, 4)).within(1)
    two = outline_distances(box(1, 1, 1, 1), box(1, 1, 1, 1)).within(1)
    assert boundary_f1(one + two) == pytest.approx(7 / 13)


def test_masks_without_px_have_no_outline():
    distances = outline_distances(np.zeros((0, 3), int), np.zeros((0, 3), int))
    assert distances.true.size == distances.found.size == 0
    assert (boundary_f1(distances.within(1)), hausdorff95(distances)) == (1.0, 0.0)


def test_tolerance_is_proportional_to_the_size():
    assert default_tolerance((300, 400)) == pytest.approx(3.75)


@pytest.mark.parametrize("tolerance", [-1, math.nan, "2"])
def test_tolerance_is_checked(tolerance):
    with pytest.raises(SettingError, match="tolerance"):
        outline_distances(EMPTY, EMPTY).within(tolerance)
