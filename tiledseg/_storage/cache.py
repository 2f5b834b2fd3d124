"""What is kept on disk for a while: a cache that is checked by digests; temporary files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiledseg._lazy import lazy
from tiledseg._storage.files import json_of, new_folder, write_text
from tiledseg._storage.paths import open_regular
from tiledseg._validate import invalid, named
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from tiledseg._types import AnyArray, PathLike
else:
    np = lazy("numpy")

_log = logging.getLogger("tiledseg")
_ZEROS = 1 << 20  # bytes that are written at once where space cannot be reserved


def sha256(path: PathLike) -> str:
    """Compute the SHA-256 of a file, as 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: PathLike) -> str:
    """Compute the SHA-256 of a file, or of the files of a zarr, in the form of records."""
    return f"sha256:{_folder_sha256(Path(path)) if Path(path).is_dir() else sha256(path)}"


def zarr_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a zarr in a fixed order, without its label maps."""
    for place, folders, files in os.walk(folder):
        if Path(place) == folder and "labels" in folders:
            folders.remove("labels")
        folders.sort()
        yield from (Path(place, name) for name in sorted(files))


def _folder_sha256(folder: Path) -> str:
    """Compute the SHA-256 of the names and contents of the files of a zarr."""
    digest = hashlib.sha256()
    for path in zarr_files(folder):
        entry = f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\0"
        digest.update(entry.encode(errors="surrogateescape"))
    return digest.hexdigest()


def array_digest(values: AnyArray) -> str:
    """Compute the SHA-256 of an array's dtype, shape and values, in the form of records."""
    digest = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    ordered = values if values.flags.c_contiguous else values.copy("C")
    digest.update(ordered.reshape(-1).view("u1").data)
    return f"sha256:{digest.hexdigest()}"


class DiskCache:
    """Folders of files by key: written whole or not at all, checked by their digests when read."""

    _SEAL = "sha256.json"

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, key: str) -> Path | None:
        """Find the folder of a key; None where there is none, or a damaged one."""
        folder = self._root / key
        try:
            seal = json_of((folder / self._SEAL).read_bytes())
        except (OSError, ValueError):
            if not folder.exists():
                return None
            seal = None
        with contextlib.suppress(OSError, AttributeError, FileError):
            if all(sha256(folder / name) == digest for name, digest in seal.items()):
                return folder
        _log.warning("%s is damaged; it is removed and made again.", folder)
        self.drop(key)
        return None

    def keep(self, key: str, write: Callable[[Path], object]) -> Path:
        """Fill the folder of a key, unless another process was first; return the folder."""
        folder = self._root / key
        try:
            with new_folder(folder) as part:
                write(part)
                seal = {path.name: sha256(path) for path in part.iterdir()}
                write_text(part / self._SEAL, json.dumps(seal))
        except FileError:
            if not (folder / self._SEAL).is_file():
                raise
        return folder

    def drop(self, key: str) -> None:
        """Remove the folder of a key."""
        shutil.rmtree(self._root / key, ignore_errors=True)


class ScratchFile:
    """A temporary file to write and read at offsets, in memory up to a number of bytes."""

    def __init__(self, in_memory: int = 0) -> None:
        with _space():
            kind: Any = (
                partial(tempfile.SpooledTemporaryFile, in_memory) if in_memory else tempfile.TemporaryFile
            )
            self._file = kind()
        self._close = weakref.finalize(self, _close, self._file)

    def write(self, offset: int, data: Any) -> None:  # a buffer
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


def _close(file: Any) -> None:
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
