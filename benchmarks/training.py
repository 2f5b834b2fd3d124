"""A step of `Trainer.fit`, with the whole input pipeline, beside the bare compiled step.

A 5-level U-Net of 16 filters with batch normalisation, crops of 512 x 512 px with the default
augmentation, batches of 4. `fit` cuts and augments crops in its own threads at the same time, checks
every loss, and counts the batch; the bare step trains on one batch that is in memory as tensors. Both
take turns, epoch by epoch, on the same network in the same process. The first step of each epoch,
which waits for its crops, is omitted, because a long epoch has only one such step. A step with the
backend set to deterministic operations is compared with one without, in processes of their own. On a
busy machine read the processor time: it contains everything that `fit` computes, crops included.
"""

from __future__ import annotations

import tempfile
import time

import keras
import numpy as np

from benchmarks._clock import ratios
from benchmarks._fresh import call_fresh
from benchmarks._rows import Row, of_samples
from tiledseg.config import TrainConfig, UNetConfig
from tiledseg.samples import smear
from tiledseg.train import Trainer

_NETWORK = UNetConfig(input_shape=(None, None, 3), levels=5, base_filters=16, base_kernel=3, dropout=0.0)
_CROP, _BATCH = 512, 4


class _Stopwatch(keras.callbacks.Callback):
    """Times the steps of an epoch, then the same number of bare steps."""

    def __init__(self, bare: bool) -> None:  # noqa: FBT001
        super().__init__()
        self._ends: list[tuple[float, float]] = []
        self._bare = bare
        self.fit: list[list[float]] = []  # seconds of the clock and of the processor
        self.step: list[list[float]] = []
        rng = np.random.default_rng(0)
        shape = (_BATCH, _CROP, _CROP)
        self._images = keras.ops.convert_to_tensor(rng.random((*shape, 3), np.float32))
        self._masks = keras.ops.convert_to_tensor((rng.random((*shape, 1)) > 0.9).astype(np.float32))

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        self._ends.append(_now())

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        steps = np.diff(self._ends, axis=0)
        self._ends = []
        if self._bare:
            self.model.train_on_batch(self._images, self._masks)  # traced, and memory taken, outside the time
        started = _now()
        for _ in range(len(steps) if self._bare else 0):
            self.model.train_on_batch(self._images, self._masks)
        if epoch:  # the first one warms up
            self.fit.append(np.mean(steps, axis=0).tolist())
            self.step.append((np.subtract(_now(), started) / len(steps)).tolist())


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def run(*, quick: bool = False) -> list[Row]:
    """Measure."""
    both = call_fresh("benchmarks.training:timed", quick=quick, deterministic=True, bare=True)
    (fit, fit_cpu), (bare, bare_cpu) = (zip(*epochs, strict=True) for epochs in both)
    free, _ = call_fresh("benchmarks.training:timed", quick=quick, deterministic=False, bare=False)
    note = "deterministic=True, the default; the bare step too"
    return [
        of_samples("step of fit, with the input pipeline", fit, "s", note=note),
        of_samples("bare compiled step, batch in memory", bare, "s", note=note),
        of_samples("fit over bare, epoch by epoch", ratios(fit, bare), "x", at_most=1.05),
        of_samples("the same, processor time", ratios(fit_cpu, bare_cpu), "x"),
        of_samples("step of fit with deterministic=False", [wall for wall, _ in free], "s"),
    ]


def timed(*, quick: bool, deterministic: bool, bare: bool) -> tuple[list[list[float]], list[list[float]]]:
    """Train, and return seconds per step and epoch, by clock and processor: of fit, and of the bare step."""
    smears = [smear(640, 1024, seed=seed) for seed in range(3)]
    pairs = [(one.image, one.mask) for one in smears]
    watch = _Stopwatch(bare)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            network=_NETWORK,
            crop_size=_CROP,
            batch_size=_BATCH,
            epochs=3 if quick else 6,
            steps_per_epoch=4 if quick else 8,
            deterministic=deterministic,
            curves=False,
            patience=None,
            runs_dir=folder,
        )
        Trainer(config).fit(pairs[:2], pairs[2:], progress=False, callbacks=[watch])
    return watch.fit, watch.step
