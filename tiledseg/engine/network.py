"""The one place that knows the kinds of model; everything after it sees a Network."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, get_args, runtime_checkable

import lazy_loader
import numpy as np

from tiledseg._validate import invalid, one_of, settings_of, whole_number
from tiledseg.config import TTA, RuntimeConfig
from tiledseg.engine.batching import Backoff, Batcher, allowed_memory, check_memory, fitting_batch, overlapped
from tiledseg.engine.callable import CallablePredictor
from tiledseg.engine.tta import COPIES, Augmented
from tiledseg.errors import ModelError, SettingError
from tiledseg.tiling import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import PreprocessingConfig, TilingConfig
    from tiledseg.engine import keras, openvino
    from tiledseg.engine.callable import Predictor
    from tiledseg.engine.keras import KerasPredictor
    from tiledseg.tiling import ReceptiveField, TileBatch
else:
    keras = lazy_loader.load("tiledseg.engine.keras", suppress_warning=True)
    openvino = lazy_loader.load("tiledseg.engine.openvino", suppress_warning=True)

__all__ = ["ModelReference", "Network"]

_log = logging.getLogger("tiledseg")
_WORTH = 1e12  # multiplications, some 10 s of two cores: conversion takes a few
_MANY = 1 << 30  # tiles: more than any image has
_FIX = "OpenVINO runs Keras networks on the TensorFlow backend: pip install 'tiledseg[fast]'."


@runtime_checkable
class Described(Protocol):
    """A network with what it needs to be used: how pixels are prepared, tiled and thresholded."""

    @property
    def network(self) -> Any:  # noqa: ANN401  Keras has no types
        """The keras.Model."""
        ...

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """How images are prepared."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        ...

    @property
    def threshold(self) -> float:
        """Where probabilities are cut, in (0, 1)."""
        ...

    @property
    def tiling(self) -> TilingConfig | None:
        """How images are tiled; None for the default."""
        ...


@runtime_checkable
class ModelReference(Protocol):
    """A segmenter that each process loads for itself."""

    @property
    def path(self) -> str:
        """The bundle's folder."""
        ...

    @property
    def digest(self) -> str:
        """What tells it from all others."""
        ...

    def load(self) -> Described:
        """Load it, once in each process."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A model of any kind, resolved once: what it takes, what it gives, and how it is run."""

    model: Any  # what computes: a keras.Model, a callable or a predictor
    predictor: Predictor  # the model, ready to be called
    runtime: RuntimeConfig  # how it is run
    reference: ModelReference | None = None  # what it was loaded from, once per process
    preprocessing: PreprocessingConfig | None = None  # how px are prepared; None for as they are
    tiling: TilingConfig | None = None  # a Segmenter's own; None for the default
    threshold: float = 0.5  # where the probabilities of one class are cut
    labels: tuple[str, ...] = ()  # name of each class; empty where not known
    tta: TTA | None = None  # a Segmenter's own test-time augmentation

    @classmethod
    def of(cls, model: object, runtime: RuntimeConfig | dict[str, Any] | None = None) -> Network:
        """Resolve a Segmenter, a keras.Model, a callable, a predictor or a reference to a bundle."""
        if isinstance(model, Network):
            return model if runtime is None else replace(model, runtime=_checked(runtime))
        settings = _checked(runtime)
        reference = model if isinstance(model, ModelReference) else None
        found = model if reference is None else reference.load()
        if not isinstance(found, Described):
            return cls(found, _predictor_of(found), settings, reference)
        return cls(
            found.network,
            _predictor_of(found.network),
            settings,
            reference,
            found.preprocessing,
            found.tiling,
            found.threshold,
            found.labels,
            getattr(found, "tta", None),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Be sent to another process as what it was made of; a bundle as its reference."""
        parts = (self.preprocessing, self.tiling, self.threshold, self.labels, self.tta)
        return _restored, (self.reference or self.model, self.runtime, parts)

    @property
    def described(self) -> bool:
        """Whether the model came with settings of its own, as a Segmenter does, and gives probabilities."""
        return self.preprocessing is not None

    @property
    def channels(self) -> int | None:
        """Input channels C; None where any number will do or is not known."""
        return self.predictor.channels

    @property
    def classes(self) -> int | None:
        """Output channels K; None where not known before the first call."""
        return self.predictor.classes

    @property
    def tile_size(self) -> tuple[int | None, int | None]:
        """Input height and width in px; None where free."""
        return self.predictor.tile_size

    @property
    def stride(self) -> tuple[int, int]:
        """Total stride (y, x) in px: input sizes and tile origins are multiples of it."""
        return self.predictor.stride

    @property
    def receptive_field(self) -> ReceptiveField:
        """What an output px depends on."""
        return getattr(self.predictor, "receptive_field", UNKNOWN)

    @property
    def memory(self) -> int:
        """Bytes that it may take for its activations when tiles and batches are chosen."""
        return allowed_memory(self.runtime.memory)

    @property
    def n_devices(self) -> int:
        """Number of devices that run it where none are named."""
        return keras.n_devices() if _is_keras_predictor(self.predictor) else 1

    @property
    def digest(self) -> str:
        """What tells its architecture and weights from all others."""
        stated = getattr(self.model, "fingerprint", None)
        if isinstance(stated, str) and stated:
            return stated
        if not hasattr(self.model, "weights") or not hasattr(self.model, "get_config"):
            raise SettingError(
                f"A {type(self.model).__name__} has nothing that tells it from others, as `resume` needs. "
                'Give the callable an attribute `fingerprint`, as in `predict.fingerprint = "v1"`.'
            )
        digest = hashlib.sha256(json.dumps(self.model.get_config(), sort_keys=True, default=str).encode())
        for weight in self.model.weights:
            values = np.ascontiguousarray(weight)
            digest.update(f"{weight.path} {values.shape} {values.dtype}".encode())
            digest.update(values.data)
        return digest.hexdigest()

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory in bytes that one tile needs inside the network."""
        return self.predictor.bytes_per_tile(tile_size)

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Raise a TiledSegError where the network does not map tiles of that size to maps of it."""
        self.predictor.check_tile(tile_size)

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        return self.predictor(tiles)

    def batch_size(self, tile_size: tuple[int, int], n_tiles: int, wanted: int | None = None) -> int:
        """Take the tiles per call that are wanted, if memory holds them, or choose them by memory."""
        n_tiles, memory = max(n_tiles, 1), self.runtime.memory
        if wanted is None:
            return fitting_batch(self.predictor, tile_size, n_tiles, memory)
        size = whole_number("batch_size", wanted)
        check_memory(self.predictor, tile_size, min(size, n_tiles), memory)
        return size

    def fastest(self, n_px: int) -> Predictor:
        """Take the engine asked for, or the one that will be done first with so many px."""
        engine, precision = self.runtime.engine, self.runtime.precision
        if engine == "keras" or (self.runtime.devices is not None and engine == "auto"):
            return self.predictor
        asked = engine == "openvino" or precision == "bf16"
        obstacle = _obstacle(self.predictor)
        if obstacle is not None and not asked:
            return self.predictor
        if obstacle is not None:
            what = "engine" if engine == "openvino" else "precision"
            raise invalid(ModelError, what, must="be available", got=obstacle, fix=_FIX)
        original: KerasPredictor = self.predictor  # type: ignore[assignment]
        if not asked and (keras.n_gpus() or original.work(n_px) < _WORTH):
            return original
        if precision == "bf16" and not openvino.computes_bf16():
            _log.warning("This processor does not multiply bf16: f32 is used.")
            precision = "f32"
        return openvino.OpenVinoPredictor(original, precision, must=asked)

    def ready(
        self, tile_size: tuple[int, int], n_tiles: int, batch_size: int, tta: TTA | None = None
    ) -> list[Callable[[AnyArray], FloatArray]]:
        """Make it ready to be run on tiles of a size: a callable for each device."""
        if tta is not None:
            one_of("tta", tta, get_args(TTA))
        if tta == "d4" and tile_size[0] != tile_size[1]:
            must = "be flips for tiles that are not square"
            raise invalid(SettingError, "tta", must=must, got="d4", fix="Use flips.")
        quick = self.fastest(n_tiles * COPIES[tta] * tile_size[0] * tile_size[1])
        predictors = [quick] if quick is not self.predictor else self._replicas()
        calls = [Backoff(one) for one in predictors]
        return list(calls) if tta is None else [Augmented(one, tta, batch_size) for one in calls]

    def _replicas(self) -> Sequence[Predictor]:
        """Give the predictor, or copies of it on several devices."""
        devices = self.runtime.devices
        if _is_keras_predictor(self.predictor):
            original: KerasPredictor = self.predictor  # type: ignore[assignment]
            return keras.replicas(original, devices)
        if devices is not None:
            raise invalid(
                ModelError,
                "devices",
                must="be None for any model but a Keras network",
                got=type(self.predictor).__name__,
                fix="Choose the device within the callable.",
            )
        return [self.predictor]

    def run(
        self,
        batches: Iterable[TileBatch],
        tile_size: tuple[int, int],
        n_tiles: int,
        batch_size: int,
        tta: TTA | None = None,
    ) -> Generator[tuple[NDArray[np.int64], FloatArray], None, None]:
        """Give ids and outputs of batches, while later ones are read and run; close it at the end."""
        calls = self.ready(tile_size, n_tiles, batch_size, tta)
        return overlapped(((batch.ids, batch.tiles) for batch in batches), calls)

    def batcher(self, n_px: int, batch_size: int | None, tta: TTA | None) -> Batcher:
        """Let several images, of so many px together, share this network."""

        def prepare(tile_size: tuple[int, int]) -> tuple[int, list[Callable[[AnyArray], FloatArray]]]:
            size = batch_size or self.batch_size(tile_size, _MANY)
            return size, self.ready(tile_size, n_px // (tile_size[0] * tile_size[1]), size, tta)

        return Batcher(self.predictor, prepare)

    def shared(self, batcher: Batcher) -> Network:
        """Give this network to one of the images that share a batcher."""
        return replace(self, predictor=batcher, runtime=RuntimeConfig(memory=self.runtime.memory), tta=None)


def _restored(model: object, runtime: RuntimeConfig, parts: tuple[Any, ...]) -> Network:
    if isinstance(model, ModelReference):
        return Network.of(model, runtime)
    return Network(model, _predictor_of(model), runtime, None, *parts)


_DEFAULT = RuntimeConfig()


def _checked(runtime: RuntimeConfig | dict[str, Any] | None) -> RuntimeConfig:
    return _DEFAULT if runtime is None else settings_of(RuntimeConfig, runtime, "runtime")


def _predictor_of(model: object) -> Predictor:
    if _is_keras(model):
        return keras.KerasPredictor(model)
    if all(hasattr(model, name) for name in ("channels", "classes", "tile_size", "stride", "bytes_per_tile")):
        ready: Predictor = model  # type: ignore[assignment]
        return ready
    if not callable(model):
        raise invalid(
            ModelError,
            "model",
            must="be a Segmenter, a keras.Model or a callable",
            got=type(model).__name__,
            fix="Load a saved one with tiledseg.load_model."
            if isinstance(model, str)
            else "Pass the network itself.",
        )
    return CallablePredictor(model)


def _obstacle(predictor: Predictor) -> str | None:
    """Say why OpenVINO cannot run a network; None where it can be tried."""
    if not _is_keras_predictor(predictor):
        return f"OpenVINO for a {type(predictor).__name__}"
    if find_spec("openvino") is None:
        return "OpenVINO, which is not installed"
    if keras.backend() != "tensorflow":
        return f"OpenVINO on the {keras.backend()} backend"
    return None


def _is_keras_predictor(predictor: Predictor) -> bool:
    """Recognise a KerasPredictor without loading Keras."""
    return type(predictor).__module__ == "tiledseg.engine.keras"


def _is_keras(model: object) -> bool:
    """Recognise a keras.Model without loading Keras."""
    return any(
        kind.__name__ == "Model" and kind.__module__.partition(".")[0] == "keras"
        for kind in type(model).__mro__
    )
