"""The Predictor protocol, a callable as a Predictor, and the check of outputs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tiledseg._validate import invalid, shown
from tiledseg.errors import ModelError, TiledSegError
from tiledseg.tiling import UNKNOWN, ReceptiveField

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import AnyArray, FloatArray, TileCall


class Predictor(Protocol):
    """A network that can be called on batches of tiles."""

    @property
    def channels(self) -> int | None:
        """Input channels C; None where any number is accepted or it is not known."""
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
        """Raise a TiledSegError unless the network maps tiles of a size to maps of that size."""
        ...

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        ...


@contextmanager
def failures_named(shape: tuple[int, ...]) -> Iterator[None]:
    """Turn an error of a network into a ModelError that states the shape of the tiles."""
    try:
        yield
    except (TiledSegError, MemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        text = f"The network failed on tiles of shape {shape}: {type(error).__name__}: {shown(lines[0])}"
        raise ModelError(text) from error


class CallablePredictor:
    """A callable, of which nothing else is known; its stride is assumed to be 1."""

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
        raise ModelError(
            f"The network's output cannot be converted to an array: {type(error).__name__}: {error}"
        ) from None
    if array.dtype.kind not in "biuf":
        raise invalid(
            ModelError,
            "outputs",
            must="be one array of real numbers",
            got=f"{type(outputs).__name__} of dtype {array.dtype}",
            fix="Let the network return one map of shape (N, h, w, K).",
        )
    if array.ndim != 4 or array.shape[:3] != shape[:3]:
        raise invalid(
            ModelError,
            "outputs",
            must=f"have shape (N, h, w, K) with (N, h, w) = {tuple(shape[:3])}",
            got=array.shape,
            fix="Return a map of the tile's own size, channels last.",
        )
    return array.astype(np.float32, copy=False)
