"""Statistics of a dataset, in numbers and pictures."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tiledseg.cli import main
from tiledseg.config import Record, RunConfig
from tiledseg.data import Manifest, statistics_of
from tiledseg.errors import SettingError
from tiledseg.io import read_image, write_image, write_mask
from tiledseg.report import contact_sheet, mask_row, write_split_chart


def record(name, split, foreground, shape=(10, 20), group=None):
    return Record(
        name=name,
        image=name,
        masks=(name,),
        group=group or name,
        split=split,
        height=shape[0],
        width=shape[1],
        foreground=foreground,
        digest=f"sha256:{ord(name[0]):064x}",
        mask_digests=(f"sha256:{0:064x}",),
    )


RECORDS = [
    record("a", "valid", 0.0),
    record("b", "train", 0.5),
    record("c", "train", 0.1, shape=(20, 30), group="b"),
    record("d", "train", 0.0),
]


def test_classes_have_shares_and_splits_their_usual_order():
    two = RECORDS[0].changed(split="test", class_shares=(0.25, 0.5), foreground=0.75)
    found = statistics_of([two, *RECORDS])
    assert [one.split for one in found.splits] == ["train", "valid", "test"]
    assert found.splits[2].class_shares == (0.25, 0.5)
    assert found.total.class_shares == pytest.approx(((50 + 100 + 60) / 1400, 100 / 1400))
    assert "classes of test: 1: 25.00%, 2: 50.00%" in str(found)
    assert statistics_of(RECORDS).total.class_shares == ()


def test_statistics_are_those_worked_out_by_hand(tmp_path):
    found = statistics_of(RECORDS)
    train, valid = found.splits
    assert (train.split, train.images, train.groups, train.pixels, train.empty) == ("train", 3, 2, 1000, 1)
    assert train.foreground == pytest.approx((0.5 * 200 + 0.1 * 600) / 1000)
    assert train.foreground_mean == pytest.approx(0.2)
    assert (train.foreground_least, train.foreground_most) == (0.0, 0.5)
    assert list(train.sizes.items()) == [("10x20", 2), ("20x30", 1)]
    assert (valid.split, valid.images, valid.empty) == ("valid", 1, 1)
    assert (found.total.images, found.total.pixels) == (4, 1200)
    found.to_json(tmp_path / "s.json")
    again = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert again["splits"][0]["sizes"] == {"10x20": 2, "20x30": 1}
    found.to_csv(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["images"]) for row in rows] == [("train", "3"), ("valid", "1"), ("all", "4")]
    assert rows[0]["sizes"] == "2 of 10x20, 1 of 20x30"
    assert "2 of 10x20, 1 of 20x30" in str(found)


def row(name, shape, *, labels=1, thumb_px=64):
    image = np.full((*shape, 3), (200, 40, 10), np.uint8)
    mask = np.zeros(shape, np.uint8)
    mask[: shape[0] // 2] = labels
    return mask_row(name, "a note", image, mask, thumb_px=thumb_px)


def test_a_sheet_shows_image_mask_and_both():
    sheet = contact_sheet("All", [row("a", (64, 32)), row("b", (16, 128))], columns=2)
    pictures = row("a", (64, 32)).pictures
    assert [picture.pixels.shape for picture in pictures] == [(64, 32, 3)] * 3
    assert (pictures[0].pixels == (200, 40, 10)).all()
    assert (pictures[1].pixels[:32] == (230, 159, 0)).all()
    assert (pictures[1].pixels[32:] == (235, 235, 235)).all()
    assert (pictures[2].pixels[33:] == (200, 40, 10)).all()
    for picture in pictures:
        found = cv2.matchTemplate(sheet, picture.pixels, cv2.TM_SQDIFF)
        assert found.min() <= 1.0
    assert (sheet[:, :10] == 255).all()
    assert (sheet[:30] < 200).any()  # the title


def test_a_sheet_takes_any_name_and_one_column_too_many():
    one = contact_sheet("Größe\n", [row("ж" * 300, (40, 40))], columns=20)
    assert one.shape[1] < 3 * 64 + 60
    with pytest.raises(SettingError, match="same number of pictures"):
        contact_sheet("none", [])


def test_floats_are_shown_from_least_to_largest():
    image = np.linspace(-5, 5, 64, dtype=np.float32).reshape(8, 8)
    picture = mask_row("a", "", image, np.zeros((8, 8), np.uint8), thumb_px=32).pictures[0].pixels
    assert (picture[0, 0, 0], picture[-1, -1, 0]) == (0, 255)
    flat = mask_row("a", "", image * 0, np.zeros((8, 8), np.uint8), thumb_px=32)
    assert (flat.pictures[0].pixels == 0).all()


def test_the_chart_is_a_picture(tmp_path):
    write_split_chart(tmp_path / "c.png", statistics_of(RECORDS), RECORDS)
    chart = read_image(tmp_path / "c.png", alpha="drop")
    assert chart.shape[0] > 300
    assert (chart == (0, 114, 178)).all(axis=2).any()  # bars


def test_a_missing_matplotlib_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingError, match=r'pip install "tiledseg\[plot\]"'):
        write_split_chart(tmp_path / "c.png", statistics_of(RECORDS), RECORDS)
    assert not (tmp_path / "c.png").exists()


# The commands


@pytest.fixture
def dataset(tmp_path):
    """Write six pairs, of three slides."""
    rng = np.random.default_rng(0)
    for slide in range(3):
        for number in range(2):
            name = f"slide{slide}_{number}.png"
            write_image(tmp_path / "images" / name, rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
            mask = np.zeros((40, 60), np.uint8)
            mask[: 5 + 5 * slide] = 1
            write_mask(tmp_path / "masks" / name, mask)
    return tmp_path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    written = capsys.readouterr()
    return code, written.out, written.err


def test_split_stats_and_tile(capsys, dataset):
    data = ["--images", dataset / "images", "--masks", dataset / "masks"]
    how = ["--group-by", "regex", "--group-regex", r"slide(\d)", "--shares", "2,1,1"]
    manifest = dataset / "all.jsonl"
    code, out, _ = run(capsys, "split", *data, *how, "--manifest", manifest, "--quiet")
    assert code == 0
    assert out.splitlines()[-2].split()[:3] == ["all", "6", "3"]
    assert out.splitlines()[-1] == "masks: 6 of foreground (value 255)"
    assert {one.split for one in Manifest.read(manifest).records} == {"train", "valid", "test"}
    written = manifest.read_bytes()
    assert run(capsys, "split", *data, *how, "--manifest", manifest, "--quiet")[:2] == (0, out)
    other = [*how[:-1], "1,2,1"]
    code, _, err = run(capsys, "split", *data, *other, "--manifest", manifest, "--quiet")
    assert code == 2
    assert "hold these records already" in " ".join(err.split())
    assert manifest.read_bytes() == written

    pytest.importorskip("matplotlib")
    source = ["--layout", "manifest", "--path", manifest]
    code, again, _ = run(capsys, "stats", *source, "--output", dataset / "stats", "--quiet")
    assert (code, again) == (0, out)
    assert sorted(path.name for path in (dataset / "stats").iterdir()) == [
        "run.toml",
        "sheet_test.png",
        "sheet_train.png",
        "sheet_valid.png",
        "splits.png",
        "statistics.csv",
        "statistics.json",
    ]
    how = [one.replace("--", "--split-") for one in how]
    code, straight, _ = run(capsys, "stats", *data, *how, "--quiet")
    assert (code, straight) == (0, out)

    small = ["--tile-size", "20x30", "--output", dataset / "tiles", "--quiet"]
    code, printed, _ = run(capsys, "tile", *source, *small)
    assert code == 0
    assert printed.startswith("24 tiles (8 ")
    code, _, err = run(capsys, "tile", *source, *small)
    assert code == 2
    assert "must be a new or empty folder" in err


def test_data_is_split_only_when_asked(capsys, dataset):
    data = ["--images", dataset / "images", "--masks", dataset / "masks", "--quiet"]
    code, out, _ = run(capsys, "stats", *data, "--output", dataset / "stats", "--no-chart")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[2:-1]] == [["all", "6"]]
    saved = RunConfig.from_toml((dataset / "stats" / "run.toml").read_text(encoding="utf-8"))
    assert saved.split is None
    assert (dataset / "stats" / "sheet.png").exists()
    assert run(capsys, "split", *data, "--manifest", dataset / "m.jsonl", "--shares", "2,1,1")[0] == 0
    source = ["--layout", "manifest", "--path", dataset / "m.jsonl", "--split-seed", "1"]
    code, _, err = run(capsys, "stats", *source)
    assert (code, "manifest is split already" in err) == (2, True)


def test_a_settings_file_gives_the_same_result(capsys, dataset, monkeypatch):
    monkeypatch.chdir(dataset)
    (dataset / "run.toml").write_text(
        '[split]\nnames = ["train", "valid"]\nshares = [2, 1]\ngroup_by = "regex"\n'
        'group_regex = "slide(.)"\nmanifest = "lists/all.jsonl"\n[tiles]\ntile_size = [40, 60]\n',
        encoding="utf-8",
    )
    assert run(capsys, "split", "--config", "run.toml", "--quiet")[0] == 0
    assert Manifest.read("lists/all.jsonl").splits == ("train", "valid")
    code, out, _ = run(capsys, "tile", "--config", "run.toml", "--quiet")
    assert (code, out) == (0, "6 tiles (4 train, 2 valid)\n")
    assert Manifest.read("tiles/manifest.jsonl").changed() == []
    saved = RunConfig.from_toml(Path("tiles/run.toml").read_text(encoding="utf-8"))
    assert (saved.tiles.tile_size, saved.split.group_regex) == ((40, 60), "slide(.)")
    assert RunConfig.from_toml(Path("lists/all.toml").read_text(encoding="utf-8")).split == saved.split
    before = Path("run.toml").read_text(encoding="utf-8")
    assert run(capsys, "split", "--config", "run.toml", "--manifest", "run.jsonl", "--quiet")[0] == 0
    assert Path("run.toml").read_text(encoding="utf-8") == before  # the user's own


def test_nothing_is_read_if_the_output_folder_is_not_empty(capsys, dataset):
    (dataset / "stats").mkdir()
    (dataset / "stats" / "mine").write_text("x", encoding="utf-8")
    for command in ("stats", "tile"):
        code, out, err = run(capsys, command, "--images", "nowhere", "--output", dataset / "stats")
        assert (code, out) == (2, "")
        assert "mine in it" in err


def test_statistics_show_the_splits_of_a_settings_file(capsys, dataset, tmp_path):
    pytest.importorskip("matplotlib")
    parts = {"images": str(dataset / "images"), "masks": str(dataset / "masks"), "mask_threshold": 1}
    run_file = tmp_path / "run.toml"
    run_file.write_text(RunConfig(train_data=parts, test_data=parts).to_toml(), encoding="utf-8")
    code, out, _ = run(capsys, "stats", "--config", run_file, "--output", tmp_path / "stats", "--quiet")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["train", "test", "all"]
    assert {"sheet_train.png", "sheet_test.png"} <= {path.name for path in (tmp_path / "stats").iterdir()}
