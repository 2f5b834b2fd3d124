"""Types that several packages share; a lower package takes a higher one through a Protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import os


AnyArray: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]
PathLike: TypeAlias = "str | os.PathLike[str]"


@runtime_checkable
class Source(Protocol):
    """Pixels to read: a NumPy array, memmap, zarr or Dask array, or the like."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, (H, W) or (H, W, C)."""
        ...

    @property
    def dtype(self) -> Any:  # zarr, dask and h5py each have their own
        """Dtype of the pixels."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Read the region that a tuple of slices selects."""
        ...


@runtime_checkable
class Sink(Protocol):
    """A place for finished pixels: anything with shape, dtype and slice assignment."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole map."""
        ...

    @property
    def dtype(self) -> Any:
        """Dtype that the map is stored in."""
        ...

    def __setitem__(self, key: Any, value: Any, /) -> None:
        """Write a region."""
        ...


class TileCall(Protocol):
    """Any callable that maps a batch of tiles to a batch of outputs."""

    def __call__(self, tiles: FloatArray, /) -> Any:
        """Map tiles (N, h, w, C) float32 to outputs (N, h, w, K)."""
        ...
