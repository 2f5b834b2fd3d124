"""The region of interest: tissue alone."""

import numpy as np
import pytest
import tifffile

import tiledseg as ts
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import read_mask, write_image

TILING = ts.TilingConfig(tile_size=32, overlap=8)
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)


def red(tiles):
    return tiles[..., :1]


def _slide():
    slide = np.full((400, 600, 3), 240, np.uint8)
    slide += np.random.default_rng(0).integers(0, 8, slide.shape, np.uint8)
    slide[100:180, 300:420] = (150, 60, 140)
    return slide


def test_only_tissue_is_computed_and_all_of_it():
    slide, calls = _slide(), []

    def network(tiles):
        calls.append(len(tiles))
        return red(tiles)

    probs = ts.tiled_predict(network, slide, TILING, roi="tissue", fill_value=-1)
    tissue = slide[..., 1] < 100
    np.testing.assert_allclose(probs[tissue][:, 0], 150, rtol=1e-6)
    np.testing.assert_allclose(probs[:50], -1, rtol=1e-5)
    assert sum(calls) < 0.2 * len(ts.plan(network, slide.shape, TILING).grid)
    calls.clear()
    ts.tiled_predict(network, slide[..., 1], TILING, roi="tissue")  # one channel: what is dark
    assert 0 < sum(calls) < 0.2 * len(ts.plan(network, slide.shape, TILING).grid)


@pytest.mark.parametrize("image", [IMAGE[..., 0] // 64, np.full((90, 70, 3), 7, np.uint8)])
def test_where_there_is_no_background_all_is_computed(image):
    calls = []
    ts.tiled_predict(lambda t: calls.append(len(t)) or red(t), image, TILING, roi="tissue")
    assert sum(calls) == len(ts.plan(red, image.shape, TILING).grid)


def test_regions_that_cannot_be_found_or_are_no_masks_are_refused():
    with pytest.raises(SettingError, match="an array where only a shape is given; got tissue"):
        ts.plan(red, (90, 70, 3), TILING, roi="tissue")
    with pytest.raises((ArrayError, SettingError), match="roi"):
        ts.tiled_predict(red, IMAGE, TILING, roi={"a": 1})


@pytest.mark.parametrize("value", [0, 128])
def test_a_slide_without_contrast_or_light_is_computed(value):
    flat = np.full((200, 300), value, np.uint8)
    flat[50:60, 50:60] = value + 3
    assert ts.tiled_predict(red, flat, TILING, roi="tissue").shape == (200, 300, 1)
    colour = np.zeros((200, 300, 3), np.uint8) + np.array([value, value // 2, value // 4], np.uint8)
    assert ts.tiled_predict(red, colour, TILING, roi="tissue").shape == (200, 300, 1)


def test_a_large_slide_is_read_in_bands():
    class Watched:
        shape, dtype, rows = (5000, 3000), np.dtype("uint8"), []

        def __getitem__(self, key):
            self.rows.append(key[0].stop - key[0].start)
            return np.full((key[0].stop - key[0].start, key[1].stop - key[1].start), 200, np.uint8)

    ts.tiled_predict(red, Watched(), ts.TilingConfig(tile_size=500), roi="tissue")
    assert max(Watched.rows) <= 500
    with pytest.raises(SettingError, match='an array, "tissue", or the path'):
        ts.tiled_predict(red, IMAGE, roi="cells")


def test_the_px_above_0_of_a_file_are_where_to_predict_as_of_an_array(tmp_path):
    cells = np.zeros(IMAGE.shape[:2], np.int16)
    cells[:40, :40], cells[:40, -40:] = np.arange(40) % 6, -1
    tifffile.imwrite(tmp_path / "cells.tif", cells)
    planned = [
        ts.plan(red, IMAGE, {"tile_size": 32, "overlap": 0}, roi=one).in_roi
        for one in (tmp_path / "cells.tif", cells)
    ]
    assert planned[0].sum() == 4
    np.testing.assert_array_equal(*planned)
    tifffile.imwrite(tmp_path / "whole.tif", cells.astype(np.float32))  # as some programs write labels
    real = ts.plan(red, IMAGE, {"tile_size": 32, "overlap": 0}, roi=tmp_path / "whole.tif").in_roi
    np.testing.assert_array_equal(real, planned[0])
    with pytest.raises(ArrayError, match=r"roi > 0\.5"):
        ts.plan(red, IMAGE, roi=cells / 5)
    tifffile.imwrite(tmp_path / "real.tif", cells.astype(np.float32) / 5)
    with pytest.raises(FileError, match=r"Set `threshold` to .* Read it with tiledseg\.io\.read_mask"):
        ts.plan(red, IMAGE, roi=tmp_path / "real.tif")
    with pytest.raises(ArrayError, match=r"Remove its last axis, by roi\[\.\.\., 0\]"):
        ts.plan(red, IMAGE, roi=cells[..., None])


@pytest.mark.parametrize("form", ["png", "tiff", "ome-tiff", "ome-zarr", "npy"])
def test_written_masks_say_where_to_predict_in_every_format(tmp_path, form):
    pytest.importorskip("zarr")
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.png", IMAGE)

    def upper(tiles):
        found = np.zeros((*tiles.shape[:3], 1), np.float32)
        found[tiles[..., :1] > 128] = 1
        return found

    first = ts.predict_files(upper, tmp_path / "images", tmp_path / "one", {"mask_format": form})
    mask = first.done[0].written["mask"]
    for roi in (mask, mask.parent):  # a file for all images, or a folder with one for each
        done = ts.predict_files(
            upper, tmp_path / "images", tmp_path / "two", {"roi": str(roi), "existing": "overwrite"}
        )
        assert not done.failed
        np.testing.assert_array_equal(read_mask(done.done[0].written["mask"]), IMAGE[..., 0] > 128)
