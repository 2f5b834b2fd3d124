"""Types that several rooms share; a lower room meets a higher one through them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import os

    from tiledseg.config import PreprocessingConfig, TilingConfig
    from tiledseg.engine import Reach

__all__ = [
    "AnyArray",
    "FloatArray",
    "ModelReference",
    "PathLike",
    "Predictor",
    "SegmenterLike",
    "Sink",
    "Source",
    "TileCall",
]

AnyArray: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]
PathLike: TypeAlias = "str | os.PathLike[str]"


@runtime_checkable
class Source(Protocol):
    """Pixels to read: a NumPy array, memmap, zarr or Dask array, or anything alike."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, (H, W) or (H, W, C)."""
        ...

    @property
    def dtype(self) -> Any:  # noqa: ANN401  zarr, dask and h5py each have their own
        """Dtype of the pixels."""
        ...

    def __getitem__(self, key: Any, /) -> Any:  # noqa: ANN401
        """Read the region that a tuple of slices names."""
        ...


@runtime_checkable
class Sink(Protocol):
    """A place for finished pixels: anything with shape, dtype and slice assignment."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole map."""
        ...

    @property
    def dtype(self) -> Any:  # noqa: ANN401
        """Dtype that the map is stored in."""
        ...

    def __setitem__(self, key: Any, value: Any, /) -> None:  # noqa: ANN401
        """Write a region."""
        ...


class TileCall(Protocol):
    """Any callable that maps a batch of tiles to a batch of outputs."""

    def __call__(self, tiles: FloatArray, /) -> Any:  # noqa: ANN401
        """Map tiles (N, h, w, C) float32 to outputs (N, h, w, K)."""
        ...


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
