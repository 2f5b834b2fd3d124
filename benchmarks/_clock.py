"""Timing of several contenders in turn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["ratios", "take_turns", "timed"]


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return the seconds of a call by the clock, those of the processor, and what it returns."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run each contender once per round, in the same order, and return its wall times in seconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            result = run()
            times[name].append(time.perf_counter() - started)
            del result  # given back outside the time, before the next one allocates
    return times


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Divide round by round: a slowdown of a whole round does not change the ratio."""
    return [above / below for above, below in zip(numerator, denominator, strict=True)]
