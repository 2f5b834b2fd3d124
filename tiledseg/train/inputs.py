"""The inputs of the training loop: from pairs to crops, and to batches that threads prepare in advance."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from tiledseg._backend import keras
from tiledseg._validate import invalid
from tiledseg.data import (
    CropSampler,
    GridCrops,
    as_pairs,
    check_apart,
    crops_to_cover,
    prepare_pairs,
    with_pixel_size,
)
from tiledseg.errors import ArrayError, SettingError, TiledSegError
from tiledseg.io import IGNORED
from tiledseg.train.run_folder import RunRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import FloatArray
    from tiledseg.config import PreprocessingConfig, TrainConfig
    from tiledseg.data import Pair, PairLike, PreparedPair

_Batch: TypeAlias = "tuple[FloatArray, ...]"  # images, masks, and where crops differ in it their weights
_NOT_COUNTED = -1  # in masks, of px that count neither in losses nor in metrics


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """The data of a run."""

    train: CropSampler  # random crops
    valid: GridCrops | None  # crops that cover each validation image
    previewed: list[Pair]  # the validation images, or without any those to learn from
    record: RunRecord  # the origin of all pairs
    preprocessing: PreprocessingConfig  # with the px size that the images state


def training_data(config: TrainConfig, train: Sequence[PairLike], valid: Sequence[PairLike]) -> TrainingData:
    """Read and check the pairs of a run, and prepare their pixels; `valid` is not read without validation."""
    train_pairs = as_pairs(train, "train")
    valid_pairs = as_pairs(valid, "valid") if config.validation else []
    check_apart(train_pairs, valid_pairs)
    preprocessing = with_pixel_size(config.preprocessing, [*train_pairs, *valid_pairs])
    prepared = _prepared(config, preprocessing, [*train_pairs, *valid_pairs])
    first, second = prepared[: len(train_pairs)], prepared[len(train_pairs) :]
    _check_labels(first, second, config.network.classes)
    steps = config.steps_per_epoch or ceil(crops_to_cover(first, config.crop_shape) / config.batch_size)
    _check_steps(config, steps * config.epochs)
    grid = GridCrops(second, config.crop_shape, classes=config.network.classes) if second else None
    record = RunRecord(train_pairs, valid_pairs)
    record.check_apart()
    shown = valid_pairs or train_pairs
    return TrainingData(_sampler(config, first, steps), grid, shown, record, preprocessing)


def _check_steps(config: TrainConfig, batches: int) -> None:
    """Check that the optimizer makes a step at all."""
    if config.accumulate > batches:
        must, fix = f"be at most {batches}, the batches of the run", "Use fewer, or more epochs."
        raise invalid(SettingError, "accumulate", must=must, got=config.accumulate, fix=fix)


def _check_labels(train: Sequence[PreparedPair], valid: Sequence[PreparedPair], classes: int) -> None:
    """Check that there is something to tell apart, and something to validate with."""
    ignored = any((pair.mask == IGNORED).any() for pair in (*train, *valid))
    fix = "Check the masks, `mask_threshold`" + (" and `ignore_label`." if ignored else ".")
    if not any(len(pair.foreground) for pair in train):
        got = "only label 0" + (" and px that do not count" if ignored else "")
        raise invalid(ArrayError, "train", must="have foreground in some mask", got=got, fix=fix)
    if classes <= 2 and not any((pair.mask == 0).any() for pair in train):
        got = "only label 1" + (" and px that do not count" if ignored else "")
        raise invalid(ArrayError, "train", must="have background in some mask", got=got, fix=fix)
    if valid and all((pair.mask == IGNORED).all() for pair in valid):
        raise invalid(ArrayError, "valid", must="have px that count", got="none", fix=fix)


def sampler_of(config: TrainConfig, train: Sequence[PairLike], steps: int) -> CropSampler:
    """Read and check pairs, prepare their pixels, and return a sampler of their crops."""
    pairs = as_pairs(train, "train")
    preprocessing = with_pixel_size(config.preprocessing, pairs)
    return _sampler(config, _prepared(config, preprocessing, pairs), steps)


def _prepared(
    config: TrainConfig, preprocessing: PreprocessingConfig, pairs: list[Pair]
) -> list[PreparedPair]:
    return prepare_pairs(
        pairs,
        preprocessing,
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


class CropSource(Protocol):
    """Crops by epoch and index; the same epoch and index always return the same crop."""

    def __len__(self) -> int:
        """Count the crops of an epoch."""
        ...

    def batch(self, epoch: int, ids: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Cut images (N, h, w, C) and masks (N, h, w, K)."""
        ...


class Feed(keras.utils.PyDataset):
    """Passes crops to Keras, batch by batch, while threads prepare the next batches."""

    def __init__(self, source: CropSource, batch_size: int, threads: int = 1, parts: int = 1) -> None:
        super().__init__()
        self._source, self._batch_size, self._epoch = source, batch_size, 0
        self._n_blank = -len(source) % parts  # crops without weight, so that each batch has equal parts
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tiledseg-feed")
        self._pending: dict[int, Future[_Batch]] = {}
        self._max_pending = 2 * threads
        self.error: TiledSegError | None = None

    def start(self, epoch: int) -> None:
        """Start an epoch, counted from 0."""
        self._cancel()
        self._epoch = epoch

    def close(self) -> None:
        """Stop the threads."""
        self._cancel()
        self._pool.shutdown()

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return ceil(len(self._source) / self._batch_size)

    def __getitem__(self, index: int) -> _Batch:
        """Return a batch, and start to prepare the next ones."""
        for number in range(index, min(index + 1 + self._max_pending, len(self))):
            if number not in self._pending:
                self._pending[number] = self._pool.submit(self._cut, self._epoch, number)
        try:
            return self._pending.pop(index).result()
        except TiledSegError as error:  # Keras replaces it by an error of the backend
            self.error = error
            raise

    def _cut(self, epoch: int, index: int) -> _Batch:
        # If the batch size does not divide the number of crops, the first batch is smaller: from the
        # first batch Keras on JAX decides how all batches are shared among devices.
        end = len(self._source) - (len(self) - 1 - index) * self._batch_size
        ids = range(max(0, end - self._batch_size), end)
        images, masks = self._source.batch(epoch, ids)
        if not np.isfinite(images.min() + images.max()):
            raise invalid(
                ArrayError,
                "images",
                must="be finite in training",
                got=f"NaN or infinity in batch {index + 1} of epoch {epoch + 1}",
                fix="Check the images, and the transforms of `augment`.",
            )
        return self._filled(images, masks, index) if self._n_blank else (images, masks)

    def _filled(self, images: FloatArray, masks: FloatArray, index: int) -> _Batch:
        """Add the blank crops to the first batch, and weights with which they change no mean."""
        n, n_blank = len(self._source), 0 if index else self._n_blank
        weights = np.full(len(images) + n_blank, (n + self._n_blank) / n, np.float32)
        weights[len(images) :] = 0
        images = np.concatenate([images, np.zeros_like(images[:1]).repeat(n_blank, axis=0)])
        masks = np.concatenate([masks, np.full_like(masks[:1], _NOT_COUNTED).repeat(n_blank, axis=0)])
        return images, masks, weights

    def _cancel(self) -> None:
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()
