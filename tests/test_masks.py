"""One reading of masks: what values mean, px that do not count, numbered cells."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

import tiledseg as ts
from tiledseg._backend import keras
from tiledseg.cli import main
from tiledseg.config import DataConfig, PreprocessingConfig, TileSetConfig
from tiledseg.data import (
    CropSampler,
    Manifest,
    Pair,
    describe,
    find_pairs,
    load_both,
    load_pair,
    pairs_of,
    prepare_pairs,
    statistics_of,
    write_manifest,
    write_tiles,
)
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.evaluate import score_map
from tiledseg.export import write_geojson
from tiledseg.io import read_mask, write_image
from tiledseg.models import build_loss
from tiledseg.train.callbacks import PooledScore

rng = np.random.default_rng(0)
THREE = np.zeros((60, 60), np.uint8)  # three cells that touch
THREE[10:30, 10:30], THREE[10:30, 30:50], THREE[30:40, 10:50] = 1, 2, 3
CELLS = np.zeros((40, 60), np.int32)
for number, (y, x) in enumerate(np.ndindex(10, 15), 1):
    CELLS[4 * y : 4 * y + 3, 4 * x : 4 * x + 3] = number


def file(folder, values, name="a.tif", **options):
    folder.mkdir(exist_ok=True)
    grey = {} if values.ndim == 3 else {"photometric": "minisblack"}  # which a boolean mask is not by itself
    tifffile.imwrite(folder / name, values, **grey | options)
    return folder / name


def test_signed_masks_are_never_read_as_empty(tmp_path):
    signed = file(tmp_path, -(THREE > 0).astype(np.int8))  # 255, saved as signed
    for threshold in ("auto", 1, None):
        with pytest.raises(FileError, match="-1 is 255"):
            read_mask(signed, threshold=threshold)


def pair_of(folder, values, **options):
    """Pair an image of noise with a mask's file."""
    shape = values.shape[:2]
    write_image(folder / "images" / "a.png", rng.integers(0, 256, (*shape, 3), np.uint8))
    file(folder / "masks", values)
    (pair,) = find_pairs(folder / "images", folder / "masks", **options)
    return pair


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4", "i8", "f4", "f8", "?"])
def test_two_values_are_background_and_foreground_in_every_dtype(dtype, tmp_path):
    wanted = np.eye(9, dtype=np.uint8)
    np.testing.assert_array_equal(read_mask(file(tmp_path, wanted.astype(dtype))), wanted)
    np.testing.assert_array_equal(load_pair(Pair("a", wanted, wanted.astype(dtype)))[1], wanted)
    if np.dtype(dtype).kind == "u":
        white = np.iinfo(dtype).max if np.dtype(dtype).itemsize < 4 else 65535
        painted = (wanted.astype(int) * white).astype(dtype)
        np.testing.assert_array_equal(read_mask(file(tmp_path, painted)), wanted)


@pytest.mark.parametrize("factor", [1, 20, 400])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_numbers_of_many_cells_are_all_foreground(dtype, factor, tmp_path):
    if factor > 1 and dtype == np.uint8:
        pytest.skip("the numbers need more bits")
    pair = pair_of(tmp_path, (CELLS * factor).astype(dtype))
    np.testing.assert_array_equal(load_pair(pair)[1], CELLS > 0)
    np.testing.assert_array_equal(read_mask(pair.mask), CELLS > 0)
    (record,) = describe([pair], tmp_path)
    assert record.mask_found == "cell numbers (150 cells)"


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ([0, 1, 2], 'mask_threshold=1 .* mask_threshold=None .* mask_parts="instances"'),
        ([0, 2], "the values 0, 2"),
        ([0, 127, 255], "ignore_label=127"),
        ([0, 128, 255], "mask_threshold=128 if dark"),
        ([0, 1, 255], "ignore_label=255"),
        ([0, -1, 1], "ignore_label=-1"),
        ([0.0, 0.25, 0.75], "for example 0.5"),
        ([0, 70000], "the values 0, 70000"),
    ],
)
def test_values_that_could_mean_two_things_are_an_error_that_names_the_settings(values, advice, tmp_path):
    dtype = np.float32 if isinstance(values[1], float) else np.int32
    mask = np.array(values, dtype)[np.arange(64).reshape(8, 8) % len(values)]
    pair = pair_of(tmp_path, mask)
    with pytest.raises(FileError, match=advice):
        load_pair(pair)
    with pytest.raises(FileError, match=advice):
        describe([pair], tmp_path)
    with pytest.raises(FileError, match=r"Set `?threshold"):
        read_mask(pair.mask)


def test_grey_pictures_are_no_masks(tmp_path):
    gradient = np.tile(np.arange(256, dtype=np.uint8).repeat(4), (64, 1))
    disc = cv2.circle(np.zeros((80, 80), np.uint8), (40, 40), 25, 255, -1, cv2.LINE_AA)
    noise = rng.integers(0, 256, (64, 64), np.uint8)
    for picture in (gradient, disc, noise, cv2.GaussianBlur(disc, (0, 0), 5)):
        with pytest.raises(FileError, match="threshold=128 if dark"):
            read_mask(file(tmp_path, picture))
    np.testing.assert_array_equal(read_mask(file(tmp_path, disc), 128), disc >= 128)


def test_a_lossy_mask_is_cut_in_the_middle_if_it_is_nearly_black_and_white(tmp_path):
    disc = cv2.circle(np.zeros((80, 80), np.uint8), (40, 40), 25, 255, -1)
    cv2.imwrite(str(tmp_path / "disc.jpg"), disc)
    np.testing.assert_array_equal(read_mask(tmp_path / "disc.jpg"), disc > 0)
    cv2.imwrite(str(tmp_path / "cells.jpg"), CELLS.astype(np.uint8))
    with pytest.raises(FileError, match="be nearly black and white"):
        read_mask(tmp_path / "cells.jpg")


@pytest.mark.parametrize("highest", [1, 3, 10])
def test_labels_in_a_lossy_file_are_not_taken_for_background(highest, tmp_path):
    disc = cv2.circle(np.zeros((80, 80), np.uint8), (40, 40), 25, highest, -1)
    cv2.imwrite(str(tmp_path / "disc.jpg"), disc)
    with pytest.raises(FileError, match="be nearly black and white"):
        read_mask(tmp_path / "disc.jpg")
    cv2.imwrite(str(tmp_path / "none.jpg"), disc * 0)
    assert not read_mask(tmp_path / "none.jpg").any()


def test_smooth_edges_of_a_few_squares_are_no_cell_numbers(tmp_path):
    mask = np.zeros((48, 64), np.uint8)
    mask[5:20, 5:25] = mask[30:45, 40:60] = mask[:, 63] = 255
    with pytest.raises(FileError, match="threshold=128 if dark"):
        read_mask(file(tmp_path, cv2.GaussianBlur(mask, (0, 0), 1)))


@pytest.mark.parametrize("value", [0, 20])
def test_an_ignored_label_is_the_value_of_no_class(value):
    pair = Pair("a", np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=np.uint8) * 20, mask_parts="classes")
    with pytest.raises(SettingError, match=f"ignore_label.*got {value}"):
        load_pair(replace(pair, ignore_label=value))


def test_an_image_is_not_its_own_mask(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.eye(9, dtype=np.uint8))
    with pytest.raises(FileError, match=r"no mask: a .*the mask is the image itself"):
        find_pairs(tmp_path, tmp_path)
    with pytest.raises(FileError, match="Pass a str"):
        find_pairs(tmp_path, 3)


def test_a_mask_of_the_image_before_it_was_turned_is_named_so(tmp_path):
    for folder, turned in (("i", False), ("m", True)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), np.ones((4, 6)[:: -1 if turned else 1], np.uint8))
    with pytest.raises(FileError, match=r"4x6 px, the mask 6x4 px.*orientation \(Exif\)"):
        find_pairs(tmp_path / "i", tmp_path / "m")


def test_a_mask_without_the_orientation_of_its_image_is_told(tmp_path, caplog):
    exif = Image.Exif()
    for name, orientation in (("a", 1), ("b", 3), ("c", 2)):
        exif[0x0112] = orientation
        for folder in ("i", "m"):
            (tmp_path / folder).mkdir(exist_ok=True)
            own = exif if folder == "i" or name == "c" else Image.Exif()
            Image.fromarray(np.eye(9, 12, dtype=np.uint8) * 255).save(
                tmp_path / folder / f"{name}.png", exif=own
            )
    pairs = find_pairs(tmp_path / "i", tmp_path / "m")
    assert "Image and mask of b state different orientations" in caplog.text
    assert [bool(load_pair(pair)[1][0, 0]) for pair in pairs] == [True, True, False]


@pytest.mark.parametrize(
    ("turn", "shape", "mask", "told"),
    [
        (1, (9, 12), "a.tif", False),
        (3, (9, 12), "a.tif", True),
        (3, (9, 12), "array", True),
        (3, (9, 12), "same.tif", False),
        (6, (9, 12), "a.tif", False),  # drawn on the image as it is shown: its size says so
        (6, (9, 9), "a.tif", True),
        (6, (9, 12), "a.geojson", True),  # QuPath shows px as stored
        (1, (9, 12), "turned.tif", True),
    ],
)
def test_images_that_a_tiff_tag_turns_are_told_where_pairs_are_given(
    turn, shape, mask, told, tmp_path, caplog
):
    def save(name, size, orientation):
        tag = [(274, 3, 1, orientation, True)]
        pixels = np.zeros(size, np.uint8)
        tifffile.imwrite(tmp_path / name, pixels, photometric="minisblack", metadata=None, extratags=tag)
        return tmp_path / name

    image = save("i.tif", shape, turn)
    size = shape[:: -1 if turn > 4 else 1]
    truth = np.zeros(size, np.uint8)
    if mask == "a.geojson":
        truth = tmp_path / mask
        truth.write_text('{"type": "FeatureCollection", "features": []}')
    elif mask != "array":
        stated = {"same.tif": turn, "turned.tif": 3}.get(mask, 1)
        truth = save(mask, shape if stated == turn else size, stated)
    for _ in range(2):
        result = ts.Evaluator().evaluate(lambda tiles: np.zeros((*tiles.shape[:3], 1)), [(image, truth)])
        assert not result.failed
    assert caplog.text.count("Image and mask of i state different orientations") == told


def test_an_image_that_is_turned_unlike_its_region_of_interest_is_told_once(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png", exif=exif)
    square = np.zeros((40, 40), np.uint8)
    square[:9, :9] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), square)
    Image.fromarray(square).save(tmp_path / "turned.png", exif=exif)
    write_geojson(tmp_path / "a.geojson", square > 0)
    for roi, told in (("turned.png", 0), ("mask.png", 1), ("a.geojson", 2), ("a.geojson", 2)):
        ts.tiled_predict(lambda tiles: tiles, tmp_path / "a.png", {"tile_size": 16}, roi=tmp_path / roi)
        assert caplog.text.count("Image and region of interest of") == told


def test_a_later_image_of_one_mask_is_told_whatever_was_looked_at_before(tmp_path, caplog):
    path, tag = tmp_path / "m.tif", [(274, 3, 1, 6, True)]
    tifffile.imwrite(path, np.zeros((9, 9), np.uint8), photometric="minisblack", metadata=None, extratags=tag)
    for side in (9, 8, 9):  # a new array often has the id of one that is gone
        ts.Evaluator().evaluate(lambda tiles: tiles, [(np.zeros((side, side)), path)])
    assert caplog.text.count("state different orientations") == 2  # for each size


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_a_palette_of_black_and_white_means_what_its_indices_do(suffix, tmp_path):
    truth = np.eye(32, dtype=np.uint8)
    picture = Image.fromarray(truth, mode="P")
    picture.putpalette([0, 0, 0, 255, 255, 255] + [9, 0, 0] * 254)
    picture.save(path := tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_mask(path), truth)
    np.testing.assert_array_equal(load_pair((np.zeros((32, 32)), path))[1], truth)
    for options in ({"threshold": None}, {"threshold": 128}, {"ignore_label": 255}):  # they differ
        with pytest.raises(FileError, match="palette='index'"):
            read_mask(path, **options)
    picture.putpalette([255, 255, 255, 0, 0, 0] + [9, 0, 0] * 254)
    picture.save(path)
    with pytest.raises(FileError, match="palette='index'"):
        read_mask(path)


def test_three_equal_channels_and_palettes_are_read_where_masks_are(tmp_path):
    pair = pair_of(tmp_path, np.repeat(np.eye(32, dtype=np.uint8)[..., None] * 255, 3, axis=2))
    np.testing.assert_array_equal(load_pair(pair)[1], np.eye(32))
    voc = Image.fromarray(np.eye(32, dtype=np.uint8), mode="P")
    voc.putpalette([0, 0, 0, 128, 0, 0] + [0] * 750)
    voc.save(tmp_path / "voc.png")
    with pytest.raises(FileError, match="palette='index'"):
        load_pair(Pair("a", pair.image, tmp_path / "voc.png"))
    image, labels = load_pair(Pair("a", pair.image, tmp_path / "voc.png", palette="index"))
    np.testing.assert_array_equal(labels, np.eye(32))
    (found,) = pairs_of(
        DataConfig(images=str(tmp_path / "images"), masks=str(tmp_path / "masks"), palette="index")
    )
    assert found.palette == "index"
    assert image.shape == (32, 32, 3)


def test_labels_of_classes_are_read_where_the_network_has_them():
    truth = rng.integers(0, 3, (40, 40)).astype(np.uint8)
    image = np.zeros((40, 40, 3), np.float32)
    np.put_along_axis(image, truth[..., None].astype(int), 1, axis=2)
    assert ts.Evaluator().evaluate(lambda tiles: tiles, [(image, truth)]).summary()["dice"] == 1
    (prepared,) = prepare_pairs([Pair("a", image, truth)], PreprocessingConfig(dtype="float32"), classes=3)
    np.testing.assert_array_equal(prepared.mask, truth)
    with pytest.raises(ArrayError, match=r"arguments of tiledseg\.data\.Pair"):
        prepare_pairs([Pair("a", image, truth)], PreprocessingConfig(dtype="float32"))


def test_one_label_image_is_a_truth_for_counting_cells(tmp_path):
    pair = pair_of(tmp_path, THREE, mask_parts="instances")
    probs = (THREE > 0).astype(np.float32)
    np.testing.assert_array_equal(load_pair(pair)[1], THREE)
    for truth in (pair, Pair("a", np.zeros((60, 60)), THREE, mask_parts="instances")):
        scores = ts.Evaluator().score_maps([probs], [truth]).images[0]
        assert scores.dice == 1
        assert (scores.cells.true, scores.cells.predicted) == (3, 1)
    whole = ts.Evaluator().score_maps([CELLS > 0], [Pair("a", np.zeros((40, 60)), CELLS)]).images[0]
    assert (whole.cells.found, whole.average_precision, whole.panoptic_quality) == (150, 1, 1)


def test_training_takes_label_images_as_foreground(tmp_path):
    pair = pair_of(tmp_path, THREE, mask_parts="instances")
    (prepared,) = prepare_pairs([pair], PreprocessingConfig())
    np.testing.assert_array_equal(prepared.mask, THREE > 0)


def test_ignored_px_count_neither_in_scores_nor_in_sampling():
    truth = np.zeros((64, 64), np.uint8)
    truth[10:40, 10:40], truth[:, 50:] = 1, 255
    image = np.zeros((64, 64, 3), np.uint8)
    image[10:40, 10:40] = image[:, 55:] = 255  # wrong where px are ignored alone
    pair = Pair("a", image, truth, ignore_label=255)
    result = ts.Evaluator().evaluate(lambda tiles: tiles[..., :1] / 255, [pair])
    counts = result.images[0].counts[0]
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (900, 0, 0, 64 * 50 - 900)
    assert result.images[0].cells.predicted == 1
    assert result.images[0].probabilities.px.sum() == 64 * 50
    assert result.images[0].boundary_f1 == 1
    alone = score_map(image[..., 0] / np.float32(255), truth, ignore_label=255)
    assert (alone.dice, alone.cells.predicted) == (1, 1)
    (prepared,) = prepare_pairs([pair], PreprocessingConfig())
    assert (prepared.counted, len(prepared.foreground)) == (64 * 50, 900)
    masks = CropSampler([prepared], (32, 32), length=8, foreground_share=1).batch(0, range(8))[1]
    assert set(np.unique(masks)) <= {-1, 0, 1}


@pytest.mark.parametrize("inside", [0, 1])
def test_cells_do_not_depend_on_what_is_predicted_where_px_do_not_count(inside):
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    found = truth.copy()
    truth[:, 19:21], found[:, 19:21] = 255, inside  # a line between two cells
    scores = score_map(found, truth, ignore_label=255)
    assert (scores.cells.found, scores.cells.missed, scores.cells.false) == (2, 0, 0)
    assert scores.panoptic_quality == 1


LOSSES = ["bce", "dice", "iou", "bce_dice", "bce_iou", "basnet", "focal", "tversky", "focal_tversky"]


@pytest.mark.parametrize("name", [*LOSSES, "boundary", "bootstrap", "missing_labels"])
@pytest.mark.parametrize("classes", [1, 3])
def test_ignored_px_have_no_part_in_any_loss(name, classes):
    labels = rng.integers(0, max(2, classes), (2, 32, 32))
    truth = (labels[..., None] == (np.arange(classes) if classes > 1 else 1)).astype(np.float32)
    truth[:, :, 20:] = -1
    probs = rng.uniform(0.05, 0.95, truth.shape).astype(np.float32)
    other = probs.copy()
    other[:, :, 20:] = 1 - other[:, :, 20:]
    loss = build_loss(name)
    assert float(loss(truth, probs)) == float(loss(truth, other))
    if name in {"bce", "focal", "dice", "iou", "tversky"}:  # those that do not look at neighbours
        np.testing.assert_allclose(
            float(loss(truth, probs)), float(loss(truth[:, :, :20], probs[:, :, :20])), rtol=1e-4
        )
    empty = float(loss(np.full_like(truth, -1), probs))
    assert np.isfinite(empty)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_the_metrics_of_training_cut_two_classes_as_maps_are_cut(threshold):
    rng = np.random.default_rng(0)
    probs, labels = rng.random((1, 8, 9, 1)).astype(np.float32), rng.integers(0, 2, (1, 8, 9))
    metric = PooledScore("dice", 2, threshold)
    metric.update_state(np.eye(2, dtype=np.float32)[labels], np.concatenate([1 - probs, probs], axis=-1))
    assert float(metric.result()) == pytest.approx(score_map(probs[0, ..., 0] >= threshold, labels[0]).dice)


def test_ignored_px_have_no_part_in_the_metrics_of_training():
    truth = np.array([1, 0, -1, -1], np.float32).reshape(1, 2, 2, 1)
    probs = np.array([0.9, 0.1, 0.9, 0.1], np.float32).reshape(1, 2, 2, 1)
    for name in ("dice", "accuracy"):
        metric = PooledScore(name)
        metric.update_state(keras.ops.convert_to_tensor(truth), keras.ops.convert_to_tensor(probs))
        assert float(metric.result()) == pytest.approx(1)


def test_statistics_and_tile_sets_say_what_masks_are_and_keep_it(tmp_path):
    truth = np.zeros((64, 64), np.uint8)
    truth[10:40, 10:40], truth[:, 48:] = 1, 255
    pair = pair_of(tmp_path, truth, mask_threshold=None, ignore_label=255)
    records = describe([pair], tmp_path)
    numbers = statistics_of(records)
    assert numbers.total.ignored == 0.25
    assert numbers.total.foreground == pytest.approx(900 / (64 * 48))
    assert "masks: 1 of labels (0 to 1)\nignored: 25.00% of the px" in str(numbers)
    write_manifest(tmp_path / "m.jsonl", records)
    config = TileSetConfig(tile_size=32, output=str(tmp_path / "tiles"))
    write_tiles(Manifest.read(tmp_path / "m.jsonl"), config)
    tiles = Manifest.read(tmp_path / "tiles" / "manifest.jsonl").pairs()
    assert sum(int((load_pair(one)[1] == 255).sum()) for one in tiles) == 64 * 16
    assert sum(int((load_pair(one)[1] == 1).sum()) for one in tiles) == 900


def test_tile_sets_of_cells_hold_their_numbers(tmp_path):
    pair = pair_of(tmp_path, CELLS[:32, :32] * 20, mask_parts="instances")
    write_manifest(tmp_path / "m.jsonl", describe([pair], tmp_path))
    write_tiles(
        Manifest.read(tmp_path / "m.jsonl"), TileSetConfig(tile_size=32, output=str(tmp_path / "tiles"))
    )
    (tile,) = Manifest.read(tmp_path / "tiles" / "manifest.jsonl").pairs()
    np.testing.assert_array_equal(load_pair(tile)[1], CELLS[:32, :32] * 20)


def test_commands_take_the_settings_that_their_errors_name(tmp_path, capsys):
    pair_of(tmp_path, THREE)
    data = ["--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks"), "--quiet"]
    assert main(["stats", *data]) == 2
    assert "--mask-parts instances" in capsys.readouterr().err
    assert main(["stats", *data, "--mask-parts", "instances"]) == 0
    assert "cell numbers (3 cells)" in capsys.readouterr().out
    assert main(["stats", *data, "--mask-threshold", "1"]) == 0
    export = ["export", str(tmp_path / "masks"), "--output"]
    assert main([*export, str(tmp_path / "a"), "--quiet"]) == 1
    assert main([*export, str(tmp_path / "b"), "--mask-threshold", "1", "--quiet"]) == 0
    assert json.loads((tmp_path / "b" / "geojson" / "a.geojson").read_text())["features"]


def test_images_of_any_channels_are_chosen_as_for_prediction(tmp_path):
    stack = rng.integers(0, 4096, (2, 5, 32, 32)).astype(np.uint16)
    (tmp_path / "i").mkdir()
    tifffile.imwrite(tmp_path / "i" / "a.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    file(tmp_path / "m", np.eye(32, dtype=np.uint8))
    config = DataConfig(images=str(tmp_path / "i"), masks=str(tmp_path / "m"), channels=(4, 1), at={"z": 1})
    assert DataConfig.from_toml(config.to_toml()) == config
    (pair,) = pairs_of(config)
    image, _ = load_pair(pair)
    np.testing.assert_array_equal(image, stack[1, [4, 1]].transpose(1, 2, 0))
    records = describe([pair], tmp_path)
    write_manifest(tmp_path / "m.jsonl", records)
    (again,) = Manifest.read(tmp_path / "m.jsonl").pairs()
    np.testing.assert_array_equal(load_pair(again)[0], image)
    with pytest.raises(SettingError, match="at"):
        DataConfig(at="3")


def test_the_error_about_a_mask_of_several_pages_names_the_setting_of_the_function(tmp_path, capsys):
    stack = file(tmp_path, np.stack([THREE, THREE * 0]), metadata=None)
    image = np.zeros((60, 60, 3), np.uint8)
    with pytest.raises(FileError, match=r"Pass `mask_page`.*tiledseg\.data\.Pair"):
        load_pair(Pair("a", image, stack, mask_parts="instances"))
    assert load_pair(Pair("a", image, stack, mask_parts="instances", mask_page=0))[1].max() == 3
    with pytest.raises(FileError, match=r"Pass `page`.*read_mask.*write_mask or pass it\.$"):
        ts.tiled_predict(lambda tiles: tiles[..., :1], image, roi=stack)
    maps = file(tmp_path, np.stack([THREE / 3] * 2), "map.ome.tif", metadata={"axes": "ZYX"})
    failed = ts.Evaluator().score_maps([maps], [Pair("a", image, THREE > 0)]).failed
    assert re.search(r"at=\{'z': 1\}.*read_image, which takes this, and pass the array", failed[0].error)


@pytest.mark.parametrize(
    ("axes", "part", "fix", "option"),
    [
        ("ZYX", {"mask_at": {"z": 1}}, r"mask_at=\{'z': 1\}", "--mask-at z=1"),
        ("CYX", {"mask_channels": (1,)}, "mask_channels=0 to mask_channels=1", "--mask-channels 1"),
    ],
)
def test_any_part_of_the_file_of_a_mask_is_the_truth_of_a_pair(tmp_path, axes, part, fix, option):
    cells = np.zeros((32, 32), np.uint8)
    cells[4:9, 5:9] = 1
    masks, images = tmp_path / "m", tmp_path / "i"
    masks.mkdir(), images.mkdir()
    file(masks, np.stack([cells * 0 + 7, cells]), "a.ome.tif", metadata={"axes": axes})
    write_image(images / "a.png", cells * 255)
    config = DataConfig(images=str(images), masks=str(masks), **part)
    assert DataConfig.from_toml(config.to_toml()) == config
    with pytest.raises(FileError, match=fix):
        load_pair(Pair("a", images / "a.png", masks / "a.ome.tif"))
    (pair,) = pairs_of(config)
    np.testing.assert_array_equal(load_pair(pair)[1], cells)
    write_manifest(tmp_path / "m.jsonl", describe([pair], tmp_path))
    (again,) = Manifest.read(tmp_path / "m.jsonl").pairs()
    np.testing.assert_array_equal(load_pair(again)[1], cells)
    assert main(["stats", "--images", str(images), "--masks", str(masks), *option.split()]) == 0


def test_a_command_advises_its_own_options(tmp_path, capsys):
    (tmp_path / "masks").mkdir()
    file(tmp_path / "masks", np.stack([THREE] * 3), "a.ome.tif", metadata={"axes": "ZYX"})
    assert main(["export", str(tmp_path / "masks"), "--output", str(tmp_path / "out")]) == 1
    assert "Pass --at z=0 to --at z=2." in capsys.readouterr().err


def test_a_plane_or_a_channel_of_a_mask_is_exported_on_request(tmp_path):
    for axis, choice in (("Z", ["--at", "z=1"]), ("C", ["--channels", "1"])):
        path = file(tmp_path, np.stack([THREE * 0, THREE]), "a.ome.tif", metadata={"axes": f"{axis}YX"})
        out = tmp_path / axis
        assert main(["export", str(path), "--output", str(out), "--instances", *choice]) == 0
        assert len(json.loads((out / "geojson" / "a.geojson").read_text())["features"]) == 3


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("colour", [0, 255])
def test_a_mask_in_the_alpha_channel_is_not_dropped(name, colour, tmp_path):
    alpha = np.eye(9, 12, dtype=np.uint8) * 255
    pixels = np.dstack([np.full((9, 12, 3), colour, np.uint8), alpha])
    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", extrasamples=["unassalpha"])
    else:
        Image.fromarray(pixels).save(tmp_path / name, lossless=True, exact=True)
    with pytest.raises(FileError, match="must hold its mask in colours; got one colour, and an alpha"):
        read_mask(tmp_path / name, alpha="drop")
    pixels[..., 0:3] = np.where(alpha[..., None] == 0, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    assert read_mask(tmp_path / "b.png", alpha="drop").sum() == 99
    Image.fromarray(alpha[:0:-1, ::-1] * 0).convert("P").save(tmp_path / "c.png", transparency=0)
    assert not read_mask(tmp_path / "c.png", alpha="drop", palette="index").any()


def test_an_error_of_a_mask_names_the_values_that_would_be_clear(tmp_path):
    write_image(tmp_path / "a.png", np.eye(9, dtype=np.uint8) * 128)
    with pytest.raises(FileError, match="hold 0 and one of 1, 255 and 65535, or be said"):
        read_mask(tmp_path / "a.png")
    with pytest.raises(FileError, match="hold labels from 0 to 3, or be said"):
        load_both(Pair("a", np.zeros((9, 9), np.uint8), tmp_path / "a.png"), 4)


def test_an_image_of_pillow_of_1_bit_is_black_and_white_as_its_file_is(tmp_path):
    image = Image.fromarray(np.eye(20, dtype=bool))
    image.save(tmp_path / "a.png")
    tiling = {"tile_size": 32, "overlap": 0}
    maps = [ts.tiled_predict(lambda t: t[..., :1] / 255, one, tiling) for one in (image, tmp_path / "a.png")]
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_a_lossy_codec_may_tint_black_and_white(quality, tmp_path):
    mask = np.kron(rng.random((9, 12)) < 0.5, np.ones((11, 13), bool))
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "a.webp", quality=quality)
    for threshold in ("auto", 128):
        np.testing.assert_array_equal(read_mask(tmp_path / "a.webp", threshold), mask)
    labels = np.zeros((*mask.shape, 3), np.uint8)
    labels[mask, 0] = 1  # of one channel alone, near to black
    Image.fromarray(labels).save(tmp_path / "a.png")
    with pytest.raises(FileError, match="3 channels that differ"):
        read_mask(tmp_path / "a.png", 1)


@pytest.mark.parametrize("factor", [300, 70_000, 3_000_000_000, 2**40])
def test_large_numbers_of_cells_stay_as_they_are(factor, tmp_path):
    cells = CELLS[:12].astype(np.int64) * factor
    np.save(tmp_path / "a.npy", cells)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy", None), cells)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_labels_that_are_no_numbers_are_refused(value, tmp_path):
    np.save(tmp_path / "a.npy", np.where(THREE > 0, np.float32(value), 0))
    with pytest.raises(FileError, match=r"be finite|hold integers"):
        read_mask(tmp_path / "a.npy", None)


def test_booleans_of_tifffile_are_foreground(tmp_path):
    mask = THREE > 0
    tifffile.imwrite(tmp_path / "a.tif", mask)  # by itself, in a form in which 0 is white
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), mask)
    np.testing.assert_array_equal(load_pair(Pair("a", THREE, tmp_path / "a.tif"))[1], mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif", palette="colour"), ~mask)
    tifffile.imwrite(tmp_path / "b.tif", mask, metadata=None)  # which any other program may have written
    with pytest.raises(FileError, match="0 is white"):
        read_mask(tmp_path / "b.tif")


@pytest.mark.parametrize("mask", [THREE.clip(0, 1), np.uint8(255) * (THREE > 0), THREE > 0])
def test_a_mask_of_several_areas_is_no_number_of_one_cell(mask, tmp_path):
    mask = np.hstack([mask, mask])
    image = np.zeros((*mask.shape, 3), np.uint8)
    Image.fromarray(mask).save(tmp_path / "a.png")
    for given, threshold in ((mask, "auto"), (mask, 1), (tmp_path / "a.png", "auto")):
        with pytest.raises((ArrayError, FileError), match=r"number for each cell; got one value in 2 areas"):
            load_pair(Pair("a", image, given, mask_parts="instances", mask_threshold=threshold))
        one = load_pair(Pair("a", image, given, mask_parts="instances", mask_threshold=None))[1]
        assert len(np.unique(one)) == 2
        assert load_pair(Pair("a", image, given))[1].sum() == (mask > 0).sum()


def test_a_file_for_each_cell_may_be_one_file(tmp_path):
    image, cell = np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60), np.uint8)
    cell[10:30, 10:30], cell[15:20, 15:20], cell[0] = 20, 40, 7  # cytoplasm, nucleus, and what does not count
    write_image(tmp_path / "x" / "a.png", image)
    write_image(tmp_path / "y" / "a_1.png", cell)
    settings = {"layout": "segpc", "path": str(tmp_path), "mask_parts": "instances", "ignore_label": 7}
    (pair,) = pairs_of(DataConfig(**settings))
    cells = load_pair(pair)[1]
    np.testing.assert_array_equal(np.unique(cells, return_counts=True), [(0, 1), (3200, 400)])
    write_manifest(tmp_path / "m.jsonl", describe([pair], tmp_path))
    (again,) = Manifest.read(tmp_path / "m.jsonl").pairs()
    np.testing.assert_array_equal(load_pair(again)[1], cells)
