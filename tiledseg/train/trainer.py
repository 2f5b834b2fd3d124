"""The trainer: from pairs to the best segmenter of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from tiledseg._backend import check_process, keras
from tiledseg._lazy import extra
from tiledseg._notebook import paragraph, side_by_side
from tiledseg._storage import check_writable
from tiledseg._validate import all_of, check_arguments, counted, invalid, path_text, settings_of
from tiledseg.config import TRAIN_AND_VALID, RunConfig, TrainConfig
from tiledseg.data import as_pairs, split_pairs, write_manifest
from tiledseg.errors import SettingError
from tiledseg.plots import curves
from tiledseg.train.inputs import training_data
from tiledseg.train.loop import TrainingLoop, check_devices
from tiledseg.train.previews import check_drawable, previewed
from tiledseg.train.run_folder import (
    check_settings,
    fixed_settings,
    new_run_dir,
    read_settings,
    recorded_pairs,
)
from tiledseg.train.start import initial_network, warn_of_preparation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import PathLike
    from tiledseg.config import Record
    from tiledseg.data import PairLike
    from tiledseg.models import Segmenter


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainingResult:
    """The result of a run.

    Attributes
    ----------
    segmenter : Segmenter
        The segmenter with the weights of the best epoch, or without validation of the last one: the
        bundle ``best`` in the run's folder.
    history : dict of str to list of float
        ``epoch`` (from 1), ``loss``, ``dice``, ``val_loss``, ``val_dice`` and ``learning_rate`` (of
        the next step), one value per epoch. Without validation, those that begin with ``val_`` are absent.
    best_epoch : int
        The epoch with the least validation loss, from 1; without validation the last one.
    run_dir : Path
        The run's folder: ``run.toml``, ``run.json``, ``model.txt``, ``history.csv``,
        ``history.json``, ``checkpoints/`` and ``best/``.
    """

    segmenter: Segmenter
    history: dict[str, list[float]]
    best_epoch: int
    run_dir: Path

    def __repr__(self) -> str:
        dice = "val_dice" if "val_dice" in self.history else "dice"
        score = self.history[dice][self.history["epoch"].index(self.best_epoch)]
        epochs, best = counted(len(self.history["epoch"]), "epoch"), f"best {self.best_epoch}"
        return f"TrainingResult({epochs}, {best} with {dice} {score:.4f}, in {self.run_dir})"

    def _repr_html_(self) -> str:
        epochs = self.history["epoch"]
        both = [
            {name: self.history[name] for name in (kind, f"val_{kind}") if name in self.history}
            for kind in ("loss", "dice")
        ]
        charts = (curves(next(iter(columns)), "epoch", epochs, columns) for columns in both)
        return paragraph(self) + side_by_side(*(chart.figure() for chart in charts))


class Trainer:
    """Builds a network and trains it on random crops of images.

    All images are read and checked first, and stay in memory or in a cache; images that are not
    resized stay in their own dtype. Crops depend only on the seed, the epoch and their index.
    Validation uses a fixed grid of crops that covers each image, without augmentation; ``dice`` is
    computed from the thresholded maps over all pixels together. The network with the least
    validation loss is saved as a bundle at once, so that it is available however the run ends.

    Each epoch ends with a checkpoint, from which `resume` continues as if the run had never been
    interrupted, bit for bit. Ctrl-C, SIGTERM, or a file ``stop`` in the run's folder stops a run
    after the epoch; a second Ctrl-C or SIGTERM stops it at once.

    Parameters
    ----------
    config : TrainConfig or dict, optional
        Settings of the network and its training.
    **unknown : Never
        No other argument is accepted; the error shows how a setting is given.
    """

    def __init__(self, config: TrainConfig | dict[str, Any] | None = None, **unknown: Never) -> None:
        check_arguments(unknown, Trainer, config=TrainConfig)
        self.config: TrainConfig = settings_of(TrainConfig, config, "config")

    def fit(
        self,
        train: Sequence[PairLike],
        valid: Sequence[PairLike] | None = None,
        *,
        progress: bool = True,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        settings: RunConfig | dict[str, Any] | None = None,
    ) -> TrainingResult:
        """Train a network, and save the best one.

        Parameters
        ----------
        train : sequence of Pair or tuple
            Pairs to learn from; a tuple is (image, mask), each an array or a path.
        valid : sequence of Pair or tuple, optional
            Pairs to choose the best epoch by; none of them may be in `train`. Where it is None, a part of
            `train` is set apart, which has to be files: a fifth, or by the ``split`` of `settings`. The
            run's ``split.jsonl`` lists which image is in which part. With ``validation=False`` of the
            settings it must be None, and all of `train` is used for training.
        progress : bool
            Whether to show a progress bar, and a line for each epoch. The line goes to the logger
            ``tiledseg``; where nothing shows that, it is written beside the bar.
        callbacks : sequence of keras.callbacks.Callback
            Called after the trainer's own callbacks. The checkpoint contains those of their
            attributes that JSON can represent, and lists of arrays.
        settings : RunConfig or dict, optional
            Other contents of the run's ``run.toml``: where the data is from, how it was split.

        Returns
        -------
        TrainingResult
            The best segmenter, the history and the run's folder.

        Raises
        ------
        SettingError
            If there are no pairs, an image is in both sets, `valid` is given although the settings
            do without validation, `callbacks` contains anything else,
            ``start_from`` contains weights for another network, or a package that a setting needs
            is not installed.
        FileError
            If a file cannot be read, or the run's folder cannot be written.
        ArrayError
            If images do not fit the settings, masks do not fit their images or the classes, or no
            mask for training has any foreground.
        BundleError
            If ``start_from`` is not a bundle.
        ModelError
            If the loss or a weight is no longer finite; the best network so far remains on disk.
        """
        checked = _checked_callbacks(self.config, callbacks)
        run = settings_of(RunConfig, settings, "settings").changed(train=self.config)
        if self.config.start_from is not None:
            initial_network(self.config)  # a wrong one is refused before all images are read
        check_writable(self.config.runs_dir, keep=False)
        records: list[Record] = []
        if not self.config.validation:
            _check_absent(valid)
            valid = ()
        elif valid is None:
            beside = Path(self.config.runs_dir).resolve() / "run"  # paths are the same from any run's folder
            classes = self.config.network.classes
            train, valid, records = split_pairs(train, run.split, beside, classes, progress=progress)
            run = run.changed(split=run.split or TRAIN_AND_VALID)
        train = as_pairs(train, "train")  # once: an iterator gives them only once
        valid = as_pairs(valid, "valid") if self.config.validation else []
        previewed(self.config, valid or train)  # wrong ones are refused before all images are read
        data = training_data(self.config, train, valid)
        warn_of_preparation(self.config, data.preprocessing)
        run_dir = new_run_dir(self.config.runs_dir)
        data.record.write(run_dir, run)
        if records:
            write_manifest(run_dir / "split.jsonl", records)
        return _result(TrainingLoop(self.config, data, run_dir), checked, progress=progress)

    @classmethod
    def resume(
        cls,
        run_dir: PathLike,
        train: Sequence[PairLike] | None = None,
        valid: Sequence[PairLike] | None = None,
        *,
        config: TrainConfig | dict[str, Any] | None = None,
        progress: bool = True,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> TrainingResult:
        """Resume a run that was interrupted or killed at any moment.

        With the same versions on the same machine, weights, optimizer and history become those of
        a run that was never interrupted, bit for bit. A finished run is read, not trained again.

        Parameters
        ----------
        run_dir : path
            The run's folder.
        train, valid : sequence of Pair or tuple, optional
            The same pairs as before; None uses the files that the run read.
        config : TrainConfig or dict, optional
            Compared with the run's own settings; None uses those. Only settings that do not change
            the trained network may differ, for example memory and threads.
        progress : bool
            As for `fit`.
        callbacks : sequence of keras.callbacks.Callback
            As for `fit`: of the same classes in the same order.

        Returns
        -------
        TrainingResult
            As from `fit`.

        Raises
        ------
        FileError
            If the folder is not that of a run, another process trains in it, or all checkpoints are
            damaged.
        SettingError
            If settings, pairs or callbacks differ from those at the start of the run, or ``best`` is the
            network of another one.
        ModelError
            As from `fit`.
        """
        folder = Path(path_text(run_dir, "run_dir")).resolve()
        known = read_settings(folder)
        if config is not None:
            wanted = settings_of(TrainConfig, config, "config")
            fix = "Resume without settings, or start a new run."
            check_settings(fixed_settings(known), fixed_settings(wanted), "config", fix)
            known = wanted
        checked = _checked_callbacks(known, callbacks)
        if not known.validation:
            _check_absent(valid)
            valid = ()
        if train is None or valid is None:
            recorded = recorded_pairs(folder)
            train = recorded[0] if train is None else train
            valid = recorded[1] if valid is None else valid
        data = training_data(known, train, valid)
        data.record.check(folder)
        return _result(TrainingLoop(known, data, folder), checked, progress=progress)


def _check_absent(valid: object) -> None:
    """Check that no validation data is given, where the settings do without it."""
    if valid is not None:
        fix = "Leave `valid` out, or set validation=True."
        must = "be None with validation=False"
        raise invalid(SettingError, "valid", must=must, got=type(valid).__name__, fix=fix)


def _checked_callbacks(
    config: TrainConfig, callbacks: Sequence[keras.callbacks.Callback]
) -> list[keras.callbacks.Callback]:
    """Check settings and callbacks before the run's folder is created; return the callbacks."""
    check_process()
    if config.tensorboard:
        extra("tensorboard", "tensorboard")  # otherwise the first epoch would fail at its end
    if config.diagram:
        check_drawable()
    check_devices(config)
    fix = "Pass objects of keras.callbacks.Callback, or leave it out."
    return all_of(keras.callbacks.Callback, callbacks, "callbacks", fix)


def _result(
    loop: TrainingLoop, callbacks: Sequence[keras.callbacks.Callback], *, progress: bool
) -> TrainingResult:
    segmenter, history = loop.run(callbacks, progress=progress)
    losses = history.get("val_loss")
    best_epoch = int(history["epoch"][losses.index(min(losses)) if losses else -1])
    return TrainingResult(segmenter, history, best_epoch, loop.run_dir)
