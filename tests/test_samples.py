"""Generated smears: repeatable, of any size, with plasma cells in the mask and other cells."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest

from tiledseg.errors import FileError, SettingError
from tiledseg.io import read_image, read_mask
from tiledseg.samples import smear, write_samples

SEEDS = range(6)


@cache
def drawn(seed):
    """Draw a smear once for all tests."""
    return smear(480, 640, seed=seed)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 301), (257, 130), (480, 640)])
def test_a_smear_has_the_size_asked_for(height, width):
    sample = smear(height, width, seed=3)
    assert (sample.image.shape, sample.image.dtype) == ((height, width, 3), np.uint8)
    assert (sample.mask.shape, sample.mask.dtype) == ((height, width), np.uint8)
    assert (sample.instances.shape, sample.instances.dtype) == ((height, width), np.uint16)
    assert set(np.unique(sample.mask)) == {0, 1}


def test_the_same_seed_gives_the_same_smear():
    first, second = smear(120, 160, seed=5), smear(120, 160, seed=5)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.instances, second.instances)


def test_stain_and_cells_differ_from_seed_to_seed():
    samples = [smear(240, 320, seed=seed) for seed in SEEDS]
    casts = np.array([np.median(sample.image, axis=(0, 1)) for sample in samples])
    assert (casts.std(axis=0) > 1).all()
    assert len({sample.mask.tobytes() for sample in samples}) == len(SEEDS)


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=pytest.mark.slow if place > 2 else ()) for place, seed in enumerate(SEEDS)],
)
def test_cells_cover_a_sane_share(seed):
    assert 0.01 < drawn(seed).mask.mean() < 0.3


def test_dark_nuclei_of_other_cells_are_not_in_the_mask():
    for seed in SEEDS:
        sample = drawn(seed)
        background = sample.image[cv2.dilate(sample.mask, np.ones((9, 9))) == 0].astype(int)
        typical = np.median(background.sum(axis=1))
        assert (background.sum(axis=1) < 0.62 * typical).mean() > 0.001


def test_cells_are_darker_and_bluer_than_the_film():
    for seed in SEEDS:
        sample = drawn(seed)
        cells, film = (np.median(sample.image[sample.mask == label], axis=0) for label in (1, 0))
        assert cells.sum() < 0.9 * film.sum()
        assert cells[2] / cells[0] > film[2] / film[0]


def test_the_number_of_cells_and_their_size_are_as_asked():
    sample = smear(600, 600, seed=2, cell_px=(60, 80), n_cells=7)
    labels, areas = np.unique(sample.instances[sample.instances > 0], return_counts=True)
    assert labels.tolist() == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(sample.mask, sample.instances > 0)
    assert areas.max() < 1.5 * np.pi / 4 * 80**2
    assert areas.max() > 0.6 * np.pi / 4 * 60**2


def test_a_smear_without_plasma_cells_still_shows_others():
    sample = smear(240, 320, seed=1, n_cells=0)
    assert not sample.mask.any()
    assert sample.image.std() > 5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"height": 63}, "`height` must be a whole number of at least 64; got 63"),
        ({"width": 100.0}, "`width` must be a whole number of at least 64; got 100.0"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0"),
        ({"n_cells": -1}, "`n_cells` must be a whole number of at least 0"),
        ({"cell_px": (400, 250)}, r"`cell_px` must be \(smallest, largest\)"),
        ({"cell_px": 300}, "`cell_px` must be"),
        ({"cell_px": (3, 9)}, "at least 4"),
        ({"cell_px": (9, float("nan"))}, "`cell_px` must be"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting, message):
    with pytest.raises(SettingError, match=message):
        smear(**{"height": 64, "width": 64, **setting})


def test_written_samples_equal_those_that_are_read(tmp_path):
    paths = write_samples(tmp_path / "new", n_images=2, height=64, width=96, seed=9)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "new/images/smear_0009.png",
        "new/images/smear_0010.png",
    ]
    for seed, path in zip((9, 10), paths, strict=True):
        sample = smear(64, 96, seed=seed)
        np.testing.assert_array_equal(read_image(path), sample.image)
        mask = tmp_path / "new" / "masks" / path.name
        np.testing.assert_array_equal(read_mask(mask), sample.mask)
        assert set(np.unique(cv2.imdecode(np.fromfile(mask, np.uint8), cv2.IMREAD_UNCHANGED))) == {0, 255}
    assert len(list((tmp_path / "new").rglob("*"))) == 2 + 2 * len(paths)


@pytest.mark.parametrize("setting", [{"n_images": 0}, {"n_images": 1.5}, {"n_images": True}, {"seed": "1"}])
def test_samples_that_cannot_be_counted_are_refused(tmp_path, setting):
    with pytest.raises(SettingError, match=f"`{next(iter(setting))}` must be a whole number of at least"):
        write_samples(tmp_path / "new", height=64, width=64, **setting)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(FileError, match="images"):
        write_samples(tmp_path, n_images=1, height=64, width=64)


@pytest.mark.parametrize(
    "wrong", [{"n_cells": 10_001}, {"n_cells": 10**9}, {"height": 10**6, "width": 10**6}]
)
def test_an_image_too_large_for_memory_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="at most"):
        smear(**{"height": 64, "width": 64, **wrong})
