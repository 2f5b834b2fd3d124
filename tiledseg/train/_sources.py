"""From pairs to the crops that a run takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from tiledseg._validate import invalid
from tiledseg.data import CropSampler, GridCrops, as_pairs, check_apart, crops_to_cover, prepare_pairs
from tiledseg.errors import ArrayError
from tiledseg.train._record import RunRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg.config import TrainConfig
    from tiledseg.data import Pair, PairLike, PreparedPair

__all__ = ["Sources", "sampler_of", "sources_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """What a run learns from and is judged by."""

    train: CropSampler  # random crops
    valid: GridCrops  # crops that cover each image of the validation
    unseen: list[Pair]  # the pairs of the validation
    record: RunRecord  # where they come from


def sources_of(config: TrainConfig, train: Sequence[PairLike], valid: Sequence[PairLike]) -> Sources:
    """Read and check pairs, and keep them ready."""
    pairs, unseen = as_pairs(train, "train"), as_pairs(valid, "valid")
    check_apart(pairs, unseen)
    every = _prepared(config, [*pairs, *unseen])
    prepared, kept = every[: len(pairs)], every[len(pairs) :]
    if not any(len(pair.foreground) for pair in prepared):
        raise invalid(
            ArrayError,
            "train",
            must="have foreground in some mask",
            got="label 0 alone",
            fix="Check the masks and `mask_threshold`.",
        )
    sampler = _sampler(config, prepared, _steps(config, prepared))
    grid = GridCrops(kept, config.crop_shape, classes=config.network.classes)
    return Sources(sampler, grid, unseen, RunRecord(pairs, unseen))


def sampler_of(config: TrainConfig, train: Sequence[PairLike], steps: int) -> CropSampler:
    """Read and check the pairs of a trial, and keep them ready."""
    pairs = as_pairs(train, "train")
    return _sampler(config, _prepared(config, pairs), steps)


def _prepared(config: TrainConfig, pairs: list[Pair]) -> list[PreparedPair]:
    return prepare_pairs(
        pairs,
        config.preprocessing,
        classes=config.network.classes,
        memory=config.memory_mb * 10**6,
        cache_dir=config.cache_dir,
    )


def _sampler(config: TrainConfig, prepared: Sequence[PreparedPair], steps: int) -> CropSampler:
    return CropSampler(
        prepared,
        config.crop_shape,
        length=steps * config.batch_size,
        classes=config.network.classes,
        foreground_share=config.foreground_share,
        transforms=config.transforms,
        seed=config.seed,
    )


def _steps(config: TrainConfig, pairs: Sequence[PreparedPair]) -> int:
    """Count the batches of an epoch."""
    return config.steps_per_epoch or ceil(crops_to_cover(pairs, config.crop_shape) / config.batch_size)
