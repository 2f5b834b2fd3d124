"""Temporary files: they go with their owners, and a full disk is an error before memory is mapped to it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from tiledseg._lazy import lazy
from tiledseg._validate import invalid, named
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from tiledseg._types import AnyArray
else:
    np = lazy("numpy")

_ZEROS = 1 << 20  # bytes that are written at once where space cannot be reserved


class ScratchFile:
    """A temporary file to write and read at offsets, in memory up to a number of bytes."""

    def __init__(self, in_memory: int = 0) -> None:
        with _space():
            kind: Any = (
                partial(tempfile.SpooledTemporaryFile, in_memory) if in_memory else tempfile.TemporaryFile
            )
            self._file = kind()
        self._close = weakref.finalize(self, _close, self._file)

    def write(self, offset: int, data: Any) -> None:  # noqa: ANN401  a buffer
        """Write bytes at an offset."""
        with _space():
            self._file.seek(offset)
            self._file.write(data)

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes at an offset; fewer where the file ends."""
        with _space():  # what is written may wait until here
            self._file.seek(offset)
            return self._file.read(count)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Remove the file."""
        self._close()


def _close(file: Any) -> None:  # noqa: ANN401
    with contextlib.suppress(OSError):  # nobody reads it any more
        file.close()


def scratch_array(shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    """Make an array of zeros in a temporary file, which goes with it; its space is taken at once."""
    # A full disk behind mapped memory would end the process by a signal.
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    with _space(), tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, max(1, count))
        else:
            for start in range(0, count, _ZEROS):
                file.write(bytes(min(_ZEROS, count - start)))
            file.flush()
        return np.memmap(file, dtype, "r+", shape=shape)


@contextmanager
def _space() -> Iterator[None]:
    """Name the folder of temporary files where it is full or cannot be written."""
    try:
        yield
    except OSError as error:
        fix = "Free some space, or let TMPDIR name a folder that has some."
        name = named(tempfile.tempdir or "TMPDIR")
        raise invalid(
            FileError, name, must="be writable", got=error.strerror or str(error), fix=fix
        ) from error
