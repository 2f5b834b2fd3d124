"""Memory of one tile: what ``plan`` states beside what is taken.

What: the exported networks of ``benchmarks onnx``, by both engines, and the default networks of every
architecture, as bundles, by the engine that is chosen for them. A tile of 512 px takes what a process has
more in its second call than another process with a tile of 32 px, or the least that the network takes; beside
it stands what ``plan`` states for one tile. How: each network, engine and size in a process of its own; the
peak of anonymous memory, measured every millisecond, after freed memory was returned to the system. Then, for
512 px: by how much the resident memory of the process grew at most from before the engine was imported to the
end of the first call, beside what ``plan`` states for the engine and the network together. Target: within a
factor of 1.5. ``python -m benchmarks onnx`` exports the networks before; what is not there is left out.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
from pathlib import Path
from typing import Any, get_args

import numpy as np

import tiledseg as ts
from benchmarks._fresh import call_fresh
from benchmarks._memory import AnonymousPeak, peak_of, status_bytes
from benchmarks._rows import Row
from tiledseg import config
from tiledseg.config import NetworkConfig
from tiledseg.engine import Network

__all__ = ["run", "save", "taken"]

_NETWORKS = Path(__file__).parent / "results" / "networks"
_LARGE, _SMALL = 512, 32
_MOST = 1.5
_LIMIT = 600  # seconds of each process


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure all networks; only two if `quick`."""
    names = sorted(path.stem for path in _NETWORKS.glob("*.onnx"))
    pairs = [(f"{name}.onnx", engine) for name in names for engine in ("openvino", "onnxruntime")]
    kinds = [kind.model_fields["name"].default for kind in get_args(get_args(NetworkConfig)[0])]
    pairs += [(f"keras {kind}", "auto") for kind in kinds]
    return [row for name, engine in pairs[: 2 if quick else None] for row in _rows(name, engine)]


def _rows(name: str, engine: str) -> list[Row]:
    what = f"{name.removesuffix('.onnx')}, {engine}"
    try:
        large, small = (
            call_fresh("benchmarks.tile_memory:taken", limit=_LIMIT, name=name, engine=engine, size=size)
            for size in (_LARGE, _SMALL)
        )
    except subprocess.SubprocessError as error:
        return [Row(f"{what}: {type(error).__name__}", float("nan"))]
    pairs = {
        "one tile": (large["stated"], large["second"] - small["second"]),
        "with opening": (large["stated"] + large["engine"], large["first"]),
    }
    return [
        Row(f"{what}: {part}", max(one / other, other / one), "times", at_most=_MOST, beside=_mib(one, other))
        for part, (one, other) in pairs.items()
    ]


def _mib(stated: float, took: float) -> str:
    return f"stated {stated / 2**20:.0f}, taken {took / 2**20:.0f} MiB"


def taken(name: str, engine: str, size: int) -> dict[str, int]:
    """Return the bytes that the first and the second call for a tile take, and those that are stated."""
    path = _NETWORKS / name if name.endswith(".onnx") else saved(name, size)
    network = Network.of(ts.load_model(path), {"engine": engine})
    size = -(-size // network.stride[0]) * network.stride[0]
    before, resident = status_bytes("RssAnon"), status_bytes("VmRSS")
    stated = {"stated": network.usual_bytes((size, size)), "engine": network.engine_bytes}
    tile = np.random.default_rng(0).random((1, size, size, network.channels or 3), np.float32)
    calls: list[Any] = []

    def opened() -> None:
        calls.extend(network.ready(1))
        calls[0](tile)

    first = peak_of(opened) - resident
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with AnonymousPeak() as second:
        calls[0](tile)
    return stated | {"first": first, "second": second.bytes - before}


def saved(name: str, size: int) -> Path:
    """Build the default network of an architecture with random weights, in a process of its own."""
    kinds = {kind.model_fields["name"].default: kind for kind in get_args(get_args(NetworkConfig)[0])}
    kind = kinds[name.partition(" ")[2]]
    try:
        shape = kind(input_shape=(None, None, 3)).input_shape
    except ts.TiledSegError:  # its size is fixed
        shape = (size, size, 3)
    path = _NETWORKS / f"{name.replace(' ', '_')}_{shape[0] or 'free'}"
    if not path.is_dir():
        call_fresh("benchmarks.tile_memory:save", name=kind.__name__, shape=shape, path=str(path))
    return path


def save(name: str, shape: list[int | None], path: str) -> None:
    """Save a network as a bundle."""
    settings = getattr(config, name)(input_shape=tuple(shape))
    ts.Segmenter(ts.build_model(settings), settings, ("cell",)).save(path)
