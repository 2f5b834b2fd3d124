"""The demo: the whole path once, on generated images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tiledseg
from tiledseg.cli.demo import prepare_folder, run_demo, training_settings
from tiledseg.errors import BundleError, FileError, SettingError
from tiledseg.io import read_image, read_mask
from tiledseg.models import shipped_folder
from tiledseg.samples import smear

if TYPE_CHECKING:
    from pathlib import Path

    from tiledseg.config import TrainConfig

FILES = [
    "agreement.png",
    "bundle",
    "input.png",
    "mask.png",
    "overlay.png",
    "report.html",
    "run.json",
    "run.toml",
    "scores.csv",
    "truth.png",
]


@pytest.mark.parametrize("train", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_small_demo_writes_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, train: bool
) -> None:
    def shorter(*arguments: Any) -> TrainConfig:
        return training_settings(*arguments).changed(steps_per_epoch=3)

    monkeypatch.setattr("tiledseg.cli.demo.training_settings", shorter)
    result = run_demo(
        tmp_path / "demo", height=300, width=400, train=train, n_images=4, epochs=1, progress=False
    )
    folder = tmp_path / "demo"
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == FILES
    image, mask, truth = (
        read_image(folder / "input.png"),
        read_mask(folder / "mask.png"),
        read_mask(folder / "truth.png"),
    )
    assert image.shape == (300, 400, 3)
    assert mask.shape == truth.shape == (300, 400)
    assert truth.any()
    assert result.dice == pytest.approx(2 * np.sum(mask & truth) / (mask.sum() + truth.sum()))
    assert f"{result.dice:.3f}" in str(result)
    assert f"{result.dice:.3f}" in (folder / "report.html").read_text(encoding="utf-8")
    segmenter = tiledseg.load_model(folder / "bundle")
    again = tiledseg.tiled_predict(segmenter, image)[..., 0] >= segmenter.threshold
    assert np.mean(again != mask.astype(bool)) < 1e-3
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["dice"] == result.dice
    assert record["image"] == {"height": 300, "width": 400}
    settings = tiledseg.RunConfig.from_toml((folder / "run.toml").read_text(encoding="utf-8"))
    assert settings.train.network == segmenter.architecture
    assert settings.train.preprocessing == segmenter.preprocessing


@pytest.mark.parametrize("seed", [11, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (12, 13))])
def test_shipped_model_finds_the_cells_of_unseen_smears(seed: int) -> None:
    sample = smear(960, 1280, seed=seed, cell_px=(250.0, 400.0))
    probs = tiledseg.tiled_predict(tiledseg.load_model("demo"), sample.image)[..., 0]
    found, truth = probs >= 0.5, sample.mask.astype(bool)
    assert 2 * np.sum(found & truth) / (found.sum() + truth.sum()) > 0.8


def test_shipped_model_is_small_and_loads_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list(shipped_folder("demo").iterdir())
    assert {file.name for file in files} == {"README.md", "config.json", "graph.json", "model.safetensors"}
    assert sum(file.stat().st_size for file in files) < 1e6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # what `tiledseg demo` leaves here is no bundle
    assert tiledseg.load_model("demo").labels == ("plasma cell",)
    tiledseg.load_model("demo").save(tmp_path / "demo", overwrite=True)
    with pytest.raises(BundleError, match="must name one model"):
        tiledseg.load_model("demo")
    assert tiledseg.load_model("./demo").labels == ("plasma cell",)


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileError, match="an earlier demo"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_folder_of_an_earlier_demo_is_used_and_other_files_stay(tmp_path: Path) -> None:
    folder = prepare_folder(tmp_path / "demo")
    (folder / "mine.txt").write_text("mine", encoding="utf-8")
    assert prepare_folder(folder) == folder
    assert (folder / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="n_images"):
        run_demo(tmp_path / "demo", n_images=3)
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3])
def test_demo_finds_the_cells_of_an_unseen_smear(tmp_path: Path, seed: int) -> None:
    result = run_demo(tmp_path / "demo", seed=seed, train=True, progress=False)
    assert result.shape == (1920, 2560)
    assert result.dice > 0.85
