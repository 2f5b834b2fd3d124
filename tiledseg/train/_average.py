"""The running average of the weights, in place of the weights while they are validated and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Averager"]


class Averager(keras.callbacks.Callback):
    """Puts the optimizer's running average in from the validation to the end of the epoch.

    Callbacks that stand before it see the average when an epoch ends, those behind it the weights
    that training goes on with. The moving statistics of normalisation are the latest ones in
    both: they follow the weights within few steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self._aside: list[Any] = []

    def on_test_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """Put the average in."""
        self._aside = [variable.numpy() for variable in self.model.trainable_variables]
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Put the weights back."""
        for variable, values in zip(self.model.trainable_variables, self._aside, strict=True):
            variable.assign(values)
        self._aside = []
