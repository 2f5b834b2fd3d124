"""How tiles are run in batches: their size, memory that runs out, threads, copies, several images."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import numpy as np
import psutil

from tiledseg._memory import allowed_memory, is_out_of_memory
from tiledseg.errors import CancelledError, ModelError, SettingError
from tiledseg.tiling import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import TTA
    from tiledseg.engine.predictor import Call, Predictor
    from tiledseg.tiling import ReceptiveField

    _Batch: TypeAlias = "list[tuple[_Request, int, int]]"  # parts of requests: first and last tile

_log = logging.getLogger("tiledseg")
_PIXELS_PER_CALL = 512 * 512  # on a CPU, more per call was slower: the processor's cache overflows

COPIES: dict[TTA | None, int] = {None: 1, "flips": 4, "d4": 8}
"""Number of copies of each tile in test-time augmentation."""


def fitting_batch(predictor: Predictor, tile_size: tuple[int, int], n_tiles: int, memory: int | None) -> int:
    """Choose a batch size: enough tiles to keep the processor busy, within the memory."""
    check_memory(predictor, tile_size, 1, memory)
    at_once: int = getattr(predictor, "tiles_at_once", 1)  # each of them by some of the cores
    best = min(n_tiles, at_once * max(1, _PIXELS_PER_CALL // (tile_size[0] * tile_size[1])))
    if best == 1:
        return 1
    fitting = allowed_memory(memory) // max(1, predictor.bytes_per_tile(tile_size))
    return max(1, min(fitting, best))


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


def ready_shape(shapes: Iterable[tuple[int, ...]], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Choose the shape that a batch is padded to."""
    ready = [shape for shape in list(shapes) if shape[1:] == wanted[1:] and shape[0] >= wanted[0]]
    return min(ready, default=wanted)


def padded(tiles: AnyArray, size: int) -> FloatArray:
    """Pad a batch with zero tiles."""
    if len(tiles) == size:
        return np.ascontiguousarray(tiles, np.float32)
    batch = np.zeros((size, *tiles.shape[1:]), np.float32)
    batch[: len(tiles)] = tiles
    return batch


_Tag = TypeVar("_Tag")
_Done: TypeAlias = "Future[tuple[_Tag, FloatArray] | None]"
_Read: TypeAlias = "tuple[_Done[_Tag], tuple[_Tag, AnyArray] | None, float]"  # with the seconds it took
_LONG = 1e-3  # s of a call, during which another thread reads: to hand over a batch takes 0.2 ms
_SHORT = 0.01  # of a call: what is read in less time delays a network that uses all cores by more


class _Threads(Generic[_Tag]):
    """One for each network, which runs it on batches, and one that reads ahead what takes a while."""

    def __init__(self, batches: Iterator[tuple[_Tag, AnyArray]], calls: Sequence[Call]) -> None:
        self._batches, self._n_calls = batches, len(calls)
        self._wanted: SimpleQueue[_Done[_Tag]] = SimpleQueue()
        self._ahead: list[Future[_Read[_Tag]]] = []  # one at most
        self._turn, self._ended = threading.Lock(), threading.Event()
        self._pool = ThreadPoolExecutor(len(calls) + 1, "tiledseg-run")
        self._pool.map(self._run, calls)

    def ask(self) -> _Done[_Tag]:
        """Ask for the outputs of one more batch; None after the last one."""
        done: _Done[_Tag] = Future()
        self._wanted.put(done)
        return done

    def close(self) -> None:
        """Wait for the running calls, start no others, and end the threads."""
        self._ended.set()
        for _ in range(self._n_calls):
            self.ask()  # a thread may wait for it
        self._pool.shutdown()

    def _run(self, call: Call) -> None:
        took = 1.0  # s, until the first call is over
        while True:
            with self._turn:
                done, batch, read = self._ahead.pop().result() if self._ahead else self._read()
                if batch is None or self._ended.is_set():
                    return
                if took > _LONG and read > _SHORT * took:
                    self._ahead.append(self._pool.submit(self._read))
            started = time.perf_counter()
            try:
                done.set_result((batch[0], call(batch[1])))
            except BaseException as error:  # noqa: BLE001  it is raised in the caller's thread
                done.set_exception(error)
            took = time.perf_counter() - started
            del done, batch  # their memory is free while the next batch is awaited

    def _read(self) -> _Read[_Tag]:
        done, batch, started = self._wanted.get(), None, time.perf_counter()
        try:
            batch = None if self._ended.is_set() else next(self._batches, None)
            if batch is None:
                done.set_result(None)
        except BaseException as error:  # noqa: BLE001
            done.set_exception(error)
        return done, batch, time.perf_counter() - started


def overlapped(
    batches: Iterator[tuple[_Tag, AnyArray]], calls: Sequence[Call]
) -> Generator[tuple[_Tag, FloatArray], None, None]:
    """Run networks on batches while the next one is read and the caller uses the last one."""
    # Each network runs one batch, one more is read, and the caller has one; no others are in memory. An error
    # in any thread is raised here and ends all. Close it if it is not exhausted: it waits for running calls.
    threads = _Threads(batches, calls)
    coming = deque(threads.ask() for _ in range(len(calls) + 1))
    try:
        while (outputs := coming.popleft().result()) is not None:
            coming.append(threads.ask())
            yield outputs
            del outputs  # its memory is free while the next one is awaited
    finally:
        threads.close()


class Augmented:
    """Runs a network on all copies of each tile, in full batches, and averages the outputs."""

    def __init__(self, network: Callable[[AnyArray], FloatArray], tta: TTA, batch_size: int) -> None:
        self._network, self._number, self._batch_size = network, COPIES[tta], batch_size

    def __call__(self, tiles: AnyArray) -> FloatArray:
        """Map tiles (N, h, w, C) to the mean of the outputs (N, h, w, K) float32."""
        total: FloatArray | None = None
        wanted = [(copy, place) for copy in range(self._number) for place in range(len(tiles))]
        for first in range(0, len(wanted), self._batch_size):
            some = wanted[first : first + self._batch_size]
            outputs = self._network(np.stack([_transformed(tiles[place], copy) for copy, place in some]))
            if total is None:
                total = np.zeros((*tiles.shape[:3], outputs.shape[3]), np.float32)
            for (copy, place), output in zip(some, outputs, strict=True):
                total[place] += _restored(output, copy)
        if total is None:
            return np.zeros((*tiles.shape[:3], 0), np.float32)
        total /= self._number
        return total


def _transformed(tile: AnyArray, copy: int) -> AnyArray:
    """Return one of eight copies of a tile: bit 0 mirrors y, bit 1 mirrors x, bit 2 then transposes."""
    down, across = slice(None, None, -1 if copy & 1 else 1), slice(None, None, -1 if copy & 2 else 1)
    copied = tile[down, across]
    return copied.swapaxes(0, 1) if copy & 4 else copied


def _restored(output: FloatArray, copy: int) -> FloatArray:
    """Undo `_transformed`."""
    return _transformed(output.swapaxes(0, 1) if copy & 4 else output, copy & 3)


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
        prepare: Callable[[tuple[int, int]], tuple[int, list[Call]]],
        tta: TTA | None = None,
    ) -> None:
        self.tta = tta  # that the callables do
        self._predictor = predictor
        self._prepare = prepare  # returns the batch size and a callable per device for tiles of a size
        self._lock = threading.Condition()
        self._waiting: list[_Request] = []
        self._sizes: dict[tuple[int, int], int] = {}
        self._idle: dict[tuple[int, int], SimpleQueue[Call]] = {}
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

    def _next_turn(self, request: _Request) -> tuple[Call, _Batch] | None:
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

    def _run(self, call: Call, batch: _Batch) -> None:
        try:
            self._answer(call, batch)
        finally:
            with self._lock:
                self._idle_for(batch[0][0].tiles.shape[1:3]).put(call)
                self._waiting = [one for one in self._waiting if one.error is None]
                self._lock.notify_all()

    def _answer(self, call: Call, batch: _Batch) -> None:
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

    def _idle_for(self, size: tuple[int, int]) -> SimpleQueue[Call]:
        """Return the idle networks for tiles of a size; they are prepared at the first call."""
        if size not in self._idle:
            idle: SimpleQueue[Call] = SimpleQueue()
            self._sizes[size], calls = self._prepare(size)
            for call in calls:
                idle.put(call)
            self._idle[size] = idle
        return self._idle[size]
