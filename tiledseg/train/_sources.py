"""From pairs to the crops that a run takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from tiledseg._checks import broken
from tiledseg.data import CropSampler, GridCrops, as_pairs, check_apart, crops_to_cover, prepare_pairs
from tiledseg.errors import ArrayError
from tiledseg.train._record import RunRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg.config import TrainConfig
    from tiledseg.data import Pair, PairLike, PreparedPair

__all__ = ["Sources", "sources_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """What a run learns from and is judged by.

    Attributes
    ----------
    train : CropSampler
        Random crops.
    valid : GridCrops
        Crops that cover each image of the validation.
    unseen : list of Pair
        The pairs of the validation.
    record : RunRecord
        Where they come from.
    """

    train: CropSampler
    valid: GridCrops
    unseen: list[Pair]
    record: RunRecord


def sources_of(config: TrainConfig, train: Sequence[PairLike], valid: Sequence[PairLike]) -> Sources:
    """Read and check pairs, and keep them ready.

    Parameters
    ----------
    config : TrainConfig
        The run's settings.
    train, valid : sequence of Pair or tuple
        The pairs.

    Returns
    -------
    Sources
        The crops.

    Raises
    ------
    TiledSegError
        If pairs cannot be used; see `Trainer.fit`.
    """
    pairs, unseen = as_pairs(train, "train"), as_pairs(valid, "valid")
    check_apart(pairs, unseen)
    classes = config.network.classes
    every = prepare_pairs(
        [*pairs, *unseen],
        config.preprocessing,
        classes=classes,
        memory=config.memory_mb * 10**6,
        cache_dir=config.cache_dir,
    )
    prepared, kept = every[: len(pairs)], every[len(pairs) :]
    if not any(len(pair.foreground) for pair in prepared):
        raise broken(
            ArrayError,
            "train",
            must="have foreground in some mask",
            got="label 0 alone",
            fix="Check the masks and `mask_threshold`.",
        )
    sampler = CropSampler(
        prepared,
        config.crop_shape,
        length=_length(config, prepared),
        classes=classes,
        foreground_share=config.foreground_share,
        transforms=config.transforms,
        seed=config.seed,
    )
    grid = GridCrops(kept, config.crop_shape, classes=classes)
    return Sources(sampler, grid, unseen, RunRecord(pairs, unseen))


def _length(config: TrainConfig, pairs: Sequence[PreparedPair]) -> int:
    """Count the crops of an epoch: whole batches."""
    size = config.batch_size
    steps = config.steps_per_epoch or ceil(crops_to_cover(pairs, config.crop_shape) / size)
    return steps * size
