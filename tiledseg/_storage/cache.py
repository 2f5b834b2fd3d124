"""Digests of files and arrays, and a cache on disk that is checked by them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiledseg._storage.files import json_of, new_folder, write_text
from tiledseg._storage.paths import open_regular
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from tiledseg._types import PathLike

_log = logging.getLogger("tiledseg")


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


def array_digest(values: np.ndarray[Any, Any]) -> str:
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
