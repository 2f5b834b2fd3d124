"""Callbacks and metrics of the training loop."""

from __future__ import annotations

import logging
import math
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tiledseg._backend import keras
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
_STOP_FILE = "stop"  # a file of this name in a run's folder ends the run after the epoch
_TINY = 1e-7


class EpochProgress(keras.callbacks.Callback):
    """Tells the feed which epoch it is, and the progress bar that a batch is done."""

    def __init__(self, feed: Feed, advance: Callable[[int], object]) -> None:
        super().__init__()
        self._feed, self._advance = feed, advance

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Go to the epoch before Keras asks for its first batch."""
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
        """Check the validation loss and every weight."""
        for (
            variable
        ) in self.model.weights:  # the loss alone is no proof: a ReLU can swallow the NaN of a weight
            values = variable.numpy()
            if not np.isfinite(values).all():
                self._check(variable.path, math.nan)
        self._check("val_loss", float(logs["val_loss"]))

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            best = f"in {self._folder}" if self._folder.exists() else "none"
            got = f"{value} in epoch {self._epoch}"
            fix = f"Lower `learning_rate`, or set `clip`. Best network so far: {best}."
            raise invalid(ModelError, what, must="stay finite in training", got=got, fix=fix)


class BestNetwork(keras.callbacks.Callback):
    """Records each epoch, saves the best network, and stops when none is better."""

    def __init__(self, segmenter: Segmenter, folder: Path, history: History, patience: int | None) -> None:
        super().__init__()
        self._segmenter, self._folder, self._history, self._patience = segmenter, folder, history, patience
        self._least, self.best_epoch = math.inf, 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Save, record, and stop."""
        values = {name: float(value) for name, value in logs.items()}
        values["learning_rate"] = rate_of(self.model)
        better = values["val_loss"] < self._least
        if better:
            facts = {**self._segmenter.provenance, "best_epoch": epoch + 1, **values}
            self._segmenter.changed(provenance=facts).save(self._folder, overwrite=True)
            self._least, self.best_epoch = values["val_loss"], epoch + 1
        self._history.add(epoch + 1, values)
        text = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        _log.info("epoch %d of %d: %s%s", epoch + 1, self.params["epochs"], text, ", best" if better else "")
        if self._patience is not None and epoch + 1 - self.best_epoch >= self._patience:
            self.model.stop_training = True


class WeightAverage(keras.callbacks.Callback):
    """Puts running averages in place of the weights from the validation to the end of the epoch."""

    # Callbacks that stand before it see the averages when an epoch ends, those behind it the weights
    # that training continues with. The optimizer averages what it trains. The moving statistics of
    # normalisation are averaged here, alike: those of the latest weights do not fit averaged ones.
    # Until the averages are as long as their memory, they are reset in each epoch, so that the first
    # weights play no part. Values go from one variable to another as copies: JAX gives the memory of
    # a variable up with each step, and no two may share it.

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self._momentum = momentum
        self._steps = 0
        self._statistics: list[Any] = []  # what training changes without the optimizer
        self._averages: list[Any] = []  # of these; a list of arrays belongs to the checkpoint
        self._latest: list[Any] = []

    def on_train_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """List the statistics; the states of random generators are none."""
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
            np.add(average, (1 - self._momentum) * (one - average), out=average)

    def on_test_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """Put the averages in."""
        changing = (*self.model.trainable_variables, *self._statistics)
        self._latest = [variable.numpy() for variable in changing]
        averages = [*(average.numpy() for average in self._of_optimizer()), *map(np.array, self._averages)]
        for variable, values in zip(changing, averages, strict=True):
            variable.assign(values)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Put the latest values back."""
        trained = self.model.trainable_variables
        for variable, values in zip((*trained, *self._statistics), self._latest, strict=True):
            variable.assign(values)
        self._latest = []
        if self._steps * (1 - self._momentum) < 1:
            self._averages = []
            for average, variable in zip(self._of_optimizer(), trained, strict=True):
                average.assign(variable.numpy())

    def _of_optimizer(self) -> list[Any]:
        optimizer = self.model.optimizer
        while hasattr(optimizer, "inner_optimizer"):  # one that scales the loss wraps the true one
            optimizer = optimizer.inner_optimizer
        # Keras has no public name for them.
        return optimizer._model_variables_moving_average  # type: ignore[no-any-return]


class Stopper(keras.callbacks.Callback):
    """Ends training after an epoch on request: by Ctrl-C or SIGTERM within its context, or by a file."""

    # The first signal lets the epoch end, so that it is in the checkpoint; at the end of the context
    # the signal is raised again for whoever handled it before. The second one is passed on at once.
    # Outside the main thread, where Python hands out no signals, the stop file alone counts.

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self._file, self._signal = run_dir / _STOP_FILE, 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening, and pass on what was heard."""
        self._restore_handlers()
        if self._signal and kind is None:
            signal.raise_signal(self._signal)

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """End training where that was asked for."""
        if self._file.exists():
            _log.info("%s was found: the run ends here, and can be resumed", self._file)
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
        _log.warning("%s: stopping after this epoch; once more stops at once", signal.Signals(number).name)

    def _restore_handlers(self) -> None:
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)


def metrics_of(names: Sequence[str], classes: int, threshold: float) -> list[PooledScore]:
    """Make metrics by their names; ``dice`` is always the first."""
    return [PooledScore(name, classes, threshold) for name in dict.fromkeys(["dice", *names])]


class PooledScore(keras.metrics.Metric):
    """A score of thresholded probabilities over all px seen, so that it does not depend on the batch."""

    # The mean over classes, of which class 0 is left out where there are several; 1 for a class that
    # has no px to be right or wrong about.

    def __init__(self, name: str = "dice", classes: int = 1, threshold: float = 0.5) -> None:
        super().__init__(name=name)
        self._classes, self._threshold, self._score = classes, threshold, _SCORES[name]
        names = ("both", "invented", "missed", "neither")
        self._counts = [self.add_weight(shape=(classes,), initializer="zeros", name=one) for one in names]

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # noqa: ANN401, ARG002
        """Add a batch of truth and probabilities, both (N, h, w, K)."""
        truth = keras.ops.cast(y_true, "float32")
        if self._classes == 1:
            found = keras.ops.cast(y_pred >= self._threshold, "float32")
        else:
            found = keras.ops.one_hot(keras.ops.argmax(y_pred, axis=-1), self._classes)
        parts = (truth * found, (1 - truth) * found, truth * (1 - found), (1 - truth) * (1 - found))
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
