"""What the library logs, on standard error, beside a progress bar rather than through it."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["logging_shown"]


@contextmanager
def logging_shown(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Show the log of the package on standard error, for as long as the context lasts."""
    logger, handler = logging.getLogger("tiledseg"), _Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Lines(logging.Handler):
    """Writes each record on a line of its own, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        tqdm.write(f"{level}{record.getMessage()}", file=sys.stderr)
