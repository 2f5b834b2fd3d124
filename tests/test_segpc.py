"""The example on real smears: its bundle, and its script on generated images of the same layout."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import tiledseg
from tiledseg.io import write_image, write_mask
from tiledseg.samples import smear

EXAMPLE = Path(__file__).parents[1] / "examples" / "segpc"
BUNDLE = EXAMPLE / "segpc-plasma"


@pytest.mark.skipif(not BUNDLE.exists(), reason="is in the repository, not in the sdist")
def test_bundle_is_small_states_its_licence_and_predicts():
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) < 8e6
    card = (BUNDLE / "README.md").read_text(encoding="utf-8")
    assert "CC BY-NC-SA 4.0" in card
    assert "non-commercial" in " ".join(card.split())
    segmenter = tiledseg.load_model(BUNDLE)
    assert segmenter.labels == ("plasma cell",)
    # No real image may be in the repository, so this is a generated one of the same magnification.
    half = smear(480, 640, seed=1, cell_px=(125.0, 200.0))
    image, cells = (np.repeat(np.repeat(one, 2, 0), 2, 1) for one in (half.image, half.mask > 0))
    probs = tiledseg.tiled_predict(segmenter, image)
    assert probs.shape == (960, 1280, 1)
    assert probs[..., 0].mean(where=cells) > 0.5 > 0.1 > probs[..., 0].mean(where=~cells)


def script():
    spec = importlib.util.spec_from_file_location("segpc_train", EXAMPLE / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def letterboxed(folder, number):
    """Write a thumbnail and its mask as in the folder of the challenge: padded above and below."""
    one = smear(384, 512, seed=number)
    image, mask = np.zeros((512, 512, 3), np.uint8), np.zeros((512, 512), np.uint8)
    image[64:448], mask[64:448] = one.image, one.mask * 255
    write_image(folder / "images" / f"{number}.png", image)
    write_mask(folder / "masks" / f"{number}.png", mask > 0)


def test_script_prepares_pixels_as_its_network_expects_them(tmp_path, monkeypatch):
    train = script()
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "data", "--output", str(tmp_path)])
    options = train._options()
    unet = train.training(435, train.small_unet(), options)
    lite = train.training(435, train.lite_unet("lite0.safetensors"), options)
    assert unet.preprocessing.mean == (0.5,)
    assert unet.preprocessing.scale == lite.preprocessing.scale == pytest.approx(0.75)
    assert lite.preprocessing.mean == pytest.approx((127 / 255,))
    assert (lite.steps_per_epoch, lite.learning_rate) == (54, 1e-3)
    further = train.from_earlier_run(lite, "runs/one/best")
    assert (further.start_from, further.network) == ("runs/one/best", lite.network)
    assert further.learning_rate == pytest.approx(6e-4)
    whole = train.on_whole_images(further)
    assert (whole.crop_shape, whole.start_from) == ((288, 384), "runs/one/best")
    assert {one.name for one in lite.augment} - {one.name for one in whole.augment} == {
        "rotate",
        "zoom",
        "shear",
    }


def test_originals_are_added_by_name_and_no_longer_scored(tmp_path, monkeypatch, capsys):
    train = script()
    for name in ("102", "207"):
        one = smear(192, 256, seed=int(name))
        write_image(tmp_path / "full_2560x1920" / "images" / f"{name}.png", one.image)
        write_mask(tmp_path / "full_2560x1920" / "masks" / f"{name}.png", one.mask)
    argv = ["train.py", "--data", str(tmp_path), "--times", "2", "--add"]
    monkeypatch.setattr(sys, "argv", [*argv, "207"])
    pairs = train.added(tmp_path, train._options())
    assert [pair.name for pair in pairs] == ["207_original"] * 4
    assert (pairs[0].image.shape, pairs[0].mask.shape) == ((384, 512, 3), (384, 512))
    scored = []
    monkeypatch.setattr(train, "compare", lambda _, pairs, *more: scored.extend(pairs))
    train.on_originals(None, tmp_path, tmp_path, ("207",))
    assert [pair.name for pair in scored] == ["102"]
    monkeypatch.setattr(sys, "argv", [*argv, "207,208"])
    with pytest.raises(SystemExit):
        train._options()
    assert "there is no original 208" in capsys.readouterr().err


@pytest.mark.slow
def test_script_trains_scores_and_writes_a_bundle_with_its_card(tmp_path, monkeypatch, capsys):
    data, output = tmp_path / "data", tmp_path / "out"
    for place, number in enumerate((*range(100, 110), *range(200, 206), *range(300, 304))):
        letterboxed(data / "letterbox_512" / ("train" if place % 2 else "valid"), number)
    full = data / "full_2560x1920"
    one = smear(960, 1280, seed=7)
    write_image(full / "images" / "102.png", one.image)
    write_mask(full / "masks" / "102.png", one.mask)
    train = script()
    monkeypatch.setattr(
        train,
        "published",
        lambda pair, folder: train.score_map(
            np.asarray(one.mask, np.float32),
            one.mask,
            name=pair.name,
            threshold=0.5,
            borders=((512,), (512,)),
        ),
    )
    monkeypatch.setattr(
        sys, "argv", ["train.py", "--data", str(data), "--output", str(output), "--epochs", "1"]
    )
    assert train.main() == 0
    printed = capsys.readouterr().out
    assert "of other slides" in printed
    assert "published" in printed
    card = (output / "segpc-plasma" / "README.md").read_text(encoding="utf-8")
    assert "| originals of 2560 x 1920 px (1) |" in card
    segmenter = tiledseg.load_model(output / "segpc-plasma")
    assert (segmenter.tta, segmenter.preprocessing.scale) == ("flips", 0.15)
