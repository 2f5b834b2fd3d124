"""Batches of tiles: their size, and how they are run.

`fitting_batch` chooses a batch size by memory, `Backoff` makes it smaller where memory runs out, `Batcher`
fills batches with tiles of several images, and `overlapped` runs a batch while the next one is read and the
last one is used.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import psutil

from tiledseg.errors import CancelledError, ModelError, SettingError
from tiledseg.tiling import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.callable import Predictor
    from tiledseg.tiling import ReceptiveField

    _Call: TypeAlias = Callable[[AnyArray], FloatArray]
    _Batch: TypeAlias = "list[tuple[_Request, int, int]]"  # parts of requests: first and last tile

_log = logging.getLogger("tiledseg")

_PIXELS_PER_CALL = 512 * 512  # on a CPU, more per call was slower: the processor's cache overflows
_SHARE = 0.5  # of the free memory that a network may use by default
_CGROUP = Path("/sys/fs/cgroup")  # version 2


def available_memory() -> int:
    """Return the bytes that this process can still allocate, within the limit of its container."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((_CGROUP / name).read_text("utf-8")) for name in ("memory.max", "memory.current"))
        lines = (_CGROUP / "memory.stat").read_text("utf-8").splitlines()
        reclaimable = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, IndexError):  # no container, or no limit ("max")
        return free
    return min(free, max(0, limit - used + reclaimable))


def allowed_memory(memory: int | None) -> int:
    """Return the bytes that a network may use for its activations."""
    return int(available_memory() * _SHARE) if memory is None else memory


def fitting_batch(
    predictor: Predictor, tile_size: tuple[int, int], n_tiles: int, memory: int | None = None
) -> int:
    """Choose a batch size: enough tiles to keep the processor busy, within the memory."""
    check_memory(predictor, tile_size, 1, memory)
    fitting = allowed_memory(memory) // max(1, predictor.bytes_per_tile(tile_size))
    return max(1, min(fitting, n_tiles, _PIXELS_PER_CALL // (tile_size[0] * tile_size[1])))


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
_WORDS = ("resource_exhausted", "out of memory", "bad_alloc", "bad allocation", "can not allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, means that memory ran out."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError) or type(found).__name__ in _NAMES:
            return True
        if isinstance(found, RuntimeError) and any(word in str(found).lower() for word in _WORDS):
            return True  # JAX and OpenVINO have no error type for it
        found = found.__cause__
    return False


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


class _Request:
    """The tiles of one caller, and their outputs."""

    def __init__(self, tiles: AnyArray) -> None:
        self.tiles = tiles
        self.taken = 0  # number of tiles that are in a batch
        self.parts: dict[int, FloatArray] = {}  # outputs by the position of their first tile
        self.done = 0  # number of tiles with outputs
        self.error: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether all outputs are there, or an error is."""
        return self.error is not None or self.done == len(self.tiles)


class Batcher:
    """A Predictor for several threads, each of which predicts its own image."""

    # While a batch is run, waiting tiles of any image are collected for the next one, up to the batch size.
    # Where a batch fails, its parts are run again one by one, so that the failure of one image does not
    # affect the others.

    def __init__(
        self,
        predictor: Predictor,
        prepare: Callable[[tuple[int, int]], tuple[int, list[_Call]]],
    ) -> None:
        self._predictor = predictor
        self._prepare = prepare  # returns the batch size and a callable per device for tiles of a size
        self._lock = threading.Condition()
        self._waiting: list[_Request] = []
        self._sizes: dict[tuple[int, int], int] = {}
        self._idle: dict[tuple[int, int], SimpleQueue[_Call]] = {}
        self._closed = False
        self.channels: int | None = predictor.channels
        self.tile_size: tuple[int | None, int | None] = predictor.tile_size
        self.stride: tuple[int, int] = predictor.stride
        self.receptive_field: ReceptiveField = getattr(predictor, "receptive_field", UNKNOWN)

    @property
    def classes(self) -> int | None:
        """Output channels K; None where not known before the first call."""
        return self._predictor.classes

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory that one tile needs."""
        return self._predictor.bytes_per_tile(tile_size)

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Check that the network maps tiles of a size to maps of that size."""
        self._predictor.check_tile(tile_size)

    def close(self) -> None:
        """Cancel the waiting calls and all later ones."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        request = _Request(tiles)
        with self._lock:
            self._waiting.append(request)
        while (turn := self._next_turn(request)) is not None:
            self._run(*turn)
        if request.error is not None:
            raise request.error
        return np.concatenate([request.parts[place] for place in sorted(request.parts)])

    def _next_turn(self, request: _Request) -> tuple[_Call, _Batch] | None:
        """Wait until the request has ended (None), or a network is idle for a batch."""
        with self._lock:
            while True:
                if self._closed and not request.ended:
                    raise CancelledError("The prediction was cancelled.")
                if request.ended:
                    return None
                idle = self._idle_for(request.tiles.shape[1:3])
                if request.taken < len(request.tiles) and not idle.empty():
                    return idle.get(), self._next_batch(request)
                self._lock.wait()

    def _next_batch(self, first: _Request) -> _Batch:
        """Collect waiting tiles of one shape and dtype, the oldest first."""
        like = (first.tiles.shape[1:], first.tiles.dtype)
        batch, space = [], self._sizes[first.tiles.shape[1:3]]
        for request in list(self._waiting):
            if (request.tiles.shape[1:], request.tiles.dtype) != like or not space:
                continue
            start, stop = request.taken, min(request.taken + space, len(request.tiles))
            batch.append((request, start, stop))
            request.taken, space = stop, space - (stop - start)
            if stop == len(request.tiles):
                self._waiting.remove(request)
        return batch

    def _run(self, call: _Call, batch: _Batch) -> None:
        try:
            self._answer(call, batch)
        finally:
            with self._lock:
                self._idle_for(batch[0][0].tiles.shape[1:3]).put(call)
                self._waiting = [one for one in self._waiting if one.error is None]
                self._lock.notify_all()

    def _answer(self, call: _Call, batch: _Batch) -> None:
        parts = [request.tiles[start:stop] for request, start, stop in batch]
        try:
            outputs = call(parts[0] if len(parts) == 1 else np.concatenate(parts))
        except Exception as error:  # noqa: BLE001  it is raised in the caller's thread
            if len(batch) > 1:
                for one in batch:
                    self._answer(call, [one])
                return
            batch[0][0].error = error
            return
        first = 0
        for request, start, stop in batch:
            request.parts[start] = outputs[first : first + stop - start]
            request.done += stop - start
            first += stop - start

    def _idle_for(self, size: tuple[int, int]) -> SimpleQueue[_Call]:
        """Return the idle networks for tiles of a size; they are prepared at the first call."""
        if size not in self._idle:
            idle: SimpleQueue[_Call] = SimpleQueue()
            self._sizes[size], calls = self._prepare(size)
            for call in calls:
                idle.put(call)
            self._idle[size] = idle
        return self._idle[size]


_Tag = TypeVar("_Tag")
_Tagged: TypeAlias = "tuple[_Tag, AnyArray] | None"


def overlapped(
    batches: Iterator[tuple[_Tag, AnyArray]], calls: Sequence[_Call]
) -> Generator[tuple[_Tag, FloatArray], None, None]:
    """Run networks on batches while the next one is read and the caller uses the last one."""
    # Each network runs one batch, one more batch is read, and the caller has one; no others are in memory. An
    # error in any thread is raised here and ends all of them. A generator that is not exhausted must be
    # closed: it then waits for the running calls, starts no others, and ends its threads.
    idle: SimpleQueue[_Call] = SimpleQueue()
    for one in calls:
        idle.put(one)
    ended = threading.Event()

    def run(reading: Future[_Tagged[_Tag]]) -> tuple[_Tag, FloatArray] | None:
        read = reading.result()
        if read is None or ended.is_set():
            return None
        call = idle.get()
        try:
            return read[0], call(read[1])
        finally:
            idle.put(call)

    reader = ThreadPoolExecutor(1, "tiledseg-read")
    runners = ThreadPoolExecutor(len(calls), "tiledseg-run")
    coming: deque[Future[tuple[_Tag, FloatArray] | None]] = deque()
    try:
        for _ in range(len(calls) + 1):
            coming.append(runners.submit(run, reader.submit(next, batches, None)))
        while (done := coming.popleft().result()) is not None:
            coming.append(runners.submit(run, reader.submit(next, batches, None)))
            yield done
            del done  # its memory is free while the next batch is awaited
    finally:
        ended.set()
        for pool in (reader, runners):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (reader, runners):
            pool.shutdown()
