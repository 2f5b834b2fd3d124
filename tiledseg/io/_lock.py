"""One run per folder: the second one is refused with the first one's process id."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tiledseg._storage import check_writable
from tiledseg._validate import invalid, named
from tiledseg.errors import FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tiledseg._types import PathLike

__all__ = ["lock_file", "locked"]


@contextmanager
def locked(folder: PathLike) -> Iterator[None]:
    """Hold a folder; the system lets go of it when the process ends, however it does.

    Where the system has no such locks, as on Windows and some network drives, nothing is held.
    """
    path = check_writable(folder) / "lock"
    descriptor = _held(path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if fcntl is not None:
            path.unlink(missing_ok=True)  # before it is let go of, or it could be another run's
        os.close(descriptor)


def _held(path: Path) -> int:
    """Open and hold the file; again where its holder removed it in between."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _hold(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        if _is_there(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _hold(descriptor: int, path: Path) -> None:
    if not lock_file(descriptor):
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        raise invalid(
            FileError,
            named(str(path)),
            must="be free: a folder takes one run at a time",
            got=f"a run in process {holder or 'unknown'}",
            fix="Wait for it, or end it.",
        )


def lock_file(descriptor: int) -> bool:
    """Lock an open file, until it is closed; say whether nobody else holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a drive without locks
        return True
    return True
