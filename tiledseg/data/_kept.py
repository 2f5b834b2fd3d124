"""Where shrunk pairs are kept: in memory, in a cache on disk, or nowhere, to be read again each time."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from tiledseg._version import __version__
from tiledseg.data._masks import mask_files
from tiledseg.errors import FileError
from tiledseg.io import atomic_write, check_writable, file_digest, open_image, write_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.config import PreprocessingConfig
    from tiledseg.data._pairs import Pair

__all__ = ["Cache", "Cached", "Kept", "Loaded", "LoadedAgain", "Recent", "cache_key"]

_log = logging.getLogger("tiledseg")
_MOST_RECENT = 4

Loaded: TypeAlias = "tuple[AnyArray, NDArray[np.uint8]]"
"""Px (h, w, C) and labels (h, w) of a shrunk pair."""


class Kept(Protocol):
    """A shrunk pair that is read by region."""

    def read(self, rows: slice, columns: slice) -> Loaded:
        """Read a rectangle that lies inside the image."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class InMemory:
    """A pair that is kept in memory."""

    pixels: AnyArray  # (h, w, C)
    mask: NDArray[np.uint8]  # labels, uint8 (h, w)

    def read(self, rows: slice, columns: slice) -> Loaded:
        """Read a rectangle that lies inside the image."""
        return self.pixels[rows, columns], self.mask[rows, columns]


class Recent:
    """The pairs that were read last, so that neighbouring crops of one image read it once.

    Safe for several threads; two that want the same pair at once may both read it.
    """

    def __init__(self) -> None:
        self._pairs: OrderedDict[int, Loaded] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, place: int, load: Callable[[], Loaded]) -> Loaded:
        """Give a pair, read if it is not there."""
        with self._lock:
            if place in self._pairs:
                self._pairs.move_to_end(place)
                return self._pairs[place]
        loaded = load()
        with self._lock:
            self._pairs[place] = loaded
            while len(self._pairs) > _MOST_RECENT:
                self._pairs.popitem(last=False)
        return loaded


@dataclass(frozen=True, slots=True, eq=False)
class LoadedAgain:
    """A pair that is read from its own files whenever it is not among the recent ones."""

    load: Callable[[], Loaded]  # reads, checks and shrinks it
    place: int  # its number among the recent pairs
    recent: Recent  # shared by all pairs

    def read(self, rows: slice, columns: slice) -> Loaded:
        """Read a rectangle that lies inside the image."""
        pixels, mask = self.recent.get(self.place, self.load)
        return pixels[rows, columns], mask[rows, columns]


@dataclass(frozen=True, slots=True)
class Cached:
    """A pair in a cache, whose files are opened for each crop: no limit on open files is met."""

    image: Path  # files of arrays
    mask: Path  # files of arrays

    def read(self, rows: slice, columns: slice) -> Loaded:
        """Read a rectangle that lies inside the image."""
        with open_image(self.image) as pixels, open_image(self.mask) as mask:
            return np.asarray(pixels[rows, columns]), np.asarray(mask[rows, columns])


class Cache:
    """Shrunk pairs in a folder, named after what they were made from; the folder may be deleted any time.

    Each is three files: the arrays, and a record with their digests, which is written last.
    """

    def __init__(self, folder: PathLike) -> None:
        self._folder = check_writable(folder)

    def find(self, key: str) -> Cached | None:
        """Find a pair."""
        cached, record = self._files(key)
        if not record.exists():
            return None
        try:
            digests = json.loads(record.read_text("utf-8"))
            if digests == [file_digest(cached.image), file_digest(cached.mask)]:
                return cached
        except (OSError, ValueError, FileError):
            pass
        _log.warning("%s is damaged and is made anew", record)
        return None

    def keep(self, key: str, loaded: Loaded) -> Cached:
        """Write a pair."""
        cached, record = self._files(key)
        for path, array in zip((cached.image, cached.mask), loaded, strict=True):
            with atomic_write(path) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        write_text(record, json.dumps([file_digest(cached.image), file_digest(cached.mask)]))
        return cached

    def _files(self, key: str) -> tuple[Cached, Path]:
        files = (self._folder / f"{key}{end}" for end in (".image.npy", ".mask.npy", ".json"))
        image, mask, record = files
        return Cached(image, mask), record


def cache_key(pair: Pair, preprocessing: PreprocessingConfig) -> str:
    """Name what a shrunk pair is made from: the bytes of its files, and how they are read and shrunk."""
    masks = [pair.mask] if isinstance(pair.mask, np.ndarray) else mask_files(pair)
    made_from = [
        __version__,
        *(_digest(one) for one in (pair.image, *masks)),
        [pair.mask_threshold, pair.mask_parts, list(pair.class_values)],
        [preprocessing.dtype, preprocessing.channels, preprocessing.scale],
        [preprocessing.sharpen, preprocessing.sharpen_sigma if preprocessing.sharpen else None],
    ]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]


def _digest(part: PathLike | AnyArray) -> str:
    if not isinstance(part, np.ndarray):
        return file_digest(part)
    digest = hashlib.sha256(f"{part.dtype.str}{part.shape}".encode())
    digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
