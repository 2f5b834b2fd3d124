"""The one place that loads Keras and TensorFlow: importing this module loads Keras.

TensorFlow itself loads only when one of its names is first used, so that the JAX and PyTorch
backends of Keras work without it.
"""

from __future__ import annotations

import os
import sys

import lazy_loader

from tiledseg.errors import ModelError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import, or TensorFlow prints its banner

import keras

tf = lazy_loader.load("tensorflow")

__all__ = ["check_process", "keras", "tf"]


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
