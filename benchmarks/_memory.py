"""What the kernel says about this process's memory; Linux only."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AnonymousPeak", "peak_of", "status_bytes"]

_STATUS = Path("/proc/self/status")


def status_bytes(field: str) -> int:
    """Give a field of /proc/self/status in bytes, ``VmHWM`` or ``RssAnon``, say."""
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)


def peak_of(run: Callable[[], object]) -> int:
    """Give the most bytes that are resident at any moment of a run; the kernel counts them itself."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
    run()
    return status_bytes("VmHWM")


class AnonymousPeak:
    """The most anonymous memory within a ``with`` block, looked at every millisecond.

    The kernel keeps no high-water mark of anonymous memory alone, and VmHWM counts the pages of
    mapped files, which it can drop at any time and which fill whatever memory is free.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            self.bytes = max(self.bytes, status_bytes("RssAnon"))
            self.looks += 1
            time.sleep(0.001)
