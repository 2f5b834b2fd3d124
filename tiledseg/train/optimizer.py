"""The optimizer and the schedule of the learning rate, from settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras
from tiledseg.config import AdamConfig, CosineConfig, PlateauConfig, SgdConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tiledseg.config import TrainConfig

_NOT_DECAYED = ["bias", "gamma", "beta"]  # weight decay would not regularise these


def build_optimizer(config: TrainConfig, rate: Any) -> keras.optimizers.Optimizer:
    """Make the optimizer of a run."""
    own = config.optimizer
    common = {
        "learning_rate": rate,
        "clipvalue": config.clip,
        "global_clipnorm": config.clip_norm,
        "use_ema": config.ema is not None,
        "ema_momentum": decay_per_batch(config) or 0.0,
        "gradient_accumulation_steps": config.accumulate if config.accumulate > 1 else None,
    }
    if isinstance(own, AdamConfig):
        return keras.optimizers.Adam(beta_1=own.beta_1, beta_2=own.beta_2, **common)
    if isinstance(own, SgdConfig):
        decay = own.weight_decay or None
        optimizer = keras.optimizers.SGD(
            momentum=own.momentum, nesterov=own.nesterov, weight_decay=decay, **common
        )
    else:
        optimizer = keras.optimizers.AdamW(
            beta_1=own.beta_1, beta_2=own.beta_2, weight_decay=own.weight_decay, **common
        )
    optimizer.exclude_from_weight_decay(var_names=_NOT_DECAYED)
    return optimizer


def decay_per_batch(config: TrainConfig) -> float | None:
    """Return the decay of the running average: Keras updates it with each batch, also between steps."""
    return None if config.ema is None else config.ema ** (1 / config.accumulate)


def scheduled_rate(config: TrainConfig, steps_per_epoch: int) -> Any:
    """Return the schedule of the learning rate, or a constant rate."""
    schedule = config.schedule
    if isinstance(schedule, PlateauConfig) or (schedule.name == "constant" and not schedule.warmup_epochs):
        return config.learning_rate
    return WarmCosine(
        config.learning_rate,
        warmup_steps=schedule.warmup_epochs * steps_per_epoch,
        total_steps=config.epochs * steps_per_epoch,
        final=schedule.final if isinstance(schedule, CosineConfig) else 1.0,
    )


def rate_of(network: keras.Model) -> float:
    """Return the learning rate of a network's next step."""
    rate = network.optimizer.learning_rate
    return float(rate.numpy() if hasattr(rate, "numpy") else rate)  # float() fails with several devices


@keras.saving.register_keras_serializable(package="tiledseg")
class WarmCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly, then falls along half a cosine."""

    def __init__(self, peak: float, warmup_steps: float, total_steps: float, final: float) -> None:
        super().__init__()
        self.peak, self.warmup_steps, self.total_steps, self.final = peak, warmup_steps, total_steps, final

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step, counted from 0."""
        step = keras.ops.cast(step, "float32")
        fall = max(1.0, self.total_steps - self.warmup_steps)
        done = keras.ops.clip((step - self.warmup_steps) / fall, 0.0, 1.0)
        cosine = self.final + (1 - self.final) * 0.5 * (1 + keras.ops.cos(math.pi * done))
        risen = keras.ops.minimum(1.0, (step + 1) / max(1.0, self.warmup_steps))
        return self.peak * risen * cosine

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild the schedule."""
        names = ("peak", "warmup_steps", "total_steps", "final")
        return {name: getattr(self, name) for name in names}


class Plateau(keras.callbacks.Callback):
    """Lowers the learning rate when the loss has not improved for some epochs."""

    def __init__(self, settings: PlateauConfig) -> None:
        super().__init__()
        self._settings, self.least_loss, self.waited = settings, math.inf, 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Lower the rate if the loss has not improved."""
        loss = float(logs.get("val_loss", logs["loss"]))
        self.waited = 0 if loss < self.least_loss else self.waited + 1
        self.least_loss = min(loss, self.least_loss)
        if self.waited >= self._settings.patience:
            rate = rate_of(self.model)
            lowered = max(rate * self._settings.factor, min(rate, self._settings.least))
            self.model.optimizer.learning_rate = lowered
            self.waited = 0
