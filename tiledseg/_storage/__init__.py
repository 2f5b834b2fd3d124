"""Files and folders on disk: written whole or not at all, identified by digests, cached, locked."""

from tiledseg._storage.cache import DiskCache, array_digest, file_digest, sha256
from tiledseg._storage.files import (
    atomic_write,
    check_new_folder,
    check_writable,
    move_into_place,
    new_folder,
    open_part,
    open_part_folder,
    open_regular,
    part_beside,
    raise_unwritable,
    read_at,
    remove_parts,
    sync_file,
    sync_folder,
    target_mode,
    write_bytes,
    write_text,
)
from tiledseg._storage.locks import file_lock, folder_lock

__all__ = [
    "DiskCache",
    "array_digest",
    "atomic_write",
    "check_new_folder",
    "check_writable",
    "file_digest",
    "file_lock",
    "folder_lock",
    "move_into_place",
    "new_folder",
    "open_part",
    "open_part_folder",
    "open_regular",
    "part_beside",
    "raise_unwritable",
    "read_at",
    "remove_parts",
    "sha256",
    "sync_file",
    "sync_folder",
    "target_mode",
    "write_bytes",
    "write_text",
]
