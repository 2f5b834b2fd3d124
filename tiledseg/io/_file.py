"""Opening a file safely, and saying what is wrong with it."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from tiledseg._storage import open_regular, read_at
from tiledseg._validate import invalid, named
from tiledseg.errors import FileError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import PathLike

__all__ = ["MAX_PIXELS", "Reader", "check_max_pixels", "opened"]

MAX_PIXELS = 2**30
"""Default limit on an image's height times width, in px; also OpenCV's own."""

_METADATA_BYTES = 2**26
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
        try:
            data = read_at(self.handle, offset, count)
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
    """Open an image file for reading."""
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if not size:
            fix = "Copy or export it again."
            raise invalid(FileError, named(path), must="hold an image", got="an empty file", fix=fix)
        yield Reader(named(path), handle, size)


def check_max_pixels(max_pixels: object) -> None:
    """Refuse a limit that is not a positive whole number."""
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        fix = f"Leave it at {MAX_PIXELS}, or give another number of pixels."
        raise invalid(SettingError, "max_pixels", must="be a positive int", got=max_pixels, fix=fix)
