"""The one place that knows the kinds of model; everything after it sees a Network."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, get_args, runtime_checkable

import lazy_loader
import numpy as np

from tiledseg._validate import invalid, one_of, settings_of, whole_number
from tiledseg.config import TTA, RuntimeConfig
from tiledseg.engine._callable import CallablePredictor
from tiledseg.engine._halving import Halving
from tiledseg.engine._memory import allowed_memory, check_memory, fitting_batch
from tiledseg.engine.tta import Augmented, n_copies
from tiledseg.errors import ModelError, SettingError
from tiledseg.tiling import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import PreprocessingConfig, TilingConfig
    from tiledseg.engine import _device, _keras, _openvino, _replicas
    from tiledseg.tiling import ReceptiveField
else:
    _device = lazy_loader.load("tiledseg.engine._device", suppress_warning=True)
    _keras = lazy_loader.load("tiledseg.engine._keras", suppress_warning=True)
    _openvino = lazy_loader.load("tiledseg.engine._openvino", suppress_warning=True)
    _replicas = lazy_loader.load("tiledseg.engine._replicas", suppress_warning=True)

__all__ = ["ModelReference", "Network", "Predictor"]

_log = logging.getLogger("tiledseg")
_WORTH = 1e12  # multiplications, some 10 s of two cores: conversion takes a few
_FIX = "OpenVINO runs Keras networks on the TensorFlow backend: pip install 'tiledseg[fast]'."


class Predictor(Protocol):
    """A network made ready to be called on batches of tiles."""

    @property
    def channels(self) -> int | None:
        """Input channels C; None where any number will do or is not known."""
        ...

    @property
    def classes(self) -> int | None:
        """Output channels K; None where not known before the first call."""
        ...

    @property
    def tile_size(self) -> tuple[int | None, int | None]:
        """Input height and width in px; None where free."""
        ...

    @property
    def stride(self) -> tuple[int, int]:
        """Total stride (y, x) in px: input sizes and tile origins are multiples of it."""
        ...

    @property
    def receptive_field(self) -> ReceptiveField:
        """What an output px depends on."""
        ...

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory in bytes that one tile needs inside the network."""
        ...

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Raise a TiledSegError where the network does not map tiles of that size to maps of it."""
        ...

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        ...


@runtime_checkable
class SegmenterLike(Protocol):
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

    def load(self) -> SegmenterLike:
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
    def of(cls, model: object, runtime: RuntimeConfig | None = None) -> Network:
        """Resolve a Segmenter, a keras.Model, a callable, a predictor or a reference to a bundle."""
        if isinstance(model, Network):
            return model if runtime is None else replace(model, runtime=_checked(runtime))
        settings = _checked(runtime)
        reference = model if isinstance(model, ModelReference) else None
        found = model if reference is None else reference.load()
        if not isinstance(found, SegmenterLike):
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
            getattr(found, "views", None),
        )

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
        """Number of devices that it is run on where none are named."""
        if not _is_keras_predictor(self.predictor) or _device.backend() != "tensorflow":
            return 1
        return max(1, _device.n_gpus())

    @property
    def digest(self) -> str:
        """What tells its architecture and weights from all others."""
        stated = getattr(self.model, "fingerprint", None)
        if isinstance(stated, str) and stated:
            return stated
        if not hasattr(self.model, "weights") or not hasattr(self.model, "get_config"):
            raise invalid(
                SettingError,
                "resume",
                must="meet a model that can be told from others",
                got=type(self.model).__name__,
                fix='Give the callable an attribute `fingerprint`, as in `predict.fingerprint = "v1"`.',
            )
        return _sum_of(json.dumps(self.model.get_config(), sort_keys=True, default=str), self.model.weights)

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
        n_tiles, budget = max(n_tiles, 1), self.runtime.memory
        if wanted is None:
            return fitting_batch(self.predictor, tile_size, n_tiles, budget)
        size = whole_number("batch_size", wanted)
        check_memory(self.predictor, tile_size, min(size, n_tiles), budget)
        return size

    def fastest(self, n_px: int) -> Predictor:
        """Take the engine asked for, or the one that will be done first with so many px."""
        return fastest(self.predictor, n_px, self.runtime.engine, self.runtime.precision)

    def ready(
        self, tile_size: tuple[int, int], n_tiles: int, batch_size: int, tta: TTA | None = None
    ) -> list[Callable[[AnyArray], FloatArray]]:
        """Make it ready to be run on tiles of a size: a callable for each device."""
        return networks_for(self.predictor, self.runtime, tile_size, n_tiles, batch_size, tta)

    def shared(self, predictor: Predictor) -> Self:
        """Put a predictor that several images share, augmentation included, in the place of its own."""
        return replace(self, predictor=predictor, runtime=RuntimeConfig(memory=self.runtime.memory), tta=None)


def _checked(runtime: RuntimeConfig | None) -> RuntimeConfig:
    return settings_of(RuntimeConfig, runtime, "runtime")


def _predictor_of(model: object) -> Predictor:
    if _is_keras(model):
        return _keras.KerasPredictor(model)
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


def predictor_for(model: object) -> Predictor:
    """Make a network ready to be called on batches of tiles."""
    return Network.of(model).predictor


def fastest(
    predictor: Predictor,
    n_px: int,
    engine: Literal["auto", "keras", "openvino"] = "auto",
    precision: Literal["f32", "bf16"] = "f32",
) -> Predictor:
    """Take the engine asked for, or the one that will be done first."""
    if engine == "keras":
        return predictor
    asked = engine == "openvino" or precision == "bf16"
    obstacle = _obstacle(predictor)
    if obstacle is not None:
        if asked:
            what = "engine" if engine == "openvino" else "precision"
            raise invalid(ModelError, what, must="be available", got=obstacle, fix=_FIX)
        return predictor
    keras: _keras.KerasPredictor = predictor  # type: ignore[assignment]
    if not asked and (_device.n_gpus() or keras.work(n_px) < _WORTH):
        return predictor
    if precision == "bf16" and not _openvino.computes_bf16():
        _log.warning("This processor does not multiply bf16: f32 is used.")
        precision = "f32"
    return _openvino.OpenVinoPredictor(keras, precision, must=asked)


def networks_for(
    predictor: Predictor,
    runtime: RuntimeConfig,
    tile_size: tuple[int, int],
    n_tiles: int,
    batch_size: int,
    tta: TTA | None,
) -> list[Callable[[AnyArray], FloatArray]]:
    """Make a network ready to be run, once for each device."""
    if tta is not None:
        one_of("tta", tta, get_args(TTA))
    if tta == "d4" and tile_size[0] != tile_size[1]:
        raise invalid(
            SettingError, "tta", must="be flips for tiles that are not square", got="d4", fix="Use flips."
        )
    engine = runtime.engine if runtime.devices is None or runtime.engine == "openvino" else "keras"
    n_px = n_tiles * n_copies(tta) * tile_size[0] * tile_size[1]
    quick = fastest(predictor, n_px, engine, runtime.precision)
    networks = [
        Halving(one) for one in ([quick] if quick is not predictor else _copies(predictor, runtime.devices))
    ]
    if tta is None:
        return list(networks)
    return [Augmented(one, tta, batch_size) for one in networks]


def _copies(predictor: Predictor, devices: Sequence[str] | None) -> list[Predictor]:
    if _is_keras_predictor(predictor):
        keras: _keras.KerasPredictor = predictor  # type: ignore[assignment]
        return _replicas.replicas(keras, devices)
    if devices is not None:
        raise invalid(
            ModelError,
            "devices",
            must="be None but for a Keras network",
            got=type(predictor).__name__,
            fix="Choose the device within the callable.",
        )
    return [predictor]


def _obstacle(predictor: Predictor) -> str | None:
    """Say why OpenVINO cannot run a network; None where it can be tried."""
    if not _is_keras_predictor(predictor):
        return f"OpenVINO for a {type(predictor).__name__}"
    if find_spec("openvino") is None:
        return "OpenVINO, which is not installed"
    if _device.backend() != "tensorflow":
        return f"OpenVINO on the {_device.backend()} backend"
    return None


def _is_keras_predictor(predictor: Predictor) -> bool:
    """Recognise a KerasPredictor without loading Keras."""
    return type(predictor).__module__ == "tiledseg.engine._keras"


def _is_keras(model: object) -> bool:
    """Recognise a keras.Model without loading Keras."""
    return any(
        kind.__name__ == "Model" and kind.__module__.partition(".")[0] == "keras"
        for kind in type(model).__mro__
    )


def _sum_of(text: str, weights: Iterable[Any]) -> str:
    digest = hashlib.sha256(text.encode())
    for weight in weights:
        values = np.ascontiguousarray(weight)
        digest.update(f"{weight.path} {values.shape} {values.dtype}".encode())
        digest.update(values.data)
    return digest.hexdigest()
