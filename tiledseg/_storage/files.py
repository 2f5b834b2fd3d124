"""Files and folders that are written whole or not at all; text in them: strict JSON, CSV without formulas."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
import sys
import unicodedata
from collections import Counter
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from tiledseg._storage.paths import BINARY, beside
from tiledseg._validate import instance_of, invalid, named, path_text, shown
from tiledseg.errors import FileError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from tiledseg._types import PathLike

_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # the file system cannot sync folders
_PART = re.compile(r"\.tiledseg-[0-9a-f]{16}\.part")
_FIXES = {
    errno.ENOSPC: "Free some space, or write elsewhere.",
    errno.EDQUOT: "Free some of your quota, or write elsewhere.",
    errno.EFBIG: "Raise the limit on the size of a file, or write elsewhere.",
    errno.EROFS: "Write elsewhere: the file system is read-only.",
    errno.EACCES: "Change the rights, or write elsewhere.",
    errno.EPERM: "Change the rights, or write elsewhere.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width


@contextmanager
def atomic_write(path: PathLike) -> Iterator[BinaryIO]:
    """Open a temporary file beside the target; it replaces the target at the end, or is removed."""
    # A process that is killed leaves the target as it was, and at most a hidden file `.tiledseg-*.part`
    # beside it, which the next run in this folder removes. A link is followed: the file that it points to is
    # replaced. The rights stay the same.
    name = named(path_text(path))
    try:
        target = Path(os.path.realpath(path_text(path)))
        mode = target_mode(name, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = part_beside(target)
        handle = _created(temporary, mode)
    except OSError as error:
        raise_unwritable(name, error)
    try:
        try:
            with handle:
                yield handle
                _flush(handle)
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(target.parent)
    except OSError as error:
        raise_unwritable(name, error)


def target_mode(name: str, target: Path) -> int | None:
    """Return the rights of the file that is to be replaced; None where there is none."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        got = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise invalid(
            FileError, name, must="be a regular file, or not exist yet", got=got, fix="Name a file."
        )
    if not os.access(target, os.W_OK):
        raise invalid(FileError, name, must="be writable", got="a read-only file", fix=_FIXES[errno.EACCES])
    return stat.S_IMODE(mode)


def _created(temporary: Path, mode: int | None) -> BinaryIO:
    descriptor = open_part(temporary, os.O_RDWR | os.O_EXCL)
    try:
        if mode is not None and hasattr(os, "fchmod"):
            with contextlib.suppress(PermissionError):  # some network file systems know no rights
                os.fchmod(descriptor, mode)
        return open(temporary, "w+b", opener=lambda *_: descriptor)  # so that `name` is the path
    except BaseException:
        os.close(descriptor)
        temporary.unlink()
        raise


def part_beside(target: Path) -> Path:
    """Name a hidden part of a file or folder that is being written."""
    return target.with_name(f".tiledseg-{secrets.token_hex(8)}.part")


def open_part(path: Path, flags: int) -> int:
    """Open a file that is a part, and mark it as being written until it is closed or the process ends."""
    return _marked(path, lambda: os.open(path, flags | os.O_CREAT | BINARY, 0o666))


def open_part_folder(path: Path) -> int | None:
    """Make a folder that is a part, and mark it likewise; None on Windows, which opens no folders."""
    path.mkdir(parents=True, exist_ok=True)
    return None if sys.platform == "win32" else _marked(path, lambda: os.open(path, os.O_RDONLY))


def _marked(path: Path, make: Callable[[], int]) -> int:
    """Open a part, once more if it was taken for a rest before it had its mark."""
    while True:
        descriptor = make()
        if sys.platform == "win32":  # there, an open file cannot be removed
            return descriptor
        with contextlib.suppress(OSError):  # some network drives have no locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not _is_gone(path):
            return descriptor
        os.close(descriptor)


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


def remove_parts(folder: Path) -> None:
    """Remove the hidden parts that killed processes left in a folder: nobody writes one without a mark."""
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if _PART.fullmatch(path.name)]:
            with contextlib.suppress(OSError):
                _remove_unmarked(path)


def _remove_unmarked(path: Path) -> None:
    mode = path.lstat().st_mode
    if sys.platform == "win32":
        if stat.S_ISREG(mode):
            path.unlink()
    elif stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if stat.S_ISDIR(mode) else path.unlink()
        finally:
            os.close(descriptor)


def _flush(handle: BinaryIO) -> None:
    """Flush a file to the disk, and check that all of it arrived."""
    handle.flush()
    end = handle.seek(0, os.SEEK_END)
    os.fsync(handle.fileno())
    size = os.fstat(handle.fileno()).st_size
    if size != end:
        raise OSError(errno.EIO, f"only {size} of {end} bytes arrived")


def sync_file(path: Path) -> None:
    """Flush a file to the disk that another library wrote."""
    with path.open("r+b") as handle:
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a new name in it survives a loss of power."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def raise_unwritable(name: str, error: OSError) -> NoReturn:
    """Raise the error for a target that cannot be written."""
    fix = _FIXES.get(error.errno or 0, "Check the folder and its rights, or write elsewhere.")
    raise invalid(FileError, name, must="be writable", got=error.strerror or str(error), fix=fix) from error


def write_bytes(path: PathLike, data: bytes | bytearray | memoryview) -> None:
    """Write bytes to a file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(data)


def first_alike(folder: Path, names: Iterable[str]) -> tuple[str, str] | None:
    """Find two names that the file system of a folder takes for one, for example A.png and a.png."""
    alike: dict[str, list[str]] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        alike.setdefault(folded, []).append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    if not groups:
        return None
    trial = part_beside(folder.absolute() / "trial")
    try:
        return next(filter(None, (_taken_for_one(trial, group) for group in groups)), None)
    except OSError as error:
        raise_unwritable(named(folder), error)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _taken_for_one(trial: Path, names: list[str]) -> tuple[str, str] | None:
    """Try names out in a folder of their own."""
    for name in names:
        place = trial / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.touch(exist_ok=False)
        except FileExistsError:
            return names[0], name
    return None


def move_into_place(part: Path, target: Path) -> Path | None:
    """Move a finished file or folder to the target; return where a folder that stood there was moved."""
    if not (part.is_dir() and target.exists()):
        part.replace(target)
        return None
    aside = beside(target, f".{secrets.token_hex(4)}.old")
    target.replace(aside)
    try:
        part.replace(target)
    except BaseException:
        aside.replace(target)
        raise
    return aside


def check_writable(folder: PathLike, *, keep: bool = True) -> Path:
    """Make a folder and write a trial file in it, so that the work does not start in vain."""
    path = Path(path_text(folder))
    missing: list[Path] = []
    try:
        if not keep:
            missing = list(takewhile(lambda one: not one.exists(), (path, *path.parents)))
        path.mkdir(parents=True, exist_ok=True)
        remove_parts(path)
        trial = part_beside(path / "trial")
        try:
            with _created(trial, None) as handle:
                handle.write(b"trial")
                _flush(handle)
        finally:
            trial.unlink(missing_ok=True)  # closed: Windows removes no open file
    except FileExistsError:
        raise invalid(
            FileError, named(path), must="be a folder", got="a file", fix="Name a folder."
        ) from None
    except OSError as error:
        raise_unwritable(named(path), error)
    finally:
        with contextlib.suppress(OSError):  # a folder that is no longer empty stays
            for made in missing:
                made.rmdir()
    return path


def check_new_folder(path: PathLike, replace: Collection[str] = ()) -> Path:
    """Check that a folder can be made, or holds nothing but the names to be replaced."""
    target = Path(path_text(path))
    try:
        entries = list(target.iterdir()) if os.path.lexists(target) else []
    except OSError as error:
        got = error.strerror or str(error)
        raise invalid(FileError, named(target), must="be a folder", got=got, fix="Name a new one.") from error
    foreign = next((one.name for one in entries if one.name not in replace or one.is_dir()), None)
    if foreign is not None:
        raise invalid(
            FileError,
            named(target),
            must="be a new or empty folder",
            got=f"{named(foreign)} in it",
            fix="Name another folder; nothing in this one is changed.",
        )
    check_writable(target.absolute().parent, keep=False)
    return target


@contextmanager
def new_folder(path: PathLike, replace: Collection[str] = ()) -> Iterator[Path]:
    """Make a hidden folder beside the target; it replaces the target at the end, or is removed."""
    # `replace` lists the files that an earlier run of ours may have left there; only they are removed.
    # A process that is killed leaves at most hidden folders `.tiledseg-*.part`, which the next run in this
    # folder removes, and `.NAME.*.old`.
    target = check_new_folder(path, replace)
    filling = part_beside(target.absolute())
    try:
        with _part_folder(filling):
            try:
                yield filling
            except (KeyboardInterrupt, SystemExit) as stop:
                stop.add_note(f"nothing was written to `{named(target)}`")
                raise
            check_new_folder(target, replace)
            sync_folder(filling)
            aside = move_into_place(filling, target.absolute())
            if aside is not None:  # at once: whatever fails later, nothing of it is left
                with contextlib.suppress(OSError):  # a folder with other files stays
                    for name in replace:
                        (aside / name).unlink(missing_ok=True)
                    aside.rmdir()
        sync_folder(target.absolute().parent)
    except OSError as error:
        raise_unwritable(named(target), error)


@contextmanager
def _part_folder(filling: Path) -> Iterator[None]:
    """Make a folder that is a part, marked in the block; it is removed if the block fails."""
    opened = open_part_folder(filling)
    try:
        yield
    except BaseException:
        shutil.rmtree(filling, ignore_errors=True)
        raise
    finally:
        if opened is not None:
            os.close(opened)


def write_text(path: PathLike, text: str) -> None:
    r"""Write text to a file as UTF-8, whole or not at all; ``\n`` stays ``\n`` on every system."""
    instance_of(str, text, "text", "Give text; bytes are written by write_bytes.")
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def json_of(data: str | bytes, *, nan: bool = False) -> Any:  # any JSON
    """Read JSON; a ValueError says what it must not have: a key twice, endless nesting, NaN without `nan`."""
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=float if nan else _no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shown(key)} occurs twice in one object")
    return found


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Write rows as CSV; text that a spreadsheet would run as a formula begins with an apostrophe."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(columns), restval="", lineterminator="\n")
    for row in (dict(zip(writer.fieldnames, writer.fieldnames, strict=True)), *rows):
        writer.writerow({name: _inert(value) for name, value in row.items()})
    return table.getvalue()


def _inert(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # the writer quotes no \r, which begins a new line
    return f"'{text}" if text.startswith(_FORMULAS) else text
