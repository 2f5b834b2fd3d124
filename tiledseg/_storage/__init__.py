"""Files and folders: written whole or not at all, identified by digests, cached, locked, temporary."""

from tiledseg._storage.cache import DiskCache, array_digest, file_digest, sha256, zarr_files
from tiledseg._storage.files import (
    atomic_write,
    check_new_folder,
    check_writable,
    first_alike,
    move_into_place,
    new_folder,
    open_part,
    open_part_folder,
    part_beside,
    raise_unwritable,
    remove_parts,
    sync_file,
    sync_folder,
    target_mode,
    write_bytes,
)
from tiledseg._storage.locks import file_lock, folder_lock
from tiledseg._storage.paths import (
    beside,
    check_component,
    exists,
    is_file,
    is_folder,
    open_regular,
    read_at,
)
from tiledseg._storage.scratch import ScratchFile, scratch_array
from tiledseg._storage.text import csv_text, json_of, write_text

__all__ = [
    "DiskCache",
    "ScratchFile",
    "array_digest",
    "atomic_write",
    "beside",
    "check_component",
    "check_new_folder",
    "check_writable",
    "csv_text",
    "exists",
    "file_digest",
    "file_lock",
    "first_alike",
    "folder_lock",
    "is_file",
    "is_folder",
    "json_of",
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
    "zarr_files",
]
