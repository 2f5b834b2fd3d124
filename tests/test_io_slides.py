"""Which image of a TIFF is taken, its levels, and the size of a px."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from tiledseg.errors import FileError, SettingError
from tiledseg.io import PixelSize, open_image, read_image

rng = np.random.default_rng(0)
SCAN = rng.integers(0, 256, (128, 192, 3), np.uint8)
LABEL = rng.integers(0, 256, (40, 50, 3), np.uint8)
APERIO = "Aperio Image Library v12.0.15\r\n{}|AppMag = 20|MPP = 0.5"


@pytest.fixture
def svs(tmp_path):
    path = tmp_path / "slide.svs"
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "metadata": None}
        writer.write(SCAN, tile=(64, 64), description=APERIO.format("192x128 (64x64) JPEG"), **options)
        writer.write(
            SCAN[::8, ::8], rowsperstrip=16, description=APERIO.format("192x128 -> 24x16 - "), **options
        )
        writer.write(
            SCAN[::4, ::4], tile=(64, 64), description=APERIO.format("192x128 (64x64) -> 48x32"), **options
        )
        writer.write(LABEL, rowsperstrip=40, subfiletype=1, description="Aperio\r\nlabel 50x40", **options)
        writer.write(
            LABEL[::2], rowsperstrip=20, subfiletype=9, description="Aperio\r\nmacro 50x20", **options
        )
    return path


def test_the_scan_of_a_slide_is_read_with_its_levels(svs):
    np.testing.assert_array_equal(read_image(svs), SCAN)
    for page in (None, 0):
        with open_image(svs, page=page, level=1) as image:
            assert image.levels == ((128, 192), (32, 48))
            assert image.pixel_size == PixelSize(2.0, 2.0)
            np.testing.assert_array_equal(image[:, :], SCAN[::4, ::4])


def test_read_image_takes_what_open_image_takes(svs, tmp_path):
    np.testing.assert_array_equal(read_image(svs, level=1), SCAN[::4, ::4])
    np.testing.assert_array_equal(read_image(svs, channels=(2, 0)), SCAN[..., [2, 0]])
    stack = np.moveaxis(SCAN, 2, 0).copy()
    tifffile.imwrite(tmp_path / "z.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "z.tif", at={"z": 1}), stack[1])
    with pytest.raises(FileError, match="level 2"):
        read_image(svs, level=2)
    with pytest.raises(SettingError, match="max_pixels"):
        read_image(svs, level=1, max_pixels=0)


def test_label_macro_and_thumbnail_are_chosen_by_page(svs):
    for page, expected, size in (
        (1, SCAN[::8, ::8], PixelSize(4.0, 4.0)),
        (3, LABEL, None),
        (4, LABEL[::2], None),
    ):
        np.testing.assert_array_equal(read_image(svs, page=page), expected)
        with open_image(svs, page=page) as image:
            assert image.pixel_size == size
            np.testing.assert_array_equal(image[:, :], expected)


def ome(path, *images, levels=1, names=()):
    with tifffile.TiffWriter(path, ome=True) as writer:
        for number, pixels in enumerate(images):
            metadata = {"axes": "YXS", "PhysicalSizeX": 0.25 * 4**number, "PhysicalSizeY": 0.25 * 4**number}
            metadata |= {"Name": names[number]} if names else {}
            copies = levels - 1 if number == 0 else 0
            options = {"photometric": "rgb", "tile": (64, 64)}
            writer.write(pixels, subifds=copies, metadata=metadata, **options)
            for level in range(1, copies + 1):
                writer.write(pixels[:: 2**level, :: 2**level], subfiletype=1, **options)
    return path


@pytest.mark.parametrize(
    "names", [(), ("CMU-1.svs #1", "label image", "macro image"), ("a", "Label", "Macro")]
)
def test_the_scan_of_an_ome_tiff_is_read_and_others_by_page(tmp_path, names):
    path = ome(tmp_path / "a.ome.tif", SCAN, LABEL, LABEL[::2], levels=2, names=names)
    np.testing.assert_array_equal(read_image(path), SCAN)
    for page in (None, 0):
        with open_image(path, page=page, level=1) as image:
            assert image.pixel_size == PixelSize(0.5, 0.5)
            np.testing.assert_array_equal(image[:, :], SCAN[::2, ::2])
    with open_image(path, page=1) as image:
        assert image.pixel_size == PixelSize(1.0, 1.0)
        np.testing.assert_array_equal(image[:, :], LABEL)
    np.testing.assert_array_equal(read_image(path, page=2), LABEL[::2])


def test_names_tell_the_scan_from_label_and_macro_without_levels(tmp_path):
    path = ome(tmp_path / "a.ome.tif", SCAN, LABEL, names=("scan", "label image"))
    np.testing.assert_array_equal(read_image(path), SCAN)


def test_several_images_without_a_scan_are_refused(tmp_path):
    path = ome(tmp_path / "a.ome.tif", SCAN, SCAN[:64], names=("field 1", "field 2"))
    for read in (read_image, open_image):
        with pytest.raises(FileError, match=r"2 pages: .*Pass `page`"):
            read(path)
    with open_image(path, page=1) as image:
        assert image.pixel_size == PixelSize(1.0, 1.0)


SCN = """<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection>
<image name="macro"><pixels sizeX="50" sizeY="40"><dimension sizeX="50" sizeY="40" r="0" ifd="0"/></pixels>
</image><image name="scan"><pixels sizeX="192" sizeY="128"><dimension sizeX="192" sizeY="128" r="0" ifd="1"/>
<dimension sizeX="96" sizeY="64" r="1" ifd="2"/></pixels></image></collection></scn>"""


def scn(path, text):
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        options = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
        writer.write(LABEL, description=text, **options)
        writer.write(SCAN, resolution=(20000, 20000), resolutionunit="CENTIMETER", **options)
        writer.write(SCAN[::2, ::2], **options)
    return path


def test_the_largest_image_of_an_scn_is_read(tmp_path):
    path = scn(tmp_path / "a.scn", SCN)
    np.testing.assert_array_equal(read_image(path), SCAN)
    with open_image(path, level=1) as image:
        assert image.pixel_size == PixelSize(1.0, 1.0)
        np.testing.assert_array_equal(image[:, :], SCAN[::2, ::2])


@pytest.mark.parametrize("change", [('ifd="2"', 'ifd="9999999"'), ('ifd="0"', 'c="99999999999" ifd="0"')])
def test_scn_metadata_that_declares_too_much_is_refused(tmp_path, change):
    path = scn(tmp_path / "a.scn", SCN.replace(*change))
    with pytest.raises(FileError, match="declares more than the file holds"):
        open_image(path)
    np.testing.assert_array_equal(read_image(path, page=1), SCAN)


def pixel_size(path, **options):
    tifffile.imwrite(path, SCAN[..., 0], **options)
    with open_image(path) as image:
        return image.pixel_size


@pytest.mark.parametrize(
    ("unit", "per_unit", "size"),
    [
        *(
            (name, 4, 0.25)
            for name in ("um", "µm", "\u03bcm", "micron", "microns", "Micrometer", "micrometres")
        ),
        *((name, 4, 0.25) for name in ("\\u00B5m", "\\u00b5m", " um ")),
        ("nm", 0.004, 0.25),
        ("mm", 4000, 0.25),
        ("inch", 25400, 1.0),
        ("inch", 300, None),
        ("cm", 28.35, None),
        ("thou", 25.4, 1.0),
        ("pixel", 1, None),
        ("", 1, None),
    ],
)
def test_units_of_imagej_in_any_spelling(tmp_path, unit, per_unit, size):
    text = f"ImageJ=1.54\nunit={unit}\n".encode("cp1252" if "µ" in unit else "utf-8")
    found = pixel_size(tmp_path / "a.tif", resolution=(per_unit, per_unit), description=text, metadata=None)
    assert (found and (found.y, found.x)) == (size and pytest.approx((size, size)))


@pytest.mark.parametrize(
    ("unit", "resolution", "size"),
    [
        ("CENTIMETER", 40000, 0.25),
        ("INCH", 101600, 0.25),
        ("INCH", 72, None),
        ("INCH", 300, None),
        ("INCH", 600, None),
        ("CENTIMETER", 28.35, None),
        ("CENTIMETER", 118.11, None),
        ("CENTIMETER", 236.22, None),
        ("INCH", 1, None),
        ("INCH", 1200, 25400 / 1200),
        ("CENTIMETER", 600, 10000 / 600),
        ("NONE", 40000, None),
        ("MILLIMETER", 4000, 0.25),
        ("MICROMETER", 4, 0.25),
    ],
)
def test_resolution_tags_count_where_they_are_none_of_a_print(tmp_path, unit, resolution, size):
    found = pixel_size(tmp_path / "a.tif", resolution=(resolution, resolution), resolutionunit=unit)
    assert (found and (found.y, found.x)) == (size and pytest.approx((size, size)))


@pytest.mark.parametrize(("unit", "size"), [("nm", (0.25, 0.5)), ("furlong", None)])
def test_imagej_states_another_unit_along_y(tmp_path, unit, size):
    text = f"ImageJ=1.54\nunit=micron\nyunit={unit}\n"
    found = pixel_size(tmp_path / "a.tif", resolution=(2, 0.004), description=text, metadata=None)
    assert (found and (found.y, found.x)) == (size and pytest.approx(size))


@pytest.mark.parametrize(("unit", "size"), [("µm", 0.25), ("nm", 250), ("mm", 0.00025), ("micron", 0.25)])
def test_units_of_ome(tmp_path, unit, size):
    metadata = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size}
    metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    found = pixel_size(tmp_path / "a.ome.tif", ome=True, metadata=metadata)
    assert (found.y, found.x) == pytest.approx((0.25, 0.25))
