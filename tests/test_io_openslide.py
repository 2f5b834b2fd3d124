"""Slides that OpenSlide opens: DICOM and MRXS, with OpenSlide itself as the oracle."""

from __future__ import annotations

import io
import os
import struct
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

import tiledseg as ts
from tiledseg.errors import FileError
from tiledseg.io import PixelSize, find_images, image_shape, open_image, read_image, read_mask

openslide = pytest.importorskip("openslide")

rng = np.random.default_rng(0)
SCAN = rng.integers(0, 256, (128, 256, 3), np.uint8)
LABEL = rng.integers(0, 256, (40, 30, 3), np.uint8)
TILE = 64
ID = b"0123456789ABCDEF0123456789ABCDEF"


def write_mrxs(path, image, levels=2, left_out=(), form="PNG"):
    """Write a MIRAX slide."""
    folder = path.with_suffix("")
    folder.mkdir()
    down, across = image.shape[0] // TILE, image.shape[1] // TILE
    data, index, lists = bytearray(b"01.02" + ID), bytearray(b"01.02" + ID + bytes(8)), []
    for level in range(levels):
        step, records = 2**level, []
        px = image[::step, ::step]
        for row, column in np.ndindex(down // step, across // step):
            if (level, row, column) in left_out:
                continue
            buffer = io.BytesIO()
            tile = px[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            Image.fromarray(tile).save(buffer, form)
            records.append((row * step * across + column * step, len(data), buffer.tell(), 0))
            data += buffer.getvalue()
        page = len(index)
        index += struct.pack("<ii", len(records), 0) + b"".join(struct.pack("<4i", *one) for one in records)
        lists.append(len(index))
        index += struct.pack("<ii", 0, page)
    struct.pack_into("<ii", index, 5 + len(ID), len(index), len(index) + 4 * levels)
    index += struct.pack(f"<{levels + 1}i", *lists, 0)
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(index)
    names = "".join(f"HIER_0_VAL_{level}_SECTION = LEVEL_{level}\n" for level in range(levels))
    text = f"""[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = {ID.decode()}
IMAGENUMBER_X = {across}
IMAGENUMBER_Y = {down}
OBJECTIVE_MAGNIFICATION = 20
[HIERARCHICAL]
INDEXFILE = Index.dat
HIER_COUNT = 1
NONHIER_COUNT = 0
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = {levels}
{names}[DATAFILE]
FILE_COUNT = 1
FILE_0 = Data0000.dat
"""
    for level in range(levels):
        text += f"""[LEVEL_{level}]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = {0.25 * 2**level}
MICROMETER_PER_PIXEL_Y = {0.25 * 2**level}
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = {TILE}
DIGITIZER_HEIGHT = {TILE}
IMAGE_FORMAT = {form}
IMAGE_CONCAT_FACTOR = {min(level, 1)}
"""
    (folder / "Slidedat.ini").write_text(text)
    Image.new("RGB", (8, 8)).save(path, "JPEG")
    return path


def write_dicom(folder, image, label=None, **tags):
    """Write a whole slide image: one file for each level, and one for the label."""
    pydicom = pytest.importorskip("pydicom")
    uid, Dataset = pydicom.uid.generate_uid, pydicom.Dataset
    study, series, frame = uid(), uid(), uid()
    parts = [("VOLUME", "NONE", image, 0.25), ("VOLUME", "RESAMPLED", image[::2, ::2], 0.5)]
    parts += [] if label is None else [("LABEL", "NONE", label, 1.0)]
    for number, (kind, resampled, px, size) in enumerate(parts):
        height, width = px.shape[:2]
        high, wide = (TILE, TILE) if kind == "VOLUME" else (height, width)
        down, across = -(-height // high), -(-width // wide)
        full = np.zeros((down * high, across * wide, 3), np.uint8)
        full[:height, :width] = px
        measures, groups, found = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing = [size / 1000, size / 1000]
        groups.PixelMeasuresSequence = [measures]
        found.file_meta = pydicom.dataset.FileMetaDataset()
        found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
        found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = uid()
        found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        found.Modality, found.StudyInstanceUID, found.SeriesInstanceUID = "SM", study, series
        found.FrameOfReferenceUID = frame
        made = "ORIGINAL" if resampled == "NONE" else "DERIVED"
        found.ImageType = [made, "PRIMARY", kind, resampled]
        found.Rows, found.Columns, found.NumberOfFrames = high, wide, down * across
        found.TotalPixelMatrixRows, found.TotalPixelMatrixColumns = height, width
        found.SamplesPerPixel, found.PhotometricInterpretation, found.PlanarConfiguration = 3, "RGB", 0
        found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 8, 8, 7, 0
        found.DimensionOrganizationType, found.NumberOfOpticalPaths = "TILED_FULL", 1
        found.TotalPixelMatrixFocalPlanes = 1
        found.ImagedVolumeWidth, found.ImagedVolumeHeight = width * size / 1000, height * size / 1000
        found.SharedFunctionalGroupsSequence = [groups]
        found.PixelData = full.reshape(down, high, across, wide, 3).swapaxes(1, 2).tobytes()
        for name, value in tags.items():
            setattr(found, name, value)
        found.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder / "0.dcm"


@pytest.fixture(params=["mrxs", "dicom"])
def slide(request, tmp_path):
    if request.param == "mrxs":
        return write_mrxs(tmp_path / "slide.mrxs", SCAN)
    return write_dicom(tmp_path, SCAN, LABEL)


def test_levels_regions_and_px_sizes_are_those_of_openslide(slide):
    oracle = openslide.OpenSlide(slide)
    for level in (0, 1):
        size = oracle.level_dimensions[level]
        expected = np.asarray(oracle.read_region((0, 0), level, size))[..., :3]
        np.testing.assert_array_equal(expected, SCAN[:: 2**level, :: 2**level])
        with open_image(slide, level=level) as image:
            assert image.levels == ((128, 256), (64, 128))
            assert image.pixel_size == PixelSize(0.25 * 2**level, 0.25 * 2**level)
            np.testing.assert_array_equal(image[5:60, 30:101], expected[5:60, 30:101])
        np.testing.assert_array_equal(read_image(slide, level=level), expected)
    np.testing.assert_array_equal(read_image(slide, channels=(2, 0)), SCAN[..., [2, 0]])
    assert image_shape(slide) == SCAN.shape
    oracle.close()


def test_a_slide_is_predicted_and_its_px_size_is_written(slide, tmp_path):
    config = {"mask_format": "ome-tiff"}
    result = ts.predict_files(lambda tiles: tiles[..., :1] / 255, slide, tmp_path / "out", config)
    assert not result.failed
    with open_image(result.outcomes[0].written["mask"]) as mask:
        assert mask.pixel_size == PixelSize(0.25, 0.25)
        np.testing.assert_array_equal(np.asarray(mask), (SCAN[..., 0] / np.float32(255) >= 0.5) * 255)


def test_the_label_is_chosen_by_its_name(tmp_path):
    slide = write_dicom(tmp_path, SCAN, LABEL)
    np.testing.assert_array_equal(read_image(slide, page="label"), LABEL)
    with open_image(slide, page="label") as image:
        assert image.pixel_size is None
        np.testing.assert_array_equal(image[3:9, 2:5], LABEL[3:9, 2:5])
    with pytest.raises(FileError, match=r"have page 'labl'.*Did you mean `label`"):
        open_image(slide, page="labl")
    with pytest.raises(FileError, match="level 2"):
        open_image(slide, level=2)


def test_px_that_were_not_scanned_are_background(tmp_path):
    slide = write_mrxs(tmp_path / "a.mrxs", SCAN, left_out={(0, 0, 1)})
    expected = SCAN.copy()
    expected[:TILE, TILE : 2 * TILE] = 255
    np.testing.assert_array_equal(read_image(slide), expected)


def test_labels_are_read_from_slides_that_state_to_be_lossless(tmp_path):
    labels = np.repeat(
        np.kron(rng.integers(0, 4, (8, 16), np.uint8), np.ones((16, 16), np.uint8))[..., None], 3, 2
    )
    plain, once_lossy = tmp_path / "plain", tmp_path / "once_lossy"
    plain.mkdir(), once_lossy.mkdir()
    for path in (write_mrxs(tmp_path / "png.mrxs", labels), write_dicom(plain, labels)):
        np.testing.assert_array_equal(read_mask(path, None), labels[..., 0])
    lossy = [
        write_mrxs(tmp_path / "jpeg.mrxs", labels, form="JPEG"),
        write_dicom(once_lossy, labels, LossyImageCompression="01"),
    ]
    for path in lossy:
        with pytest.raises(FileError, match=r"be lossless to hold labels; got a slide that"):
            read_mask(path, None)
    bright = write_mrxs(tmp_path / "bright.mrxs", 255 * (labels > 1).astype(np.uint8), form="JPEG")
    np.testing.assert_array_equal(read_mask(bright), labels[..., 0] > 1)


def test_a_slide_of_several_dicom_files_is_found_once(tmp_path):
    write_dicom(tmp_path, SCAN, LABEL)
    (tmp_path / "b").mkdir()
    write_dicom(tmp_path / "b", SCAN)
    write_mrxs(tmp_path / "c.mrxs", SCAN)
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path, recursive=True)]
    assert found == ["0.dcm", "b/0.dcm", "c.mrxs"]


def test_other_dicom_and_damaged_slides_are_refused(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(50))
    with pytest.raises(FileError, match=r"OpenSlide.*OME-TIFF"):
        open_image(tmp_path / "a.dcm")
    slide = write_mrxs(tmp_path / "b.mrxs", SCAN)
    data = tmp_path / "b" / "Data0000.dat"
    data.write_bytes(data.read_bytes()[:2000])
    with pytest.raises(FileError, match=r"undamaged image; got OpenSlide's error"):
        read_image(slide)


def test_a_tiff_with_the_mark_of_dicom_is_never_given_to_openslide(tmp_path):
    # OpenSlide would end the process where such a file declares more px than there is memory.
    grey = LABEL[..., 0]
    tags = {256: 30, 257: 40, 258: 8, 259: 1, 262: 1, 273: 400, 277: 1, 278: 40, 279: 1200}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    start = b"II*\0" + struct.pack("<I", 200) + bytes(120) + b"DICM"
    data = start.ljust(200, b"\0") + directory.ljust(200, b"\0") + grey.tobytes()
    for name in ("a.tif", "a.dcm", "a.mrxs"):
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(read_image(tmp_path / name), grey)


def test_a_tile_of_a_slide_is_bounded(tmp_path):
    tiles = np.zeros((64, 64, 3), np.uint8)
    joint = '<EncodeInfo><TileJointInfo OverlapX="-8" OverlapY="0"/></EncodeInfo>'
    with tifffile.TiffWriter(tmp_path / "a.bif") as writer:
        writer.write(tiles, tile=(64, 64), metadata=None, extratags=[(700, 1, None, joint.encode(), True)])
    data = (tmp_path / "a.bif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.bif") as file:
        place = file.pages[0].tags["TileLength"].valueoffset
    (tmp_path / "a.bif").write_bytes(data[:place] + struct.pack("<H", 65520) + data[place + 2 :])
    with pytest.raises(FileError, match="tile"):
        open_image(tmp_path / "a.bif")


def test_a_vsi_whose_scan_is_elsewhere_is_refused_and_its_overview_not_taken_for_it(tmp_path):
    tifffile.imwrite(tmp_path / "a.vsi", LABEL)
    np.testing.assert_array_equal(read_image(tmp_path / "a.vsi"), LABEL)
    (tmp_path / "_a_").mkdir()
    for read in (read_image, open_image, image_shape):
        with pytest.raises(FileError, match=r"scan is in the folder beside it.*OME-TIFF"):
            read(tmp_path / "a.vsi")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_beside_a_slide_is_refused_and_not_waited_for(tmp_path):
    slide = write_mrxs(tmp_path / "a.mrxs", SCAN)
    (tmp_path / "a" / "Index.dat").unlink()
    os.mkfifo(tmp_path / "a" / "Index.dat")
    with pytest.raises(FileError, match="regular files beside it"):
        open_image(slide)


def test_a_missing_library_is_named_with_its_command(tmp_path, monkeypatch):
    slide = write_mrxs(tmp_path / "a.mrxs", SCAN)
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(FileError, match=r'pip install "tiledseg\[slides\]"'):
        open_image(slide)
