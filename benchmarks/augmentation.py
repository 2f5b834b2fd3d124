"""Crops for training, augmented by the whole default set.

What: crops of 512 x 512 px of four generated smears of 2560 x 1920 px, in memory, through the whole
default set: geometry combined into one displacement field, colours, noise, JPEG, then the
preparation for the network. How: two threads request batches of four, as training does; five rounds
of 64 crops after one to warm up; for comparison one thread, only rotations by 90 degrees, and no
augmentation. On a busy machine read the processor time of a crop. Target: 60 crops per second on two
cores, so at most 2/60 s of processor time for one crop.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks._clock import take_turns
from benchmarks._rows import Row, of_samples
from tiledseg.config import PreprocessingConfig, augmenting
from tiledseg.data import CropSampler, Pair, prepare_pairs
from tiledseg.samples import smear

__all__ = ["run"]

_CROPS_PER_S = 60.0
_CORES = 2
_BATCH = 4


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    smears = [smear(1920, 2560, seed=seed) for seed in range(1 if quick else 4)]
    pairs = [Pair(str(seed), one.image, one.mask) for seed, one in enumerate(smears)]
    prepared = prepare_pairs(pairs, PreprocessingConfig(mean=(0.6,), std=(0.2,)))
    length = 16 if quick else 64
    samplers = {
        name: CropSampler(prepared, (512, 512), length=length, transforms=augmenting(name, 3))
        for name in ("default", "flips", "none")
    }
    rounds = 2 if quick else 5
    contenders = {
        f"{name}, {threads} thread{'s' * (threads > 1)}": lambda name=name, threads=threads: _epoch(
            samplers[name], threads
        )
        for name, threads in (("default", _CORES), ("default", 1), ("flips", _CORES), ("none", _CORES))
    }
    take_turns(contenders, 1)
    times = take_turns(contenders, rounds)
    rates = {name: [length / one for one in seconds] for name, seconds in times.items()}
    ours, *others = rates
    return [
        of_samples(ours, rates[ours], "crops/s", at_least=_CROPS_PER_S),
        of_samples(
            "default, processor time of a crop",
            [_processor(samplers["default"], length) for _ in range(rounds)],
            "ms",
            at_most=_CORES / _CROPS_PER_S * 1e3,
        ),
        *(of_samples(name, rates[name], "crops/s") for name in others),
    ]


def _epoch(sampler: CropSampler, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        firsts = range(0, len(sampler), _BATCH)
        for _ in pool.map(lambda first: sampler.batch(0, range(first, first + _BATCH))[0].shape, firsts):
            pass


def _processor(sampler: CropSampler, length: int) -> float:
    started = time.process_time()
    _epoch(sampler, _CORES)
    return (time.process_time() - started) / length * 1e3
