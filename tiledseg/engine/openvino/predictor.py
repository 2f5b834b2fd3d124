"""A network run by OpenVINO: built from its layers, used if it agrees with Keras."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._backend import check_process
from tiledseg._lazy import lazy
from tiledseg._memory import is_out_of_memory
from tiledseg._validate import invalid, shown
from tiledseg.engine.batching import padded, ready_shape
from tiledseg.engine.graph import GraphPredictor
from tiledseg.engine.layers import UnsupportedError
from tiledseg.engine.openvino.layers import build
from tiledseg.engine.predictor import checked_outputs, failures_named
from tiledseg.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    import openvino
    from openvino import preprocess

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import Precision
    from tiledseg.engine.graph import Probe
    from tiledseg.engine.layers import Convertible

    _Call: TypeAlias = Callable[[FloatArray], FloatArray]
else:
    preprocess = lazy("openvino.preprocess")
    openvino = lazy("openvino")  # what looks through all modules may load this one without it

_log = logging.getLogger("tiledseg")
_TOLERANCE = {"f32": 1e-4, "bf16": 0.05}  # of the largest output, or of the least one below
_LEAST = {"f32": 1e-3, "bf16": 1.0}
_ISA_WITH_BF16 = ("BF16", "FP16", "AMX", "AVX10", "VNNI_2")  # of x86
_FLAGS_OF_BF16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # the last one is of ARM
_MOST_STREAMS = 4
_SHARE = {"f32": 1.0, "bf16": 0.999}  # of the outputs that must be within the tolerance


@dataclass(slots=True)
class _Compiled:
    """The compiled functions of a network with certain weights."""

    fingerprint: bytes
    refused: dict[str, str] = field(default_factory=dict)  # why Keras runs it, by precision; "" where not
    # by precision and shape, with the number of tiles of which a call takes multiples
    calls: dict[tuple[str, tuple[int, ...]], tuple[_Call, int]] = field(default_factory=dict)


_COMPILED: weakref.WeakKeyDictionary[Any, _Compiled] = weakref.WeakKeyDictionary()
_REPLACED: weakref.WeakSet[Any] = weakref.WeakSet()  # models that were to run in bf16
_ONE_AT_A_TIME = threading.RLock()


@cache
def core() -> openvino.Core:
    """Give the one core of the process."""
    return openvino.Core()


"""The only core of this process. Each further core would install an alternate stack for signal handlers, and
remove it with its last network; unless these are removed in reverse order, Python loses its own stack, and
the next Ctrl-C corrupts memory or ends the process."""


class OpenVinoPredictor(GraphPredictor):
    """A network run by OpenVINO, with the weights of the time of its creation."""

    # Its outputs for a probe are compared with those of Keras: when it is first called, or for a bundle with
    # those that the bundle holds. Where they differ by more than the tolerance, or a layer is not known,
    # Keras runs the network; with `must`, that is an error.

    def __init__(self, original: Convertible, precision: Precision, *, must: bool) -> None:
        super().__init__(original.graph)
        self._original, self._precision, self._must = original, precision, must
        with _ONE_AT_A_TIME:
            found = _COMPILED.get(original.model)
            if found is None or found.fingerprint != original.fingerprint:
                found = _COMPILED[original.model] = _Compiled(original.fingerprint)
        self._compiled = found

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Check that the network maps tiles of a size to maps of that size."""
        self._original.check_tile(tile_size)

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        check_process()
        ready = [shape for precision, shape in self._compiled.calls if precision == self._precision]
        shape = ready_shape(ready, tiles.shape)
        if not self._agrees(shape):
            return self._original(tiles)
        with failures_named(tiles.shape):
            outputs = self._run(tiles, shape)
        return checked_outputs(outputs, tiles.shape)

    def _run(self, tiles: AnyArray, shape: tuple[int, ...]) -> FloatArray:
        """Run what is compiled for a shape, which is compiled once."""
        key = (self._precision, shape)
        with _ONE_AT_A_TIME:
            if key not in self._compiled.calls:
                self.graph.check_tiles(shape)
                self._compiled.calls[key] = self._compile(shape)
            call, part = self._compiled.calls[key]
        return call(padded(tiles, -(-len(tiles) // part) * part))[: len(tiles)]

    def _compile(self, shape: tuple[int, ...]) -> tuple[_Call, int]:
        part, streams = divided(shape[0], n_streams())
        network = build(self._original.layers(), self._original.weights(), (part, *shape[1:]))
        return compiled(network, self._precision, streams=streams), part

    def _agrees(self, shape: tuple[int, ...]) -> bool:
        """Compare the network with Keras once; return whether OpenVINO runs it."""
        reason = self.objection(shape)
        if reason and self._must:
            raise invalid(
                ModelError,
                "engine",
                must=f"agree with Keras within {_TOLERANCE[self._precision]:g} of the largest output "
                f"in {self._precision}",
                got=reason,
                fix="Use engine='keras'." if self._precision == "f32" else "Use precision='f32'.",
            )
        return not reason

    def objection(self, shape: tuple[int, ...] | None = None) -> str:
        """Return why OpenVINO does not run the network; empty where it does. `shape` will be run first."""
        with _ONE_AT_A_TIME:
            refused = self._compiled.refused
            if self._precision not in refused:
                refused[self._precision] = self._compared(shape)
            return refused[self._precision]

    def _compared(self, shape: tuple[int, ...] | None) -> str:
        try:
            difference = self._difference(shape)
        except UnsupportedError as error:
            _log.debug("Keras runs the network instead of OpenVINO: %s", error)
            return str(error)
        except Exception as error:  # OpenVINO raises many kinds
            if is_out_of_memory(error):
                raise
            reason = shown(f"{type(error).__name__}: {error}")
        else:
            if difference <= _TOLERANCE[self._precision]:
                _log.debug("OpenVINO %s agrees with Keras within %.1e.", self._precision, difference)
                return ""
            reason = f"a difference of {difference:.2g} of the largest output"
        if not self._must:
            _log.warning("Keras runs the network instead of OpenVINO: %s", reason)
        return reason

    def _difference(self, shape: tuple[int, ...] | None) -> float:
        """Return by how much the outputs for a probe differ."""
        self._original.layers()  # before Keras runs the probe in vain
        probe = self._original.probe()
        if shape is not None and shape[1:] == probe.shape[1:]:  # compiled once for both
            return self._differing(probe, lambda tile: self._run(tile, shape))
        return self._differing(probe, self._compile(probe.shape)[0])

    def _differing(self, probe: Probe, call: _Call) -> float:
        return probe.difference(call, _SHARE[self._precision], _LEAST[self._precision])


def usable(precision: Precision, model: object) -> Precision:
    """Replace bf16 by f32 where it is emulated, and say so once of each model."""
    if precision != "bf16" or computes_bf16():
        return precision
    if model not in _REPLACED:
        _REPLACED.add(model)
        _log.warning("This processor does not multiply bf16, and emulating it is slower: f32 is used.")
    return "f32"


def computes_bf16() -> bool:
    """Return whether this processor multiplies bfloat16: where it is emulated, it is slower than float32."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()  # a setting of OpenVINO's kernels
    if limit not in {"", "ALL", "DEFAULT"} and not any(name in limit for name in _ISA_WITH_BF16):
        return False
    if "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    flags = _processor_flags()
    return not flags or not flags.isdisjoint(_FLAGS_OF_BF16)


def _processor_flags() -> set[str]:
    """Return what Linux says of the processor; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith(("flags", "Features"))), set())


def channels_last(network: openvino.Model, output: str | None) -> openvino.Model:
    """Let a network (N, C, h, w) take tiles (N, h, w, C), and return one of its outputs so."""
    steps = preprocess.PrePostProcessor(network)
    ports = [steps.input()] if output is None else [steps.input(), steps.output(output)]
    for port in ports:
        port.tensor().set_layout(openvino.Layout("NHWC"))
        port.model().set_layout(openvino.Layout("NCHW"))
    return steps.build()


def n_streams() -> int:
    """Return how many tiles are best run at the same time, each by some of the cores."""
    return min(_MOST_STREAMS, int(core().get_property("CPU", "RANGE_FOR_STREAMS")[1]))


def divided(n_tiles: int, most: int) -> tuple[int, int]:
    """Divide a batch into equal parts, which run at the same time; return tiles in each, and their number."""
    streams = max(one for one in range(1, most + 1) if n_tiles % one == 0)
    return n_tiles // streams, streams


def _shared_work() -> dict[str, Any]:
    """Let a core take over work of another one that other programs use, where OpenVINO can."""
    name = "TBB_PARTITIONER"
    return {name: "AUTO"} if name in core().get_property("CPU", "SUPPORTED_PROPERTIES") else {}


def compiled(network: openvino.Model, precision: Precision, output: int | str = 0, streams: int = 1) -> _Call:
    """Compile for this processor; several threads may call the result."""
    # All cores run one batch. With `streams`, tiles are divided into batches of the network's own size, and
    # so many of these run at the same time: cores wait less for each other.
    spread = {"NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False}  # pinned cores may be another program's
    hints = spread if streams > 1 else {"PERFORMANCE_HINT": "LATENCY", **_shared_work()}
    ready = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": precision, **hints})
    port = ready.output(output)
    known = port.get_partial_shape().is_static and port.get_element_type() == openvino.Type.f32
    idle: SimpleQueue[Any] = SimpleQueue()

    def started(tiles: FloatArray, outputs: FloatArray | None) -> Any:  # a request
        try:
            request = idle.get_nowait()
        except Empty:
            request = ready.create_infer_request()
        if outputs is not None:  # it writes into memory that is the caller's own
            request.set_tensor(port, openvino.Tensor(outputs, shared_memory=True))
        request.start_async({0: tiles}, share_inputs=True)
        return request

    def call(tiles: FloatArray) -> FloatArray:
        size = len(tiles) if streams == 1 else int(ready.input(0).shape[0])
        parts = [slice(start, start + size) for start in range(0, len(tiles), size)]
        outputs = np.empty((len(tiles), *tuple(port.shape)[1:]), np.float32) if known else None
        running: list[Any] = []
        try:
            running.extend(started(tiles[part], None if outputs is None else outputs[part]) for part in parts)
        finally:
            _finish(running)
        if outputs is None:  # a copy: the requests use their memory again
            outputs = np.concatenate([one.get_tensor(port).data for one in running])
            outputs = outputs.astype(np.float32, copy=False)
        for one in running:
            idle.put(one)
        return outputs

    return call


def _finish(requests: Sequence[Any]) -> None:
    """Wait for all requests: the first error is raised when none runs any more."""
    with contextlib.ExitStack() as stack:
        for one in requests:
            stack.callback(one.wait)
