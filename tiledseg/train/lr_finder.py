"""The learning-rate finder, and training on one batch to check that the network can learn at all."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._backend import keras
from tiledseg._validate import invalid, real_number, settings_of, whole_number
from tiledseg.config import TrainConfig
from tiledseg.errors import ModelError, SettingError
from tiledseg.models import training_network
from tiledseg.train.inputs import Feed, sampler_of
from tiledseg.train.loop import compiled, precision_of_layers, seeded
from tiledseg.train.start import initial_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tiledseg._types import FloatArray
    from tiledseg.data import PairLike
    from tiledseg.train.inputs import CropSource

_log = logging.getLogger("tiledseg")
_DIVERGED = 4.0  # a loss above this multiple of the least one shows that the rate is too high
_FEWEST, _PARTS = 5, 5  # a slope is that of so many steps, or of so many parts of them
_CLEAR = 3.0  # standard errors by which a slope is not chance: of noise alone one of ten to twenty is steeper
_MAX_STEPS = 10**6


@dataclass(frozen=True, slots=True, eq=False)
class RateResult:
    """The result of the learning-rate finder.

    Attributes
    ----------
    rates : list of float
        Learning rates of the steps, rising.
    losses : list of float
        Loss of the batch at each rate.
    suggested : float
        The rate at which the loss falls fastest, over a fifth of the steps, at least five;
        a good maximum for a schedule.
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
        Dice of the thresholded map in the last step, over all px of the batch. If it is far from 1,
        the loss, the learning rate or the network is unsuitable, or the images do not show the object.
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

    Training stops early if the loss rises to four times its minimum. A warning says where it never falls
    by clearly more than batches differ, as with few steps. Nothing is written.

    Parameters
    ----------
    config : TrainConfig or dict
        Settings of the network and its training; the rate and the schedule in it are not used.
    train : sequence of Pair or tuple
        Pairs to learn from.
    lowest, highest : float
        The range of rates; the rate rises by the same factor in each step.
    steps : int
        Number of steps, from 10 to 1,000,000.

    Returns
    -------
    RateResult
        Rates, losses and a suggestion.

    Raises
    ------
    SettingError
        If a number is out of its range.
    ModelError
        If the loss diverges at the lowest rate.
    """
    steps = whole_number("steps", steps, 10, _MAX_STEPS)
    first, last = real_number("lowest", lowest), real_number("highest", highest)
    if not 0 < first < last:
        raise invalid(SettingError, "lowest", must=f"be in (0, {last})", got=first, fix="Try 1e-6.")
    config = settings_of(TrainConfig, config, "config")
    rise = (last / first) ** (1 / (steps - 1))
    rate = keras.optimizers.schedules.ExponentialDecay(first, decay_steps=1, decay_rate=rise)
    recorder = _LossRecorder(stop_early=True)
    _fit(config, sampler_of(config, train, steps), recorder, rate)
    if len(recorder.losses) < 2:  # a slope has two
        must, fix = "be a rate at which the loss does not diverge", "Lower it, and check the settings."
        raise invalid(ModelError, "lowest", must=must, got=f"{first:g}", fix=fix)
    rates = [first * rise**step for step in range(len(recorder.losses))]
    return RateResult(rates, recorder.losses, _steepest(rates, recorder.losses))


def overfit_one_batch(
    config: TrainConfig | dict[str, Any], train: Sequence[PairLike], *, steps: int = 100
) -> OverfitResult:
    """Train on the first batch of a run repeatedly: a network that can learn fits it exactly.

    Nothing is written.

    Parameters
    ----------
    config : TrainConfig or dict
        Settings of the network and its training; the learning rate is constant.
    train : sequence of Pair or tuple
        Pairs to learn from.
    steps : int
        Number of steps, at most 1,000,000.

    Returns
    -------
    OverfitResult
        Losses, and the final Dice.

    Raises
    ------
    SettingError
        If `steps` is out of its range.
    """
    steps = whole_number("steps", steps, most=_MAX_STEPS)
    config = settings_of(TrainConfig, config, "config")
    recorder = _LossRecorder(stop_early=False)
    _fit(config, _OneBatch(sampler_of(config, train, 1), steps), recorder, config.learning_rate)
    return OverfitResult(recorder.losses, recorder.dice)


class _OneBatch:
    """A source with the same batch at every index."""

    def __init__(self, source: CropSource, steps: int) -> None:
        self._size, self._steps = len(source), steps
        self._batch = source.batch(0, range(self._size))

    def __len__(self) -> int:
        """Count the crops."""
        return self._size * self._steps

    def batch(self, epoch: int, ids: Sequence[int]) -> tuple[FloatArray, FloatArray]:  # noqa: ARG002
        """Return the batch."""
        return self._batch


class _LossRecorder(keras.callbacks.Callback):
    """Records the loss of each single batch; Keras itself averages over the epoch."""

    def __init__(self, *, stop_early: bool) -> None:
        super().__init__()
        self._stop_early, self.losses, self.dice = stop_early, [], 0.0  # type: ignore[var-annotated]

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        """Reset the average."""
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Record the loss, and stop if it diverged."""
        loss, self.dice = float(logs["loss"]), float(logs["dice"])
        if self._stop_early and not loss < _DIVERGED * min([*self.losses, loss]):
            self.model.stop_training = True
            return
        self.losses.append(loss)


def _fit(config: TrainConfig, source: CropSource, recorder: _LossRecorder, rate: Any) -> None:
    plain = config.changed(accumulate=1, ema=None)
    feed = Feed(source, config.batch_size, config.feed_threads)
    with seeded(config.seed), precision_of_layers(config.precision):
        network = training_network(initial_network(config), config.network)
        compiled(network, plain, rate, metrics=())
        try:
            network.fit(feed, epochs=1, shuffle=False, callbacks=[recorder], verbose=0)
        finally:
            feed.close()


def _steepest(rates: list[float], losses: list[float]) -> float:
    """Return the middle of the steps along which a line through the losses falls fastest."""
    n_steps = min(len(losses), max(_FEWEST, len(losses) // _PARTS))
    places = np.arange(n_steps) - (n_steps - 1) / 2
    slopes = np.correlate(losses, places / (places @ places), "valid")
    start = int(np.argmin(slopes))
    suggested = rates[start + n_steps // 2]
    noise = float(np.median(np.abs(np.diff(losses))))  # nearly the standard deviation of normal noise
    if -slopes[start] * math.sqrt(places @ places) <= _CLEAR * noise:
        _log.warning(
            "The loss falls at no rate from %.3g to %.3g by clearly more than it differs from batch to batch "
            "(%.2g), so that the suggested rate, %.3g, means little. Try more steps (100, for example) or a "
            "wider range; if it never falls, see with overfit_one_batch whether the network can learn, and "
            "check masks and loss.",
            rates[0],
            rates[-1],
            noise,
            suggested,
        )
    return suggested
