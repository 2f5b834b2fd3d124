"""What a network is to the rest of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import PreprocessingConfig, TilingConfig
    from tiledseg.engine._reach import Reach

__all__ = ["ModelReference", "Predictor", "SegmenterLike"]


class Predictor(Protocol):
    """A network made ready to be called on batches of tiles."""

    @property
    def channels(self) -> int | None:
        """Input channels C; None where any number will do or is not known."""
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
    def reach(self) -> Reach:
        """What an output px depends on."""
        ...

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory in bytes that one tile needs inside the network."""
        ...

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Raise a TiledSegError where the network does not map tiles of that size to maps of it."""
        ...

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        ...


@runtime_checkable
class SegmenterLike(Protocol):
    """A network with what it needs to be used: how pixels are prepared, tiled and cut."""

    @property
    def network(self) -> Any:  # noqa: ANN401  Keras has no types
        """The keras.Model."""
        ...

    @property
    def preprocessing(self) -> PreprocessingConfig:
        """How images are prepared."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        ...

    @property
    def threshold(self) -> float:
        """Where probabilities are cut, in (0, 1)."""
        ...

    @property
    def tiling(self) -> TilingConfig | None:
        """How images are tiled; None for the default."""
        ...


@runtime_checkable
class ModelReference(Protocol):
    """A segmenter that each process loads for itself."""

    @property
    def path(self) -> str:
        """Where it lies."""
        ...

    @property
    def digest(self) -> str:
        """What tells it from all others."""
        ...

    def load(self) -> SegmenterLike:
        """Load it, once in each process."""
        ...
