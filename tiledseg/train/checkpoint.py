"""Checkpoints: the whole state of a run in one file, which is sealed by its SHA-256.

The seal is one line. A safetensors payload follows, whose metadata contain all that is not an array.
Nothing in the file is executed. A run keeps its last two checkpoints: if the last one is damaged, the
one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tiledseg._backend import keras
from tiledseg._storage import atomic_write, json_of
from tiledseg._validate import invalid, path_text
from tiledseg.errors import FileError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from io import BufferedReader

    from tiledseg.train.run_folder import History

_log = logging.getLogger("tiledseg")
_SEAL = "tiledseg checkpoint 1 sha256:{}\n"
_SEAL_BYTES = len(_SEAL.format("0" * 64))
_MAX_HEADER = 10**8  # bytes
_MAX_CHECKPOINTS = 2
_KERAS_ATTRIBUTES = {"params", "_model", "validation_data"}
_TYPES = {  # the names of safetensors
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
_UNLIKE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError)
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The state of a run at the end of an epoch."""

    arrays: Mapping[str, np.ndarray[Any, Any]]  # variables and arrays of callbacks by name
    facts: Mapping[str, Any]  # all else, as JSON: epoch, history, other attributes of callbacks


def _write(folder: Path, number: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, whole or not at all, and remove all but the last two."""
    path = folder / f"epoch-{number:06d}.ckpt"
    with atomic_write(path) as file:
        file.write(_SEAL.format("0" * 64).encode())
        digest = _write_payload(file, checkpoint)
        file.seek(0)
        file.write(_SEAL.format(digest).encode())
    for old in _newest_first(folder)[_MAX_CHECKPOINTS:]:
        old.unlink(missing_ok=True)
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the last checkpoint that is not damaged."""
    errors: list[FileError] = []
    for path in _newest_first(Path(path_text(folder))):
        try:
            return _read(path)
        except FileError as error:
            _log.warning("%s", error)
            errors.append(error)
    if errors:
        raise errors[0]
    return None


def _newest_first(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208  unlike glob, it says what fails
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    return [folder / name for name in names if fnmatch(name, "epoch-*.ckpt")]


def _unreadable(path: Path, error: OSError) -> FileError:
    fix = "Check its permissions and the disk."
    return invalid(FileError, str(path), must="be readable", got=error, fix=fix)


def _write_payload(file: BinaryIO, checkpoint: Checkpoint) -> str:
    """Write the payload array by array, and return its digest."""
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


def _bytes_of(values: np.ndarray[Any, Any]) -> Any:  # a buffer
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _read(path: Path) -> Checkpoint:
    try:
        with path.open("rb") as file:
            _check_seal(file, path)
            return _content(file)
    except OSError as error:
        raise _unreadable(path, error) from error
    except _UNLIKE as error:  # the seal is a checksum: anybody can put it on anything
        must, got = "hold what a checkpoint of tiledseg holds", f"{type(error).__name__}: {error}"
        fix = "Another program wrote it; remove it."
        raise invalid(FileError, str(path), must=must, got=got, fix=fix) from error


def _content(file: BinaryIO) -> Checkpoint:
    """Read what stands behind the seal."""
    length = int.from_bytes(file.read(8), "little")
    header = json_of(file.read(min(length, _MAX_HEADER)))
    facts = json_of(header.pop("__metadata__")["facts"], nan=True)
    if not isinstance(facts, dict):
        raise TypeError("the facts are no mapping")
    return Checkpoint({name: _array(file, one) for name, one in header.items()}, facts)


def _check_seal(file: BufferedReader, path: Path) -> None:
    seal, digest = file.read(_SEAL_BYTES), hashlib.file_digest(file, "sha256")
    if seal != _SEAL.format(digest.hexdigest()).encode():
        raise invalid(
            FileError,
            str(path),
            must="be a checkpoint with the SHA-256 checksum that it was sealed with",
            got="other bytes",
            fix="It is damaged; the checkpoint before it is used if that one is not damaged.",
        )
    file.seek(_SEAL_BYTES)


def _array(file: BinaryIO, entry: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Read the next array; arrays are in the order of the header."""
    start, end = entry["data_offsets"]
    dtype = np.dtype(_TYPES[entry["dtype"]])
    if end - start != math.prod(entry["shape"]) * dtype.itemsize:
        raise ValueError("an array has another size than its shape")
    if not 0 <= end - start <= os.fstat(file.fileno()).st_size:
        raise ValueError("an array is larger than the file")
    values = np.frombuffer(file.read(end - start), dtype)
    return values.reshape(entry["shape"])


class Checkpointer(keras.callbacks.Callback):
    """Writes a checkpoint at the end of each epoch; it comes after the callbacks whose state it saves."""

    def __init__(
        self,
        folder: Path,
        history: History,
        callbacks: Sequence[Any],
        origin: Mapping[str, Any] | None = None,  # settings and data of the run, as JSON
    ) -> None:
        super().__init__()
        self._folder, self._history, self._callbacks, self._origin = folder, history, callbacks, origin

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Write the checkpoint."""
        arrays = {name: np.asarray(variable.numpy()) for name, variable in _variables(self.model)}
        states = []
        for place, callback in enumerate(self._callbacks):
            plain, own = _state_of(callback)
            arrays |= {f"callback/{place}/{name}": values for name, values in own.items()}
            states.append({"class": type(callback).__name__, "state": plain})
        facts = {
            "epoch": epoch + 1,
            "finished": epoch + 1 == self.params["epochs"] or bool(self.model.stop_training),
            "history": self._history.columns,
            "callbacks": states,
            "origin": self._origin,
        }
        _write(self._folder, epoch + 1, Checkpoint(arrays, facts))


class Restorer(keras.callbacks.Callback):
    """Restores the state of callbacks at the start of training; it comes after them."""

    def __init__(self, checkpoint: Checkpoint, callbacks: Sequence[Any]) -> None:
        super().__init__()
        self._checkpoint, self._callbacks = checkpoint, callbacks
        before = [entry["class"] for entry in checkpoint.facts["callbacks"]]
        now = [type(callback).__name__ for callback in callbacks]
        if before != now:
            raise invalid(
                SettingError,
                "callbacks",
                must=f"be those of the run, {', '.join(before)}",
                got=", ".join(now),
                fix="Pass callbacks of the same classes in the same order.",
            )

    def on_train_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """Restore the states: the callbacks of Keras reset themselves at this event."""
        for place, callback in enumerate(self._callbacks):
            vars(callback).update(self._checkpoint.facts["callbacks"][place]["state"])
            start = f"callback/{place}/"
            lists: dict[str, list[Any]] = {}
            for name, values in self._checkpoint.arrays.items():
                if name.startswith(start):
                    lists.setdefault(name.removeprefix(start).split("/")[0], []).append(np.array(values))
            vars(callback).update(lists)


def restore_variables(network: keras.Model, checkpoint: Checkpoint) -> None:
    """Restore weights, random generators and the variables of the optimizer."""
    variables = dict(_variables(network))
    stored = {name for name in checkpoint.arrays if not name.startswith("callback/")}
    for name in sorted(variables.keys() | stored):
        wanted = tuple(variables[name].shape) if name in variables else "no such variable"
        found = checkpoint.arrays[name].shape if name in stored else "no such variable"
        if wanted != found:
            raise invalid(
                FileError,
                f"checkpoint: {name}",
                must=f"have the shape that follows from the run's settings, {wanted}",
                got=found,
                fix="Resume with the versions of tiledseg and Keras that the run started with.",
            )
    for name, variable in variables.items():
        variable.assign(checkpoint.arrays[name])


def _variables(network: keras.Model) -> Iterator[tuple[str, Any]]:
    """Yield all variables that training changes, except those of metrics, which each epoch resets."""
    metrics = {id(variable) for metric in network.metrics for variable in metric.variables}
    own = [variable for variable in network.variables if id(variable) not in metrics]
    for kind, variables in (("network", own), ("optimizer", network.optimizer.variables)):
        for place, variable in enumerate(variables):
            yield f"{kind}/{place:05d}", variable


def _state_of(callback: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes of a callback that JSON can represent, and its lists of arrays."""
    plain: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, value in vars(callback).items():
        if name in _KERAS_ATTRIBUTES:
            continue
        one = value.item() if isinstance(value, np.generic) else value
        if isinstance(one, list) and one and all(isinstance(part, np.ndarray) for part in one):
            arrays |= {f"{name}/{place:05d}": part for place, part in enumerate(one)}
        elif _is_plain(one):
            plain[name] = one
    return plain, arrays


def _is_plain(value: object) -> bool:
    """Say whether a value is the same after conversion to JSON and back."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False
