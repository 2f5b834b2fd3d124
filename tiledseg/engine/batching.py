"""Batcher: fills the batches of one network with tiles of several images."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tiledseg.errors import CancelledError
from tiledseg.tiling import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.predictor import Call, Predictor
    from tiledseg.tiling import ReceptiveField

    _Batch: TypeAlias = "list[tuple[_Request, int, int]]"  # parts of requests: first and last tile


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
    ) -> None:
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
