"""What each backend of Keras does in its own way: exact repetition, and several devices."""

from __future__ import annotations

import importlib
from typing import Any

from tiledseg._backend import keras, tf

__all__ = ["repeat_exactly"]


def repeat_exactly() -> None:
    """Let the backend compute the same bits from the same numbers, from now on in this process."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    elif backend == "torch":
        torch: Any = importlib.import_module("torch")
        torch.use_deterministic_algorithms(True, warn_only=True)  # noqa: FBT003
