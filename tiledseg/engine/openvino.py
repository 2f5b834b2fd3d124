"""A Keras network run by OpenVINO: converted once, cached on disk, used if it agrees with Keras."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import weakref
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np

from tiledseg._backend import check_process, keras
from tiledseg._storage import DiskCache, cache_folder
from tiledseg._validate import invalid, shown
from tiledseg.engine.keras import padded, ready_shape
from tiledseg.engine.predictor import checked_outputs, failures_named
from tiledseg.errors import FileError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    import openvino

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import Precision
    from tiledseg.engine.keras import KerasPredictor
    from tiledseg.tiling import ReceptiveField

    _Call: TypeAlias = Callable[[FloatArray], FloatArray]
else:
    openvino = lazy_loader.load("openvino")  # what looks through all modules may load this one without it

_log = logging.getLogger("tiledseg")
_TOLERANCE = {"f32": 1e-4, "bf16": 0.05}  # of the largest output, or of 1 where that is smaller
_SHARE = {"f32": 1.0, "bf16": 0.999}  # of the outputs that must be within the tolerance
_FILE = "network.xml"
_MOST_BYTES = 4 << 30  # of all cached networks


@dataclass(slots=True)
class _Converted:
    """The converted functions of a network with certain weights; None for a shape that Keras runs."""

    fingerprint: bytes
    calls: dict[tuple[str, tuple[int, ...]], _Call | None] = field(default_factory=dict)


_CONVERTED: weakref.WeakKeyDictionary[Any, _Converted] = weakref.WeakKeyDictionary()
_ONE_AT_A_TIME = threading.Lock()


@cache
def _core() -> openvino.Core:
    """Give the one core of the process."""
    return openvino.Core()


"""The only core of this process. Each further core would install an alternate stack for signal handlers, and
remove it with its last network; unless these are removed in reverse order, Python loses its own stack, and
the next Ctrl-C corrupts memory or ends the process."""


class OpenVinoPredictor:
    """A Keras network run by OpenVINO, with the weights of the time of its creation."""

    # Keras computes the first batch of each shape as well. Where the outputs differ by more than the
    # tolerance, or the conversion fails, Keras runs that shape; with `must`, that is an error.

    def __init__(self, original: KerasPredictor, precision: Precision, *, must: bool) -> None:
        self._keras, self._precision, self._must = original, precision, must
        self.channels: int | None = original.channels
        self.classes: int | None = original.classes
        self.tile_size: tuple[int | None, int | None] = original.tile_size
        self.stride: tuple[int, int] = original.stride
        self.receptive_field: ReceptiveField = original.receptive_field
        with _ONE_AT_A_TIME:
            found = _CONVERTED.get(original.model)
            if found is None or found.fingerprint != original.fingerprint:
                found = _CONVERTED[original.model] = _Converted(original.fingerprint)
        self._calls = found.calls

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory that one tile needs, as for Keras."""
        return self._keras.bytes_per_tile(tile_size)

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Check that the network maps tiles of a size to maps of that size."""
        self._keras.check_tile(tile_size)

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        check_process()
        ready = [shape for precision, shape in self._calls if precision == self._precision]
        shape = ready_shape(ready, tiles.shape)
        key = (self._precision, shape)
        if key not in self._calls:
            outputs = self._keras(tiles)  # it also checks the tiles
            with _ONE_AT_A_TIME:
                if key not in self._calls:
                    self._calls[key] = self._agreeing(tiles, outputs)
        call = self._calls[key]
        if call is None:
            return self._keras(tiles)
        with failures_named(tiles.shape):
            outputs = call(padded(tiles, shape[0]))
        return checked_outputs(outputs, shape)[: len(tiles)]

    def _agreeing(self, tiles: AnyArray, outputs: FloatArray) -> _Call | None:
        """Convert the network for a shape, and compare it with Keras; None where they differ."""
        model, batch = self._keras.model, padded(tiles, len(tiles))
        key = _digest(model, tiles.shape)
        try:
            for network in (_read(key), None):
                call = _ready(network or _converted(model, tiles.shape, key), self._precision)
                worst = _difference(call(batch), outputs, _SHARE[self._precision])
                if worst <= _TOLERANCE[self._precision]:
                    _log.debug("OpenVINO %s agrees with Keras within %.1e.", self._precision, worst)
                    return call
                _cache().drop(key)
                if network is None:
                    break
            reason = f"a difference of {worst:.2g} of the largest output"
        except Exception as error:  # noqa: BLE001  OpenVINO raises many kinds
            reason = shown(f"{type(error).__name__}: {error}")
        if self._must:
            raise invalid(
                ModelError,
                "engine",
                must="agree with Keras within "
                f"{_TOLERANCE[self._precision]:g} of the largest output in {self._precision}",
                got=reason,
                fix="Use engine='keras'.",
            )
        _log.warning("Keras runs the network instead of OpenVINO: %s", reason)
        return None


def _difference(found: FloatArray, outputs: FloatArray, share: float) -> float:
    """Return the quantile of the differences at a share, over the largest output."""
    differences = np.abs(found - outputs).reshape(-1)
    place = round(share * (differences.size - 1))
    return float(np.partition(differences, place)[place]) / max(1.0, float(np.abs(outputs).max()))


def computes_bf16() -> bool:
    """Return whether this processor multiplies bfloat16."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _ready(network: Any, precision: Precision) -> _Call:  # noqa: ANN401
    """Compile for this processor, all cores for one batch; several threads may call the result."""
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    compiled = _core().compile_model(network, "CPU", hints)
    idle: SimpleQueue[Any] = SimpleQueue()

    def call(tiles: FloatArray) -> FloatArray:
        try:
            request = idle.get_nowait()
        except Empty:
            request = compiled.create_infer_request()
        try:
            found = request.infer({0: tiles}, share_inputs=True, share_outputs=True)
            return np.array(found[0], np.float32)  # a copy: the request uses its memory again
        finally:
            idle.put(request)

    return call


def _converted(model: Any, shape: tuple[int, ...], key: str) -> Any:  # noqa: ANN401
    """Convert a network by a saved model: ``openvino.convert_model`` sends telemetry and mutes the log."""
    signature = [keras.InputSpec(shape=shape, dtype="float32")]
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model.export(folder, format="tf_saved_model", verbose=False, input_signature=signature)
        network = _core().read_model(folder)
        try:
            _cache().keep(
                key, lambda where: openvino.save_model(network, where / _FILE, compress_to_fp16=False)
            )
        except (
            OSError,
            RuntimeError,
            FileError,
        ) as error:  # for example a full disk
            _log.info("A converted network could not be cached: %s", error)
        return network


def _cache() -> DiskCache:
    return DiskCache(cache_folder(), _MOST_BYTES)


def _read(key: str) -> Any:  # noqa: ANN401
    folder = _cache().find(key)
    return None if folder is None else _core().read_model(folder / _FILE)


def _digest(model: Any, shape: tuple[int, ...]) -> str:  # noqa: ANN401
    """Return a digest of a network that does not depend on the names of its layers."""
    names = {layer.name: f"#{place}" for place, layer in enumerate(model._flatten_layers())}
    versions = [metadata.version(package) for package in ("openvino", "keras")]
    about = [versions, shape, _renamed(model.get_config(), names)]
    digest = hashlib.sha256(json.dumps(about, default=str, sort_keys=True).encode())
    for variable in model.weights:
        digest.update(np.ascontiguousarray(variable.numpy()).data)
    return f"openvino-{digest.hexdigest()[:40]}"


def _renamed(value: Any, names: dict[str, str]) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _renamed(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(one, names) for one in value]
    return names.get(value, value) if isinstance(value, str) else value
