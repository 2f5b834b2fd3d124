"""Tile sets on disk: what is cut, which tiles are written, what names and manifest say."""

from __future__ import annotations

import shutil
import signal
import time

import numpy as np
import pytest
import warm_python

from tiledseg.config import DataConfig, PreprocessingConfig, SplitConfig, TileSetConfig
from tiledseg.data import (
    Manifest,
    Pair,
    describe,
    load_pair,
    pairs_of,
    prepare_pair,
    split_records,
    write_tiles,
)
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import read_image, read_mask, write_image, write_mask, write_probs


def tiles(output, **settings):
    return TileSetConfig(output=str(output), **({"tile_size": 32} | settings))


def dataset(folder, shapes, seed=0, dtype=np.uint8):
    """Write noise with a blob of foreground in its upper left."""
    rng = np.random.default_rng(seed)
    for place, shape in enumerate(shapes):
        name = f"s{place}.png"
        write_image(folder / "images" / name, rng.integers(0, 256, (*shape, 3)).astype(dtype))
        mask = np.zeros(shape, np.uint8)
        mask[3:20, 5:24] = 1
        write_mask(folder / "masks" / name, mask)
    pairs = pairs_of(DataConfig(images=str(folder / "images"), masks=str(folder / "masks")))
    return Manifest(folder, tuple(describe(pairs, folder)))


def test_tiles_are_the_images_own_px(tmp_path):
    source = dataset(tmp_path / "data", [(70, 90), (20, 40)])
    done = write_tiles(source, tiles(tmp_path / "tiles"))
    assert str(done) == "11 tiles (11)"
    manifest = Manifest.read(tmp_path / "tiles" / "manifest.jsonl")
    images = {pair.name: load_pair(pair) for pair in source.pairs()}
    covered = {name: np.zeros(mask.shape, bool) for name, (_, mask) in images.items()}
    for record, pair in zip(manifest.of(None), manifest.pairs(), strict=True):
        origin = record.origin
        assert record.name == f"{origin.image}_y{origin.y:05d}_x{origin.x:05d}"
        assert pair.image.suffix == pair.mask.suffix == ".png"
        pixels, labels = load_pair(pair)
        assert pixels.shape == (32, 32, 3)
        assert record.foreground == labels.mean()
        whole, mask = images[origin.image]
        box = (slice(origin.y, origin.y + 32), slice(origin.x, origin.x + 32))
        inside = whole[box]
        assert np.array_equal(pixels[: inside.shape[0], : inside.shape[1]], inside)
        assert np.array_equal(labels[: inside.shape[0], : inside.shape[1]], mask[box])
        covered[origin.image][box] = True
    assert all(array.all() for array in covered.values())
    small = manifest.of(None)[-1]
    pixels, labels = load_pair(manifest.pairs()[-1])
    assert (small.origin.image, small.origin.height) == ("s1", 20)
    assert np.array_equal(pixels[20:32], pixels[18:6:-1])  # beyond its end it is mirrored
    assert np.array_equal(labels[20:32], labels[18:6:-1])


def test_shrunk_tiles_are_what_training_sees(tmp_path, caplog):
    source = dataset(tmp_path / "data", [(128, 128)])
    write_tiles(source, tiles(tmp_path / "whole"))
    assert not caplog.text
    write_tiles(source, tiles(tmp_path / "tiles", scale=0.5))
    assert "1 of 1 images state no px size, so nothing will say that their tiles are shrunk" in caplog.text
    assert "set preprocessing.scale=0.5" in caplog.text
    manifest = Manifest.read(tmp_path / "tiles" / "manifest.jsonl")
    prepared = prepare_pair(source.pairs()[0], PreprocessingConfig(scale=0.5))
    whole = np.asarray(prepared.image[0:64, 0:64])
    for record, pair in zip(manifest.of(None), manifest.pairs(), strict=True):
        box = (slice(record.origin.y, record.origin.y + 32), slice(record.origin.x, record.origin.x + 32))
        pixels, labels = load_pair(pair)
        assert np.abs(pixels / 255 - whole[box]).max() <= 0.5 / 255 + 1e-6
        assert np.array_equal(labels, prepared.mask[box])
        assert (record.origin.scale, record.origin.height) == (0.5, 128)


@pytest.mark.parametrize(("fmt", "dtype"), [("png", np.uint16), ("tiff", np.uint8)])
def test_formats_and_depths_are_kept(tmp_path, fmt, dtype):
    source = dataset(tmp_path / "data", [(32, 32)], dtype=dtype)
    write_tiles(source, tiles(tmp_path / "tiles", image_format=fmt))
    (pair,) = Manifest.read(tmp_path / "tiles" / "manifest.jsonl").pairs()
    assert pair.image.suffix == {"png": ".png", "tiff": ".tif"}[fmt]
    assert read_image(pair.image).dtype == dtype
    assert np.array_equal(read_image(pair.image), read_image(source.pairs()[0].image))


def test_grey_images_and_labels_stay_what_they_are(tmp_path):
    write_image(tmp_path / "i.png", np.arange(1024, dtype=np.uint8).reshape(32, 32))
    write_mask(tmp_path / "m.png", np.arange(1024, dtype=np.uint8).reshape(32, 32) % 3, foreground=None)
    records = describe([Pair("a", tmp_path / "i.png", tmp_path / "m.png", None)], tmp_path)
    write_tiles(Manifest(tmp_path, tuple(records)), tiles(tmp_path / "t", thumbnails=True))
    pairs = Manifest.read(tmp_path / "t" / "manifest.jsonl").pairs()
    assert [pair.name for pair in pairs] == ["a_whole", "a_y00000_x00000"]
    for pair in pairs:
        image, labels = load_pair(pair)
        assert image.shape == (32, 32)
        assert np.array_equal(labels, read_mask(tmp_path / "m.png", threshold=None))


def test_a_share_of_the_empty_tiles_is_written_in_the_named_splits(tmp_path):
    source = dataset(tmp_path / "data", [(96, 96)] * 9)
    records = split_records(source.records, SplitConfig(names=("train", "valid"), shares=(6, 3)))
    source = Manifest(source.folder, tuple(records))
    written = {}
    for seed in (0, 1):
        done = write_tiles(source, tiles(tmp_path / str(seed), empty_share=0.3, seed=seed))
        assert done.tiles == {"train": 6 + round(0.3 * 48), "valid": 27}
        assert done.dropped == 48 - round(0.3 * 48)
        written[seed] = {one.name for one in Manifest.read(tmp_path / str(seed) / "manifest.jsonl").records}
    write_tiles(source, tiles(tmp_path / "again", empty_share=0.3))
    assert {one.name for one in Manifest.read(tmp_path / "again" / "manifest.jsonl").records} == written[0]
    assert written[0] != written[1]
    none = write_tiles(source, tiles(tmp_path / "none", empty_share=0.0))
    assert none.tiles == {"train": 6, "valid": 27}


def test_data_that_is_not_split_drops_empty_tiles_as_well(tmp_path):
    done = write_tiles(dataset(tmp_path / "data", [(96, 96)]), tiles(tmp_path / "t", empty_share=0.5))
    assert (done.tiles, done.dropped) == ({"": 5}, 4)


def test_empty_tiles_are_not_dropped_in_silence_from_no_split(tmp_path):
    source = dataset(tmp_path / "data", [(32, 32)])
    source = Manifest(source.folder, tuple(one.changed(split="valid") for one in source.records))
    with pytest.raises(SettingError, match="empty_splits"):
        write_tiles(source, tiles(tmp_path / "tiles", empty_share=0.5))
    assert not (tmp_path / "tiles").exists()


def test_tiles_inherit_group_and_split(tmp_path):
    source = dataset(tmp_path / "data", [(64, 64)] * 6)
    records = split_records(source.records, SplitConfig(names=("train", "test"), shares=(2, 1)))
    write_tiles(Manifest(source.folder, tuple(records)), tiles(tmp_path / "tiles"))
    manifest = Manifest.read(tmp_path / "tiles" / "manifest.jsonl")
    wanted = {one.name: (one.group, one.split, one.digest) for one in records}
    for record in manifest.records:
        assert (record.group, record.split, record.origin.digest) == wanted[record.origin.image]
        assert record.image.startswith(f"{record.split}/images/")
    again = Manifest.read(tmp_path / "tiles" / "manifest.jsonl").changed()
    assert again == []


def test_thumbnails_show_the_whole_image(tmp_path):
    source = dataset(tmp_path / "data", [(64, 128)])
    write_tiles(source, tiles(tmp_path / "tiles", thumbnails=True))
    (record,) = [
        one for one in Manifest.read(tmp_path / "tiles" / "manifest.jsonl").records if one.origin.thumbnail
    ]
    assert (record.name, record.origin.scale, record.height, record.width) == ("s0_whole", 0.25, 32, 32)
    whole = read_image(source.pairs()[0].image).astype(float).reshape(16, 4, 32, 4, 3).mean(axis=(1, 3))
    found = read_image(tmp_path / "tiles" / record.image).astype(float)
    assert np.abs(found[:16] - whole).max() <= 0.51
    assert np.array_equal(found[16:31], found[14::-1])


def test_a_folder_that_holds_anything_is_refused_and_not_changed(tmp_path):
    source = dataset(tmp_path / "data", [(32, 32)])
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "mine").write_text("x", encoding="utf-8")
    with pytest.raises(FileError, match="new or empty folder; got mine in it"):
        write_tiles(source, tiles(tmp_path / "tiles"))
    assert [path.name for path in (tmp_path / "tiles").iterdir()] == ["mine"]
    (tmp_path / "tiles" / "mine").unlink()
    write_tiles(source, tiles(tmp_path / "tiles"))  # an empty one is taken


def test_a_failure_leaves_nothing_behind(tmp_path):
    source = dataset(tmp_path / "data", [(32, 32)] * 3)
    image = tmp_path / "data" / "images" / "s2.png"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(FileError, match=r"s2\.png"):
        write_tiles(source, tiles(tmp_path / "tiles"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_floats_are_refused(tmp_path):
    write_probs(tmp_path / "i.tif", np.zeros((32, 32), np.float32), "float32")
    write_mask(tmp_path / "m.png", np.zeros((32, 32), np.uint8))
    records = describe([Pair("a", tmp_path / "i.tif", tmp_path / "m.png")], tmp_path)
    with pytest.raises(ArrayError, match="8 or 16 bits"):
        write_tiles(Manifest(tmp_path, tuple(records)), tiles(tmp_path / "t"))


@pytest.mark.parametrize("key", ["name", "split"])
def test_no_tile_is_written_outside_the_folder(tmp_path, key):
    source = dataset(tmp_path / "data", [(64, 64)])
    line = source.records[0].model_dump_json().replace(f'"{key}":"', f'"{key}":"../../../evil')
    (tmp_path / "data" / "m.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(FileError, match=key):
        write_tiles(Manifest.read(tmp_path / "data" / "m.jsonl"), tiles(tmp_path / "out" / "tiles"))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_set(tmp_path, number):
    for kind, write in (("images", write_image), ("masks", write_mask)):
        write(tmp_path / "data" / kind / "0.png", np.zeros((1024, 1024), np.uint8))
    data = ["--images", tmp_path / "data" / "images", "--masks", tmp_path / "data" / "masks"]
    command = ["tile", *data, "--tile-size", 16, "--output", tmp_path / "tiles", "--quiet"]
    code = f"import sys; from tiledseg.cli import main; sys.exit(main({list(map(str, command))!r}))"
    with warm_python.start(code) as process:
        while not any(tmp_path.glob(".tiledseg-*.part/images/*.png")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)  # thousands of tiles are still to be written
        assert process.wait() == {signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[number]
    assert not (tmp_path / "tiles").exists()
    left = list(tmp_path.glob(".tiledseg-*.part"))
    assert len(left) == (number == signal.SIGKILL)
    for folder in left:
        shutil.rmtree(folder)


def test_every_image_that_vanished_or_changed_is_named(tmp_path):
    source = dataset(tmp_path / "data", [(40, 40), (50, 40), (60, 40), (70, 40)])
    (tmp_path / "data" / "images" / "s1.png").unlink()
    (tmp_path / "data" / "masks" / "s2.png").unlink()
    write_mask(tmp_path / "data" / "masks" / "s3.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(FileError, match=r"3 of 4 pairs.*s1.*does not exist.*s2.*does not exist.*s3.*mask"):
        write_tiles(source, tiles(tmp_path / "tiles"))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("number", [65535, 70000, 2**32 + 7])
def test_cells_whose_numbers_16_bits_cannot_hold_get_other_ones(tmp_path, number):
    cells = np.zeros((40, 40), np.int64)
    cells[2:10, 2:10], cells[20:30, 20:30], cells[32:38, 2:8] = number, 7, 9
    np.save(tmp_path / "cells.npy", cells)
    write_image(tmp_path / "image.png", np.full((40, 40), 100, np.uint8))
    pair = Pair("a", tmp_path / "image.png", tmp_path / "cells.npy", mask_parts="instances", ignore_label=9)
    source = Manifest(tmp_path, tuple(describe([pair], tmp_path)))
    write_tiles(source, tiles(tmp_path / "tiles", tile_size=40))
    (tile,) = Manifest.read(tmp_path / "tiles" / "manifest.jsonl").pairs()
    found = load_pair(tile)[1]
    assert all(len(np.unique(found[cells == one])) == 1 for one in (0, number, 7, 9))
    assert len(np.unique(found)) == 3
    np.testing.assert_array_equal(read_mask(tile.mask, None) == 65535, cells == 9)  # px that do not count
