"""Images that are read by region: TIFF, zarr, .npy; levels, axes, channels; refusals."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

try:
    import zarr
except ModuleNotFoundError:  # tests that need them are skipped
    zarr = ModuleType("zarr")

from tiledseg import tiled_predict
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import PixelSize, open_image, read_image, read_mask, write_image

if TYPE_CHECKING:
    from collections.abc import Callable

REAL_FILES = Path(os.environ.get("TILEDSEG_DATA", "missing"), "files")
rng = np.random.default_rng(0)
RGB = rng.integers(0, 256, (150, 230, 3), np.uint8)
GREY16 = rng.integers(0, 65536, (150, 230), np.uint16)
REGIONS = [
    (slice(0, 150), slice(0, 230)),
    (slice(10, 11), slice(0, 1)),
    (slice(60, 140), slice(63, 129)),
    (slice(149, 150), slice(200, 230)),
]


def check_regions(path: Path, whole: np.ndarray, **options: object) -> None:
    with open_image(path, **options) as image:
        assert image.shape == whole.shape
        assert image.dtype == whole.dtype
        for rows, columns in REGIONS:
            np.testing.assert_array_equal(image[rows, columns], whole[rows, columns])
        np.testing.assert_array_equal(np.asarray(image), whole)


@pytest.mark.parametrize("pixels", [RGB, RGB[..., 0], GREY16, GREY16.astype(np.float32)])
@pytest.mark.parametrize(
    "layout",
    [
        {"tile": (64, 48)},
        {"tile": (64, 48), "compression": "zlib", "bigtiff": True},
        {"rowsperstrip": 33},
        {"rowsperstrip": 33, "compression": "zlib", "predictor": True},
        {"rowsperstrip": 150, "byteorder": ">"},
        {"tile": (64, 64), "byteorder": ">", "compression": "lzw"},
    ],
    ids=str,
)
def test_a_tiff_gives_the_same_px_by_region_as_whole(
    pixels: np.ndarray, layout: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "image.tif"
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(path, pixels, photometric=photometric, **layout)
    check_regions(path, pixels)


@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 20}])
def test_separate_planes_are_read_channels_last(layout: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "planar.tif"
    tifffile.imwrite(path, np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate", **layout)
    check_regions(path, RGB)


def test_jpeg_tiles_are_decoded_as_by_tifffile(tmp_path: Path) -> None:
    path = tmp_path / "jpeg.tif"
    tifffile.imwrite(path, RGB, photometric="ycbcr", compression="jpeg", tile=(64, 64))
    check_regions(path, tifffile.imread(path))


def test_palette_inverted_opaque_and_rotated_px_equal_those_of_read_image(tmp_path: Path) -> None:
    indices = rng.integers(0, 4, (150, 230), np.uint8)
    colours = rng.integers(0, 65536, (3, 256), np.uint16)
    alpha = np.concatenate([RGB, np.full((150, 230, 1), 255, np.uint8)], axis=-1)
    files = {
        "palette": (indices, {"photometric": "palette", "colormap": colours}),
        "inverted": (RGB[..., 0], {"photometric": "miniswhite"}),
        "opaque": (alpha, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        "turned": (RGB, {"photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]}),
    }
    for name, (pixels, options) in files.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, pixels, tile=(64, 64), **options)
        whole = read_image(path)
        with open_image(path) as image:
            np.testing.assert_array_equal(np.asarray(image), whole)


def test_a_transparent_block_is_refused_when_it_is_read(tmp_path: Path) -> None:
    alpha = np.concatenate([RGB, np.full((150, 230, 1), 255, np.uint8)], axis=-1)
    alpha[140, 10, 3] = 7
    tifffile.imwrite(tmp_path / "a.tif", alpha, tile=(64, 64), photometric="rgb", extrasamples=["unassalpha"])
    with open_image(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(image[:64, :64], RGB[:64, :64])
        with pytest.raises(FileError, match=r"opaque.*down to 7.*alpha='drop'"):
            image[128:150, :64]
    with open_image(tmp_path / "a.tif", alpha="drop") as image:
        np.testing.assert_array_equal(np.asarray(image), RGB)


def pyramid(path: Path, pixels: np.ndarray, **metadata: object) -> None:
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        options = {"tile": (64, 64), "photometric": "rgb" if pixels.shape[2:] == (3,) else "minisblack"}
        writer.write(pixels, subifds=2, metadata=metadata, **options)
        writer.write(pixels[::2, ::2], subfiletype=1, **options)
        writer.write(pixels[::4, ::4], subfiletype=1, **options)


def test_a_level_of_an_ome_tiff_is_chosen_and_its_px_are_larger(tmp_path: Path) -> None:
    path = tmp_path / "pyramid.ome.tif"
    units = {
        "PhysicalSizeX": 250.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm",
    }
    pyramid(path, RGB, axes="YXS", **units)
    for level in range(3):
        with open_image(path, level=level) as image:
            assert image.levels == ((150, 230), (75, 115), (38, 58))
            np.testing.assert_array_equal(np.asarray(image), RGB[:: 2**level, :: 2**level])
            assert image.pixel_size is not None
            assert image.pixel_size.x == pytest.approx(0.25 * 230 / image.shape[1])
            assert image.pixel_size.y == pytest.approx(0.5 * 150 / image.shape[0])
    with pytest.raises(FileError, match=r"have level 3; got 3 levels\. Pass level=0 to level=2"):
        open_image(path, level=3)


def test_reduced_pages_that_follow_are_levels(tmp_path: Path) -> None:
    path = tmp_path / "old.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(RGB, photometric="rgb", metadata=None)
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    with open_image(path, level=1) as image:
        np.testing.assert_array_equal(np.asarray(image), RGB[::2, ::2])


@pytest.mark.parametrize("axes", ["CYX", "ZCYX", "TZCYX", "CZYX"])
@pytest.mark.parametrize("kind", ["ome", "imagej", "shaped"])
def test_planes_are_chosen_by_the_axes_in_the_metadata(axes: str, kind: str, tmp_path: Path) -> None:
    lengths = {"T": 2, "Z": 3, "C": 4, "Y": 20, "X": 30}
    if kind == "imagej":
        axes = "".join(axis for axis in "TZCYX" if axis in axes)  # the only order of ImageJ
    stack = rng.integers(0, 65536, [lengths[axis] for axis in axes], np.uint16)
    path = tmp_path / f"stack.{'ome.' if kind == 'ome' else ''}tif"
    tifffile.imwrite(
        path,
        stack,
        ome=kind == "ome",
        imagej=kind == "imagej",
        photometric="minisblack",
        metadata={"axes": axes},
    )
    at = {axis.lower(): 1 for axis in axes if axis in "TZ"}
    place = tuple(1 if axis in "TZ" else slice(None) for axis in axes)
    expected = np.moveaxis(stack[place], 0, -1)
    with open_image(path, at=at) as image:
        np.testing.assert_array_equal(np.asarray(image), expected)
    with open_image(path, at=at, channels=(2, 0)) as image:
        np.testing.assert_array_equal(image[3:9, 5:7], expected[3:9, 5:7, [2, 0]])
    with open_image(path, at=at, channels=1) as image:
        np.testing.assert_array_equal(np.asarray(image), expected[..., 1])
    if at:
        with pytest.raises(FileError, match=r"hold one plane; got \d positions along"):
            open_image(path)


@pytest.mark.parametrize("axes", ["ZYX", "TZYX", "CYX"])
def test_planes_behind_one_directory_are_found(axes: str, tmp_path: Path) -> None:
    stack = rng.integers(
        0, 65536, {"ZYX": (5, 20, 30), "TZYX": (2, 3, 20, 30), "CYX": (3, 20, 30)}[axes], np.uint16
    )
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": axes}, truncate=True)
    if axes == "CYX":
        np.testing.assert_array_equal(read_image(path), np.moveaxis(stack, 0, -1))
        return
    at = {"TZYX": {"t": 1, "z": 2}, "ZYX": {"z": 3}}[axes]
    with open_image(path, at=at) as image:
        np.testing.assert_array_equal(np.asarray(image), stack[tuple(at.values())])
    with pytest.raises(FileError, match=r"position 300 along z; got \d positions"):
        open_image(path, at=at | {"z": 300})
    with pytest.raises(FileError, match=r"hold one plane; .*Pass at=\{'"):
        read_image(path)
    with pytest.raises(FileError, match=r"hold one plane; got \d positions along"):
        read_mask(path)


@pytest.mark.parametrize("axes", ["ZYXS", "CYXS", "TZCYXS"])
def test_rgb_planes_behind_one_directory_are_found(axes: str, tmp_path: Path) -> None:
    shape = [{"T": 2, "Z": 4, "C": 3, "Y": 20, "X": 30, "S": 3}[axis] for axis in axes]
    stack, path = rng.integers(0, 256, shape, np.uint8), tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": axes}, truncate=True)
    at = {axis.lower(): 1 for axis in axes if axis in "TZ"}
    planes = stack[tuple(at.values())].reshape(-1, 20, 30, 3)
    expected = np.concatenate(list(planes), axis=-1)
    np.testing.assert_array_equal(read_image(path, at=at), expected)
    with open_image(path, at=at, channels=1) as image:
        np.testing.assert_array_equal(image[3:9, 4:8], expected[3:9, 4:8, 1])


def test_a_smaller_copy_of_an_image_that_is_behind_it_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:  # as raw files of cameras
        writer.write(RGB[::4, ::4], photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        writer.write(RGB, photometric="rgb", metadata=None)
    for read in (read_image, open_image):
        with pytest.raises(FileError, match="got a smaller copy, and the image behind it"):
            read(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(RGB[::4, ::4], photometric="rgb", subfiletype=1, subifds=1)
        writer.write(RGB, photometric="rgb")
    with pytest.raises(FileError, match=r"got 2 images: .*Pass page='image 0' to page='image 1'"):
        read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", page="image 1"), RGB)


def test_names_of_pages_that_have_none(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for image in (RGB, RGB[::2]):
            writer.write(image, photometric="rgb", metadata=None)
    with pytest.raises(FileError, match=r"got images without names. Pass the number of a page, from 0, or"):
        read_image(tmp_path / "a.tif", page="Layer 1")


def test_a_position_along_a_missing_axis_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    write_image(tmp_path / "a.png", RGB)
    for name in ("a.tif", "a.png"):
        check_regions(tmp_path / name, RGB, at={"z": 0})
        with pytest.raises(FileError, match=r"position 7 along z.*Leave 'z' out of `at`"):
            open_image(tmp_path / name, at={"z": 7})


def test_levels_of_a_slide_are_those_of_its_series(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    text = "Aperio Image Library v12.0.15\r\n768x512 (256x256){} JPEG/RGB Q=30|AppMag = 20|MPP = 0.4990"
    base = rng.integers(0, 256, (512, 768, 3), np.uint8)
    options = {"photometric": "rgb", "metadata": None, "compression": "zlib"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(base, tile=(256, 256), description=text.format(""), **options)
        writer.write(base[::8, ::8], rowsperstrip=16, description=text.format(" -> 96x64"), **options)
        writer.write(base[::4, ::4], tile=(256, 256), description=text.format(" -> 192x128"), **options)
    np.testing.assert_array_equal(read_image(path), base)
    with open_image(path, level=1) as image:
        assert image.levels == ((512, 768), (128, 192))
        assert image.pixel_size == PixelSize(0.499 * 4, 0.499 * 4)
        np.testing.assert_array_equal(np.asarray(image), base[::4, ::4])
    with open_image(path, page=1) as image:
        np.testing.assert_array_equal(np.asarray(image), base[::8, ::8])


@pytest.mark.parametrize("orientation", [2, 6])
def test_levels_of_a_rotated_page_are_rotated(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "turned.tif"
    tag = [(274, 3, 1, orientation, True)]
    options = {"tile": (64, 64), "metadata": None, "extratags": tag, "resolutionunit": 3}
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY16, subifds=1, resolution=(40_000, 20_000), **options)
        writer.write(GREY16[::2, ::2], subfiletype=1, resolution=(20_000, 10_000), **options)
    for level in (0, 1):
        expected = GREY16[:: 2**level, :: 2**level]
        expected = np.rot90(expected, -1) if orientation == 6 else expected[:, ::-1]
        size = (0.25, 0.5) if orientation == 6 else (0.5, 0.25)
        with open_image(path, level=level) as image:
            np.testing.assert_array_equal(np.asarray(image), expected)
            assert image.levels[level] == expected.shape
            assert image.pixel_size == PixelSize(size[0] * 2**level, size[1] * 2**level)
    np.testing.assert_array_equal(
        read_image(path, page=0), np.rot90(GREY16, -1) if orientation == 6 else GREY16[:, ::-1]
    )


def test_a_smaller_copy_with_another_dtype_is_not_a_level(tmp_path: Path) -> None:
    path = tmp_path / "copies.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(RGB, photometric="rgb", metadata=None)
        writer.write(GREY16[::2, ::2], subfiletype=1, metadata=None)
    with open_image(path) as image:
        assert image.levels == ((150, 230),)


@pytest.mark.parametrize("photometric", [0, 1])
def test_fax_is_read_as_0_and_255_by_region(photometric: int, tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    bits = rng.random((150, 230)) > 0.7
    Image.fromarray(bits).save(tmp_path / "fax.tif", compression="group4", tiffinfo={262: photometric})
    check_regions(tmp_path / "fax.tif", read_image(tmp_path / "fax.tif"))
    assert set(np.unique(read_image(tmp_path / "fax.tif"))) == {0, 255}


@pytest.mark.skipif(not REAL_FILES.is_dir(), reason="the real files of TILEDSEG_DATA are missing")
@pytest.mark.slow
def test_real_files_are_equal_whole_and_by_region(alike: Callable[[Path], int]) -> None:
    files = [path for path in sorted(REAL_FILES.rglob("*")) if path.is_file()]
    assert sum(alike(path) > 0 for path in files) >= 699


@pytest.mark.parametrize(
    "change",
    [
        ('PlaneCount="1"', 'PlaneCount="99999999999"'),
        ('IFD="0"', 'IFD="4000000000"'),
        ("<OME ", '<!DOCTYPE a [<!ENTITY b "b">]><OME '),
        ("</OME>", '<ModuloAlongZ Start="0" End="1e12" Step="1"/></OME>'),
    ],
)
def test_ome_metadata_that_declares_too_much_is_refused(change: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, GREY16, ome=True, metadata={"axes": "YX"})
    text = tifffile.tiffcomment(path)
    changed = text.replace(*change)
    assert changed != text
    tifffile.tiffcomment(path, changed.encode())
    for read in (open_image, read_image):
        with pytest.raises(FileError, match="declares more than the file holds"):
            read(path)


def test_an_ome_tiff_whose_other_files_are_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.ome.tif"
    tifffile.imwrite(path, GREY16, ome=True, metadata={"axes": "YX"})
    text = tifffile.tiffcomment(path)
    part = text.replace(
        '<TiffData IFD="0" PlaneCount="1"/>',
        '<TiffData IFD="0"><UUID FileName="a.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData IFD="0" FirstZ="1"><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>',
    ).replace('SizeZ="1"', 'SizeZ="2"')
    assert part != text
    tifffile.tiffcomment(path, part.encode())
    with pytest.raises(FileError, match=r"a part of an OME-TIFF of several files, and a\.tif cannot be read"):
        open_image(path, at={"z": 0})


def test_a_corrupt_tile_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "corrupt.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.dataoffsets[5]
    with path.open("r+b") as file:
        file.seek(offset + 2)
        file.write(b"\xff" * 40)
    with open_image(path) as image:
        np.testing.assert_array_equal(image[:64], RGB[:64])
        with pytest.raises(FileError, match="tile 5 at y=64, x=64 px corrupt"):
            image[64:128]


def test_decompression_bombs_are_refused_before_memory_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression="zlib")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        places = {tag.code: tag.valueoffset for tag in tiff.pages.first.tags}
    for code in (256, 257, 278):
        data[places[code] : places[code] + 2] = (65535).to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"bytes of data for 65535x65535 px|at most 1 GiB"):
        open_image(path)
    with pytest.raises(FileError, match="at most max_pixels=100 px"):
        open_image(path, max_pixels=100)


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_encoded_files_are_decoded_whole_within_limits(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{suffix}"
    path.write_bytes(cv2.imencode(suffix, RGB[..., ::-1])[1].tobytes())
    check_regions(path, RGB)
    with open_image(path) as image:
        assert image.is_whole
    with pytest.raises(FileError, match="max_pixels=1000"):
        open_image(path, max_pixels=1000)


@pytest.mark.parametrize(
    "pixels",
    [
        RGB,
        GREY16.astype(">u2"),
        np.ones((150, 230, 2), np.float32),
        np.asfortranarray(RGB),
        np.asfortranarray(GREY16),
    ],
)
def test_npy_is_read_by_rows(pixels: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels)
    check_regions(tmp_path / "a.npy", pixels.astype(pixels.dtype.newbyteorder("=")))
    if pixels.ndim == 3:
        check_regions(tmp_path / "a.npy", np.ascontiguousarray(pixels[..., [1, 0]]), channels=(1, 0))
        check_regions(tmp_path / "a.npy", np.ascontiguousarray(pixels[..., 1]), channels=1)


def test_channels_may_be_read_several_times(tmp_path: Path) -> None:
    grey = GREY16[:90, :80]
    np.save(tmp_path / "a.npy", grey)
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    tifffile.imwrite(tmp_path / "a.tif", grey, tile=(16, 16))
    for name in ("a.npy", "a.png", "a.tif"):
        check_regions(tmp_path / name, np.stack([grey] * 3, axis=2), channels=(0, 0, 0))
        np.testing.assert_array_equal(read_image(tmp_path / name, channels=(0, 0)), np.stack([grey] * 2, 2))
    tifffile.imwrite(tmp_path / "rgb.tif", RGB, photometric="rgb")
    check_regions(tmp_path / "rgb.tif", np.ascontiguousarray(RGB[..., [2, 0, 2]]), channels=(2, 0, 2))


def test_half_floats_of_arrays_become_float32_and_their_planes_are_counted(tmp_path: Path) -> None:
    half = np.arange(600).reshape(20, 30).astype(np.float16)
    np.save(tmp_path / "a.npy", half)
    zarr.create_array(tmp_path / "a.zarr", data=half, chunks=(10, 10))
    for name in ("a.npy", "a.zarr"):
        check_regions(tmp_path / name, half.astype(np.float32))
        with pytest.raises(FileError, match=r"position 3 along z.*Leave 'z' out"):
            open_image(tmp_path / name, at={"z": 3})


def test_npy_that_is_not_an_image_is_refused(tmp_path: Path) -> None:
    cases = {
        r"\(C, H, W\). Move them": np.ascontiguousarray(np.moveaxis(RGB, -1, 0)),
        r"shape \(H, W\)": np.zeros(5),
        "complex": np.zeros((3, 3), complex),
    }
    for found, array in cases.items():
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(FileError, match=found):
            open_image(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(FileError, match="hold numbers"):
        open_image(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", RGB)
    os.truncate(tmp_path / "a.npy", 5000)
    with pytest.raises(FileError, match="5000 bytes where"):
        open_image(tmp_path / "a.npy")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("pixels", [RGB, GREY16])
def test_a_zarr_array_is_read_by_chunks(version: int, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    chunks = (64, 48, 2)[: pixels.ndim]
    array = zarr.create_array(
        path, shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, zarr_format=version
    )
    array[:] = pixels
    check_regions(path, pixels)
    if pixels.ndim == 3:
        check_regions(path, np.ascontiguousarray(pixels[..., [2, 0]]), channels=[2, 0])


def test_a_sharded_zarr_with_named_axes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "named.zarr"
    stack = rng.integers(0, 256, (3, 2, 70, 90), np.uint8)
    zarr.create_array(
        path,
        shape=stack.shape,
        dtype="u1",
        chunks=(1, 1, 32, 32),
        shards=(1, 1, 64, 64),
        dimension_names=["c", "z", "y", "x"],
    )[:] = stack
    with open_image(path, at={"z": 1}) as image:
        np.testing.assert_array_equal(np.asarray(image), np.moveaxis(stack[:, 1], 0, -1))
    with pytest.raises(FileError, match=r"2 positions along z. Pass at=\{'z': 0\}"):
        open_image(path)


def ome_zarr(path: Path, stack: np.ndarray, version: str) -> None:
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"
    ]
    datasets = []
    for level in range(2):
        step = 2**level
        data = stack[:, ::step, ::step]
        group.create_array(str(level), shape=data.shape, dtype=data.dtype, chunks=(1, 32, 32))[:] = data
        scale = {"type": "scale", "scale": [1.0, 0.5 * step, 0.25 * step]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale]})
    multiscales = [{"axes": axes, "datasets": datasets}]
    group.attrs.update(
        {"multiscales": multiscales}
        if version == "0.4"
        else {"ome": {"version": version, "multiscales": multiscales}}
    )


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_axes_levels_and_px_size_of_an_ome_zarr(version: str, tmp_path: Path) -> None:
    stack = rng.integers(0, 256, (4, 70, 90), np.uint8)
    ome_zarr(tmp_path / "a.ome.zarr", stack, version)
    with open_image(tmp_path / "a.ome.zarr", level=1, channels=(0, 3)) as image:
        assert image.levels == ((70, 90), (35, 45))
        assert image.pixel_size == PixelSize(1.0, 0.5)
        np.testing.assert_array_equal(
            image[2:5, 1:9], np.moveaxis(stack[:, ::2, ::2], 0, -1)[2:5, 1:9, [0, 3]]
        )


def test_zarr_with_pickle_or_damaged_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pickled.zarr"
    zarr.create_array(path, shape=(4, 4), dtype="u1", chunks=(4, 4), zarr_format=2)
    metadata = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps(metadata | {"filters": [{"id": "pickle", "protocol": 5}]}))
    with pytest.raises(FileError, match="pickle"):
        open_image(path)
    (path / ".zarray").write_text("{")
    with pytest.raises(FileError, match="zarr metadata that cannot be read"):
        open_image(path)
    group = zarr.create_group(tmp_path / "group.zarr")
    group.create_array("0", shape=(4, 4), dtype="u1", chunks=(4, 4))
    with pytest.raises(FileError, match=r"hold one OME-Zarr image; got a group without one.*'0'"):
        open_image(tmp_path / "group.zarr")
    ome_zarr(tmp_path / "ome.zarr", np.ones((1, 8, 8), np.uint8), "0.5")
    chunk = next(one for one in (tmp_path / "ome.zarr" / "0" / "c").rglob("*") if one.is_file())
    chunk.write_bytes(b"rubbish")
    with (
        open_image(tmp_path / "ome.zarr") as image,
        pytest.raises(FileError, match="chunk at y=0, x=0 px corrupt"),
    ):
        image[:, :]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_that_is_a_pipe_is_refused(version: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(path, shape=(64, 96), dtype="u1", chunks=(32, 32), zarr_format=version)
    array[:] = 7
    chunk = path / ("1.2" if version == 2 else "c/1/2")
    chunk.unlink()
    os.mkfifo(chunk)
    with open_image(path) as image:
        assert (image[:32] == 7).all()
        with pytest.raises(FileError, match=r"consist of regular files.*a pipe"):
            image[32:]


def test_invalid_options_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RGB)
    with pytest.raises(SettingError, match="`level` must be a whole number"):
        open_image(tmp_path / "a.png", level=-1)
    with pytest.raises(SettingError, match=r"`channels` .*for example"):
        open_image(tmp_path / "a.png", channels=())
    with pytest.raises(FileError, match="have channels"):
        open_image(tmp_path / "a.png", channels=3)
    with pytest.raises(SettingError, match=r"`at` .*z and t"):
        open_image(tmp_path / "a.png", at={"q": 1})
    with open_image(tmp_path / "a.png") as image, pytest.raises(ArrayError, match="step of 1"):
        image[::2]
    (tmp_path / "b.txt").write_text("hello there")
    with pytest.raises(FileError, match="PNG, JPEG"):
        open_image(tmp_path / "b.txt")


def test_several_threads_can_read_one_source(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", tile=(16, 16), compression="zlib")
    wrong = []
    with open_image(tmp_path / "a.tif") as image:

        def read(seed: int) -> None:
            for y, x in np.random.default_rng(seed).integers(0, 140, (40, 2)):
                if not np.array_equal(image[y : y + 10, x : x + 10], RGB[y : y + 10, x : x + 10]):
                    wrong.append((y, x))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("head", [b"{'descr': (", b"{'descr': '|u1', 'shape': (1,", b'{"""', b"nan", b"f(3)"])
def test_an_npy_header_that_is_no_python_is_damage(tmp_path, head):
    (tmp_path / "a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(90)
    )
    with pytest.raises(FileError, match="npy header"):
        read_image(tmp_path / "a.npy")


def test_an_image_of_pillow_that_exif_turns_is_refused(tmp_path):
    pixels, exif = np.arange(24, dtype=np.uint8).reshape(4, 6), Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        with pytest.raises(ArrayError, match=r"be upright; got orientation 3 in Exif. Pass PIL.ImageOps"):
            tiled_predict(lambda tiles: tiles, opened)
        upright = ImageOps.exif_transpose(opened)
    np.testing.assert_array_equal(tiled_predict(lambda tiles: tiles, upright)[..., 0], pixels[::-1, ::-1])
    with open_image(tmp_path / "a.png") as shown:
        np.testing.assert_array_equal(shown[:, :], pixels[::-1, ::-1])


INDICES = [
    np.s_[..., :2],
    np.s_[..., 1:2],
    np.s_[2:9, ..., 1:],
    np.s_[..., 3:7, :],
    np.s_[...],
    np.s_[:, -7:-2],
    np.s_[-5:],
    np.s_[np.int64(3) : np.uint8(9)],
]


@pytest.mark.parametrize("key", INDICES)
@pytest.mark.parametrize("name", ["a.tif", "a.npy"])
def test_an_index_means_what_it_means_for_an_array(tmp_path, name, key):
    if name == "a.npy":
        np.save(tmp_path / name, np.asfortranarray(RGB))
    else:
        tifffile.imwrite(tmp_path / name, RGB, tile=(64, 48), photometric="rgb")
    with open_image(tmp_path / name) as image:
        np.testing.assert_array_equal(image[key], RGB[key])


@pytest.mark.parametrize("key", [5, None, (..., ...), np.s_[:, :, :, :], np.s_[::2], np.s_[1.5:3], [1, 2]])
def test_other_indices_are_refused(key, tmp_path):
    np.save(tmp_path / "a.npy", RGB)
    with (
        open_image(tmp_path / "a.npy") as image,
        pytest.raises(ArrayError, match="slices with a step of 1, at most 3"),
    ):
        image[key]
