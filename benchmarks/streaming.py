"""Memory of a prediction from an image on disk to a map on disk.

What: a 20,000 x 20,000 px RGB uint8 memmap (1.2 GB, a sparse file with noise in two places) through
512 px tiles with 128 px of overlap to a uint8 memmap (0.4 GB) and to a float32 one (1.6 GB), with a
predictor that returns the first channel over 255. How: in a fresh process, the peak of anonymous
memory (RssAnon), measured every millisecond, interpreter and libraries included. The process cannot
run with less. VmHWM is given too, but it counts the mapped pages of both files: the kernel keeps them
while memory is free and drops them when it is not. The map is checked where the noise is. Target: 300
MB of anonymous memory. No other library measured here writes to a memmap in bounded memory, so there
is no comparison.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks._fresh import call_fresh
from benchmarks._memory import AnonymousPeak, status_bytes
from benchmarks._rows import Row
from tiledseg import TilingConfig, tiled_predict

__all__ = ["run"]

_TARGET_MB = 300.0
_NOISE = 1000


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    rows = []
    size = 4000 if quick else 20_000
    for output in ("uint8", "probabilities"):
        found = call_fresh("benchmarks.streaming:stream", size=size, output=output)
        what = f"{size} x {size} px to a {output} memmap"
        note = "VmHWM counts pages of the mapped files, which the kernel may drop at any time."
        rows += [
            Row(f"{what}, anonymous memory", found["anonymous"], "MB", at_most=_TARGET_MB),
            Row(f"{what}, VmHWM", found["resident"], "MB", note=note),
            Row(f"{what}, before the start", found["before"], "MB"),
            Row(f"{what}, speed", found["speed"], "Mpx/s"),
        ]
    return rows


def stream(size: int, output: Literal["probabilities", "uint8"]) -> dict[str, float]:
    """Predict from disk to disk, and return the memory in MB and the speed in Mpx/s."""
    with tempfile.TemporaryDirectory() as folder:
        image = np.memmap(Path(folder, "image"), np.uint8, "w+", shape=(size, size, 3))
        out = np.memmap(
            Path(folder, "map"), np.uint8 if output == "uint8" else np.float32, "w+", shape=(size, size, 1)
        )
        noise = np.random.default_rng(0).integers(0, 256, (_NOISE, _NOISE, 3), np.uint8)
        for place in (0, size - _NOISE):
            image[place : place + _NOISE, place : place + _NOISE] = noise
        before = status_bytes("RssAnon")
        started = time.perf_counter()
        with AnonymousPeak() as peak:
            tiled_predict(lambda tiles: tiles[..., :1] / 255, image, TilingConfig(), out=out, output=output)
        seconds = time.perf_counter() - started
        resident = status_bytes("VmHWM")
        _check(out, noise[..., 0], 1 if output == "uint8" else 255)
    return {
        "anonymous": peak.bytes / 1e6,
        "before": before / 1e6,
        "resident": resident / 1e6,
        "speed": size * size / 1e6 / seconds,
    }


def _check(out: np.ndarray[Any, Any], noise: np.ndarray[Any, Any], factor: float) -> None:
    for place in (0, len(out) - _NOISE):
        found = out[place : place + _NOISE, place : place + _NOISE, 0]
        error = float(np.abs(found * factor - noise.astype(np.float64)).max())
        if error > 1e-3:
            raise ArithmeticError(f"the map is wrong by {error} at ({place}, {place})")
