"""One run per folder: the second one is refused with the first one's process id."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tiledseg._checks import broken
from tiledseg.errors import FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["locked"]


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder; the system lets go of it when the process ends, however it does.

    Where the system has no such locks, as on Windows, nothing is held.

    Parameters
    ----------
    run_dir : Path
        The folder; the file ``lock`` in it names the process.

    Yields
    ------
    None
        While it is held.

    Raises
    ------
    FileError
        If another run holds it.
    """
    path = run_dir / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _hold(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _hold(descriptor: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        raise broken(
            FileError,
            str(path),
            must="be free: a folder takes one run at a time",
            got=f"a run in process {holder or 'unknown'}",
            fix="Wait for it, or end it.",
        ) from None
