"""Files at an address (`https://`, `s3://` and all that fsspec opens), read by ranges of bytes."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tiledseg._lazy import extra
from tiledseg._validate import invalid, named
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Callable

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOCAL = ("file://", "local://")  # which would be opened without the checks of local files
_COLLAPSED = re.compile(r"(https?|s3|gs|gcs|az|abfs|ftp|sftp|memory):/[^/]")  # by pathlib
_BLOCK = 1 << 17  # bytes of a request at least: a few tiles
_CACHE = 1 << 26  # bytes
_MOST_WITHOUT_RANGES = 1 << 26  # bytes that are read whole from a server that gives no ranges
_ATTEMPTS = 3
_MARKS = ("zarr.json", ".zarray", ".zgroup")
_S3 = "For a public bucket set FSSPEC_S3='{\"anon\": true}', else AWS_PROFILE or AWS_ACCESS_KEY_ID."


def is_remote(text: str) -> bool:
    """Say whether a path is an address."""
    if _COLLAPSED.match(text):
        fix = "Give it as text: a pathlib.Path turns // into /."
        raise invalid(FileError, named(text), must="be a whole address", got="one slash", fix=fix)
    if text.startswith(_LOCAL):
        raise invalid(FileError, named(text), must="be a path", got="an address", fix="Leave file:// out.")
    return bool(_ADDRESS.match(text))


def shown_address(text: str) -> str:
    """Return an address as messages and files show it: without the signature or password that it may hold."""
    plain = re.sub(r"[?#].*$", "", text) if text.lower().startswith("http") else text
    return re.sub(r"://[^/@]*@", "://", plain)


def is_remote_zarr(text: str) -> bool:
    """Say by its name, or else by its metadata, whether an address is that of a zarr."""
    path = shown_address(text).rstrip("/").lower()
    if ".zarr" in path:
        return True
    if "." in path.rpartition("/")[2]:
        return False
    found: bool = _asked(text, lambda fs, at: any(fs.exists(f"{at.rstrip('/')}/{mark}") for mark in _MARKS))
    return found


def remote_state(text: str) -> list[int]:
    """Return the size of a remote file and a number for its version; of a zarr, of its metadata."""
    if is_remote_zarr(text):
        return []
    info = _asked(text, lambda fs, at: fs.info(at))
    version = [str(info[key]) for key in ("ETag", "Last-Modified", "LastModified", "mtime") if info.get(key)]
    digest = hashlib.sha256("\n".join(version).encode()).digest()
    return [int(info.get("size") or 0), int.from_bytes(digest[:6])]


if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # of this system; before Python 3.12 it alone has what a subclass needs


class RemotePath(_Path):
    """An address as a path: its name and parent are those of a file, its text is the whole address."""

    _address: str

    def __new__(cls, text: str) -> Self:
        """Make a path of the address without its query."""
        path: Self = super().__new__(cls, shown_address(text))
        path._address = text
        return path

    if sys.version_info >= (3, 12):

        def __init__(self, text: str) -> None:
            super().__init__(shown_address(text))

    def __str__(self) -> str:
        address: str | None = getattr(self, "_address", None)
        return address or super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return as_path, (str(self),)

    def absolute(self) -> Self:
        """Return itself."""
        return self


def as_path(text: str) -> Path:
    """Return a path, also of an address."""
    return RemotePath(text) if is_remote(text) else Path(text)


def _asked(text: str, question: Callable[[Any, str], Any]) -> Any:  # fsspec has no types
    """Ask the file system of an address; its errors become ours."""
    name = named(shown_address(text))
    fsspec = extra("fsspec", "remote")
    try:
        system, path = fsspec.core.url_to_fs(text)
    except ImportError as error:
        fix = f'Run `pip install "tiledseg[remote]"`. ({error})'
        raise invalid(
            FileError, name, must="have a protocol that is installed", got="none", fix=fix
        ) from None
    except ValueError as error:
        fix = "Use https://, s3:// or another one that fsspec opens."
        raise invalid(FileError, name, must="be an address", got=str(error), fix=fix) from None
    for attempt in range(_ATTEMPTS):
        try:
            return question(system, path)
        except FileNotFoundError:
            fix = "Check the address, and that the server can be reached."
            raise invalid(FileError, name, must="exist", got="nothing there", fix=fix) from None
        except FileError:
            raise
        except Exception as error:  # noqa: BLE001  each file system has its own errors
            if attempt + 1 == _ATTEMPTS or isinstance(error, PermissionError) or _is_final(error):
                fix = _S3 if text.startswith("s3://") else "Check the address, your rights and the network."
                got = f"{type(error).__name__}: {shown_address(str(error))}"
                raise invalid(FileError, name, must="be readable", got=got, fix=fix) from None
    raise invalid(FileError, name, must="be readable", got="nothing", fix="Try again.")


def _is_final(error: Exception) -> bool:
    """Say whether a server will answer the same again."""
    status = getattr(error, "status", None)
    return (isinstance(status, int) and 400 <= status < 500) or type(error).__name__ == "NoCredentialsError"


def open_remote(text: str) -> tuple[Any, int]:
    """Open a remote file, and return it with its size in bytes."""
    name = named(shown_address(text))
    size = _asked(text, lambda fs, at: fs.info(at)).get("size")
    if not isinstance(size, int):
        raise _without_ranges(name, "a server that states no size")
    if not size:
        raise invalid(FileError, name, must="hold an image", got="an empty file", fix="Upload it again.")
    if size > _BLOCK and not _asked(text, _gives_ranges):
        if size > _MOST_WITHOUT_RANGES:
            raise _without_ranges(name, f"{size} bytes from a server without them")
        return _Downloaded(_asked(text, lambda fs, at: fs.cat_file(at))), size
    return RemoteFile(text, size), size


def _without_ranges(name: str, got: str) -> FileError:
    fix = "Download it, and open the copy."
    return invalid(FileError, name, must="be on a server that supports ranges of bytes", got=got, fix=fix)


def _gives_ranges(system: Any, path: str) -> bool:
    """Read one byte from the middle: fsspec raises ValueError where the server sends all of it."""
    try:
        with system.open(path, "rb", cache_type="none") as handle:
            handle.seek(_BLOCK)
            return len(handle.read(1)) == 1
    except ValueError:
        return False


class _Downloaded(io.BytesIO):
    """A small remote file in memory."""

    def read_at(self, offset: int, count: int) -> bytes:
        """Read bytes at an offset, from any thread."""
        return bytes(self.getbuffer()[offset : offset + count])


class RemoteFile(io.RawIOBase):
    """A remote file: blocks of bytes are fetched when they are needed; the last ones are cached."""

    def __init__(self, text: str, size: int) -> None:
        super().__init__()
        self._text, self._size, self._place = text, size, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read from any offset."""
        return True

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def read(self, count: int | None = -1) -> bytes:
        """Read bytes at the place."""
        left = max(0, self._size - self._place)
        data = self.read_at(self._place, left if count is None or count < 0 else min(count, left))
        self._place += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_at(self, offset: int, count: int) -> bytes:
        """Read bytes at an offset, from any thread; neighbouring blocks are fetched at once."""
        stop = min(offset + count, self._size)
        if stop <= offset:
            return b""
        first, last = offset // _BLOCK, -(-stop // _BLOCK)
        with self._lock:
            found = {number: self._blocks[number] for number in range(first, last) if number in self._blocks}
        missing = [number for number in range(first, last) if number not in found]
        if missing:
            begin, end = missing[0] * _BLOCK, min((missing[-1] + 1) * _BLOCK, self._size)
            data = self._fetched(begin, end)
            for at in range(begin, end, _BLOCK):
                found[at // _BLOCK] = data[at - begin : at - begin + _BLOCK]
            self._store(found)
        joined = b"".join(found[number] for number in range(first, last))
        return joined[offset - first * _BLOCK : stop - first * _BLOCK]

    def _fetched(self, begin: int, end: int) -> bytes:
        data: bytes = _asked(self._text, lambda fs, at: fs.cat_file(at, start=begin, end=end))
        if len(data) != end - begin:
            got, fix = f"{len(data)} bytes where {end - begin} were asked for", "Open it again."
            must = "stay as it was when it was opened"
            raise invalid(FileError, named(shown_address(self._text)), must=must, got=got, fix=fix)
        return data

    def _store(self, blocks: dict[int, bytes]) -> None:
        with self._lock:
            self._blocks |= blocks
            while len(self._blocks) * _BLOCK > _CACHE:
                self._blocks.popitem(last=False)


def remote_store(text: str) -> Any:
    """Open the store of a remote zarr."""
    extra("fsspec", "remote")
    storage = extra("zarr.storage", "zarr")
    _asked(text, lambda *_: None)  # so that a missing file system is named
    return storage.FsspecStore.from_url(text, read_only=True)
