"""Reading TIFF: pages, planes, axes, colours, compression and damage."""

from __future__ import annotations

import importlib.util
import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tiledseg.errors import FileError, TiledSegError
from tiledseg.io import PixelSize, find_images, image_shape, open_image, read_image, read_mask, read_probs

rng = np.random.default_rng(5)
GREY = rng.integers(0, 256, (40, 70), np.uint8)
COLOUR = rng.integers(0, 256, (40, 70, 3), np.uint8)


def tiff(array, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def by_hand(*directories: dict[int, tuple[int, int]], order="<", loop_to=None, data=b"") -> bytes:
    """Make a TIFF of the given directories, tag -> (type, value)."""
    out = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    at = 8
    for number, tags in enumerate(directories):
        size = 2 + 12 * len(tags) + 4
        last = number == len(directories) - 1
        following = (loop_to or 0) if last else at + size
        out += struct.pack(f"{order}H", len(tags))
        for tag, (kind, value) in sorted(tags.items()):
            packed = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
            out += struct.pack(f"{order}HHI", tag, kind, 1) + packed
        out += struct.pack(f"{order}I", following)
        at += size
    return out + data


def grey_page(width, height, **changed) -> dict[int, tuple[int, int]]:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: width * height}
    return {tag: (4, changed.get(f"t{tag}", value)) for tag, value in tags.items()}


@pytest.fixture
def put(tmp_path):
    def put(data: bytes, name="image.tif"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put


@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 32)}, {"compression": "zlib"}, {"bigtiff": True}, {"rowsperstrip": 7}]
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(40, 70), (40, 70, 3), (1, 1)])
def test_values_and_dtype_are_preserved(put, shape, dtype, order, options):
    image = (rng.random(shape) * 250).astype(dtype)
    path = put(
        tiff(image, photometric="minisblack" if len(shape) == 2 else "rgb", byteorder=order, **options)
    )
    read = read_image(path)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, image)
    assert image_shape(path) == shape


def test_half_floats_become_floats(put):
    image = rng.random((5, 6)).astype(np.float16)
    read = read_image(put(tiff(image)))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_values_of_more_bits_than_are_declared_are_damage(put, photometric):
    image = np.full((16, 16), 250, np.uint8)
    data = tiff(image, photometric=photometric, compression="jpeg", bitspersample=6)
    path = put(data)
    for read in (read_image, lambda path: np.asarray(open_image(path))):
        with pytest.raises(FileError, match=r"the value 25\d in samples of 6 bits"):
            read(path)


@pytest.mark.parametrize(
    ("count", "planar", "tile"), [(2, "contig", None), (3, "separate", (16, 16)), (3, "contig", (16, 16))]
)
def test_channels_that_are_rgb_images_become_channels_one_after_the_other(put, count, planar, tile):
    images = np.stack([COLOUR + number for number in range(count)])
    stored = images if planar == "contig" else np.moveaxis(images, 3, 1).copy()
    axes = {"axes": "CYXS" if planar == "contig" else "CSYX"}
    path = put(tiff(stored, ome=True, photometric="rgb", planarconfig=planar, tile=tile, metadata=axes))
    expected = np.concatenate(list(images), axis=2)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_shape(path) == expected.shape
    with open_image(path, channels=(3, 1)) as image:
        np.testing.assert_array_equal(image[2:9, 3:17], expected[2:9, 3:17, [3, 1]])
    with open_image(path, channels=4) as image:
        np.testing.assert_array_equal(image[2:9, 3:17], expected[2:9, 3:17, 4])


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_separate_planes_become_channels_last(put, options):
    path = put(tiff(np.moveaxis(COLOUR, 2, 0).copy(), photometric="rgb", planarconfig="separate", **options))
    np.testing.assert_array_equal(read_image(path), COLOUR)
    assert image_shape(path) == COLOUR.shape


@pytest.mark.parametrize("axes", ["YXC", "YXS", "CYX"])
@pytest.mark.parametrize("channels", [2, 3, 5])
def test_samples_of_one_page_may_be_named_channels(put, axes, channels):
    pixels = rng.integers(0, 256, (40, 70, channels), np.uint8)
    stored = np.moveaxis(pixels, 2, 0).copy() if axes == "CYX" else pixels
    planar = "separate" if axes == "CYX" else "contig"
    path = put(tiff(stored, photometric="minisblack", planarconfig=planar, metadata={"axes": axes}))
    np.testing.assert_array_equal(read_image(path), pixels)
    with open_image(path) as image:
        np.testing.assert_array_equal(image[3:9, 5:60], pixels[3:9, 5:60])


def test_metadata_that_contradict_their_page_are_named(put):
    path = put(tiff(COLOUR, photometric="rgb", metadata={"axes": "CYX"}))
    with pytest.raises(FileError, match=r"its page, \(40, 70, 3\); got axes CYX of shape \(40, 70, 3\)"):
        read_image(path)


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"},
        {"metadata": {"axes": "CYX"}, "photometric": "minisblack"},
    ],
)
def test_three_channels_on_three_pages_are_one_image(put, options):
    path = put(tiff(np.moveaxis(COLOUR, 2, 0).copy(), **options))
    np.testing.assert_array_equal(read_image(path), COLOUR)
    assert image_shape(path) == COLOUR.shape
    np.testing.assert_array_equal(read_image(path, page=1), COLOUR[..., 1])


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "minisblack"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "TYX"}, "photometric": "minisblack"},
    ],
)
def test_several_pages_need_a_page(put, options):
    stack = np.stack([GREY, GREY + 1, GREY + 2])
    path = put(tiff(stack, **options))
    pages, planes = r"3 pages: 0 \(40x70 px\), 1 .*Pass `page`", r"hold one plane; got 3 .*Pass at=\{'"
    for read in (read_image, image_shape, read_mask):
        with pytest.raises(FileError, match=planes if "metadata" in options else pages):
            read(path)
    np.testing.assert_array_equal(read_image(path, page=2), GREY + 2)
    assert image_shape(path, page=2) == GREY.shape
    with pytest.raises(FileError, match="3 pages"):
        read_image(path, page=3)


def test_a_pyramid_is_one_image(put):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(COLOUR, photometric="rgb")
        writer.write(COLOUR[::2, ::2], photometric="rgb", subfiletype=1)
    path = put(buffer.getvalue())
    np.testing.assert_array_equal(read_image(path), COLOUR)
    np.testing.assert_array_equal(read_image(path, page=1), COLOUR[::2, ::2])
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=True) as writer:
        writer.write(COLOUR, photometric="rgb", subifds=1, tile=(16, 16))
        writer.write(COLOUR[::2, ::2], photometric="rgb", subfiletype=1, tile=(16, 16))
    np.testing.assert_array_equal(read_image(put(buffer.getvalue())), COLOUR)


def test_images_of_a_plate_in_one_file_are_chosen_by_number_or_name(tmp_path):
    wells = np.random.default_rng(0).integers(0, 256, (3, 2, 20, 30), np.uint8)
    path = tmp_path / "plate.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        for number, well in enumerate(wells):
            writer.write(well, metadata={"axes": "CYX", "Name": f"Well {number}"}, contiguous=False)
    with pytest.raises(FileError, match=r"3 images: 0 \('Well 0', CYX.*page='image 2'"):
        read_image(path)
    for page in ("image 2", "Well 2"):
        np.testing.assert_array_equal(read_image(path, page=page), np.moveaxis(wells[2], 0, -1))
    np.testing.assert_array_equal(read_image(path, page=3), wells[1, 1])


def ome_files(folder, planes, *, order="XYCZT", companion=None, grouped=False, **options):
    """Write an OME-TIFF of one file for each plane (c, z), or of two planes in each; give their names."""
    channels, depth = planes.shape[:2]
    height, width = planes.shape[2:]
    sizes = f'SizeC="{channels}" SizeZ="{depth}" SizeT="1" SizeX="{width}" SizeY="{height}"'
    sizes += f' DimensionOrder="{order}" PhysicalSizeX="0.5" PhysicalSizeY="0.25" Type="uint8"'
    blocks, names = "", []
    for c in range(channels):
        for z in range(0, depth, 2 if grouped else 1):
            names.append(f"part c{c} &amp; z{z}.ome.tif")
            where = f'FirstC="{c}" FirstZ="{z}" FirstT="0"' + ("" if grouped else ' IFD="0"')
            blocks += f'<TiffData {where}><UUID FileName="{names[-1]}">urn:uuid:{c}{z}</UUID></TiffData>'
    whole = f'<OME><Image ID="Image:0"><Pixels {sizes}>{blocks}</Pixels></Image></OME>'
    binary = f'<OME><BinaryOnly MetadataFile="{companion}" UUID="urn:uuid:1"/></OME>'
    names = [name.replace("&amp;", "&") for name in names]
    for number, name in enumerate(names):
        c, z = divmod(number, depth // 2 if grouped else depth)
        pages = planes[c, 2 * z : 2 * z + 2] if grouped else planes[c, z]
        text = binary if companion and name != companion else whole
        kind = {"photometric": "minisblack", **options}
        tifffile.imwrite(folder / name, pages, description=text, metadata=None, **kind)
    if companion and companion not in names:
        (folder / companion).write_text(f'<?xml version="1.0" encoding="UTF-8"?>{whole}')
    return names


PLANES = rng.integers(0, 256, (3, 4, 20, 30), np.uint8)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("companion", [None, "all.companion.ome", "part c0 & z0.ome.tif"])
def test_an_ome_tiff_of_several_files_is_one_image(tmp_path, companion, grouped):
    order = "XYZCT" if grouped else "XYCZT"
    names = ome_files(tmp_path, PLANES, order=order, companion=companion, grouped=grouped)
    names += [companion] if companion and companion not in names else []
    for name in (names[0], names[-1]):
        expected = np.moveaxis(PLANES[:, 2], 0, 2)
        np.testing.assert_array_equal(read_image(tmp_path / name, at={"z": 2}), expected)
        with open_image(tmp_path / name, at={"z": 2}, channels=(2, 0)) as image:
            assert image.pixel_size == PixelSize(0.25, 0.5)
            np.testing.assert_array_equal(image[3:9, 4:8], expected[3:9, 4:8, [2, 0]])
        with pytest.raises(FileError, match="4 positions along z"):
            read_image(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / names[0], page=0), PLANES[0, 0])
    assert image_shape(tmp_path / names[0], page=0) == (20, 30)
    (tmp_path / "other").mkdir()
    ome_files(tmp_path / "other", PLANES, order=order, companion=companion, grouped=grouped)
    tifffile.imwrite(tmp_path / "whole.ome.tif", GREY)
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path, recursive=True)]
    assert sorted(found) == ["other/part c0 & z0.ome.tif", "part c0 & z0.ome.tif", "whole.ome.tif"]


def test_rgb_planes_of_an_ome_tiff_of_several_files_become_channels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    names = [f"part{number}.ome.tif" for number in range(2)]
    blocks = "".join(
        f'<TiffData FirstC="{number}" IFD="0"><UUID FileName="{name}">urn:uuid:{number}</UUID></TiffData>'
        for number, name in enumerate(names)
    )
    channels = '<Channel SamplesPerPixel="3"/><Channel SamplesPerPixel="3"/>'
    sizes = 'SizeC="6" SizeZ="1" SizeT="1" SizeX="30" SizeY="20" DimensionOrder="XYCZT" Type="uint8"'
    text = f"<OME><Image><Pixels {sizes}>{channels}{blocks}</Pixels></Image></OME>"
    for name, image in zip(names, images, strict=True):
        tifffile.imwrite(tmp_path / name, image, photometric="rgb", description=text, metadata=None)
    expected = np.concatenate(list(images), axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / names[1]), expected)
    for chosen in ([4, 1], [2, 5], 3):
        with open_image(tmp_path / names[0], channels=chosen) as image:
            np.testing.assert_array_equal(image[2:9, 3:17], expected[2:9, 3:17, chosen])
            assert image.shape == expected[..., chosen].shape


def test_a_mask_of_an_ome_tiff_of_several_files_is_read_as_one_of_a_single_file(tmp_path):
    path = tmp_path / "all.companion.ome"
    labels = np.arange(16 * 16, dtype=np.uint8).reshape(1, 1, 16, 16) % 3
    colours = np.outer([1, 0, 0], 65535 - np.arange(256)).astype(np.uint16)
    ome_files(tmp_path, labels, companion=path.name, compression="jpeg")
    with pytest.raises(FileError, match="lossless to hold labels; got compression JPEG"):
        read_mask(path, None)
    ome_files(tmp_path, labels, companion=path.name, photometric="palette", colormap=colours)
    with pytest.raises(FileError, match="a palette whose indices and colours differ"):
        read_mask(path, None)
    np.testing.assert_array_equal(read_mask(path, None, palette="index"), labels[0, 0])
    ome_files(tmp_path, labels > 0, companion=path.name)
    np.testing.assert_array_equal(read_mask(path, None), labels[0, 0] > 0)
    with pytest.raises(FileError, match="must hold real numbers"):
        read_probs(path)


def test_a_missing_part_of_an_ome_tiff_is_named(put, tmp_path):
    names = ome_files(tmp_path, PLANES[:, :1])
    (tmp_path / names[1]).unlink()
    with pytest.raises(
        FileError, match=rf"OME-TIFF of several files, and {names[1]} cannot be read.*one folder"
    ):
        read_image(tmp_path / names[0])
    np.testing.assert_array_equal(read_image(tmp_path / names[0], page=0), PLANES[0, 0])
    text = '<OME><BinaryOnly MetadataFile="m.ome" UUID="urn:uuid:1"/></OME>'
    with pytest.raises(FileError, match=r"m\.ome cannot be read"):
        read_image(put(tiff(GREY, description=text, metadata=None)))


@pytest.mark.parametrize(
    "change",
    [
        ('FileName="part c1 &amp; z0.ome.tif"', 'FileName="../part.ome.tif"'),
        ('FirstC="1"', 'FirstC="9"'),
        ('SizeC="3"', 'SizeC="999999999"'),
        ('SizeC="3"', 'SizeC="3e9"'),
        ('FirstC="1"', 'FirstC="2"'),
        ('"XYCZT"', '"XYCZZ"'),
    ],
)
def test_harmful_metadata_of_several_files_are_refused(tmp_path, change):
    name = ome_files(tmp_path, PLANES[:, :1])[0]
    text = tifffile.tiffcomment(tmp_path / name)
    assert change[0] in text
    tifffile.imwrite(tmp_path / name, PLANES[0, 0], description=text.replace(*change), metadata=None)
    with pytest.raises(FileError, match=r"undamaged|name of a file"):
        read_image(tmp_path / name)


def test_missing_ome_planes_are_refused(put):
    text = '<OME><Image><Pixels SizeC="2" SizeT="1" SizeZ="3" SizeX="70" SizeY="40"/></Image></OME>'
    with pytest.raises(FileError, match="hold 6 planes"):
        read_image(put(tiff(GREY, description=text, metadata=None)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_is_applied(put, orientation):
    turns = [
        lambda a: a,
        np.fliplr,
        lambda a: np.rot90(a, 2),
        np.flipud,
        np.transpose,
        lambda a: np.rot90(a, -1),
        lambda a: np.rot90(a.T, 2),
        np.rot90,
    ]
    turn = turns[orientation - 1]
    path = put(tiff(GREY, extratags=[(274, 3, 1, orientation, True)]))
    np.testing.assert_array_equal(read_image(path), turn(GREY))
    np.testing.assert_array_equal(read_mask(path, 128), turn(GREY) >= 128)
    assert image_shape(path) == turn(GREY).shape


def test_opaque_alpha_is_ignored_and_any_other_refused(put):
    image = np.dstack([COLOUR, np.full((40, 70), 255, np.uint8)])
    np.testing.assert_array_equal(read_image(put(tiff(image, photometric="rgb"))), COLOUR)
    image[3, 4, 3] = 5
    path = put(tiff(image, photometric="rgb"))
    with pytest.raises(FileError, match=r"goes down to 5.*alpha='drop' .* alpha='keep'"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, alpha="drop"), COLOUR)
    assert image_shape(path) == COLOUR.shape


def test_a_palette_is_expanded_for_images_and_needs_an_option_for_masks(put):
    colours = rng.integers(0, 256, (3, 256), np.uint16)
    labels = rng.integers(0, 4, (8, 9), np.uint8)
    path = put(tiff(labels, photometric="palette", colormap=colours * 257))
    np.testing.assert_array_equal(read_image(path), colours.T[labels])
    assert image_shape(path) == (8, 9, 3)
    with pytest.raises(FileError, match=r"palette='index'"):
        read_mask(path, None)
    np.testing.assert_array_equal(read_mask(path, None, palette="index"), labels)


def test_inverted_grey_is_inverted_for_images_and_as_a_mask_read_as_stored_or_as_shown(put):
    path = put(tiff(GREY, photometric="miniswhite"))
    np.testing.assert_array_equal(read_image(path), 255 - GREY)
    for threshold in (128, None):
        with pytest.raises(FileError, match=r"0 is white.*palette='index'.*palette='colour'"):
            read_mask(path, threshold)
    np.testing.assert_array_equal(read_mask(path, None, palette="index"), GREY)
    np.testing.assert_array_equal(read_mask(path, None, palette="colour"), 255 - GREY)
    bits = put(tiff(GREY > 99))  # tifffile's default for booleans is that 0 is white
    np.testing.assert_array_equal(read_mask(bits, palette="index"), GREY > 99)


@pytest.mark.parametrize("where", [{"level": 1}, {"at": {"z": 0}}, {"channels": 0}])
def test_a_mask_of_which_a_part_is_read_is_read_as_a_whole_one(where, tmp_path):
    labels = np.kron(np.array([[0, 1], [1, 0]], np.uint8), np.ones((32, 32), np.uint8))
    path = tmp_path / "mask.tif"
    for photometric in ("palette", "miniswhite"):
        colours = np.zeros((3, 256), np.uint16)
        colours[:, 0] = 65535  # shown, 0 is white
        options = {"photometric": photometric, "tile": (16, 16)}
        options |= {"colormap": colours} if photometric == "palette" else {}
        with tifffile.TiffWriter(path) as writer:
            stored = labels if photometric == "palette" else labels * 255
            writer.write(stored, subifds=1, **options)
            writer.write(stored[::2, ::2], subfiletype=1, **options)
        wanted = labels[::2, ::2] if "level" in where else labels
        with pytest.raises(FileError, match="palette='index'"):
            read_mask(path, **where)
        np.testing.assert_array_equal(read_mask(path, palette="index", **where), wanted)
        np.testing.assert_array_equal(read_mask(path, palette="colour", **where), 1 - wanted)


def test_planes_of_a_lossy_mask_are_refused_as_labels(tmp_path):
    foreground = np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((16, 16), np.uint8))
    options = {"compression": "jpeg", "tile": (16, 16), "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "m.ome.tif", np.stack([foreground] * 2), metadata={"axes": "ZYX"}, **options)
    with pytest.raises(FileError, match="lossless to hold labels; got compression JPEG"):
        read_mask(tmp_path / "m.ome.tif", None, at={"z": 1})
    np.testing.assert_array_equal(read_mask(tmp_path / "m.ome.tif", at={"z": 1}), foreground > 0)


def test_bits_become_0_and_255(put):
    bits = GREY > 99
    path = put(tiff(bits, photometric="minisblack"))
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, bits * 255)
    np.testing.assert_array_equal(read_mask(path), bits)
    np.testing.assert_array_equal(read_mask(path, None), bits)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32", "int64"])
def test_labels_of_any_integer_dtype_are_read(put, dtype):
    labels = rng.integers(0, 100, (8, 9)).astype(dtype)
    read = read_mask(put(tiff(labels)), None)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels)


def test_labels_out_of_range_or_not_integers_are_refused(put):
    with pytest.raises(FileError, match=r"labels from 0 to 255; got labels from -1"):
        read_mask(put(tiff(np.array([[-1, 2]], np.int16))), None)
    with pytest.raises(FileError, match=r"integers|whole"):
        read_mask(put(tiff(np.full((3, 3), 1.5, np.float32))), None)
    with pytest.raises(FileError, match="NaN"):
        read_mask(put(tiff(np.full((3, 3), np.nan, np.float32))), 0.5)
    np.testing.assert_array_equal(read_mask(put(tiff(np.eye(3, dtype=np.float32))), 0.5), np.eye(3))


def test_probabilities_must_be_floats(put):
    with pytest.raises(FileError, match="real numbers"):
        read_probs(put(tiff(GREY)))
    with pytest.raises(FileError, match=r"real numbers; got uint8.*read_image"):
        read_probs(put(cv2.imencode(".png", GREY)[1].tobytes()))
    read = read_probs(put(tiff(GREY / 255)))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read[..., 0], np.float32(GREY / 255))


def test_compression_that_needs_imagecodecs_names_the_extra(put, monkeypatch):
    pytest.importorskip("imagecodecs")
    path = put(tiff(GREY, compression="lzw"))
    np.testing.assert_array_equal(read_image(path), GREY)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "tiledseg.io.tiff_checks.find_spec", lambda name: None if name == "imagecodecs" else real(name)
    )
    with pytest.raises(FileError, match=r'LZW.*pip install "tiledseg\[codecs\]"'):
        read_image(path)


def test_lossy_tiff_cannot_hold_labels(put):
    pytest.importorskip("imagecodecs")
    path = put(tiff(np.full((16, 16), 200, np.uint8), compression="jpeg"))
    assert read_mask(path).all()
    with pytest.raises(FileError, match="JPEG"):
        read_mask(path, None)


def test_jpeg_in_tiff_is_rgb(put):
    pytest.importorskip("imagecodecs")
    stored = np.full((16, 16, 3), (150, 100, 140), np.uint8)  # Y, Cb, Cr
    expected = (150 + 1.402 * 12, 150 - 0.344 * -28 - 0.714 * 12, 150 + 1.772 * -28)
    read = read_image(put(tiff(stored, photometric="ycbcr", compression="jpeg", tile=(16, 16))))
    assert np.abs(read - expected).max() <= 3


@pytest.mark.parametrize(
    ("options", "name"),
    [({"tile": (16, 16)}, r"tile 7 at y=16, x=32 px"), ({"rowsperstrip": 5}, r"strip 7 at y=35, x=0 px")],
)
def test_a_corrupt_tile_is_named(put, options, name):
    data = bytearray(tiff(GREY, compression="zlib", **options))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        start, count = page.dataoffsets[7], page.databytecounts[7]
    data[start : start + count] = b"\xff" * count
    with pytest.raises(FileError, match=name):
        read_image(put(bytes(data)))


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True, "rowsperstrip": 9}]
)
@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_a_file_cut_off_anywhere_is_an_error(put, options, image):
    data = tiff(image, photometric="rgb" if image.ndim == 3 else "minisblack", **options)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        end = file.pages.first.dataoffsets[-1] + file.pages.first.databytecounts[-1]
    for length in [*range(1, 24), *range(24, 400, 11), *range(400, end, 211), end - 1]:
        with pytest.raises(FileError, match="image"):
            read_image(put(data[:length]))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True}]), st.data())
def test_damage_is_a_tiledseg_error_or_an_image_of_the_declared_shape(tmp_path_factory, options, data):
    whole = bytearray(tiff(GREY[:16, :16], **options))
    for at in data.draw(st.lists(st.integers(0, min(len(whole), 400) - 1), min_size=1, max_size=6)):
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / "image.tif"
    path.write_bytes(whole)
    try:
        image = read_image(path, max_pixels=10_000, alpha="drop")
    except TiledSegError:
        return
    assert image.shape == image_shape(path)


def test_a_loop_of_pages_is_an_error(put):
    page = grey_page(2, 2)
    for data in (by_hand(page, loop_to=8), by_hand(page, page, page, loop_to=8)):
        for read in (read_image, image_shape):
            with pytest.raises(FileError, match="loop of pages"):
                read(put(data))


@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
def test_places_of_strips_that_are_no_integers_are_damage(tag, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((30, 40), np.uint8), metadata=None)
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags[tag].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<HIf", data, at + 2, 11, 1, 300.5)  # FLOAT
    path.write_bytes(data)
    for read in (read_image, lambda path: open_image(path)[:5, :5]):
        with pytest.raises(FileError, match="undamaged image; got strips at"):
            read(path)


def test_a_long_chain_of_overlapping_pages_is_an_error(put):
    count = 2**16 + 2  # each page begins 18 bytes after the last: a long chain in a short file
    page = bytearray(b"II*\0\x08\0\0\0" + b"\0" * (count * 18 + 18))
    for number in range(count):
        at = 8 + 18 * number
        struct.pack_into("<HHHIII", page, at, 1, 256, 4, 1, 1, at + 18)
    with pytest.raises(FileError, match="at most 65536 pages"):
        read_image(put(bytes(page)))


@pytest.mark.parametrize(
    "page",
    [
        grey_page(30_000, 30_000),
        grey_page(30_000, 30_000, t259=8),
        grey_page(0, 5),
        grey_page(4, 4, t273=2**31),
        grey_page(4, 4, t279=0),
        grey_page(4, 4, t258=99),
        {256: (4, 4), 257: (4, 4)},
        grey_page(4, 4, t279=16) | {32997: (4, 2)},  # of two slices
        grey_page(4, 4, t277=3, t279=48, t273=150) | {284: (3, 5)},
    ],
)
def test_impossible_pages_are_refused_before_decoding(put, monkeypatch, page):
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(FileError):
        read_image(put(by_hand(page, data=b"\0" * 200)))


def test_a_tag_that_cannot_be_read_is_an_error(put):
    start = 8 + 2 + 12 * 9 + 4
    good = by_hand(grey_page(3, 2, t273=start), data=bytes(6))
    assert read_image(put(good)).shape == (2, 3)
    for tag in (258, 259, 262, 278):
        data = bytearray(good)
        at = data.index(struct.pack("<HH", tag, 4))
        data[at + 2 : at + 8] = struct.pack("<HI", 4, 9999)  # its values are beyond the end of the file
        data[at + 8 : at + 12] = struct.pack("<I", 10**6)
        with pytest.raises(FileError, match=f"tags.*{tag}"):
            read_image(put(bytes(data)))


def test_tags_twice_and_too_many_smaller_copies_are_damage(put):
    start = 8 + 2 + 12 * 10 + 4
    page = grey_page(3, 2, t273=start) | {330: (4, 8)}
    good = by_hand(page, data=bytes(6))
    twice = good.replace(struct.pack("<HH", 262, 4), struct.pack("<HH", 259, 4))
    many = good.replace(struct.pack("<HHI", 330, 4, 1), struct.pack("<HHI", 330, 4, 10**5))
    for data, message in (
        (twice, r"tags \[259\] twice"),
        (many, "page 0 with 100000 smaller copies"),
    ):
        with pytest.raises(FileError, match=message):
            read_image(put(data))


def test_a_tiff_under_the_name_of_a_slide_is_read_as_what_it_is(put):
    data = by_hand(grey_page(3, 2, t273=8 + 2 + 12 * 9 + 4), data=bytes(range(6)))
    np.testing.assert_array_equal(read_image(put(data, "image.ndpi")), [[0, 1, 2], [3, 4, 5]])


def test_an_image_above_the_limit_is_an_error_with_the_limit(put):
    path = put(by_hand(grey_page(60_000, 60_000), data=b"\0" * 9))
    for read in (read_image, read_mask, image_shape):
        with pytest.raises(FileError, match=r"max_pixels=1073741824 px; got 60000x60000 px"):
            read(path)


def test_blocks_beyond_a_limit_are_not_read_by_region_and_large_images_have_no_thumbnail(put, monkeypatch):
    path = put(tiff(np.zeros((64, 64), np.uint8), tile=(32, 32)))
    with open_image(path) as image:
        assert "<img" in image._repr_html_()
        monkeypatch.setattr("tiledseg.io.source._THUMBNAIL_READS", 1000)
        assert "<img" not in image._repr_html_()
    monkeypatch.setattr("tiledseg.io.tiff_pixels._LARGEST_BLOCK", 1000)
    with pytest.raises(FileError, match="at most 1 GiB; got 1024 bytes in one"):
        open_image(path)


def test_a_tiff_made_by_hand_is_read(put):
    start = 8 + 2 + 12 * 9 + 4
    data = by_hand(grey_page(3, 2, t273=start), data=bytes(range(6)))
    np.testing.assert_array_equal(read_image(put(data)), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr", "minisblack"])
@pytest.mark.parametrize("damage", [b"\xff\xd9", b"\0" * 3000])
def test_a_jpeg_tile_that_its_decoder_would_repair_is_damage(put, photometric, damage):
    imagecodecs = pytest.importorskip("imagecodecs")
    assert imagecodecs.JPEG8.available
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    pixels = noise[..., 0] if photometric == "minisblack" else noise
    whole = tiff(pixels, photometric=photometric, compression="jpeg", tile=(64, 64))
    np.testing.assert_array_equal(read_image(put(whole)), tifffile.imread(io.BytesIO(whole)))
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        (start,), (length,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
    middle = start + length // 2
    cut = bytearray(whole)
    cut[middle : middle + len(damage)] = damage[: start + length - middle]
    with pytest.raises(FileError, match="tile 0 at y=0, x=0 px corrupt"):
        read_image(put(bytes(cut)))
