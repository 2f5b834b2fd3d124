"""What the samples of a TIFF mean: bits, channels, alpha, palettes, CMYK, tiles that were left out."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tiledseg.errors import FileError
from tiledseg.io import image_shape, open_image, read_image, read_mask

REAL_FILES = Path(os.environ.get("TILEDSEG_DATA", "missing"), "files")
rng = np.random.default_rng(5)
GREY = rng.integers(0, 256, (40, 70), np.uint8)
COLOUR = rng.integers(0, 256, (40, 70, 3), np.uint8)


def tiff(array, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


@pytest.fixture
def put(tmp_path):
    def put(data: bytes, name="image.tif"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put


def test_colours_that_px_share_are_said_not_to_be_supported(put):
    data = bytearray(tiff(COLOUR, photometric="ycbcr"))
    at = data.index(struct.pack("<HHI", 530, 3, 2))  # YCbCrSubSampling
    data[at + 8 : at + 12] = struct.pack("<HH", 2, 2)
    with pytest.raises(FileError, match=r"have the colour of each px; got YCbCr.*Save it as RGB"):
        read_image(put(bytes(data)))


def by_lists(tags, parts, *, tiled=False) -> bytes:
    """Make a TIFF of one page with tags of any length, and its tiles or strips."""
    tags = {
        **tags,
        (324 if tiled else 273): [0] * len(parts),
        (325 if tiled else 279): [len(p) for p in parts],
    }
    at = 8 + 2 + 12 * len(tags) + 4
    data_at = at + sum(4 * len(values) for values in tags.values() if len(values) > 1)
    starts = np.cumsum([data_at, *[len(part) for part in parts]])[:-1]
    tags[324 if tiled else 273] = [
        int(start) if part else 0 for start, part in zip(starts, parts, strict=True)
    ]
    entries, more = b"", b""
    for tag, values in sorted(tags.items()):
        body = struct.pack(f"<{len(values)}I", *values)
        entries += struct.pack("<HHI", tag, 4, len(values))
        entries += body if len(values) == 1 else struct.pack("<I", at + len(more))
        more += body if len(values) > 1 else b""
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + more + b"".join(parts)


@pytest.mark.parametrize("model", ["rgb", "minisblack"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_kept_as_the_last_channel(put, model, planar):
    colours = COLOUR if model == "rgb" else GREY[..., None]
    image = np.dstack([colours, GREY // 3])
    stored = image if planar == "contig" else np.moveaxis(image, 2, 0).copy()
    path = put(tiff(stored, photometric=model, planarconfig=planar, extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(read_image(path, alpha="keep"), image)
    with open_image(path, alpha="keep") as opened:
        assert opened.shape == image.shape
        np.testing.assert_array_equal(opened[:, :], image)
    with pytest.raises(FileError, match="opaque"):
        read_image(path)


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_any_number_of_channels_is_an_image_but_no_mask(put, channels, planar):
    image = rng.integers(0, 256, (8, 9, channels), np.uint8)
    stored = image if planar == "contig" else np.moveaxis(image, 2, 0).copy()
    path = put(tiff(stored, photometric="minisblack", planarconfig=planar))
    np.testing.assert_array_equal(read_image(path), image)
    assert image_shape(path) == image.shape
    with pytest.raises(FileError, match="1 or 3 channels"):
        read_mask(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_cmyk_becomes_rgb_by_the_stated_conversion(put, dtype, planar):
    most = np.iinfo(dtype).max
    inks = rng.integers(0, most + 1, (8, 9, 4)).astype(dtype)
    stored = inks if planar == "contig" else np.moveaxis(inks, 2, 0).copy()
    path = put(tiff(stored, photometric="separated", planarconfig=planar))
    light = 1 - inks / most
    expected = np.rint(light[..., :3] * light[..., 3:] * most).astype(dtype)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_shape(path) == (8, 9, 3)
    if dtype == "uint8" and planar == "contig":
        with Image.open(path) as opened:
            assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_ycbcr_becomes_rgb_as_in_jpeg(put, planar):
    stored = COLOUR if planar == "contig" else np.moveaxis(COLOUR, 2, 0).copy()
    path = put(tiff(stored, photometric="ycbcr", planarconfig=planar, subsampling=(1, 1)))
    read = read_image(path).astype(int)
    expected = np.asarray(Image.fromarray(COLOUR, "YCbCr").convert("RGB")).astype(int)
    assert np.abs(read - expected).max() <= 1
    assert image_shape(path) == COLOUR.shape


def test_inks_other_than_cmyk_are_channels(put):
    inks = rng.integers(0, 256, (8, 9, 4), np.uint8)
    path = put(tiff(inks, photometric="separated", extratags=[(332, 3, 1, 2, True)]))
    np.testing.assert_array_equal(read_image(path), inks)


@pytest.mark.parametrize("model", ["minisblack", "miniswhite", "rgb"])
@pytest.mark.parametrize(
    ("layout", "bits"),
    [
        pytest.param(layout, bits, marks=pytest.mark.slow if layout and bits not in {1, 3, 12} else ())
        for layout in ({}, {"rowsperstrip": 7}, {"tile": (16, 16)})
        for bits in (1, 2, 3, 4, 6, 7, 9, 10, 12, 14, 15, 24, 31)
    ],
)
def test_packed_bits_are_spread_below_8_and_kept_above(put, bits, model, layout):
    pytest.importorskip("imagecodecs")
    dtype = np.dtype("uint8" if bits <= 8 else "uint16" if bits <= 16 else "uint32")
    most = 2**bits - 1
    shape = (40, 70, 3) if model == "rgb" else (40, 70)
    image = rng.integers(0, most, shape, dtype, endpoint=True)
    path = put(tiff(image, bitspersample=bits, photometric=model, **layout))
    shown = most - image if model == "miniswhite" else image
    expected = np.rint(shown * (255 / most)).astype(np.uint8) if bits < 8 else shown
    read = read_image(path)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, expected)
    with open_image(path) as opened:
        np.testing.assert_array_equal(opened[3:20, 5:60], expected[3:20, 5:60])
    if model == "minisblack" and bits < 8:
        np.testing.assert_array_equal(read_mask(path, None), image)


@pytest.mark.parametrize("parts", [[b"\5" * 256, b"", b"", b"\7" * 256], [b"", b"\5" * 256, b"", b""]])
@pytest.mark.parametrize("tiled", [True, False])
def test_tiles_that_were_left_out_are_background(put, parts, tiled):
    tags = {256: [32], 257: [32], 258: [8], 259: [1], 262: [1], 277: [1]}
    tags |= {322: [16], 323: [16]} if tiled else {278: [8]}
    path = put(by_lists(tags, parts, tiled=tiled))
    expected = tifffile.imread(path)
    assert 0 in expected
    assert expected.any()
    np.testing.assert_array_equal(read_image(path), expected)
    with open_image(path) as opened:
        np.testing.assert_array_equal(opened[4:30, 3:29], expected[4:30, 3:29])


def test_a_file_without_any_tile_is_damaged(put):
    tags = {256: [32], 257: [32], 258: [8], 259: [1], 262: [1], 277: [1], 322: [16], 323: [16]}
    for read in (read_image, open_image):
        with pytest.raises(FileError, match="0 bytes of data for 32x32 px"):
            read(put(by_lists(tags, [b""] * 4, tiled=True)))


def test_left_out_tiles_cannot_declare_far_more_than_the_file_is_long(put):
    tags = {256: [30_000], 257: [30_000], 258: [16], 259: [8], 262: [1], 277: [1], 322: [8192], 323: [8192]}
    tags |= {322: [30_000], 323: [1024]}
    path = put(by_lists(tags, [b""] * 29 + [zlib.compress(bytes(30_000 * 1024 * 2))[:999]], tiled=True))
    with pytest.raises(FileError, match="30000x30000 px"):
        read_image(path)


@pytest.mark.parametrize(
    ("samples", "colormap", "inferred"),
    [(1, None, "grey"), (3, None, "rgb"), (1, [0, 65535, 9] * 256, "palette")],
)
def test_a_missing_photometric_tag_is_inferred(put, samples, colormap, inferred):
    image = rng.integers(0, 256, (8, 9, samples), np.uint8)
    tags = {256: [9], 257: [8], 258: [8] * samples, 259: [1], 277: [samples], 278: [8]}
    tags |= {320: colormap} if colormap else {}
    read = read_image(put(by_lists(tags, [image.tobytes()])))
    expected = {"grey": image[..., 0], "rgb": image}.get(inferred)
    if expected is None:
        expected = (np.array(colormap).reshape(3, 256).T >> 8).astype(np.uint8)[image[..., 0]]
    np.testing.assert_array_equal(read, expected)


def test_a_palette_of_8_bits_is_taken_as_libtiff_does(put):
    colours = rng.integers(0, 256, (3, 256), np.uint16)
    labels = rng.integers(0, 256, (8, 9), np.uint8)
    path = put(tiff(labels, photometric="palette", colormap=colours))
    np.testing.assert_array_equal(read_image(path), colours.T[labels])


def test_a_palette_of_16_bit_indices(put):
    colours = rng.integers(0, 65536, (3, 65536), np.uint16)
    indices = rng.integers(0, 65536, (8, 9), np.uint16)
    path = put(tiff(indices, photometric="palette", colormap=colours))
    np.testing.assert_array_equal(read_image(path), (colours.T[indices] >> 8).astype(np.uint8))
    assert image_shape(path) == (8, 9, 3)


def test_a_grey_palette_is_grey(put):
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    path = put(tiff(GREY, photometric="palette", colormap=ramp))
    np.testing.assert_array_equal(read_image(path), GREY)
    assert image_shape(path) == GREY.shape
    np.testing.assert_array_equal(read_mask(path, 128), GREY >= 128)
    np.testing.assert_array_equal(read_mask(path, None), GREY)
    path = put(tiff(GREY, photometric="palette", colormap=ramp[:, ::-1].copy()))
    np.testing.assert_array_equal(read_image(path), 255 - GREY)
    with pytest.raises(FileError, match="palette='index'"):
        read_mask(path)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "int64", "uint64", "float64"])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib", "byteorder": ">"}])
def test_what_an_array_may_be_a_file_may_be(put, dtype, options):
    image = (rng.random((40, 70)) * 250 - (100 if dtype.startswith(("i", "f")) else 0)).astype(dtype)
    path = put(tiff(image, **options))
    read = read_image(path)
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read, image)
    with open_image(path) as opened:
        assert opened.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(opened[3:30, 5:60], image[3:30, 5:60])


def test_cmyk_of_real_numbers_becomes_rgb(put):
    inks = rng.random((5, 6, 4)).astype(np.float32)
    found = read_image(put(tiff(inks, photometric="separated")))
    np.testing.assert_allclose(found, (1 - inks[..., :3]) * (1 - inks[..., 3:]))


def test_cmyk_of_32_bits_becomes_rgb_and_that_of_64_bits_is_refused(put):
    inks = rng.integers(0, 2**32, (5, 6, 4), np.uint32)
    most = 2**32 - 1
    expected = (most - inks[..., :3].astype(float)) * (most - inks[..., 3:].astype(float)) / most
    np.testing.assert_allclose(
        read_image(put(tiff(inks, photometric="separated"))), expected, rtol=1e-6, atol=1
    )
    with pytest.raises(FileError, match="CMYK of 4 samples of uint64"):
        read_image(put(tiff(inks.astype(np.uint64), photometric="separated")))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("kind", "offset"), [("cielab", 0), ("icclab", 128)])
def test_lab_becomes_rgb(put, bits, kind, offset):
    if kind == "icclab" and bits == 16:
        pytest.skip("its 16-bit form has two definitions, and is refused")
    lab = np.array([[[100, 0, 0], [0, 0, 0], [50, 0, 0], [50, 40, -30], [70, 20, 50], [60, -40, 30]]], float)
    unit = 2 ** (bits - 8)
    sides = np.rint((lab[..., 1:] + offset) * unit).astype(int) % 2**bits
    stored = np.dstack([np.rint(lab[..., :1] / 100 * (2**bits - 1)), sides]).astype(f"uint{bits}")
    image = Image.fromarray(
        np.dstack([np.rint(lab[..., :1] * 2.55), lab[..., 1:]]).astype(int).astype("u1"), "LAB"
    )
    oracle = ImageCms.buildTransform(
        ImageCms.createProfile("LAB", 5000), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    expected = np.asarray(ImageCms.applyTransform(image, oracle)).astype(float)
    found = read_image(put(tiff(stored, photometric=kind))).astype(float) / (257 if bits == 16 else 1)
    assert np.abs(found - expected).max() <= 2


def test_complex_numbers_are_refused(put):
    with pytest.raises(FileError, match=r"integers or real numbers; got .*complex64"):
        read_image(put(tiff(np.zeros((4, 5), "complex64"))))


def test_floats_with_0_as_white_are_as_stored(put):
    image = rng.random((8, 9)).astype(np.float32)
    np.testing.assert_array_equal(read_image(put(tiff(image, photometric="miniswhite"))), image)


@pytest.mark.skipif(not REAL_FILES.is_dir(), reason="the real files of TILEDSEG_DATA are missing")
def test_real_files_are_read_as_by_tifffile():
    equal, refused = 0, []
    for path in sorted(one for one in REAL_FILES.rglob("*") if one.suffix.lower() in {".tif", ".tiff"}):
        try:
            with tifffile.TiffFile(path) as opened:
                page, count = opened.pages.first, len(opened.series)
                expected = opened.asarray()
                plain = int(page.photometric) in {1, 2} and page.bitspersample in {8, 16, 32, 64}
                turned = page.tags.valueof(274, default=1) != 1
                several = count > 1 or len(opened.pages) > 1
        except Exception:  # noqa: BLE001  what tifffile cannot read is no comparison
            continue
        if not plain or turned or several or not expected.size or "multiples" in str(path):
            continue
        try:
            found = read_image(path, alpha="keep")
        except FileError:
            refused.append(path.name)
            continue
        if page.planarconfig == 2 and expected.ndim == 3:
            expected = np.moveaxis(expected, 0, -1)
        np.testing.assert_array_equal(np.squeeze(found), np.squeeze(expected), err_msg=path.name)
        equal += 1
    assert equal >= 80
    assert refused == ["tiff_wrong_bits_per_sample.tiff"]  # its strip ends beyond the end of the file


@pytest.mark.skipif(not REAL_FILES.is_dir(), reason="the real files of TILEDSEG_DATA are missing")
def test_planes_of_real_files_are_those_of_the_series_of_tifffile():
    count = 0
    for path in sorted(one for one in REAL_FILES.rglob("*") if one.suffix.lower() in {".tif", ".tiff"}):
        try:
            with tifffile.TiffFile(path) as opened:
                axes, expected = opened.series[0].axes, opened.series[0].asarray()
        except Exception:  # noqa: BLE001  what tifffile cannot read is no comparison
            continue
        if not {"Z", "T"} & set(axes) or not set(axes) <= set("TZCYXS"):
            continue
        for end in (0, -1):
            lengths = dict(zip(axes, expected.shape, strict=True))
            at = {axis.lower(): end % lengths[axis] for axis in axes if axis in "ZT"}
            plane = expected[tuple(at.get(axis.lower(), slice(None)) for axis in axes)]
            left = [axis for axis in axes if axis not in "ZT"]
            plane = plane.transpose([left.index(axis) for axis in "YXCS" if axis in left])
            found = read_image(path, at=at, alpha="keep")
            np.testing.assert_array_equal(np.squeeze(found), np.squeeze(plane), err_msg=str(path))
            count += 1
    assert count >= 6
