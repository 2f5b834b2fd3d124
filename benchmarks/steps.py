"""A step of training for networks and crops of several sizes: the table of docs/training.md.

What: networks that a user may start with, up to the founding network of 125 million parameters, crops
of 256 and 512 px, batches of 4, Adam: processor seconds of a step, the peak of memory, and how long
10,000 crops take. How: each network in a process of its own; one batch in memory, because the input
pipeline costs less than 5 % beside it (see `training`); the first step, which traces the graph, is not
counted; the median of up to five steps. Processor time is that of all cores together, which a busy
machine changes little; the clock of free cores is that number over the number of cores, at best.
``python -m benchmarks.steps`` writes the table into the page, between its two markers.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from pydantic import TypeAdapter

from benchmarks._clock import timed
from benchmarks._fresh import call_fresh
from benchmarks._memory import status_bytes
from benchmarks._rows import Row, of_samples
from tiledseg.config import NetworkConfig
from tiledseg.models import build_model

__all__ = ["run"]

_BATCH, _ROUNDS, _PATIENCE, _CROPS = 4, 5, 30.0, 10_000
_FREE = (None, None, 3)
_NETWORKS: dict[str, dict[str, Any]] = {
    "U-Net, 5 levels, 16 filters (the default of `tiledseg train`)": {
        "name": "unet",
        "levels": 5,
        "base_filters": 16,
        "base_kernel": 3,
    },
    "`encoder_unet` with EfficientNet Lite0": {
        "name": "encoder_unet",
        "encoder": "efficientnet-lite0",
        "decoder_filters": (128, 64, 32, 16),
    },
    "U-Net, 5 levels, 32 filters": {"name": "unet", "levels": 5, "base_filters": 32, "base_kernel": 3},
    "founding network, 8 levels, 16 filters, 9 px kernels": {"name": "unet"},
}
_SIZES = (256, 512)
_PAGE = Path(__file__).parents[1] / "docs" / "training.md"
_HEAD = (
    "| network | parameters | crop | processor time per step | peak memory | 10,000 crops on two free cores |"
)
_RULE = "|---|---|---|---|---|---|"
_BEGIN, _END = "<!-- steps: begin -->", "<!-- steps: end -->"


def run(*, quick: bool = False) -> list[Row]:
    """Measure all networks and sizes; only the smallest if `quick`."""
    names = list(_NETWORKS)[: 1 if quick else None]
    return [row for name in names for size in _SIZES[: 1 if quick else None] for row in _rows(name, size)]


def _rows(name: str, size: int) -> list[Row]:
    found = call_fresh("benchmarks.steps:measured", name=name, size=size)
    seconds = statistics.median(found["seconds"])
    what = f"{name}, {size} px"
    return [
        Row(f"{what}: parameters", found["parameters"]),
        of_samples(f"{what}: step of {_BATCH} crops, processor time", found["seconds"], "s"),
        Row(f"{what}: peak memory", found["bytes"] / 1e9, "GB"),
        Row(f"{what}: {_CROPS} crops on two free cores", seconds * _CROPS / _BATCH / 2 / 3600, "h"),
    ]


def measured(*, name: str, size: int) -> dict[str, Any]:
    """Train for a few steps; return their processor seconds, the parameters and the peak of memory."""
    settings = _NETWORKS[name] | {"input_shape": _FREE}
    network = build_model(TypeAdapter(NetworkConfig).validate_python(settings))
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy")
    rng = np.random.default_rng(0)
    images = keras.ops.convert_to_tensor(rng.random((_BATCH, size, size, 3), np.float32))
    masks = keras.ops.convert_to_tensor((rng.random((_BATCH, size, size, 1)) > 0.9).astype(np.float32))
    network.train_on_batch(images, masks)
    seconds: list[float] = []
    while len(seconds) < _ROUNDS and sum(seconds) < _PATIENCE:
        seconds.append(timed(lambda: network.train_on_batch(images, masks))[1])
    return {"seconds": seconds, "parameters": network.count_params(), "bytes": status_bytes("VmHWM")}


def _line(name: str, size: int, rows: list[Row]) -> str:
    parameters, step, memory, hours = (row.value for row in rows)
    time = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
    columns = (name, f"{parameters / 1e6:.1f} M", f"{size} px", f"{step:.1f} s", f"{memory:.1f} GB", time)
    return f"| {' | '.join(columns)} |"


def main() -> int:
    """Measure everything, and write the table into the page."""
    lines = [_line(name, size, _rows(name, size)) for name in _NETWORKS for size in _SIZES]
    page = _PAGE.read_text(encoding="utf-8")
    before, after = page.split(_BEGIN)[0], page.split(_END)[1]
    _PAGE.write_text(
        "\n".join([f"{before}{_BEGIN}", _HEAD, _RULE, *lines, f"{_END}{after}"]), encoding="utf-8"
    )
    print("\n".join(lines), f"{os.cpu_count()} cores", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
