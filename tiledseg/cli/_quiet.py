"""Loading Keras without TensorFlow's greetings."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["load_keras"]


def load_keras() -> None:
    """Load Keras now; what its backend prints on the way is shown only where that fails."""
    with _unheard():
        importlib.import_module("tiledseg._backend")


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep standard error back, of compiled code too, which knows nothing of ``sys.stderr``."""
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception:
            kept.seek(0)
            os.write(own, kept.read())
            raise
        finally:
            os.dup2(own, 2)
            os.close(own)
