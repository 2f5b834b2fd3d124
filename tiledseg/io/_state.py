"""What tells whether a file is still the same."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["MARKS", "state_of"]

MARKS: tuple[str, ...] = ("zarr.json", ".zarray", ".zgroup")
"""Files one of which makes a folder a zarr."""


def state_of(path: str) -> list[int]:
    """Give size and time of change of a file; those of its metadata for a zarr."""
    folder = os.path.isdir(path)  # noqa: PTH112  of text
    marks = [Path(path, mark) for mark in MARKS] if folder else [Path(path)]
    states = [mark.stat() for mark in marks if mark.is_file()]
    return [number for state in states for number in (state.st_size, state.st_mtime_ns)]
