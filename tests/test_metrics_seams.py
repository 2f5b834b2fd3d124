"""Seams against oracles worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledseg.errors import ArrayError, SettingError
from tiledseg.metrics import SeamErrorTally, SeamRatio, SeamTally, seam_ratio


def stepped(length: int, borders: list[int], jump: float) -> np.ndarray:
    """A slope of 1 per px that rises by `jump` at the borders."""
    steps = np.ones(length)
    steps[borders] = jump
    return np.cumsum(steps)


def test_seams_of_a_slope_with_known_jumps():
    rows, columns = stepped(60, [20, 40], 3.0), stepped(50, [25], 7.0)
    ratio = seam_ratio(rows[:, None] + columns[None, :], [20, 40], [25])
    assert (ratio.y, ratio.x) == (3.0, 7.0)
    # across: 2 rows of 50 steps of 3 and 1 column of 60 steps of 7, all else has steps of 1
    assert ratio.both == pytest.approx((2 * 50 * 3 + 60 * 7) / (2 * 50 + 60))


def test_a_smooth_slope_has_no_seams():
    slope = np.add.outer(np.arange(40.0), np.arange(50.0))
    assert seam_ratio(slope, [16, 32], [16, 32]) == SeamRatio(1.0, 1.0, 1.0)


def test_only_eight_steps_on_each_side_count():
    row = stepped(60, [30 - 9, 30 + 9], 100.0)  # just beyond what counts
    assert seam_ratio(np.tile(row, (4, 1)), [], [30]).x == 1.0
    row = stepped(60, [30 - 8], 17.0)  # just within: mean beside is (15 + 17) / 16
    assert seam_ratio(np.tile(row, (4, 1)), [], [30]).x == 0.5


def test_the_first_and_the_last_step_of_a_map_count():
    for place in (1, 11):
        row = stepped(12, [place], 11.0)  # mean beside is (9 + 11) / 10
        assert seam_ratio(np.tile(row, (4, 1)), [], [5]).x == 0.5


def test_a_border_near_another_is_not_beside_it():
    row = stepped(40, [20, 24], 5.0)
    assert seam_ratio(np.tile(row, (4, 1)), [], [24, 20, 20]).x == 5.0


def test_grey_values_and_channels_are_taken():
    grey = np.tile(np.array([200] * 10 + [100] * 10 + [101] * 10, np.uint8), (4, 1))
    assert seam_ratio(grey, [], [10]).x == math.inf  # flat but for the border; no wrap-around
    two = np.stack([grey, np.zeros_like(grey)], axis=-1)
    assert seam_ratio(two, [], [15]).x == 0.0


def test_an_axis_without_borders_is_far_from_all():
    tally = SeamErrorTally((200, 3), [10], [])
    tally.add(np.arange(600).reshape(200, 3) >= 597)
    # rows 9 and 10 have distance 0, and from row 138 on it is 128 or more
    assert tally.errors.px == tuple(3 * rows for rows in (4, 4, 8, 10, 16, 32, 64, 62))
    assert tally.errors.wrong == (0, 0, 0, 0, 0, 0, 0, 3)


def test_no_borders_or_a_flat_map_have_no_ratio():
    flat = np.full((30, 30), 0.5, np.float32)
    for ratio in (seam_ratio(flat, [10], [10]), seam_ratio(np.eye(30), [], [])):
        assert all(math.isnan(value) for value in (ratio.y, ratio.x, ratio.both))


@pytest.mark.parametrize("border", [0, 30, -5])
def test_a_border_outside_the_map_is_refused(border):
    with pytest.raises(SettingError, match="`borders_y` must be a whole number of at least 1 and at most 29"):
        seam_ratio(np.eye(30), [border], [])


@pytest.mark.parametrize(
    ("probs", "message"),
    [(np.ones(5), "shape"), (np.full((9, 9), np.nan), "finite"), (np.ones((9, 9), complex), "real dtype")],
)
def test_invalid_maps_are_refused(probs, message):
    with pytest.raises(ArrayError, match=message):
        seam_ratio(probs, [4], [4])


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
