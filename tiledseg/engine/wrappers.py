"""What is put around a network: an activation, test-time augmentation, a batcher, a module of PyTorch."""

from __future__ import annotations

import logging
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

import numpy as np

from tiledseg._arrays import check_unit_interval
from tiledseg._validate import invalid
from tiledseg.engine.predictor import CallablePredictor
from tiledseg.errors import CancelledError, ModelError, SettingError
from tiledseg.tiling import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import TTA, Activation
    from tiledseg.engine.predictor import Call, Predictor
    from tiledseg.tiling import ReceptiveField

    _Batch: TypeAlias = "list[tuple[_Request, int, int]]"  # parts of requests: first and last tile

_log = logging.getLogger("tiledseg")
_seen: WeakSet[object] = WeakSet()  # networks whose outputs were looked at
_SUM_TOLERANCE = 0.02  # of the mean difference from 1

COPIES: dict[TTA | None, int] = {None: 1, "flips": 4, "d4": 8}
"""Number of copies of each tile in test-time augmentation."""

_EXPORT = (
    "To learn whether tiled equals whole, export it: "
    "torch.onnx.export(model, (example,), 'net.onnx', dynamo=False, input_names=['x'], "
    "dynamic_axes={'x': {0: 'n', 2: 'h', 3: 'w'}}), and predict with 'net.onnx'."
)


def with_activation(network: Call, activation: Activation) -> Call:
    """Return a network whose logits become probabilities."""
    return lambda tiles: activated(network(tiles), activation)


def activated(outputs: FloatArray, activation: Activation | None) -> FloatArray:
    """Turn logits (N, h, w, K) into probabilities, without overflow."""
    if activation is None:
        return outputs
    if activation == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * outputs)), np.float32)
    if outputs.shape[3] == 1:
        must, fix = "be sigmoid for one channel", "Use sigmoid: a softmax of one channel is 1 everywhere."
        raise invalid(SettingError, "activation", must=must, got=activation, fix=fix)
    powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def check_probabilities(outputs: FloatArray) -> None:
    """Refuse outputs outside [0, 1] where a mask, scores or files are made of them."""
    must = "return probabilities in [0, 1]"
    fix = "For logits, set activation to sigmoid or softmax, in RuntimeConfig or as --activation."
    check_unit_interval(outputs, "network", must, fix, ModelError)


def tell_of_sums(outputs: FloatArray, network: object) -> None:
    """Warn once where the channels of a network do not sum to 1, as those of a softmax do."""
    if outputs.shape[-1] < 2 or not outputs.size:
        return
    try:
        if network in _seen:
            return
        _seen.add(network)
    except TypeError:  # of a caller's class without references or a hash: it cannot be known again
        return
    totals = outputs.sum(axis=-1, dtype=np.float32)
    if float(np.abs(totals - 1).mean()) > _SUM_TOLERANCE:
        _log.warning(
            "The %d channels of the network sum to %.3g to %.3g, not to 1. They are taken for a softmax: "
            "channel 0 for background, and the most probable one counts. For a sigmoid of each class, "
            "predict one class at a time: lambda tiles: model(tiles)[..., :1].",
            outputs.shape[-1],
            totals.min(),
            totals.max(),
        )


class Augmented:
    """Runs a network on all copies of each tile, in full batches, and averages the outputs."""

    def __init__(self, network: Callable[[AnyArray], FloatArray], tta: TTA, batch_size: int) -> None:
        self._network, self._number, self._batch_size = network, COPIES[tta], batch_size

    def __call__(self, tiles: AnyArray) -> FloatArray:
        """Map tiles (N, h, w, C) to the mean of the outputs (N, h, w, K) float32."""
        total: FloatArray | None = None
        wanted = [(copy, place) for copy in range(self._number) for place in range(len(tiles))]
        for first in range(0, len(wanted), self._batch_size):
            some = wanted[first : first + self._batch_size]
            outputs = self._network(np.stack([_transformed(tiles[place], copy) for copy, place in some]))
            if total is None:
                total = np.zeros((*tiles.shape[:3], outputs.shape[3]), np.float32)
            for (copy, place), output in zip(some, outputs, strict=True):
                total[place] += _restored(output, copy)
        if total is None:
            return np.zeros((*tiles.shape[:3], 0), np.float32)
        total /= self._number
        return total


def _transformed(tile: AnyArray, copy: int) -> AnyArray:
    """Return one of eight copies of a tile: bit 0 mirrors y, bit 1 mirrors x, bit 2 then transposes."""
    down, across = slice(None, None, -1 if copy & 1 else 1), slice(None, None, -1 if copy & 2 else 1)
    copied = tile[down, across]
    return copied.swapaxes(0, 1) if copy & 4 else copied


def _restored(output: FloatArray, copy: int) -> FloatArray:
    """Undo `_transformed`."""
    return _transformed(output.swapaxes(0, 1) if copy & 4 else output, copy & 3)


class _Request:
    """The tiles of one caller, and their outputs."""

    def __init__(self, tiles: AnyArray) -> None:
        self.tiles = tiles
        self.taken = 0  # number of tiles that are in a batch
        self.parts: dict[int, FloatArray] = {}  # outputs by the position of their first tile
        self.done = 0  # number of tiles with outputs
        self.error: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether all outputs are there, or an error is."""
        return self.error is not None or self.done == len(self.tiles)


class Batcher:
    """A Predictor for several threads, each of which predicts its own image."""

    # While a batch is run, waiting tiles of any image are collected for the next one, up to the batch size.
    # Where a batch fails, its parts are run again one by one, so that the failure of one image does not
    # affect the others.

    def __init__(
        self,
        predictor: Predictor,
        prepare: Callable[[tuple[int, int]], tuple[int, list[Call]]],
        tta: TTA | None = None,
    ) -> None:
        self.tta = tta  # that the callables do
        self._predictor = predictor
        self._prepare = prepare  # returns the batch size and a callable per device for tiles of a size
        self._lock = threading.Condition()
        self._waiting: list[_Request] = []
        self._sizes: dict[tuple[int, int], int] = {}
        self._idle: dict[tuple[int, int], SimpleQueue[Call]] = {}
        self._closed = False
        self.channels: int | None = predictor.channels
        self.tile_size: tuple[int | None, int | None] = predictor.tile_size
        self.stride: tuple[int, int] = predictor.stride
        self.receptive_field: ReceptiveField = getattr(predictor, "receptive_field", UNKNOWN)

    @property
    def classes(self) -> int | None:
        """Output channels K; None where not known before the first call."""
        return self._predictor.classes

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory that one tile needs."""
        return self._predictor.bytes_per_tile(tile_size)

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Check that the network maps tiles of a size to maps of that size."""
        self._predictor.check_tile(tile_size)

    def close(self) -> None:
        """Cancel the waiting calls and all later ones."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        request = _Request(tiles)
        with self._lock:
            self._waiting.append(request)
        while (turn := self._next_turn(request)) is not None:
            self._run(*turn)
        if request.error is not None:
            raise request.error
        return np.concatenate([request.parts[place] for place in sorted(request.parts)])

    def _next_turn(self, request: _Request) -> tuple[Call, _Batch] | None:
        """Wait until the request has ended (None), or a network is idle for a batch."""
        with self._lock:
            while True:
                if self._closed and not request.ended:
                    raise CancelledError("The prediction was cancelled.")
                if request.ended:
                    return None
                idle = self._idle_for(request.tiles.shape[1:3])
                if request.taken < len(request.tiles) and not idle.empty():
                    return idle.get(), self._next_batch(request)
                self._lock.wait()

    def _next_batch(self, first: _Request) -> _Batch:
        """Collect waiting tiles of one shape and dtype, the oldest first."""
        like = (first.tiles.shape[1:], first.tiles.dtype)
        batch, space = [], self._sizes[first.tiles.shape[1:3]]
        for request in list(self._waiting):
            if (request.tiles.shape[1:], request.tiles.dtype) != like or not space:
                continue
            start, stop = request.taken, min(request.taken + space, len(request.tiles))
            batch.append((request, start, stop))
            request.taken, space = stop, space - (stop - start)
            if stop == len(request.tiles):
                self._waiting.remove(request)
        return batch

    def _run(self, call: Call, batch: _Batch) -> None:
        try:
            self._answer(call, batch)
        finally:
            with self._lock:
                self._idle_for(batch[0][0].tiles.shape[1:3]).put(call)
                self._waiting = [one for one in self._waiting if one.error is None]
                self._lock.notify_all()

    def _answer(self, call: Call, batch: _Batch) -> None:
        parts = [request.tiles[start:stop] for request, start, stop in batch]
        try:
            outputs = call(parts[0] if len(parts) == 1 else np.concatenate(parts))
        except Exception as error:  # noqa: BLE001  it is raised in the caller's thread
            if len(batch) > 1:
                for one in batch:
                    self._answer(call, [one])
                return
            batch[0][0].error = error
            return
        first = 0
        for request, start, stop in batch:
            request.parts[start] = outputs[first : first + stop - start]
            request.done += stop - start
            first += stop - start

    def _idle_for(self, size: tuple[int, int]) -> SimpleQueue[Call]:
        """Return the idle networks for tiles of a size; they are prepared at the first call."""
        if size not in self._idle:
            idle: SimpleQueue[Call] = SimpleQueue()
            self._sizes[size], calls = self._prepare(size)
            for call in calls:
                idle.put(call)
            self._idle[size] = idle
        return self._idle[size]


class TorchPredictor(CallablePredictor):
    """A PyTorch module (N, C, h, w) -> (N, K, h, w)."""

    likely_stride = 64  # px; its graph cannot be read

    def __init__(self, module: Any) -> None:  # noqa: ANN401
        if found := _trained(module):
            fix = "Call model.eval() first, before an export too: batch normalization and dropout behave "
            fix += "differently in training. If a part has to, pass a function that calls the module."
            raise invalid(ModelError, "model", must="be in inference mode", got=found, fix=fix)
        self._module = module
        super().__init__(self._channels_moved)

    def _channels_moved(self, tiles: FloatArray) -> AnyArray:
        torch = sys.modules["torch"]
        weight = next(iter([*self._module.parameters(), *self._module.buffers()]), None)
        batch = torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))
        if weight is not None:
            batch = batch.to(weight.device)
            batch = batch.to(weight.dtype) if weight.dtype.is_floating_point else batch
        with torch.inference_mode():
            outputs = self._module(batch)
        if not isinstance(outputs, torch.Tensor):
            got = f"{type(outputs).__name__} {list(outputs) if isinstance(outputs, dict) else ''}".strip()
            fix = f"Wrap it in a module that returns the map, such as outputs['out']. {_EXPORT}"
            raise invalid(ModelError, "model", must="return one tensor", got=got, fix=fix)
        # Class numbers and bytes stay integers: they are refused, as those of any function.
        found: AnyArray = (outputs.float() if outputs.is_floating_point() else outputs).cpu().numpy()
        return found[..., np.newaxis] if found.ndim == 3 else found.transpose(0, 2, 3, 1)


def _trained(module: Any) -> str:  # noqa: ANN401
    """Name what is in training mode: the module, one of its parts, or an operation of an exported program."""
    if "eval" not in vars(module):
        training = (name for name, part in module.named_modules() if getattr(part, "training", False))
        name = next(training, None)  # a frozen module has no mode
        return "" if name is None else f"`{name}` in training mode" if name else "training mode"
    for node in module.graph.nodes:  # the operations of an exported program keep the mode that it had
        schema = getattr(node.target, "_schema", None)
        for option, value in zip(schema.arguments if schema else (), node.args, strict=False):
            if option.name in ("training", "train") and value is True:
                return f"{node.name} exported in training mode"
    return ""
