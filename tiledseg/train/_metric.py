"""The metric that training shows: Dice of the cut map, over all pixels at once."""

from __future__ import annotations

from typing import Any

from tiledseg._backend import keras

__all__ = ["PooledDice"]

_TINY = 1e-7


class PooledDice(keras.metrics.Metric):
    """Dice of cut probabilities over all pixels seen, so that it does not depend on the batch.

    The mean over classes, of which class 0 is left out where there are several; 1 for a class
    that is neither there nor predicted.

    Parameters
    ----------
    classes : int
        Channels K.
    threshold : float
        Where the probabilities of one class are cut; several take the largest.
    name : str
        Name of the metric.
    """

    def __init__(self, classes: int = 1, threshold: float = 0.5, name: str = "dice") -> None:
        super().__init__(name=name)
        self._classes, self._threshold = classes, threshold
        self._both = self.add_weight(shape=(classes,), initializer="zeros", name="both")
        self._either = self.add_weight(shape=(classes,), initializer="zeros", name="either")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # noqa: ANN401, ARG002
        """Add a batch of truth and probabilities, both (N, h, w, K)."""
        truth = keras.ops.cast(y_true, "float32")
        if self._classes == 1:
            cut = keras.ops.cast(y_pred >= self._threshold, "float32")
        else:
            cut = keras.ops.one_hot(keras.ops.argmax(y_pred, axis=-1), self._classes)
        self._both.assign_add(keras.ops.sum(truth * cut, axis=(0, 1, 2)))
        self._either.assign_add(keras.ops.sum(truth + cut, axis=(0, 1, 2)))

    def result(self) -> Any:  # noqa: ANN401
        """Give the Dice coefficient of all that was added."""
        dice = (2 * self._both + _TINY) / (self._either + _TINY)
        return keras.ops.mean(dice[min(1, self._classes - 1) :])
