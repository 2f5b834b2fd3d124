"""Digests: whether a file is still the one that was meant."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tiledseg.io._file import opened

if TYPE_CHECKING:
    from tiledseg._types import PathLike

__all__ = ["file_digest"]

_AT_ONCE = 2**20


def file_digest(path: PathLike) -> str:
    """Compute the digest of a file's bytes."""
    digest = hashlib.sha256()
    with opened(path) as file:
        while part := file.handle.read(_AT_ONCE):
            digest.update(part)
    return f"sha256:{digest.hexdigest()}"
