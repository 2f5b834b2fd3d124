"""Predictor: what maps batches of tiles to outputs; a callable, a module of PyTorch; what outputs may be."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable
from weakref import WeakSet

import numpy as np

from tiledseg._arrays import check_unit_interval, is_finite
from tiledseg._validate import invalid, reason_of, shown
from tiledseg.errors import ModelError, SettingError, TiledSegError
from tiledseg.tiling import UNKNOWN, ReceptiveField

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiledseg._types import AnyArray, FloatArray, TileCall
    from tiledseg.config import Activation, Engine, Precision, PreprocessingConfig, TilingConfig

    Call: TypeAlias = Callable[[AnyArray], FloatArray]

_log = logging.getLogger("tiledseg")

_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ ")  # of its messages
_TELLING = ("not supported", "Unsupported", "No conversion rule")
_EMPTY = ("Exception from ", "Check '", "Loading input model")  # how messages of OpenVINO begin


_summed: WeakSet[object] = WeakSet()  # networks whose outputs were looked at
_activated: WeakSet[object] = WeakSet()  # those whose logits were
_SUM_TOLERANCE = 0.02  # of the mean difference from 1


class Predictor(Protocol):
    """A network that can be called on batches of tiles."""

    # It may also have: `tile_dtype`, the dtype in which tiles are best cut; `writes_no_tile`, true where
    # tiles may be parts of the image itself; `tiles_at_once`, how many it runs side by side; `likely_stride`,
    # where its stride is not known; `computes_half`, whether it computes in 16 bits; `engine_bytes`, what its
    # engine adds to the memory of the process.

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
        text = f"The network failed on tiles of shape {shape}: {shown(_clearest_line(lines))}"
        raise ModelError(f"{text.rstrip('.')}. {_fix_of(error) or fix}") from error


def _clearest_line(lines: list[str]) -> str:
    """Return the line that says most: engines begin with places in their own code."""
    named = (line for line in lines if any(word in line for word in _TELLING))
    later = (line for line in lines if not any(word in line for word in _EMPTY))
    return next(named, next(later, lines[0])).lstrip("- ")


def _fix_of(error: Exception) -> str:
    """Say what to do about the usual mistakes with PyTorch; nothing about others."""
    text = reason_of(error)
    if "BFloat16" in text:
        return "Let it return outputs.float(): NumPy has no bfloat16."
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


def checked_outputs(outputs: Any, shape: tuple[int, ...]) -> FloatArray:
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


def check_castable(tiles: AnyArray, dtype: str) -> None:
    """Refuse px that an input of whole numbers would change: engines cast them without a word."""
    if "int" not in dtype:
        return
    limits = np.iinfo(dtype)
    if not ((tiles == np.floor(tiles)) & (tiles >= limits.min) & (tiles <= limits.max)).all():
        fix = "Give the image's own px: no preprocessing that scales them."
        got = f"values from {tiles.min():g} to {tiles.max():g}"
        raise invalid(ModelError, "tiles", must=f"be whole numbers of {dtype}", got=got, fix=fix)


def with_activation(network: Call, activation: Activation, model: object) -> Call:
    """Return a network whose logits become probabilities."""

    def call(tiles: AnyArray) -> FloatArray:
        outputs = network(tiles)
        _warn_of_probabilities(outputs, activation, model)
        return activated(outputs, activation)

    return call


def activated(outputs: FloatArray, activation: Activation | None) -> FloatArray:
    """Turn logits (N, h, w, K) into probabilities, without overflow."""
    if activation is None:
        return outputs
    if not is_finite(outputs):  # an infinite logit would look like a sure px; NaN is named with its tile
        outputs = np.where(np.isfinite(outputs), outputs, np.float32(np.nan))
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


def _is_new(network: object, seen: WeakSet[object]) -> bool:
    """Say whether a network is seen for the first time; one that cannot be known again counts as seen."""
    try:
        if network in seen:
            return False
        seen.add(network)
    except TypeError:  # of a caller's class without references or a hash
        return False
    return True


def _warn_of_probabilities(outputs: FloatArray, activation: Activation, network: object) -> None:
    """Warn once where an activation is stated for outputs that look like probabilities already."""
    if outputs.size and _is_new(network, _activated) and outputs.min() >= 0 and outputs.max() <= 1:
        _log.warning(
            "The outputs of the network lie in [0, 1], %.3g to %.3g, before the %s. If it ends in one, "
            "leave `activation` out: its outputs are probabilities.",
            outputs.min(),
            outputs.max(),
            activation,
        )


def warn_of_sums(outputs: FloatArray, network: object) -> None:
    """Warn once where the channels of a network do not sum to 1, as those of a softmax do."""
    if outputs.shape[-1] < 2 or not outputs.size or not _is_new(network, _summed):
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
