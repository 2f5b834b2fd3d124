"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Self

__all__ = ["Bystanders", "load", "machine"]

_PACKAGES = (
    "tiledseg",
    "numpy",
    "keras",
    "tensorflow",
    "opencv-python-headless",
    "monai",
    "torch",
    "tiler",
    "openvino",
    "medicai",
)


def machine() -> dict[str, Any]:
    """Describe the processor, the memory and the libraries."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def load() -> float:
    """Return the number of processes that were ready to run, averaged over the last minute."""
    return os.getloadavg()[0]


class Bystanders:
    """How many cores other processes kept busy, on average, during a ``with`` block.

        A contender with several threads becomes much slower than one with a single thread when another
    process takes a core from time to time, long before the load of the last minute shows it.
    """

    def __init__(self) -> None:
        self.cores = 0.0
        self._started = (0.0, 0.0)

    def __enter__(self) -> Self:
        self._started = (time.perf_counter(), _others_seconds())
        return self

    def __exit__(self, *_: object) -> None:
        wall, others = time.perf_counter() - self._started[0], _others_seconds() - self._started[1]
        self.cores = max(0.0, others / wall)


def _others_seconds() -> float:
    """Return the processor seconds of everything except this process and its finished children."""
    user, nice, system, _idle, _waiting, *interrupts = _machine_seconds()
    own = os.times()
    return user + nice + system + sum(interrupts[:3]) - sum(own[:4])


def _machine_seconds() -> list[float]:
    first = Path("/proc/stat").read_text().splitlines()[0]
    return [int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in first.split()[1:]]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
