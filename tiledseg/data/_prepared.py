"""Pairs made ready for training: shrunk, and kept where their crops are cut from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import instance_of, invalid, whole_number
from tiledseg.config import PreprocessingConfig
from tiledseg.data._each import each
from tiledseg.data._kept import Cache, InMemory, LoadedAgain, Recent, cache_key
from tiledseg.data._loading import load_image, load_shrunk
from tiledseg.data._pairs import as_pair, as_pairs
from tiledseg.errors import ArrayError
from tiledseg.preprocess import percentiles_of, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.data._kept import Kept, Loaded
    from tiledseg.data._pairs import Pair
    from tiledseg.preprocess import Limits

__all__ = ["PreparedPair", "prepare_pair", "prepare_pairs"]

_MOST_FOREGROUND = 4096  # px that are remembered of each image: more would make no difference to chance


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPair:
    """A pair at the network's scale, whose values still are to be prepared."""

    name: str  # what messages call it
    shape: tuple[int, int, int]  # (h, w, C) of the shrunk image in px
    dtype: np.dtype[Any]  # of the shrunk image: its own
    extremes: tuple[float, float]  # least and largest value of the image
    # uint32: places of foreground px in the flat mask, 4096 of them, evenly spread, where there are
    # more
    foreground: NDArray[np.uint32]
    preprocessing: PreprocessingConfig  # what is left to do
    kept: Kept  # where px are
    limits: Limits | None = None  # the percentiles of the whole image, as it is read, where they count

    @property
    def image(self) -> FloatArray:
        """The whole image as the network sees it: float32 (h, w, C)."""
        return self.prepared(self._whole()[0])

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The whole mask: labels, uint8 (h, w)."""
        return self._whole()[1]

    def _whole(self) -> Loaded:
        return self.read(slice(0, self.shape[0]), slice(0, self.shape[1]))

    def read(self, rows: slice, columns: slice) -> Loaded:
        """Read a rectangle."""
        pixels, labels = self.kept.read(rows, columns)
        wanted = (rows.stop - rows.start, columns.stop - columns.start, self.shape[2])
        if (pixels.shape, labels.shape, pixels.dtype) != (wanted, wanted[:2], self.dtype):
            raise invalid(
                ArrayError,
                self.name,
                must=f"stay as it was: {self.dtype} of shape {self.shape}",
                got=f"{wanted} read as {pixels.dtype} of shape {pixels.shape}, mask {labels.shape}",
                fix="Leave files alone while they are in use.",
            )
        return pixels, labels

    def prepared(self, pixels: AnyArray) -> FloatArray:
        """Prepare px as for prediction."""
        return np.asarray(prepare(pixels, self.preprocessing, self.limits))


def prepare_pair(pair: Pair, preprocessing: PreprocessingConfig, *, classes: int = 1) -> PreparedPair:
    """Read, check and shrink a pair, and keep it in memory.

    The image is shrunk as for prediction and kept in its own dtype; the mask takes, for each px of
    the shrunk image, the label at that px's centre.
    """
    instance_of(PreprocessingConfig, preprocessing, "preprocessing")
    loaded = load_shrunk(as_pair(pair, "pair"), preprocessing, whole_number("classes", classes))
    return _described(pair, preprocessing, loaded, InMemory(*loaded))


def prepare_pairs(
    pairs: Sequence[Pair],
    preprocessing: PreprocessingConfig,
    *,
    classes: int = 1,
    memory: int | None = None,
    cache_dir: PathLike | None = None,
) -> list[PreparedPair]:
    """Read, check and shrink pairs, and keep as many in memory as it is said to hold."""
    found, classes = as_pairs(pairs, "pairs"), whole_number("classes", classes)
    instance_of(PreprocessingConfig, preprocessing, "preprocessing")
    left = None if memory is None else whole_number("memory", memory, least=0)
    keeper = _Keeper(preprocessing, classes, left, None if cache_dir is None else Cache(cache_dir))
    return each(found, keeper.prepared)


@dataclass(slots=True)
class _Keeper:
    """Decides for one pair after the other where it is kept."""

    preprocessing: PreprocessingConfig
    classes: int
    left: int | None
    cache: Cache | None
    count: int = 0
    recent: Recent = field(default_factory=Recent)

    def prepared(self, pair: Pair) -> PreparedPair:
        """Read a pair, from the cache if it is there, and keep it."""

        def load() -> Loaded:
            return load_shrunk(pair, self.preprocessing, self.classes)

        key = "" if self.cache is None else cache_key(pair, self.preprocessing)
        cached = None if self.cache is None else self.cache.find(key)
        loaded = load() if cached is None else cached.read(slice(None), slice(None))
        kept: Kept
        if self._fits(pair, loaded):
            kept = InMemory(*loaded)
        elif self.cache is not None:
            kept = cached or self.cache.keep(key, loaded)
        else:
            self.count += 1
            kept = LoadedAgain(load, self.count, self.recent)
        return _described(pair, self.preprocessing, loaded, kept)

    def _fits(self, pair: Pair, loaded: Loaded) -> bool:
        sizes = [
            0 if isinstance(own, np.ndarray) and np.may_share_memory(own, array) else array.nbytes
            for own, array in zip((pair.image, pair.mask), loaded, strict=True)
        ]
        if self.left is None:
            return True
        fits = sum(sizes) <= self.left
        self.left -= sum(sizes) if fits else 0
        return fits


def _described(pair: Pair, preprocessing: PreprocessingConfig, loaded: Loaded, kept: Kept) -> PreparedPair:
    pixels, mask = loaded
    foreground = np.flatnonzero(mask)
    if len(foreground) > _MOST_FOREGROUND:
        places = (2 * np.arange(_MOST_FOREGROUND) + 1) * len(foreground) // (2 * _MOST_FOREGROUND)
        foreground = foreground[places]
    height, width, channels = pixels.shape
    percentiles = preprocessing.percentiles
    return PreparedPair(
        name=pair.name,
        shape=(height, width, channels),
        dtype=pixels.dtype,
        extremes=(float(pixels.min()), float(pixels.max())),
        foreground=foreground.astype(np.uint32),
        preprocessing=preprocessing.changed(scale=1.0, sharpen=0.0),
        kept=kept,
        limits=None if percentiles is None else percentiles_of(load_image(pair), percentiles),
    )
