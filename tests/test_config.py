"""Settings: strict, and clear about what is wrong."""

import compileall
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiledseg.config
from tiledseg.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    FlipConfig,
    PredictConfig,
    PreprocessingConfig,
    RotateConfig,
    RunConfig,
    TilingConfig,
    TrainConfig,
    UNetConfig,
    meanings_of,
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


def test_choices_of_several_wrong_entries_are_listed_once():
    with pytest.raises(SettingError, match="must be 'geojson', 'coco' or 'roi'; got objects"):
        ExportConfig(write=("objects", "labels"))


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
        ({"overlap": True}, "`overlap`"),
        ({"overlap": "64.5"}, "`overlap`"),
        ({"overlap": None}, "`overlap`"),
        ({"tile_size": 0}, "`TilingConfig.tile_size`"),
        ({"tile_size": True}, "`TilingConfig.tile_size`"),
        ({"tile_size": "64"}, "`TilingConfig.tile_size`"),
        ({"tile_size": "64x64x3"}, "`TilingConfig.tile_size`"),
        ({"tile_size": 64.0}, "`TilingConfig.tile_size`"),
        ({"tile_size": (1, 2, 3)}, "`TilingConfig.tile_size`"),
        ({"tile_size": (64,)}, r"`TilingConfig.tile_size` must have at least 2 values; got \(64,\)"),
        ({"tile_size": 10**400}, "`TilingConfig.tile_size` must have at most 63 bits; got a number of 1329"),
        ({"tile_size": (64, 10**5000)}, "`TilingConfig.tile_size`.*Give a smaller number"),
        ({"blend": "gauss"}, "'hann' or 'gaussian'; got gauss"),
        ({"pad_value": float("inf")}, "`TilingConfig.pad_value` must be a finite number"),
        ({"pad_value": 1e39}, r"`TilingConfig.pad_value` must be less than .*Use at most 3.4e\+38"),
        ({"tile_size": 64, "overlap": 32, "alignment": 48}, "leave a step of at least alignment=48"),
    ],
)
def test_impossible_tilings_are_refused(settings, message):
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
def test_impossible_networks_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        UNetConfig(**settings)


def test_pixels_are_those_that_pretrained_weights_expect():
    network = {"name": "encoder_unet", "encoder": "efficientnetv2-s", "encoder_weights": "imagenet"}
    wanted = TrainConfig(network=network).network.preprocessing
    assert (wanted.mean, wanted.std) == ((128 / 255,), (128 / 255,))
    with pytest.raises(SettingError, match="which the network's pretrained weights expect"):
        TrainConfig(network=network, preprocessing=PreprocessingConfig(mean=(0.1,)))
    with pytest.raises(SettingError, match="be text; got int"):
        TrainConfig.from_json(3)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "multires_unet", "base_filters": 2}, "6 filters or more with alpha="),
        (
            {"name": "unet3plus", "classes": 2, "classification_guided": True},
            "stand with final_activation sigmoid; got final_activation=None with 2 classes",
        ),
        ({"name": "resenc_unet", "blocks": (1, 2)}, "one number for each of"),
        ({"name": "swin_unet", "heads": (3, 6)}, "as many as `depths`"),
        ({"name": "swin_unet", "heads": (3, 6, 12, 7)}, r"divide the \d+ channels of level 3; got 7"),
        ({"name": "trans_unet", "input_shape": (None, None, 3)}, "have a height and a width"),
        ({"name": "trans_unet", "heads": 7}, "divide the 768 channels"),
    ],
)
def test_parts_of_a_network_that_do_not_fit_together_are_refused(network, message):
    with pytest.raises(SettingError, match=message):
        RunConfig(train={"network": network})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_size": 100}, "multiple of 16 px along y; got 100. Use 96 or 112"),
        ({"network": UNetConfig(), "crop_size": 256}, "be 512 px along y, the network's input"),
        ({"preprocessing": PreprocessingConfig(channels=1)}, "be 3, the network's input channels"),
        ({"labels": ("a", "b")}, "as many classes as the network has, 1"),
        ({"learning_rate": 0.0}, "`TrainConfig.learning_rate`"),
        ({"network": {"levels": "many"}}, "`UNetConfig.levels`"),
    ],
)
def test_impossible_trainings_are_refused(settings, message):
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
        ("tile_size = 'x'", "`tile_size`"),
        ("overlap = nan", "`overlap`"),
        ("tile_size = 1979-05-27", "`tile_size`"),
        (f"tile_size = {'9' * 5000}", "not valid TOML"),
    ],
)
def test_files_that_cannot_be_used_are_refused(text, message):
    with pytest.raises(SettingError, match=message):
        TilingConfig.from_toml(text)


def test_text_that_is_no_json_or_too_long_is_refused():
    with pytest.raises(SettingError, match="not valid JSON"):
        TilingConfig.from_json("{")
    with pytest.raises(SettingError, match="the key overlap occurs twice"):
        TilingConfig.from_json('{"overlap": 3, "overlap": 4}')
    assert TilingConfig.from_toml("\ufeffoverlap = 3").overlap == 3  # as Windows writes it
    with pytest.raises(SettingError, match="at most 100000 characters"):
        TilingConfig.from_json(" " * 2_000_000)
    with pytest.raises(SettingError, match="at most 100000 characters"):
        TilingConfig.from_toml(" " * 2_000_000)


# TOML


def everything() -> RunConfig:
    """Make settings with tables in tables, lists of tables, and no value where there may be none."""
    return RunConfig(
        data=DataConfig(layout="segpc", path='a "b"\\c\n\'é', mask_parts="classes", class_values=(7,)),
        train=TrainConfig(
            augment=(FlipConfig(), RotateConfig(angles=(90.0, 180.0)), FlipConfig(horizontal=0.1)),
            labels=("plasma cell",),
            patience=None,
            tiling=TilingConfig(tile_size=(256, 512), overlap=0.25),
        ),
        valid_data=DataConfig(mask_threshold=None),
    )


@pytest.mark.parametrize("settings", [RunConfig(), everything()])
def test_toml_gives_the_settings_back(settings: RunConfig) -> None:
    text = settings.to_toml()
    assert RunConfig.from_toml(text) == settings
    assert RunConfig.from_toml(text).to_toml() == text


@pytest.mark.parametrize("model", [RunConfig, TrainConfig, DataConfig])
def test_every_setting_in_a_file_says_what_it_means(model: type[Config]) -> None:
    lines = model().to_toml().splitlines()
    assert '"none" stands for no value' in lines[0]
    for above, line in itertools.pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert above.startswith("# "), line
    assert max(map(len, lines)) < 110


def test_tables_stand_right_below_their_comment() -> None:
    text = everything().to_toml()
    assert "\n# How the network is built and trained.\n[train]\n" in text
    assert text.count("[[train.augment]]") == 3


def test_none_in_a_file_means_no_value_only_where_there_may_be_none() -> None:
    text = '[train]\npatience = "none"\n[train.network]\nnorm = "none"\ninput_shape = ["none", 64, 3]\n'
    train = RunConfig.from_toml(text).train
    assert train.patience is None
    assert train.network.norm == "none"
    assert train.network.input_shape == (None, 64, 3)
    with pytest.raises(SettingError, match="epochs"):
        RunConfig.from_toml('[train]\nepochs = "none"\n')


@pytest.mark.parametrize("text", ["a." * 30000 + "b=1", "[" + "a." * 30000 + "]", "x={" + "a . " * 20000])
def test_a_key_of_many_dots_is_refused_at_once(text: str) -> None:
    with pytest.raises(SettingError, match="at most 16 dots"):
        RunConfig.from_toml(text)


def test_every_field_of_every_settings_class_has_a_meaning() -> None:
    named = [getattr(tiledseg.config, name) for name in tiledseg.config.__all__]
    models = [one for one in named if isinstance(one, type) and issubclass(one, Config)]
    assert len(models) > 10
    for model in models:
        meanings = meanings_of(model)
        assert [name for name in model.model_fields if not meanings[name]] == [], model


@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_fields_have_their_meaning_where_docstrings_are_stripped(flag: str) -> None:
    probe = "from tiledseg.config import StatsConfig; print(StatsConfig().to_toml())"
    done = subprocess.run([sys.executable, flag, "-c", probe], capture_output=True, text=True, check=True)
    assert "# Most images on the contact sheet" in done.stdout


def test_settings_are_written_where_there_is_no_source(tmp_path: Path) -> None:
    shutil.copytree(Path(tiledseg.__file__).parent, tmp_path / "tiledseg")
    compileall.compile_dir(tmp_path, quiet=2, legacy=True)
    for source in tmp_path.rglob("*.py"):
        source.unlink()
    probe = "from tiledseg.config import StatsConfig as S; print(S.from_toml(S().to_toml()) == S())"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "`TrainConfig.epochs` must be greater than or equal to 1; got 0. Use at least 1."),
        ({"epochs": 2.5}, "`TrainConfig.epochs` must be a valid integer; got 2.5. Give a whole number."),
        ({"learning_rate": float("nan")}, "got nan. Give a number that is neither infinite nor NaN."),
        ({"runs_dir": 3}, "`TrainConfig.runs_dir` must be a valid string; got 3. Give text."),
        ({"precision": "f8"}, "got f8. Use one of these."),
        (
            {"memory_mb": "8"},
            "`TrainConfig.memory_mb` must be a valid integer; got the text '8'. Give a whole number.",
        ),
    ],
)
def test_every_error_says_how_to_fix_it(given, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        TrainConfig(**given)


def test_what_is_missing_is_named():
    with pytest.raises(SettingError, match=r"`TileOrigin.image` must be given; got nothing\. Give it"):
        tiledseg.config.TileOrigin(digest="sha256:" + "0" * 64, height=1, width=1, scale=1.0, y=0, x=0)


def test_paths_are_settings_as_text(tmp_path):
    made = DataConfig(images=tmp_path / "images", masks=str(tmp_path / "masks"))
    assert made.images == str(tmp_path / "images")


def test_something_else_than_nested_settings_is_named_by_its_field():
    with pytest.raises(SettingError, match=r"EvaluateConfig\.tiling.*got nan.*TilingConfig\(\.\.\.\)"):
        EvaluateConfig(tiling=float("nan"))


def test_settings_that_are_chosen_by_name_take_the_name_alone() -> None:
    for name, kind in {
        "network": "unet",
        "loss": "tversky",
        "optimizer": "sgd",
        "schedule": "cosine",
    }.items():
        assert TrainConfig(**{name: kind}) == TrainConfig(**{name: {"name": kind}})
    assert TrainConfig(augment=("flip",)) == TrainConfig(augment=({"name": "flip"},))
    assert TrainConfig.from_toml('network = "unet3plus"').network.name == "unet3plus"
    with pytest.raises(SettingError, match=r"network\.name.*got unett.*Did you mean `unet`"):
        TrainConfig(network="unett")


def test_a_wrong_choice_shows_those_of_all_branches_once() -> None:
    with pytest.raises(
        SettingError, match=r"'efficientnet-b7', 'resnet50'.* or '\w+'; got resnet5\..*`resnet50`"
    ):
        TrainConfig(network={"name": "encoder_unet", "encoder": "resnet5"})


@pytest.mark.parametrize(
    ("config", "name", "value", "text"),
    [
        (TilingConfig, "tile_size", "abc", "'auto' or a whole number"),
        (TilingConfig, "tile_size", 3.5, "'auto' or a whole number"),
        (EvaluateConfig, "threshold", "vlid", "'valid' or a number; got vlid. Did you mean `valid`"),
        (TrainConfig, "augment", "al", "'founding' or 'none'; got al"),
    ],
)
def test_a_number_is_named_where_it_is_allowed_beside_names(config, name, value, text):
    with pytest.raises(SettingError, match=re.escape(text)):
        config(**{name: value})


def test_numbers_of_numpy_are_numbers():
    tiling = TilingConfig(tile_size=np.array([256, 512]), overlap=np.float32(0.25))
    assert (tiling.tile_size, tiling.overlap) == ((256, 512), 0.25)
    assert PredictConfig(threshold=np.float64(0.5), recursive=np.True_).recursive is True
    data = DataConfig(mask_threshold=np.uint8(128), ignore_label=np.int64(7), page=np.uint16(1))
    assert data == DataConfig(mask_threshold=128, ignore_label=7, page=1)
    with pytest.raises(SettingError, match="whole number"):
        DataConfig(page=np.float32(1.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 3", "`epochs` is not a setting here. Write it below [train]."),
        ("[train]\nlevels = 3", "[train]: `levels` is not a setting here. Write it below [train.network]."),
        ("train = 3", "`train` must be a table of settings; got 3. Write it as [train]."),
        (
            "[predict]\ntiling = 5",
            "[predict]: `tiling` must be a table of settings; got 5. Write it as [predict.tiling].",
        ),
        (
            '[train]\nepochs = "3"',
            "[train]: `epochs` must be a valid integer; got the text '3'. Give a whole number.",
        ),
        (
            "[train.optimizer]\nlr = 0.1",
            "[train.optimizer]: `lr` is not a setting here. Known: beta_1, beta_2, name.",
        ),
        (
            "[train.preprocessing]\npercentiles = [99.0, 1.0]",
            "`percentiles` must be two, the first below the second; got [99.0, 1.0]. Try [1.0, 99.0].",
        ),
        (
            "[train]\nschedule = 3",
            'got 3. Give its name, as in "constant", or a table with its name and settings.',
        ),
        (
            "[predict.tiling]\noverlap = 512",
            "[predict.tiling]: `overlap` must be in [0, tile) with tile=512 along y; got 512. Use at most",
        ),
        (
            "[train]\nepochs = 0\n[train.optimizer]\nlr = 1\n[predict]\nthreshold = 4",
            (
                "got 0. Use at least 1. [train.optimizer]: `lr` is not a setting here. Known: beta_1, "
                "beta_2, name. [predict]: `threshold` must be less than 1; got 4."
            ),
        ),
        ("[predict.objects]\nmin_area = 9\nmax_area = 3", 'got 3.0. Use a larger one, or "none".'),
        ('[train_data]\nlayout = "list"', '[train_data]: `path` must be given with layout=list; got "none".'),
        ('[train."a\\\\1{x}"]\nname = "unet"', "[train]: `a\\1{x}` is not a setting here. Known"),
    ],
)
def test_a_message_about_a_file_speaks_of_its_tables(text, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        RunConfig.from_toml(text)


def test_objects_are_cut_as_the_mask_also_after_a_round_trip():
    config = RunConfig(predict={"threshold": 0.3, "objects": {"min_area": 5}})
    for again in (RunConfig.from_toml(config.to_toml()), RunConfig.from_json(config.to_json())):
        assert again == config
        assert (again.predict.threshold, again.predict.objects.threshold) == (0.3, None)
