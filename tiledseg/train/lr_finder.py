"""The learning-rate finder, and training on one batch to see whether the network can learn at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._backend import keras
from tiledseg._validate import invalid, real_number, settings_of, whole_number
from tiledseg.config import TrainConfig
from tiledseg.errors import SettingError
from tiledseg.models import training_network
from tiledseg.train.inputs import Feed, sampler_of
from tiledseg.train.loop import compiled, first_network, precision_of_layers, seeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tiledseg._types import FloatArray
    from tiledseg.data import PairLike
    from tiledseg.train.inputs import CropSource

_WORSE = 4.0  # times the least loss: the rate is too high by then
_SMOOTHING = 0.9
_MOST_STEPS = 10**6


@dataclass(frozen=True, slots=True, eq=False)
class RateResult:
    """What the learning-rate finder found.

    Attributes
    ----------
    rates : list of float
        Learning rates that were tried, rising.
    losses : list of float
        Loss of the batch at each.
    suggested : float
        The rate at which the smoothed loss falls fastest; a good highest one for a schedule.
    """

    rates: list[float]
    losses: list[float]
    suggested: float


@dataclass(frozen=True, slots=True, eq=False)
class OverfitResult:
    """The result of training on one batch again and again.

    Attributes
    ----------
    losses : list of float
        Loss before each step.
    dice : float
        Of the thresholded map of the batch in the last step, over all its px. Far from 1, something is
        wrong: a loss, a rate or a network that does not suit, or images that show nothing.
    """

    losses: list[float]
    dice: float


def find_learning_rate(
    config: TrainConfig | dict[str, Any],
    train: Sequence[PairLike],
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
) -> RateResult:
    """Train for some steps at a rising learning rate (Smith, arXiv 1506.01186).

    It ends early where the loss becomes four times its least. Nothing is written.

    Parameters
    ----------
    config : TrainConfig or dict
        How the network is built and trained; its own rate and schedule play no part.
    train : sequence of Pair or tuple
        Pairs to learn from.
    lowest, highest : float
        The range; the rate rises by the same factor each step.
    steps : int
        At least 10, at most 1,000,000.

    Returns
    -------
    RateResult
        Rates, losses and a suggestion.

    Raises
    ------
    SettingError
        If a number is out of its range.
    """
    steps = whole_number("steps", steps, 10, _MOST_STEPS)
    first, last = real_number("lowest", lowest), real_number("highest", highest)
    if not 0 < first < last:
        raise invalid(SettingError, "lowest", must=f"be in (0, {last})", got=first, fix="Try 1e-6.")
    config = settings_of(TrainConfig, config, "config")
    rise = (last / first) ** (1 / (steps - 1))
    rate = keras.optimizers.schedules.ExponentialDecay(first, decay_steps=1, decay_rate=rise)
    recorder = _LossRecorder(stop_early=True)
    _fit(config, sampler_of(config, train, steps), recorder, rate)
    rates = [first * rise**step for step in range(len(recorder.losses))]
    return RateResult(rates, recorder.losses, _steepest(rates, recorder.losses))


def overfit_one_batch(
    config: TrainConfig | dict[str, Any], train: Sequence[PairLike], *, steps: int = 100
) -> OverfitResult:
    """Train on the first batch of a run, again and again: a network that can learn fits it exactly.

    Nothing is written.

    Parameters
    ----------
    config : TrainConfig or dict
        How the network is built and trained; its learning rate stays constant.
    train : sequence of Pair or tuple
        Pairs to learn from.
    steps : int
        How often, at most 1,000,000 times.

    Returns
    -------
    OverfitResult
        Losses, and the Dice in the end.

    Raises
    ------
    SettingError
        If `steps` is out of its range.
    """
    steps = whole_number("steps", steps, most=_MOST_STEPS)
    config = settings_of(TrainConfig, config, "config")
    recorder = _LossRecorder(stop_early=False)
    _fit(config, _OneBatch(sampler_of(config, train, 1), steps), recorder, config.learning_rate)
    return OverfitResult(recorder.losses, recorder.dice)


class _OneBatch:
    """The same batch for every place."""

    def __init__(self, source: CropSource, steps: int) -> None:
        self._size, self._steps = len(source), steps
        self._batch = source.batch(0, range(self._size))

    def __len__(self) -> int:
        """Count the crops."""
        return self._size * self._steps

    def batch(self, epoch: int, ids: Sequence[int]) -> tuple[FloatArray, FloatArray]:  # noqa: ARG002
        """Give the batch."""
        return self._batch


class _LossRecorder(keras.callbacks.Callback):
    """Records the loss of each batch by itself; Keras averages over the epoch."""

    def __init__(self, *, stop_early: bool) -> None:
        super().__init__()
        self._stop_early, self.losses, self.dice = stop_early, [], 0.0  # type: ignore[var-annotated]

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        """Reset the average."""
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Record it."""
        loss, self.dice = float(logs["loss"]), float(logs["dice"])
        if self._stop_early and not loss < _WORSE * min([*self.losses, loss]):
            self.model.stop_training = True
            return
        self.losses.append(loss)


def _fit(config: TrainConfig, source: CropSource, recorder: _LossRecorder, rate: Any) -> None:  # noqa: ANN401
    plain = config.changed(accumulate=1, ema=None)
    feed = Feed(source, config.batch_size, config.feed_threads)
    with seeded(config.seed), precision_of_layers(config.precision):
        network = training_network(first_network(config), config.network)
        compiled(network, plain, rate, metrics=())
        try:
            network.fit(feed, epochs=1, shuffle=False, callbacks=[recorder], verbose=0)
        finally:
            feed.close()


def _steepest(rates: list[float], losses: list[float]) -> float:
    """Give the rate where the smoothed loss falls fastest over the rate's logarithm."""
    smooth, total = [], 0.0
    for step, loss in enumerate(losses):
        total = _SMOOTHING * total + (1 - _SMOOTHING) * loss
        smooth.append(total / (1 - _SMOOTHING ** (step + 1)))
    until = max(2, int(np.argmin(smooth)) + 1)
    return rates[int(np.argmin(np.gradient(smooth[:until])))]
