"""Manifests: what they hold, and what is refused."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from tests.test_data_split import record
from tests.test_data_survey import folders, write, write_pair
from tiledseg.config import DataConfig, SplitConfig
from tiledseg.data import (
    Manifest,
    Pair,
    describe,
    load_pair,
    manifest,
    pairs_of,
    split_records,
    write_manifest,
)
from tiledseg.errors import FileError, SettingError, TiledSegError


@pytest.fixture
def dataset(tmp_path):
    """Write ten pairs, all different."""
    for number in range(10):
        write_pair(tmp_path / "data", f"s{number}", value=20 * number)
    return tmp_path / "data"


def test_a_manifest_reproduces_the_split_anywhere(dataset, tmp_path):
    records = split_records(describe(pairs_of(folders(dataset)), dataset), SplitConfig(shares=(6, 2, 2)))
    write_manifest(dataset / "split.jsonl", records)
    lines = [json.loads(line) for line in (dataset / "split.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["image"] for line in lines] == [f"images/s{n}.png" for n in range(10)]
    assert {"name", "image", "masks", "group", "split", "height", "width", "foreground", "digest"} <= set(
        lines[0]
    )
    assert lines[0]["foreground"] == 5 / 40
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(dataset, moved)
    shutil.rmtree(dataset)
    manifest = Manifest.read(moved / "split.jsonl")
    assert set(manifest.splits) == {"train", "valid", "test"}
    assert list(manifest.records) == records
    again = split_records(describe(pairs_of(folders(moved)), moved), SplitConfig(shares=(6, 2, 2)))
    assert again == records
    pairs = pairs_of(DataConfig(layout="manifest", path=str(moved / "split.jsonl"), split="valid"))
    assert [pair.name for pair in pairs] == [one.name for one in records if one.split == "valid"]
    assert load_pair(pairs[0])[1].sum() == 250


def test_a_changed_file_is_named(dataset):
    write_manifest(dataset / "all.jsonl", describe(pairs_of(folders(dataset)), dataset))
    write(dataset / "images" / "s3.png", np.full((40, 50, 3), 7, np.uint8))
    (dataset / "masks" / "s4.png").unlink()
    config = DataConfig(layout="manifest", path=str(dataset / "all.jsonl"))
    with pytest.raises(FileError, match=r"2 problems beside 8 .*unreadable: s4 .*changed: s3 "):
        pairs_of(config)
    assert len(pairs_of(config.changed(problems="skip"))) == 8
    with pytest.raises(FileError, match="1 problem beside 9"):
        pairs_of(config.changed(verify=False))


def test_an_unknown_split_names_the_nearest(dataset):
    write_manifest(
        dataset / "all.jsonl",
        split_records(describe(pairs_of(folders(dataset)), dataset), SplitConfig(shares=(6, 2, 2))),
    )
    with pytest.raises(FileError, match="Did you mean `valid`"):
        pairs_of(DataConfig(layout="manifest", path=str(dataset / "all.jsonl"), split="vaild"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"image": "./images/a.png"}, "image"),
        ({"group": "a"}, "group"),
        ({"digest": f"sha256:{1:064x}"}, "digest"),
    ],
)
def test_splits_that_overlap_are_refused(tmp_path, changes, what):
    records = [record("a", digest=1, split="train"), record("b", digest=2, split="test").changed(**changes)]
    with pytest.raises(FileError, match=f"`{what}` must occur in one split; a is in train, b is in test"):
        write_manifest(tmp_path / "m.jsonl", records)
    assert not (tmp_path / "m.jsonl").exists()
    (tmp_path / "m.jsonl").write_text("\n".join(one.model_dump_json() for one in records), encoding="utf-8")
    with pytest.raises(FileError, match="one split"):
        Manifest.read(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{}", "line 1: .*name"),
        ("x", "not valid JSON"),
        (record("a").changed(name="b").model_dump_json().replace("images/", "/abs/"), "relative"),
        (record("a").model_dump_json().replace("images/", "C:/abs/"), "relative"),
        (record("a").model_dump_json().replace('"heigth"', '"height"').replace("height", "hight"), "hight"),
        (record("a").model_dump_json().replace("[20,40]", "[20,70000]"), "class_values.*70000"),
        ("", "at least one record"),
        ("\n".join([record("a").model_dump_json()] * 2), "one record"),
        (
            json.dumps(json.loads(record("a").model_dump_json()) | {"mask_digests": []}),
            "have 1 mask digests; got 0",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path, line, found):
    (tmp_path / "m.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(TiledSegError, match=found):
        Manifest.read(tmp_path / "m.jsonl")


@pytest.mark.parametrize("key", ["name", "split"])
@pytest.mark.parametrize(
    "text",
    [
        "..",
        ".",
        "../../x",
        "a/../b",
        "a//b",
        "/x",
        "a/",
        "..\\x",
        "a\\b",
        "C:",
        "C:x",
        "C:\\x",
        "\\\\host\\x",
        "a\0b",
    ],
)
def test_a_name_in_a_manifest_that_leads_elsewhere_is_refused(tmp_path, key, text):
    line = json.dumps(json.loads(record("a", split="train").model_dump_json()) | {key: text})
    (tmp_path / "m.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(FileError, match=f"line 1: `{key}` must be the name of a file"):
        Manifest.read(tmp_path / "m.jsonl")
    with pytest.raises(FileError, match=key):
        record("a").changed(**{key: text})


def test_a_manifest_needs_names_but_no_splits(tmp_path):
    (tmp_path / "m.jsonl").write_text(record("a").model_dump_json().replace('"a"', '""', 1), encoding="utf-8")
    with pytest.raises(FileError, match="`name` must be the name of a file"):
        Manifest.read(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text(record("a..b", split="").model_dump_json(), encoding="utf-8")
    assert Manifest.read(tmp_path / "m.jsonl").splits == ("",)


def test_arrays_are_refused_in_a_manifest(tmp_path):
    with pytest.raises(FileError, match="be files"):
        describe([Pair("a", np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))], tmp_path)


def test_every_broken_file_is_named_when_described(dataset):
    pairs = pairs_of(folders(dataset))
    for name in ("s1", "s2"):
        path = dataset / "images" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileError, match=r"2 of 10 pairs.*s1: .*The same with s2"):
        describe(pairs, dataset)


def test_unusual_names_are_accepted_or_named(tmp_path):
    names = ["-a", "line\nbreak", "a,b\"c'", "ünï", "x" * 200]
    for place, name in enumerate(names):
        write_pair(tmp_path, name, value=place)
    records = describe(pairs_of(folders(tmp_path)), tmp_path)
    write_manifest(tmp_path / "m.jsonl", split_records(records, SplitConfig(shares=(3, 1, 1))))
    manifest = Manifest.read(tmp_path / "m.jsonl")
    assert sorted(pair.name for pair in manifest.pairs()) == sorted(names)
    assert manifest.changed() == []
    write_pair(tmp_path, "ok")
    for kind in ("images", "masks"):  # a name in another encoding than UTF-8
        (tmp_path / kind / "ok.png").rename(tmp_path / kind / os.fsdecode(b"\xff.png"))
    with pytest.raises(TiledSegError, match=r"1 of 6 pairs.*\\udcff: .*Rename the file"):
        describe(pairs_of(folders(tmp_path)), tmp_path)


def test_a_manifest_of_nothing_does_not_replace_a_good_one(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text("kept\n")
    with pytest.raises(SettingError, match="at least one record"):
        write_manifest(path, [])
    assert path.read_text() == "kept\n"


def test_another_split_is_replaced_only_when_asked(dataset):
    records = describe(pairs_of(folders(dataset)), dataset)
    one, other = (split_records(records, SplitConfig(shares=shares)) for shares in ((3, 1, 1), (1, 1, 3)))
    path = dataset / "m.jsonl"
    for _ in range(2):
        write_manifest(path, one)
    with pytest.raises(FileError, match=r"hold these records already.*remove it first"):
        write_manifest(path, other)
    assert {r.name: r.split for r in Manifest.read(path).records} == {r.name: r.split for r in one}
    write_manifest(path, other, overwrite=True)
    assert {r.name: r.split for r in Manifest.read(path).records} == {r.name: r.split for r in other}


@pytest.mark.parametrize("split", [5, True, ["train"]])
def test_an_invalid_name_is_no_split(tmp_path, split):
    with pytest.raises(FileError, match="`split` must be a split of the manifest"):
        Manifest(tmp_path, ()).of(split)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_no_manifest_and_no_table(tmp_path):
    for name, layout in (("m.jsonl", "manifest"), ("t.csv", "list")):
        os.mkfifo(tmp_path / name)
        with pytest.raises(FileError, match="regular file"):
            pairs_of(DataConfig(layout=layout, path=str(tmp_path / name)))


def test_a_manifest_is_never_cut_short(dataset, monkeypatch):
    path = dataset / "m.jsonl"
    write_manifest(path, describe(pairs_of(folders(dataset)), dataset))
    monkeypatch.setattr(manifest, "_LARGEST", path.stat().st_size - 1)
    with pytest.raises(FileError, match="at most"):
        Manifest.read(path)
    path.write_bytes(path.read_bytes()[:100] + b"\xff")
    with pytest.raises(FileError, match="UTF-8"):
        Manifest.read(path)


def test_images_in_zarr_stand_in_a_manifest_and_a_change_of_their_px_is_found(tmp_path):
    zarr = pytest.importorskip("zarr")
    image = np.arange(32 * 40 * 3, dtype=np.uint8).reshape(32, 40, 3)
    array = zarr.create_array(tmp_path / "images" / "a.zarr", data=image, chunks=(16, 16, 3))
    write(tmp_path / "masks" / "a.png", np.eye(32, 40, dtype=np.uint8) * 255)
    write_manifest(tmp_path / "all.jsonl", describe(pairs_of(folders(tmp_path)), tmp_path))
    config = DataConfig(layout="manifest", path=str(tmp_path / "all.jsonl"))
    (pair,) = pairs_of(config)
    np.testing.assert_array_equal(load_pair(pair)[0], image)
    array[0, 0] = 77
    with pytest.raises(TiledSegError, match="changed"):
        pairs_of(config)
