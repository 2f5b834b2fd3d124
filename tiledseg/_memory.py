"""Memory of the process: how much is free, how much a network may use, which errors say that it ran out."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from tiledseg._validate import reason_of

if sys.platform != "win32":
    import resource

_CGROUP = Path("/sys/fs/cgroup")  # version 2
_SHARE = 0.5  # of the free memory that a network may use by default
_ARENA_MAX = -8  # of glibc's mallopt
_NAMES = frozenset({"ResourceExhaustedError", "OutOfMemoryError"})  # TensorFlow's and PyTorch's
_WORDS = (
    *("resource_exhausted", "out of memory", "bad_alloc", "bad allocation", "can not allocate"),
    *("cannot allocate memory", "failed to map segment", "resource temporarily unavailable"),  # the system's
    *("can't alloc", "check 'ptr' failed"),  # of OpenVINO's plugin
)


def available_memory() -> int:
    """Return the bytes that this process can still allocate, within the limit of its container."""
    free = _addresses_left(int(psutil.virtual_memory().available))
    try:
        limit, used = (int((_CGROUP / name).read_text("utf-8")) for name in ("memory.max", "memory.current"))
        lines = (_CGROUP / "memory.stat").read_text("utf-8").splitlines()
        reclaimable = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, IndexError):  # no container, or no limit ("max")
        return free
    return min(free, max(0, limit - used + reclaimable))


def _addresses_left(free: int) -> int:
    """Return what a limit on the addresses of this process leaves of some bytes."""
    if sys.platform == "win32":
        return free
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return free if limit == resource.RLIM_INFINITY else min(free, limit - psutil.Process().memory_info().vms)


def allowed_memory(memory: int | None) -> int:
    """Return the bytes that a network may use for its activations."""
    return int(available_memory() * _SHARE) if memory is None else memory


def share_freed_memory() -> None:
    """Let all threads of this process allocate from one arena, where what one has freed serves all."""
    with suppress(AttributeError, OSError, TypeError):  # not glibc, or another system
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, means that memory ran out."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError) or type(found).__name__ in _NAMES:
            return True
        kinds = RuntimeError | ImportError | OSError  # JAX, OpenVINO and libraries that load have none for it
        if isinstance(found, kinds) and any(word in reason_of(found).lower() for word in _WORDS):
            return True
        found = found.__cause__
    return False
