"""A Keras network run by OpenVINO: converted once, cached on disk, used where it agrees with Keras."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import weakref
from dataclasses import dataclass, field
from importlib import metadata
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from tiledseg._backend import check_process, keras
from tiledseg._storage import DiskCache, cache_folder
from tiledseg._validate import invalid, shown
from tiledseg.engine.callable import checked_outputs, failures_named
from tiledseg.engine.keras import padded, ready_shape
from tiledseg.errors import FileError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import Precision
    from tiledseg.engine.keras import KerasPredictor
    from tiledseg.tiling import ReceptiveField

    _Call: TypeAlias = Callable[[FloatArray], FloatArray]

__all__ = ["OpenVinoPredictor", "computes_bf16"]

_log = logging.getLogger("tiledseg")
_TOLERANCE = {"f32": 1e-4, "bf16": 0.05}  # of the largest output, or of 1 where that is smaller
_SHARE = {"f32": 1.0, "bf16": 0.999}  # of the outputs that have to be within it
_FILE = "network.xml"
_MOST_BYTES = 4 << 30  # of all cached networks


@dataclass(slots=True)
class _Converted:
    """What was made of a network as it was; None for a shape that Keras has to run."""

    fingerprint: bytes
    calls: dict[tuple[str, tuple[int, ...]], _Call | None] = field(default_factory=dict)


_CONVERTED: weakref.WeakKeyDictionary[Any, _Converted] = weakref.WeakKeyDictionary()
_ONE_AT_A_TIME = threading.Lock()
_CORE = openvino.Core()
"""The only one, for as long as the process runs. With each other one, OpenVINO would set up a stack for
signal handlers, and remove it with that one's last network: where these do not end in the opposite order,
Python loses its own, and the next Ctrl-C overwrites memory or ends the process."""


class OpenVinoPredictor:
    """A Keras network run by OpenVINO, with the weights that it had when this was made."""

    # The first batch of each shape is computed by Keras as well. Where outputs differ by more than the
    # tolerance, or the conversion fails, Keras computes that shape; with `must` it is an error.

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
        """Estimate the memory that one tile needs; as Keras."""
        return self._keras.bytes_per_tile(tile_size)

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Check that the network maps tiles of a size to maps of that size."""
        self._keras.check_tile(tile_size)

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        check_process()
        mine = [shape for precision, shape in self._calls if precision == self._precision]
        shape = ready_shape(mine, tiles.shape)
        key = (self._precision, shape)
        if key not in self._calls:
            outputs = self._keras(tiles)  # says what is wrong with the tiles, too
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
        """Convert the network for a shape, and compare; None where Keras is to be used."""
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
            reason = f"it differs from Keras by {worst:.2g} of the largest output"
        except Exception as error:  # noqa: BLE001  OpenVINO raises RuntimeError and others for anything
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
        _log.warning("Keras runs the network; OpenVINO cannot: %s", reason)
        return None


def _difference(found: FloatArray, outputs: FloatArray, share: float) -> float:
    """Give the difference, over the largest output, that a share of the outputs keeps within."""
    differences = np.abs(found - outputs).reshape(-1)
    place = round(share * (differences.size - 1))
    return float(np.partition(differences, place)[place]) / max(1.0, float(np.abs(outputs).max()))


def computes_bf16() -> bool:
    """Say whether this processor multiplies bfloat16."""
    return "BF16" in _CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _ready(network: Any, precision: Precision) -> _Call:  # noqa: ANN401
    """Compile for this processor, all cores on one batch; several threads may call it."""
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    compiled = _CORE.compile_model(network, "CPU", hints)
    idle: SimpleQueue[Any] = SimpleQueue()

    def call(tiles: FloatArray) -> FloatArray:
        try:
            request = idle.get_nowait()
        except Empty:
            request = compiled.create_infer_request()
        try:
            found = request.infer({0: tiles}, share_inputs=True, share_outputs=True)
            return np.array(found[0], np.float32)  # its memory is the request's own
        finally:
            idle.put(request)

    return call


def _converted(model: Any, shape: tuple[int, ...], key: str) -> Any:  # noqa: ANN401
    """Convert by way of a file: ``openvino.convert_model`` would send statistics home and mute the log."""
    signature = [keras.InputSpec(shape=shape, dtype="float32")]
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model.export(folder, format="tf_saved_model", verbose=False, input_signature=signature)
        network = _CORE.read_model(folder)
        try:
            _cache().keep(
                key, lambda where: openvino.save_model(network, where / _FILE, compress_to_fp16=False)
            )
        except (OSError, RuntimeError, FileError) as error:  # a full disk; the network is converted again
            _log.info("A converted network could not be cached: %s", error)
        return network


def _cache() -> DiskCache:
    return DiskCache(cache_folder(), _MOST_BYTES)


def _read(key: str) -> Any:  # noqa: ANN401
    folder = _cache().find(key)
    return None if folder is None else _CORE.read_model(folder / _FILE)


def _digest(model: Any, shape: tuple[int, ...]) -> str:  # noqa: ANN401
    """Give a digest of a network as it is, whatever its layers happen to be called."""
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
