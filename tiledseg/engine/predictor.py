"""Predictor: what maps batches of tiles to outputs, and how it is run.

`overlapped` runs a batch while the next one is read and the last one is used.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import psutil

from tiledseg._memory import allowed_memory, is_out_of_memory
from tiledseg._validate import invalid, shown
from tiledseg.errors import ModelError, SettingError, TiledSegError, reason_of
from tiledseg.tiling import UNKNOWN, ReceptiveField

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from tiledseg._types import AnyArray, FloatArray, TileCall
    from tiledseg.config import Engine, Precision, PreprocessingConfig, TilingConfig

    Call: TypeAlias = Callable[[AnyArray], FloatArray]

_log = logging.getLogger("tiledseg")

_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ ")  # of its messages
_TELLING = ("not supported", "Unsupported", "No conversion rule")
_PIXELS_PER_CALL = 512 * 512  # on a CPU, more per call was slower: the processor's cache overflows
_EMPTY = ("Exception from ", "Check '", "Loading input model")  # how messages of OpenVINO begin


class Predictor(Protocol):
    """A network that can be called on batches of tiles."""

    @property
    def channels(self) -> int | None:
        """Input channels C; None where any number is accepted or it is not known."""

    @property
    def classes(self) -> int | None:
        """Output channels K; None where not known before the first call."""

    @property
    def tile_size(self) -> tuple[int | None, int | None]:
        """Input height and width in px; None where free."""

    @property
    def stride(self) -> tuple[int, int]:
        """Total stride (y, x) in px: input sizes and tile origins are multiples of it."""

    @property
    def receptive_field(self) -> ReceptiveField:
        """What an output px depends on."""

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory in bytes that one tile needs inside the network."""

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Raise a TiledSegError unless the network maps tiles of a size to maps of that size."""

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""


@runtime_checkable
class SegmenterLike(Protocol):
    """A network with settings of its own: preprocessing, tiling, threshold, labels."""

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """How images are prepared."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""

    @property
    def threshold(self) -> float:
        """Threshold of probabilities, in (0, 1)."""

    @property
    def tiling(self) -> TilingConfig | None:
        """How images are tiled; None for the default."""


@runtime_checkable
class ModelReference(Protocol):
    """A segmenter that each process loads for itself."""

    @property
    def path(self) -> str:
        """The bundle's folder."""

    @property
    def digest(self) -> str:
        """Digest of the bundle."""

    def load(self) -> SegmenterLike:
        """Load it, once in each process."""


@runtime_checkable
class EngineChooser(Protocol):
    """A network that names the engines that run it."""

    def by_engine(self, engine: Engine, precision: Precision) -> Predictor:
        """Return the network as an engine runs it."""


@contextmanager
def failures_named(
    shape: tuple[int, ...],
    fix: str = "Correct it: it gets tiles (N, h, w, C) and returns one map (N, h, w, K).",
) -> Iterator[None]:
    """Turn an error of a network into a ModelError that states the shape of the tiles."""
    try:
        yield
    except (TiledSegError, MemoryError):
        raise
    except Exception as error:
        lines = _NOISE.sub("", reason_of(error)).strip().splitlines()
        text = f"The network failed on tiles of shape {shape}: {shown(_telling(lines))}"
        raise ModelError(f"{text.rstrip('.')}. {_fix_of(error) or fix}") from error


def _telling(lines: list[str]) -> str:
    """Return the line that says most: engines begin with places in their own code."""
    named = (line for line in lines if any(word in line for word in _TELLING))
    later = (line for line in lines if not any(word in line for word in _EMPTY))
    return next(named, next(later, lines[0])).lstrip("- ")


def _fix_of(error: Exception) -> str:
    """Say what to do about the usual mistakes with PyTorch; nothing about others."""
    text = reason_of(error)
    if isinstance(error, TypeError) and "ndarray" in text:
        return "Tiles are NumPy arrays (N, h, w, C); pass a PyTorch module itself."
    if "requires grad" in text:
        return (
            "Put `with torch.no_grad():` inside the function, which is called in a thread of its own; "
            "or pass the PyTorch module itself."
        )
    if "expected input" in text and "channels" in text:
        return (
            "If the image has as many channels as the network takes, permute its tiles, which are channels "
            "last, to (N, C, h, w) and the map back, or pass the PyTorch module itself. Otherwise choose or "
            "repeat channels of the image."
        )
    return ""


def check_fixed(
    tile_size: tuple[int, int],
    fixed: tuple[int | None, int | None],
    fix: str = "build the network for a free size",
) -> None:
    """Check a tile against the input of a network of fixed size."""
    for axis, size, wanted in zip("yx", tile_size, fixed, strict=True):
        if wanted not in {None, size}:
            raise invalid(
                SettingError,
                "tile_size",
                must=f"be {wanted} px along {axis}, the network's input",
                got=size,
                fix=f"Use tile_size={wanted}, or {fix}.",
            )


class CallablePredictor:
    """A callable, of which nothing else is known; its stride is assumed to be 1."""

    tile_dtype = np.float32  # of the tiles that it is given, which are best cut as such
    channels: int | None = None
    tile_size: tuple[int | None, int | None] = (None, None)
    stride: tuple[int, int] = (1, 1)
    receptive_field: ReceptiveField = UNKNOWN

    def __init__(self, call: TileCall) -> None:
        self._call = call
        self.classes: int | None = None

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Guess the memory that one tile needs: sixteen float32 maps of its size."""
        return 16 * 4 * tile_size[0] * tile_size[1]

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Check nothing: a callable shows what it accepts only when it is called."""

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        with failures_named(tiles.shape):
            returned = self._call(tiles.astype(np.float32, copy=False))
        # A copy: a callable may use its buffer again while these outputs are stitched, or return a part of a
        # larger array, which would stay in memory.
        outputs = checked_outputs(returned, tiles.shape).copy()
        if self.classes not in {None, outputs.shape[3]}:
            raise invalid(
                ModelError,
                "outputs",
                must=f"have {self.classes} channels, as in earlier batches",
                got=outputs.shape,
                fix="Let the callable return the same channels each time.",
            )
        self.classes = outputs.shape[3]
        return outputs


def checked_outputs(outputs: Any, shape: tuple[int, ...]) -> FloatArray:  # noqa: ANN401
    """Check that outputs fit their tiles, and make them float32."""
    try:
        array = np.asarray(outputs)
    except Exception as error:  # noqa: BLE001  arrays of other libraries raise any kind
        fix = _fix_of(error) or "Let the network return one map of shape (N, h, w, K)."
        reason = reason_of(error).rstrip(".")
        raise ModelError(f"The network's output cannot be converted to an array: {reason}. {fix}") from None
    masked = "numpy.ma" in sys.modules and isinstance(outputs, np.ma.MaskedArray)  # its import takes a while
    array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array  # of JAX and TensorFlow
    if array.dtype.kind not in "biuf" or masked:
        must, got = "be one array of real numbers", f"{type(outputs).__name__} of dtype {array.dtype}"
        fix = "Let the network return one map of shape (N, h, w, K), without masked values."
        raise invalid(ModelError, "outputs", must=must, got=got, fix=fix)
    array = array[..., np.newaxis] if array.shape == shape[:3] else array  # one map for each tile
    if array.ndim != 4 or array.shape[:3] != shape[:3]:
        must = f"have shape (N, h, w, K) with (N, h, w) = {tuple(shape[:3])}"
        fix = "Return a map of the tile's own size, channels last."
        if array.ndim in {2, 3} and array.shape[:2] == shape[1:3]:
            fix = "Call a function of one tile for each: numpy.stack([function(tile) for tile in tiles])."
        raise invalid(ModelError, "outputs", must=must, got=array.shape, fix=fix)
    if array.dtype.kind in "iu" and array.size and (array.max() > 1 or array.min() < 0):
        must, got = "be float, or 0 and 1: tiles are blended", f"{array.dtype} up to {array.max()}"
        fix = "Return probabilities: one map of each class in place of class numbers, bytes divided by 255."
        raise invalid(ModelError, "outputs", must=must, got=got, fix=fix)
    with np.errstate(over="ignore"):  # values that are not finite are named later
        return array.astype(np.float32, copy=False)


def fitting_batch(
    predictor: Predictor, tile_size: tuple[int, int], n_tiles: int, memory: int | None = None
) -> int:
    """Choose a batch size: enough tiles to keep the processor busy, within the memory."""
    check_memory(predictor, tile_size, 1, memory)
    fitting = allowed_memory(memory) // max(1, predictor.bytes_per_tile(tile_size))
    at_once: int = getattr(predictor, "tiles_at_once", 1)  # each of them by some of the cores
    best = at_once * max(1, _PIXELS_PER_CALL // (tile_size[0] * tile_size[1]))
    return max(1, min(fitting, n_tiles, best))


def check_memory(
    predictor: Predictor, tile_size: tuple[int, int], batch_size: int, memory: int | None
) -> None:
    """Check that a batch fits into memory: the system may kill a process that runs out of it."""
    need = batch_size * predictor.bytes_per_tile(tile_size)
    limit = int(psutil.virtual_memory().total) if memory is None else memory
    if need > limit:
        available = "the machine has" if memory is None else "`memory` is"
        raise SettingError(
            f"{batch_size} tiles of {tile_size[0]}x{tile_size[1]} px need about {need} bytes; {available} "
            f"{limit}. Use smaller tiles or a smaller batch, or allow more."
        )


class Backoff:
    """Out-of-memory backoff: halves the batch size of a network until a batch fits into memory."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._most: int | None = None  # tiles that fit, so that later batches do not fail first

    def __call__(self, tiles: AnyArray) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        parts: list[FloatArray] = []
        first = 0
        while first < len(tiles):
            part = tiles[first : first + (self._most or len(tiles))]
            try:
                parts.append(self._predictor(part))
            except (MemoryError, ModelError) as error:
                if not is_out_of_memory(error):
                    raise
                self._reduce(part.shape, error)
            else:
                first += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _reduce(self, shape: tuple[int, ...], error: Exception) -> None:
        if shape[0] == 1:
            text = f"Memory ran out on a single tile of {shape[1]}x{shape[2]} px. Use smaller tiles."
            raise ModelError(text) from error
        self._most = shape[0] // 2
        _log.warning("Memory ran out on %d tiles at once; continuing with %d.", shape[0], self._most)


_Tag = TypeVar("_Tag")
_Done: TypeAlias = "Future[tuple[_Tag, FloatArray] | None]"
_Read: TypeAlias = "tuple[_Done[_Tag], tuple[_Tag, AnyArray] | None, float]"  # with the seconds it took
_LONG = 1e-3  # s of a call, during which another thread reads: to hand over a batch takes 0.2 ms
_SHORT = 0.01  # of a call: what is read in less time delays a network that uses all cores by more


class _Threads(Generic[_Tag]):
    """One for each network, which runs it on batches, and one that reads ahead what takes a while."""

    def __init__(self, batches: Iterator[tuple[_Tag, AnyArray]], calls: Sequence[Call]) -> None:
        self._batches, self._n_calls = batches, len(calls)
        self._wanted: SimpleQueue[_Done[_Tag]] = SimpleQueue()
        self._ahead: list[Future[_Read[_Tag]]] = []  # one at most
        self._turn, self._ended = threading.Lock(), threading.Event()
        self._pool = ThreadPoolExecutor(len(calls) + 1, "tiledseg-run")
        self._pool.map(self._run, calls)

    def ask(self) -> _Done[_Tag]:
        """Ask for the outputs of one more batch; None after the last one."""
        done: _Done[_Tag] = Future()
        self._wanted.put(done)
        return done

    def close(self) -> None:
        """Wait for the running calls, start no others, and end the threads."""
        self._ended.set()
        for _ in range(self._n_calls):
            self.ask()  # a thread may wait for it
        self._pool.shutdown()

    def _run(self, call: Call) -> None:
        took = 1.0  # s, until the first call is over
        while True:
            with self._turn:
                done, batch, read = self._ahead.pop().result() if self._ahead else self._read()
                if batch is None or self._ended.is_set():
                    return
                if took > _LONG and read > _SHORT * took:
                    self._ahead.append(self._pool.submit(self._read))
            started = time.perf_counter()
            try:
                done.set_result((batch[0], call(batch[1])))
            except BaseException as error:  # noqa: BLE001  it is raised in the caller's thread
                done.set_exception(error)
            took = time.perf_counter() - started
            del done, batch  # their memory is free while the next batch is awaited

    def _read(self) -> _Read[_Tag]:
        done, batch, started = self._wanted.get(), None, time.perf_counter()
        try:
            batch = None if self._ended.is_set() else next(self._batches, None)
            if batch is None:
                done.set_result(None)
        except BaseException as error:  # noqa: BLE001
            done.set_exception(error)
        return done, batch, time.perf_counter() - started


def overlapped(
    batches: Iterator[tuple[_Tag, AnyArray]], calls: Sequence[Call]
) -> Generator[tuple[_Tag, FloatArray], None, None]:
    """Run networks on batches while the next one is read and the caller uses the last one."""
    # Each network runs one batch, one more is read, and the caller has one; no others are in memory. An error
    # in any thread is raised here and ends all. Close it if it is not exhausted: it waits for running calls.
    threads = _Threads(batches, calls)
    coming = deque(threads.ask() for _ in range(len(calls) + 1))
    try:
        while (outputs := coming.popleft().result()) is not None:
            coming.append(threads.ask())
            yield outputs
            del outputs  # its memory is free while the next one is awaited
    finally:
        threads.close()


def ready_shape(shapes: Iterable[tuple[int, ...]], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Choose the shape that a batch is padded to."""
    ready = [shape for shape in list(shapes) if shape[1:] == wanted[1:] and shape[0] >= wanted[0]]
    return min(ready, default=wanted)


def padded(tiles: AnyArray, size: int) -> FloatArray:
    """Pad a batch with zero tiles."""
    if len(tiles) == size:
        return np.ascontiguousarray(tiles, np.float32)
    batch = np.zeros((size, *tiles.shape[1:]), np.float32)
    batch[: len(tiles)] = tiles
    return batch
