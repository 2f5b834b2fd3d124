"""Reading PNG, JPEG and BMP: images and masks; intact, damaged and ambiguous files."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import zlib
from pathlib import Path

import cv2
import fuzz_files
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import BmpImagePlugin, Image, ImageOps

from tiledseg.errors import FileError, SettingError, TiledSegError
from tiledseg.io import create_image, image_shape, open_image, read_image, read_mask, read_probs, write_image
from tiledseg.samples import smear

rng = np.random.default_rng(3)
GREY = rng.integers(0, 256, (12, 20), np.uint8)
COLOUR = rng.integers(0, 256, (12, 20, 3), np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, colour, rows, *extra, data=None) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows)) if data is None else data
    parts = [
        chunk(b"IHDR", header),
        *(chunk(*one) for one in extra),
        chunk(b"IDAT", body),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(suffix, array, *options) -> bytes:
    ordered = array if array.ndim == 2 else array[..., [2, 1, 0, *range(3, array.shape[2])]]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(ordered), options)
    assert done
    return data.tobytes()


def exif(orientation, order="<") -> bytes:
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    data = b"Exif\0\0" + block
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


@pytest.fixture
def put(tmp_path):
    def put(data: bytes, name="image.png") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(12, 20), (12, 20, 3), (1, 1), (1, 7, 3)])
def test_png_preserves_values_depth_and_rgb_order(put, shape, dtype):
    image = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    path = put(encoded(".png", image))
    read = read_image(path)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, image)
    assert image_shape(path) == shape


@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_bmp_preserves_values(put, image):
    path = put(encoded(".bmp", image))
    np.testing.assert_array_equal(read_image(path), image)
    assert image_shape(path) == image.shape


@pytest.mark.parametrize(
    "image", [np.full((16, 24), 90, np.uint8), np.full((16, 24, 3), (200, 30, 60), np.uint8)]
)
def test_jpeg_is_read_as_grey_or_rgb(put, image):
    path = put(encoded(".jpg", image, cv2.IMWRITE_JPEG_QUALITY, 100))
    read = read_image(path)
    assert read.shape == image.shape == image_shape(path)
    assert np.abs(read.astype(int) - image).max() <= 3


@pytest.mark.parametrize("head", ["ffd8fff7000b", "ffd8ffe80020535049464600" + "00" * 22 + "fff7000b"])
def test_jpeg_ls_is_said_not_to_be_supported(put, head):
    with pytest.raises(FileError, match="be a JPEG; got a JPEG-LS"):
        read_image(put(bytes.fromhex(head) + bytes(200), "image.jpg"))


def test_the_content_decides_the_format_not_the_suffix(put):
    np.testing.assert_array_equal(read_image(put(encoded(".png", COLOUR), "image.jpg")), COLOUR)


def webp(image, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("exact", [True, False])
def test_webp_is_read(put, exact):
    path = put(webp(COLOUR, lossless=exact), "image.webp")
    read = read_image(path)
    assert image_shape(path) == COLOUR.shape
    with Image.open(path) as opened:
        np.testing.assert_array_equal(read, np.asarray(opened.convert("RGB")))
    if exact:
        np.testing.assert_array_equal(read, COLOUR)
    with open_image(path) as opened:
        np.testing.assert_array_equal(opened[:, :], read)


def test_webp_masks_are_lossless(put):
    labels = np.repeat((GREY % 7)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_mask(put(webp(labels, lossless=True)), None), GREY % 7)
    with pytest.raises(FileError, match="WebP"):
        read_mask(put(webp(labels)), None)


def test_webp_with_alpha(put):
    image = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])
    image[3, 4, 3] = 7
    path = put(webp(image, lossless=True, exact=True))
    with pytest.raises(FileError, match="goes down to 7"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, alpha="drop"), COLOUR)
    np.testing.assert_array_equal(read_image(path, alpha="keep"), image)


FORMS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)]
FORMS += [(4, 8), (4, 16), (6, 8), (6, 16)]


def banded_png(colour, bits, *, filters=5, height=23, width=19, seed=5) -> bytes:
    """Make a PNG of any kind: random bytes under random filters, in several IDAT chunks."""
    random = np.random.default_rng(seed)
    row = (width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * bits + 7) // 8
    lines = random.integers(0, 256, (height, 1 + row), np.uint8)
    lines[:, 0] = random.choice(filters, height)
    data = zlib.compress(lines.tobytes())
    parts = [chunk(b"IDAT", data[at : at + 100]) for at in range(0, len(data), 100)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    palette = chunk(b"PLTE", random.bytes(3 * 2**bits)) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + header + palette + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("colour", "bits", "filters"), [(*one, 5) for one in FORMS] + [(2, 8, [0]), (2, 8, [2])]
)
def test_a_png_that_is_decoded_by_bands_is_equal_to_the_whole_one(put, monkeypatch, colour, bits, filters):
    path = put(banded_png(colour, bits, filters=filters))
    ways = [lambda: read_image(path, alpha="drop"), lambda: read_image(path, alpha="keep")]
    ways += [lambda: read_mask(path, None, palette="index", alpha="drop")] if colour in {0, 3, 4} else []
    whole = [way() for way in ways]
    monkeypatch.setattr("tiledseg.io.png.LARGE", 0)
    monkeypatch.setattr("tiledseg.io.png._BAND_BYTES", 4 * len(whole[0][0].tobytes()))
    for way, wanted in zip(ways, whole, strict=True):
        np.testing.assert_array_equal(way(), wanted, strict=True)
    with open_image(path, alpha="keep") as image:
        for rows in (slice(20, 23), slice(0, 5), slice(9, 15)):
            np.testing.assert_array_equal(image[rows, 3:9], whole[1][rows, 3:9], strict=True)
    if colour in {4, 6}:
        with pytest.raises(FileError, match="alpha or extra channel"):
            read_image(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-60], "more are declared"),
        (lambda data: data[:-40] + bytes([data[-40] ^ 4]) + data[-39:], "wrong checksum in its IDAT"),
        (lambda data: data.replace(b"\0\0\0\x17\x08", b"\0\0\0\x18\x08"), "checksum in its IHDR"),
    ],
)
def test_a_damaged_png_is_refused_band_by_band(put, monkeypatch, change, message):
    monkeypatch.setattr("tiledseg.io.png.LARGE", 0)
    with pytest.raises(FileError, match=message):
        read_image(put(change(banded_png(2, 8))))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (bytes(6 * 3), "data for less than the 4 rows declared"),
        (bytes(6 * 5), "data that do not end with the 4 rows"),
        (bytes(6 * 3) + b"\5" * 6, "a row with the filter 5"),
    ],
)
def test_bands_of_another_size_than_declared_are_refused(put, monkeypatch, lines, message):
    monkeypatch.setattr("tiledseg.io.png.LARGE", 0)
    path = put(png(5, 4, 8, 0, [], data=zlib.compress(lines)))
    with pytest.raises(FileError, match=message):
        read_image(path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((b"ABCD", b""), "critical chunk b'ABCD'"),
        ((b"PLTE", bytes(4)), "PLTE chunk of 4 bytes"),
        ((b"IDAT", b""), None),
    ],
)
def test_chunks_of_a_png_that_are_out_of_place_are_refused(put, extra, message):
    good = png(20, 12, 8, 0, [row.tobytes() for row in GREY])
    start, end = good.index(b"IDAT") - 4, good.index(b"IEND") - 4
    before = put(good[:start] + chunk(*extra) + good[start:])
    if message is None:
        np.testing.assert_array_equal(read_image(before), GREY)
        message = "out of order"
        good = good[:end] + chunk(b"tEXt", b"a\0b") + good[end:]
        end = good.index(b"IEND") - 4
    else:
        with pytest.raises(FileError, match=message):
            read_image(before)
        message = message if extra[0] == b"ABCD" else "out of order"
    with pytest.raises(FileError, match=message):
        read_image(put(good[:end] + chunk(*extra) + good[end:]))


def test_png_that_is_a_film_is_refused(put):
    buffer = io.BytesIO()
    frame = Image.fromarray(COLOUR)
    frame.save(buffer, "PNG", save_all=True, append_images=[Image.fromarray(255 - COLOUR)])
    film = buffer.getvalue()
    for data in (film, film.replace(b"acTL", b"zzTL"), film.replace(b"acTL\0\0\0\2", b"acTL\0\0\0\1")):
        with pytest.raises(FileError, match=r"2 frames\. Export one"):
            read_image(put(data))


def test_a_further_image_behind_the_first_is_refused(put):
    small = encoded(".jpg", COLOUR[:5, :9])
    whole = {suffix: encoded(suffix, COLOUR) for suffix in (".png", ".jpg", ".bmp", ".webp")}
    for suffix, data in whole.items():
        for behind in (data, bytes(3) + data) + ((small,) if suffix == ".jpg" else ()):
            with pytest.raises(FileError, match=r"one image; got .*several images"):
                read_image(put(data + behind, suffix))
        assert read_image(put(data + b"a note", suffix)).shape == COLOUR.shape
    films = {}
    for further in (COLOUR, COLOUR[:5, :9]):  # of a film, or a preview and the like
        buffer = io.BytesIO()
        Image.fromarray(COLOUR).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(further)])
        films[further.shape] = buffer.getvalue()
    assert read_image(put(films[5, 9, 3], ".jpg")).shape == COLOUR.shape
    with pytest.raises(FileError, match="several images"):
        read_image(put(films[COLOUR.shape], ".jpg"))


def test_webp_that_is_a_film_cut_off_or_too_large_is_refused(put, monkeypatch):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(FileError, match="2 frames"):
        read_image(put(buffer.getvalue()))
    whole = webp(COLOUR, lossless=True)
    for length in (1, 12, 20, 29, len(whole) // 2, len(whole) - 1):
        with pytest.raises(FileError, match="image"):
            read_image(put(whole[:length]))
    monkeypatch.setattr("tiledseg.io.raster.WebPImagePlugin.WebPImageFile", lambda *_: pytest.fail("opened"))
    for data in (whole, webp(COLOUR), webp(COLOUR, exif=b"Exif\0\0")):
        with pytest.raises(FileError, match="max_pixels=99"):
            read_image(put(data), max_pixels=99)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_px_that_do_not_fit_into_memory_are_refused_before_they_are_decoded(put, monkeypatch, suffix):
    path = put(encoded(suffix, COLOUR), suffix)
    monkeypatch.setattr("tiledseg.io.file._MUCH", 0)
    assert read_image(path).shape == COLOUR.shape
    monkeypatch.setattr("tiledseg.io.file.available_memory", lambda: 100)
    for read in (read_image, open_image):
        with pytest.raises(FileError, match=r"fit into the 0 MiB .* needs\. Free memory.*open_image"):
            read(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".npy", ".ome.zarr"])
def test_memory_that_runs_out_while_a_file_is_read_is_no_damage(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".ome.zarr":
        with create_image(path, COLOUR.shape, COLOUR.dtype) as sink:
            sink[:] = COLOUR
    elif suffix == ".npy":
        np.save(path, COLOUR)
    elif suffix == ".tif":
        write_image(path, COLOUR)
    else:
        path.write_bytes(encoded(suffix, COLOUR))

    def never(*arguments, **options):
        raise MemoryError("Unable to allocate 9 GiB")

    def without_memory(*arguments):
        raise cv2.error("Failed to allocate 9 bytes")

    monkeypatch.setattr(cv2.error, "code", -4, raising=False)
    monkeypatch.setattr(cv2.error, "err", "Unable to allocate 9 GiB", raising=False)
    monkeypatch.setattr(cv2, "imdecode", without_memory)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", never)
    monkeypatch.setattr(np, "array", never)
    monkeypatch.setattr(np, "empty", never)
    with pytest.raises(FileError, match=r"fit into memory; got Unable to allocate 9 GiB\. Free memory"):
        read_image(path)


def test_a_cmyk_image_is_converted_in_few_rows_at_once(put, monkeypatch):
    inks = rng.integers(0, 256, (150, 7, 4), np.uint8)
    made = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(made, "JPEG", quality=95)
    path = put(made.getvalue(), ".jpg")
    whole = read_image(path)
    monkeypatch.setattr("tiledseg.io.file._ROWS", 1000)
    np.testing.assert_array_equal(read_image(path), whole)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_alpha_is_kept_as_the_last_channel(put, suffix):
    image = np.dstack([COLOUR, GREY])
    buffer = io.BytesIO()
    Image.fromarray(image).save(
        buffer, suffix[1:], **({"lossless": True, "exact": True} if suffix == ".webp" else {})
    )
    np.testing.assert_array_equal(read_image(put(buffer.getvalue()), alpha="keep"), image)


def test_grey_palettes_are_grey(put):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for suffix in ("png", "bmp"):
        buffer = io.BytesIO()
        Image.fromarray(ramp).convert("P").save(buffer, suffix)
        path = put(buffer.getvalue())
        np.testing.assert_array_equal(read_image(path), ramp)
        assert image_shape(path) == ramp.shape
        np.testing.assert_array_equal(read_mask(path, None), ramp)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int16", "float32"])
def test_npy_is_read_as_other_files(tmp_path, dtype):
    values = (GREY > 99).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    read = read_image(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, values)
    assert read.dtype == dtype
    assert image_shape(tmp_path / "a.npy") == GREY.shape
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy", 1), values != 0)
    if dtype == "float32":
        np.testing.assert_array_equal(read_probs(tmp_path / "a.npy"), values[..., None])
    else:
        np.testing.assert_array_equal(read_mask(tmp_path / "a.npy", None), values)
        with pytest.raises(FileError, match="real numbers"):
            read_probs(tmp_path / "a.npy")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (0, lambda a: a),
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: np.swapaxes(a, 0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(np.swapaxes(a, 0, 1), 2)),
        (8, np.rot90),
        (9, lambda a: a),
    ],
)
def test_exif_orientation_is_applied_to_images_and_masks(put, orientation, turn, order):
    jpeg = put(with_exif(encoded(".jpg", COLOUR), exif(orientation, order)), "image.jpg")
    plain = read_image(put(encoded(".jpg", COLOUR), "plain.jpg"))
    np.testing.assert_array_equal(read_image(jpeg), turn(plain))
    assert image_shape(jpeg) == turn(plain).shape
    mask = (GREY > 99).astype(np.uint8)
    rows = [row.tobytes() for row in mask * np.uint8(255)]
    labels = read_mask(put(png(20, 12, 8, 0, rows, (b"eXIf", exif(orientation, order))), "mask.png"))
    np.testing.assert_array_equal(labels, turn(mask))


def test_damaged_exif_leaves_the_image_as_stored(put):
    jpeg = encoded(".jpg", COLOUR)
    plain = read_image(put(jpeg, "plain.jpg"))
    for block in (b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"junk" * 9):
        np.testing.assert_array_equal(read_image(put(with_exif(jpeg, block), "image.jpg")), plain)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_a_file_cut_off_anywhere_is_an_error(put, suffix, image):
    data = encoded(suffix, image)
    for length in [*range(1, 60), *range(60, len(data), 9), *range(len(data) - 16, len(data))]:
        with pytest.raises(FileError, match="image"):
            read_image(put(data[:length]))


def test_a_flipped_byte_in_a_png_is_an_error(put):
    data = encoded(".png", COLOUR)
    for at in range(0, len(data), 3):
        broken = bytearray(data)
        broken[at] ^= 0x10
        with pytest.raises(FileError):
            read_image(put(bytes(broken)))


def test_png_data_that_ends_early_is_an_error(put):
    half = zlib.compress(COLOUR.tobytes())[:300]
    with pytest.raises(FileError, match="OpenCV"):
        read_image(put(png(20, 12, 8, 2, [], data=half)))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([".png", ".jpg", ".bmp"]), st.data())
def test_damage_is_a_tiledseg_error_or_an_image_of_the_declared_shape(tmp_path_factory, suffix, data):
    whole = bytearray(encoded(suffix, COLOUR))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=5)):
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / "image"
    path.write_bytes(whole)
    try:
        image = read_image(path, max_pixels=10_000, alpha="drop")
    except TiledSegError:
        return
    assert image.shape == image_shape(path)


def test_jpeg_without_its_end_marker_is_an_error(put):
    data = encoded(".jpg", COLOUR)
    with pytest.raises(FileError, match="without its end-of-image marker"):
        read_image(put(data[: len(data) * 3 // 4]))
    thumbnail = with_exif(data[: len(data) * 3 // 4], exif(1) + b"\xff\xd8\xff\xd9")
    with pytest.raises(FileError, match="without its end-of-image marker"):
        read_image(put(thumbnail))


def test_bytes_after_the_end_of_a_jpeg_are_ignored(put):
    assert read_image(put(encoded(".jpg", COLOUR) + b"\0" * 50)).shape == COLOUR.shape


def test_an_empty_file_is_refused(put):
    with pytest.raises(FileError, match="an empty file"):
        read_image(put(b""))


@pytest.mark.parametrize("data", [b"G", b"GIF89a....", b"hello world", b"%PDF-1.7", b"\0" * 40])
def test_a_file_that_is_not_an_image_is_refused(put, data):
    with pytest.raises(FileError, match="PNG, JPEG, BMP, WebP or TIFF"):
        read_image(put(data))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        read_image(tmp_path / "nothing.png")


@pytest.mark.parametrize("read", [read_image, read_mask, image_shape])
def test_pipes_folders_and_devices_are_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileError, match="pipe"):
        read(tmp_path / "pipe.png")
    with pytest.raises(FileError, match="folder"):
        read(tmp_path)
    with pytest.raises(FileError, match="device"):
        read("/dev/zero")


@pytest.mark.parametrize("path", ["", "a\0b.png", b"bytes.png", 3, None])
def test_arguments_that_are_not_paths_are_refused(path):
    with pytest.raises(FileError, match="path"):
        read_image(path)


@pytest.mark.parametrize(
    "name", ["-rf.png", "a\nb.png", "\u00e9.png", os.fsdecode(b"\xff\xfe.png"), "x" * 240 + ".png"]
)
def test_odd_names_are_read_and_shown_on_one_line(put, name):
    np.testing.assert_array_equal(read_image(put(encoded(".png", GREY), name)), GREY)
    with pytest.raises(FileError) as caught:
        read_image(put(b"", name))
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_loop_of_links_is_an_error(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(FileError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_the_error_of_the_limit_names_the_parameter(put):
    path = put(encoded(".png", GREY))
    assert read_image(path, max_pixels=240).shape == (12, 20)
    for read in (read_image, read_mask, image_shape):
        with pytest.raises(
            FileError, match=r"max_pixels=239 px; got 12x20 px.* of open_image, read_image or read_mask"
        ):
            read(path, max_pixels=239)


def bombs():
    big = 30_000
    frame = struct.pack(">HBHHB", 17, 8, big, big, 3) + bytes([1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0])
    scan = struct.pack(">HB", 12, 3) + bytes([1, 0, 2, 0, 3, 0, 0, 63, 0])
    yield "png", png(big, big, 8, 2, [b"\0" * 9])
    yield "jpeg", b"\xff\xd8\xff\xc0" + frame + b"\xff\xda" + scan + b"\0" * 9 + b"\xff\xd9"
    yield (
        "bmp",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, big, big, 1, 24, 0, 0, 0, 0, 0, 0) + b"\0" * 99,
    )


@pytest.mark.parametrize("data", [data for _, data in bombs()], ids=[kind for kind, _ in bombs()])
def test_a_file_too_short_for_what_it_declares_is_refused_before_decoding(put, monkeypatch, data):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(BmpImagePlugin.BmpImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(FileError, match="whole, undamaged"):
        read_image(put(data))
    with pytest.raises(FileError, match="max_pixels"):
        read_image(put(data), max_pixels=10**6)


def test_a_file_far_longer_than_its_image_is_refused(put):
    path = put(encoded(".png", GREY))
    os.truncate(path, 2**26 + 10_000)
    with pytest.raises(FileError, match="max_pixels=1000"):
        read_image(path, max_pixels=1000)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "9", None])
def test_an_invalid_limit_is_refused(put, value):
    with pytest.raises(SettingError, match="max_pixels"):
        read_image(put(encoded(".png", GREY)), max_pixels=value)


def test_cmyk_jpeg_is_converted_as_stated(put):
    buffer = io.BytesIO()
    inks = cv2.resize(rng.integers(0, 256, (4, 5, 4), np.uint8), (60, 40), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(inks, "CMYK").save(buffer, "JPEG", quality=95)
    path = put(buffer.getvalue())
    read = read_image(path)
    assert image_shape(path) == read.shape == (40, 60, 3)
    with Image.open(path) as opened:
        stored = np.asarray(opened).astype(float)
    light = 1 - stored / 255
    assert np.abs(read - 255 * light[..., :3] * light[..., 3:]).max() <= 2


def bmp_fields(words, masks) -> bytes:
    """Write a BMP of words whose bits the masks share out, rows from below."""
    bits = 8 * words.itemsize
    height, width = words.shape
    rows = np.zeros((height, -(-width * bits // 32) * 32 // bits), words.dtype)
    rows[:, :width] = words[::-1]
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 3, rows.nbytes, *[0] * 4)
    head += struct.pack("<3I", *masks)
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + rows.nbytes, 0, 0, start) + head + rows.tobytes()


@pytest.mark.parametrize(
    ("dtype", "masks"),
    [
        ("<u4", (0xFF, 0xFF00, 0xFF0000)),
        ("<u4", (0xFF0000, 0xFF00, 0xFF)),
        ("<u4", (0x3FF00000, 0xFFC00, 0x3FF)),
        ("<u2", (0xF800, 0x7E0, 0x1F)),
        ("<u2", (0x7C00, 0x3E0, 0x1F)),
        ("<u2", (0xF, 0xF0, 0xF00)),
    ],
)
def test_bit_fields_of_bmp(put, dtype, masks):
    shifts = [(mask & -mask).bit_length() - 1 for mask in masks]
    most = [mask >> shift for mask, shift in zip(masks, shifts, strict=True)]
    values = np.stack([rng.integers(0, m + 1, (5, 7)) for m in most], axis=-1)
    words = sum(values[..., i] << shifts[i] for i in range(3)).astype(dtype)
    path = put(bmp_fields(words, masks), "image.bmp")
    np.testing.assert_array_equal(read_image(path), np.rint(values * 255 / most).astype(np.uint8))
    assert image_shape(path) == (5, 7, 3)
    for length in (20, 40, 60, path.stat().st_size - 1):
        with pytest.raises(FileError, match="image"):
            read_image(put(path.read_bytes()[:length], "cut.bmp"))


@pytest.mark.parametrize(
    "masks", [(0xFF, 0x5500, 0xFF0000), (0xFF, 0xFF, 0xFF0000), (0xFF, 0xFFF0, 0xFF0000)]
)
def test_bit_fields_that_overlap_or_have_gaps_are_refused(put, masks):
    with pytest.raises(FileError, match="bit fields"):
        read_image(put(bmp_fields(np.zeros((4, 4), "<u4"), masks)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_opaque_alpha_is_ignored_and_any_other_refused(put, dtype):
    top = np.iinfo(dtype).max
    image = rng.integers(0, top, (5, 6, 4), dtype)
    image[..., 3] = top
    np.testing.assert_array_equal(read_image(put(encoded(".png", image))), image[..., :3])
    image[2, 3, 3] = 9
    path = put(encoded(".png", image))
    with pytest.raises(FileError, match=r"goes down to 9.*alpha='drop'"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, alpha="drop"), image[..., :3])
    assert image_shape(path) == (5, 6, 3)


def test_alpha_of_grey_images(put):
    path = put(png(2, 1, 8, 4, [bytes([9, 255, 8, 255])]))
    np.testing.assert_array_equal(read_image(path), [[9, 8]])
    path = put(png(2, 1, 8, 4, [bytes([9, 255, 8, 7])]))
    with pytest.raises(FileError, match="goes down to 7"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, alpha="drop"), [[9, 8]])
    assert image_shape(path) == (1, 2)


def test_alpha_of_a_bmp(put):
    image = np.dstack([COLOUR, np.full((12, 20), 255, np.uint8)])
    np.testing.assert_array_equal(read_image(put(encoded(".bmp", image))), COLOUR)
    image[0, 0, 3] = 0
    with pytest.raises(FileError, match="alpha"):
        read_image(put(encoded(".bmp", image)))


def test_a_transparent_colour_counts_as_alpha(put):
    path = put(png(2, 1, 8, 2, [bytes(range(6))], (b"tRNS", struct.pack(">3H", 0, 1, 2))))
    with pytest.raises(FileError, match="transparent colour"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, alpha="drop"), [[[0, 1, 2], [3, 4, 5]]])
    with pytest.raises(FileError, match="tRNS chunk of 5 bytes"):
        read_image(put(png(2, 1, 8, 2, [bytes(range(6))], (b"tRNS", bytes(5)))))


@pytest.mark.parametrize(
    ("bits", "colour", "row", "used", "free"),
    [
        (1, 0, b"\0", (0,), (1,)),
        (4, 0, b"\x19", (9,), (2,)),
        (8, 0, b"\x07\x09", (9,), (8,)),
        (16, 0, b"\1\2\3\4", (0x304,), (0x102 + 1,)),
        (8, 2, bytes(range(6)), (3, 4, 5), (3, 4, 2)),
        (16, 2, bytes(range(12)), (1, 0x203, 0x405), (1, 0x203, 0x406)),
    ],
)
def test_a_transparent_colour_that_no_px_has_is_ignored(put, monkeypatch, bits, colour, row, used, free):
    plain = read_image(put(png(2, 1, bits, colour, [row])))
    for large in (64 << 20, 0):
        monkeypatch.setattr("tiledseg.io.png.LARGE", large)
        for key, fits in ((free, True), (used, False)):
            path = put(png(2, 1, bits, colour, [row], (b"tRNS", struct.pack(f">{len(key)}H", *key))))
            if fits:
                np.testing.assert_array_equal(read_image(path), plain)
                continue
            with pytest.raises(FileError, match="transparent colour"):
                read_image(path)


def test_a_transparent_entry_of_a_palette_that_no_px_has_is_ignored(put, monkeypatch):
    for large in (64 << 20, 0):
        monkeypatch.setattr("tiledseg.io.png.LARGE", large)
        for bits, row in ((8, bytes([1, 1])), (2, bytes([0b01010000]))):
            chunks = (b"PLTE", PALETTE), (b"tRNS", b"\0")
            shown = read_image(put(png(2, 1, bits, 3, [row], *chunks)))
            np.testing.assert_array_equal(shown, [[[200, 150, 100]] * 2])
            with pytest.raises(FileError, match="transparent colour"):
                read_image(put(png(2, 1, bits, 3, [row], chunks[0], (b"tRNS", b"\xff\xfe"))))


@pytest.mark.parametrize(("bits", "shown"), [(1, [0, 255]), (2, [0, 85]), (4, [0, 17])])
def test_few_bits_are_scaled_for_images_and_unchanged_for_labels(put, bits, shown):
    path = put(png(2, 1, bits, 0, [bytes([1 << (8 - 2 * bits)])]))
    np.testing.assert_array_equal(read_image(path), [shown])
    np.testing.assert_array_equal(read_mask(path, threshold=None), [[0, 1]])


PALETTE = bytes([10, 20, 30, 200, 150, 100])


def test_a_palette_is_expanded_for_images(put):
    path = put(png(2, 1, 8, 3, [bytes([1, 0])], (b"PLTE", PALETTE)))
    np.testing.assert_array_equal(read_image(path), [[[200, 150, 100], [10, 20, 30]]])
    assert image_shape(path) == (1, 2, 3)
    path = put(png(2, 1, 8, 3, [bytes([1, 0])], (b"PLTE", PALETTE), (b"tRNS", b"\xff\xff")))
    assert read_image(path).shape == (1, 2, 3)
    with pytest.raises(FileError, match="transparent"):
        read_image(put(png(2, 1, 8, 3, [bytes([1, 0])], (b"PLTE", PALETTE), (b"tRNS", b"\0"))))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_mask_needs_the_option_palette(put, bits):
    row = {1: 0b01000000, 2: 0b00010000, 4: 0b00000001, 8: 0b00000000}[bits]
    rows = [bytes([row, 1][: 1 + (bits == 8)])]
    path = put(png(2, 1, bits, 3, rows, (b"PLTE", bytes([0, 0, 0, 200, 200, 200]))))
    for threshold in (128, None):
        with pytest.raises(FileError, match=r"palette='index'.*palette='colour'"):
            read_mask(path, threshold)
    np.testing.assert_array_equal(read_mask(path, None, palette="index"), [[0, 1]])
    np.testing.assert_array_equal(read_mask(path, 1, palette="index"), [[0, 1]])
    np.testing.assert_array_equal(read_mask(path, None, palette="colour"), [[0, 200]])
    np.testing.assert_array_equal(read_mask(path, 128, palette="colour"), [[0, 1]])


def test_a_palette_whose_entries_are_their_own_grey_is_unambiguous(put):
    palette = bytes(np.repeat(np.arange(256, dtype=np.uint8), 3))
    path = put(png(3, 1, 8, 3, [bytes([0, 7, 255])], (b"PLTE", palette)))
    np.testing.assert_array_equal(read_mask(path, None), [[0, 7, 255]])


def test_masks_in_bmp_files_are_read_as_grey_or_indices(put):
    labels = rng.integers(0, 5, (7, 9), np.uint8)
    np.testing.assert_array_equal(read_mask(put(encoded(".bmp", labels)), None), labels)
    data = bytearray(encoded(".bmp", labels))
    data[54:70] = bytes(
        [0, 0, 0, 0, 255, 255, 255, 0, 255, 255, 255, 0, 0, 0, 0, 0]
    )  # grey, but not its index
    np.testing.assert_array_equal(read_mask(put(bytes(data)), 128), np.isin(labels, (1, 2)))
    with pytest.raises(FileError, match="palette="):
        read_mask(put(bytes(data)), None)
    np.testing.assert_array_equal(read_mask(put(bytes(data)), None, palette="index"), labels)
    data[54] = 9  # no longer grey
    with pytest.raises(FileError, match="palette="):
        read_mask(put(bytes(data)), 128)
    assert read_image(put(bytes(data))).shape == (7, 9, 3)


def test_compressed_bmp_is_refused(put):
    data = bytearray(encoded(".bmp", GREY))
    data[30] = 1
    with pytest.raises(FileError, match="uncompressed"):
        read_image(put(bytes(data)))


def test_values_at_or_above_the_threshold_are_foreground(put):
    path = put(encoded(".png", np.array([[0, 127, 128, 255]], np.uint8)))
    labels = read_mask(path, 128)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, [[0, 0, 1, 1]])
    np.testing.assert_array_equal(read_mask(path, 1), [[0, 1, 1, 1]])
    np.testing.assert_array_equal(read_mask(path, None), [[0, 127, 128, 255]])


def test_a_mask_of_0_and_1_below_the_threshold_is_refused(put):
    path = put(encoded(".png", np.eye(4, dtype=np.uint8)))
    with pytest.raises(FileError, match=r"largest value of 1.*threshold=1;.*threshold=None"):
        read_mask(path, 128)
    np.testing.assert_array_equal(read_mask(path, 1), np.eye(4))
    np.testing.assert_array_equal(read_mask(path, None), np.eye(4))


def test_an_empty_mask_is_read(put):
    assert not read_mask(put(encoded(".png", np.zeros((4, 5), np.uint8)))).any()


def test_a_16_bit_mask_needs_a_threshold_for_16_bits(put):
    values = np.array([[0, 300, 40_000, 65_535]], np.uint16)
    path = put(encoded(".png", values))
    with pytest.raises(FileError, match="threshold=32768"):
        read_mask(path, 128)
    np.testing.assert_array_equal(read_mask(path, 32_768), [[0, 0, 1, 1]])
    np.testing.assert_array_equal(read_mask(path, 1), [[0, 1, 1, 1]])
    np.testing.assert_array_equal(read_mask(path, None), values)
    two = put(encoded(".png", np.array([[0, 65_535]], np.uint16)))
    np.testing.assert_array_equal(read_mask(two), [[0, 1]])


def test_jpeg_cannot_hold_labels(put):
    path = put(encoded(".jpg", np.full((8, 8), 200, np.uint8)))
    assert read_mask(path).all()
    with pytest.raises(FileError, match=r"lossless.*got a JPEG"):
        read_mask(path, None)


def test_a_colour_mask_counts_as_grey_where_its_channels_agree(put):
    same = np.repeat(GREY[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_mask(put(encoded(".png", same)), 128), GREY >= 128)
    with pytest.raises(FileError, match="3 channels that differ"):
        read_mask(put(encoded(".png", COLOUR)))


@pytest.mark.parametrize("threshold", [0, -1, float("nan"), float("inf"), True, "128"])
def test_an_invalid_threshold_is_refused(put, threshold):
    with pytest.raises(SettingError, match="threshold"):
        read_mask(put(encoded(".png", GREY)), threshold)


@pytest.mark.parametrize("option", [{"alpha": "keep"}, {"palette": "rgb"}, {"page": -1}, {"page": True}])
def test_invalid_options_are_refused(put, option):
    with pytest.raises(SettingError, match=next(iter(option))):
        read_mask(put(encoded(".png", GREY)), **option)


def test_a_png_has_one_page(put):
    path = put(encoded(".png", GREY))
    assert read_image(path, page=0).shape == GREY.shape
    with pytest.raises(FileError, match="page 1"):
        read_image(path, page=1)


def test_several_threads_can_read_at_once(put):
    paths = [put(encoded(".png", np.full((9, 9, 3), value, np.uint8)), f"{value}.png") for value in range(8)]
    found: dict[int, bool] = {}

    def work(value):
        found[value] = all((read_image(paths[value]) == value).all() for _ in range(20))

    threads = [threading.Thread(target=work, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(8), True)


def jpeg(progressive=False):
    made, image = io.BytesIO(), smear(480, 640, seed=1).image
    Image.fromarray(image).save(made, "JPEG", quality=92, progressive=progressive)
    return made.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda j, n: j[: n // 2],
        lambda j, n: j[: n // 2] + bytes(n - n // 2 - 2) + b"\xff\xd9",
        lambda j, n: j[: n // 3] + bytes(400) + j[n // 3 + 400 :],
        lambda j, n: j[: n // 2] + b"\xff\xd9",
        lambda j, n: j[: n // 2] + j[n // 2 + 4096 :],
    ],
    ids=["cut in half", "second half zeroed", "400 bytes zeroed", "half with an end", "4 kB lost"],
)
def test_a_jpeg_damaged_anywhere_is_refused(put, damage, progressive):
    whole = jpeg(progressive)
    with pytest.raises(FileError, match="whole, undamaged image"):
        read_image(put(damage(whole, len(whole)), ".jpg"))


@pytest.mark.parametrize("progressive", [False, True])
def test_an_intact_jpeg_is_read_as_by_pillow(put, progressive):
    whole = jpeg(progressive)
    expected = np.asarray(Image.open(io.BytesIO(whole)))
    for data in (whole, whole + bytes(9)):
        found = read_image(put(data, ".jpg"))
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_damaged_colour_profile_is_ignored(put):
    whole = jpeg()
    profile = b"ICC_PROFILE\0\x09\x01junk"
    segment = b"\xff\xe2" + (len(profile) + 2).to_bytes(2, "big") + profile
    with_profile = put(whole[:2] + segment + whole[2:], ".jpg")
    assert (read_image(with_profile) == read_image(put(whole, ".jpg"))).all()


def test_a_progressive_jpeg_without_its_last_scans_is_refused(put):
    whole = jpeg(progressive=True)
    starts = [place for place in range(len(whole)) if whole[place : place + 2] == b"\xff\xda"]
    for place in starts[1:]:  # else libjpeg makes up what is missing, without a word
        with pytest.raises(FileError, match="without some of its scans"):
            read_image(put(whole[:place] + b"\xff\xd9", ".jpg"))


@pytest.mark.parametrize("scans", [10, 40, 160])
def test_many_scans_of_a_progressive_jpeg_are_refused(put, scans):
    made = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), "u1")).save(made, "JPEG", progressive=True)
    data = made.getvalue()
    size, first = data.index(b"\xff\xc2"), data.index(b"\xff\xda")
    head = bytearray(data[:first])
    head[size + 5 : size + 9] = struct.pack(">HH", 1000, 1000)
    scan = data[first : first + 2 + struct.unpack(">H", data[first + 2 : first + 4])[0]] + b"\0\0"
    head[2:2] = b"\xff\xfe\x10\x02" + bytes(4096)  # enough bytes for the declared size
    words = "at most 50 scans as a JPEG; got 160" if scans > 50 else "without some of its scans"
    with pytest.raises(FileError, match=words):
        read_image(put(bytes(head) + scan * scans + b"\xff\xd9", ".jpg"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_every_kind_of_bmp_is_read_as_by_pillow(put, mode):
    made, image = io.BytesIO(), Image.fromarray(smear(64, 75, seed=1).image).convert(mode)
    image.save(made, "BMP")
    expected = np.asarray(image.convert("RGB"))
    found = read_image(put(made.getvalue(), ".bmp"))
    assert (found == (expected[..., 0] if mode in "1L" else expected)).all()
    with pytest.raises(FileError, match="bytes where"):
        read_image(put(made.getvalue()[:-40], ".bmp"))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
@pytest.mark.parametrize("form", fuzz_files.FORMATS)
@pytest.mark.slow
def test_damaged_files_give_results_or_typed_errors_within_time_and_memory(form):
    assert fuzz_files.attack(form, 300) == []


FILES = Path(os.environ.get("TILEDSEG_DATA", "/nowhere")) / "files"


@pytest.mark.skipif(not FILES.is_dir(), reason="the public test files are missing")
def test_real_files_are_read_as_by_pillow():
    differing, count = [], 0
    for path in sorted(one for one in FILES.rglob("*") if one.suffix in {".png", ".jpg", ".bmp"}):
        try:
            found = read_image(path, alpha="drop")
            with Image.open(path) as opened:
                turned = ImageOps.exif_transpose(opened)
                expected = np.asarray(turned.convert("RGB"))
        except (FileError, OSError, SyntaxError, ValueError, UserWarning):
            continue
        if turned.mode.startswith("I"):
            expected = np.asarray(turned)
        count += 1
        found = found if expected.ndim == 2 or found.ndim == 3 else np.repeat(found[..., None], 3, axis=2)
        values = (found // 257 if found.dtype == np.uint16 and expected.dtype == np.uint8 else found).astype(
            int
        )
        if values.shape != expected.shape or np.abs(values - expected).max() > 3:
            differing.append(path.name)
    assert count > 200
    in_text = {f"{name}.png" for name in ("exif_imagemagick_orientation", "xmp_tags_orientation")}
    in_text |= {"xmp_tags_orientation_exiftool.png"}  # an orientation in XMP or text is not applied
    assert set(differing) <= in_text
