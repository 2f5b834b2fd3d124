"""Checkpoints: everything that a run goes on from, in one file that is sealed by its digest.

A seal of one line, then a safetensors payload, whose metadata hold what is no array. Nothing in it
is ever executed. A run keeps its last two: where the last one has rotted, the one before it holds.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tiledseg._validate import invalid, path_text
from tiledseg.errors import FileError
from tiledseg.io import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedReader

__all__ = ["Checkpoint", "keep_checkpoint", "latest_checkpoint"]

_log = logging.getLogger("tiledseg")
_SEAL = "tiledseg checkpoint 1 sha256:{}\n"
_SEAL_BYTES = len(_SEAL.format("0" * 64))
_LARGEST_HEADER = 10**8
_KEPT = 2
_TYPES = {  # safetensors' names
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U64": "<u8",
    "U32": "<u4",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a run goes on from."""

    arrays: Mapping[str, np.ndarray[Any, Any]]  # variables by name
    facts: Mapping[str, Any]  # what is no array, as JSON can hold it


def keep_checkpoint(folder: Path, number: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, whole or not at all, and remove all but the last two."""
    path = folder / f"epoch-{number:06d}.ckpt"
    with atomic_write(path) as file:
        file.write(_SEAL.format("0" * 64).encode())
        digest = _written(file, checkpoint)
        file.seek(0)
        file.write(_SEAL.format(digest).encode())
    for old in _by_number(folder)[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the last checkpoint that is whole."""
    errors: list[FileError] = []
    for path in _by_number(Path(path_text(folder))):
        try:
            return _read(path)
        except FileError as error:
            _log.warning("%s", error)
            errors.append(error)
    if errors:
        raise errors[0]
    return None


def _by_number(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.ckpt"), reverse=True)


def _written(file: BinaryIO, checkpoint: Checkpoint) -> str:
    """Write the payload array by array, and give its digest."""
    header: dict[str, Any] = {"__metadata__": {"facts": json.dumps(checkpoint.facts)}}
    start = 0
    for name, values in checkpoint.arrays.items():
        ends = [start, start + values.nbytes]
        header[name] = {"dtype": _NAMES[values.dtype], "shape": list(values.shape), "data_offsets": ends}
        start += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    for part in chain[Any](
        [len(text).to_bytes(8, "little"), text], map(_bytes_of, checkpoint.arrays.values())
    ):
        digest.update(part)
        file.write(part)
    return digest.hexdigest()


def _bytes_of(values: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401  a buffer
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _read(path: Path) -> Checkpoint:
    try:
        with path.open("rb") as file:
            _check_seal(file, path)
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _LARGEST_HEADER)))
            facts = json.loads(header.pop("__metadata__")["facts"])
            return Checkpoint({name: _array(file, one) for name, one in header.items()}, facts)
    except OSError as error:
        raise invalid(
            FileError, str(path), must="be readable", got=str(error), fix="Check its rights and its disk."
        ) from error


def _check_seal(file: BufferedReader, path: Path) -> None:
    seal, digest = file.read(_SEAL_BYTES), hashlib.file_digest(file, "sha256")
    if seal != _SEAL.format(digest.hexdigest()).encode():
        raise invalid(
            FileError,
            str(path),
            must="be a checkpoint with the SHA-256 checksum that it was sealed with",
            got="other bytes",
            fix="It is damaged; the one before it is used where that is whole.",
        )
    file.seek(_SEAL_BYTES)


def _array(file: BinaryIO, entry: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Read the next array; they lie in the order of the header."""
    start, end = entry["data_offsets"]
    values = np.frombuffer(file.read(end - start), _TYPES[entry["dtype"]])
    return values.reshape(entry["shape"])
