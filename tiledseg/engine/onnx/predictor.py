"""An ONNX network as a Predictor, run by OpenVINO or by ONNX Runtime."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import extra, lazy
from tiledseg._memory import is_out_of_memory
from tiledseg._validate import invalid, shown
from tiledseg.engine.batching import padded, ready_shape
from tiledseg.engine.predictor import check_castable, checked_outputs, failures_named
from tiledseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    from tiledseg import _backend
    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import Engine, Precision
    from tiledseg.engine import openvino

    OnnxNetwork: TypeAlias = Any  # its module imports this one
    _Call: TypeAlias = Callable[[AnyArray], AnyArray]
    _Trial: TypeAlias = tuple[str, tuple[float, float], AnyArray, _Call | None]
    # an engine, its seconds by the clock and of the processor, its outputs, and its call
else:
    _backend = lazy("tiledseg._backend")
    openvino = lazy("tiledseg.engine.openvino")

_FIX = "Export the network again, and try the file with ONNX Runtime alone."
_log = logging.getLogger("tiledseg")
_TOLERANCE = {"f32": 1e-4, "bf16": 0.1}  # of the largest output, between the two engines
_SHARE = {"f32": 1.0, "bf16": 0.999}  # of the outputs that must be within it, where OpenVINO is asked for
_LEAST = 1e-3  # of the largest output: below it, rounding is not compared
_MOST_TIMED, _LONG = 3, 0.25  # calls by which engines are compared, and seconds that are enough for one
_MOST_SHAPES = 8  # of tiles, for which calls are ready: each compiled network has weights of its own
_MIB = 1 << 20
_ALIVE = {"openvino": (0.95, 5 * _MIB), "onnxruntime": (1.85, 8 * _MIB)}
"""Memory of a tile over that of the maps alive at once, and bytes of any first call; measured."""
_OPENED = {"openvino": (2.5, 45 * _MIB), "onnxruntime": (3.0, 11 * _MIB)}
"""Memory of a network that is ready over that of its weights, and bytes of any network; measured."""
_LIBRARY_BYTES = 40 * _MIB  # of either engine, when it is imported
_PROVIDERS: dict[str, dict[str, str]] = {
    "CUDAExecutionProvider": {"use_tf32": "0"},  # it has 10 bits of mantissa: tiled would not equal whole
    "DmlExecutionProvider": {},
    "CoreMLExecutionProvider": {},
    "CPUExecutionProvider": {},
}


def installed(engine: Engine) -> list[str]:
    """Return the engines that may run a network, the likely fastest first."""
    known = ("openvino", "onnxruntime") if engine == "auto" else (engine,)
    found = [name for name in known if find_spec(name) is not None]
    if not found:
        name = "openvino" if engine == "auto" else engine
        extra(name, None if name == "openvino" else "onnx")  # raises with the command that installs it
    return found


class OnnxPredictor:
    """A network of an ONNX file, ready to be called; see `OnnxNetwork`."""

    def __init__(self, network: OnnxNetwork, engine: Engine, precision: Precision) -> None:
        precision = openvino.usable(precision, network)
        if engine == "keras" or (engine == "onnxruntime" and precision != "f32"):
            got = f"engine={engine!r} and precision={precision!r}"
            fix = "Use engine='auto'."
            raise invalid(ModelError, "runtime", must="suit an ONNX network", got=got, fix=fix)
        _backend.check_process()
        self.network, self._precision = network, precision
        self._engines = installed("openvino" if precision == "bf16" else engine)
        self._session: Any = None  # of ONNX Runtime
        self._unchecked = self._engines == ["openvino"] and find_spec("onnxruntime") is not None
        self.channels, self.classes, self.tile_size = network.channels, network.classes, network.tile_size
        self.stride, self.receptive_field = network.stride, network.receptive_field
        self.check_tile = network.check_tile
        # By shape, with the number of tiles of which a call takes multiples.
        self._calls: dict[tuple[int, ...], tuple[_Call, int]] = {}
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
        with failures_named(tiles.shape, _FIX):
            call, part = self._call_for(shape, tiles)
            ready = self._cast(padded(tiles, -(-len(tiles) // part) * part))
            outputs = np.asarray(call(ready))
        outputs = checked_outputs(outputs, ready.shape)
        self.classes = self.network.classes = outputs.shape[3]
        return outputs[: len(tiles)]

    def _cast(self, tiles: AnyArray) -> AnyArray:
        """Cast tiles to the dtype of the file's input: engines would do so without a word."""
        dtype = np.dtype(self.network.file.input.dtype)
        if dtype.kind == "f":
            return tiles.astype(dtype, copy=False)
        check_castable(tiles, dtype.name)
        return tiles.astype(dtype)

    def _channels_last(self, outputs: AnyArray, shape: tuple[int, ...]) -> AnyArray:
        """Return outputs (N, h, w, K)."""
        if outputs.ndim == 3:
            return outputs[..., np.newaxis]
        if outputs.ndim != 4:
            fix = "Export a network that gives one map for each tile."
            must = "be a map of shape (N, K, h, w) or (N, h, w, K)"
            raise invalid(ModelError, "outputs", must=must, got=outputs.shape, fix=fix)
        kinds = self.network.output_axes or (
            "nyxc" if self.network.layout == "channels_last" and outputs.shape[1:3] == shape[1:3] else "ncyx"
        )
        if kinds == "nyxc":
            return outputs
        last = np.empty((len(outputs), *outputs.shape[2:], outputs.shape[1]), outputs.dtype)
        for channel in range(outputs.shape[1]):  # several times faster than at once
            last[..., channel] = outputs[:, channel]
        return last

    @property
    def engine(self) -> str:
        """Name of the engine that runs it, or that is tried first."""
        return self._engines[0]

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory in bytes that one tile needs, with the engine of the largest need."""
        alive = 4 * self.network.at(tile_size).alive
        needs = [_ALIVE[engine] for engine in self._engines]
        return max(int(factor * alive) + first for factor, first in needs)

    @property
    def engine_bytes(self) -> int:
        """Estimate the memory of the engines that are imported for it, and of the larger one's network."""
        engines = [*self._engines, "onnxruntime"] if self._unchecked else self._engines
        imported = sum(_LIBRARY_BYTES for engine in engines if engine not in sys.modules)
        if self._calls:
            return imported
        weights = 4 * self.network.count_params()
        needs = [_OPENED[engine] for engine in engines]
        return imported + max(int(factor * weights) + first for factor, first in needs)

    @property
    def tiles_at_once(self) -> int:
        """Tiles that are best run at the same time."""
        return openvino.n_streams() if self.engine == "openvino" and self.network.batch is None else 1

    def _call_for(self, shape: tuple[int, ...], tiles: AnyArray) -> tuple[_Call, int]:
        """Return the call for a shape of tiles, made with the first batch of that shape."""
        with self._lock:
            if shape not in self._calls:
                while len(self._calls) >= _MOST_SHAPES:
                    self._calls.pop(next(iter(self._calls)))
                call = self._made(self._cast(padded(tiles, shape[0])))
                self._calls[shape] = call, openvino.divided(shape[0], self.tiles_at_once)[0]
            return self._calls[shape]

    def _made(self, batch: AnyArray) -> _Call:
        """Return the call of the faster engine, if both have the same outputs."""
        if len(self._engines) == 1:
            only = self._call_of(self.engine, batch)
            if self._unchecked:
                self._unchecked = False
                self._check_agrees(np.asarray(only(batch)), batch)
            return only
        self._unchecked = False
        tried = [one for one in (self._tried(engine, batch) for engine in reversed(self._engines)) if one]
        if not tried:  # none runs it: the error of one is shown
            return self._call_of(self._engines[-1], batch)
        call, engine = _chosen(tried)
        self._engines = [engine]
        _log.debug("%s runs %s.", engine, self.network)
        return call or self._call_of(engine, batch)

    def _check_agrees(self, found: AnyArray, batch: AnyArray) -> None:
        """Refuse OpenVINO where ONNX Runtime gives other outputs for the same tile."""
        try:
            expected = self._by_runtime()(batch[: self.network.batch or 1])
        except Exception as error:  # it does not run the network
            if is_out_of_memory(error):
                raise
            return
        finally:
            self._session = None
        if expected.shape[1:] != found.shape[1:]:  # that is said of the outputs
            return
        precision = "bf16" if self.network.computes_half else self._precision
        apart = np.abs(expected - found[: len(expected)]) / max(_LEAST, float(np.abs(expected).max()))
        if (apart <= _TOLERANCE[precision]).mean() >= _SHARE[precision]:
            return
        must = f"agree with ONNX Runtime within {_TOLERANCE[precision]:g} of the largest output"
        got = f"a difference of {float(apart.max()):.2g} of it"
        raise invalid(ModelError, "engine", must=must, got=got, fix="Use engine='auto', and precision='f32'.")

    def _tried(self, engine: str, batch: AnyArray) -> _Trial | None:
        """Try an engine; return None where it fails."""
        try:
            call = self._call_of(engine, batch)
            outputs = np.array(call(batch))
            seconds = _seconds(lambda: call(batch))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            _log.debug("%s does not run %s: %s", engine, self.network, shown(str(error)))
            return None
        finally:
            self._session = None  # its memory is free while the other engine is tried
        return engine, seconds, outputs, call if engine == "openvino" else None

    def _call_of(self, engine: str, batch: AnyArray) -> _Call:
        """Return the call of an engine for batches (N, h, w, C) of a shape."""
        return self._by_openvino(batch) if engine == "openvino" else self._by_runtime()

    def _by_openvino(self, batch: AnyArray) -> _Call:
        network, first = self.network, self.network.layout == "channels_first"
        model = openvino.core().read_model(network.file.path)
        part, streams = openvino.divided(len(batch), self.tiles_at_once)
        height, width, channels = batch.shape[1:]
        shape = [channels, height, width] if first else [height, width, channels]
        model.reshape({network.file.input.name: [part, *shape]})
        both = network.output_axes == "ncyx"
        if first:  # it moves the channels itself, with its first and its last layer
            model = openvino.channels_last(model, network.output if both else None)
        call = openvino.compiled(model, self._precision, network.output, streams)
        return call if first and both else lambda tiles: self._channels_last(call(tiles), tiles.shape)

    def _by_runtime(self) -> _Call:
        network, first = self.network, self.network.layout == "channels_first"
        session = self._session = self._session or _session(str(network.file.path))
        alone = "DmlExecutionProvider" in session.get_providers()  # it takes one call at a time
        turn: AbstractContextManager[Any] = threading.Lock() if alone else nullcontext()

        def call(tiles: AnyArray) -> AnyArray:
            given = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)) if first else tiles
            with turn:
                found: AnyArray = session.run([network.output], {network.file.input.name: given})[0]
            return self._channels_last(found, tiles.shape)

        return call


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return the least times of some calls: other work on the machine only adds to them."""
    times: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(times) < _MOST_TIMED and time.perf_counter() - started < _LONG:
        clock, processor = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - clock, time.process_time() - processor))
    return min(one for one, _ in times), min(one for _, one in times)


def _chosen(tried: list[_Trial]) -> tuple[_Call | None, str]:
    """Return the faster engine: OpenVINO but where ONNX Runtime is faster by the clock and the processor."""
    runtime, seconds, expected, _ = tried[0]
    if len(tried) == 1:
        return tried[0][3], runtime
    engine, other, found, call = tried[1]
    worst = float(np.abs(expected - found).max()) / max(_LEAST, float(np.abs(expected).max()))
    if worst > _TOLERANCE["f32"]:
        text = "OpenVINO differs from ONNX Runtime by %.2g of the largest output: it is not used."
        _log.warning(text, worst)
        return None, runtime
    if seconds[0] < other[0] and seconds[1] < other[1]:  # the clock alone shows other programs as well
        return None, runtime
    return call, engine


def _session(path: str) -> Any:
    """Open a file with ONNX Runtime, on a GPU where it has one."""
    runtime = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # only errors
    options.enable_mem_pattern = False  # it takes twice the memory and is no faster; DirectML refuses it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that spin slow others
    available = runtime.get_available_providers()
    providers = [(name, settings) for name, settings in _PROVIDERS.items() if name in available]
    retry = len(providers) > 1  # without the GPU; else it would only try the same again
    return runtime.InferenceSession(path, options, providers=providers, enable_fallback=retry)
