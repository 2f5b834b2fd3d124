"""What stands at a path; names beside it; regular files opened without waiting."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from contextlib import contextmanager
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO

from tiledseg._validate import invalid, named, path_text
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

    from tiledseg._types import PathLike

BINARY = getattr(os, "O_BINARY", 0)
"""Flag of files without translation of lines, which only Windows has."""

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # Windows lacks it
_SEEKING = threading.Lock()
_RIGHTS = "Check the file and its rights."
_MOST_BYTES = 255  # of a name, on the usual file systems


def beside(target: Path, end: str) -> Path:
    """Name a hidden file or folder that belongs to a target, however long the target's own name is."""
    name = f".{target.name}{end}"
    if len(os.fsencode(name)) > _MOST_BYTES:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{end}"
    return target.with_name(name)


def check_component(text: str, name: str, fix: str) -> None:
    """Check that a text from a file is one component of a path, on every system."""
    if text in {"", ".."} or "\0" in text or PureWindowsPath(text).name != text:  # it knows /, \\ and drives
        must = "be the name of a file or a folder, without /, \\, a drive or .."
        raise invalid(FileError, name, must=must, got=repr(text), fix=fix)


def is_file(path: PathLike) -> bool:
    """Say whether a path is a regular file; refuse what may not be looked at."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: PathLike) -> bool:
    """Say whether a path is a folder; refuse what may not be looked at."""
    return stat.S_ISDIR(_mode(path))


def exists(path: PathLike) -> bool:
    """Say whether something is at a path; refuse what may not be looked at."""
    return bool(_mode(path))


def _mode(path: PathLike) -> int:
    """Read the kind and the rights of what is at a path; 0 where nothing is, or can be."""
    try:
        return os.stat(path).st_mode  # noqa: PTH116  of text, too
    except PermissionError as error:
        raise invalid(FileError, named(path), must="be readable", got=error.strerror, fix=_RIGHTS) from error
    except (OSError, ValueError):
        return 0


@contextmanager
def open_regular(path: PathLike) -> Iterator[BufferedReader]:
    """Open a regular file for reading; never wait for a pipe or a device."""
    text = path_text(path)
    name = named(text)
    try:
        descriptor = os.open(text, os.O_RDONLY | _NO_WAIT | BINARY)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                got = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
                raise invalid(FileError, name, must="be a regular file", got=got, fix="Name a file.")
            with os.fdopen(descriptor, "rb", closefd=False) as handle:
                yield handle
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise FileError(f"`{name}` does not exist. Check the path.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise invalid(FileError, name, must="be readable", got=reason, fix=_RIGHTS) from error


def read_at(handle: BinaryIO, offset: int, count: int) -> bytes:
    """Read bytes at an offset, from any thread."""
    if hasattr(os, "pread"):
        return os.pread(handle.fileno(), count, offset)
    with _SEEKING:
        handle.seek(offset)
        return handle.read(count)
