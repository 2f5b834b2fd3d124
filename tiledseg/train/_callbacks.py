"""What happens between epochs: diverged runs stop, losses are written down, the best network is kept."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._backend import keras
from tiledseg._validate import invalid
from tiledseg.errors import ModelError
from tiledseg.train._optimizer import rate_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tiledseg.models import Segmenter
    from tiledseg.train._feed import Feed
    from tiledseg.train._run import History

__all__ = ["Guard", "Keeper", "Pulse"]

_log = logging.getLogger("tiledseg")


class Pulse(keras.callbacks.Callback):
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


class Guard(keras.callbacks.Callback):
    """Stops a run whose loss or weights are no longer finite.

    A finite loss is no proof: a ReLU can swallow the NaN of a weight.
    """

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
        for variable in self.model.weights:
            values = variable.numpy()
            if not np.isfinite(values).all():
                self._check(variable.path, math.nan)
        self._check("val_loss", float(logs["val_loss"]))

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            kept = f"kept in {self._folder}" if self._folder.exists() else "none"
            got = f"{value} in epoch {self._epoch}"
            fix = f"Lower `learning_rate`, or set `clip`. Best network so far: {kept}."
            raise invalid(ModelError, what, must="stay finite in training", got=got, fix=fix)


class Keeper(keras.callbacks.Callback):
    """Records each epoch, saves the best network, and stops when none is better."""

    def __init__(self, segmenter: Segmenter, folder: Path, history: History, patience: int | None) -> None:
        super().__init__()
        self._segmenter, self._folder, self._history, self._patience = segmenter, folder, history, patience
        self._least, self.best_epoch = math.inf, 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Write, keep, and stop."""
        values = {name: float(value) for name, value in logs.items()}
        values["learning_rate"] = rate_of(self.model)
        better = values["val_loss"] < self._least
        if better:
            facts = {**self._segmenter.provenance, "best_epoch": epoch + 1, **values}
            self._segmenter.changed(provenance=facts).save(self._folder, overwrite=True)
            self._least, self.best_epoch = values["val_loss"], epoch + 1
        self._history.add(epoch + 1, values)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        _log.info("epoch %d of %d: %s%s", epoch + 1, self.params["epochs"], shown, ", best" if better else "")
        if self._patience is not None and epoch + 1 - self.best_epoch >= self._patience:
            self.model.stop_training = True
