"""The one place that loads Keras and TensorFlow: ``from tiledseg._backend import keras`` loads Keras.

TensorFlow itself loads only when one of its names is first used, so that the JAX and PyTorch
backends of Keras work without it.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tiledseg._lazy import lazy
from tiledseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras
    import tensorflow as tf

__all__ = ["check_process", "keras", "tf"]


def __getattr__(name: str) -> Any:  # a module
    """Load Keras when it is first imported from here; TensorFlow when it is first used."""
    if name == "tf":
        return lazy("tensorflow")
    if name != "keras":
        raise AttributeError(name)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the import; 2 shows that it found no GPU
    try:
        with _without_notices():
            globals()[name] = module = importlib.import_module(name)
    except ImportError as error:
        if not any(word in str(error).lower() for word in _NO_MEMORY):
            raise
        fix = "Free memory, or raise the limit of this process."
        raise ModelError(f"Memory ran out when Keras was loaded: {error}. {fix}") from error
    return module


_NO_MEMORY = ("failed to map segment", "cannot allocate memory")  # in errors of the system's loader


# Lines of TensorFlow, absl and XLA: "2026-01-31 12:00:00.123456: I file.cc:1] ...", "I0131 12:00:00 ...",
# "I0000 00:00:1795889234.926951 4013 file.cc:1] ...", and the one that announces these.
_NOTICE = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWEF] |[IWEF]\d{4} \d\d:\d\d:[\d.]+ "
    rb"|WARNING: All log messages before absl|To enable the following instructions: "
)


@contextmanager
def _without_notices() -> Iterator[None]:
    """Leave out the notices that TensorFlow prints when it is imported, whatever its settings are."""
    # It writes them to the file of standard error, not to `sys.stderr`. After an error all of it is shown.
    try:
        own, buffer = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115  closed below
    except OSError:  # no standard error, or no place for a temporary file
        yield
        return
    everything = True
    try:
        _flush_stderr()
        os.dup2(buffer.fileno(), 2)
        yield
        everything = False
    finally:
        _flush_stderr()
        os.dup2(own, 2)
        with buffer:
            buffer.seek(0)
            lines = buffer.read().splitlines(keepends=True)
        os.write(own, b"".join(line for line in lines if everything or not _NOTICE.match(line)))
        os.close(own)


def _flush_stderr() -> None:
    if sys.stderr is not None:  # there is none without a console on Windows
        sys.stderr.flush()


class _Process:
    """The state of the backend in this process."""

    used = False  # whether this library ran a network here
    orphaned = False  # whether the parent's backend had started threads, which a fork does not copy


def check_process() -> None:
    """Refuse to use the backend in a fork of a process that has used it: the child would wait forever."""
    if _Process.orphaned:
        raise ModelError(
            "This process was forked from one that has used a network, and threads are not copied by a fork. "
            'Start processes with multiprocessing.get_context("spawn").'
        )
    _Process.used = True


def _after_fork() -> None:
    _Process.orphaned = _Process.orphaned or _Process.used or _tensorflow_started()


def _tensorflow_started() -> bool:
    """Return whether TensorFlow has started its threads; importing it does not."""
    eager = sys.modules.get("tensorflow.python.eager.context")
    context = eager.context_safe() if eager and hasattr(eager, "context_safe") else None
    return getattr(context, "_context_handle", None) is not None


if hasattr(os, "register_at_fork"):  # nothing forks on Windows
    os.register_at_fork(after_in_child=_after_fork)
