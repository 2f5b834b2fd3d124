"""Unfinished large files: written beside the target until they are whole, resumed after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiledseg._storage import (
    beside,
    exists,
    file_lock,
    is_folder,
    json_of,
    move_into_place,
    open_regular,
    part_beside,
    raise_unwritable,
    sync_folder,
    target_mode,
)
from tiledseg._validate import invalid, named, path_text, shown
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tiledseg._types import PathLike

_BEGINS = re.compile(rb"[0-9a-f]{0,8}\Z|[0-9a-f]{8} (\{|\Z)")  # of a journal; a full disk cuts it off
_BEGINNING = 10  # bytes
_NO_SETTINGS = {"model", "preprocessing", "product", "tiledseg"}  # of what maps depend on


class Partial:
    """An unfinished file or folder, and the journal of its stored parts."""

    def __init__(self, target: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path: Path = beside(target, ".tiledseg-part")
        self._journal_path = beside(target, ".tiledseg-journal")
        known = exists(self._journal_path)
        _check_ours(self.path, self._journal_path)
        descriptor = os.open(self._journal_path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._journal = os.fdopen(descriptor, "r+b", buffering=0)
        except OSError:
            os.close(descriptor)
            if not known:
                self._journal_path.unlink()
            raise
        self.resumed: bool = True  # until it is known better
        try:
            notes, length = _notes(self._journal.read())
            begun = notes[0].get("fingerprint") if notes and isinstance(notes[0], dict) else None
            self.resumed = isinstance(begun, dict) and exists(self.path)
            if isinstance(begun, dict) and self.resumed:
                check_identity(named(str(self._journal_path)), begun, fingerprint)
            self.records: list[Any] = (
                [note for note in notes if isinstance(note, list)] if self.resumed else []
            )
            self._journal.truncate(length if self.resumed else 0)
            self._journal.seek(0, os.SEEK_END)
            self.note({"pid": os.getpid(), "fingerprint": dict(fingerprint)})
        except BaseException:
            self.close(remove=not self.resumed)
            raise

    def note(self, record: Any) -> None:  # any JSON
        """Append a stored part to the journal; a line that a kill cuts off is ignored later."""
        text = json.dumps(record, sort_keys=True).encode()
        self._journal.write(b"%08x %s\n" % (zlib.crc32(text), text))

    def close(self, *, remove: bool) -> None:
        """Close the journal."""
        with contextlib.suppress(OSError):  # of a journal, nothing is written at its end
            self._journal.close()  # first: Windows removes no open file
        if remove:
            self._journal_path.unlink(missing_ok=True)


def _check_ours(part: Path, journal: Path) -> None:
    """Refuse what stands where the part and its journal belong, and was not written by an earlier run."""
    foreign = next((path for path in (part, journal) if path.is_symlink()), None)
    if foreign is None and os.path.lexists(journal):
        with open_regular(journal) as file:
            foreign = None if _BEGINS.match(file.read(_BEGINNING)) else journal
    if foreign is not None:
        must, fix = "be of an earlier run, or not exist", "Move it away, or write elsewhere."
        raise invalid(FileError, named(foreign), must=must, got="a link or another file", fix=fix)


def _notes(data: bytes) -> tuple[list[Any], int]:
    """Read the notes before the first incomplete line, and return where they end."""
    notes, length = [], 0
    for line in data.split(b"\n")[:-1]:
        checksum, _, text = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            break
        try:
            notes.append(json_of(text, nan=True))
        except ValueError:
            break
        length += len(line) + 1
    return notes, length


def check_identity(name: str, before: Mapping[str, Any], now: Mapping[str, Any], fix: str = "") -> None:
    """Refuse to resume or to keep what other inputs or settings made."""
    now = json.loads(json.dumps(now))
    differing = {
        (f"`{key}`" if key.replace("_", "").isalpha() and key not in _NO_SETTINGS else key): key
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    }
    if differing:
        fix = fix or "Use those of the first run, or delete it and its part to start again."
        changes = [
            f"{term} {_unlike(before.get(key), now.get(key))} -> {_unlike(now.get(key), before.get(key))}"
            for term, key in differing.items()
        ]
        text = f"`{name}` was made with another {', '.join(differing)}: {'; '.join(changes[:3])}. {fix}"
        raise FileError(text)


def _unlike(value: Any, other: Any) -> str:
    """Show a value; of a table only the entries that another one has not."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {key: one for key, one in value.items() if key not in other or other[key] != one}
    return shown(str(value))


@contextlib.contextmanager
def partial(
    path: PathLike, fingerprint: Mapping[str, Any] | None, *, keep_failed: bool = True
) -> Iterator[tuple[Path, Partial | None]]:
    """Write a file or folder whole or not at all; with a fingerprint, an interrupted part can be resumed."""
    # After an error, such as a full disk, it stays only with `keep_failed`.
    name = named(path_text(path))
    try:
        target = Path(os.path.realpath(path_text(path)))
        if not is_folder(target):
            target_mode(name, target)
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise_unwritable(name, error)
    with contextlib.ExitStack() as stack:
        if fingerprint is not None:
            stack.enter_context(file_lock(beside(target, ".tiledseg-lock"), target))
        yield from _parts(name, target, fingerprint, keep_failed=keep_failed)


def _parts(
    name: str, target: Path, fingerprint: Mapping[str, Any] | None, *, keep_failed: bool
) -> Iterator[tuple[Path, Partial | None]]:
    done = failed = False
    journal = None
    part = part_beside(target)
    try:
        if fingerprint is not None:
            journal = Partial(target, fingerprint)
            part = journal.path
        yield part, journal
        aside = move_into_place(part, target)
        done = True
        if aside is not None:
            _remove(aside)
        sync_folder(target.parent)
    except Exception as error:
        failed = not (done or keep_failed)
        if isinstance(error, OSError):
            raise_unwritable(name, error)
        raise
    finally:
        if journal is not None:
            journal.close(remove=done or failed)
        if failed or (journal is None and not done):
            with contextlib.suppress(OSError):
                _remove(part)


def _remove(path: Path) -> None:
    if is_folder(path) and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
