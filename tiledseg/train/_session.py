"""One run in its folder, from its beginning or from its last checkpoint."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras
from tiledseg._progress import progress_bar
from tiledseg.config import PlateauConfig, TilingConfig
from tiledseg.io import locked
from tiledseg.models import Segmenter, build_loss, load_model, training_network
from tiledseg.models.architectures import builder_for
from tiledseg.train._average import Averager
from tiledseg.train._callbacks import Guard, Keeper, Pulse
from tiledseg.train._checkpoint import latest_checkpoint
from tiledseg.train._feed import Feed
from tiledseg.train._metric import metrics_of
from tiledseg.train._optimizer import Plateau, build_optimizer, scheduled_rate
from tiledseg.train._overview import write_overview
from tiledseg.train._pictures import Curves, Previews
from tiledseg.train._platform import on_devices, repeat_exactly
from tiledseg.train._record import versions
from tiledseg.train._run import History, remove_leftovers
from tiledseg.train._seeds import computing_in, seeded
from tiledseg.train._start import build_start
from tiledseg.train._state import Checkpointer, Restorer, restore_variables
from tiledseg.train._stopping import Stopper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tiledseg.config import TrainConfig
    from tiledseg.train._checkpoint import Checkpoint
    from tiledseg.train._sources import Sources

__all__ = ["Session"]

_BEST, _CHECKPOINTS = "best", "checkpoints"


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A run: what it takes, and where it writes."""

    config: TrainConfig  # the settings
    sources: Sources  # the crops
    run_dir: Path  # the folder

    def run(
        self, callbacks: Sequence[keras.callbacks.Callback], *, progress: bool
    ) -> tuple[Segmenter, dict[str, list[float]]]:
        """Train until the end, or until it is asked to stop."""
        with locked(self.run_dir), seeded(self.config.seed), Stopper(self.run_dir) as stopper:
            remove_leftovers(self.run_dir)
            checkpoint = latest_checkpoint(self.run_dir / _CHECKPOINTS)
            history = History(self.run_dir, checkpoint.facts["history"] if checkpoint else {})
            if not (checkpoint and checkpoint.facts["finished"]):
                self._train(checkpoint, history, callbacks, stopper, progress)
            best = load_model(self.run_dir / _BEST)
        return best, history.columns

    def _train(
        self,
        checkpoint: Checkpoint | None,
        history: History,
        callbacks: Sequence[keras.callbacks.Callback],
        stopper: Stopper,
        progress: bool,  # noqa: FBT001
    ) -> None:
        config = self.config
        if config.deterministic:
            repeat_exactly()
        with ExitStack() as stack:
            stack.enter_context(on_devices(config.devices))
            with computing_in(config.precision):
                segmenter = self._untrained(
                    builder_for(config.network).build(blank=True) if checkpoint else build_start(config)
                )
                write_overview(self.run_dir, segmenter.network, diagram=config.diagram)
                network = training_network(segmenter.network, config.network)
            stateful = self._stateful(segmenter, history, callbacks)
            feed, valid = (
                Feed(source, config.batch_size, config.feed_threads)
                for source in (self.sources.train, self.sources.valid)
            )
            stack.callback(feed.close)
            stack.callback(valid.close)
            self._compile(network, len(feed))
            done = 0
            last: list[Any] = [Checkpointer(self.run_dir / _CHECKPOINTS, history, stateful), stopper]
            if checkpoint:
                restore_variables(network, checkpoint)
                done = checkpoint.facts["epoch"]
                last.append(Restorer(checkpoint, stateful))
            batches = (config.epochs - done) * len(feed)
            advance = stack.enter_context(progress_bar(batches, "batches", shown=progress))
            shown = self._shown(segmenter, history)
            order = [Pulse(feed, advance), *stateful[:2], *shown, *stateful[2:], *last]
            self._fit(network, feed, valid, done, order)

    def _stateful(
        self, segmenter: Segmenter, history: History, callbacks: Sequence[keras.callbacks.Callback]
    ) -> list[Any]:
        """List the callbacks whose state belongs to the run, in the order in which they act."""
        best, schedule = self.run_dir / _BEST, self.config.schedule
        keeper = Keeper(segmenter, best, history, self.config.patience)
        averagers = [] if self.config.ema is None else [Averager(self.config.ema)]
        plateaus = [Plateau(schedule)] if isinstance(schedule, PlateauConfig) else []
        return [Guard(best), keeper, *callbacks, *averagers, *plateaus]

    def _shown(self, segmenter: Segmenter, history: History) -> list[Any]:
        """List what is only looked at; it stands behind the keeper, and sees averaged weights."""
        config, shown = self.config, []
        if config.curves:
            shown.append(Curves(self.run_dir, history))
        if config.preview_every:
            images = self.sources.unseen[: config.preview_images]
            shown.append(Previews(self.run_dir, segmenter, images, config.preview_every))
        if config.tensorboard:
            shown.append(keras.callbacks.TensorBoard(str(self.run_dir / "tensorboard")))
        return shown

    def _compile(self, network: keras.Model, steps: int) -> None:
        config = self.config
        network.compile(
            optimizer=build_optimizer(config, scheduled_rate(config, steps)),
            loss=build_loss(config.loss, config.class_weights),
            metrics=metrics_of(config.metrics, config.network.classes, config.threshold),
        )
        network.optimizer.build(network.trainable_variables)

    def _fit(self, network: keras.Model, feed: Feed, valid: Feed, done: int, callbacks: list[Any]) -> None:
        try:
            network.fit(
                feed,
                validation_data=valid,
                epochs=self.config.epochs,
                initial_epoch=done,
                shuffle=False,  # the sampler mixes, by the seed
                callbacks=callbacks,
                verbose=0,
            )
        except Exception:
            error = feed.error or valid.error
            if error:
                raise error from None
            raise

    def _untrained(self, network: keras.Model) -> Segmenter:
        config, data = self.config, self.sources.record.data
        return Segmenter(
            network=network,
            architecture=config.network,
            labels=config.labels,
            preprocessing=config.preprocessing,
            threshold=config.threshold,
            tiling=config.tiling or TilingConfig(tile_size=config.crop_shape, overlap=0.25),
            provenance={
                **versions(),
                "train_images": len(data["train"]),
                "valid_images": len(data["valid"]),
                "data_digest": self.sources.record.digest,
                "settings": _told(config),
            },
        )


def _told(config: TrainConfig) -> dict[str, Any]:
    """Give the settings that a bundle tells of: no folders of the machine that it was trained on."""
    settings = config.model_dump(mode="json", exclude={"runs_dir", "cache_dir"})
    settings["network"] = config.network.told()
    if config.start_from is not None:
        settings["start_from"] = "/".join(PurePath(config.start_from).parts[-2:])  # the run, and what of it
    return settings
