"""A batch that is too large for the memory at hand is halved; nothing else is computed again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from tiledseg.errors import ModelError

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.network import Predictor

__all__ = ["Halving", "out_of_memory"]

_log = logging.getLogger("tiledseg")
_NAMES = frozenset({"ResourceExhaustedError", "OutOfMemoryError"})  # TensorFlow's and PyTorch's
_WORDS = ("resource_exhausted", "out of memory", "bad_alloc", "bad allocation", "can not allocate")


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error, or one that it was raised from, means that memory ran out."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError) or type(found).__name__ in _NAMES:
            return True
        if isinstance(found, RuntimeError) and any(word in str(found).lower() for word in _WORDS):
            return True  # JAX and OpenVINO tell it by the message alone
        found = found.__cause__
    return False


class Halving:
    """Calls a network on batches, and on halves of a batch for which memory runs out.

    Later batches are cut to the size that fitted, so that each does not have to fail first. One
    at a time may be called.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._most: int | None = None

    def __call__(self, tiles: AnyArray) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        parts: list[FloatArray] = []
        first = 0
        while first < len(tiles):
            part = tiles[first : first + (self._most or len(tiles))]
            try:
                parts.append(self._predictor(part))
            except (MemoryError, ModelError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(part.shape, error)
            else:
                first += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _halve(self, shape: tuple[int, ...], error: Exception) -> None:
        if shape[0] == 1:
            text = f"Memory ran out on a single tile of {shape[1]}x{shape[2]} px. Use smaller tiles."
            raise ModelError(text) from error
        self._most = shape[0] // 2
        _log.warning("Memory ran out on %d tiles at once; going on with %d.", shape[0], self._most)
