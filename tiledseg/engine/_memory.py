"""How many tiles fit into memory at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._validate import invalid
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from tiledseg.engine.network import Predictor

__all__ = ["allowed_memory", "available_memory", "check_memory", "fitting_batch"]

_PIXELS_PER_CALL = 512 * 512  # on a CPU more per call was slower: caches overflow, nothing is gained
_CGROUP = Path("/sys/fs/cgroup")
_SHARE = 0.5  # of the free memory that a network may take when nothing else is said


def available_memory() -> int:
    """Say how much memory this process can still have."""
    machine = _table("/proc/meminfo").get("MemAvailable:")
    try:
        free = machine * 1024 if machine else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        free = 4 << 30
    return min(free, _left_in_container(free))


def _left_in_container(free: int) -> int:
    """Give what the limit of a control group (version 2), as containers have it, leaves."""
    try:
        most, used = (int((_CGROUP / name).read_text("utf-8")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # none, or "max"
        return free
    return max(0, most - used + _table(_CGROUP / "memory.stat").get("inactive_file", 0))


def _table(file: str | Path) -> dict[str, int]:
    """Read a table of the system: a name and a number in each line."""
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    return {words[0]: int(words[1]) for words in map(str.split, lines) if words[1:] and words[1].isdigit()}


def allowed_memory(memory_budget: int | None) -> int:
    """Say how much memory a network may take for its activations."""
    return int(available_memory() * _SHARE) if memory_budget is None else memory_budget


def fitting_batch(
    predictor: Predictor, tile_size: tuple[int, int], n_tiles: int, memory_budget: int | None = None
) -> int:
    """Choose a batch size: as many tiles as keep a processor busy, and as memory allows."""
    need = max(1, predictor.bytes_per_tile(tile_size))
    budget = allowed_memory(memory_budget)
    check_memory(predictor, tile_size, 1, memory_budget)
    pixels = tile_size[0] * tile_size[1]
    return max(1, min(budget // need, n_tiles, _PIXELS_PER_CALL // pixels))


def check_memory(
    predictor: Predictor, tile_size: tuple[int, int], batch_size: int, memory_budget: int | None
) -> None:
    """Check that a batch can fit into memory: running out of it may end the process unheard."""
    need = batch_size * predictor.bytes_per_tile(tile_size)
    limit = _installed_memory() if memory_budget is None else memory_budget
    if need > limit:
        raise invalid(
            SettingError,
            "tile_size" if memory_budget is None else "memory_budget",
            must=f"hold {batch_size} tiles of {tile_size[0]}x{tile_size[1]} px, about {need} bytes",
            got=f"{limit} bytes",
            fix="Use smaller tiles or a smaller batch, or allow more.",
        )


def _installed_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62
