"""Blending windows: partitions of unity."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_tiling_grid import axes
from tiledseg.config import Blend
from tiledseg.tiling import AxisGrid, axis_windows

blends = st.sampled_from(get_args(Blend))


@given(axes(), blends)
def test_weights_are_parts_of_4096_and_sum_to_one(axis, blend):
    parts = np.zeros(axis.length, int)
    for window in axis_windows(axis, blend):
        assert window.weights.dtype == np.float32
        own = window.weights * 4096
        assert (own >= 0).all()
        np.testing.assert_array_equal(own, np.rint(own))
        parts[window.start : window.stop] += own.astype(int)
    assert (parts == 4096).all()


@given(axes(), st.sampled_from(["constant", "linear", "hann", "gaussian"]))
def test_weights_equal_the_window_within_one_part(axis, blend):
    place = np.arange(0.5, axis.tile)
    end = np.minimum(place, axis.tile - place)
    shape = {
        "constant": np.ones(axis.tile),
        "linear": end,
        "hann": np.sin(np.pi * end / axis.tile) ** 2,
        "gaussian": np.exp(-0.5 * ((place - axis.tile / 2) * 8 / axis.tile) ** 2),
    }[blend]
    total = np.zeros(axis.padded_length)
    for origin in axis.origins:
        total[origin : origin + axis.tile] += shape
    for origin, window in zip(axis.origins, axis_windows(axis, blend), strict=True):
        wanted = (shape / total[origin : origin + axis.tile])[window.in_tile]
        np.testing.assert_allclose(window.weights, wanted, rtol=0, atol=1 / 4096)


@given(axes(), blends)
def test_support_lies_in_tile_and_image(axis, blend):
    for origin, window in zip(axis.origins, axis_windows(axis, blend), strict=True):
        assert 0 <= window.start < window.stop <= axis.length
        assert (window.start - origin, window.stop - origin) == (window.in_tile.start, window.in_tile.stop)
        assert window.in_tile.stop <= axis.tile


@given(axes(), blends)
def test_a_px_of_one_tile_has_weight_one(axis, blend):
    windows = axis_windows(axis, blend)
    count = np.zeros(axis.length, int)
    for window in windows:
        count[window.start : window.stop] += 1
    for window in windows:
        assert (window.weights[count[window.start : window.stop] == 1] == 1).all()


def test_linear_by_hand():
    first, second = axis_windows(AxisGrid(6, 4, 2), "linear")
    np.testing.assert_allclose(first.weights, [1, 1, 0.75, 0.25])
    np.testing.assert_allclose(second.weights, [0.25, 0.75, 1, 1])


def test_the_windows_of_crop_are_the_cores():
    assert [(w.start, w.stop) for w in axis_windows(AxisGrid(10, 4, 2), "crop")] == [
        (0, 3),
        (3, 5),
        (5, 7),
        (7, 10),
    ]


@pytest.mark.parametrize("blend", ["constant", "linear", "hann", "gaussian"])
def test_windows_of_a_symmetric_grid_are_mirror_images(blend):
    windows = axis_windows(AxisGrid(640, 128, 32), blend)
    for left, right in zip(windows, reversed(windows), strict=True):
        np.testing.assert_allclose(left.weights, right.weights[::-1], rtol=0, atol=1 / 4096)
