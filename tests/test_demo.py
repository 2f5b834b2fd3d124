"""The demo: everything once, on images that it makes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import tiledseg
from tiledseg.demo import prepare_folder, run_demo
from tiledseg.errors import FileError, SettingError
from tiledseg.io import read_image, read_mask

if TYPE_CHECKING:
    from pathlib import Path

FILES = ["agreement.png", "bundle", "input.png", "mask.png", "overlay.png", "report.html", "truth.png"]


def test_small_demo_writes_everything(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "demo", height=300, width=400, n_images=4, epochs=1, progress=False)
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


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileError, match="an earlier demo's"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_folder_of_an_earlier_demo_is_taken_and_nothing_else_touched(tmp_path: Path) -> None:
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
def test_demo_finds_the_cells_of_a_smear_it_never_saw(tmp_path: Path, seed: int) -> None:
    result = run_demo(tmp_path / "demo", seed=seed, progress=False)
    assert result.shape == (1920, 2560)
    assert result.dice > 0.85
