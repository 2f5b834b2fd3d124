"""Checks of a prediction: whether tiled equals whole, and where neighbouring tiles disagree."""

import logging

import keras
import numpy as np
import pytest

import tiledseg as ts
from tests.test_engine_keras_graph import conv
from tests.test_predict_exactness import drawn_unet
from tiledseg.config import EvaluateConfig
from tiledseg.errors import ModelError, SettingError
from tiledseg.predict import check_exact, seam_report

TILING = ts.TilingConfig(tile_size=32, overlap=8)
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)


def red(tiles):
    return tiles[..., :1]


def test_the_self_check_passes_what_is_exact_and_stops_what_is_not(caplog):
    model, image = drawn_unet(2, 3), np.random.default_rng(0).random((150, 130, 1), np.float32)
    with caplog.at_level(logging.INFO, "tiledseg"):
        assert check_exact(model, image, ts.TilingConfig(tile_size=48, overlap="exact")) < 1e-5
    assert "Tiled equals whole within" in caplog.text
    with pytest.raises(ModelError, match=r"a difference of .* Plan: approximate"):
        check_exact(model, image, ts.TilingConfig(tile_size=48))
    mask = np.zeros((150, 130), bool)
    mask[70:80, 60:70] = True
    tiling = ts.TilingConfig(tile_size=48, overlap="exact")
    assert check_exact(model, image, tiling, roi=mask) < 1e-5


def test_the_self_check_needs_no_graph():
    image = np.random.default_rng(0).random((90, 70, 3), np.float32)
    tiling = ts.TilingConfig(tile_size=32, overlap=8)
    assert check_exact(lambda tiles: tiles[..., :1], image, tiling) == 0
    with pytest.raises(ModelError, match="the receptive field of a callable is not known"):
        check_exact(lambda tiles: tiles - tiles.mean((1, 2), keepdims=True), image, tiling)


def test_the_self_check_refuses_a_fixed_size():
    inputs = keras.Input((32, 32, 1))
    model = keras.Model(inputs, conv(inputs))
    image = np.zeros((80, 80, 1), np.float32)
    with pytest.raises(SettingError, match="take tiles of a free size to be compared"):
        check_exact(model, image)
    assert check_exact(model, image[:32, :32]) == 0


def test_tiles_that_agree_have_seams_without_a_disagreement():
    report = seam_report(red, IMAGE, TILING)
    grid = ts.plan(red, IMAGE.shape, TILING).grid
    rows, columns = len(grid.y.origins), len(grid.x.origins)
    assert len(report.seams) == rows * (columns - 1) + columns * (rows - 1)
    assert report.score == 0
    assert not report.disagreement.any()


def test_the_seam_report_says_where_and_how_much_tiles_disagree():
    tiling = ts.TilingConfig(tile_size=32, overlap=8, blend="crop")
    grid = ts.plan(red, (56, 56), tiling).grid
    assert len(grid) == 4
    numbers = iter([0.0, 0.1, 0.3, 0.6])
    report = seam_report(
        lambda tiles: np.full((1, 32, 32, 1), next(numbers), np.float32),
        IMAGE[:56, :56],
        tiling,
        batch_size=1,
    )
    assert [seam.tiles for seam in report.seams] == [(0, 1), (0, 2), (1, 3), (2, 3)]
    np.testing.assert_allclose([seam.mean for seam in report.seams], [0.1, 0.3, 0.5, 0.3], rtol=1e-5)
    assert report.worst.tiles == (1, 3)
    np.testing.assert_allclose(report.disagreement[:24, 24:32], 0.1, rtol=1e-5)
    np.testing.assert_allclose(report.disagreement[24:32, 24:32], 0.5, rtol=1e-5)
    assert not report.disagreement[:24, :24].any()
    assert report.score == pytest.approx(0.3, rel=1e-5)
    assert "the worst, 0.5000, between tiles 1 and 3 at (y, x) = (24, 24)" in str(report)


def test_the_report_leaves_tiles_out_that_the_roi_does():
    calls, mask = [], np.zeros((90, 70), bool)
    mask[:10, :10] = True
    report = seam_report(lambda t: calls.append(len(t)) or red(t), IMAGE, TILING, roi=mask)
    assert sum(calls) == 1
    assert report.seams == ()
    assert str(report) == "no tiles overlap"


def test_an_evaluation_says_how_far_tiles_disagree():
    truth, evaluator = np.zeros((90, 70), np.uint8), ts.Evaluator(EvaluateConfig(tiling=TILING))
    agreeing = evaluator.evaluate(lambda tiles: tiles[..., :1] / 255, [(IMAGE, truth)])
    assert agreeing.images[0].disagreement == 0
    ramp = np.linspace(0, 1, 32, dtype=np.float32)[None, :, None, None]
    steep = evaluator.evaluate(lambda tiles: np.zeros_like(tiles[..., :1]) + ramp, [(IMAGE, truth)])
    assert steep.images[0].disagreement > 0.1
    alone = evaluator.evaluate(lambda tiles: tiles[..., :1] / 255, [(IMAGE[:32, :32], truth[:32, :32])])
    assert np.isnan(alone.images[0].disagreement)
