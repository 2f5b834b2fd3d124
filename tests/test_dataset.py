"""Datasets: what is found, what is wrong with it, how it is split, and what a manifest keeps."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiledseg.config import DataConfig, Record, SplitConfig
from tiledseg.data import (
    Manifest,
    Pair,
    as_pairs,
    check_disjoint,
    describe,
    find_pairs,
    load_pair,
    pairs_of,
    split_records,
    survey,
    write_manifest,
)
from tiledseg.errors import ArrayError, FileError, SettingError, TiledSegError


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())


def write_pair(folder, name, shape=(40, 50), mask_shape=None, suffix=".png", value=90):
    write(folder / "images" / f"{name}{suffix}", np.full((*shape, 3), value, np.uint8))
    mask = np.zeros(mask_shape or shape, np.uint8)
    mask[:5] = 255
    write(folder / "masks" / f"{name}.png", mask)


def folders(folder, **settings):
    return DataConfig(images=str(folder / "images"), masks=str(folder / "masks"), **settings)


def cell(shape, *boxes):
    """Make a mask as SegPC has them: 20 in the cytoplasm, 40 in the nucleus."""
    mask = np.zeros(shape, np.uint8)
    for value, (rows, columns) in zip((20, 40), boxes, strict=False):
        mask[rows, columns] = value
    return mask


@pytest.fixture
def segpc(tmp_path):
    """Write two images with two cells, which overlap, and one without masks."""
    shape = (30, 40)
    for name in ("9", "10", "610"):
        write(tmp_path / "x" / f"{name}.bmp", np.full((*shape, 3), int(name) % 200, np.uint8))
    for name in ("9", "10"):
        first = cell(shape, (slice(2, 12), slice(2, 12)), (slice(4, 8), slice(4, 8)))
        second = cell(shape, (slice(10, 20), slice(10, 20)), (slice(10, 12), slice(10, 12)))
        write(tmp_path / "y" / f"{name}_2.bmp", second)
        write(tmp_path / "y" / f"{name}_10.bmp", cell(shape, (slice(25, 28), slice(30, 35))))
        write(tmp_path / "y" / f"{name}_1.bmp", first)
    return tmp_path


# Finding


def test_pairs_are_found_by_stem_in_natural_order(tmp_path):
    for name in ("10", "2", "1b"):
        write_pair(tmp_path, name, suffix=".jpg")
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert [one.name for one in pairs] == ["1b", "2", "10"]
    assert [(one.image.name, one.mask.name) for one in pairs][1] == ("2.jpg", "2.png")


def test_settings_say_how_masks_are_read(tmp_path):
    write_pair(tmp_path, "a")
    write(tmp_path / "masks" / "a.png", np.full((40, 50), 2, np.uint8))
    (labels,) = pairs_of(folders(tmp_path, mask_threshold=None))
    assert load_pair(labels)[1].max() == 2
    (cut,) = pairs_of(folders(tmp_path, mask_threshold=2))
    assert load_pair(cut)[1].max() == 1


def test_every_problem_is_reported_before_any_work(tmp_path):
    for name in ("a", "b", "c", "d", "e", "f"):
        write_pair(tmp_path, name, mask_shape=(50, 40) if name == "e" else None)
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "images" / "c.png").unlink()
    write(tmp_path / "images" / "d.bmp", np.zeros((40, 50, 3), np.uint8))
    (tmp_path / "images" / "f.png").write_bytes(b"not an image")
    found = survey(folders(tmp_path))
    assert [pair.name for pair in found.pairs] == ["a"]
    assert {(problem.kind, problem.name) for problem in found.problems} == {
        ("no mask", "b"),
        ("no image", "c"),
        ("same stem", "d"),
        ("size", "e"),
        ("unreadable", "f"),
    }
    assert "size: e: the image has 40x50 px, the mask 50x40 px" in str(found)
    with pytest.raises(
        FileError,
        match=r"5 problems beside 1 good pairs\. unreadable: f .*same stem: d \(the first: d\.bmp, d\.png",
    ):
        pairs_of(folders(tmp_path))


def test_what_cannot_be_used_is_left_out_only_when_asked(tmp_path, caplog):
    for name in ("a", "b"):
        write_pair(tmp_path, name)
    (tmp_path / "masks" / "b.png").unlink()
    assert [pair.name for pair in pairs_of(folders(tmp_path, problems="skip"))] == ["a"]
    assert "Left out: no mask: b" in caplog.text
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(FileError, match="beside 0 good pairs"):
        pairs_of(folders(tmp_path, problems="skip"))


def test_a_long_list_of_names_is_cut_short(tmp_path):
    for number in range(30):
        write_pair(tmp_path, str(number))
        if number:
            (tmp_path / "masks" / f"{number}.png").unlink()
    with pytest.raises(FileError, match=r"no mask: 1, 2, .* 20 and 9 more"):
        find_pairs(tmp_path / "images", tmp_path / "masks")


def test_a_table_names_pairs_relative_to_itself(tmp_path):
    for name in ("a", "b"):
        write_pair(tmp_path / "far", name)
    table = tmp_path / "pairs.csv"
    table.write_text('image,mask,note\n"far/images/a.png",far/masks/b.png,x\n', encoding="utf-8-sig")
    (pair,) = pairs_of(DataConfig(layout="list", path=str(table)))
    assert (pair.name, load_pair(pair)[0].shape) == ("a", (40, 50, 3))
    tabs = tmp_path / "pairs.tsv"
    tabs.write_text("mask\timage\nfar/masks/b.png\tfar/images/b.png\n", encoding="utf-8")
    assert pairs_of(DataConfig(layout="list", path=str(tabs)))[0].mask.name == "b.png"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.txt", "image,mask\n", r"end in \.csv or \.tsv; got \.txt"),
        ("a.csv", "img,mask\na,b\n", "column image; got img, mask"),
        ("a.csv", "", "column image; got nothing"),
        ("a.csv", "image,mask\nx.png,\n", "line 2` must name an image and a mask"),
        ("a.csv", "image,mask\nx.png\n", "line 2"),
        ("a.csv", "image,mask\nx.png,y,z\n", "line 2"),
        ("a.csv", 'image,mask\n"x.png,y\n', "table in UTF-8"),
        ("a.csv", "image,mask\nx/a.png,y\nz/a.png,y\n", r"same stem: a"),
        ("a.csv", "image,mask\nx/a.png,y\n", r"unreadable: a .*must exist"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, name, text, found):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=found):
        pairs_of(DataConfig(layout="list", path=str(tmp_path / name)))


# SegPC


def test_segpc_pairs_images_with_the_masks_of_their_cells(segpc, caplog):
    pairs = pairs_of(DataConfig(layout="segpc", path=str(segpc)))
    assert [pair.name for pair in pairs] == ["9", "10"]
    assert [path.name for path in pairs[0].mask] == ["9_1.bmp", "9_2.bmp", "9_10.bmp"]
    assert "Left out: no mask: 610" in caplog.text


def test_segpc_reports_masks_without_image(segpc):
    write(segpc / "y" / "11_1.bmp", np.zeros((30, 40), np.uint8))
    write(segpc / "y" / "odd.bmp", np.zeros((30, 40), np.uint8))
    write(segpc / "y" / "9_3.bmp", np.zeros((30, 41), np.uint8))
    with pytest.raises(FileError, match=r"3 problems beside 1 .*no image: odd, 11 .*size: 9"):
        pairs_of(DataConfig(layout="segpc", path=str(segpc)))


def test_masks_of_cells_are_merged(segpc):
    (pair, _) = pairs_of(DataConfig(layout="segpc", path=str(segpc)))
    labels = load_pair(pair)[1]
    wanted = np.zeros((30, 40), np.uint8)
    wanted[2:12, 2:12] = wanted[10:20, 10:20] = wanted[25:28, 30:35] = 1
    assert np.array_equal(labels, wanted)


def test_masks_of_cells_are_kept_as_instances_by_number(segpc):
    (pair, _) = pairs_of(DataConfig(layout="segpc", path=str(segpc), mask_parts="instances"))
    labels = load_pair(pair)[1]
    wanted = np.zeros((30, 40), np.uint8)
    wanted[25:28, 30:35], wanted[10:20, 10:20], wanted[2:12, 2:12] = 3, 2, 1  # the first lies on top
    assert np.array_equal(labels, wanted)


def test_nucleus_and_cytoplasm_are_classes_by_grey_value(segpc):
    (pair, _) = pairs_of(DataConfig(layout="segpc", path=str(segpc), mask_parts="classes"))
    labels = load_pair(pair)[1]
    wanted = np.zeros((30, 40), np.uint8)
    wanted[2:12, 2:12] = wanted[10:20, 10:20] = wanted[25:28, 30:35] = 1
    wanted[4:8, 4:8] = wanted[10:12, 10:12] = 2  # a nucleus lies above any cytoplasm
    assert np.array_equal(labels, wanted)
    (pair, _) = pairs_of(
        DataConfig(layout="segpc", path=str(segpc), mask_parts="classes", class_values=(40,))
    )
    with pytest.raises(ArrayError, match=r"9_1\.bmp` must have the grey values 0 and 40 alone; got 20"):
        load_pair(pair)


def test_more_cells_than_labels_are_refused(tmp_path):
    mask = tmp_path / "m.png"
    write(mask, np.full((4, 4), 255, np.uint8))
    pair = Pair("a", np.zeros((4, 4), np.uint8), (mask,) * 256, mask_parts="instances")
    with pytest.raises(ArrayError, match=r"at most 255 cells.*got 256"):
        load_pair(pair)


@pytest.mark.parametrize(
    "settings",
    [
        {"layout": "segpc"},
        {"layout": "manifest", "path": "a", "images": "b"},
        {"layout": "segpc", "path": "a", "split": "train"},
        {"path": "a"},
        {"mask_parts": "instances"},
        {"class_values": (1, 1), "mask_parts": "classes"},
    ],
)
def test_settings_that_play_no_part_are_refused(settings):
    with pytest.raises(SettingError):
        DataConfig(**settings)


# Splits


def record(name, foreground=0.1, digest=None, **more):
    text = f"{digest:064x}" if digest is not None else hashlib.sha256(name.encode()).hexdigest()
    return Record(
        name=name,
        image=f"images/{name}.png",
        masks=(f"masks/{name}.png",),
        group=name,
        height=4,
        width=4,
        foreground=foreground,
        digest=f"sha256:{text}",
        mask_digests=(f"sha256:{0:064x}",),
        **more,
    )


def counts(records, names=("train", "valid", "test")):
    return [sum(one.split == name for one in records) for name in names]


def refused(records, config):
    """Say whether there are too few images or groups for the splits."""
    with contextlib.suppress(SettingError):
        split_records(records, config)
        return False
    return True


shares = st.lists(st.integers(1, 100), min_size=1, max_size=5)


@given(
    numbers=st.lists(st.integers(0, 10**6), min_size=1, max_size=120, unique=True),
    shares=shares,
    seed=st.integers(0, 99),
    stratify=st.booleans(),
    data=st.data(),
)
def test_splits_by_image_meet_their_shares_and_know_no_order(numbers, shares, seed, stratify, data):
    foreground = data.draw(
        st.lists(st.floats(0, 1), min_size=len(numbers), max_size=len(numbers)), label="foreground"
    )
    records = [record(str(n), f, digest=n) for n, f in zip(numbers, foreground, strict=True)]
    names = tuple(f"s{place}" for place in range(len(shares)))
    config = SplitConfig(names=names, shares=tuple(shares), seed=seed, stratify=stratify)
    wanted = [len(records) * share / sum(shares) for share in shares]
    if refused(records, config):
        assert min(wanted) < 1
        return
    done = split_records(records, config)
    assert all(abs(got - want) < 1 for got, want in zip(counts(done, names), wanted, strict=True))
    assert [one.name for one in done] == [one.name for one in records]
    check_disjoint(done)
    mixed = data.draw(st.permutations(records), label="order")
    assert {one.name: one.split for one in split_records(mixed, config)} == {
        one.name: one.split for one in done
    }


@given(
    sizes=st.lists(st.integers(1, 9), min_size=3, max_size=30),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_splits_by_group_are_disjoint_and_as_near_as_groups_allow(sizes, seed, data):
    records = [
        record(f"g{group}_{one}", data.draw(st.floats(0, 1)), digest=100 * group + one)
        for group, size in enumerate(sizes)
        for one in range(size)
    ]
    config = SplitConfig(shares=(2, 1, 1), group_by="regex", group_regex=r"^(g\d+)_", seed=seed)
    done = split_records(records, config)
    splits = {}
    for one in done:
        splits.setdefault(one.group, set()).add(one.split)
    assert len(splits) == len(sizes)
    assert all(len(some) == 1 for some in splits.values())
    assert min(counts(done)) > 0
    for got, share in zip(counts(done), (0.5, 0.25, 0.25), strict=True):
        assert abs(got - share * len(records)) < max(sizes) + 1
    mixed = data.draw(st.permutations(records), label="order")
    assert {one.name: one.split for one in split_records(mixed, config)} == {
        one.name: one.split for one in done
    }


@given(
    names=st.lists(st.sampled_from([f"{a}{n}" for a in "ab" for n in range(12)]), min_size=4, unique=True),
    digests=st.lists(st.integers(0, 8), min_size=24, max_size=24),
)
def test_copies_are_never_torn_apart(names, digests):
    records = [record(name, digest=digest) for name, digest in zip(names, digests, strict=False)]
    config = SplitConfig(names=("train", "valid"), shares=(3, 1), group_by="run")
    if refused(records, config):
        loose = config.changed(names=("all",), shares=(1,))
        assert len({one.group for one in split_records(records, loose)}) == 1
        return
    done = split_records(records, config)
    for one, other in itertools.combinations(done, 2):
        if one.digest == other.digest or one.group == other.group:
            assert one.split == other.split


def test_a_split_is_what_it_always_was():
    records = [record(str(number), number / 40, digest=number) for number in range(1, 21)]
    config = SplitConfig(seed=7)
    done = {one.name: one.split for one in split_records(records, config)}
    assert [name for name, split in done.items() if split == "valid"] == ["5", "12", "14"]
    assert [name for name, split in done.items() if split == "test"] == ["17"]
    other = {one.name: one.split for one in split_records(records, config.changed(seed=8))}
    assert other != done


def test_stratified_splits_have_the_same_foreground():
    rng = np.random.default_rng(0)
    records = [record(str(n), float(rng.beta(0.5, 5)), digest=n) for n in range(400)]

    def spread(*, stratify):
        worst = []
        for seed in range(10):
            done = split_records(records, SplitConfig(seed=seed, stratify=stratify))
            means = [
                np.mean([one.foreground for one in done if one.split == name])
                for name in ("train", "valid", "test")
            ]
            worst.append(max(means) - min(means))
        return np.mean(worst)

    assert spread(stratify=True) < 0.25 * spread(stratify=False)


def test_neighbouring_numbers_are_one_group():
    names = ["a1", "a2", "a4", "a5", "b2", "7", "slide3_09", "slide3_10", "slide4_11"]
    records = [record(name, digest=place) for place, name in enumerate(names)]
    groups = {
        gap: [one.group for one in split_records(records, SplitConfig(group_by="run", run_gap=gap))]
        for gap in (1, 2)
    }
    ends = ["b2", "7", "slide3_9-10", "slide3_9-10", "slide4_11"]
    assert groups[1] == ["a1-2", "a1-2", "a4-5", "a4-5", *ends]
    assert groups[2] == ["a1-5"] * 4 + ends


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (SplitConfig(group_by="run"), "no number; got x"),
        (SplitConfig(group_by="regex", group_regex=r"^\d"), "every name; got x"),
        (
            SplitConfig(group_by="regex", group_regex=".", shares=(2, 1, 1)),
            "at least one group for each of the 3 splits; got 1",
        ),
        (SplitConfig(shares=(80, 15, 1)), "at least one image; got none for test of 4"),
    ],
)
def test_a_split_that_cannot_be_is_refused(config, found):
    with pytest.raises(SettingError, match=found):
        split_records([record("x" * n, digest=n) for n in range(1, 5)], config)


@pytest.mark.parametrize(
    "settings",
    [
        {"names": ("a", "a", "b")},
        {"names": ("a", "../b", "c")},
        {"shares": (1, 2)},
        {"shares": (1, 2, 0)},
        {"group_by": "regex"},
        {"group_regex": "a"},
        {"group_by": "regex", "group_regex": "("},
    ],
)
def test_split_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(SettingError, match=r"names|shares|group_regex"):
        SplitConfig(**settings)


# Manifests


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


def test_a_manifest_keeps_how_masks_are_read(segpc):
    pairs = pairs_of(DataConfig(layout="segpc", path=str(segpc), mask_parts="classes"))
    (segpc / "lists").mkdir()
    write_manifest(segpc / "lists" / "all.jsonl", describe(pairs, segpc / "lists"))
    again = Manifest.read(segpc / "lists" / "all.jsonl").pairs()
    assert [pair.name for pair in again] == ["9", "10"]
    assert np.array_equal(load_pair(again[0])[1], load_pair(pairs[0])[1])


def test_a_changed_file_is_named(dataset):
    write_manifest(dataset / "all.jsonl", describe(pairs_of(folders(dataset)), dataset))
    write(dataset / "images" / "s3.png", np.full((40, 50, 3), 7, np.uint8))
    (dataset / "masks" / "s4.png").unlink()
    config = DataConfig(layout="manifest", path=str(dataset / "all.jsonl"))
    with pytest.raises(FileError, match=r"2 problems beside 8 .*unreadable: s4 .*changed: s3 "):
        pairs_of(config)
    assert len(pairs_of(config.changed(problems="skip"))) == 8
    with pytest.raises(FileError, match="1 problems beside 9"):
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
        ("", "at least one record"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path, line, found):
    (tmp_path / "m.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(TiledSegError, match=found):
        Manifest.read(tmp_path / "m.jsonl")


@pytest.mark.parametrize("key", ["name", "split"])
@pytest.mark.parametrize(
    "text",
    ["..", ".", "../../x", "a/b", "/x", "a/", "..\\x", "a\\b", "C:", "C:x", "C:\\x", "\\\\host\\x", "a\0b"],
)
def test_a_name_in_a_manifest_that_leads_elsewhere_is_refused(tmp_path, key, text):
    line = json.dumps(json.loads(record("a", split="train").model_dump_json()) | {key: text})
    (tmp_path / "m.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(FileError, match=f"line 1: `{key}` must be one plain name"):
        Manifest.read(tmp_path / "m.jsonl")
    with pytest.raises(FileError, match=key):
        record("a").changed(**{key: text})


def test_a_manifest_needs_names_but_no_splits(tmp_path):
    (tmp_path / "m.jsonl").write_text(record("a").model_dump_json().replace('"a"', '""', 1), encoding="utf-8")
    with pytest.raises(FileError, match="`name` must be one plain name"):
        Manifest.read(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text(record("a..b", split="").model_dump_json(), encoding="utf-8")
    assert Manifest.read(tmp_path / "m.jsonl").splits == ("",)


def test_arrays_have_no_place_in_a_manifest(tmp_path):
    with pytest.raises(FileError, match="be files"):
        describe([Pair("a", np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))], tmp_path)


def test_every_broken_file_is_named_when_described(dataset):
    pairs = pairs_of(folders(dataset))
    for name in ("s1", "s2"):
        path = dataset / "images" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileError, match=r"2 of 10 pairs.*s1: .*s2: "):
        describe(pairs, dataset)


def test_odd_names_go_through_or_are_named(tmp_path):
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
    with pytest.raises(FileError, match=r"hold these records already.*overwrite=True"):
        write_manifest(path, other)
    assert {r.name: r.split for r in Manifest.read(path).records} == {r.name: r.split for r in one}
    write_manifest(path, other, overwrite=True)
    assert {r.name: r.split for r in Manifest.read(path).records} == {r.name: r.split for r in other}


def test_what_is_no_list_of_pairs_is_named():
    with pytest.raises(SettingError, match="`train` must be a list of pairs"):
        as_pairs(None, "train")


@pytest.mark.parametrize("split", [5, True, ["train"]])
def test_what_is_no_name_is_no_split(tmp_path, split):
    with pytest.raises(FileError, match="`split` must be a split of the manifest"):
        Manifest(tmp_path, ()).of(split)
