"""Zarr: axes by name, and the coordinate transformations of OME-NGFF."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest

from tiledseg.errors import FileError
from tiledseg.io import PixelSize, create_image, open_image, read_image

zarr = pytest.importorskip("zarr")

rng = np.random.default_rng(0)
CUBE = rng.integers(0, 256, (5, 40, 60), np.uint8)


def array(path, shape=CUBE.shape, names=None, zarr_format=3, pixels=CUBE):
    options = {"dimension_names": names} if zarr_format == 3 else {}
    made = zarr.create_array(
        path,
        shape=shape,
        dtype="u1",
        chunks=tuple(-(-n // 2) for n in shape),  # few: each is read many times
        zarr_format=zarr_format,
        **options,
    )
    made[...] = pixels.reshape(shape)
    return made


@pytest.mark.parametrize(
    "names",
    [("band", "y", "x"), ("c", "Y", "X"), ("channel", "row", "column"), ("bands", "latitude", "longitude")],
)
def test_named_axes_are_read_by_their_names(tmp_path, names):
    array(tmp_path / "a.zarr", names=names)
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr"), np.moveaxis(CUBE, 0, 2))
    made = array(tmp_path / "b.zarr", zarr_format=2)
    made.attrs["_ARRAY_DIMENSIONS"] = list(names)  # as xarray writes it
    np.testing.assert_array_equal(read_image(tmp_path / "b.zarr"), np.moveaxis(CUBE, 0, 2))


def test_z_is_chosen_by_at_and_an_unknown_axis_of_one_position_is_left_out(tmp_path):
    array(tmp_path / "a.zarr", names=("z", "y", "x"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr", at={"z": 3}), CUBE[3])
    with pytest.raises(FileError, match="5 positions along z"):
        read_image(tmp_path / "a.zarr")
    array(tmp_path / "b.zarr", shape=(1, *CUBE.shape), names=("scene", "z", "y", "x"))
    np.testing.assert_array_equal(read_image(tmp_path / "b.zarr", at={"z": 3}), CUBE[3])


@pytest.mark.parametrize(
    "names", [("plane", "y", "x"), ("c", "y", "column2"), ("x", "y", "x"), ("a", "b", "c")]
)
def test_names_that_say_nothing_are_an_error_that_shows_them(tmp_path, names):
    array(tmp_path / "a.zarr", names=names)
    with pytest.raises(FileError, match=rf"{names[0]}.*shape \(5, 40, 60\).*dimension_names"):
        open_image(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "shape", [(5, 40, 60), (3, 40, 100), (40, 5, 60), (20, 20, 30), (30, 20, 20), (4, 4, 750)]
)
def test_unnamed_axes_that_could_be_read_in_two_ways_name_both(tmp_path, shape):
    array(tmp_path / "a.zarr", shape=shape, pixels=CUBE)
    with pytest.raises(FileError, match=r"\(y, x, c\) or \(c, y, x\).*_ARRAY_DIMENSIONS"):
        open_image(tmp_path / "a.zarr")
    zarr.open_array(tmp_path / "a.zarr", mode="r+").attrs["_ARRAY_DIMENSIONS"] = ["c", "y", "x"]
    assert read_image(tmp_path / "a.zarr").shape == (*shape[1:], shape[0])


@pytest.mark.parametrize("shape", [(40, 60, 5), (100, 40, 3), (60, 100, 2), (3000, 4)])
def test_unnamed_axes_that_are_clear_are_channels_last(tmp_path, shape):
    array(tmp_path / "a.zarr", shape=shape, pixels=CUBE.ravel()[: int(np.prod(shape))])
    assert read_image(tmp_path / "a.zarr").shape == shape


def ome(path, datasets, *, overall=(), version="0.5", units=("micrometer", "micrometer"), sizes=((40, 60),)):
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    listed = []
    for level, (steps, size) in enumerate(zip(datasets, sizes, strict=True)):
        names = {"dimension_names": ("y", "x")} if version == "0.5" else {}
        group.create_array(str(level), data=CUBE[0][: size[0], : size[1]].copy(), chunks=(24, 32), **names)
        listed.append({"path": str(level), "coordinateTransformations": steps})
    axes = [
        {"name": n, "type": "space"} | ({"unit": u} if u else {}) for n, u in zip("yx", units, strict=True)
    ]
    image = {"axes": axes, "datasets": listed, "version": version, "name": "a"}
    image |= {"coordinateTransformations": list(overall)} if overall else {}
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [image]
    return group


def scale(y, x):
    return {"type": "scale", "scale": [y, x]}


def translation(y, x):
    return {"type": "translation", "translation": [y, x]}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("steps", "overall", "size", "origin"),
    [
        ([scale(0.5, 0.25)], [], (0.5, 0.25), None),
        ([scale(0.5, 0.25)], [scale(2, 4)], (1.0, 1.0), None),
        ([scale(0.5, 0.25), translation(10, 20)], [], (0.5, 0.25), (10, 20)),
        ([scale(0.5, 0.25), translation(10, 20)], [scale(2, 2), translation(1, 0)], (1.0, 0.5), (21, 40)),
        ([{"type": "identity"}, scale(3, 3)], [{"type": "identity"}], (3, 3), None),
        ([scale(1, 1)], [{"type": "rotation", "angle": 3}], None, None),
        ([{"type": "identity"}], [], None, None),
    ],
)
def test_all_transformations_count_for_the_size_of_a_px(tmp_path, version, steps, overall, size, origin):
    ome(tmp_path / "a.zarr", [steps], overall=overall, version=version)
    with open_image(tmp_path / "a.zarr") as image:
        assert image.pixel_size == (size and PixelSize(*size))
        assert (image.placement and image.placement.origin) == origin


def test_levels_that_begin_with_a_smaller_one_are_refused(tmp_path):
    ome(tmp_path / "a.zarr", [[scale(2, 2)], [scale(1, 1)]], sizes=((20, 30), (40, 60)))
    with pytest.raises(FileError, match=r"20x30, 40x60 px.*largest to the smallest"):
        read_image(tmp_path / "a.zarr")


def test_a_transformation_may_be_stored_as_an_array(tmp_path):
    group = ome(tmp_path / "a.zarr", [[{"type": "scale", "path": "extra/scale"}]])
    group.create_array("extra/scale", data=np.array([0.5, 0.25]))
    with open_image(tmp_path / "a.zarr") as image:
        assert image.pixel_size == PixelSize(0.5, 0.25)


@pytest.mark.parametrize(
    ("units", "size"),
    [
        (("nanometer", "millimeter"), (0.5e-3, 250.0)),
        (("angstrom", "meter"), (0.5e-4, 0.25e6)),
        ((None, None), None),
    ],
)
def test_units_count(tmp_path, units, size):
    ome(tmp_path / "a.zarr", [[scale(0.5, 0.25)]], units=units)
    with open_image(tmp_path / "a.zarr") as image:
        found = image.pixel_size
        assert (found and (found.y, found.x)) == (size and pytest.approx(size))


def test_an_axis_of_another_name_counts_by_its_type(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", data=CUBE, chunks=(3, 24, 32))
    axes = [
        {"name": "stain", "type": "channel"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr"), np.moveaxis(CUBE, 0, 2))


def test_levels_have_their_own_px_size_and_begin_where_the_image_begins(tmp_path):
    steps = [[scale(0.5, 0.5)], [scale(1, 1), translation(0.25, 0.25)]]
    ome(tmp_path / "a.zarr", steps, sizes=((40, 60), (20, 30)))
    with open_image(tmp_path / "a.zarr", level=1) as image:
        assert (image.levels, image.pixel_size) == (((40, 60), (20, 30)), PixelSize(1, 1))
    steps[1][1] = translation(0, 7)
    ome(tmp_path / "b.zarr", steps, sizes=((40, 60), (20, 30)))
    with pytest.raises(FileError, match=r"level 1 at \[0.0, 7.0\], level 0 at \[0.0, 0.0\]"):
        open_image(tmp_path / "b.zarr")
    ome(tmp_path / "c.zarr", [[scale(1, 1)], [{"type": "rotation", "angle": 3}]], sizes=((40, 60), (20, 30)))
    with open_image(tmp_path / "c.zarr") as image:  # a level whose place is not known
        assert "levels 40 x 60, 20 x 30; level 0 is read" in repr(image)


@pytest.mark.parametrize(
    "steps", [[{"type": "scale", "scale": [1]}], [{"scale": [1, 1]}], [scale(1, float("nan"))]]
)
def test_damaged_transformations_are_refused(tmp_path, steps):
    ome(tmp_path / "a.zarr", [[scale(1, 1)]])
    metadata = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    image = metadata["attributes"]["ome"]["multiscales"][0]
    image["datasets"][0]["coordinateTransformations"] = steps
    (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(FileError, match="OME-Zarr metadata that cannot be read"):
        open_image(tmp_path / "a.zarr")


def test_the_origin_is_written_to_the_map(tmp_path):
    ome(tmp_path / "a.zarr", [[scale(0.5, 0.25), translation(10, 20)]])
    with open_image(tmp_path / "a.zarr") as image:
        options = {"pixel_size": image.pixel_size, "placement": image.placement}
    with create_image(tmp_path / "map.ome.zarr", (40, 60), np.uint8, labels=True, **options) as out:
        out[:] = CUBE[0]
    with open_image(tmp_path / "map.ome.zarr") as image:
        assert image.pixel_size == PixelSize(0.5, 0.25)
        assert image.placement.origin == (10, 20)


def test_the_one_image_of_bioformats2raw_is_opened_and_several_are_named(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    ome(tmp_path / "a.zarr" / "0", [[scale(0.5, 0.25)]], version="0.4")
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr"), CUBE[0])
    ome(tmp_path / "a.zarr" / "1", [[scale(0.5, 0.25)]], version="0.4")
    with pytest.raises(FileError, match=r"2 images.*a\.zarr/0, .*a\.zarr/1"):
        open_image(tmp_path / "a.zarr")


def test_a_zarr_has_one_page(tmp_path):
    array(tmp_path / "a.zarr", shape=(40, 60), pixels=CUBE[0])
    with pytest.raises(FileError, match="have page 1"):
        open_image(tmp_path / "a.zarr", page=1)


def test_arrays_that_are_no_images_or_have_huge_chunks_are_refused(tmp_path):
    options = {"zarr_format": 3, "dimension_names": ("y", "x")}
    zarr.create_array(tmp_path / "a.zarr", shape=(8, 8), dtype="c8", **options)
    zarr.create_array(
        tmp_path / "b.zarr", shape=(1 << 16, 1 << 16), chunks=(1 << 16, 1 << 15), dtype="u1", **options
    )
    for name, message in (("a", "hold numbers; got complex64"), ("b", "have chunks of at most 1 GiB")):
        with pytest.raises(FileError, match=message):
            open_image(tmp_path / f"{name}.zarr")


def test_chunks_without_compression_are_read_and_compressed_twice_refused(tmp_path):
    numcodecs = pytest.importorskip("numcodecs")
    options = {"shape": (40, 60), "chunks": (16, 16), "dtype": "u1", "zarr_format": 2}
    plain = zarr.create_array(tmp_path / "a.zarr", compressors=None, **options)
    plain[:] = CUBE[0]
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr"), CUBE[0])
    twice = zarr.create_array(
        tmp_path / "b.zarr", filters=[numcodecs.Zstd()], compressors=numcodecs.GZip(), **options
    )
    twice[:] = CUBE[0]
    with pytest.raises(FileError, match="be compressed once; got chunks compressed by gzip, zstd"):
        read_image(tmp_path / "b.zarr")


def test_blocks_of_zstd_that_state_no_size_are_added_up(tmp_path):
    numcodecs = pytest.importorskip("numcodecs")
    options = {"shape": (16, 16), "chunks": (16, 16), "dtype": "u1", "zarr_format": 2}
    made = zarr.create_array(tmp_path / "a.zarr", compressors=numcodecs.Zstd(), **options)
    made[:] = 7
    (chunk,) = (path for path in (tmp_path / "a.zarr").iterdir() if path.name == "0.0")
    head = bytes.fromhex("28b52ffd") + bytes([0, 0x38])  # a window, and no size of the content

    def repeated(count, last):
        return ((count << 3) | (1 << 1) | last).to_bytes(3, "little") + b"\x07"

    chunk.write_bytes(head + repeated(1 << 17, 0) * 40 + repeated(1, 1))
    with pytest.raises(FileError, match="inflates beyond the 256 bytes of its shape"):
        read_image(tmp_path / "a.zarr")


BOMB = np.zeros(1 << 26, np.uint8)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc", "shard"])
def test_a_chunk_that_inflates_beyond_its_shape_is_refused_before_it_is_decoded(tmp_path, codec, version):
    numcodecs = pytest.importorskip("numcodecs")
    crc = pytest.importorskip("google_crc32c")
    encoder = {"gzip": numcodecs.GZip(), "blosc": numcodecs.Blosc()}.get(codec, numcodecs.Zstd())
    names = {"gzip": "GzipCodec", "blosc": "BloscCodec"}
    options: dict = {"shape": (64, 64), "chunks": (32, 64), "dtype": "u1", "zarr_format": version}
    if codec == "shard":
        options |= {"shards": (64, 64), "zarr_format": 3}
    used = encoder if options["zarr_format"] == 2 else getattr(zarr.codecs, names.get(codec, "ZstdCodec"))()
    array = zarr.create_array(tmp_path / "a.zarr", compressors=used, **options)
    array[:] = np.arange(64, dtype=np.uint8)[:, None] + np.zeros((1, 64), np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr"), array[:])
    bomb = bytes(encoder.encode(BOMB)) + bytes(1 << 18 if codec == "gzip" else 0)
    if codec == "shard":
        index = struct.pack("<QQQQ", 0, len(bomb), 2**64 - 1, 2**64 - 1)
        bomb += index + struct.pack("<I", crc.value(index))
    (chunk, *_) = sorted(path for path in (tmp_path / "a.zarr").rglob("*0") if path.is_file())
    chunk.write_bytes(bomb)
    with pytest.raises(FileError, match="inflates beyond the 2048 bytes of its shape"):
        read_image(tmp_path / "a.zarr")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
def test_only_regular_files_are_opened_inside_a_zarr(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(8, 8), dtype="u1", zarr_format=2)
    (tmp_path / "a.zarr" / ".zattrs").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "a.zarr" / ".zattrs")
    with pytest.raises(FileError, match="consist of regular files"):
        read_image(tmp_path / "a.zarr")
    (tmp_path / "b.zarr").mkdir()
    with (tmp_path / "b.zarr" / "zarr.json").open("wb") as file:
        file.truncate(1 << 27)
    with pytest.raises(FileError, match="metadata of at most"):
        read_image(tmp_path / "b.zarr")


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")
@pytest.mark.parametrize("target", ["", "nothing"])
def test_links_in_a_circle_or_to_nothing_inside_a_zarr_are_refused(tmp_path, target):
    with create_image(tmp_path / "a.ome.zarr", (8, 8), np.uint8) as out:
        out[:] = np.full((8, 8), 7, np.uint8)
    for name in ("c/0/0", "zarr.json"):
        path = tmp_path / "a.ome.zarr" / "0" / name
        path.unlink()
        path.symlink_to(target or path.name)
        with pytest.raises(FileError, match="consist of regular files"):
            read_image(tmp_path / "a.ome.zarr")


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_a_chunk_that_is_far_larger_than_its_shape_is_refused_before_it_is_read(tmp_path, compressors):
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(8, 8), dtype="u1", chunks=(8, 8), compressors=compressors
    )
    array[:] = 7
    with (tmp_path / "a.zarr" / "c" / "0" / "0").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileError, match=r"0/0 of 1099511627776 bytes, beyond those of its shape"):
        read_image(tmp_path / "a.zarr")
