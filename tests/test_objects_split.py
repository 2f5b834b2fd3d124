"""Splitting objects: the same parts however the map arrives and wherever the object lies."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from tiledseg import ObjectsConfig
from tiledseg.errors import SettingError
from tiledseg.objects import ObjectsSink, label_objects

NEIGHBOURS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def discs(*spots: tuple[int, int, int], size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Draw discs (y, x, radius)."""
    mask = np.zeros(size, np.uint8)
    for y, x, radius in spots:
        cv2.circle(mask, (x, y), radius, 1, -1)
    return mask


def drawn(seed: int) -> np.ndarray:
    """Draw ellipses that overlap."""
    rng, mask = np.random.default_rng(seed), np.zeros((70, 70), np.uint8)
    for _ in range(20):
        centre, axes = rng.integers(0, 70, 2).tolist(), rng.integers(2, 10, 2).tolist()
        cv2.ellipse(mask, centre, axes, int(rng.integers(180)), 0, 360, 1, -1)
    return mask


def n_peaks(mask: np.ndarray, connectivity: int, depth: float) -> int:
    """Count the peaks of the distance that rise enough, from the highest pass down, one after the other."""
    near = [step for step in NEIGHBOURS if connectivity == 8 or 0 in step]
    padded = np.pad(mask, 1)
    height = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(float)
    px = [tuple(one) for one in np.argwhere(padded).tolist()]
    links = [(p, (p[0] + y, p[1] + x)) for p in px for y, x in near if padded[p[0] + y, p[1] + x]]
    peak = {p: p for p in px}

    def top(p: tuple[int, ...]) -> tuple[int, ...]:
        while peak[p] != p:
            p = peak[p]
        return p

    for p, q in sorted(links, key=lambda link: -min(height[link[0]], height[link[1]])):
        a, b = sorted((top(p), top(q)), key=lambda one: height[one])
        if a != b and height[a] - min(height[p], height[q]) < depth:
            peak[a] = b
    return sum(top(p) == p for p in px)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_there_is_a_part_for_each_peak_that_rises_enough(seed, connectivity):
    mask = drawn(seed)
    found = label_objects(mask, {"split": "watershed", "connectivity": connectivity, "split_depth": 1.5})
    assert len(found) == n_peaks(mask, connectivity, 1.5)
    np.testing.assert_array_equal(found.labels > 0, mask > 0)
    for label in range(1, len(found) + 1):  # each is one area
        part = (found.labels == label).astype(np.uint8)
        assert cv2.connectedComponents(part, connectivity=connectivity)[0] == 2


@pytest.mark.parametrize("config", [{}, {"connectivity": 8}, {"fill_holes": True}, {"min_area": 40}])
def test_parts_do_not_depend_on_bands_and_place(config, monkeypatch):
    mask, config = drawn(7), {"split": "watershed", **config}
    probs = np.where(mask, 0.5 + np.random.default_rng(1).random(mask.shape) / 2, 0.2).astype(np.float32)
    whole = label_objects(probs, config)
    for height in (1, 7, 32):
        sink, out = ObjectsSink(probs.shape, probs.dtype, config), np.empty(mask.shape, np.uint32)
        for row in range(0, len(mask), height):
            sink[row : row + height] = probs[row : row + height]
        table = sink.finish(out).table
        np.testing.assert_array_equal(out, whole.labels)
        for name, column in whole.table.items():
            np.testing.assert_array_equal(table[name], column, err_msg=name)
    moved = np.zeros((99, 101), np.float32)
    moved[11:81, 13:83] = probs
    monkeypatch.setattr("tiledseg.objects.runs._CHUNK", 9 * 101)  # rows are worked on by nines
    np.testing.assert_array_equal(label_objects(moved, config).labels[11:81, 13:83], whole.labels)


def test_parts_are_numbered_and_measured_like_other_objects():
    mask = discs((20, 20, 10), (20, 36, 10), (50, 10, 5))
    found = label_objects(mask, {"split": "watershed"}, image=mask)
    assert len(found) == 3
    firsts = [int(np.flatnonzero(found.labels.ravel() == label)[0]) for label in (1, 2, 3)]
    assert firsts == sorted(firsts)
    assert found.table["area"].tolist() == np.bincount(found.labels.ravel())[1:].tolist()
    assert (found.table["channel_0_mean"] == 1).all()
    np.testing.assert_allclose(found.table["centroid_x"][:2], [20, 36], atol=1)


@pytest.mark.parametrize(("depth", "n"), [(1, 2), (1.01, 1)])
def test_a_peak_is_split_off_if_it_rises_by_the_depth_or_more(depth, n):
    mask = np.zeros((9, 19), np.uint8)
    mask[2:7, 2:7] = mask[2:7, 12:17] = 1  # the middle of a square lies 3 px from the background
    mask[3:6, 7:12] = 1  # and that of the neck 2 px
    assert len(label_objects(mask, {"split": "watershed", "split_depth": depth})) == n


def test_a_shallow_neck_splits_nothing():
    mask = discs((20, 20, 10), (20, 24, 10))
    assert len(label_objects(mask, {"split": "watershed"})) == 1
    pair = discs((20, 20, 10), (20, 38, 10))
    assert len(label_objects(pair, {"split": "watershed", "split_depth": 9})) == 1


def test_limits_count_for_the_parts():
    mask = discs((30, 4, 9), (30, 21, 9), (30, 42, 13))
    found = label_objects(mask, {"split": "watershed", "keep_border": False, "max_area": 300})
    assert len(found) == 1
    assert 200 < found.table["area"][0] < 300


def test_an_object_beyond_the_limit_stays_whole_and_is_reported(caplog):
    mask = discs((20, 20, 10), (20, 36, 10), (50, 20, 6), (50, 30, 6))
    found = label_objects(mask, {"split": "watershed", "split_max_px": 500})
    assert len(found) == 3
    assert found.n_unsplit == 1
    assert "1 of 2 components are not split" in caplog.text


def classes(kind: str) -> np.ndarray:
    """Draw two cells that touch: with a line between them (class 2), or with centres (class 2)."""
    mask = discs((20, 20, 10), (20, 36, 10), (50, 10, 5))
    if kind == "boundary":
        mask[:, 27:29] *= 2
    else:
        mask[18:22, [20, 36]] = 2
    return mask


def test_a_boundary_class_is_given_to_the_nearest_cell():
    config = {"split": "watershed", "boundary_class": 2}
    found = label_objects(classes("boundary"), config)
    assert found.table["class"].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(found.labels > 0, classes("boundary") > 0)
    assert set(found.labels[20, 10:28].tolist()) == {1}
    assert set(found.labels[20, 28:46].tolist()) == {2}
    alone = np.pad(np.full((3, 3), 2), 2)
    assert len(label_objects(alone, config)) == 0  # a line without a cell


def test_a_centre_class_gives_an_object_for_each_centre():
    found = label_objects(classes("centre"), {"split": "watershed", "centre_class": 2})
    assert found.table["class"].tolist() == [1, 1, 1]  # the third has no centre, and is one object
    assert set(found.labels[20, 10:28].tolist()) == {1}
    assert set(found.labels[20, 29:46].tolist()) == {2}


@pytest.mark.parametrize("kind", ["boundary", "centre"])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_areas_of_seeds_do_not_depend_on_bands_and_place(kind, connectivity):
    mask = np.random.default_rng(3).choice([0, 1, 1, 1, 2, 2, 3], (40, 50)).astype(np.uint8)
    config: dict[str, Any] = {"split": "watershed", f"{kind}_class": 2, "connectivity": connectivity}
    whole = label_objects(mask, config).labels
    sink, out = ObjectsSink(mask.shape, mask.dtype, config), np.empty(mask.shape, np.uint32)
    for row in range(0, len(mask), 3):
        sink[row : row + 3] = mask[row : row + 3]
    sink.finish(out)
    np.testing.assert_array_equal(out, whole)
    moved = np.pad(mask, ((5, 0), (3, 2)))
    np.testing.assert_array_equal(label_objects(moved, config).labels[5:, 3:-2], whole)


def test_settings_of_splitting_are_checked():
    with pytest.raises(SettingError, match="boundary_class"):
        ObjectsConfig(boundary_class=2)
    with pytest.raises(SettingError, match="centre_class"):
        ObjectsConfig(split="watershed", boundary_class=2, centre_class=1)
    with pytest.raises(SettingError, match="split_depth"):
        ObjectsConfig(split="watershed", split_depth=0)
