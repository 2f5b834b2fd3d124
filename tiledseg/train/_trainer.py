"""The Trainer: from pairs to the best segmenter that they give."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras
from tiledseg._checks import broken, settings_of
from tiledseg._progress import progress_bar
from tiledseg._version import __version__
from tiledseg.config import PlateauConfig, RunConfig, TilingConfig, TrainConfig
from tiledseg.data import CropSampler, GridCrops, as_pairs, check_apart, crops_to_cover, prepare_pairs
from tiledseg.errors import ArrayError
from tiledseg.io import write_text
from tiledseg.models import Segmenter, build_loss, build_model, load_model, training_network
from tiledseg.train._average import Averager
from tiledseg.train._callbacks import Guard, Keeper, Pulse
from tiledseg.train._feed import Feed
from tiledseg.train._metric import PooledDice
from tiledseg.train._optimizer import Plateau, build_optimizer
from tiledseg.train._run import History, new_run_dir
from tiledseg.train._seeds import computing_in, seeded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tiledseg.data import Pair, PairLike, PreparedPair

__all__ = ["Trainer", "TrainingResult"]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """What a run came to.

    Attributes
    ----------
    segmenter : Segmenter
        With the weights of the best epoch: the bundle ``best`` of the run's folder.
    history : dict of str to list of float
        ``epoch`` (from 1), ``loss``, ``dice``, ``val_loss``, ``val_dice`` and ``learning_rate`` (of
        the next step), one value per epoch.
    best_epoch : int
        The epoch of the least validation loss, from 1.
    run_dir : Path
        The run's folder: ``run.toml``, ``history.csv``, ``history.json`` and ``best/``.
    """

    segmenter: Segmenter
    history: dict[str, list[float]]
    best_epoch: int
    run_dir: Path


class Trainer:
    """Builds a network and trains it on random crops of images.

    All images are read and checked before anything else, and stay in memory, those that are not
    shrunk in their own dtype. Crops depend on the seed, the epoch and their place in it alone.
    Validation takes a fixed grid of crops that covers each image, never augmented; ``dice`` is
    that of the cut maps over all pixels together. The network of the least validation loss is
    written as a bundle as soon as it is found, so that whatever ends a run, Ctrl-C included, it
    stays.

    Parameters
    ----------
    config : TrainConfig, optional
        How the network is built and trained.
    """

    def __init__(self, config: TrainConfig | None = None) -> None:
        self.config: TrainConfig = settings_of(TrainConfig, config, "config")

    def fit(
        self,
        train: Sequence[PairLike],
        valid: Sequence[PairLike],
        *,
        progress: bool = True,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        settings: RunConfig | None = None,
    ) -> TrainingResult:
        """Train, and keep the best.

        Parameters
        ----------
        train : sequence of Pair or tuple
            Pairs to learn from; a tuple is (image, mask), each an array or a path.
        valid : sequence of Pair or tuple
            Pairs to choose the best epoch by; none of them in `train`.
        progress : bool
            Whether to show a progress bar. Each epoch's losses go to the logger ``tiledseg``.
        callbacks : sequence of keras.callbacks.Callback
            Called after the trainer's own.
        settings : RunConfig, optional
            What else the run's ``run.toml`` is to say: where the data is from, how it was split.

        Returns
        -------
        TrainingResult
            The best segmenter, the history and the run's folder.

        Raises
        ------
        SettingError
            If there are no pairs, or an image is in both sets.
        FileError
            If a file cannot be read, or the run's folder cannot be written.
        ArrayError
            If images do not fit the settings, masks do not fit their images or the classes, or no
            mask for training has any foreground.
        ModelError
            If the loss or a weight is no longer finite; the best network so far stays on disk.
        """
        pairs, unseen = as_pairs(train, "train"), as_pairs(valid, "valid")
        sources = self._sources(pairs, unseen)
        run_dir = new_run_dir(self.config.runs_dir)
        whole = settings_of(RunConfig, settings, "settings").changed(train=self.config)
        write_text(run_dir / "run.toml", whole.to_toml())
        history = History(run_dir)
        with seeded(self.config.seed):
            with computing_in(self.config.precision):
                segmenter = self._untrained(len(pairs), len(unseen))
            keeper = Keeper(segmenter, run_dir / "best", history, self.config.patience)
            network = training_network(segmenter.network, self.config.network)
            own = [Guard(run_dir / "best"), keeper, *callbacks, *self._between_epochs()]
            self._run(network, sources, own, progress)
            best = load_model(run_dir / "best")
        return TrainingResult(best, history.columns, keeper.best_epoch, run_dir)

    def _sources(self, train: list[Pair], valid: list[Pair]) -> tuple[CropSampler, GridCrops]:
        config, classes = self.config, self.config.network.classes
        check_apart(train, valid)
        every = prepare_pairs(
            [*train, *valid],
            config.preprocessing,
            classes=classes,
            memory=config.memory_mb * 10**6,
            cache_dir=config.cache_dir,
        )
        prepared, unseen = every[: len(train)], every[len(train) :]
        if not any(len(pair.foreground) for pair in prepared):
            raise broken(
                ArrayError,
                "train",
                must="have foreground in some mask",
                got="label 0 alone",
                fix="Check the masks and `mask_threshold`.",
            )
        sampler = CropSampler(
            prepared,
            config.crop_shape,
            length=self._length(prepared),
            classes=classes,
            foreground_share=config.foreground_share,
            transforms=config.transforms,
            seed=config.seed,
        )
        return sampler, GridCrops(unseen, config.crop_shape, classes=classes)

    def _length(self, pairs: Sequence[PreparedPair]) -> int:
        """Count the crops of an epoch: whole batches."""
        size = self.config.batch_size
        steps = self.config.steps_per_epoch or ceil(crops_to_cover(pairs, self.config.crop_shape) / size)
        return steps * size

    def _untrained(self, n_train: int, n_valid: int) -> Segmenter:
        config = self.config
        return Segmenter(
            network=build_model(config.network),
            architecture=config.network,
            labels=config.labels,
            preprocessing=config.preprocessing,
            threshold=config.threshold,
            tiling=config.tiling or TilingConfig(tile_size=config.crop_shape, overlap=0.25),
            provenance={
                "tiledseg": __version__,
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
                "python": platform.python_version(),
                "train_images": n_train,
                "valid_images": n_valid,
                "settings": config.model_dump(mode="json", exclude={"runs_dir"}),
            },
        )

    def _between_epochs(self) -> list[keras.callbacks.Callback]:
        averagers = [] if self.config.ema is None else [Averager()]
        schedule = self.config.schedule
        return [*averagers, *([Plateau(schedule)] if isinstance(schedule, PlateauConfig) else [])]

    def _run(
        self,
        network: keras.Model,
        sources: tuple[CropSampler, GridCrops],
        callbacks: list[Any],
        progress: bool,  # noqa: FBT001
    ) -> None:
        config = self.config
        feed, valid = (Feed(source, config.batch_size) for source in sources)
        network.compile(
            optimizer=build_optimizer(config, len(feed)),
            loss=build_loss(config.loss, config.class_weights),
            metrics=[PooledDice(config.network.classes, config.threshold)],
        )
        with progress_bar(config.epochs * len(feed), "batches", shown=progress) as advance:
            network.fit(
                feed,
                validation_data=valid,
                epochs=config.epochs,
                shuffle=False,  # the sampler mixes, by the seed
                callbacks=[Pulse(feed, advance), *callbacks],
                verbose=0,
            )
