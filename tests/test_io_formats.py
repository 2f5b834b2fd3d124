"""Every format of the table in docs/files.md: px, levels and px size of a file, by an independent reader."""

from __future__ import annotations

import io
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tiledseg.errors import FileError
from tiledseg.io import PixelSize, find_images, image_shape, open_image, read_image, read_pixel_size

rng = np.random.default_rng(0)
SCAN = np.kron(rng.integers(0, 256, (8, 16, 3)), np.ones((32, 32, 1))).astype(np.uint8)
SMALL = SCAN[::2, ::2]
LABEL = SCAN[:40, :50].copy()
HALF = PixelSize(0.5, 0.5)
PAGE = Path(__file__).parents[1] / "docs" / "files.md"


def with_tifffile(path, level=0):
    with tifffile.TiffFile(path) as tiff:
        return tiff.series[0].levels[level].asarray()


def with_openslide(path, level=0):
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(path) as slide:
        found = slide.read_region((0, 0), level, slide.level_dimensions[level])
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        return np.asarray(found)[..., :3]


def with_pillow(path, level=0):
    with Image.open(path) as image:
        return np.asarray(image)


def pyramid(path, first, second, **options):
    with tifffile.TiffWriter(path, **options) as writer:
        writer.write(SCAN, **first)
        writer.write(SMALL, **second)
        return writer


def plain_tiff(path):
    options = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "resolutionunit": "CENTIMETER"}
    pyramid(path, options | {"subifds": 1, "resolution": (20000, 20000)}, options | {"subfiletype": 1})


def ome_tiff(path):
    options = {"photometric": "rgb", "tile": (64, 64)}
    sizes = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    pyramid(path, options | {"subifds": 1, "metadata": sizes}, options | {"subfiletype": 1}, ome=True)


def imagej(path):
    stack = np.moveaxis(SCAN, 2, 0).copy()
    options = {"metadata": {"axes": "CYX", "unit": "micron"}, "resolution": (2, 2), "truncate": True}
    tifffile.imwrite(path, stack, imagej=True, **options)


def geotiff(path):
    keys = (1, 1, 0, 1, 1024, 0, 1, 1)
    tags = [(34735, 3, 8, keys, True), (33550, 12, 3, (9.0, 9.0, 0.0), True)]
    tags.append((33922, 12, 6, (0.0,) * 6, True))
    tifffile.imwrite(path, SCAN, photometric="rgb", tile=(64, 64), metadata=None, extratags=tags)


def aperio(path):
    text = "Aperio Image Library v12\r\n512x256 (64x64){} JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(SCAN, tile=(64, 64), description=text.format(""), **options)
        writer.write(SCAN[::8, ::8], rowsperstrip=16, description=text.format(" -> 64x32"), **options)
        writer.write(SMALL, tile=(64, 64), description=text.format(" -> 256x128"), **options)


def philips(path):
    def level(number, size):
        spacing = f'<Attribute Name="DICOM_PIXEL_SPACING">&quot;{size}&quot; &quot;{size}&quot;</Attribute>'
        return (
            f'<DataObject ObjectType="PixelDataRepresentation">{spacing}<Attribute Name='
            f'"PIIM_PIXEL_DATA_REPRESENTATION_NUMBER">{number}</Attribute></DataObject>'
        )

    text = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute Name='
        '"PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage"><Attribute Name='
        '"PIM_DP_IMAGE_TYPE">WSI</Attribute><Attribute Name="DICOM_PIXEL_SPACING">&quot;0.0005&quot; '
        '&quot;0.0005&quot;</Attribute><Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>'
        f"{level(0, 0.0005)}{level(1, 0.001)}</Array></Attribute></DataObject></Array></Attribute>"
        "</DataObject>"
    )
    options = {"photometric": "ycbcr", "compression": "jpeg", "tile": (64, 64), "metadata": None}
    options["software"] = "Philips DP v1.0"
    pyramid(path, options | {"description": text}, options | {"subfiletype": 1})


def ventana(path):
    stated = b'<Metadata><iScan Magnification="20" ScanRes="0.5"/></Metadata>'
    options = {"photometric": "rgb", "metadata": None, "software": "ScanOutputManager 1.1"}
    options["extratags"] = [(700, 1, len(stated), stated, True)]
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(LABEL, description="Label_Image", **options)
        for level, px in enumerate((SCAN, SMALL)):
            text = f"level={level} mag={20 / 2**level} quality=95"
            writer.write(px, tile=(64, 64), description=text, **options)


def joined(path, overlap):
    """Write a Ventana slide whose tiles overlap by so many px; its rows are numbered from below."""
    down, across = SCAN.shape[0] // 64, SCAN.shape[1] // 64

    def number(row, column):
        above = down - 1 - row
        return above * across + (across - 1 - column if above % 2 else column) + 1

    def joint(direction, first, second, y, x):
        return (
            f'<TileJointInfo FlagJoined="1" Confidence="98" Direction="{direction}" Tile1="{number(*first)}" '
            f'Tile2="{number(*second)}" OverlapX="{x}" OverlapY="{y}"/>'
        )

    places = [(row, column) for row in range(down) for column in range(across)]
    joints = [joint("RIGHT", (y, x), (y, x + 1), 0, overlap) for y, x in places if x + 1 < across]
    joints += [joint("UP", (y + 1, x), (y, x), overlap, 0) for y, x in places if y + 1 < down]
    image = (
        f'<ImageInfo AOIScanned="1" AOIIndex="0" NumRows="{down}" NumCols="{across}" Width="64" Height="64" '
    )
    image += f'Pos-X="0" Pos-Y="0">{"".join(joints)}</ImageInfo>'
    text = f'<EncodeInfo Ver="2"><SlideStitchInfo>{image}</SlideStitchInfo>'
    text += '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    stated = b'<Metadata><iScan Magnification="20" ScanRes="0.5" Z-layers="1"/></Metadata>'
    options = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        tag = [(700, 1, len(stated), stated, True)]
        writer.write(LABEL, description="Label Image", extratags=tag, **options)
        for level, px in enumerate((SCAN, SMALL)):
            tag = [] if level else [(700, 1, len(text), text.encode(), True)]
            name = f"level={level} mag={20 >> level} quality=95"
            options |= {"description": name, "tile": (64, 64), "compression": "jpeg", "extratags": tag}
            writer.write(px, **options)


def zeiss(path):
    """Write an LSM: the tag that states its axes and px size, and a thumbnail after the image."""
    stated = bytearray(512)
    numbers = (0x0400494C, 512, SCAN.shape[1], SCAN.shape[0], 1, 3, 1, 1, 128, 128)
    struct.pack_into("<10i3d", stated, 0, *numbers, 5e-7, 5e-7, 1e-6)
    options = {"photometric": "rgb", "metadata": None}
    tags = [(34412, 1, 512, bytes(stated), True)]
    with tifffile.TiffWriter(path, bigtiff=False, byteorder="<") as writer:
        writer.write(np.moveaxis(SCAN, 2, 0), planarconfig="separate", extratags=tags, **options)
        writer.write(LABEL, subfiletype=1, **options)


def stack(path, planes, calibrated=1):
    """Write an STK of MetaMorph: one directory, the planes behind one another; px of 0.25 x 0.5 µm."""
    count, (height, width) = len(planes), planes.shape[1:]
    first = 8 + planes.nbytes
    beyond = first + 2 + 12 * 12 + 4
    times = struct.pack("<6I", 0, 1, 2450000, 0, 2450000, 0) * count
    entries = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    after = beyond + len(times)
    waves, sizes = struct.pack("<2I", 500, 1) * count, after + 8 * count + 32
    spatial = struct.pack("<8I", 3, calibrated, 4, sizes, 5, sizes + 8, 6, sizes + 16)
    spatial += struct.pack("<5I", 1, 2, 1, 4, 3) + b"um\0"
    entries |= {279: planes.nbytes // count, 33628: after + len(waves), 33629: beyond, 33630: after}
    kinds = {33628: (4, 4), 33629: (5, count), 33630: (5, count)}
    listed = [struct.pack("<HHII", tag, *kinds.get(tag, (4, 1)), value) for tag, value in entries.items()]
    start = b"II*\0" + struct.pack("<I", first) + planes.astype("<u2").tobytes()
    path.write_bytes(start + struct.pack("<H", 12) + b"".join(listed) + bytes(4) + times + waves + spatial)


def leica(path):
    text = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection>'
        '<image name="macro"><pixels sizeX="50" sizeY="40"><dimension sizeX="50" sizeY="40" r="0" ifd="0"/>'
        '</pixels></image><image name="scan"><pixels sizeX="512" sizeY="256"><dimension sizeX="512" '
        'sizeY="256" r="0" ifd="1"/><dimension sizeX="256" sizeY="128" r="1" ifd="2"/></pixels></image>'
        "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        options = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "resolutionunit": "CENTIMETER"}
        writer.write(LABEL, description=text, **options)
        writer.write(SCAN, resolution=(20000, 20000), **options)
        writer.write(SMALL, **options)


def akoya(path):
    text = "<?xml version='1.0'?><PerkinElmer-QPI-ImageDescription><ImageType>{}</ImageType>"
    text += "</PerkinElmer-QPI-ImageDescription>"
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "metadata": None, "software": "PerkinElmer-QPI"}
        options["resolutionunit"] = "CENTIMETER"
        writer.write(
            SCAN,
            tile=(64, 64),
            resolution=(20000, 20000),
            description=text.format("FullResolution"),
            **options,
        )
        writer.write(LABEL, description=text.format("Thumbnail"), **options)
        writer.write(SMALL, tile=(64, 64), description=text.format("ReducedResolution"), **options)


def jpeg_of(px, **options):
    buffer = io.BytesIO()
    Image.fromarray(px).save(buffer, "JPEG", quality=95, subsampling=0, **options)
    return buffer.getvalue()


def ndpi_page(px, lens, offset):
    """Make the JPEG of a page, its tags, and the bytes behind it."""
    jpeg = jpeg_of(px, **({"restart_marker_blocks": 8} if lens > 0 else {}))
    density = (round(1000 * lens), 1) if lens > 0 else (500, 1)
    tags = {
        254: (4, 0 if lens == 20 else 1),
        256: (4, px.shape[1]),
        257: (4, px.shape[0]),
        258: (3, [8, 8, 8]),
    }
    tags |= {259: (3, 7), 262: (3, 6), 271: (2, b"Hamamatsu\0"), 273: (4, offset), 277: (3, 3)}
    tags |= {278: (4, px.shape[0]), 279: (4, len(jpeg)), 282: (5, density), 283: (5, density), 296: (3, 3)}
    tags |= {530: (3, [1, 1]), 65420: (4, 1), 65421: (11, lens), 65422: (9, 0), 65423: (9, 0), 65424: (9, 0)}
    if lens > 0:
        scan = jpeg.index(b"\xff\xda")
        begin = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4])
        marks = [found.end() for found in re.finditer(rb"\xff[\xd0-\xd7]", jpeg[begin:])]
        tags[65426] = (4, [begin, *(begin + mark for mark in marks)])
    return tags, jpeg + bytes(-len(jpeg) % 4)


def hamamatsu(path, base=16):
    """Write the layout of NDPI: JPEG with restart markers, links of 64 bits, high words of all offsets."""
    forms = {3: "H", 4: "I", 9: "i", 11: "f"}
    out, link = bytearray(), 4
    with path.open("wb") as file:
        file.write(struct.pack("<2sHQ", b"II", 42, 0))
        for px, lens in ((SCAN, 20.0), (SMALL, 10.0), (LABEL, -1.0)):
            tags, data = ndpi_page(px, lens, base + len(out))
            out += data
            entries, high = b"", b""
            for code, (kind, value) in sorted(tags.items()):
                values = value if isinstance(value, list) else [value]
                stored = value if kind == 2 else struct.pack("<II", *value) if kind == 5 else b""
                count = len(value) if kind == 2 else 1
                above = 0
                if kind in forms:
                    above, values = (
                        (values[0] >> 32, [values[0] & 0xFFFFFFFF]) if code == 273 else (0, values)
                    )
                    stored, count = struct.pack(f"<{len(values)}{forms[kind]}", *values), len(values)
                if len(stored) > 4:
                    place = base + len(out)
                    out += stored + bytes(-len(stored) % 4)
                    above, stored = place >> 32, struct.pack("<I", place & 0xFFFFFFFF)
                entries += struct.pack("<HHI", code, kind, count) + stored.ljust(4, b"\0")
                high += struct.pack("<I", above)
            pointer = struct.pack("<Q", base + len(out))
            if link == 4:
                file.seek(4)
                file.write(pointer)
            else:
                out[link - base : link - base + 8] = pointer
            out += struct.pack("<H", len(tags)) + entries
            link = base + len(out)
            out += bytes(8) + high
        file.seek(base)
        file.write(out)


def raster(path):
    Image.fromarray(SCAN).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))


def png(path):
    Image.fromarray(SCAN).save(path, dpi=(50800, 50800))


def npy(path):
    np.save(path, SCAN)


def zarr_array(path):
    zarr = pytest.importorskip("zarr")
    made = zarr.create_array(
        path, shape=SCAN.shape, dtype="u1", chunks=(64, 64, 3), dimension_names=("y", "x", "c")
    )
    made[...] = SCAN


def ome_zarr(path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for level, px in enumerate((SCAN, SMALL)):
        group.create_array(str(level), data=np.moveaxis(px, 2, 0).copy(), chunks=(1, 64, 64))
        steps = [{"type": "scale", "scale": [1, 0.5 * 2**level, 0.5 * 2**level]}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]


def stored(path, level=0):
    return (SCAN, SMALL)[level]


# name in the table: suffix, writer, oracles, levels, px size
FORMATS = {
    "TIFF": (".tif", plain_tiff, [with_tifffile, stored], 2, HALF),
    "OME-TIFF": (".ome.tif", ome_tiff, [with_tifffile, stored], 2, HALF),
    "ImageJ TIFF": (
        ".tif",
        imagej,
        [lambda path, _: np.moveaxis(tifffile.imread(path), 0, 2), stored],
        1,
        HALF,
    ),
    "GeoTIFF": (".tif", geotiff, [with_tifffile, stored], 1, None),
    "Aperio": (".svs", aperio, [with_tifffile, with_openslide], 2, HALF),
    "Philips TIFF": (".tiff", philips, [with_tifffile, with_openslide], 2, HALF),
    "Hamamatsu": (".ndpi", hamamatsu, [with_tifffile, with_openslide], 2, HALF),
    "Leica": (".scn", leica, [stored], 2, HALF),
    "Ventana": (".bif", ventana, [with_tifffile, stored], 2, HALF),
    "Zeiss LSM": (".lsm", zeiss, [stored], 1, HALF),
    "Akoya": (".qptiff", akoya, [with_tifffile, stored], 2, HALF),
    "zarr": (".zarr", zarr_array, [stored], 1, None),
    "OME-Zarr": (".ome.zarr", ome_zarr, [stored], 2, HALF),
    "NumPy": (".npy", npy, [stored], 1, None),
    "PNG": (".png", png, [with_pillow, stored], 1, HALF),
    "JPEG": (".jpg", raster, [with_pillow], 1, None),
    "BMP": (".bmp", raster, [with_pillow, stored], 1, None),
    "WebP": (".webp", raster, [with_pillow, stored], 1, None),
}
ELSEWHERE = {"MIRAX", "DICOM"}  # test_io_openslide.py


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_each_format_is_read_as_by_an_independent_reader(tmp_path, name):
    suffix, write, oracles, levels, size = FORMATS[name]
    path = tmp_path / f"image{suffix}"
    write(path)
    assert find_images(tmp_path) == [path]
    for level in range(levels):
        with open_image(path, level=level) as image:
            assert len(image.levels) == levels
            assert (image.pixel_size is None) == (size is None)
            if size is not None:
                found = (image.pixel_size.y, image.pixel_size.x)
                assert found == pytest.approx((size.y * 2**level, size.x * 2**level))
            px = np.asarray(image)
            assert image.shape == px.shape
            region = image[33:70, 41:99]
        np.testing.assert_array_equal(region, px[33:70, 41:99])
        np.testing.assert_array_equal(read_image(path, level=level), px)
        for oracle in oracles:
            np.testing.assert_array_equal(px, oracle(path, level), err_msg=f"{name} {oracle}")
    assert image_shape(path) == SCAN.shape


@pytest.mark.parametrize(
    ("name", "page"), [("Hamamatsu", "macro"), ("Ventana", "label"), ("Akoya", "thumbnail")]
)
def test_images_beside_the_scan_are_chosen_by_name(tmp_path, name, page):
    suffix, write, *_ = FORMATS[name]
    write(tmp_path / f"a{suffix}")
    found = read_image(tmp_path / f"a{suffix}", page=page)
    assert found.shape == LABEL.shape
    with pytest.raises(FileError, match="have one page 'barcode'"):
        read_image(tmp_path / f"a{suffix}", page="barcode")


@pytest.mark.parametrize("overlap", [0, 8])
def test_overlapping_tiles_of_a_ventana_slide_are_stitched(tmp_path, overlap):
    joined(tmp_path / "a.bif", overlap)
    found = read_image(tmp_path / "a.bif", level=1)
    assert found.shape == ((256 - 3 * overlap) // 2, (512 - 7 * overlap) // 2, 3)
    np.testing.assert_array_equal(found, with_openslide(tmp_path / "a.bif", 1))


def test_overlapping_tiles_are_not_read_without_openslide(tmp_path, monkeypatch):
    joined(tmp_path / "a.bif", 8)
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(FileError, match="slides"):
        read_image(tmp_path / "a.bif")


def test_the_planes_of_an_stk_are_chosen_by_time(tmp_path):
    planes = rng.integers(0, 4000, (3, 40, 56), np.uint16)
    stack(tmp_path / "a.stk", planes)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.stk"), planes)
    np.testing.assert_array_equal(read_image(tmp_path / "a.stk", at={"t": 2}), planes[2])
    with open_image(tmp_path / "a.stk", at={"t": 0}) as image:
        assert image.pixel_size == PixelSize(0.25, 0.5)
    with pytest.raises(FileError, match="3 positions along t"):
        read_image(tmp_path / "a.stk")
    stack(tmp_path / "off.stk", planes, calibrated=0)
    with open_image(tmp_path / "off.stk", at={"t": 0}) as image:
        assert image.pixel_size is None


def test_an_ome_tiff_with_damaged_tags_of_metamorph_is_read(tmp_path):
    tags = [(33628, 4, 2, (0, 0), True), (33629, 5, 3, (0,) * 6, True)]  # 0 / 0, of which NumPy warns
    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", LABEL[..., 0], ome=True, metadata=metadata, extratags=tags)
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif"), LABEL[..., 0])
    assert read_pixel_size(tmp_path / "a.ome.tif") == PixelSize(0.5, 0.5)


def test_an_ndpi_beyond_4_gb_is_read(tmp_path):
    hamamatsu(tmp_path / "small.ndpi")
    hamamatsu(tmp_path / "large.ndpi", base=(5 << 30) + 16)  # a hole, which takes no space
    for level in (0, 1):
        expected = read_image(tmp_path / "small.ndpi", level=level)
        np.testing.assert_array_equal(read_image(tmp_path / "large.ndpi", level=level), expected)


def test_the_table_lists_what_is_tested():
    cells = re.findall(r"^\| ([^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    names = [re.split(r" \(|, ", cell)[0] for cell in cells]
    assert sorted(names) == sorted(["format", *FORMATS, *ELSEWHERE])


@pytest.mark.parametrize(
    ("start", "found", "fix"),
    [
        (b"\xda\xce\xbe\n", "an ND2", "bfconvert"),
        (b"\x89HDF\r\n\x1a\n", "HDF5", "h5py"),
        (b"PK\x03\x04", "zip", "Unpack"),
        (b"GIF89a", "GIF", "PNG or TIFF"),
        (b"version https://git-lfs", "Git LFS", "git lfs pull"),
        (b"<!DOCTYPE html>", "a web page", "Fetch the file again"),
        (b"MATLAB 5.0", "MATLAB", "loadmat"),
        (b"P5\n50 40", "PGM", "PNG or TIFF"),
        (b"<svg>", "<svg>", "PNG or TIFF"),
    ],
)
def test_formats_that_are_not_read_are_named_with_what_to_do(tmp_path, start, found, fix):
    (tmp_path / "a.png").write_bytes(start + b"\0" * 200)
    with pytest.raises(FileError, match=f"got .*{found}.*{fix}"):
        read_image(tmp_path / "a.png")


def test_masks_that_cellpose_saved_are_named_with_how_to_take_them_out(tmp_path):
    np.save(tmp_path / "a_seg.npy", {"masks": np.zeros((4, 5))}, allow_pickle=True)
    with pytest.raises(FileError, match=r'got object.*item\(\)\["masks"\]'):
        read_image(tmp_path / "a_seg.npy")


def test_a_jpeg_of_12_bits_is_not_called_damaged(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(pixels, bitspersample=12))
    with pytest.raises(FileError, match=r"have a layout.*12-bit"):
        read_image(tmp_path / "a.jpg")
