"""Pairs of image and mask, as arguments and as files."""

from __future__ import annotations

import numpy as np
import pytest

from tests.test_data_survey import write, write_pair
from tiledseg.data import Pair, as_pairs, check_apart, check_mask, load_pair
from tiledseg.errors import ArrayError, SettingError


def test_tuples_become_pairs():
    array = np.zeros((4, 4), np.uint8)
    first, second = as_pairs([("x/7.jpg", array), (array, array)], "train")
    assert (first.name, second.name) == ("7", "train[1]")
    given_pair = Pair("n", array, array)
    assert as_pairs([given_pair], "train") == [given_pair]


@pytest.mark.parametrize("items", [[], [1], [("a",)], [("a", 3)], ["ab"]])
def test_invalid_pairs_are_refused(items):
    with pytest.raises(SettingError, match="train"):
        as_pairs(items, "train")


def test_an_image_must_not_be_in_both_sets(tmp_path):
    write_pair(tmp_path, "a")
    path = tmp_path / "images" / "a.png"
    link = tmp_path / "link.png"
    link.symlink_to(path)
    array = np.zeros((4, 4), np.uint8)
    for one, other in ((path, link), (array, array)):
        with pytest.raises(SettingError, match=r"no image of `train`.*: v\."):
            check_apart([Pair("t", one, array)], [Pair("v", other, array)])
    check_apart([Pair("t", path, array)], [Pair("t", array.copy(), array)])


@pytest.mark.parametrize(
    ("mask", "classes", "text"),
    [
        (np.full((3, 4), 255, np.uint8), 1, r"\[0, 1\]; got 255 in 12 of 12 px"),
        (np.full((3, 4), 2), 1, r"\[0, 1\], the classes of the network; got 2"),
        (np.full((3, 4), 3), 3, r"\[0, 2\], the classes of the network; got 3"),
        (np.full((3, 4), -1), 3, "got -1"),
        (np.full((3, 4), 0.5), 1, "boolean or integer; got float64"),
        (np.zeros((4, 3), np.uint8), 1, r"\(3, 4\); got \(4, 3\)"),
        (np.zeros((3, 4, 1), np.uint8), 1, r"\(3, 4\); got \(3, 4, 1\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, classes, text):
    with pytest.raises(ArrayError, match=text):
        check_mask(mask, (3, 4, 3), classes)


@pytest.mark.parametrize(
    ("masks", "message"),
    [((), "have at least one file"), (("a", "b"), r"first mask, \(3, 4\); got \(4, 3\)")],
)
def test_the_masks_of_an_image_have_one_size(masks, message, tmp_path):
    write(tmp_path / "a.png", np.zeros((3, 4), np.uint8))
    write(tmp_path / "b.png", np.zeros((4, 3), np.uint8))
    pair = Pair("one", np.zeros((3, 4), np.uint8), tuple(tmp_path / f"{name}.png" for name in masks))
    with pytest.raises(ArrayError, match=message):
        load_pair(pair)


def test_masks_that_fit_pass():
    check_mask(np.ones((3, 4), bool), (3, 4), 1)
    check_mask(np.full((3, 4), 4, np.int64), (3, 4, 3), 5)


def test_labels_beyond_a_byte_are_no_labels():
    with pytest.raises(ArrayError, match="from 0 to 256"):
        load_pair(Pair("one", np.zeros((3, 4), np.uint8), np.full((3, 4), 256), None))
    for shape in ((), (3,), (3, 4, 0), (3, 4, 1, 1)):
        with pytest.raises(ArrayError, match="`mask` must have"):
            load_pair(Pair("one", np.zeros((3, 4), np.uint8), np.zeros(shape, np.uint8), None))


def test_a_label_that_means_what_does_not_count_is_no_class():
    mask = np.full((3, 4), 255)
    mask[0, 0] = 7
    pair = Pair("one", np.zeros((3, 4), np.uint8), mask, None, ignore_label=7)
    with pytest.raises(ArrayError, match="hold labels below 255 with ignore_label"):
        load_pair(pair)


def test_an_invalid_list_of_pairs_is_named():
    with pytest.raises(SettingError, match="`train` must be a list of pairs"):
        as_pairs(None, "train")


def test_cells_in_files_may_be_many(tmp_path):
    masks = []
    for number in range(300):
        cell = np.zeros((20, 20), np.uint8)
        cell.flat[number] = 255
        masks.append(tmp_path / f"m_{number}.png")
        write(masks[-1], cell)
    pair = Pair("a", np.zeros((20, 20), np.uint8), tuple(masks), mask_parts="instances")
    np.testing.assert_array_equal(load_pair(pair)[1].ravel(), [*range(1, 301), *[0] * 100])


ARRAY = np.zeros((4, 4), np.uint8)
ARRAY[:2] = 255


@pytest.mark.parametrize(
    "setting",
    [
        {"name": 3},
        {"mask_parts": "instance"},
        {"mask_threshold": "none"},
        {"mask_threshold": 0},
        {"mask_threshold": True},
        {"class_values": (1, 2)},
        {"class_values": (1, 1), "mask_parts": "classes"},
        {"class_values": (0, 1), "mask_parts": "classes"},
        {"class_names": "tumour"},
        {"class_names": ("a", "a")},
        {"ignore_label": "255"},
        {"ignore_label": 1.5},
        {"alpha": "ignore"},
        {"palette": "indices"},
        {"at": {"z": -1}},
        {"level": "1"},
    ],
)
def test_settings_of_a_pair_are_checked_where_it_is_made(setting):
    with pytest.raises(SettingError, match=next(iter(setting))):
        Pair(**{"name": "a", "image": "a.png", "mask": "m.png"} | setting)


@pytest.mark.parametrize(
    "setting", [{"channels": (0,)}, {"level": 1}, {"page": 0}, {"mask_channels": 0}, {"palette": "index"}]
)
def test_a_part_of_an_array_is_not_chosen(setting):
    with pytest.raises(SettingError, match=r"is an array; got .* Slice the array"):
        Pair("a", ARRAY, ARRAY, **setting)


def test_settings_of_a_pair_may_be_lists_and_numbers_of_numpy(tmp_path):
    write_pair(tmp_path, "a")
    image, mask = tmp_path / "images" / "a.png", tmp_path / "masks" / "a.png"
    pair = Pair("a", image, mask, channels=[np.int64(0)], mask_channels=0, at={}, ignore_label=np.uint8(255))
    assert (pair.channels, pair.mask_channels, pair.at, pair.ignore_label) == ((0,), (0,), None, 255)
    assert load_pair(pair)[0].shape == (40, 50)
    for threshold in (np.uint8(128), np.float32(128), 127.5, 128.0):
        assert load_pair(Pair("a", image, mask, mask_threshold=threshold))[1].sum() == 250
