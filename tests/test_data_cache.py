"""Prepared pairs in memory, in a cache on disk, or read again: the crops are the same."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tiledseg.config import PreprocessingConfig, augmenting
from tiledseg.data import CropSampler, GridCrops, Pair, prepare_pairs
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import write_image, write_mask

SMALL = PreprocessingConfig(scale=0.5)
SIZE = 40 * 60 * (3 + 1)  # bytes of a shrunk pair


def write_pairs(folder, n=3, seed=0):
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(n):
        image, mask = folder / f"{number}.png", folder / f"{number}_mask.png"
        write_image(image, rng.integers(0, 256, (80, 120, 3), np.uint8))
        write_mask(mask, (rng.random((80, 120)) < 0.1).astype(np.uint8))
        pairs.append(Pair(str(number), image, mask))
    return pairs


def crops(prepared):
    transforms = augmenting("default", prepared[0].shape[2])
    sampler, grid = (
        CropSampler(prepared, (24, 32), length=12, transforms=transforms, seed=1),
        GridCrops(prepared, (24, 32)),
    )
    return [*sampler.batch(2, range(12)), *grid.batch(0, range(len(grid)))]


def same(one, other):
    return all(np.array_equal(*arrays) for arrays in zip(one, other, strict=True))


@pytest.mark.parametrize("memory", [0, SIZE, 2 * SIZE + 1, 3 * SIZE, None])
@pytest.mark.parametrize("cached", [False, True])
def test_crops_do_not_depend_on_where_pairs_are_cached(tmp_path, memory, cached):
    pairs = write_pairs(tmp_path)
    cache = tmp_path / "cache" if cached else None
    expected = crops(prepare_pairs(pairs, SMALL))
    for _ in range(2):  # the second time from the cache
        assert same(crops(prepare_pairs(pairs, SMALL, memory=memory, cache_dir=cache)), expected)
    over = 0 if memory is None else 3 - min(3, memory // SIZE)
    assert len(list((tmp_path / "cache").glob("*/sha256.json"))) == (over if cached else 0)


def test_only_pairs_beyond_the_memory_are_read_again(tmp_path):
    pairs = write_pairs(tmp_path)
    first, *rest = prepare_pairs(pairs, SMALL, memory=SIZE)
    for pair in pairs:
        pair.image.unlink()
    crops([first])
    for one in rest:
        with pytest.raises(FileError, match=rf"{one.name}\.png"):
            crops([one])


def test_arrays_that_need_no_shrinking_take_no_memory():
    image, mask = np.zeros((50, 50, 3), np.uint8), np.zeros((50, 50), np.uint8)
    (pair,) = prepare_pairs([Pair("one", image, mask)], PreprocessingConfig(), memory=0)
    pixels, labels = pair.read(slice(0, 50), slice(0, 50))
    assert np.shares_memory(pixels, image)
    assert np.shares_memory(labels, mask)


def test_a_cache_serves_without_decoding(tmp_path, monkeypatch):
    pairs = write_pairs(tmp_path)
    expected = crops(prepare_pairs(pairs, SMALL, memory=0, cache_dir=tmp_path / "cache"))
    monkeypatch.setattr("tiledseg.data.load.read_image", None)  # whoever decodes now fails
    assert same(crops(prepare_pairs(pairs, SMALL, memory=0, cache_dir=tmp_path / "cache")), expected)
    assert same(crops(prepare_pairs(pairs, SMALL, cache_dir=tmp_path / "cache")), expected)


def test_another_scale_or_another_file_is_another_entry(tmp_path):
    (pair,) = write_pairs(tmp_path, 1)
    cache = tmp_path / "cache"
    prepare_pairs([pair], SMALL, memory=0, cache_dir=cache)
    prepare_pairs([pair], SMALL.changed(scale=0.25), memory=0, cache_dir=cache)
    prepare_pairs([pair], SMALL.changed(mean=(0.5,)), memory=0, cache_dir=cache)  # comes later
    prepare_pairs([pair], SMALL.changed(gamma=2.0), memory=0, cache_dir=cache)  # as does this
    assert len(list(cache.glob("*/sha256.json"))) == 2
    write_image(pair.image, np.full((80, 120, 3), 7, np.uint8))
    (prepared,) = prepare_pairs([pair], SMALL, memory=0, cache_dir=cache)
    assert np.allclose(prepared.image, 7 / 255)
    write_mask(pair.mask, np.ones((80, 120), np.uint8))
    (prepared,) = prepare_pairs([pair], SMALL, memory=0, cache_dir=cache)
    assert prepared.mask.all()
    assert len(list(cache.glob("*/sha256.json"))) == 4
    prepare_pairs([pair], SMALL.changed(sharpen=1.0), memory=0, cache_dir=cache)
    assert len(list(cache.glob("*/sha256.json"))) == 5


@pytest.mark.parametrize("part", ["image.npy", "mask.npy", "sha256.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_a_damaged_entry_is_made_again(tmp_path, part, harm, caplog):
    pairs = write_pairs(tmp_path, 1)
    cache = tmp_path / "cache"
    expected = crops(prepare_pairs(pairs, SMALL, memory=0, cache_dir=cache))
    (file,) = cache.glob(f"*/{part}")
    data = file.read_bytes()
    broken = {"cut": data[:-5], "flip": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:], "gone": b""}[harm]
    file.write_bytes(broken)
    if harm == "gone":
        file.unlink()
    with caplog.at_level(logging.WARNING, "tiledseg"):
        assert same(crops(prepare_pairs(pairs, SMALL, memory=0, cache_dir=cache)), expected)
    assert "damaged" in caplog.text
    assert file.read_bytes() == data


def test_a_cache_that_vanishes_is_named(tmp_path):
    pairs = write_pairs(tmp_path, 1)
    prepared = prepare_pairs(pairs, SMALL, memory=0, cache_dir=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(FileError, match=r"image\.npy"):
        crops(prepared)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    (pair,) = write_pairs(tmp_path, 1)
    prepared = prepare_pairs([pair], SMALL, memory=0)
    write_image(pair.image, np.zeros((60, 60, 3), np.uint8))
    write_mask(pair.mask, np.zeros((60, 60), np.uint8))
    with pytest.raises(ArrayError, match="`0` changed while it was in use"):
        prepared[0].read(slice(0, 40), slice(0, 60))


def test_a_cache_that_cannot_be_written_is_named_before_anything_is_read(tmp_path):
    pairs = write_pairs(tmp_path, 2)
    pairs[0].image.unlink()
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FileError, match="cache` must be a folder"):
        prepare_pairs(pairs, SMALL, memory=0, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("memory", [-1, 1.5, True, "4"])
def test_a_budget_is_a_whole_number(memory):
    array = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(SettingError, match="`memory` must be a whole number"):
        prepare_pairs([Pair("one", array, array[..., 0])], SMALL, memory=memory)


@pytest.mark.parametrize(("dtype", "channels"), [("uint16", 1), ("uint16", 3), ("float32", 5), ("uint8", 1)])
def test_any_dtype_is_cached(tmp_path, dtype, channels):
    rng = np.random.default_rng(0)
    image = rng.random((60, 80, channels)).astype(np.float32)
    image = image if dtype == "float32" else (image * np.iinfo(dtype).max).astype(dtype)
    pairs = [Pair("one", image, (image[..., 0] > image.mean()).astype(np.uint8))]
    config = PreprocessingConfig(dtype=dtype, channels=channels, scale=0.5)
    expected = crops(prepare_pairs(pairs, config))
    for _ in range(2):
        prepared = prepare_pairs(pairs, config, memory=0, cache_dir=tmp_path / "cache")
        assert same(crops(prepared), expected)


def test_masks_of_another_number_of_classes_are_read_anew(tmp_path):
    pair = write_pairs(tmp_path, 1)[0]
    write_mask(tmp_path / "0_mask.png", np.arange(9600).reshape(80, 120) % 3, foreground=None)
    pair = Pair("0", pair.image, pair.mask, mask_threshold=None)
    cached = {"memory": 0, "cache_dir": tmp_path / "cache"}
    (prepared,) = prepare_pairs([pair], SMALL, classes=3, **cached)
    assert prepared.mask.max() == 2
    with pytest.raises(ArrayError, match=r"labels in \[0, 1\], the classes of the network"):
        prepare_pairs([pair], SMALL, classes=1, **cached)


@pytest.mark.parametrize("cached", [False, True])
def test_threads_may_read_at_once(tmp_path, cached):
    pairs = write_pairs(tmp_path, 8)
    cache = tmp_path / "cache" if cached else None
    prepared = prepare_pairs(pairs, SMALL, memory=0, cache_dir=cache)
    sampler = CropSampler(prepared, (24, 32), length=64, seed=1)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda place: sampler.batch(0, [place])[0], range(64)))
    assert np.array_equal(np.concatenate(parts), sampler.batch(0, range(64))[0])


def test_many_foreground_px_are_remembered_by_some(tmp_path):
    mask = np.zeros((200, 200), np.uint8)
    mask[:, 50:] = 1
    (pair,) = prepare_pairs([Pair("one", np.zeros((200, 200, 3), np.uint8), mask)], PreprocessingConfig())
    y, x = np.unravel_index(pair.foreground, (200, 200))
    assert len(pair.foreground) == 4096
    assert x.min() >= 50
    assert (abs(y.mean() - 99.5) < 1, abs(x.mean() - 124.5) < 1) == (True, True)
