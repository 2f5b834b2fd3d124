"""The training loop of one run, from its start or from its last checkpoint."""

from __future__ import annotations

import importlib
import os
import random
import traceback
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._backend import keras, tf
from tiledseg._memory import is_out_of_memory
from tiledseg._progress import progress_bar
from tiledseg._storage import exists, folder_lock
from tiledseg._validate import invalid, raised_as, reason_of, shown
from tiledseg.config import PlateauConfig, TilingConfig
from tiledseg.errors import ModelError, SettingError, TiledSegError
from tiledseg.models import (
    Segmenter,
    build_loss,
    builder_for,
    load_model,
    read_config,
    training_network,
)
from tiledseg.train.callbacks import (
    BestNetwork,
    EpochEnd,
    EpochProgress,
    FiniteGuard,
    Stopper,
    WeightAverage,
    metrics_of,
)
from tiledseg.train.checkpoint import Checkpointer, Restorer, latest_checkpoint, restore_variables
from tiledseg.train.inputs import Feed
from tiledseg.train.optimizer import Plateau, build_optimizer, decay_per_batch, scheduled_rate
from tiledseg.train.previews import Curves, Previews, previewed, write_overview
from tiledseg.train.run_folder import (
    History,
    check_settings,
    fixed,
    fixed_settings,
    remove_leftovers,
    versions,
)
from tiledseg.train.start import initial_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tiledseg.config import TrainConfig
    from tiledseg.train.checkpoint import Checkpoint
    from tiledseg.train.inputs import TrainingData

_BEST, _CHECKPOINTS = "best", "checkpoints"
_EXACT_ON_GPU = "--xla_gpu_deterministic_ops=true"


@dataclass(frozen=True, slots=True, eq=False)
class TrainingLoop:
    """The training loop of one run."""

    config: TrainConfig
    data: TrainingData
    run_dir: Path  # all files of the run are written here

    def run(
        self, callbacks: Sequence[keras.callbacks.Callback], *, progress: bool
    ) -> tuple[Segmenter, dict[str, list[float]]]:
        """Train until the last epoch or a stop; return the best segmenter and the history."""
        with folder_lock(self.run_dir), seeded(self.config.seed), Stopper(self.run_dir) as stopper:
            remove_leftovers(self.run_dir)
            checkpoint = latest_checkpoint(self.run_dir / _CHECKPOINTS)
            if checkpoint and checkpoint.facts.get("origin"):
                what, fix = str(self.run_dir / "run.toml"), "Restore it, or start a new run."
                check_settings(checkpoint.facts["origin"], self._origin, what, fix)
            if checkpoint:
                self._check_best()
            history = History(self.run_dir, checkpoint.facts["history"] if checkpoint else {})
            if not (checkpoint and checkpoint.facts["finished"]):
                with _sharing_batches(self.config.devices):
                    self._train(checkpoint, history, callbacks, stopper, progress)
            best = load_model(self.run_dir / _BEST)
        return best, history.columns

    @property
    def _origin(self) -> dict[str, Any]:
        """What each checkpoint of the run comes from."""
        return fixed_settings(self.config) | {"data_digest": self.data.record.digest}

    def _check_best(self) -> None:
        """Refuse to resume where the best network so far is that of another run."""
        folder = self.run_dir / _BEST
        if not exists(folder):  # as a kill may leave it: the epoch that was to replace it is repeated
            return
        stated = read_config(folder)["provenance"]
        found = fixed(stated.get("settings") or {}) | {"data_digest": stated.get("data_digest")}
        own = fixed(_described(self.config)) | {"data_digest": self.data.record.digest}
        check_settings(own, found, str(folder), "Restore it, or start a new run.")

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
            _make_deterministic()
        with precision_of_layers(config.precision):
            network = builder_for(config.network).build(blank=True) if checkpoint else initial_network(config)
            segmenter = self._segmenter(network)
            write_overview(self.run_dir, network, diagram=config.diagram)
            network = training_network(network, config.network)
        stateful = self._stateful(segmenter, history, callbacks, progress=progress)
        with ExitStack() as stack:
            train, *others = (
                Feed(source, config.batch_size, config.feed_threads, _parts_of_a_batch())
                for source in (self.data.train, self.data.valid)
                if source is not None
            )
            valid = others[0] if others else None
            for feed in (train, *others):
                stack.callback(feed.close)
            compiled(network, config, scheduled_rate(config, len(train)), config.metrics)
            done = 0
            checkpointer = Checkpointer(self.run_dir / _CHECKPOINTS, history, stateful, self._origin)
            last: list[Any] = [checkpointer, stopper]
            if checkpoint:
                restore_variables(network, checkpoint)
                done = checkpoint.facts["epoch"]
                last.append(Restorer(checkpoint, stateful))
            batches = (config.epochs - done) * len(train)
            advance = stack.enter_context(progress_bar(batches, "batches", shown=progress))
            previews = self._previews(segmenter, history)
            averages = [one for one in stateful if isinstance(one, WeightAverage) and valid is None]
            first = [EpochProgress(train, advance), *map(EpochEnd, averages)]
            order = [*first, *stateful[:2], *previews, *stateful[2:], *last]
            with _failures_named(callbacks):
                self._fit(network, train, valid, done, order)

    def _segmenter(self, network: keras.Model) -> Segmenter:
        config, record = self.config, self.data.record
        return Segmenter(
            network=network,
            architecture=config.network,
            labels=config.labels,
            preprocessing=self.data.preprocessing,
            threshold=config.threshold,
            tiling=config.tiling or TilingConfig(tile_size=config.crop_shape, overlap=0.25),
            provenance={
                **versions(),
                "train_images": len(record.data["train"]),
                "valid_images": len(record.data["valid"]),
                "data_digest": record.digest,
                "settings": _described(config),
            },
        )

    def _stateful(
        self,
        segmenter: Segmenter,
        history: History,
        callbacks: Sequence[keras.callbacks.Callback],
        *,
        progress: bool,
    ) -> list[Any]:
        """List the callbacks whose state is in the checkpoint, in the order of their calls."""
        best, schedule = self.run_dir / _BEST, self.config.schedule
        best_network = BestNetwork(segmenter, best, history, self.config.patience, shown=progress)
        decay = decay_per_batch(self.config)
        averages = [] if decay is None else [WeightAverage(decay, self.config.accumulate)]
        plateaus = [Plateau(schedule)] if isinstance(schedule, PlateauConfig) else []
        return [FiniteGuard(best), best_network, *callbacks, *averages, *plateaus]

    def _previews(self, segmenter: Segmenter, history: History) -> list[Any]:
        """List the callbacks that draw; they come after `BestNetwork`, and see averaged weights."""
        config, found = self.config, []
        if config.curves:
            found.append(Curves(self.run_dir, history))
        if config.preview_every:
            pairs = previewed(config, self.data.previewed)
            found.append(Previews(self.run_dir, segmenter, pairs, config.preview_every))
        if config.tensorboard:
            found.append(keras.callbacks.TensorBoard(str(self.run_dir / "tensorboard")))
        return found

    def _fit(
        self, network: keras.Model, train: Feed, valid: Feed | None, done: int, callbacks: list[Any]
    ) -> None:
        try:
            network.fit(
                train,
                validation_data=valid,
                epochs=self.config.epochs,
                initial_epoch=done,
                shuffle=False,  # the sampler shuffles, with the seed
                callbacks=callbacks,
                verbose=0,
            )
        except Exception:
            error = train.error or (valid and valid.error)
            if error:
                raise error from None
            raise


@contextmanager
def _failures_named(callbacks: Sequence[keras.callbacks.Callback]) -> Iterator[None]:
    """Turn an error of a caller's callback, and an end of memory, into errors that say so."""
    try:
        yield
    except TiledSegError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            fix = "Use a smaller `batch_size` or `crop_size`, or a smaller network."
            raise ModelError(f"Memory ran out in training: {shown(reason_of(error))}. {fix}") from error
        frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        for place, callback in enumerate(callbacks):
            if any(one is callback for one in frames):
                what = f"`callbacks[{place}]`, a {type(callback).__name__}, failed"
                with raised_as(SettingError, what, "Correct it, or leave it out."):
                    raise
        raise


def compiled(network: keras.Model, config: TrainConfig, rate: Any, metrics: Sequence[str]) -> None:
    """Compile a network with the optimizer, the loss and the metrics of the settings."""
    network.compile(
        optimizer=build_optimizer(config, rate),
        loss=build_loss(config.loss, config.class_weights),
        metrics=metrics_of(metrics, config.network.classes, config.threshold),
    )
    network.optimizer.build(network.trainable_variables)


def _described(config: TrainConfig) -> dict[str, Any]:
    """Return the settings for a bundle, without folders of the machine that trained it."""
    settings = config.model_dump(mode="json", exclude={"runs_dir", "cache_dir"})
    settings["network"] = config.network.portable()
    if config.start_from is not None:
        settings["start_from"] = "/".join(PurePath(config.start_from).parts[-2:])  # RUN/best
    return settings


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and Keras; afterwards the caller's global generators continue unchanged."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the caller may use it
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def precision_of_layers(precision: str) -> Iterator[None]:
    """Set the precision of new layers; afterwards Keras' earlier setting is restored."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def check_devices(config: TrainConfig) -> None:
    """Check that the backend and its devices support the settings of a run."""
    chosen = _chosen(config.devices)
    if config.batch_size % len(chosen):
        raise invalid(
            SettingError,
            "batch_size",
            must=f"be a multiple of the {len(chosen)} devices that share it",
            got=config.batch_size,
            fix=f"Use {config.batch_size // len(chosen) * len(chosen) + len(chosen)}, or devices=1.",
        )
    clip = next((name for name in ("clip", "clip_norm") if getattr(config, name) is not None), None)
    if clip and len(chosen) > 1 and keras.backend.backend() == "tensorflow":
        must = "be None where several devices of TensorFlow share a batch: each would clip its own gradient"
        fix = f"Leave {clip} out, or use devices=1, or Keras on JAX."
        raise invalid(SettingError, clip, must=must, got=getattr(config, clip), fix=fix)
    exact = _EXACT_ON_GPU in os.environ.get("XLA_FLAGS", "").split()
    if config.deterministic and keras.backend.backend() == "jax" and chosen[0][:3] == "gpu" and not exact:
        raise SettingError(
            "`deterministic` needs a flag of XLA with JAX on a GPU; got True without it. "
            f"Set XLA_FLAGS={_EXACT_ON_GPU} before Python starts, or deterministic=False."
        )


def _make_deterministic() -> None:
    """Make the backend deterministic, for the rest of this process."""
    backend = keras.backend.backend()  # JAX on a CPU always is; for a GPU see `check_devices`
    if backend == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    elif backend == "torch":
        torch: Any = importlib.import_module("torch")
        torch.use_deterministic_algorithms(True, warn_only=True)  # noqa: FBT003


@contextmanager
def _sharing_batches(devices: int | str) -> Iterator[None]:
    """Let new networks share each batch evenly among devices, each of which has all weights."""
    chosen = _chosen(devices)
    if len(chosen) == 1:
        yield
    elif keras.backend.backend() == "tensorflow":
        with tf.distribute.MirroredStrategy(chosen).scope():
            yield
    else:
        with _DataParallel(devices=chosen).scope():
            yield


def _parts_of_a_batch() -> int:
    """Count the devices of TensorFlow, each of which needs as many crops of a batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync if keras.backend.backend() == "tensorflow" else 1


class _DataParallel(keras.distribution.DataParallel):
    """Shares batches among devices; a batch that cannot be divided evenly goes to each device whole."""

    def get_data_layout(self, data_shape: Sequence[int]) -> keras.distribution.TensorLayout:
        """Return the layout of a batch; Keras uses that of the first batch for all, see `Feed`."""
        if data_shape[0] % self.num_model_replicas:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)


def _chosen(devices: int | str) -> list[str]:
    """Return the backend's names of the chosen devices."""
    backend = keras.backend.backend()
    available = _available(backend)
    if devices != "all" and int(devices) > len(available):
        raise invalid(
            SettingError,
            "devices",
            must=f"be at most {len(available)}, the number available to {backend}",
            got=devices,
            fix=f"There are {', '.join(available)}.",
        )
    return available if devices == "all" else available[: int(devices)]


def _available(backend: str) -> list[str]:
    """Return the names of all GPUs, or of the CPUs if there is no GPU."""
    if backend == "tensorflow":
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return [device.name for device in found]
    if backend == "jax":
        return [str(name) for name in keras.distribution.list_devices()]
    return ["the default device of PyTorch"]
