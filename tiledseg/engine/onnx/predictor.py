"""An ONNX network as a Predictor, run by OpenVINO or by ONNX Runtime."""

from __future__ import annotations

import logging
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np

from tiledseg._extras import extra
from tiledseg._validate import invalid
from tiledseg.engine.predictor import checked_outputs, failures_named, padded, ready_shape
from tiledseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tiledseg import _backend
    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import Engine, Precision
    from tiledseg.engine import openvino

    OnnxNetwork: TypeAlias = Any  # its module imports this one
    _Call: TypeAlias = Callable[[AnyArray], AnyArray]
else:
    _backend = lazy_loader.load("tiledseg._backend", suppress_warning=True)
    openvino = lazy_loader.load("tiledseg.engine.openvino", suppress_warning=True)

_log = logging.getLogger("tiledseg")
_TOLERANCE = 1e-4  # of the largest output, between the two engines
_PROVIDERS = (
    "CUDAExecutionProvider",
    "DmlExecutionProvider",
    "CoreMLExecutionProvider",
    "CPUExecutionProvider",
)
ALIVE = {"openvino": 1.7, "onnxruntime": 3.5}
"""Memory of each engine, over that of the maps alive at once; measured."""


def installed(engine: Engine) -> list[str]:
    """Return the engines that may run a network, the likely fastest first."""
    known = ("openvino", "onnxruntime") if engine == "auto" else (engine,)
    found = [name for name in known if find_spec(name) is not None]
    if not found:
        name = "openvino" if engine == "auto" else engine
        extra(name, "fast" if name == "openvino" else "onnx")  # raises with the command that installs it
    return found


class OnnxPredictor:
    """A network of an ONNX file, ready to be called; see `OnnxNetwork`."""

    def __init__(self, network: OnnxNetwork, engine: Engine, precision: Precision) -> None:
        if precision == "bf16" and not openvino.computes_bf16():
            _log.warning("This processor does not multiply bf16, and emulating it is slower: f32 is used.")
            precision = "f32"
        if engine == "keras" or (engine == "onnxruntime" and precision != "f32"):
            got = f"engine={engine!r} and precision={precision!r}"
            fix = "Use engine='auto'."
            raise invalid(ModelError, "runtime", must="suit an ONNX network", got=got, fix=fix)
        _backend.check_process()
        self.network, self._precision = network, precision
        self._engines = installed("openvino" if precision == "bf16" else engine)
        self.channels, self.classes, self.tile_size = network.channels, network.classes, network.tile_size
        self.stride, self.receptive_field = network.stride, network.receptive_field
        self.bytes_per_tile, self.check_tile = network.bytes_per_tile, network.check_tile
        self._calls: dict[tuple[int, ...], _Call] = {}
        self._lock = threading.Lock()

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        _backend.check_process()
        if self.channels not in {None, tiles.shape[3]}:
            must, fix = f"have {self.channels} channels", "Give the image these channels."
            raise invalid(ModelError, "tiles", must=must, got=tiles.shape, fix=fix)
        batch = self.network.batch
        if batch is None:
            return self._run(tiles)
        parts = [self._run(tiles[start : start + batch], batch) for start in range(0, len(tiles), batch)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, tiles: AnyArray, batch: int | None = None) -> FloatArray:
        shape = (batch, *tiles.shape[1:]) if batch else ready_shape(self._calls, tiles.shape)
        last = self.network.layout == "channels_last"
        ready = padded(tiles, shape[0])
        ready = ready if last else np.ascontiguousarray(ready.transpose(0, 3, 1, 2))
        ready = self._cast(ready)
        with failures_named(tiles.shape):
            if shape not in self._calls:
                with self._lock:
                    if shape not in self._calls:
                        self._calls[shape] = self._made(ready)
            outputs = np.asarray(self._calls[shape](ready))
        outputs = self._channels_last(outputs, shape)
        self.classes = self.network.classes = outputs.shape[3]
        return checked_outputs(outputs, shape)[: len(tiles)].astype(np.float32, copy=False)

    def _cast(self, tiles: AnyArray) -> AnyArray:
        """Cast tiles to the dtype of the file's input: engines would do so without a word."""
        dtype = np.dtype(self.network.file.input.dtype)
        if dtype.kind == "f":
            return tiles.astype(dtype, copy=False)
        limits = np.iinfo(dtype)
        if not ((tiles == np.floor(tiles)) & (tiles >= limits.min) & (tiles <= limits.max)).all():
            fix = "Give the image's own px: no preprocessing that scales them."
            got = f"values from {tiles.min():g} to {tiles.max():g}"
            raise invalid(ModelError, "tiles", must=f"be whole numbers of {dtype}", got=got, fix=fix)
        return tiles.astype(dtype)

    def _channels_last(self, outputs: AnyArray, shape: tuple[int, ...]) -> AnyArray:
        """Return outputs (N, h, w, K)."""
        if outputs.ndim == 3:
            return outputs[..., np.newaxis]
        kinds = self.network.output_axes or (
            "nyxc" if self.network.layout == "channels_last" and outputs.shape[1:3] == shape[1:3] else "ncyx"
        )
        return outputs if kinds == "nyxc" else np.ascontiguousarray(outputs.transpose(0, 2, 3, 1))

    def _made(self, batch: AnyArray) -> _Call:
        """Return the faster one of the engines; both are asked for the same outputs."""
        calls = [_MAKERS[engine](self.network, batch.shape, self._precision) for engine in self._engines]
        if len(calls) == 1:
            return calls[0]
        first, second = (np.asarray(call(batch)) for call in calls)
        worst = float(np.abs(first - second).max()) / max(1.0, float(np.abs(second).max()))
        seconds = [_seconds(call, batch) for call in calls]
        taken = 1 if worst > _TOLERANCE or seconds[1] < seconds[0] else 0
        if worst > _TOLERANCE:
            _log.warning(
                "OpenVINO differs from ONNX Runtime by %.2g of the largest output: it is not used.", worst
            )
        self._engines = [self._engines[taken]]
        return calls[taken]


def _seconds(call: _Call, batch: AnyArray) -> float:
    start = time.perf_counter()
    call(batch)
    return time.perf_counter() - start


def _by_openvino(network: OnnxNetwork, shape: tuple[int, ...], precision: Precision) -> _Call:
    core = openvino.core()
    model = core.read_model(network.file.path)
    model.reshape({network.file.input.name: list(shape)})
    return openvino.compiled(model, precision, network.output)


def _by_onnxruntime(network: OnnxNetwork, shape: tuple[int, ...], precision: Precision) -> _Call:
    del shape, precision  # one session runs all shapes, in the numbers of the file
    session = network._session = network._session or _session(network)
    name = network.file.input.name

    def call(batch: AnyArray) -> AnyArray:
        found: AnyArray = session.run([network.output], {name: batch})[0]
        return found

    return call


def _session(network: OnnxNetwork) -> Any:  # noqa: ANN401
    runtime = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # only errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that spin slow others
    providers = [one for one in _PROVIDERS if one in runtime.get_available_providers()]
    return runtime.InferenceSession(str(network.file.path), options, providers=providers)


_MAKERS: dict[str, Callable[[OnnxNetwork, tuple[int, ...], Precision], _Call]] = {
    "openvino": _by_openvino,
    "onnxruntime": _by_onnxruntime,
}
