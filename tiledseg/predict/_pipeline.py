"""Reading, running and what the caller does with the outputs, all at the same time."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future

    from tiledseg._types import AnyArray, FloatArray

__all__ = ["pipelined"]

_Tag = TypeVar("_Tag")
_Fed: TypeAlias = "tuple[_Tag, AnyArray] | None"


def pipelined(
    batches: Iterator[tuple[_Tag, AnyArray]], networks: Sequence[Callable[[AnyArray], FloatArray]]
) -> Generator[tuple[_Tag, FloatArray], None, None]:
    """Run networks over batches while the next ones are read and the last one is used.

    One thread reads, one per network runs it; whoever takes the outputs is the third party. As
    many batches as there are networks are being run, one is being read and one is in the hands of
    the caller; no more are in memory. An error anywhere comes out of here, and ends everything.

    Close it (``contextlib.closing``) when it is not exhausted, so that the threads end before
    whatever follows: it waits for the calls under way and starts no others.
    """
    idle: SimpleQueue[Callable[[AnyArray], FloatArray]] = SimpleQueue()
    for one in networks:
        idle.put(one)
    ended = threading.Event()

    def run(reading: Future[_Fed[_Tag]]) -> tuple[_Tag, FloatArray] | None:
        fed = reading.result()
        if fed is None or ended.is_set():
            return None
        network = idle.get()
        try:
            return fed[0], network(fed[1])
        finally:
            idle.put(network)

    reader = ThreadPoolExecutor(1, "tiledseg-read")
    runners = ThreadPoolExecutor(len(networks), "tiledseg-run")
    coming: deque[Future[tuple[_Tag, FloatArray] | None]] = deque()
    try:
        for _ in range(len(networks) + 1):
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
