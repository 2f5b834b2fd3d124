"""The kernel's figures about this process's memory; Linux only."""

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
    """Return a field of /proc/self/status in bytes, for example ``VmHWM`` or ``RssAnon``."""
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)


def peak_of(run: Callable[[], object]) -> int:
    """Return the peak of resident bytes during a run, as the kernel counts it."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
    run()
    return status_bytes("VmHWM")


class AnonymousPeak:
    """The peak of anonymous memory within a ``with`` block, measured every millisecond.

    The kernel records no peak of anonymous memory alone. VmHWM also counts the pages of mapped files,
    which the kernel can drop at any time and which fill all free memory.
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
