"""Converted networks kept on disk: found again by a digest, whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["cache_folder", "drop", "keep", "kept"]

_log = logging.getLogger("tiledseg")
_MOST_BYTES = 4 << 30  # of all kept networks; the ones not used for longest go
_SEAL = "sha256.json"
_CHUNK = 1 << 22


def cache_folder() -> Path:
    """Say where converted networks are kept."""
    named = os.environ.get("TILEDSEG_CACHE_DIR")
    if named:
        return Path(named)
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "tiledseg"


def kept(key: str) -> Path | None:
    """Find what was kept under a key."""
    folder = cache_folder() / key
    try:
        seal = json.loads((folder / _SEAL).read_text())
        if all(_sha256(folder / name) == digest for name, digest in seal.items()):
            os.utime(folder)  # used just now
            return folder
    except (OSError, ValueError, AttributeError):
        return None
    _log.warning("%s is damaged and is made again.", folder)
    drop(key)
    return None


def keep(key: str, write: Callable[[Path], object]) -> None:
    """Keep files under a key; where that fails it is said in the log, and nothing is kept."""
    root = cache_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    except OSError as error:
        _log.info("A converted network could not be kept in %s: %s", root, error)
        return
    try:
        write(folder)
        seal = {path.name: _sha256(path) for path in folder.iterdir()}
        (folder / _SEAL).write_text(json.dumps(seal))
        folder.replace(root / key)
        _prune(root)
    except (OSError, RuntimeError) as error:  # a full disk, or another process that was first
        _log.info("A converted network could not be kept in %s: %s", root, error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def drop(key: str) -> None:
    """Forget what was kept under a key."""
    shutil.rmtree(cache_folder() / key, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _prune(root: Path) -> None:
    sized = []
    for folder in root.iterdir():
        if (folder / _SEAL).is_file():
            size = sum(path.stat().st_size for path in folder.iterdir())
            sized.append((folder.stat().st_mtime, size, folder))
    total = 0
    for _, size, folder in sorted(sized, reverse=True):
        total += size
        if total > _MOST_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
