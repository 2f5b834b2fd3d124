"""How many tiles a network is given at once, and what happens to them meanwhile.

A batch is chosen by memory (`fitting_batch`), halved where memory runs out (`Backoff`), filled up with tiles
of several images (`Batcher`), and run while the next one is read and the last one is used (`overlapped`).
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

__all__ = [
    "Backoff",
    "Batcher",
    "allowed_memory",
    "available_memory",
    "check_memory",
    "fitting_batch",
    "is_out_of_memory",
    "overlapped",
]

_log = logging.getLogger("tiledseg")

_PIXELS_PER_CALL = 512 * 512  # on a CPU more per call was slower: caches overflow, nothing is gained
_SHARE = 0.5  # of the free memory that a network may take when nothing else is said
_CGROUP = Path("/sys/fs/cgroup")  # version 2


def available_memory() -> int:
    """Say how much memory this process can still take: the machine's, within its container's limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((_CGROUP / name).read_text("utf-8")) for name in ("memory.max", "memory.current"))
        lines = (_CGROUP / "memory.stat").read_text("utf-8").splitlines()
        reclaimable = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, IndexError):  # no container, or no limit ("max")
        return free
    return min(free, max(0, limit - used + reclaimable))


def allowed_memory(memory: int | None) -> int:
    """Say how many bytes a network may take for its activations."""
    return int(available_memory() * _SHARE) if memory is None else memory


def fitting_batch(
    predictor: Predictor, tile_size: tuple[int, int], n_tiles: int, memory: int | None = None
) -> int:
    """Choose a batch size: as many tiles as keep a processor busy, and as memory allows."""
    check_memory(predictor, tile_size, 1, memory)
    fitting = allowed_memory(memory) // max(1, predictor.bytes_per_tile(tile_size))
    return max(1, min(fitting, n_tiles, _PIXELS_PER_CALL // (tile_size[0] * tile_size[1])))


def check_memory(
    predictor: Predictor, tile_size: tuple[int, int], batch_size: int, memory: int | None
) -> None:
    """Check that a batch can fit into memory: the system may kill a process that runs out of it."""
    need = batch_size * predictor.bytes_per_tile(tile_size)
    limit = int(psutil.virtual_memory().total) if memory is None else memory
    if need > limit:
        there = "the machine has" if memory is None else "`memory` is"
        raise SettingError(
            f"{batch_size} tiles of {tile_size[0]}x{tile_size[1]} px need about {need} bytes; {there} "
            f"{limit}. Use smaller tiles or a smaller batch, or allow more."
        )


_NAMES = frozenset({"ResourceExhaustedError", "OutOfMemoryError"})  # TensorFlow's and PyTorch's
_WORDS = ("resource_exhausted", "out of memory", "bad_alloc", "bad allocation", "can not allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error, or one that it was raised from, means that memory ran out."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError) or type(found).__name__ in _NAMES:
            return True
        if isinstance(found, RuntimeError) and any(word in str(found).lower() for word in _WORDS):
            return True  # JAX and OpenVINO say it in the message alone
        found = found.__cause__
    return False


class Backoff:
    """Calls a network on batches, and on halves of a batch for which memory runs out; one at a time."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._most: int | None = None  # tiles that fitted: later batches need not fail first

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
                self._halve(part.shape, error)
            else:
                first += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _halve(self, shape: tuple[int, ...], error: Exception) -> None:
        if shape[0] == 1:
            text = f"Memory ran out on a single tile of {shape[1]}x{shape[2]} px. Use smaller tiles."
            raise ModelError(text) from error
        self._most = shape[0] // 2
        _log.warning("Memory ran out on %d tiles at once; continuing with %d.", shape[0], self._most)


class _Request:
    """The tiles of one caller, and what has become of them."""

    def __init__(self, tiles: AnyArray) -> None:
        self.tiles = tiles
        self.taken = 0  # of the tiles, by some batch
        self.parts: dict[int, FloatArray] = {}  # outputs by the place of their first tile
        self.done = 0  # of the tiles
        self.error: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether its caller can continue."""
        return self.error is not None or self.done == len(self.tiles)


class Batcher:
    """A Predictor that several threads call, each with tiles of its own image."""

    # While a batch is being run, the tiles that wait are put into the next one, up to the batch size,
    # whichever image they are of. Where a batch fails, its parts are run again by themselves: one image's
    # failure is not another's.

    def __init__(
        self,
        predictor: Predictor,
        prepare: Callable[[tuple[int, int]], tuple[int, list[_Call]]],
    ) -> None:
        self._predictor = predictor
        self._prepare = prepare  # gives, for tiles of a size, the batch size and a callable for each device
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
        """Cancel whatever waits or is called from now on."""
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
        """Wait until the request is answered (None), or a network is free for what waits."""
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
        """Take tiles of what waits, the oldest first, all of one shape and dtype."""
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
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits for it
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
        """Give the idle networks for tiles of a size, made when they are first asked for."""
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
    """Run networks over batches while the next ones are read and the last one is used."""
    # As many batches as there are networks are being run, one is being read and one is in the hands of the
    # caller; no more are in memory. An error anywhere comes out of here, and ends everything. Close it
    # where it is not exhausted: it then waits for the calls under way, starts no others, and ends its
    # threads.
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
            del done  # or it would stay until the next one is there
    finally:
        ended.set()
        for pool in (reader, runners):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (reader, runners):
            pool.shutdown()
