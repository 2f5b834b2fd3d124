"""Settings: strict, and clear about what is wrong."""

import numpy as np
import pytest

from tiledseg.config import (
    DataConfig,
    EvaluateConfig,
    PredictConfig,
    PreprocessingConfig,
    RunConfig,
    TilingConfig,
    TrainConfig,
    UNetConfig,
)
from tiledseg.errors import SettingError

ALL = [
    DataConfig, EvaluateConfig, PredictConfig, PreprocessingConfig,
    RunConfig, TilingConfig, TrainConfig, UNetConfig,
]  # fmt: skip


@pytest.mark.parametrize("kind", ALL)
def test_settings_come_back_from_json(kind):
    assert kind.from_json(kind().to_json()) == kind()


@pytest.mark.parametrize("kind", ALL)
def test_an_unknown_key_is_refused_everywhere(kind):
    with pytest.raises(SettingError, match=f"`no_such` is not a setting of {kind.__name__}"):
        kind(no_such=1)


def test_sizes_may_be_pairs_text_or_numpys():
    assert TilingConfig(tile_size="256x384", overlap=0).tile_shape == (256, 384)
    assert TilingConfig(tile_size=[64, 32], overlap=0).tile_shape == (64, 32)
    assert TilingConfig(tile_size=np.int64(64), overlap=np.uint8(8)).overlap_px == (8, 8)
    assert TilingConfig(tile_size=(100, 50), overlap=0.5).overlap_px == (50, 25)
    assert TilingConfig.from_toml("tile_size = [64, 32]\noverlap = 0.5").overlap_px == (32, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlp": 3}, "Did you mean `overlap`"),
        (
            {"overlap": 512},
            r"`overlap` must be in \[0, tile\) with tile=512 along y; got 512. Use at most 511",
        ),
        ({"overlap": (0, 512)}, "along x"),
        ({"overlap": -1}, "`TilingConfig.overlap` must be greater than or equal to 0; got -1"),
        ({"overlap": 1.0}, "less than 1"),
        ({"overlap": float("nan")}, "`TilingConfig.overlap`"),
        ({"overlap": True}, "`TilingConfig.overlap`"),
        ({"overlap": "64.5"}, "`TilingConfig.overlap`"),
        ({"overlap": None}, "`TilingConfig.overlap`"),
        ({"tile_size": 0}, "`TilingConfig.tile_size`"),
        ({"tile_size": True}, "`TilingConfig.tile_size`"),
        ({"tile_size": "64"}, "`TilingConfig.tile_size`"),
        ({"tile_size": "64x64x3"}, "`TilingConfig.tile_size`"),
        ({"tile_size": 64.0}, "`TilingConfig.tile_size`"),
        ({"tile_size": (1, 2, 3)}, "`TilingConfig.tile_size`"),
        ({"blend": "gauss"}, "'hann' or 'gaussian'; got gauss"),
        ({"pad_value": float("inf")}, "`TilingConfig.pad_value` must be a finite number"),
        ({"tile_size": 64, "overlap": 32, "alignment": 48}, "leave a step of at least alignment=48"),
    ],
)
def test_tilings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        TilingConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_kernel": 4}, "`base_kernel` must be odd; got 4. Use 3 or 5"),
        ({"input_shape": (500, 512, 3)}, "multiple of 128 along y with 8 levels; got 500. Use 384 or 512"),
        ({"levels": 13}, "`UNetConfig.levels`"),
        ({"dropout": 0.2}, "stay under 1 at the deepest of 8 levels"),
        ({"final_activation": "softmax"}, "not be softmax with one class"),
        ({"norm": "instance"}, "`UNetConfig.norm`"),
        ({"classes": 0}, "`UNetConfig.classes`"),
        ({"activation": "__import__('os').system('true')"}, "`UNetConfig.activation`"),
    ],
)
def test_networks_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        UNetConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_size": 100}, "multiple of 16 px along y; got 100. Use 96 or 112"),
        ({"network": UNetConfig(), "crop_size": 256}, "be 512 px along y, the network's input"),
        ({"preprocessing": PreprocessingConfig(channels=1)}, "be 3, the network's input channels"),
        ({"labels": ("a", "b")}, "name 1 classes"),
        ({"learning_rate": 0.0}, "`TrainConfig.learning_rate`"),
        ({"network": {"levels": "many"}}, "`UNetConfig.levels`"),
    ],
)
def test_trainings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        TrainConfig(**settings)


def test_part_of_nested_settings_goes_over_the_fields_default():
    assert TrainConfig(network={"levels": 4}).network == TrainConfig().network.changed(levels=4)
    run = RunConfig.from_toml("[train.network]\nlevels = 4\n[train.preprocessing]\nscale = 0.5")
    assert run.train.network.base_kernel == TrainConfig().network.base_kernel
    assert (run.train.network.levels, run.train.preprocessing.scale) == (4, 0.5)


def test_settings_never_change_and_copies_are_checked():
    config = TilingConfig()
    with pytest.raises(
        SettingError, match=r"`TilingConfig.overlap` must stay as it was made; got 3.*settings\.changed"
    ):
        config.overlap = 3
    assert config.changed(overlap=3).overlap == 3
    with pytest.raises(SettingError, match="`overlap`"):
        config.changed(overlap=512)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a =", "not valid TOML"),
        ("overlp = 3", "Did you mean `overlap`"),
        ("tile_size = 'x'", "`TilingConfig.tile_size`"),
        ("overlap = nan", "`TilingConfig.overlap`"),
        ("tile_size = 1979-05-27", "`TilingConfig.tile_size`"),
    ],
)
def test_files_that_cannot_be_used_are_refused(text, message):
    with pytest.raises(SettingError, match=message):
        TilingConfig.from_toml(text)


def test_text_that_is_no_json_or_too_long_is_refused():
    with pytest.raises(SettingError, match="not valid JSON"):
        TilingConfig.from_json("{")
    with pytest.raises(SettingError, match="at most 100000 characters"):
        TilingConfig.from_json(" " * 2_000_000)
    with pytest.raises(SettingError, match="at most 100000 characters"):
        TilingConfig.from_toml(" " * 2_000_000)
