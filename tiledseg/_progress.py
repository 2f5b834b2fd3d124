"""Progress for people: a bar on a terminal or in a notebook, else log lines; with the time that is left."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tqdm import tqdm

_log = logging.getLogger("tiledseg")
_FIRST, _SECONDS = 10.0, 30.0  # until the first line, and between two: a short job has only its last line
_SHARE = 0.05  # of the time so far, between two lines of a job of hours
_NEARLY = 1e-6  # of a step: parts of a step add up to a whole one
_FORMAT = "{{desc}}: {{percentage:3.0f}}%|{bar}| [{{elapsed}}<{{remaining}}{{postfix}}]"
_LONGEST_NAME = 16  # of a file, in a bar: the line has to fit into a terminal


class Advance(Protocol):
    """Tells of the steps done since the last call, and of what is under way; from any thread."""

    def __call__(self, steps: float, note: str = "") -> object:
        """Count steps, or parts of one."""
        ...


def no_progress(steps: float, note: str = "") -> None:
    """Show nothing."""


@contextlib.contextmanager
def whole_step(advance: Advance) -> Iterator[Advance]:
    """Count one step by parts; what is missing at the end is counted then."""
    done = 0.0

    def part(steps: float, note: str = "") -> None:
        nonlocal done
        done += steps
        advance(steps, note)

    try:
        yield part
    finally:
        advance(max(0.0, 1 - done))


@contextlib.contextmanager
def progress_bar(total: int, what: str, *, shown: bool) -> Iterator[Advance]:
    """Show the progress of some work."""
    if not shown:
        yield no_progress
    elif sys.stderr.isatty() or "ipykernel" in sys.modules:
        form = _FORMAT.format(bar="{bar:10}" if sys.stderr.isatty() else "{bar}")  # notebooks draw their own
        with _tqdm()(total=total, desc=f"{what} 0/{total}", leave=False, bar_format=form) as bar:
            yield _Bar(bar, what)
    else:
        yield _Lines(total, what)


def say(text: str, *, shown: bool) -> None:
    """Log a line; where progress is shown and nothing shows the log, write it beside the bar."""
    _log.info(text)
    if shown and not (_log.isEnabledFor(logging.INFO) and _log.hasHandlers()):
        _tqdm().write(text, file=sys.stdout if "ipykernel" in sys.modules else sys.stderr)


def _tqdm() -> type[tqdm[None]]:
    """Load the bar of a terminal, or that of a notebook, which takes longer."""
    with warnings.catch_warnings():  # tqdm warns where the notebook's widget is missing
        warnings.simplefilter("ignore")
        module = importlib.import_module("tqdm.auto" if "ipykernel" in sys.modules else "tqdm")
    bar: type[tqdm[None]] = module.tqdm
    return bar


class _Bar:
    """Moves a bar of tqdm."""

    def __init__(self, bar: tqdm[None], what: str) -> None:
        self._bar, self._what, self._lock = bar, what, threading.Lock()

    def __call__(self, steps: float, note: str = "") -> None:
        with self._lock:
            done = int(self._bar.n + steps + _NEARLY)
            self._bar.set_description_str(f"{self._what} {done}/{self._bar.total}", refresh=False)
            if note:
                self._bar.set_postfix_str(_shortened(note), refresh=False)
            self._bar.update(steps)


def _shortened(note: str) -> str:
    """Cut a long file name at its beginning."""
    name, colon, rest = note.rpartition(": ")
    return f"…{name[1 - _LONGEST_NAME :]}{colon}{rest}" if len(name) > _LONGEST_NAME else note


class _Lines:
    """Logs a line from time to time, and one at the end."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what, self._done = max(total, 1), what, 0.0
        self._started = time.monotonic()
        self._next, self._ended = self._started + _FIRST, False
        self._lock = threading.Lock()

    def __call__(self, steps: float, note: str = "") -> None:
        with self._lock:
            self._done += steps
            share, now = min((self._done + _NEARLY) / self._total, 1), time.monotonic()
            ends = share == 1 and not self._ended
            if ends or (share < 1 and now >= self._next):
                elapsed = now - self._started
                self._next, self._ended = now + max(_SECONDS, elapsed * _SHARE), ends
                self._log(share, elapsed, note)

    def _log(self, share: float, seconds: float, note: str) -> None:
        percent = int(100 * share)
        where = note if note and percent < 100 else f"{int(self._done + _NEARLY)} of {self._total}"
        left = f", {_time(seconds / share - seconds)} left" if 0 < percent < 100 else ""
        _log.info("%s: %d %% (%s)%s", self._what, percent, where, left)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
