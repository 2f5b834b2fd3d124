"""One network for several images at once: tiles of whichever image fill each other's batches up."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from tiledseg.engine._choose import Way, networks_for
from tiledseg.engine._memory import fitting_batch
from tiledseg.errors import CancelledError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.network import Predictor
    from tiledseg.tiling import ReceptiveField

    _Network: TypeAlias = Callable[[AnyArray], FloatArray]
    _Batch: TypeAlias = "list[tuple[_Request, int, int]]"

__all__ = ["Packing"]

_MANY = 1 << 30  # tiles: more than any image has


class _Request:
    """The tiles of one caller, and what has become of them."""

    def __init__(self, tiles: AnyArray) -> None:
        self.tiles = tiles
        self.taken = 0  # of the tiles, by some batch
        self.parts: dict[int, FloatArray] = {}  # outputs by the place of their first tile
        self.there = 0
        self.error: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether its caller can go on."""
        return self.error is not None or self.there == len(self.tiles)


class Packing:
    """A Predictor that several threads call, each with tiles of its own image.

    While a batch is being run, the tiles that wait are packed into the next one, up to the batch
    size, whichever image they are of. Where a batch fails, its parts are run again by themselves,
    so that one image's failure is not another's.
    """

    def __init__(
        self, predictor: Predictor, way: Way, n_px: int, batch_size: int | None, memory_budget: int | None
    ) -> None:
        self._predictor, self._way, self._n_px = predictor, way, n_px
        self._batch_size, self._memory_budget = batch_size, memory_budget
        self._lock = threading.Condition()
        self._waiting: list[_Request] = []
        self._sizes: dict[tuple[int, int], int] = {}
        self._networks: dict[tuple[int, int], SimpleQueue[_Network]] = {}
        self._closed = False
        self.channels: int | None = predictor.channels
        self.tile_size: tuple[int | None, int | None] = predictor.tile_size
        self.stride: tuple[int, int] = predictor.stride
        self.receptive_field: ReceptiveField = predictor.receptive_field

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
        """Let whoever waits or calls from now on fail: the work is given up."""
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

    def _next_turn(self, request: _Request) -> tuple[_Network, _Batch] | None:
        """Wait until the request is answered (None), or a network is free for what waits."""
        with self._lock:
            while True:
                if self._closed and not request.ended:
                    raise CancelledError("The prediction was given up.")
                if request.ended:
                    return None
                idle = self._ready(request.tiles.shape[1:3])
                if request.taken < len(request.tiles) and not idle.empty():
                    return idle.get(), self._packed(request)
                self._lock.wait()

    def _packed(self, first: _Request) -> _Batch:
        """Take tiles off what waits, the oldest first, all of one shape and dtype."""
        like = (first.tiles.shape[1:], first.tiles.dtype)
        batch, room = [], self._sizes[first.tiles.shape[1:3]]
        for request in list(self._waiting):
            if (request.tiles.shape[1:], request.tiles.dtype) != like or not room:
                continue
            start, stop = request.taken, min(request.taken + room, len(request.tiles))
            batch.append((request, start, stop))
            request.taken, room = stop, room - (stop - start)
            if stop == len(request.tiles):
                self._waiting.remove(request)
        return batch

    def _run(self, network: _Network, batch: _Batch) -> None:
        try:
            self._answer(network, batch)
        finally:
            with self._lock:
                self._ready(batch[0][0].tiles.shape[1:3]).put(network)
                self._waiting = [one for one in self._waiting if one.error is None]
                self._lock.notify_all()

    def _answer(self, network: _Network, batch: _Batch) -> None:
        parts = [request.tiles[start:stop] for request, start, stop in batch]
        try:
            outputs = network(parts[0] if len(parts) == 1 else np.concatenate(parts))
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits for it
            if len(batch) > 1:
                for one in batch:
                    self._answer(network, [one])
                return
            batch[0][0].error = error
            return
        first = 0
        for request, start, stop in batch:
            request.parts[start] = outputs[first : first + stop - start]
            request.there += stop - start
            first += stop - start

    def _ready(self, size: tuple[int, int]) -> SimpleQueue[_Network]:
        """Give the idle networks for tiles of a size, made when they are first asked for."""
        if size not in self._networks:
            if self._batch_size is None:
                self._sizes[size] = fitting_batch(self._predictor, size, _MANY, self._memory_budget)
            else:
                self._sizes[size] = self._batch_size
            idle: SimpleQueue[_Network] = SimpleQueue()
            n_tiles = self._n_px // (size[0] * size[1])
            for network in networks_for(self._predictor, self._way, size, n_tiles, self._sizes[size]):
                idle.put(network)
            self._networks[size] = idle
        return self._networks[size]
