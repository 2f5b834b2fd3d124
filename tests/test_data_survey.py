"""Datasets of every layout: what is found, what is wrong with it, and how masks are read."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile

from tiledseg.config import DataConfig, TileSetConfig
from tiledseg.data import (
    Manifest,
    Pair,
    describe,
    find_pairs,
    load_pair,
    pairs_of,
    survey,
    write_manifest,
    write_tiles,
)
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.evaluate import find_maps
from tiledseg.io import write_image


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


def test_pairs_are_found_by_stem_in_natural_order(tmp_path):
    for name in ("10", "2", "1b"):
        write_pair(tmp_path, name, suffix=".jpg")
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert [one.name for one in pairs] == ["1b", "2", "10"]
    assert [(one.image.name, one.mask.name) for one in pairs][1] == ("2.jpg", "2.png")


def test_pairs_are_found_in_spite_of_ome_and_unicode_forms(tmp_path):
    for folder, names in {
        "images": ("a.ome.tif", "cafe\u0301.png"),
        "masks": ("a.png", "caf\u00e9.png"),
    }.items():
        (tmp_path / folder).mkdir()
        for name in names:
            pixels = np.full((8, 8), 255, np.uint8)
            (tmp_path / folder / name).write_bytes(cv2.imencode(name[-4:], pixels)[1].tobytes())
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert [pair.name for pair in pairs] == ["a", "caf\u00e9"]


def test_masks_are_read_as_set(tmp_path):
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
        match=r"5 problems beside 1 good pair\. unreadable: f .*same stem: d \(the first: d\.bmp, d\.png",
    ):
        pairs_of(folders(tmp_path))


def test_masks_with_names_of_their_own_are_told_how_to_be_paired(tmp_path):
    write_pair(tmp_path, "a")
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a_cp_masks.png")
    with pytest.raises(FileError, match=r"another name .* are listed in a table, with layout=list"):
        pairs_of(folders(tmp_path))


def test_files_that_cannot_be_used_are_skipped_only_on_request(tmp_path, caplog):
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
    for mark in ";\t":
        table.write_text(f'"image"{mark}mask\nfar/images/a.png{mark}"far/masks/b.png"\n')
        assert pairs_of(DataConfig(layout="list", path=str(table)))[0].mask.name == "b.png"
    tabs = tmp_path / "pairs.tsv"
    tabs.write_text("mask\timage\nfar/masks/b.png\tfar/images/b.png\n", encoding="utf-8")
    assert pairs_of(DataConfig(layout="list", path=str(tabs)))[0].mask.name == "b.png"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        "Image,MASK\ni/ä.png,m/ä.png\n",
        " Image ; Mask ;\ni/ä.png; m/ä.png ;\n;;\n\n",
        'sep=;\r\nmask;image\r\n"m/ä.png";"i/ä.png"\r\n\r\n',
        "SEP=\t\nimage\tmask\ni/ä.png\tm/ä.png",
        '# drawn by "us\nimage,mask\n# bad, ones:\n#i/b.png,m/b.png\ni/ä.png, "m/ä.png"\n,\n',
        "image,mask\ni\\ä.png,m\\ä.png\n",
        "image,mask\ri/ä.png,m/ä.png\r",
    ],
)
def test_tables_are_read_as_other_programs_write_them(text, encoding, tmp_path):
    for folder in "im":
        write_image(tmp_path / folder / "ä.png", np.eye(9, dtype=np.uint8))
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    (pair,) = pairs_of(DataConfig(layout="list", path=str(tmp_path / "a.csv")))
    assert (pair.name, pair.image, pair.mask) == ("ä", tmp_path / "i" / "ä.png", tmp_path / "m" / "ä.png")


def test_an_image_whose_name_begins_like_a_comment_is_read_from_a_table(tmp_path):
    for folder in "im":
        write_image(tmp_path / folder / "1.png", np.eye(9, dtype=np.uint8))
    (tmp_path / "i" / "1.png").rename(tmp_path / "#1.png")
    (tmp_path / "a.csv").write_text("image,mask\n#1.png,m/1.png\n#2.png,m/2.png\n")
    assert [pair.name for pair in pairs_of(DataConfig(layout="list", path=str(tmp_path / "a.csv")))] == ["#1"]


def test_a_table_in_other_encodings_is_refused(tmp_path):
    for encoding in ("utf-16-le", "latin-1"):
        (tmp_path / "a.csv").write_bytes("image,mask\nä.png,ä.png\n".encode(encoding))
        with pytest.raises(FileError, match=r"text in UTF-8.*Save it again in UTF-8"):
            pairs_of(DataConfig(layout="list", path=str(tmp_path / "a.csv")))


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.csv", "Image,image,mask\n", "different columns; got image twice"),
        ("a.csv", "# one\n\nimage,mask\na.png,\n", "line 4"),
        ("a.txt", "image,mask\n", r"end in \.csv or \.tsv; got \.txt"),
        ("a.csv", "img,mask\na,b\n", "column image; got img, mask"),
        ("a.csv", "", "column image; got nothing"),
        ("a.csv", "image,mask,image\na.png,m.png,b.png\n", "different columns; got image twice"),
        ("a.csv", "image,mask\nx.png,\n", "line 2` must name an image and a mask"),
        ("a.csv", "image,mask\nx.png\n", "line 2"),
        ("a.csv", "image,mask\nx.png,y,z\n", "line 2"),
        ("a.csv", 'image,mask\n"x.png,y\n', "be a table"),
        ("a.csv", "image,mask\nx/a.png,y\nx/a.tif,y\n", r"same stem: a"),
        ("a.csv", "image,mask\nx/a.png,y\nz/a.png,y\nx/a.tif,y\n", r"same stem: x/a"),
        ("a.csv", "image,mask\nx/a.png,y\n", r"unreadable: .*does not exist"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, name, text, found):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=found):
        pairs_of(DataConfig(layout="list", path=str(tmp_path / name)))


def test_images_of_several_folders_in_a_table_are_named_by_path(tmp_path):
    for folder, value in (("p1", 90), ("p2", 30)):
        write_pair(tmp_path / folder, "img", value=value)
    rows = [f"{one}/images/img.png,{one}/masks/img.png" for one in ("./p2", "p1", "../here/p1/../p3")]
    (tmp_path / "here").mkdir()
    write_pair(tmp_path / "here" / "p3", "img")
    (tmp_path / "p1").rename(tmp_path / "here" / "p1")
    (tmp_path / "p2").rename(tmp_path / "here" / "p2")
    table = tmp_path / "here" / "pairs.csv"
    table.write_text("\n".join(["image,mask", *rows]))
    pairs = pairs_of(DataConfig(layout="list", path=str(table)))
    assert [one.name for one in pairs] == ["here/p3/images/img", "p1/images/img", "p2/images/img"]
    records = describe(pairs, tmp_path)
    write_manifest(tmp_path / "manifest.jsonl", records)
    read = Manifest.read(tmp_path / "manifest.jsonl")
    assert [load_pair(one)[0].max() for one in read.pairs()] == [90, 90, 30]
    config = TileSetConfig(output=str(tmp_path / "tiles"), tile_size=32, overlap=0)
    write_tiles(read, config)
    assert (tmp_path / "tiles" / "images" / "p1" / "images" / "img_y00000_x00000.png").is_file()
    maps = tmp_path / "maps"
    for one in pairs:
        write(maps / f"{one.name}.png", np.zeros((40, 50), np.uint8))
    assert find_maps(maps, pairs) == [maps / f"{one.name}.png" for one in pairs]


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


def test_masks_of_cells_become_instances_by_number(segpc):
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
    with pytest.raises(FileError, match=r"9_1\.bmp` must have only the grey values 0, 40; got 20"):
        load_pair(pair)


@pytest.mark.parametrize(
    "settings",
    [
        {"layout": "segpc"},
        {"layout": "manifest", "path": "a", "images": "b"},
        {"layout": "segpc", "path": "a", "split": "train"},
        {"path": "a"},
        {"class_values": (1, 1), "mask_parts": "classes"},
        {"images": "a", "masks": "b", "class_values": (1, 2), "mask_parts": "instances"},
        {"class_names": ("a", "a")},
    ],
)
def test_settings_without_effect_are_refused(settings):
    with pytest.raises(SettingError):
        DataConfig(**settings)


def test_a_manifest_keeps_how_masks_are_read(segpc):
    pairs = pairs_of(DataConfig(layout="segpc", path=str(segpc), mask_parts="classes"))
    (segpc / "lists").mkdir()
    write_manifest(segpc / "lists" / "all.jsonl", describe(pairs, segpc / "lists"))
    again = Manifest.read(segpc / "lists" / "all.jsonl").pairs()
    assert [pair.name for pair in again] == ["9", "10"]
    assert np.array_equal(load_pair(again[0])[1], load_pair(pairs[0])[1])


def test_images_in_subfolders_are_found_by_a_table_as_the_error_says(tmp_path):
    for name in ("images/a/1.png", "masks/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name), np.ones((4, 4), np.uint8))
    with pytest.raises(FileError, match="list them in a table, with layout=list"):
        find_pairs(tmp_path / "images", tmp_path / "masks")
    (tmp_path / "pairs.csv").write_text("image,mask\nimages/a/1.png,masks/a/1.png\n")
    assert len(survey(DataConfig(layout="list", path=str(tmp_path / "pairs.csv"))).pairs) == 1


def test_images_may_share_a_mask_by_links(tmp_path):
    for name in "abc":
        write_pair(tmp_path, name)
    mask = tmp_path / "masks" / "a.png"
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "masks" / "b.png").symlink_to(mask)  # as in a store of files by their content
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert [(pair.name, pair.mask.name) for pair in pairs] == [(one, f"{one}.png") for one in "abc"]
    assert [path.name for path in find_maps(tmp_path / "masks", pairs)] == ["a.png", "b.png", "c.png"]


def test_the_level_at_which_image_and_mask_are_of_one_size_is_named(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        with tifffile.TiffWriter(tmp_path / name / "a.tif") as writer:
            options = {"tile": (16, 16), "photometric": "minisblack"}
            writer.write(np.full((96, 128), 255, np.uint8), subifds=1, **options)
            writer.write(np.full((48, 64), 255, np.uint8), subfiletype=1, **options)
    (problem,) = survey(folders(tmp_path, level=1)).problems
    assert "Set mask_level=1, which has the size of the image." in problem.text
    with pytest.raises(ArrayError, match="Set mask_level=1"):
        load_pair(Pair("a", tmp_path / "images" / "a.tif", tmp_path / "masks" / "a.tif", level=1))
    with pytest.raises(ArrayError, match="Set level=1, which has the size of the mask"):
        load_pair(Pair("a", tmp_path / "images" / "a.tif", np.zeros((48, 64), np.uint8)))
    with pytest.raises(ArrayError, match="Export it at the size"):
        load_pair(Pair("a", tmp_path / "images" / "a.tif", np.zeros((47, 64), np.uint8)))
