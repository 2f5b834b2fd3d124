"""Network: a model of any kind, resolved once; no other module distinguishes kinds of model."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiledseg._lazy import lazy
from tiledseg._memory import allowed_memory
from tiledseg._storage import exists
from tiledseg._validate import invalid, settings_of, whole_number
from tiledseg.config import RuntimeConfig
from tiledseg.engine.batching import Augmented, Backoff, Batcher, check_memory, fitting_batch, overlapped
from tiledseg.engine.layers import (
    Convertible,
    StoredNetwork,
    StoredPredictor,
    UnsupportedError,
    config_digest,
)
from tiledseg.engine.predictor import (
    CallablePredictor,
    EngineChooser,
    ModelReference,
    SegmenterLike,
    activated,
    check_probabilities,
    warn_of_sums,
    with_activation,
)
from tiledseg.engine.torch import TorchPredictor
from tiledseg.errors import ModelError, SettingError
from tiledseg.tiling import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import TTA, Activation, PreprocessingConfig, TilingConfig
    from tiledseg.engine import keras, onnx, openvino
    from tiledseg.engine.predictor import Predictor
    from tiledseg.tiling import ReceptiveField, TileBatch
else:
    keras = lazy("tiledseg.engine.keras")
    onnx = lazy("tiledseg.engine.onnx")
    openvino = lazy("tiledseg.engine.openvino")

_DEFAULT = RuntimeConfig()
_OWN = ("preprocessing", "tiling", "threshold", "labels", "tta", "activation", "provenance")  # of a Segmenter
_MANY = 1 << 30  # tiles: more than any image has
_FIX = "OpenVINO needs a Keras network or a bundle, and `pip install openvino`."
_GPUS = ("nvidia0", "nvidiactl", "kfd", "dxg")  # of /dev: NVIDIA's, AMD's, and those of Windows in WSL
_USED = {"tensorflow": 0.6, "openvino": 0.39}  # of the upper bound of a network's activations; measured
_LIBRARY_BYTES = {"tensorflow": 750 << 20, "openvino": 40 << 20}
_FIRST_BYTES = {"tensorflow": 60 << 20, "openvino": 10 << 20}  # of the first call
_COMPARED_BYTES = 320 << 20  # of TensorFlow, which first runs a Keras network on a test tile


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A model of any kind, resolved once: its inputs, outputs and settings, and how to run it."""

    model: Any  # a keras.Model, a StoredNetwork, a callable or a predictor
    predictor: Predictor  # the model, ready to be called
    runtime: RuntimeConfig
    reference: ModelReference | None = None  # the bundle that it was loaded from, where known
    preprocessing: PreprocessingConfig | None = None  # a Segmenter's own; None for px as they are
    tiling: TilingConfig | None = None  # a Segmenter's own; None for the default
    threshold: float = 0.5  # of the probabilities of one class
    labels: tuple[str, ...] = ()  # name of each class; empty where not known
    tta: TTA | None = None  # test-time augmentation: a Segmenter's own, or that of a prediction
    activation: Activation | None = None  # of the outputs, which are logits then
    provenance: Mapping[str, Any] = field(default_factory=dict)  # of a Segmenter: how it was trained

    @classmethod
    def of(cls, model: object, runtime: RuntimeConfig | dict[str, Any] | None = None) -> Network:
        """Resolve a Segmenter, a keras.Model, a callable, a predictor or a reference to a bundle."""
        if isinstance(model, Network):
            return model if runtime is None else model.changed(_runtime_of(runtime))
        settings, model = _runtime_of(runtime), _plain(model)
        reference = model if isinstance(model, ModelReference) else None
        found = model if reference is None else reference.load()
        if not isinstance(found, SegmenterLike):
            predictor = _predictor_of(found)
            _check_activation(found, predictor, settings.activation)
            return cls(found, predictor, settings, reference, activation=settings.activation)
        runnable = getattr(found, "runnable" if hasattr(found, "runnable") else "network")
        own = {name: getattr(found, name) for name in _OWN if hasattr(found, name)}
        segmenter = cls(runnable, _predictor_of(runnable), settings, reference, **own)
        return segmenter.changed(settings)

    def changed(self, runtime: RuntimeConfig) -> Network:
        """Copy this network for another runtime, whose activation goes before a Segmenter's own."""
        _check_activation(self.model, self.predictor, runtime.activation)
        return replace(self, runtime=runtime, activation=runtime.activation or self.activation)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model and its settings; a bundle as its reference."""
        own = {name: getattr(self, name) for name in _OWN}
        return _restored, (self.reference or self.model, self.runtime, own)

    @property
    def has_settings(self) -> bool:
        """Whether the model has settings of its own, as a Segmenter; its outputs are then probabilities."""
        return self.preprocessing is not None

    @property
    def channels(self) -> int | None:
        """Input channels C; None where any number is accepted or it is not known."""
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
        y, x = self.predictor.stride
        return (lcm(y, x), lcm(y, x)) if self.tta == "d4" else (y, x)  # transposed copies need both

    @property
    def receptive_field(self) -> ReceptiveField:
        """What an output px depends on."""
        field = getattr(self.predictor, "receptive_field", UNKNOWN)
        return field if self.tta is None else field.of_copies(transposed=self.tta == "d4")

    @property
    def likely_stride(self) -> int:
        """Stride that networks of its kind have, where its own is not known; else 1."""
        return int(getattr(self.predictor, "likely_stride", 1))

    @property
    def computes_half(self) -> bool:
        """Whether it computes in 16 bits by itself."""
        return bool(getattr(self.predictor, "computes_half", False))

    @property
    def tile_dtype(self) -> type | None:
        """Dtype in which its tiles are best cut; None for that of the image."""
        return getattr(self.predictor, "tile_dtype", None)

    @property
    def writes_tiles(self) -> bool:
        """Whether it may write into its tiles, so that none may be a part of the image itself."""
        return not getattr(self.predictor, "writes_no_tile", False)

    @property
    def memory(self) -> int:
        """Bytes that its activations may use."""
        return allowed_memory(self.runtime.memory)

    @property
    def n_devices(self) -> int:
        """Number of devices that run it by default."""
        if not isinstance(self.predictor, Convertible):
            return 1
        return keras.n_devices() if _n_gpus() > 1 else 1

    @property
    def digest(self) -> str:
        """Digest of its architecture and weights."""
        stated = getattr(self.model, "fingerprint", None)
        if isinstance(stated, str) and stated:
            return stated
        if isinstance(self.predictor, Convertible):
            with suppress(UnsupportedError):
                return self.predictor.layers().digest(self.predictor.weights())
        if isinstance(self.predictor, TorchPredictor):
            with suppress(Exception):  # of weights in a form of their own, as quantized ones
                return self.predictor.digest()
        if not hasattr(self.model, "weights") or not hasattr(self.model, "get_config"):
            raise SettingError(
                f"A {type(self.model).__name__} has no fingerprint, by which `resume` recognises a model. "
                'Give the callable an attribute `fingerprint`, as in `predict.fingerprint = "v1"`.'
            )
        return config_digest(self.model)

    @property
    def engine_bytes(self) -> int:
        """Estimate what its engine adds to the memory of the process: libraries, copies of weights."""
        if not isinstance(self.predictor, Convertible):
            return int(getattr(self._sized, "engine_bytes", 0))
        weights = 4 * int(self.predictor.model.count_params())
        library = self._library
        own = (0 if library in sys.modules else _LIBRARY_BYTES[library]) + _FIRST_BYTES[library]
        if library == "tensorflow":
            return weights + own
        # The graph has a copy of the weights, and its kernels have another in their own order.
        compared = 0 if isinstance(self.predictor.model, StoredNetwork) else _COMPARED_BYTES
        return 2 * weights + own + compared

    @property
    def _library(self) -> str:
        """Name of the library that runs a Keras network."""
        asked = self.runtime.engine == "openvino" or self.runtime.precision == "bf16"
        by_keras = self.runtime.engine == "keras" or self._obstacle(asked=asked) is not None
        return "tensorflow" if by_keras else "openvino"

    @property
    def _sized(self) -> Predictor:
        """The predictor whose memory counts: that of the engine, where engines differ."""
        return self.fastest() if hasattr(self.predictor, "by_engine") else self.predictor  # asked often

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory in bytes that one tile needs inside the network."""
        return self._sized.bytes_per_tile(tile_size)

    def usual_bytes(self, tile_size: tuple[int, int]) -> int:
        """Estimate what is used of `bytes_per_tile`, which is an upper bound but for ONNX files."""
        share = 1.0 if isinstance(self.predictor, EngineChooser) else _USED[self._library]
        return int(share * self.bytes_per_tile(tile_size))

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Raise a TiledSegError unless the network maps tiles of a size to maps of that size."""
        self.predictor.check_tile(tile_size)

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        return activated(self.predictor(tiles), self.activation)

    def batch_size(self, tile_size: tuple[int, int], n_tiles: int, given: int | None = None) -> int:
        """Check the given batch size against the memory, or choose one by memory."""
        n_tiles, memory = max(n_tiles, 1), self.runtime.memory
        if given is None:
            return fitting_batch(self._sized, tile_size, n_tiles, memory)
        size = whole_number("batch_size", given)
        check_memory(self._sized, tile_size, min(size, n_tiles), memory)
        return size

    def fastest(self) -> Predictor:
        """Return the predictor of the configured engine, or of the fastest."""
        engine, precision = self.runtime.engine, self.runtime.precision
        if isinstance(self.predictor, EngineChooser):
            return self.predictor.by_engine(engine, precision)
        if engine == "onnxruntime":
            got = type(self.predictor).__name__
            must, fix = "be left out for any model but an ONNX file", 'Use engine="auto".'
            raise invalid(ModelError, "engine='onnxruntime'", must=must, got=got, fix=fix)
        asked = engine == "openvino" or precision == "bf16"
        obstacle = self._obstacle(asked=asked)
        if asked and obstacle:
            setting = "engine='openvino'" if engine == "openvino" else "precision='bf16'"
            raise ModelError(f"`{setting}` cannot be used: {obstacle}. {_FIX}")
        original = self.predictor
        if obstacle or not isinstance(original, Convertible) or engine == "keras":
            return original
        precision = openvino.usable(precision, original.model)
        return openvino.OpenVinoPredictor(original, precision, must=asked)

    def _obstacle(self, *, asked: bool) -> str | None:
        """Return why OpenVINO does not run the network; None where it does."""
        if not isinstance(self.predictor, Convertible):
            return f"the model is a {type(self.predictor).__name__}, not a Keras network"
        if find_spec("openvino") is None:
            return "OpenVINO is not installed"
        if not asked and (self.runtime.devices is not None or _n_gpus()):
            return "TensorFlow runs it on other devices"
        return None

    def ready(self, batch_size: int, tta: TTA | None = None) -> list[Callable[[AnyArray], FloatArray]]:
        """Return a callable for each device."""
        fastest = self.fastest()
        predictors = [fastest] if fastest is not self.predictor else self._replicas()
        calls: list[Callable[[AnyArray], FloatArray]] = [Backoff(one) for one in predictors]
        if self.activation is not None:
            calls = [with_activation(one, self.activation, self.predictor) for one in calls]
        if tta is None or isinstance(self.predictor, Batcher):  # which augments by itself
            return calls
        return [Augmented(one, tta, batch_size) for one in calls]

    def _replicas(self) -> Sequence[Predictor]:
        """Return the predictor, or copies of it on several devices."""
        devices = self.runtime.devices
        if isinstance(self.predictor, Convertible):
            return keras.replicas(self.predictor.by_keras(), devices)
        if devices is not None:
            raise invalid(
                ModelError,
                "devices",
                must="be None for any model but a Keras network",
                got=devices,
                fix='Choose the device within the callable; move a PyTorch module there, model.to("cuda").',
            )
        return [self.predictor]

    def run(
        self, batches: Iterable[TileBatch], batch_size: int, *, checked: bool
    ) -> Generator[tuple[int, FloatArray], None, None]:
        """Yield the output of one tile after the other while later batches are read; close it at the end."""
        calls = self.ready(batch_size, self.tta)
        with closing(overlapped(((batch.ids, batch.tiles) for batch in batches), calls)) as running:
            for ids, outputs in running:
                if checked:
                    check_probabilities(outputs)
                    warn_of_sums(outputs, self.predictor)
                yield from zip(ids.tolist(), outputs, strict=True)

    def batcher(self, batch_size: int | None, tta: TTA | None) -> Batcher:
        """Make a batcher, by which several images share this network."""

        def prepare(tile_size: tuple[int, int]) -> tuple[int, list[Callable[[AnyArray], FloatArray]]]:
            size = batch_size or self.batch_size(tile_size, _MANY)
            return size, self.ready(size, tta)

        return Batcher(self.predictor, prepare, tta)

    def shared(self, batcher: Batcher) -> Network:
        """Return a copy of this network for one of the images that share a batcher."""
        runtime = RuntimeConfig(memory=self.runtime.memory)
        return replace(self, predictor=batcher, runtime=runtime, tta=batcher.tta, activation=None)


def _check_activation(model: object, predictor: object, activation: Activation | None) -> None:
    """Refuse an activation for a Keras network or an ONNX file that ends in one."""
    own: str | None
    if isinstance(model, StoredNetwork):
        own = model.final_activation
    elif isinstance(predictor, EngineChooser):
        own = getattr(predictor, "final_activation", None)
    else:
        layers = getattr(model, "layers", ()) if activation and _is_keras(model) else ()
        layer = layers[-1] if layers else None
        own = getattr(getattr(layer, "activation", None), "__name__", type(layer).__name__.lower())
    if activation is not None and own in {"sigmoid", "softmax"}:
        must, fix = f"be left out for a network that ends in a {own}", "Its outputs are probabilities."
        raise invalid(SettingError, "activation", must=must, got=activation, fix=fix)


def _restored(model: object, runtime: RuntimeConfig, own: dict[str, Any]) -> Network:
    if isinstance(model, ModelReference):
        return Network.of(model, runtime)
    return Network(model, _predictor_of(model), runtime, **own)


def _runtime_of(runtime: RuntimeConfig | dict[str, Any] | None) -> RuntimeConfig:
    return _DEFAULT if runtime is None else settings_of(RuntimeConfig, runtime, "runtime")


def _predictor_of(model: object) -> Predictor:
    if isinstance(model, StoredNetwork):
        return StoredPredictor(model)
    if isinstance(model, str | Path) and Path(model).suffix.lower() == ".onnx":
        return onnx.OnnxNetwork(model)
    if _is_torch(model):
        return TorchPredictor(model)
    if _is_keras(model):
        return keras.KerasPredictor(model)
    if all(hasattr(model, name) for name in ("channels", "classes", "tile_size", "stride", "bytes_per_tile")):
        ready: Predictor = model  # type: ignore[assignment]
        return ready
    if not callable(model):
        must = "be a Segmenter, a keras.Model, an ONNX file, a PyTorch module or a callable"
        got, fix = type(model).__name__, "Pass the network itself."
        if isinstance(model, str):
            got, fix = f"the text {model!r}", f"Load a saved one with tiledseg.load_model({model!r})."
        raise invalid(ModelError, "model", must=must, got=got, fix=fix)
    return CallablePredictor(model)


def _n_gpus() -> int:
    """Count the GPUs of TensorFlow; it is not loaded on a machine that has none."""
    loaded = "tensorflow.python" in sys.modules
    plugins = find_spec("tensorflow-plugins") is not None  # of macOS, for example
    return keras.n_gpus() if loaded or plugins or any(exists(Path("/dev", name)) for name in _GPUS) else 0


def _plain(model: Any) -> Any:
    """Hide the attributes of a callable that answers to any name, such as the stub of a server."""
    try:
        has_any = hasattr(model, "tiledseg_asks_whether_there_is_any_name")
    except Exception:  # noqa: BLE001  of a class of the user's
        has_any = True
    return partial(model) if has_any and callable(model) else model


def _is_torch(model: object) -> bool:
    """Recognise a torch.nn.Module, TorchScript included, without loading PyTorch."""
    return "torch" in sys.modules and isinstance(model, sys.modules["torch"].nn.Module)


def _is_keras(model: object) -> bool:
    """Recognise a keras.Model without loading Keras."""
    return any(
        kind.__name__ == "Model" and kind.__module__.partition(".")[0] == "keras"
        for kind in type(model).__mro__
    )
