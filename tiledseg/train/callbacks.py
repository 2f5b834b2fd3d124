"""Callbacks and metrics of the training loop."""

from __future__ import annotations

import logging
import math
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tiledseg._backend import keras
from tiledseg._progress import say
from tiledseg._storage import exists
from tiledseg._validate import invalid
from tiledseg.errors import ModelError
from tiledseg.train.optimizer import rate_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import FrameType, TracebackType

    from tiledseg.models import Segmenter
    from tiledseg.train.inputs import Feed
    from tiledseg.train.run_folder import History

_log = logging.getLogger("tiledseg")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOP_FILE = "stop"  # a file of this name in a run's folder stops the run after the epoch
_TINY = 1e-7


class EpochProgress(keras.callbacks.Callback):
    """Sets the epoch of the feed, and advances the progress bar."""

    def __init__(self, feed: Feed, advance: Callable[[int], object]) -> None:
        super().__init__()
        self._feed, self._advance = feed, advance

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Set the epoch before Keras requests its first batch."""
        self._feed.start(epoch)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        """Count the batch."""
        self._advance(1)


class FiniteGuard(keras.callbacks.Callback):
    """Stops a run whose loss or weights are no longer finite."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._epoch = folder, 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Remember the epoch for the message."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Check the loss."""
        self._check("loss", float(logs["loss"]))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Check the validation loss, if there is one, and every weight."""
        # The loss does not always show it: a ReLU can hide the NaN of a weight.
        for variable in self.model.weights:
            values = variable.numpy()
            if not np.isfinite(values).all():
                self._check(variable.path, math.nan)
        if "val_loss" in logs:
            self._check("val_loss", float(logs["val_loss"]))

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            best = f"in {self._folder}" if exists(self._folder) else "none"
            got = f"{value} in epoch {self._epoch}"
            fix = f"Lower `learning_rate`, or set `clip`. Best network so far: {best}."
            raise invalid(ModelError, what, must="stay finite in training", got=got, fix=fix)


class BestNetwork(keras.callbacks.Callback):
    """Records each epoch, saves the best network, and stops when the loss no longer improves."""

    # Without validation the training loss decides when to stop, and the last network is saved: that
    # loss is one of other crops in each epoch, and of weights that changed from step to step.

    def __init__(
        self, segmenter: Segmenter, folder: Path, history: History, patience: int | None, *, shown: bool
    ) -> None:
        super().__init__()
        self._shown = shown
        self._segmenter, self._folder, self._history, self._patience = segmenter, folder, history, patience
        self._least, self.best_epoch = math.inf, 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Save, record, and stop."""
        values = {name: float(value) for name, value in logs.items()}
        values["learning_rate"] = rate_of(self.model)
        validated = "val_loss" in values
        loss = values["val_loss" if validated else "loss"]
        better = loss < self._least
        if better or not validated:
            facts = {**self._segmenter.provenance, "best_epoch": epoch + 1, **values}
            self._segmenter.changed(provenance=facts).save(self._folder, overwrite=True)
        if better:
            self._least, self.best_epoch = loss, epoch + 1
        self._history.add(epoch + 1, values)
        text = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        best = ", best" if better and validated else ""
        say(f"epoch {epoch + 1} of {self.params['epochs']}: {text}{best}", shown=self._shown)
        if self._patience is not None and epoch + 1 - self.best_epoch >= self._patience:
            self.model.stop_training = True


class WeightAverage(keras.callbacks.Callback):
    """Puts running averages in place of the weights from the validation to the end of the epoch."""

    # At the end of an epoch, callbacks before this one see the averages, and callbacks after it see
    # the weights with which training continues. The optimizer averages the trained weights. This
    # callback averages the moving statistics of normalisation, because the latest statistics do not
    # fit averaged weights. In the first epochs, until the number of steps equals the time constant of
    # the averages, the averages restart in each epoch, so that the initial weights have no effect.
    # Keras averages after each batch, also where several make a step: until the next step an average
    # has the newest weights only in part. The averages that are assigned have all of them.
    # Values are copied between variables: JAX releases the memory of a variable with each step.

    def __init__(self, momentum: float, accumulate: int) -> None:
        super().__init__()
        self._momentum, self._accumulate = momentum, accumulate
        self._steps = 0
        self._statistics: list[Any] = []  # variables that training changes without the optimizer
        self._averages: list[Any] = []  # their averages; a list of arrays is saved in the checkpoint
        self._latest: list[Any] = []

    def on_train_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """List the statistics: floats, unlike the states of random generators."""
        self._statistics = [
            variable
            for variable in self.model.non_trainable_variables
            if keras.backend.is_float_dtype(variable.dtype)
        ]

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        """Update the averages with the statistics of a step."""
        self._steps += 1
        if not self._statistics:
            return
        _ = self.model  # Keras on JAX updates the variables when a callback accesses the network
        latest = [variable.numpy() for variable in self._statistics]
        if not self._averages:
            self._averages = [np.array(one) for one in latest]
        for average, one in zip(self._averages, latest, strict=True):
            np.add(average, (1 - self._momentum) * (one - average), out=average)

    def on_test_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """Assign the averages; without validation, `EpochEnd` calls this."""
        variables = (*self.model.trainable_variables, *self._statistics)
        self._latest = [variable.numpy() for variable in variables]
        to_come = self._accumulate - 1 - int(self._optimizer._iterations.numpy()) % self._accumulate
        share = self._momentum**to_come
        trained = [
            share * average.numpy() + (1 - share) * one
            for average, one in zip(self._optimizer_averages, self._latest, strict=False)
        ]
        for variable, values in zip(variables, [*trained, *map(np.array, self._averages)], strict=True):
            variable.assign(values)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Assign the latest values again."""
        trained = self.model.trainable_variables
        for variable, values in zip((*trained, *self._statistics), self._latest, strict=True):
            variable.assign(values)
        self._latest = []
        if self._steps * (1 - self._momentum) < 1:
            self._averages = []
            for average, variable in zip(self._optimizer_averages, trained, strict=True):
                average.assign(variable.numpy())

    @property
    def _optimizer(self) -> Any:
        optimizer = self.model.optimizer
        while hasattr(optimizer, "inner_optimizer"):  # an optimizer that scales the loss has an inner one
            optimizer = optimizer.inner_optimizer
        return optimizer

    @property
    def _optimizer_averages(self) -> list[Any]:
        # Keras has no public name for the averages, nor for the number of batches.
        return self._optimizer._model_variables_moving_average  # type: ignore[no-any-return]


class EpochEnd(keras.callbacks.Callback):
    """Assigns the averages at the end of an epoch that no validation ends; comes before other callbacks."""

    def __init__(self, average: WeightAverage) -> None:
        super().__init__()
        self._average = average

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Assign them."""
        self._average.on_test_begin()


class Stopper(keras.callbacks.Callback):
    """Stops training after an epoch: by Ctrl-C or SIGTERM within its context, or by a file."""

    # After the first signal the epoch still ends, so that the checkpoint contains it. At the end of the
    # context the signal is raised again for the earlier handler. The second signal is raised at once.
    # Python handles signals in the main thread only; in another thread only the stop file works.

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self._file, self._signal = run_dir / _STOP_FILE, 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Install the signal handlers."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the earlier handlers, and raise a received signal again."""
        self._restore_handlers()
        if self._signal and kind is None:
            signal.raise_signal(self._signal)

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Stop training if that was requested."""
        if exists(self._file):
            _log.info("found %s: the run stops, and can be resumed", self._file)
            self._file.unlink()
            self.model.stop_training = True
        if self._signal:
            self.model.stop_training = True

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._signal:
            self._restore_handlers()
            signal.raise_signal(number)
            return
        self._signal = number
        _log.warning("%s: stopping after this epoch; repeat it to stop at once", signal.Signals(number).name)

    def _restore_handlers(self) -> None:
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)


def metrics_of(names: Sequence[str], classes: int, threshold: float) -> list[PooledScore]:
    """Make metrics from their names; ``dice`` is always the first."""
    return [PooledScore(name, classes, threshold) for name in dict.fromkeys(["dice", *names])]


class PooledScore(keras.metrics.Metric):
    """A score of thresholded probabilities over the px of all batches together."""

    # The mean over classes; if there are several, without class 0. The score of a class is 1 if the
    # denominator has no px.

    def __init__(self, name: str = "dice", classes: int = 1, threshold: float = 0.5) -> None:
        super().__init__(name=name)
        self._classes, self._threshold, self._score = classes, threshold, _SCORES[name]
        names = ("tp", "fp", "fn", "tn")
        self._counts = [self.add_weight(shape=(classes,), initializer="zeros", name=one) for one in names]

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # noqa: ARG002
        """Add a batch of truth and probabilities, both (N, h, w, K)."""
        counts = keras.ops.cast(y_true >= 0, "float32")  # -1 where a px does not count
        truth = keras.ops.cast(y_true, "float32") * counts
        if self._classes == 1 or (self._classes == 2 and self._threshold != 0.5):  # as maps are cut
            found = keras.ops.cast(y_pred[..., -1:] >= self._threshold, "float32")
            found = found if self._classes == 1 else keras.ops.concatenate([1 - found, found], axis=-1)
        else:
            found = keras.ops.one_hot(keras.ops.argmax(y_pred, axis=-1), self._classes)
        parts = (truth * found, (1 - truth) * found, truth * (1 - found), (1 - truth) * (1 - found))
        for count, part in zip(self._counts, parts, strict=True):
            count.assign_add(keras.ops.sum(part * counts, axis=(0, 1, 2)))

    def result(self) -> Any:
        """Return the score of all batches since the last reset."""
        numerator, denominator = self._score(*self._counts)
        scores = (numerator + _TINY) / (denominator + _TINY)
        return keras.ops.mean(scores[min(1, self._classes - 1) :])


_SCORES: dict[str, Callable[[Any, Any, Any, Any], tuple[Any, Any]]] = {
    "dice": lambda tp, fp, fn, tn: (2 * tp, 2 * tp + fp + fn),  # noqa: ARG005
    "iou": lambda tp, fp, fn, tn: (tp + 0, tp + fp + fn),  # noqa: ARG005
    "sensitivity": lambda tp, fp, fn, tn: (tp + 0, tp + fn),  # noqa: ARG005
    "specificity": lambda tp, fp, fn, tn: (tn + 0, tn + fp),  # noqa: ARG005
    "accuracy": lambda tp, fp, fn, tn: (tp + tn, tp + fp + fn + tn),
}
