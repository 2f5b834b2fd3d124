"""Files and folders: written whole or not at all, identified by digests, cached, locked, temporary."""

from tiledseg._storage.cache import DiskCache, array_digest, file_digest, sha256
from tiledseg._storage.files import (
    atomic_write,
    check_new_folder,
    check_writable,
    csv_text,
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
from tiledseg._storage.scratch import ScratchFile, scratch_array

__all__ = [
    "DiskCache",
    "ScratchFile",
    "array_digest",
    "atomic_write",
    "check_new_folder",
    "check_writable",
    "csv_text",
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
    "scratch_array",
    "sha256",
    "sync_file",
    "sync_folder",
    "target_mode",
    "write_bytes",
    "write_text",
]
