"""Damage files of every format at random, read them, and report what is no result and no typed error.

`python tests/fuzz_files.py [COUNT] [SEED] [FORMAT...]` reads COUNT damaged files of each format in a
process of its own, with limits on time and memory. `attack` is the same as a function.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

SECONDS, MEMORY = 2.0, 512 << 20  # of one file
_PX = np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)
_HANG = 30  # seconds without a step


def _tiff(pixels: Any = _PX, **options: Any) -> bytes:
    import tifffile  # noqa: PLC0415

    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


def _pyramid(*, ome: bool) -> bytes:
    import tifffile  # noqa: PLC0415

    out = io.BytesIO()
    with tifffile.TiffWriter(out, ome=ome) as writer:
        options: dict[str, Any] = {"tile": (16, 32), "photometric": "rgb", "compression": "zlib"}
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        writer.write(_PX, subifds=1, metadata=metadata if ome else None, **options)
        writer.write(_PX[::2, ::2], subfiletype=1, metadata=None, **options)
    return out.getvalue()


def _pillow(form: str, mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image  # noqa: PLC0415

    out = io.BytesIO()
    Image.fromarray(_PX).convert(mode).save(out, form, **options)
    return out.getvalue()


def _npy(pixels: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, pixels)
    return out.getvalue()


def _geojson() -> bytes:
    ring = [[1, 1], [20, 1], [20, 30.5], [1, 30], [1, 1]]
    geometry = {"type": "Polygon", "coordinates": [ring, [[3, 3], [5, 3], [5, 5], [3, 3]]]}
    properties = {"objectType": "annotation", "classification": {"name": "a", "color": [1, 2, 3]}}
    feature = {"type": "Feature", "geometry": geometry, "properties": properties}
    return json.dumps({"type": "FeatureCollection", "features": [feature] * 2}).encode()


def _coco() -> bytes:
    polygon = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [1, 1, 9, 9], "area": 50}
    counts = {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 60, 48], "area": 9}
    counts["segmentation"] = {"size": [48, 60], "counts": [100, 9, 48 * 60 - 109]}
    polygon["segmentation"] = [[1, 1, 10, 1, 10, 10, 1, 10]]
    images = [{"id": 1, "file_name": "a.png", "height": 48, "width": 60}]
    whole = {"images": images, "annotations": [polygon, counts], "categories": [{"id": 1, "name": "a"}]}
    return json.dumps(whole).encode()


def _rois() -> bytes:
    import roifile  # noqa: PLC0415

    roi = roifile.ImagejRoi.frompoints(np.array([[1, 1], [20, 1], [20, 30], [1, 30]], np.float32))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.roi", roi.tobytes())
    return out.getvalue()


def _zarr(folder: Path, version: int) -> None:
    import zarr  # noqa: PLC0415

    group = zarr.open_group(str(folder), mode="w", zarr_format=version)
    for level, step in enumerate((1, 2)):
        array = group.create_array(
            str(level), shape=_PX[::step, ::step].shape, chunks=(16, 20, 3), dtype="u1"
        )
        array[:] = _PX[::step, ::step]
    axes: list[dict[str, str]] = [{"name": one, "type": "space", "unit": "micrometer"} for one in "yx"]
    axes.append({"name": "c", "type": "channel"})
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [0.5 * (level + 1)] * 2 + [1]}],
        }
        for level in range(2)
    ]
    image = {"axes": axes, "datasets": datasets}
    if version == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [image | {"version": "0.4"}]


def _seeds() -> dict[str, list[tuple[str, bytes]]]:
    """Give good files of each format: their names and bytes."""
    grey, deep = _PX[..., 0].copy(), _PX.astype(np.uint16) * 257
    cells = (np.arange(48)[:, None] // 8 * 10 + np.arange(60) // 6 + 1).astype(np.int32)
    stack = np.stack([grey] * 3)
    return {
        "png": [
            ("a.png", _pillow("PNG")),
            ("a.png", _pillow("PNG", "P")),
            ("a.png", _pillow("PNG", "RGBA", dpi=(25400, 25400))),
            ("a.png", _pillow("PNG", "1")),
        ],
        "jpeg": [
            ("a.jpg", _pillow("JPEG")),
            ("a.jpg", _pillow("JPEG", "L", progressive=True)),
            ("a.jpg", _pillow("JPEG", "CMYK")),
        ],
        "bmp": [("a.bmp", _pillow("BMP")), ("a.bmp", _pillow("BMP", "P")), ("a.bmp", _pillow("BMP", "1"))],
        "webp": [("a.webp", _pillow("WEBP")), ("a.webp", _pillow("WEBP", "RGBA", lossless=True))],
        "tiff": [
            ("a.tif", _tiff(photometric="rgb")),
            ("a.tif", _tiff(photometric="rgb", compression="lzw", predictor=True, rowsperstrip=7)),
            ("a.tif", _tiff(photometric="rgb", compression="jpeg", tile=(16, 16))),
            ("a.tif", _tiff(deep, photometric="rgb", compression="zlib", tile=(16, 32), bigtiff=True)),
            (
                "a.tif",
                _tiff(np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate", byteorder=">"),
            ),
            ("a.tif", _tiff(grey > 99, photometric="minisblack", compression="packbits")),
            ("a.tif", _tiff(cells)),
            ("a.tif", _pillow("TIFF", "1", compression="group4")),
            ("a.tif", _pillow("TIFF", "P")),
            ("a.tif", _pyramid(ome=False)),
        ],
        "tiff-metadata": [
            ("a.ome.tif", _pyramid(ome=True)),
            ("a.ome.tif", _tiff(stack, ome=True, metadata={"axes": "ZYX"}, photometric="minisblack")),
            ("a.tif", _tiff(stack, imagej=True, metadata={"axes": "CYX", "unit": "um"}, resolution=(2, 2))),
            ("a.svs", _tiff(tile=(16, 16), photometric="rgb", description="Aperio |MPP = 0.5|AppMag = 20")),
            ("a.tif", _tiff(stack, photometric="minisblack", metadata={"axes": "TYX"})),
        ],
        "npy": [("a.npy", _npy(_PX)), ("a.npy", _npy(np.asfortranarray(cells)))],
        "outlines": [("a.geojson", _geojson()), ("a.json", _coco()), ("a.zip", _rois())],
        "zarr": [],
    }


FORMATS = ("png", "jpeg", "bmp", "webp", "tiff", "tiff-metadata", "npy", "outlines", "zarr")


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Change some bytes: flips, extreme numbers, text, cuts, copies; half of all PNG keep their checksums."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(max(1, len(found) if chance.random() < 0.5 else min(len(found), 400)))
        match chance.randrange(7):
            case 0:
                found[at : at + 1] = bytes([chance.randrange(256)])
            case 1 if found:
                found[at % len(found)] ^= 1 << chance.randrange(8)
            case 2:
                value = chance.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 65500, 40000))
                form = chance.choice(("<I", ">I", "<H", ">H"))
                number = struct.pack(form, value % 256 ** struct.calcsize(form))
                found[at : at + len(number)] = number
            case 3:
                del found[at : len(found) if chance.random() < 0.3 else at + chance.randrange(1, 9)]
            case 4:
                start = chance.randrange(max(1, len(found)))
                found[at:at] = found[start : start + chance.randrange(1, 64)]
            case 5:
                found[at : at + 1] = chance.choice(
                    (b"-", b"9" * 20, b"nan", b"1e999", b"\x00", b"[", b'"', b"\xff")
                )
            case _:
                found[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
    return _sealed(bytes(found)) if data[:4] == b"\x89PNG" and chance.random() < 0.5 else bytes(found)


def _sealed(png: bytes) -> bytes:
    """Repair the checksums of a PNG, so that its readers look further."""
    parts, at = [png[:8]], 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        body = png[at + 4 : at + 8 + length]
        parts.append(png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts)


def _damaged_zarr(source: Path, target: Path, chance: random.Random) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    files = [path for path in sorted(target.rglob("*")) if path.is_file()]
    files += [path for path in files if path.name in {"zarr.json", ".zarray", ".zattrs", ".zgroup"}] * 3
    for path in chance.sample(files, chance.choice((1, 1, 2))):
        path.write_bytes(damaged(path.read_bytes(), chance))
    return target


def _read(path: Path, chance: random.Random) -> None:
    """Read a file in all ways; a typed error is an answer, too."""
    from tiledseg.errors import TiledSegError  # noqa: PLC0415
    from tiledseg.io import (  # noqa: PLC0415
        image_shape,
        is_outlines,
        open_image,
        read_image,
        read_mask,
        read_outlines,
        read_pixel_size,
    )

    def by_region() -> None:
        with open_image(path, alpha="keep") as image:
            _ = image[: image.shape[0] // 2 + 1, 1:40], image.levels, image.pixel_size, image.placement

    ways: list[Any] = [
        lambda: read_image(path, alpha="drop"),
        by_region,
        lambda: read_mask(path, None, palette="index", alpha="drop"),
        lambda: read_mask(path),
        lambda: (image_shape(path), read_pixel_size(path)),
        lambda: read_image(path, page=0, alpha="keep"),
    ]
    if is_outlines(path):
        ways = [lambda: read_outlines(path, "a")]
    for way in [ways[0], *chance.sample(ways, min(2, len(ways)))]:
        with contextlib.suppress(TiledSegError):
            way()


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _peak() -> int:
    """Read the peak of resident memory since the last call, and begin anew."""
    text = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def _work(form: str, count: int, seed: int, start: int, folder: Path) -> None:
    """Read damaged files one after the other, and say of each what it did."""
    seeds = _seeds()[form]
    if form == "zarr":
        for version in (2, 3):
            _zarr(folder / f"good{version}", version)
    _read(folder / "missing.png", random.Random(0))
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    warnings.simplefilter("error")
    for number in range(start, count):
        chance = random.Random(f"{seed} {form} {number}")
        if form == "zarr":
            version = chance.choice((2, 3))
            path = _damaged_zarr(folder / f"good{version}", folder / "a.zarr", chance)
        else:
            name, data = chance.choice(seeds)
            path = folder / name
            path.write_bytes(damaged(data, chance))
        _say("at", number)
        before, started = _peak(), time.process_time()
        fault = ""
        try:
            _read(path, chance)
        except BaseException as error:  # noqa: BLE001  which is what is looked for
            fault = f"{type(error).__name__}: {error}"
        spent, grown = time.process_time() - started, _peak() - before
        if spent > SECONDS:
            fault += f" {spent:.1f} s"
        if grown > MEMORY:
            fault += f" {grown >> 20} MiB"
        if fault:
            _say("fault", number, fault.replace("\n", " ")[:300])


def attack(form: str, count: int, seed: int = 0) -> list[str]:
    """Read damaged files of a format, and list other errors, deaths, and time or memory beyond limits."""
    faults: list[str] = []
    start = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while start < count:
            command = [sys.executable, __file__, "--work", form, str(count), str(seed), str(start), folder]
            last = start
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_HANG + (count - start), check=False
                )
                output, code = done.stdout, done.returncode
                tail = done.stderr.strip().splitlines()[-1:]
            except subprocess.TimeoutExpired as error:
                output, code, tail = (error.stdout or b"").decode(), "hang", []
            for line in output.splitlines():
                kind, number, *rest = line.split(" ", 2)
                last = int(number) if kind == "at" else last
                if kind == "fault":
                    faults.append(f"{form} {number}: {rest[0]}")
            if code == 0:
                break
            faults.append(f"{form} {last}: process ended with {code} {tail}")
            start = last + 1
    return faults


def main(arguments: list[str]) -> int:
    """Run the command."""
    if arguments[:1] == ["--work"]:
        form, count, seed, start, folder = arguments[1:]
        _work(form, int(count), int(seed), int(start), Path(folder))
        return 0
    count, seed = (int(one) for one in [*arguments[:2], "200", "0"][:2])
    faults = [fault for form in arguments[2:] or FORMATS for fault in attack(form, count, seed)]
    sys.stdout.write("\n".join([*faults, f"{len(faults)} faults\n"]))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
