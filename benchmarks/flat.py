"""Memory and speed from a file to a file, from 4096 x 4096 to 65,536 x 65,536 px.

What: an RGB uint8 image (12.9 GB uncompressed at the largest), as zarr in chunks of 512 px with
zstd and as a tiled OME-TIFF with deflate, through tiles of 512 px with 64 px of overlap, gaussian, and a
predictor that returns the first channel over 255, thresholded into an OME-TIFF with all levels of
its pyramid. The image repeats one noisy chunk among smooth ones, so that it fits on the disk. How:
each size in a process of its own; the kernel's peak of resident memory (VmHWM) at its end,
interpreter and libraries included; the time from opening the image to the complete file. The map is
checked in its four corners. Target: the largest image takes at most 1.15 times the memory of
the smallest, and is predicted at 40 Mpx/s or more from zarr. No other library measured here streams
to a pyramid, so there is no comparison.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from benchmarks._fresh import call_fresh
from benchmarks._memory import status_bytes
from benchmarks._rows import Row
from tiledseg import TilingConfig, tiled_predict
from tiledseg.io import create_image, open_image

__all__ = ["image_at", "run"]

_MOST_GROWTH, _LEAST_SPEED = 1.15, 40.0
_CHUNK = 512
_TILING = TilingConfig(tile_size=512, overlap=64)


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    rows = []
    sizes = (4096, 8192) if quick else (4096, 16_384, 65_536)
    for kind in ("zarr", "tiff"):
        peaks = []
        with tempfile.TemporaryDirectory() as folder:
            for size in sizes:
                path = str(image_at(Path(folder), kind, size))
                found = call_fresh("benchmarks.flat:stream", path=path, out=f"{folder}/map.ome.tif")
                peaks.append(found["peak"])
                what = f"{size} x {size} px from {kind}"
                rows.append(Row(f"{what}, VmHWM", found["peak"], "MB"))
                target = _LEAST_SPEED if kind == "zarr" and size == sizes[-1] else None
                rows.append(Row(f"{what}, speed", found["speed"], "Mpx/s", at_least=target))
        growth = peaks[-1] / peaks[0]
        rows.append(
            Row(f"{sizes[-1]} px over {sizes[0]} px from {kind}, VmHWM", growth, "x", at_most=_MOST_GROWTH)
        )
    return rows


def stream(path: str, out: str) -> dict[str, float]:
    """Predict from file to file, and return the memory in MB and the speed in Mpx/s."""
    started = time.perf_counter()
    with open_image(path) as image:
        size = image.shape[0]
        with create_image(out, image.shape[:2], np.uint8, labels=True, pixel_size=image.pixel_size) as sink:
            tiled_predict(lambda tiles: tiles[..., :1] / 255, image, _TILING, out=sink, output="mask")
        seconds = time.perf_counter() - started
        peak = status_bytes("VmHWM")
        _check(image, out)
    return {"peak": peak / 1e6, "speed": size * size / 1e6 / seconds}


def _check(image: Any, out: str) -> None:
    size = image.shape[0]
    with open_image(out) as found:
        for y in (0, size - _CHUNK):
            for x in (0, size - _CHUNK):
                where = (slice(y, y + _CHUNK), slice(x, x + _CHUNK))
                wrong = int((found[where] != (image[where][..., 0] >= 127.5)).sum())
                if wrong:
                    raise ArithmeticError(f"{wrong} px of the map are wrong at ({y}, {x})")


def _chunk(place: int) -> np.ndarray[Any, Any]:
    """Make a chunk: smooth, except that one in sixteen is noisy, as from a scanner."""
    y, x = np.mgrid[0:_CHUNK, 0:_CHUNK]
    wave = 127 + 100 * np.sin((y + 3 * place) / 37) * np.cos((x - place) / 53)
    chunk = np.stack([wave, wave * 0.8, 255 - wave], axis=-1).astype(np.uint8)
    if place % 16 == 0:
        chunk ^= np.random.default_rng(place).integers(0, 8, chunk.shape, np.uint8)
    return chunk


def image_at(folder: Path, kind: str, size: int) -> Path:
    """Write an image of equal sides; its chunks repeat along each row."""
    count = size // _CHUNK
    chunks = [_chunk(place) for place in range(16)]
    if kind == "zarr":
        path = folder / f"{size}.zarr"
        shape, chunk = (size, size, 3), (_CHUNK, _CHUNK, 3)
        array = zarr.create_array(path, shape=shape, dtype="u1", chunks=chunk)
        line = np.concatenate([chunks[place % 16] for place in range(count)], axis=1)
        for row in range(count):
            array[row * _CHUNK : (row + 1) * _CHUNK] = line
        return path
    path = folder / f"{size}.ome.tif"
    encoded = (chunks[place % 16] for _ in range(count) for place in range(count))
    tifffile.imwrite(
        path,
        encoded,
        shape=(size, size, 3),
        dtype=np.uint8,
        bigtiff=True,
        ome=True,
        tile=(_CHUNK, _CHUNK),
        photometric="rgb",
        compression="zlib",
        compressionargs={"level": 1},
        metadata={"axes": "YXS"},
    )
    return path
