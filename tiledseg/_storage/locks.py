"""Locks: one run per folder or file; a second run is refused with the process id of the first."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from tiledseg._lazy import lazy
from tiledseg._storage.files import check_writable, raise_unwritable
from tiledseg._validate import invalid, named
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tiledseg._types import PathLike

filelock = lazy("filelock")  # its import takes 0.1 s

_NAME = ".tiledseg.lock"
_TEXT = b"tiledseg lock, process "
_MOST = 64  # bytes of a lock file
_SIGNED_AT = 1  # Windows locks byte 0, so that no other process can read it
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}  # some network drives have none
_NO_FILE = {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.ENODEV, errno.EISDIR}  # a link, a socket, a device


@contextmanager
def folder_lock(folder: PathLike) -> Iterator[None]:
    """Lock a folder for one run; the lock ends with the process at the latest."""
    path = check_writable(folder)
    with file_lock(path / _NAME, path):
        yield


@contextmanager
def file_lock(lock: Path, what: PathLike) -> Iterator[None]:
    """Hold a lock file; messages name `what` it locks, and a file that is no lock stays as it is."""
    holder = _holder(lock)  # before the file is touched
    handle = filelock.FileLock(
        lock, blocking=False, thread_local=False, fallback_to_soft=False, on_acquired=partial(_sign, lock)
    )
    try:
        handle.acquire()
    except filelock.Timeout:
        process = _holder(lock) or holder or "unknown"
        text = f"`{named(what)}` is in use by a run in process {process}. Wait for that run, or end it."
        raise FileError(text) from None
    except _NotOursError:
        raise _not_ours(lock) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise_unwritable(named(lock), error)
    try:
        yield
    finally:
        if handle.is_locked:
            with contextlib.suppress(OSError):  # the work is done, and the lock ends with the process
                _remove(lock)
                handle.release()


class _NotOursError(Exception):
    """The file is no lock of tiledseg."""


def _sign(lock: Path, descriptor: int) -> None:
    """Write the process id into the locked file, unless the file is no lock of tiledseg."""
    _read_holder(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, _SIGNED_AT, os.SEEK_SET)
        os.write(descriptor, _TEXT + f"{os.getpid()}\n".encode())
    except OSError:
        _remove(lock)
        raise


def _holder(lock: Path) -> str:
    """Read the process id of the last holder; refuse a file that is no lock of tiledseg."""
    if os.path.islink(lock):  # noqa: PTH114  Windows cannot refuse it by a flag; of any length
        raise _not_ours(lock)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(lock, flags)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise_unwritable(named(lock), error)
        raise _not_ours(lock) from error
    try:
        with os.fdopen(descriptor, "rb"):  # which closes it
            return _read_holder(descriptor)
    except _NotOursError:
        raise _not_ours(lock) from None
    except OSError as error:
        raise_unwritable(named(lock), error)


def _read_holder(descriptor: int) -> str:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST:
        raise _NotOursError
    os.lseek(descriptor, _SIGNED_AT, os.SEEK_SET)
    text = os.read(descriptor, _MOST)
    if status.st_size and not text.startswith(_TEXT):
        raise _NotOursError
    return text[len(_TEXT) :].decode(errors="replace").strip()


def _not_ours(lock: Path) -> FileError:
    return invalid(
        FileError,
        named(lock),
        must="be a lock of tiledseg, or not exist",
        got="another file",
        fix="Move it away, or name another folder.",
    )


def _remove(lock: Path) -> None:
    """Remove the lock file while it is held, so that a waiting process makes a new one."""
    if os.name != "nt":  # there, filelock removes it
        lock.unlink(missing_ok=True)
