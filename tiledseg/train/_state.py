"""The whole state of a run between two epochs: taken down, and put back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._backend import keras
from tiledseg._validate import invalid
from tiledseg.errors import FileError, SettingError
from tiledseg.train._checkpoint import Checkpoint, keep_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tiledseg.train._run import History

__all__ = ["Checkpointer", "Restorer", "restore_variables"]

_OF_KERAS = {"params", "_model", "validation_data"}


class Checkpointer(keras.callbacks.Callback):
    """Writes a checkpoint at the end of each epoch; stands behind all whose state it takes down."""

    def __init__(self, folder: Path, history: History, callbacks: Sequence[Any]) -> None:
        super().__init__()
        self._folder, self._history, self._callbacks = folder, history, callbacks

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Write it."""
        arrays = {name: np.asarray(variable.numpy()) for name, variable in _variables(self.model)}
        states = []
        for place, callback in enumerate(self._callbacks):
            plain, own = _state_of(callback)
            arrays |= {f"callback/{place}/{name}": values for name, values in own.items()}
            states.append({"class": type(callback).__name__, "state": plain})
        facts = {
            "epoch": epoch + 1,
            "finished": epoch + 1 == self.params["epochs"] or bool(self.model.stop_training),
            "history": self._history.columns,
            "callbacks": states,
        }
        keep_checkpoint(self._folder, epoch + 1, Checkpoint(arrays, facts))


class Restorer(keras.callbacks.Callback):
    """Puts the state of callbacks back once all have begun; stands behind them."""

    def __init__(self, checkpoint: Checkpoint, callbacks: Sequence[Any]) -> None:
        super().__init__()
        self._checkpoint, self._callbacks = checkpoint, callbacks
        before = [entry["class"] for entry in checkpoint.facts["callbacks"]]
        now = [type(callback).__name__ for callback in callbacks]
        if before != now:
            raise invalid(
                SettingError,
                "callbacks",
                must=f"be those that the run began with, {', '.join(before)}",
                got=", ".join(now),
                fix="Pass callbacks of the same classes in the same order.",
            )

    def on_train_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """Put them back: callbacks of Keras begin anew at this very event."""
        for place, callback in enumerate(self._callbacks):
            vars(callback).update(self._checkpoint.facts["callbacks"][place]["state"])
            start = f"callback/{place}/"
            lists: dict[str, list[Any]] = {}
            for name, values in self._checkpoint.arrays.items():
                if name.startswith(start):
                    lists.setdefault(name.removeprefix(start).split("/")[0], []).append(np.array(values))
            vars(callback).update(lists)


def restore_variables(network: keras.Model, checkpoint: Checkpoint) -> None:
    """Put weights, generators of chance and the optimizer's variables back."""
    variables = dict(_variables(network))
    stored = {name for name in checkpoint.arrays if not name.startswith("callback/")}
    for name in sorted(variables.keys() | stored):
        there = tuple(variables[name].shape) if name in variables else "no such variable"
        found = checkpoint.arrays[name].shape if name in stored else "no such variable"
        if there != found:
            raise invalid(
                FileError,
                f"checkpoint: {name}",
                must=f"have the shape that the run's settings give, {there}",
                got=found,
                fix="Resume with the version of tiledseg and Keras that the run began with.",
            )
    for name, variable in variables.items():
        variable.assign(checkpoint.arrays[name])


def _variables(network: keras.Model) -> Iterator[tuple[str, Any]]:
    """Name all that a step of training changes, but for the metrics, which begin anew with each epoch."""
    metrics = {id(variable) for metric in network.metrics for variable in metric.variables}
    own = [variable for variable in network.variables if id(variable) not in metrics]
    for kind, variables in (("network", own), ("optimizer", network.optimizer.variables)):
        for place, variable in enumerate(variables):
            yield f"{kind}/{place:05d}", variable


def _state_of(callback: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the attributes of a callback that JSON can hold, and its lists of arrays."""
    plain: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, value in vars(callback).items():
        if name in _OF_KERAS:
            continue
        one = value.item() if isinstance(value, np.generic) else value
        if isinstance(one, list) and one and all(isinstance(part, np.ndarray) for part in one):
            arrays |= {f"{name}/{place:05d}": part for place, part in enumerate(one)}
        elif _is_plain(one):
            plain[name] = one
    return plain, arrays


def _is_plain(value: object) -> bool:
    """Say whether JSON gives it back as it is."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False
