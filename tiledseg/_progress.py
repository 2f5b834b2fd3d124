"""Progress for people: a bar on a terminal or in a notebook, else one log line per 10 %."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from typing import TYPE_CHECKING

with warnings.catch_warnings():  # tqdm warns where the notebook widget is missing
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_log = logging.getLogger("tiledseg")


@contextlib.contextmanager
def progress_bar(total: int, what: str, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """Show the progress of some work; the caller passes the steps done since the last call."""
    if not shown:
        yield lambda _steps: None
    elif sys.stderr.isatty() or "ipykernel" in sys.modules:
        with tqdm(total=total, desc=what, leave=False) as bar:
            yield bar.update
    else:
        yield _Lines(total, what)


class _Lines:
    """Logs a line after each tenth of the work."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what, self._done, self._tenths = total, what, 0, 0

    def __call__(self, steps: int) -> None:
        self._done += steps
        tenths = 10 * self._done // max(self._total, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            _log.info("%s: %d %% (%d of %d)", self._what, 10 * tenths, self._done, self._total)
