"""Calls that write: counted, and one of them lets fail or die; a disk that is small, in a namespace."""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["WRITING", "Calls", "Disk", "fail", "kill"]

WRITING = ("write", "pwrite", "sendfile", "fsync", "replace", "rename", "close", "ftruncate", "mkdir", "open")
_NEW_NAMESPACE, _PRIVATE, _REMOUNT, _DETACH = 0x20000, 0x44000, 32, 2


def fail(kind: str) -> None:
    """Fail as a disk does."""
    number = errno.ENOSPC if "write" in kind else errno.EIO
    raise OSError(number, f"{os.strerror(number)} ({kind} is made to fail)")


def kill(_kind: str) -> None:
    """Die at once."""
    os.kill(os.getpid(), signal.SIGKILL)


class Calls:
    """Counts the calls that write, of Python's files and of `os`; the nth does something else."""

    def __init__(self, nth: int, instead: Callable[[str], None], names: tuple[str, ...] = WRITING) -> None:
        self.count, self.kind, self._names = 0, "", names
        self._nth, self._instead = nth, instead

    def __call__(self, kind: str) -> None:
        self.count += 1
        if self.count == self._nth:
            self.kind = kind
            self._instead(kind)

    @contextmanager
    def watched(self) -> Iterator[Calls]:
        """Count from here on."""
        known = {name: getattr(os, name) for name in self._names}
        opened = builtins.open
        for name, call in known.items():
            setattr(os, name, self._around(name, call))
        builtins.open = io.open = self._opener(opened)
        try:
            yield self
        finally:
            for name, call in known.items():
                setattr(os, name, call)
            builtins.open = io.open = opened

    def _around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
                return call(*arguments, **options)
            if name == "close":  # it fails, but the descriptor is closed
                call(*arguments)
                self(name)
                return None
            if name == "write" and arguments[0] <= 2:
                return call(*arguments)
            self(name)
            return call(*arguments, **options)

        return counted

    def _opener(self, opened: Callable[..., Any]) -> Any:
        calls = self

        class File(io.FileIO):
            """A file whose writes arrive in halves, the second of which may fail."""

            def write(self, data: Any, /) -> int:
                view = memoryview(data).cast("B")
                half = len(view) // 2
                done = super().write(view[:half]) if half else 0
                calls("write")
                return done + super().write(view[half:])

            def close(self) -> None:
                known = self.closed
                super().close()
                if not known and not sys.is_finalizing():
                    calls("close of a file")

        def counted(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
            if not set(mode) & set("wxa+"):
                return opened(file, mode, buffering, *more, **options)
            own = {name: options.pop(name) for name in ("closefd", "opener") if name in options}
            calls("open for writing")
            raw = File(file, mode.replace("b", "").replace("t", ""), **own)
            if buffering == 0:
                return raw
            kind = io.BufferedRandom if "+" in mode else io.BufferedWriter
            binary = kind(raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
            return binary if "b" in mode else io.TextIOWrapper(binary, *more, **options)

        return counted


class Disk:
    """A small file system in memory, seen by this process alone; its size changes at will."""

    _apart = False

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder).encode()
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not Disk._apart:  # once: threads that run already would stay in the namespace before
            self._check(self._libc.unshare(_NEW_NAMESPACE))
            self._check(self._libc.mount(b"none", b"/", None, _PRIVATE, None))
            Disk._apart = True
        self._check(self._libc.mount(b"tmpfs", self._folder, b"tmpfs", 0, b"size=1g"))

    def leave(self, pages: int | None) -> None:
        """Leave so many free pages of 4 KiB; with None as many as anybody wants."""
        use = os.statvfs(self._folder)
        size = 1 << 30 if pages is None else ((use.f_blocks - use.f_bfree) + pages) * use.f_frsize
        options = f"size={max(size, use.f_frsize)}".encode()  # 0 is no limit
        self._check(self._libc.mount(b"tmpfs", self._folder, b"tmpfs", _REMOUNT, options))

    def remove(self) -> None:
        """Take it off the folder."""
        self._check(self._libc.umount2(self._folder, _DETACH))

    @staticmethod
    def _check(code: int) -> None:
        if code:
            number = ctypes.get_errno()
            raise OSError(number, f"{os.strerror(number)}: a mount needs the rights of root")
