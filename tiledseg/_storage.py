"""The one writer: a file is there whole, or as it was before."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from tiledseg._validate import instance_of, invalid, named, path_text
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import PathLike

__all__ = [
    "atomic_write",
    "check_writable",
    "refuse",
    "replaceable",
    "settle",
    "sync_folder",
    "write_bytes",
    "write_text",
]

_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # said where folders cannot be synced
_FIXES = {
    errno.ENOSPC: "Free some space, or write elsewhere.",
    errno.EDQUOT: "Free some of your quota, or write elsewhere.",
    errno.EFBIG: "Raise the limit on the size of a file, or write elsewhere.",
    errno.EROFS: "Write elsewhere: the file system is read-only.",
    errno.EACCES: "Change the rights, or write elsewhere.",
    errno.EPERM: "Change the rights, or write elsewhere.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


@contextmanager
def atomic_write(path: PathLike) -> Iterator[BinaryIO]:
    """Write a file whole or not at all.

    Gives a temporary file beside the target, opened for writing and reading. When the block ends without an
    error, the file is flushed to the disk, takes the target's place in one step, and its folder is flushed
    too. When anything fails, the temporary file is removed and the target stays as it was. A process that is
    killed leaves the target as it was, and at most a hidden file ``.tiledseg-*.part`` beside it. Missing
    folders are made. A link is followed: the file that it points to is replaced. An existing file keeps its
    rights.
    """
    name = named(path_text(path))
    try:
        target = Path(os.path.realpath(path_text(path)))
        mode = replaceable(name, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".tiledseg-{secrets.token_hex(8)}.part"
        handle = _created(temporary, mode)
    except OSError as error:
        refuse(name, error)
    try:
        try:
            with handle:
                yield handle
                settle(handle)
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(target.parent)
    except OSError as error:
        refuse(name, error)


def replaceable(name: str, target: Path) -> int | None:
    """Return the rights of the file that is to be replaced; None where there is none."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        got = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise invalid(
            FileError, name, must="be a regular file, or not exist yet", got=got, fix="Name a file."
        )
    if not os.access(target, os.W_OK):
        raise invalid(FileError, name, must="be writable", got="a read-only file", fix=_FIXES[errno.EACCES])
    return stat.S_IMODE(mode)


def _created(temporary: Path, mode: int | None) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        if mode is not None and hasattr(os, "fchmod"):
            with contextlib.suppress(PermissionError):  # some network file systems know no rights
                os.fchmod(descriptor, mode)
        return open(temporary, "w+b", opener=lambda *_: descriptor)  # so that `name` is the path
    except BaseException:
        os.close(descriptor)
        temporary.unlink()
        raise


def settle(handle: BinaryIO) -> None:
    """Bring the file to the disk, and check that all of it arrived."""
    handle.flush()
    end = handle.seek(0, os.SEEK_END)
    os.fsync(handle.fileno())
    size = os.fstat(handle.fileno()).st_size
    if size != end:
        raise OSError(errno.EIO, f"only {size} of {end} bytes arrived")


def sync_folder(folder: Path) -> None:
    """Make the new name last; where that fails, the new file is whole but may not outlive a loss of power."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def refuse(name: str, error: OSError) -> NoReturn:
    """Say why a target cannot be written."""
    fix = _FIXES.get(error.errno or 0, "Check the folder and its rights, or write elsewhere.")
    raise invalid(FileError, name, must="be writable", got=error.strerror or str(error), fix=fix) from error


def write_bytes(path: PathLike, data: bytes | bytearray | memoryview) -> None:
    """Write bytes to a file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: PathLike, text: str) -> None:
    r"""Write text to a file as UTF-8, whole or not at all; ``\n`` stays ``\n`` on every system."""
    instance_of(str, text, "text", "Give text; bytes are written by write_bytes.")
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def check_writable(folder: PathLike, *, keep: bool = True) -> Path:
    """Make a folder and try a file in it, so that an impossible output is told before the work begins."""
    path = Path(path_text(folder))
    missing: list[Path] = []
    try:
        if not keep:
            missing = list(takewhile(lambda one: not one.exists(), (path, *path.parents)))
        path.mkdir(parents=True, exist_ok=True)
        trial = path / f".tiledseg-{secrets.token_hex(8)}.part"
        with _created(trial, None) as handle:
            try:
                handle.write(b"trial")
                settle(handle)
            finally:
                trial.unlink()
    except FileExistsError:
        raise invalid(
            FileError, named(path), must="be a folder", got="a file", fix="Name a folder."
        ) from None
    except OSError as error:
        refuse(named(path), error)
    finally:
        with contextlib.suppress(OSError):  # what was made in it meanwhile stays
            for made in missing:
                made.rmdir()
    return path
