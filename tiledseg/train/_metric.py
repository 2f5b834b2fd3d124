"""The metrics that training shows, each over all pixels seen, so that none depends on the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PooledScore", "metrics_of"]

_TINY = 1e-7


def metrics_of(names: Sequence[str], classes: int, threshold: float) -> list[PooledScore]:
    """Make metrics by their names; ``dice`` is always the first."""
    return [PooledScore(name, classes, threshold) for name in dict.fromkeys(["dice", *names])]


class PooledScore(keras.metrics.Metric):
    """A score of cut probabilities over all pixels seen.

    The mean over classes, of which class 0 is left out where there are several; 1 for a class that
    has no px to be right or wrong about.
    """

    def __init__(self, name: str = "dice", classes: int = 1, threshold: float = 0.5) -> None:
        super().__init__(name=name)
        self._classes, self._threshold, self._score = classes, threshold, _SCORES[name]
        names = ("both", "invented", "missed", "neither")
        self._counts = [self.add_weight(shape=(classes,), initializer="zeros", name=one) for one in names]

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # noqa: ANN401, ARG002
        """Add a batch of truth and probabilities, both (N, h, w, K)."""
        truth = keras.ops.cast(y_true, "float32")
        if self._classes == 1:
            cut = keras.ops.cast(y_pred >= self._threshold, "float32")
        else:
            cut = keras.ops.one_hot(keras.ops.argmax(y_pred, axis=-1), self._classes)
        parts = (truth * cut, (1 - truth) * cut, truth * (1 - cut), (1 - truth) * (1 - cut))
        for count, part in zip(self._counts, parts, strict=True):
            count.assign_add(keras.ops.sum(part, axis=(0, 1, 2)))

    def result(self) -> Any:  # noqa: ANN401
        """Give the score of all that was added."""
        right, of = self._score(*self._counts)
        return keras.ops.mean(((right + _TINY) / (of + _TINY))[min(1, self._classes - 1) :])


_SCORES: dict[str, Callable[[Any, Any, Any, Any], tuple[Any, Any]]] = {
    "dice": lambda tp, fp, fn, tn: (2 * tp, 2 * tp + fp + fn),  # noqa: ARG005
    "iou": lambda tp, fp, fn, tn: (tp + 0, tp + fp + fn),  # noqa: ARG005
    "sensitivity": lambda tp, fp, fn, tn: (tp + 0, tp + fn),  # noqa: ARG005
    "specificity": lambda tp, fp, fn, tn: (tn + 0, tn + fp),  # noqa: ARG005
    "accuracy": lambda tp, fp, fn, tn: (tp + tn, tp + fp + fn + tn),
}
