"""Ending a run in order: Ctrl-C, SIGTERM, or a file."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

from tiledseg._backend import keras

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType, TracebackType

__all__ = ["STOP_FILE", "Stopper"]

_log = logging.getLogger("tiledseg")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOP_FILE = "stop"
"""A file of this name in a run's folder ends the run after the epoch."""


class Stopper(keras.callbacks.Callback):
    """Ends training after an epoch when it was asked for; as a context it listens to signals.

    The first signal lets the epoch end, so that it is in the checkpoint; at the end of the context
    the signal is raised again for whoever handled it before. The second one is passed on at once.
    Outside the main thread, where Python hands out no signals, the stop file alone counts.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self._file, self._asked, self._before = run_dir / STOP_FILE, 0, {}  # type: ignore[var-annotated]

    def __enter__(self) -> Self:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening, and pass on what was heard."""
        self._let_go()
        if self._asked and kind is None:
            signal.raise_signal(self._asked)

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """End training where it was asked for."""
        if self._file.exists():
            _log.info("%s was found: the run ends here, and can be resumed", self._file)
            self._file.unlink()
            self.model.stop_training = True
        if self._asked:
            self.model.stop_training = True

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._asked:
            self._let_go()
            signal.raise_signal(number)
            return
        self._asked = number
        _log.warning("%s: stopping after this epoch; once more stops at once", signal.Signals(number).name)

    def _let_go(self) -> None:
        before: dict[int, Any] = self._before
        self._before = {}
        for number, handler in before.items():
            signal.signal(number, handler)
