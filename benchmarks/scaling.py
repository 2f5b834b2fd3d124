"""One image over 1 to 16 workers of a Dask cluster.

What: a 3648 x 3648 px RGB image, 64 tiles, as a Dask array in chunks of 512 px, tiles of 512 px
with 64 px of overlap, thresholded. Once with a predictor that computes (five 9 x 9 means of a
channel), on 1 and 2 workers, the number of cores of this machine; once with one that only waits, 1 s
for each tile, about the time of the founding network, on 1 to 16 workers. Waiting represents a device
for each worker, so that the cost of scheduling, sending and stitching becomes visible. How: a cluster
of processes, each with one thread, with the library loaded before the clock starts; the time from the
request to the complete map. The map is compared with that of one worker. Target: with the predictor
that waits, 16 workers are at least 10 times as fast as one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import cv2
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

from benchmarks._rows import Row
from tiledseg import TilingConfig, tiled_predict

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]

_TILING = TilingConfig(tile_size=512, overlap=64)
_SECONDS = 1.0
_LEAST = 10.0


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    size = 1856 if quick else 3648  # 16 or 64 tiles
    line = da.arange(size, chunks=512)
    slope = (line[:, None, None] + 3 * line[None, :, None]) % 256
    image = da.broadcast_to(slope.astype(np.uint8), (size, size, 3))
    rows = _speeds("works", working, image, (1, 2))
    return rows + _speeds("waits", waiting, image, (1, 4) if quick else (1, 2, 4, 8, 16))


def working(tiles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Take five means of a channel, on one core."""
    cv2.setNumThreads(1)
    out = np.ascontiguousarray(tiles[..., 0])
    for tile in out:
        for _ in range(5):
            tile[...] = cv2.blur(tile, (9, 9))
    return out[..., None] / 255


def waiting(tiles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Wait, as for a device."""
    time.sleep(_SECONDS * len(tiles))
    return tiles[..., :1] / 255


def _speeds(name: str, predictor: Callable[..., Any], image: da.Array, counts: tuple[int, ...]) -> list[Row]:
    rows, seconds, first = [], {}, None
    for count in counts:
        seconds[count], found = _timed(predictor, image, count)
        first = found if first is None else first
        if not np.array_equal(found, first):
            raise ArithmeticError(f"{count} workers give another map than {counts[0]}")
        faster = seconds[counts[0]] / seconds[count]
        target = _LEAST if name == "waits" and count == 16 else None
        what = f"{count} workers, a predictor that {name}"
        rows += [
            Row(what, seconds[count], "s"),
            Row(f"{what}, faster than one", faster, "x", at_least=target),
        ]
    return rows


def _timed(predictor: Callable[..., Any], image: da.Array, count: int) -> tuple[float, np.ndarray[Any, Any]]:
    options = {"n_workers": count, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        client.wait_for_workers(count, timeout=120)
        client.run(_loaded)
        started = time.perf_counter()
        lazy = tiled_predict(predictor, image, _TILING, output="mask")
        found = client.compute(lazy).result(timeout=600)
        return time.perf_counter() - started, found


def _loaded() -> None:
    """Load everything that a task needs, before the clock starts."""
    __import__("tiledseg.predict")
