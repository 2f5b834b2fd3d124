"""The place on earth and the size of a px, carried from an image to what is made of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
from PIL import Image

import tiledseg as ts
from tiledseg.config import TileSetConfig
from tiledseg.data import Manifest, describe, find_pairs, write_tiles
from tiledseg.errors import TiledSegError
from tiledseg.io import PixelSize, create_image, open_image, read_image, write_image, write_mask, write_probs
from tiledseg.report import write_evaluation

SCAN = np.random.default_rng(0).integers(0, 256, (128, 192), np.uint8)
SCALE, TIEPOINT, MATRIX, KEYS, DOUBLES, TEXTS = 33550, 33922, 34264, 34735, 34736, 34737


def geotiff(path, *, points=False, matrix=False, orientation=1):
    """Write a GeoTIFF of px of 10 x 20 m, and a smaller copy that states no place."""
    kind = 2 if points else 1
    keys = (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, kind, 1026, TEXTS, 7, 0, 2057, DOUBLES, 1, 0)
    tags = [
        (KEYS, 3, len(keys), keys, True),
        (DOUBLES, 12, 1, (6378137.0,), True),
        (TEXTS, 2, 0, "WGS 84|", True),
    ]
    if matrix:
        tags.append((MATRIX, 12, 16, (10.0, 1, 0, 500, 2, -20, 0, 900, 0, 0, 0, 0, 0, 0, 0, 1), True))
    else:
        tags.append((SCALE, 12, 3, (10.0, 20.0, 0.0), True))
        tags.append((TIEPOINT, 12, 6, (4.0, 8.0, 0.0, 500.0, 900.0, 0.0), True))
    tags.append((274, 3, 1, orientation, True))
    options = {"photometric": "minisblack", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(SCAN, extratags=tags, subifds=1, **options)
        writer.write(SCAN[::2, ::2], subfiletype=1, extratags=[(274, 3, 1, orientation, True)], **options)
    return path


def place_of(path):
    """Give the map from px to the world: of the corner of px (0, 0) and of (100, 100), by hand."""
    with tifffile.TiffFile(path) as tiff:
        tags = {tag.code: tag.value for tag in tiff.pages.first.tags}
    keys = np.reshape(tags[KEYS], (-1, 4))
    half = 0.5 if (keys[:, 0] == 1025).any() and keys[keys[:, 0] == 1025][0, 3] == 2 else 0.0
    found = []
    for corner in ((0, 0), (1, 1)):
        share = np.array([tiff_size(path)[1] * corner[0], tiff_size(path)[0] * corner[1]], float) - half
        if MATRIX in tags:
            matrix = np.reshape(tags[MATRIX], (4, 4))
            found.append(matrix[:2] @ [*share, 0, 1])
        else:
            i, j, _, x, y, _ = tags[TIEPOINT]
            found.append((x + (share[0] - i) * tags[SCALE][0], y - (share[1] - j) * tags[SCALE][1]))
    return np.array(found), tags


def tiff_size(path):
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages.first.shape[:2]


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("matrix", [False, True])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("form", ["ome-tiff", "tiff"])
def test_a_map_covers_the_ground_of_its_image(tmp_path, points, matrix, level, form):
    path = geotiff(tmp_path / "a.tif", points=points, matrix=matrix)
    corners, tags = place_of(path)
    result = ts.predict_files(
        lambda tiles: tiles / 255, path, tmp_path / "out", {"mask_format": form, "level": level}
    )
    written = result.done[0].written["mask"]
    found, carried = place_of(written)
    np.testing.assert_allclose(found, corners)
    assert (carried[KEYS], carried[TEXTS]) == (tags[KEYS], tags[TEXTS])
    assert carried[DOUBLES] == tags[DOUBLES]


def test_every_tiff_that_is_written_states_the_place(tmp_path):
    with open_image(geotiff(tmp_path / "a.tif")) as image:
        place = {"placement": image.placement, "pixel_size": PixelSize(0.5, 0.25)}
    write_image(tmp_path / "image.tif", SCAN, **place)
    write_mask(tmp_path / "mask.tif", SCAN > 9, **place)
    write_probs(tmp_path / "probs.tif", SCAN / np.float32(255), **place)
    with create_image(tmp_path / "map.ome.tif", SCAN.shape, np.float32, **place) as out:
        out[:] = SCAN / np.float32(255)
    for name in ("image.tif", "mask.tif", "probs.tif", "map.ome.tif"):
        np.testing.assert_array_equal(place_of(tmp_path / name)[0], place_of(tmp_path / "a.tif")[0])
        with open_image(tmp_path / name) as image:
            assert (image.pixel_size.y, image.pixel_size.x) == pytest.approx((0.5, 0.25))


def test_a_turned_image_and_damaged_tags_leave_the_place_out_and_say_so(tmp_path, caplog):
    with open_image(geotiff(tmp_path / "a.tif", orientation=6)) as image:
        assert image.placement is None
    assert "turned" in caplog.text
    tags = [(KEYS, 3, 5, (1, 1, 0, 1, 1024), True), (SCALE, 12, 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "b.tif", SCAN, extratags=tags)
    with open_image(tmp_path / "b.tif") as image:
        assert image.placement is None
    assert "cannot be read" in caplog.text


def test_an_image_without_keys_has_no_place(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", SCAN, extratags=[(SCALE, 12, 3, (1.0, 1.0, 0.0), True)])
    with open_image(tmp_path / "a.tif") as image:
        assert image.placement is None


@pytest.mark.parametrize("size", [PixelSize(0.25, 0.5), PixelSize(0.2425, 0.2425), PixelSize(10.0, 10.0)])
def test_the_size_of_a_px_is_written_to_png_and_read_by_pillow(tmp_path, size):
    write_image(tmp_path / "a.png", SCAN, pixel_size=size)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["dpi"] == pytest.approx((25400 / size.x, 25400 / size.y), rel=1e-5)
        np.testing.assert_array_equal(np.asarray(image), SCAN)
    with open_image(tmp_path / "a.png") as image:
        assert (image.pixel_size.y, image.pixel_size.x) == pytest.approx((size.y, size.x), rel=1e-5)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), SCAN)


def test_the_resolution_of_a_print_is_no_size_of_a_px(tmp_path):
    Image.fromarray(SCAN).save(tmp_path / "a.png", dpi=(300, 300))
    with open_image(tmp_path / "a.png") as image:
        assert image.pixel_size is None


@pytest.mark.parametrize(
    ("formats", "what"),
    [
        ({"write": ("mask", "overlay", "coloured")}, ("mask", "overlay", "coloured")),
        ({"write": ("mask", "probs"), "mask_format": "tiff"}, ("mask", "probs")),
        ({"mask_format": "ome-zarr"}, ("mask",)),
        ({"mask_format": "ome-tiff"}, ("mask",)),
    ],
)
def test_every_output_states_the_size_of_a_px(tmp_path, formats, what):
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", SCAN, ome=True, metadata=metadata)
    try:
        result = ts.predict_files(lambda t: t / 255, tmp_path / "a.ome.tif", tmp_path / "out", formats)
    except TiledSegError as error:  # zarr is an extra
        pytest.skip(str(error))
    assert not result.failed
    for one in what:
        with open_image(result.outcomes[0].written[one]) as image:
            assert (image.pixel_size.y, image.pixel_size.x) == pytest.approx((0.5, 0.25))


def test_plan_and_report_state_the_size_of_a_px(tmp_path):
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    tifffile.imwrite(tmp_path / "a.ome.tif", SCAN, ome=True, metadata=metadata)
    write_mask(tmp_path / "a.png", SCAN > 127)

    def network(tiles):
        return tiles / 255

    assert re.search(r"image +128 x 192 px of 0\.25 µm\n", str(ts.plan(network, tmp_path / "a.ome.tif")))
    assert "128 x 192 px\n" in str(ts.plan(network, SCAN))
    result = ts.Evaluator().evaluate(network, [(tmp_path / "a.ome.tif", tmp_path / "a.png")])
    assert result.images[0].pixel_size == PixelSize(0.25, 0.25)
    write_evaluation(tmp_path / "report", title="A", result=result)
    assert "0.25 µm" in (tmp_path / "report" / "report.html").read_text()


def test_tiles_of_a_set_state_the_size_of_a_px(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    write_image(tmp_path / "images" / "a.tif", SCAN, pixel_size=PixelSize(0.25, 0.5))
    write_mask(tmp_path / "masks" / "a.png", SCAN > 127)
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    source = Manifest(tmp_path, tuple(describe(pairs, tmp_path)))
    write_tiles(source, TileSetConfig(output=str(tmp_path / "t"), tile_size=32, overlap=0, scale=0.5))
    for kind in ("images", "masks"):
        with open_image(min((tmp_path / "t" / kind).iterdir())) as image:
            assert image.pixel_size == PixelSize(0.5, 1.0)
