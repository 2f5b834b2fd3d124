"""Cutting and blending alone, without the time of a network.

What: a 4096 x 4096 RGB uint8 image through 512 px tiles with 128 px of overlap, 121 of them,
gaussian, with a predictor that returns the first channel. How: all contenders in turn, five rounds
after one to warm up, medians; a ratio is the median of the rounds' ratios. Ours is timed from the
uint8 array to the float32 map, on one thread. MONAI is timed from a float32 tensor made beforehand
(channels first, as it needs it) and, in other rows, including the time to make it; with one window
per call, where it was fastest, except in one row; on all cores, except in rows with "1 thread": on a
busy machine its threads wait for one another, so the rows with one thread vary less. tiler is timed
from the uint8 array, which it need not convert for this predictor, with its fastest and with its
default settings. Each map is checked against the image. Target: 50 Mpx/s, and five times as fast as
the others.
"""

from __future__ import annotations

import gc

import numpy as np

from benchmarks._clock import ratios, take_turns
from benchmarks._contenders import CONTENDERS, wrong_by
from benchmarks._rows import Row, of_samples

__all__ = ["run"]

_FASTER = 5.0
_MPX_PER_S = 50.0
_LARGEST_ERROR = 1e-3  # of 255


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    size = 2048 if quick else 4096
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    contenders = {name: prepare(image) for name, prepare in CONTENDERS.items()}
    for name, contender in contenders.items():
        error = wrong_by(contender(), image)
        if error > _LARGEST_ERROR:
            raise ArithmeticError(f"{name} is wrong by {error}")
    gc.collect()
    times = take_turns(contenders, 2 if quick else 5)
    ours, *others = times
    mpx = size * size / 1e6
    rates = {name: [mpx / one for one in seconds] for name, seconds in times.items()}
    rows = [of_samples(ours, rates[ours], "Mpx/s", at_least=_MPX_PER_S)]
    rows += [of_samples(name, rates[name], "Mpx/s") for name in others]
    rows += [
        of_samples(f"faster than {name}", ratios(times[name], times[ours]), "times", at_least=_FASTER)
        for name in others
    ]
    return rows
