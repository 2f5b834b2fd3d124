"""Memory of a network: how much is free, how many tiles fit, and fewer of them where it runs out."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import psutil

from tiledseg._validate import shown
from tiledseg.errors import ModelError, SettingError, TiledSegError, reason_of
from tiledseg.io import available_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.predictor import Predictor

_log = logging.getLogger("tiledseg")

_PIXELS_PER_CALL = 512 * 512  # on a CPU, more per call was slower: the processor's cache overflows
_SHARE = 0.5  # of the free memory that a network may use by default


def allowed_memory(memory: int | None) -> int:
    """Return the bytes that a network may use for its activations."""
    return int(available_memory() * _SHARE) if memory is None else memory


def fitting_batch(
    predictor: Predictor, tile_size: tuple[int, int], n_tiles: int, memory: int | None = None
) -> int:
    """Choose a batch size: enough tiles to keep the processor busy, within the memory."""
    check_memory(predictor, tile_size, 1, memory)
    fitting = allowed_memory(memory) // max(1, predictor.bytes_per_tile(tile_size))
    at_once: int = getattr(predictor, "tiles_at_once", 1)  # each of them by some of the cores
    best = at_once * max(1, _PIXELS_PER_CALL // (tile_size[0] * tile_size[1]))
    return max(1, min(fitting, n_tiles, best))


def check_memory(
    predictor: Predictor, tile_size: tuple[int, int], batch_size: int, memory: int | None
) -> None:
    """Check that a batch fits into memory: the system may kill a process that runs out of it."""
    need = batch_size * predictor.bytes_per_tile(tile_size)
    limit = int(psutil.virtual_memory().total) if memory is None else memory
    if need > limit:
        available = "the machine has" if memory is None else "`memory` is"
        raise SettingError(
            f"{batch_size} tiles of {tile_size[0]}x{tile_size[1]} px need about {need} bytes; {available} "
            f"{limit}. Use smaller tiles or a smaller batch, or allow more."
        )


_NAMES = frozenset({"ResourceExhaustedError", "OutOfMemoryError"})  # TensorFlow's and PyTorch's
_WORDS = (
    *("resource_exhausted", "out of memory", "bad_alloc", "bad allocation", "can not allocate"),
    *("cannot allocate memory", "failed to map segment", "resource temporarily unavailable"),  # the system's
    *("can't alloc", "check 'ptr' failed"),  # of OpenVINO's plugin
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, means that memory ran out."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError) or type(found).__name__ in _NAMES:
            return True
        kinds = RuntimeError | ImportError | OSError  # JAX, OpenVINO and libraries that load have none for it
        if isinstance(found, kinds) and any(word in reason_of(found).lower() for word in _WORDS):
            return True
        found = found.__cause__
    return False


@contextmanager
def memory_named() -> Iterator[None]:
    """Turn memory that runs out beside the network into a typed error that says what takes less."""
    try:
        yield
    except TiledSegError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fix = "Let `out` be on disk, use smaller tiles or batch_size=1, or free memory."
        text = f"Memory ran out in a prediction: {shown(reason_of(error))}. {fix}"
        raise ModelError(text) from error


class Backoff:
    """Out-of-memory backoff: halves the batch size of a network until a batch fits into memory."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._most: int | None = None  # tiles that fit, so that later batches do not fail first

    def __call__(self, tiles: AnyArray) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        parts: list[FloatArray] = []
        first = 0
        while first < len(tiles):
            part = tiles[first : first + (self._most or len(tiles))]
            try:
                parts.append(self._predictor(part))
            except (MemoryError, ModelError) as error:
                if not is_out_of_memory(error):
                    raise
                self._reduce(part.shape, error)
            else:
                first += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _reduce(self, shape: tuple[int, ...], error: Exception) -> None:
        if shape[0] == 1:
            text = f"Memory ran out on a single tile of {shape[1]}x{shape[2]} px. Use smaller tiles."
            raise ModelError(text) from error
        self._most = shape[0] // 2
        _log.warning("Memory ran out on %d tiles at once; continuing with %d.", shape[0], self._most)
