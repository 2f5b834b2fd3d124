"""The px size that a network was trained at counts: images of another are brought to it."""

import logging

import cv2
import numpy as np
import pytest
import tifffile

import tiledseg as ts
from tests.test_predict import segmenter
from tiledseg.config import EvaluateConfig, PredictConfig, PreprocessingConfig, TrainConfig
from tiledseg.data import Pair, with_pixel_size
from tiledseg.errors import ArrayError, SettingError
from tiledseg.io import PixelSize, open_image, pixel_size_from, read_image
from tiledseg.predict import check_exact, seam_report
from tiledseg.preprocess import sampling_of

SCENE = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (512, 640, 3), np.uint8).astype(np.float32), (0, 0), 12
)
SCENE = np.clip((SCENE - 127.5) * 20 + 127.5, 0, 255).astype(np.uint8)  # of 0.25 µm per px


def sized(image, px):
    return open_image(image, pixel_size=px)


def shrunk(image, factor):
    height, width = image.shape[:2]
    return cv2.resize(image, (width // factor, height // factor), interpolation=cv2.INTER_AREA)


def write_pyramid(path, levels, px):
    with tifffile.TiffWriter(path, ome=True) as writer:
        options = {"tile": (64, 64), "photometric": "rgb"}
        metadata = {"axes": "YXS", "PhysicalSizeX": px, "PhysicalSizeY": px}
        writer.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    return path


def dice(one, other):
    return 2 * np.logical_and(one, other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("trained", [0.25, 0.5, 1.0])
def test_a_scene_is_segmented_alike_at_every_px_size(trained):
    model, scores = segmenter(pixel_size=trained), []
    truth = np.where(SCENE[..., 0] >= 127.5, 255, 0).astype(np.uint8)
    for factor in (1, 2, 4):
        mask = ts.tiled_predict(model, sized(shrunk(SCENE, factor), 0.25 * factor), output="mask")
        assert mask.shape == (512 // factor, 640 // factor)
        scores.append(dice(mask > 0, shrunk(truth, factor) >= 128))
    assert min(scores) > 0.99
    assert max(scores) - min(scores) < 0.01


@pytest.mark.parametrize(
    ("px", "seen"),
    [
        (0.25, (96, 80)), (0.2549, (96, 80)), (0.5, (192, 160)), (0.125, (48, 40)), (1.0, (384, 320)),
        ((0.25, 0.5), (96, 160)), ((0.5, 0.125), (192, 40)), (PixelSize(0.1, 0.4), (38, 128)),
    ],
)  # fmt: skip
def test_an_image_is_brought_to_the_px_size_along_each_axis(px, seen):
    image, model = shrunk(SCENE, 4)[:96, :80], segmenter(pixel_size=0.25)
    assert ts.plan(model, image.shape, pixel_size=px).grid.shape == seen
    probs = ts.tiled_predict(model, sized(image, px))
    assert ts.plan(model, sized(image, px)).grid.shape == seen
    assert probs.shape == (96, 80, 1)
    assert np.abs(probs[..., 0] - image[..., 0] / 255).mean() < (0.2 if 48 in seen or 40 in seen else 0.1)


def test_the_map_of_an_enlarged_image_is_the_mean_of_the_area():
    image = SCENE[:64, :48]
    probs = ts.tiled_predict(segmenter(pixel_size=0.25), sized(image, 0.5))[..., 0]
    large = cv2.resize(image[..., 0] / np.float32(255), (96, 128), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(probs, cv2.resize(large, (48, 64), interpolation=cv2.INTER_AREA), atol=1e-5)


@pytest.mark.parametrize(("trained", "level", "seen"), [
    (0.25, 0, (512, 640)), (0.3, 0, (427, 533)), (0.5, 1, (256, 320)), (0.7, 1, (183, 229)),
    (1.0, 2, (128, 160)), (4.0, 2, (32, 40)), (0.2, 0, (640, 800)),
])  # fmt: skip
def test_the_nearest_finer_level_of_a_file_is_read(tmp_path, trained, level, seen):
    levels = [SCENE, shrunk(SCENE, 2), 255 - shrunk(SCENE, 4)]  # the last is another image, to tell it
    path, model = write_pyramid(tmp_path / "scene.ome.tif", levels, 0.25), segmenter(pixel_size=trained)
    plan = ts.plan(model, path)
    assert (plan.level, plan.grid.shape, plan.shape) == (level, seen, (512, 640))
    read = ts.tiled_predict(model, sized(levels[level], 0.25 * 2**level))[..., 0]
    found = ts.tiled_predict(model, path)[..., 0]
    assert found.shape == (512, 640)
    enlarged = cv2.resize(read, (640, 512), interpolation=cv2.INTER_LINEAR)
    assert np.abs(found - enlarged).mean() < 0.02
    with open_image(path, level=1) as image:  # the map has the size of the level, whichever is read
        assert ts.tiled_predict(model, image).shape == (256, 320, 1)
        assert ts.plan(model, image).level == level


def test_a_px_size_within_2_per_cent_is_not_resampled():
    model = segmenter(pixel_size=0.25)
    image = SCENE[:50, :40]
    for px in (0.2451, 0.2549):
        np.testing.assert_array_equal(
            ts.tiled_predict(model, sized(image, px)), ts.tiled_predict(segmenter(), image)
        )
    assert ts.plan(model, sized(image, 0.256)).is_scaled


def test_scale_follows_the_px_size():
    model = segmenter(pixel_size=0.25, scale=0.5)  # the network sees px of 0.5 µm
    assert ts.plan(model, sized(SCENE, 0.25)).grid.shape == (256, 320)
    assert ts.plan(model, sized(SCENE, 0.5)).grid.shape == (512, 640)
    assert not ts.plan(model, sized(SCENE, 0.5)).is_scaled


def test_values_in_the_unit_interval_stay_there_at_any_size():
    rng = np.random.default_rng(1)
    cut = segmenter(lambda tiles: (tiles[..., :1] > 0.5).astype(np.float32), pixel_size=0.25)
    for px in rng.uniform(0.05, 2, 8):
        image = (rng.random((67, 45, 3)) < 0.5).astype(np.uint8) * 255
        probs = ts.tiled_predict(cut, sized(image, (px, 0.3 / px)))
        assert probs.min() >= 0
        assert probs.max() <= 1
        assert (ts.tiled_predict(cut, sized(np.full_like(image, 255), px)) == 1).all()


def test_an_unknown_px_size_is_refused_wherever_it_counts(tmp_path):
    model, image = segmenter(pixel_size=0.5), SCENE[:64, :64]
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), image)
    hint = r"pixel_size.*trained at 0\.5 µm.*open_image\(image, pixel_size=0\.25\)"
    for call in (
        lambda: ts.tiled_predict(model, image),
        lambda: ts.tiled_predict(model, path),
        lambda: ts.plan(model, image.shape),
        lambda: ts.plan(model, path),
        lambda: check_exact(model, image),
        lambda: seam_report(model, image),
        lambda: ts.Evaluator().evaluate(model, [(image, image[..., 0] > 99)]),
    ):
        with pytest.raises(SettingError, match=hint):
            call()
    failed = ts.predict_files(model, path, tmp_path / "out").failed
    assert "pixel_size=0.25" in failed[0].error
    done = ts.predict_files(model, path, tmp_path / "out", PredictConfig(pixel_size=0.5)).done
    np.testing.assert_array_equal(read_image(done[0].written["mask"]) > 0, image[..., 2] >= 127.5)
    scored = ts.Evaluator(EvaluateConfig(pixel_size=0.5)).evaluate(model, [(image, image[..., 0] >= 127.5)])
    assert scored.summary()["dice"] == 1
    assert check_exact(model, sized(SCENE, 0.25)) == 0


def test_a_network_without_a_px_size_takes_any_image():
    np.testing.assert_array_equal(
        ts.tiled_predict(segmenter(), sized(SCENE[:40, :40], 7.0)),
        ts.tiled_predict(segmenter(), SCENE[:40, :40]),
    )


def test_an_array_is_opened_to_state_its_px_size():
    image = SCENE[:40, :50]
    source = open_image(image, pixel_size=(0.25, 0.5))
    assert (source.shape, source.dtype, source.levels) == (image.shape, image.dtype, ((40, 50),))
    np.testing.assert_array_equal(source[3:9, 4:8], image[3:9, 4:8])
    np.testing.assert_array_equal(open_image(image[..., 0].astype(">u2"))[:, :], image[..., 0])
    source.check_unchanged()
    with pytest.raises(ArrayError, match="out"):
        ts.tiled_predict(lambda tiles: tiles, open_image(ones := np.ones((40, 50, 1), np.float32)), out=ones)
    with pytest.raises(SettingError, match="Slice"):
        open_image(image, channels=0)
    with pytest.raises(ArrayError, match="where it is opened"):
        open_image(source, pixel_size=1)
    with pytest.raises(ArrayError, match="dtype"):
        open_image(image.astype(complex))
    with pytest.raises(ArrayError, match="shape"):
        open_image([1, 2])


def test_a_dask_array_of_the_px_size_of_the_network_gives_a_dask_array():
    array = pytest.importorskip("dask.array")
    image = array.from_array(SCENE[:128, :96], chunks=(64, 64, 3))
    lazy = ts.tiled_predict(segmenter(pixel_size=0.25), sized(image, 0.25))
    assert isinstance(lazy, array.Array)
    np.testing.assert_array_equal(lazy.compute(), ts.tiled_predict(segmenter(), SCENE[:128, :96]))


@pytest.mark.parametrize("size", [0, -1.0, float("nan"), (0.25,), "0.25", (0.25, None)])
def test_impossible_px_sizes_are_refused(size):
    with pytest.raises(SettingError, match="pixel_size"):
        open_image(SCENE[:40, :40], pixel_size=size)
    with pytest.raises(SettingError, match="pixel_size"):
        PreprocessingConfig(pixel_size=size)


def test_files_are_predicted_and_scored_at_the_px_size_that_they_state(tmp_path):
    path = write_pyramid(tmp_path / "scene.ome.tif", [SCENE, shrunk(SCENE, 2)], 0.25)
    model = segmenter(pixel_size=0.5)
    for form in ("png", "ome-tiff", "npy"):
        config = PredictConfig(mask_format=form, existing="overwrite")
        (outcome,) = ts.predict_files(model, path, tmp_path / form, config).done
        found = read_image(outcome.written["mask"])
        np.testing.assert_array_equal(found > 0, ts.tiled_predict(model, path, output="mask") > 0)
    scores = ts.Evaluator().evaluate(model, [Pair("a", path, SCENE[..., 0] >= 127.5)])
    assert scores.summary()["dice"] > 0.97


def test_training_takes_the_px_size_from_the_images(tmp_path, caplog):
    def pairs(*sizes):
        for number, px in enumerate(sizes):
            path = tmp_path / f"{number}_{px}.ome.tif"
            write_pyramid(path, [SCENE[:64, :64]], px) if px else tifffile.imwrite(path, SCENE[:64, :64])
            yield Pair(path.stem, path, SCENE[:64, :64, 0] > 99)

    plain = PreprocessingConfig()
    assert with_pixel_size(plain, list(pairs(0.25, 0.2501, 0.25))).pixel_size == 0.25
    assert with_pixel_size(plain, list(pairs(None, None))).pixel_size is None
    stated = PreprocessingConfig(pixel_size=0.5)
    assert with_pixel_size(stated, list(pairs(0.25, 1.0))).pixel_size == 0.5
    with pytest.raises(SettingError, match=r"pixel_size.*different.*0\.25 µm.*0\.5 µm.*brought"):
        with_pixel_size(plain, list(pairs(0.25, 0.5)))
    with caplog.at_level(logging.WARNING, "tiledseg"):
        assert with_pixel_size(plain, list(pairs(0.25, None))).pixel_size is None
    assert "1 of 2 images do not state their px size" in caplog.text


def test_images_of_mixed_px_sizes_are_trained_at_the_stated_one(tmp_path):
    pairs = []
    for factor in (1, 2, 4):
        image = shrunk(SCENE, factor)
        path = write_pyramid(tmp_path / f"{factor}.ome.tif", [image], 0.25 * factor)
        pairs.append(Pair(path.stem, path, image[..., 0] > 127))
    config = TrainConfig(preprocessing=PreprocessingConfig(pixel_size=0.5))
    prepared = ts.data.prepare_pairs(pairs, config.preprocessing)
    assert {pair.shape for pair in prepared} == {(256, 320, 3)}
    first = prepared[1].image
    for pair in prepared:
        assert np.abs(pair.image - first).mean() < 0.02
        assert dice(pair.mask, prepared[1].mask) > 0.97


@pytest.mark.parametrize("size", [0.0005, 500.0, (0.5, 500.0)])
def test_a_px_size_in_another_unit_is_refused(size):
    config = PreprocessingConfig(pixel_size=0.5)
    with pytest.raises(SettingError, match=r"within 500 times that of the network, 0\.5 x 0\.5 µm; got "):
        sampling_of((100, 120), config, pixel_size_from(size))
