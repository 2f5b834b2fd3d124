"""Cutting and blending alone, without the time of a network.

What: a 4096 x 4096 RGB uint8 image through 512 px tiles with 128 px of overlap, 121 of them,
gaussian, with a predictor that returns the first channel. How: each contender in a process of its own,
because the threads of one library that wait for work slow the others down; all contenders in turn, three
rounds. A process warms up once and runs three times; its fastest run counts. Medians over the rounds; a
ratio is the median of the rounds' ratios. Rates are per second of the clock and, in rows that say so, per
second of processor time, which other programs on the machine change less. Ours is timed from the uint8
array to the float32 map. MONAI is timed from the same array, which it needs as a float32 tensor with
channels first, and, in another row, from a tensor made beforehand; with one window per call, where it was
fastest; on all cores, except in rows with "1 thread". tiler is timed from the uint8
array, which it need not convert for this predictor, with its fastest and with its default settings. Each
map is checked against the image. Ours is timed with its default, one tile per call, and with 8. Target:
50 Mpx/s, and twice as fast as MONAI from the same array.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks._clock import ratios
from benchmarks._contenders import CONTENDERS, wrong_by
from benchmarks._fresh import call_fresh
from benchmarks._rows import Row, of_samples

__all__ = ["run"]

_SAME = "MONAI gaussian, from the array"
_FASTER = 2.0
_MPX_PER_S = 50.0
_LARGEST_ERROR = 1e-3  # of 255


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    size = 2048 if quick else 4096
    found: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    for _ in range(1 if quick else 3):
        for name, samples in found.items():
            samples.append(call_fresh("benchmarks.stitching:rates", name=name, size=size))
    clock = {name: [wall for wall, _ in samples] for name, samples in found.items()}
    processor = {name: [cpu for _, cpu in samples] for name, samples in found.items()}
    ours, *others = found
    rows = [of_samples(ours, clock[ours], "Mpx/s", at_least=_MPX_PER_S)]
    rows += [of_samples(name, clock[name], "Mpx/s") for name in others]
    rows += [of_samples(f"{name}, processor time", rates, "Mpx/s") for name, rates in processor.items()]
    for what, rates in (("", clock), (", processor time", processor)):
        rows += [
            of_samples(
                f"faster than {name}{what}",
                ratios(rates[ours], rates[name]),
                "times",
                at_least=_FASTER if name == _SAME else None,
            )
            for name in others
        ]
    return rows


def rates(name: str, size: int) -> tuple[float, float]:
    """Run one contender, and return its best Mpx per second of the clock and of processor time."""
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    contender = CONTENDERS[name](image)
    error = wrong_by(contender(), image)
    if error > _LARGEST_ERROR:
        raise ArithmeticError(f"{name} is wrong by {error}")
    seconds = []
    for _ in range(3):
        started = time.perf_counter(), time.process_time()
        contender()
        seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall, cpu = (min(column) for column in zip(*seconds, strict=True))
    return size * size / 1e6 / wall, size * size / 1e6 / cpu
