"""Finding images: files, folders, links, order."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tiledseg.errors import FileError
from tiledseg.io import create_image, find_images, image_shape, open_image, read_image, write_image
from tiledseg.models import load_model

PIXELS = np.ones((8, 9), np.uint8)


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(found, folder):
    return [str(path.relative_to(folder)) for path in found]


def test_a_folder_gives_its_images_in_natural_order(tmp_path):
    make(tmp_path, "a10.png", "a2.png", "A1.TIF", "b.jpeg", "c.bmp", "notes.txt", ".hidden.png", "deep/d.png")
    assert names(find_images(tmp_path), tmp_path) == ["A1.TIF", "a2.png", "a10.png", "b.jpeg", "c.bmp"]
    assert names(find_images(str(tmp_path), recursive=True), tmp_path)[-1] == "deep/d.png"


def test_slides_and_arrays_are_images_too(tmp_path):
    made = ["a.svs", "b.ndpi", "c.scn", "d.bif", "e.webp", "f.npy", "g.ome.tif", "h.qptiff", "i.btf"]
    make(tmp_path, *made, "j.xml", "k.ome.zarr/zarr.json", "l.zarr/.zarray")
    assert names(find_images(tmp_path), tmp_path) == [*made, "k.ome.zarr", "l.zarr"]


def test_given_files_are_listed_in_order_with_any_suffix(tmp_path):
    make(tmp_path, "b.dat", "a.png")
    assert find_images([tmp_path / "b.dat", tmp_path / "a.png"]) == [tmp_path / "b.dat", tmp_path / "a.png"]


def test_a_pattern_lists_what_it_matches_unless_a_file_has_that_name(tmp_path):
    make(tmp_path, "a10.tif", "a2.tif", "b.png", "c[1].png", "c1.png", "deep/d.tif")
    assert names(find_images(tmp_path / "*.tif"), tmp_path) == ["a2.tif", "a10.tif"]
    assert names(find_images(f"{tmp_path}/**/*.tif"), tmp_path) == ["a2.tif", "a10.tif", "deep/d.tif"]
    assert names(find_images([f"{tmp_path}/de*", f"{tmp_path}/?.png"]), tmp_path) == ["deep/d.tif", "b.png"]
    assert names(find_images(tmp_path / "c[1].png"), tmp_path) == ["c[1].png"]
    with pytest.raises(FileError, match=r"\*\.bmp` must be a path, or match one.*Check the folder"):
        find_images(f"{tmp_path}/*.bmp")


def test_a_file_reached_twice_is_listed_once(tmp_path, monkeypatch):
    make(tmp_path, "a.png", "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    found = find_images([tmp_path / "b.png", "b.png", tmp_path, tmp_path])
    assert names([path.absolute() for path in found], tmp_path) == ["b.png", "a.png", "c.png"]


def test_a_folder_reached_by_a_link_is_listed_once(tmp_path):
    make(tmp_path, "a/1.png")
    (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
    assert names(find_images([tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"]), tmp_path) == ["a/1.png"]


def test_hidden_folders_and_temporary_files_are_left_out(tmp_path):
    make(tmp_path, "a.png", ".cache/b.png", ".tiledseg-0.part")
    assert names(find_images(tmp_path, recursive=True), tmp_path) == ["a.png"]


def test_loops_of_links_are_followed_once(tmp_path):
    make(tmp_path, "a/1.png", "a/b/2.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    assert names(find_images(tmp_path, recursive=True), tmp_path) == ["a/1.png", "a/b/2.png"]


def test_a_dead_link_is_listed_and_reading_it_is_an_error(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (found,) = find_images(tmp_path)
    with pytest.raises(FileError, match="does not exist"):
        read_image(found)


@pytest.mark.parametrize("name", ["-a.png", "a\nb.png", os.fsdecode(b"\xff.png")])
def test_odd_names_are_found(tmp_path, name):
    make(tmp_path, name)
    assert find_images(tmp_path) == [tmp_path / name]


def test_no_image_is_an_error(tmp_path):
    make(tmp_path, "notes.txt", "deep/a.png")
    with pytest.raises(FileError, match=r"got .* with notes\.txt\. Known suffixes: .*recursive=True"):
        find_images(tmp_path)
    with pytest.raises(FileError, match=r"Known suffixes: \.geojson, \.bmp"):
        find_images(tmp_path, also=(".geojson",))
    with pytest.raises(FileError, match="at least one image"):
        find_images([])


@pytest.mark.parametrize("path", ["gone", "gone/deeper.png", "", "a\0b"])
def test_a_path_that_does_not_exist_is_an_error(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError):
        find_images(path)
    with pytest.raises(FileError):
        find_images([path])


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    make(tmp_path, "a.png")
    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FileError, match="Permission denied"):
        find_images(tmp_path)


def test_all_that_can_be_opened_is_found(tmp_path):
    known = "bif bmp btf czi dcm jpeg jpg lsm mrxs ndpi npy ome.tif png qptiff scn stk svs tif tiff vsi webp"
    make(
        tmp_path,
        *(f"{suffix}/a.{suffix}" for suffix in known.split()),
        "t/a.txt",
        "ome.zarr/a.ome.zarr/zarr.json",
    )
    make(tmp_path, "old/a.zarr/.zarray", "x/a.SVS")
    found = {path.name for path in find_images(tmp_path, recursive=True)}
    assert found == {*(f"a.{suffix}" for suffix in known.split()), "a.ome.zarr", "a.zarr", "a.SVS"}


def test_what_may_not_be_entered_is_named_and_hides_nothing_else(tmp_path, closed):
    write_image(tmp_path / "a.png", PIXELS)
    make(tmp_path, "inner/b.png", "c.zarr/zarr.json")
    inner, zarr = tmp_path / "inner", tmp_path / "c.zarr"
    with closed(inner):
        assert names(find_images(tmp_path), tmp_path) == ["a.png", "c.zarr"]
        for read in (read_image, image_shape, open_image, find_images, load_model):
            with pytest.raises(FileError, match=r"inner.* must be .*readable.*; got Permission denied"):
                read(inner)
        with pytest.raises(FileError, match="inner"):
            find_images(tmp_path, recursive=True)
    with closed(zarr):
        assert names(find_images(tmp_path), tmp_path) == ["a.png", "c.zarr"]
        with pytest.raises(FileError, match=r"c.zarr.* must be readable; got Permission denied"):
            read_image(zarr)
    with create_image(tmp_path / "d.ome.zarr", PIXELS.shape, PIXELS.dtype) as sink:
        sink[:] = PIXELS
    level = tmp_path / "d.ome.zarr" / "0"
    with (
        closed(level),
        pytest.raises(FileError, match=r"d.ome.zarr.* must be readable; got Permission denied"),
    ):
        read_image(level.parent)
    with closed(tmp_path, 0o555), pytest.raises(FileError, match=r"must be writable; got Permission denied"):
        write_image(tmp_path / "new.png", PIXELS)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "inner", "c.zarr", "d.ome.zarr"}
