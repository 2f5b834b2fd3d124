"""Opening a file safely, and saying what is wrong with it."""

from __future__ import annotations

import io
import os
import stat
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from tiledseg._validate import invalid, named, path_text
from tiledseg.errors import FileError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import PathLike

__all__ = ["MAX_PIXELS", "Reader", "check_max_pixels", "opened"]

MAX_PIXELS = 2**30
"""Default limit on an image's height times width, in px; also OpenCV's own."""

_METADATA_BYTES = 2**26
_SEEKING = threading.Lock()
_BYTES_PER_PIXEL = 8  # four channels of 16 bits


@dataclass(frozen=True, slots=True)
class Reader:
    """An open file that is read at named offsets, and whose faults are named with it."""

    name: str  # the path, as it is shown in errors
    handle: BinaryIO  # the bytes
    size: int  # their number

    def take(self, offset: int, count: int) -> bytes:
        """Read `count` bytes at `offset`; fewer are an error."""
        if offset + count > self.size:
            raise self.damaged(f"{self.size} bytes where {offset + count} or more are declared")
        self.handle.seek(offset)
        data = self.handle.read(count)
        if len(data) != count:
            raise self.damaged(f"{len(data)} bytes where {count} are declared at byte {offset}")
        return data

    def at(self, offset: int, count: int) -> bytes:
        """Read `count` bytes at `offset`, as `take` does, from any thread."""
        if not hasattr(os, "pread"):
            with _SEEKING:
                return self.take(offset, count)
        try:
            data = os.pread(self.handle.fileno(), count, offset)
        except OSError as error:
            raise self.bad("be readable", error.strerror or str(error), "Check the disk.") from error
        if len(data) != count:
            raise self.damaged(f"{len(data)} bytes where {count} are declared at byte {offset}")
        return data

    def whole(self, max_pixels: int) -> Reader:
        """Read the whole file into memory, within what an image of `max_pixels` can need."""
        most = max_pixels * _BYTES_PER_PIXEL + _METADATA_BYTES
        if self.size > most:
            must = f"have at most {most} bytes with max_pixels={max_pixels}"
            raise self.bad(must, self.size, "Raise `max_pixels`.")
        data = self.take(0, self.size)
        return Reader(self.name, io.BytesIO(data), len(data))

    def bad(self, must: str, got: object, fix: str) -> FileError:
        """Build the error that names this file."""
        return invalid(FileError, self.name, must=must, got=got, fix=fix)

    def damaged(self, got: str) -> FileError:
        """Build the error for a file that is cut off or corrupt."""
        return self.bad("be a whole, undamaged image", got, "Copy or export it again.")

    def check_size(self, height: int, width: int, max_pixels: int) -> None:
        """Refuse an image that declares no pixels, or more than the limit."""
        if height < 1 or width < 1:
            raise self.damaged(f"a declared size of {height}x{width} px")
        if height * width > max_pixels:
            raise self.bad(
                f"hold at most max_pixels={max_pixels} px",
                f"{height}x{width} px declared",
                "If the file is to be trusted, raise `max_pixels`.",
            )


@contextmanager
def opened(path: PathLike) -> Iterator[Reader]:
    """Open a regular file for reading; never wait for a pipe or a device."""
    text = path_text(path)
    name = named(text)
    try:
        descriptor = os.open(text, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as handle:
            yield _checked(name, handle)
    except FileNotFoundError:
        raise invalid(FileError, name, must="exist", got="no such file", fix="Check the path.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "Check the file and its rights."
        raise invalid(FileError, name, must="be readable", got=reason, fix=fix) from error


def _checked(name: str, handle: BinaryIO) -> Reader:
    status = os.fstat(handle.fileno())
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise invalid(FileError, name, must="be a regular file", got=kind, fix="Name an image file.")
    if not status.st_size:
        fix = "Copy or export it again."
        raise invalid(FileError, name, must="hold an image", got="an empty file", fix=fix)
    return Reader(name, handle, status.st_size)


def check_max_pixels(max_pixels: object) -> None:
    """Refuse a limit that is not a positive whole number."""
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        fix = f"Leave it at {MAX_PIXELS}, or give another number of pixels."
        raise invalid(SettingError, "max_pixels", must="be a positive int", got=max_pixels, fix=fix)
