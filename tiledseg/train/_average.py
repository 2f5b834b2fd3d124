"""The running average of the weights, in place of the weights while they are validated and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._backend import keras

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Averager"]


class Averager(keras.callbacks.Callback):
    """Puts running averages in from the validation to the end of the epoch.

    Callbacks that stand before it see the averages when an epoch ends, those behind it the weights
    that training goes on with. The optimizer averages what it trains; the moving statistics of
    normalisation are averaged here, alike: those of the latest weights do not fit averaged ones.
    Until the averages are as long as their memory, they begin anew with each epoch, so that the
    weights of the very beginning play no part. Values go from one variable to another as copies:
    JAX gives the memory of a variable up with each step, and no two may share it.
    """

    def __init__(self, keep: float) -> None:
        super().__init__()
        self._keep = keep
        self._steps = 0
        self._statistics: list[Any] = []  # what training changes without the optimizer
        self._averages: list[Any] = []  # of these; a list of arrays is kept with the run
        self._aside: list[Any] = []

    def on_train_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """List the statistics; seeds of chance are none."""
        self._statistics = [
            variable
            for variable in self.model.non_trainable_variables
            if keras.backend.is_float_dtype(variable.dtype)
        ]

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        """Take a step's statistics into their averages."""
        self._steps += 1
        if not self._statistics:
            return
        _ = self.model  # Keras on JAX fills the variables in when a callback asks for the network
        latest = [variable.numpy() for variable in self._statistics]
        if not self._averages:
            self._averages = [np.array(one) for one in latest]
        for average, one in zip(self._averages, latest, strict=True):
            np.add(average, (1 - self._keep) * (one - average), out=average)

    def on_test_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """Put the averages in."""
        changing = (*self.model.trainable_variables, *self._statistics)
        self._aside = [variable.numpy() for variable in changing]
        averages = [*(average.numpy() for average in self._of_optimizer()), *map(np.array, self._averages)]
        for variable, values in zip(changing, averages, strict=True):
            variable.assign(values)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Put the latest values back."""
        trained, statistics = self.model.trainable_variables, self._statistics
        for variable, values in zip((*trained, *statistics), self._aside, strict=True):
            variable.assign(values)
        self._aside = []
        if self._steps * (1 - self._keep) < 1:
            self._averages = []
            for average, variable in zip(self._of_optimizer(), trained, strict=True):
                average.assign(variable.numpy())

    def _of_optimizer(self) -> list[Any]:
        optimizer = self.model.optimizer
        while hasattr(optimizer, "inner_optimizer"):  # one that scales the loss wraps the true one
            optimizer = optimizer.inner_optimizer
        # Keras has no public name for them.
        return optimizer._model_variables_moving_average  # type: ignore[no-any-return]
