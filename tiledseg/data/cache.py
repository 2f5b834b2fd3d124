"""Pairs prepared for training: shrunk, and cached in memory or on disk, or read again for each crop."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from tiledseg._storage import DiskCache, array_digest, atomic_write, check_writable
from tiledseg._validate import instance_of, shown, whole_number
from tiledseg._version import __version__
from tiledseg.config import MaskConfig, PreprocessingConfig
from tiledseg.data.load import load_image, load_shrunk, log_meanings
from tiledseg.data.pairs import as_pair, as_pairs, each_pair, mask_files
from tiledseg.errors import ArrayError
from tiledseg.io import IGNORED, content_digest, is_outlines, open_image
from tiledseg.preprocess import percentiles_of, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.data.pairs import Pair
    from tiledseg.preprocess import Limits

_MOST_FOREGROUND = 4096  # foreground px stored for each image; crops drawn around more would not differ
_MOST_RECENT = 4  # pairs read last, held in memory: neighbouring crops of one image read it once

_Loaded: TypeAlias = "tuple[AnyArray, NDArray[np.uint8]]"
"""Px (h, w, C) and labels (h, w) of a shrunk pair."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPair:
    """A pair at the network's scale; its values are prepared crop by crop."""

    name: str  # name in messages
    shape: tuple[int, int, int]  # (h, w, C) in px, after shrinking
    dtype: np.dtype[Any]  # of the image
    extremes: tuple[float, float]  # least and largest value of the image
    foreground: NDArray[np.uint32]  # indices into the flat mask, at most 4096, evenly spread
    preprocessing: PreprocessingConfig  # the steps that are still to be applied
    store: _Store  # reads px
    limits: Limits | None = None  # percentiles of the whole image before shrinking, if needed
    ignores: bool = False  # whether the label 255 marks px that do not count
    counted: int | None = None  # px that count; None for all

    @property
    def image(self) -> FloatArray:
        """The whole image as the network sees it: float32 (h, w, C)."""
        return self.prepared(self._whole()[0])

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The whole mask: labels, uint8 (h, w)."""
        return self._whole()[1]

    def _whole(self) -> _Loaded:
        return self.read(slice(0, self.shape[0]), slice(0, self.shape[1]))

    def read(self, rows: slice, columns: slice) -> _Loaded:
        """Read a rectangle."""
        pixels, labels = self.store.read(rows, columns)
        wanted = (rows.stop - rows.start, columns.stop - columns.start, self.shape[2])
        if (pixels.shape, labels.shape, pixels.dtype) != (wanted, wanted[:2], self.dtype):
            raise ArrayError(
                f"`{shown(self.name)}` changed while it was in use: it was {self.dtype} of shape "
                f"{self.shape}; a read of {wanted} got {pixels.dtype} of shape {pixels.shape}, "
                f"mask {labels.shape}. "
                "Do not change files while they are in use."
            )
        return pixels, labels

    def prepared(self, pixels: AnyArray) -> FloatArray:
        """Prepare px as for prediction."""
        return np.asarray(prepare(pixels, self.preprocessing, self.limits))


def prepare_pair(pair: Pair, preprocessing: PreprocessingConfig, *, classes: int = 1) -> PreparedPair:
    """Read, check and shrink a pair, and cache it in memory."""
    instance_of(PreprocessingConfig, preprocessing, "preprocessing")
    loaded = load_shrunk(as_pair(pair, "pair"), preprocessing, whole_number("classes", classes))
    return _prepared(pair, preprocessing, loaded, _InMemory(*loaded))


def prepare_pairs(
    pairs: Sequence[Pair],
    preprocessing: PreprocessingConfig,
    *,
    classes: int = 1,
    memory: int | None = None,
    cache_dir: PathLike | None = None,
) -> list[PreparedPair]:
    """Read, check and shrink pairs, and cache as many in memory as fit into so many bytes."""
    found, classes = as_pairs(pairs, "pairs"), whole_number("classes", classes)
    instance_of(PreprocessingConfig, preprocessing, "preprocessing")
    left = math.inf if memory is None else whole_number("memory", memory, least=0)
    disk = None if cache_dir is None else DiskCache(check_writable(cache_dir))
    meanings: list[str] = []
    load = partial(load_shrunk, preprocessing=preprocessing, classes=classes, meanings=meanings)
    recent = lru_cache(_MOST_RECENT)(load)  # safe for several threads

    def prepared(pair: Pair) -> PreparedPair:
        nonlocal left
        key = "" if disk is None else _key(pair, preprocessing, classes)
        folder = None if disk is None else disk.find(key)
        loaded = load(pair) if folder is None else _OnDisk(*_files(folder)).read(slice(None), slice(None))
        store: _Store = _ReadAgain(pair, recent)
        if (size := _bytes(pair, loaded)) <= left:
            left -= size
            store = _InMemory(*loaded)
        elif disk is not None:
            store = _OnDisk(*_files(folder or disk.keep(key, partial(_write, loaded=loaded))))
        return _prepared(pair, preprocessing, loaded, store)

    made = each_pair(found, prepared)
    log_meanings(meanings)
    return made


def _bytes(pair: Pair, loaded: _Loaded) -> int:
    """Count the bytes that a pair adds in memory; an array that the user passed adds none."""
    both = zip((pair.image, pair.mask), loaded, strict=True)
    return sum(
        0 if isinstance(own, np.ndarray) and np.may_share_memory(own, array) else array.nbytes
        for own, array in both
    )


def _prepared(pair: Pair, preprocessing: PreprocessingConfig, loaded: _Loaded, store: _Store) -> PreparedPair:
    pixels, mask = loaded
    foreground = np.flatnonzero((mask > 0) & (mask != IGNORED) if pair.ignores else mask)
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
        preprocessing=preprocessing.changed(scale=1.0, sharpen=0.0, pixel_size=None),
        store=store,
        limits=None if percentiles is None else percentiles_of(load_image(pair), percentiles),
        ignores=pair.ignores,
        counted=int(np.count_nonzero(mask != IGNORED)) if pair.ignores else None,
    )


class _Store(Protocol):
    """A shrunk pair that is read by region."""

    def read(self, rows: slice, columns: slice) -> _Loaded:
        """Read a rectangle that lies inside the image."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _InMemory:
    """A pair that is cached in memory."""

    pixels: AnyArray  # (h, w, C)
    mask: NDArray[np.uint8]  # labels (h, w)

    def read(self, rows: slice, columns: slice) -> _Loaded:
        """Read a rectangle that lies inside the image."""
        return self.pixels[rows, columns], self.mask[rows, columns]


@dataclass(frozen=True, slots=True, eq=False)
class _ReadAgain:
    """A pair that is read from its own files whenever it is not among the recent ones."""

    pair: Pair
    load: Callable[[Pair], _Loaded]  # reads, checks and shrinks it, or returns a recent one

    def read(self, rows: slice, columns: slice) -> _Loaded:
        """Read a rectangle that lies inside the image."""
        pixels, mask = self.load(self.pair)
        return pixels[rows, columns], mask[rows, columns]


@dataclass(frozen=True, slots=True)
class _OnDisk:
    """A pair in a cache on disk, whose files are opened for each crop, so that few files are open."""

    image: Path  # .npy file
    mask: Path  # .npy file

    def read(self, rows: slice, columns: slice) -> _Loaded:
        """Read a rectangle that lies inside the image."""
        with open_image(self.image) as pixels, open_image(self.mask) as mask:
            return np.asarray(pixels[rows, columns]), np.asarray(mask[rows, columns])


def _write(folder: Path, loaded: _Loaded) -> None:
    for path, array in zip(_files(folder), loaded, strict=True):
        with atomic_write(path) as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "image.npy", folder / "mask.npy"


def _key(pair: Pair, preprocessing: PreprocessingConfig, classes: int) -> str:
    """Compute a key from the bytes of a pair's files and what reads, checks and shrinks them."""
    masks = [pair.mask] if isinstance(pair.mask, np.ndarray) else mask_files(pair)
    made_from = [
        __version__,
        *(_digest(one) for one in (pair.image, *masks)),
        [classes, *(getattr(pair, name) for name in MaskConfig.model_fields)],
        list(pair.reading.items()),
        pair.name if any(is_outlines(one) for one in mask_files(pair)) else None,
        [preprocessing.dtype, preprocessing.channels, preprocessing.scale, preprocessing.pixel_size],
        [preprocessing.sharpen, preprocessing.sharpen_sigma if preprocessing.sharpen else None],
    ]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]


def _digest(part: PathLike | AnyArray) -> str:
    return array_digest(part) if isinstance(part, np.ndarray) else content_digest(part)
