"""Files and folders on disk: written whole or not at all, identified by digests, cached, locked."""

from tiledseg._storage.cache import DiskCache, array_digest, cache_folder, file_digest, sha256
from tiledseg._storage.files import (
    atomic_write,
    check_new_folder,
    check_writable,
    new_folder,
    open_regular,
    read_at,
    refuse,
    replaceable,
    settle,
    sync_file,
    sync_folder,
    take_place,
    write_bytes,
    write_text,
)
from tiledseg._storage.locks import hold, locked

__all__ = [
    "DiskCache",
    "array_digest",
    "atomic_write",
    "cache_folder",
    "check_new_folder",
    "check_writable",
    "file_digest",
    "hold",
    "locked",
    "new_folder",
    "open_regular",
    "read_at",
    "refuse",
    "replaceable",
    "settle",
    "sha256",
    "sync_file",
    "sync_folder",
    "take_place",
    "write_bytes",
    "write_text",
]
