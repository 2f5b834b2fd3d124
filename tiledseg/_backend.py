"""The one place that loads Keras and TensorFlow: importing this module loads Keras.

TensorFlow itself loads only where something of its own is touched, so that the JAX and PyTorch
backends of Keras work without it.
"""

from __future__ import annotations

import os
import sys

import lazy_loader

from tiledseg.errors import ModelError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import, or its banner is printed

import keras

tf = lazy_loader.load("tensorflow")

__all__ = ["check_process", "keras", "tf"]


class _Process:
    """What this process may do with the backend."""

    used = False  # a network was run here by this library
    orphaned = False  # it was forked from a process whose backend had threads, which it does not have


def check_process() -> None:
    """Refuse to use the backend in a forked child of a process that has used it: it would wait for ever."""
    if _Process.orphaned:
        raise ModelError(
            "This process was forked from one that had used a network, whose threads it does not have. "
            'Start processes with multiprocessing.get_context("spawn").'
        )
    _Process.used = True


def _after_fork() -> None:
    _Process.orphaned = _Process.orphaned or _Process.used or _tensorflow_started()


def _tensorflow_started() -> bool:
    """Say whether TensorFlow has begun to compute; importing it does not start its threads."""
    eager = sys.modules.get("tensorflow.python.eager.context")
    context = eager.context_safe() if eager and hasattr(eager, "context_safe") else None
    return getattr(context, "_context_handle", None) is not None


if hasattr(os, "register_at_fork"):  # nothing forks on Windows
    os.register_at_fork(after_in_child=_after_fork)
