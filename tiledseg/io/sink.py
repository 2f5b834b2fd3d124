"""create_image: a map that is written by region while it is computed, with its pyramid."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from tiledseg._arrays import array_of
from tiledseg._storage import exists, is_folder
from tiledseg._validate import all_of, invalid, items_of, named, path_text, whole_number
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io.find import stem_of
from tiledseg.io.metadata import ImageMetadata, pixel_size_from
from tiledseg.io.partial import partial
from tiledseg.io.source import check_values, rows_and_columns
from tiledseg.io.stores import TILE, NpyStore, TiffStore, TileStore, ZarrStore
from tiledseg.io.zarr import is_zarr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.io.metadata import PixelSize, Placement
    from tiledseg.io.partial import Partial

_Part: TypeAlias = tuple[slice, slice]
_STORES: dict[tuple[str, ...], type[TileStore]] = {
    (".ome.tif", ".ome.tiff"): TiffStore,
    (".ome.zarr", ".zarr"): ZarrStore,
    (".npy",): NpyStore,
}
_DTYPES = {"uint8", "uint16", "uint32", "float32"}
_THREADS = 2
_WAITING = 6  # encoded tiles that wait for the disk


def create_image(  # noqa: PLR0913  the metadata of a map
    path: PathLike,
    shape: Sequence[int],
    dtype: Any,  # anything that NumPy accepts as a dtype
    *,
    labels: bool = False,
    pixel_size: PixelSize | float | tuple[float, float] | None = None,
    placement: Placement | None = None,
    names: Sequence[str] = (),
    provenance: Mapping[str, str] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
) -> ImageSink:
    """Create a file for a map that is written while it is computed; whole or not at all.

    The suffix decides the format: ``.ome.tif`` is a tiled, compressed OME-TIFF with a pyramid (BigTIFF where
    it could grow beyond 4 GB), ``.ome.zarr`` and ``.zarr`` are an OME-Zarr 0.5 with a pyramid (extra
    ``zarr``), ``.npy`` is NumPy's own format. Smaller levels are computed as tiles are written. Memory
    does not depend on height or width if the map is written in panels, as `tiled_predict` does.

    Parameters
    ----------
    path : str or PathLike
        The target; missing folders are made. An existing file or zarr is replaced, no other folder is.
    shape : sequence of int
        (H, W) or (H, W, K) in px.
    dtype : dtype
        One of uint8, uint16, uint32 and float32.
    labels : bool
        Whether smaller levels take every second px (labels), or the mean of four.
    pixel_size : PixelSize, float or tuple of float, optional
        Height and width of a px of the map; None is written as unknown.
    placement : Placement, optional
        Where the map is; its tags of a GeoTIFF are written to a TIFF, its origin to an OME-Zarr.
    names : sequence of str
        Name of each channel.
    provenance : mapping, optional
        Text by name: the origin of the map.
    fingerprint : mapping, optional
        What the map depends on, as JSON values. With a fingerprint, an interrupted map stays beside the
        target, and the next call with the same fingerprint resumes it.

    Returns
    -------
    ImageSink
        For a ``with`` block; regions are written by slice assignment.

    Raises
    ------
    FileError
        On entering or leaving the block: if the target cannot be written, another run writes it, or it was
        started with another fingerprint; on leaving also if px are missing.
    SettingError
        If the suffix, shape or dtype is not supported.

    Examples
    --------
    >>> import numpy as np
    >>> from tiledseg.io import open_image
    >>> path = getfixture("tmp_path") / "mask.ome.tif"
    >>> with create_image(path, (3, 4), np.uint8, labels=True) as out:
    ...     out[0:3] = np.eye(3, 4, dtype=np.uint8)
    >>> with open_image(path) as image:
    ...     image[0:2, 0:2].tolist()
    [[1, 0], [0, 1]]
    """
    text = path_text(path)
    kind = next((store for suffixes, store in _STORES.items() if text.lower().endswith(suffixes)), None)
    if kind is None:
        fix = f"Use one of {', '.join(suffix for suffixes in _STORES for suffix in suffixes)}."
        raise invalid(
            SettingError, "path", must="have the suffix of a format for streaming", got=named(text), fix=fix
        )
    must, fix = "be (H, W) or (H, W, K)", "Give px, channels last."
    whole = tuple(whole_number("shape", length, fix=fix) for length in items_of(shape, "shape", must, fix))
    if len(whole) not in {2, 3}:
        raise invalid(SettingError, "shape", must=must, got=shape, fix=fix)
    levels = _level_shapes(whole[0], whole[1])
    levels = levels[:1] if kind is NpyStore else levels
    metadata = ImageMetadata(
        levels,
        whole[2:],
        _dtype_of(dtype),
        pixel_size_from(pixel_size),
        tuple(all_of(str, names, "names", "Give one name for each channel.")),
        _texts_of(provenance or {}),
        placement,
        stem_of(text),
    )
    return ImageSink(path, metadata, kind, labels=labels, fingerprint=fingerprint)


class ImageSink:
    """A map that is written to a file; made by `create_image`, used in a ``with`` block.

    Attributes
    ----------
    shape : tuple of int
        (H, W) or (H, W, K).
    dtype : dtype
        Dtype of the pixels.
    block_shape : tuple of int
        Height and width of a stored tile in px; regions aligned with it need no memory.
    resumed : bool
        Whether an earlier run wrote a part of it.
    keep_failed : bool
        Whether what is written so far stays after an error, to be resumed; true unless it is set to false
        before the ``with`` block. It stays after a kill and after Ctrl-C in any case.
    """

    def __init__(
        self,
        path: PathLike,
        metadata: ImageMetadata,
        store: type[TileStore],
        *,
        labels: bool,
        fingerprint: Mapping[str, Any] | None,
    ) -> None:
        self.shape: tuple[int, ...] = metadata.shape
        self.dtype: np.dtype[Any] = metadata.dtype
        self.block_shape: tuple[int, int] = (TILE, TILE)
        self.resumed: bool = False
        self.keep_failed: bool = True
        self._path, self._metadata, self._kind = path, metadata, store
        self._labels, self._fingerprint = labels, fingerprint
        self._stack = ExitStack()
        self._waiting: deque[tuple[int, int, int, Future[Any]]] = deque()

    def __enter__(self) -> Self:
        text = path_text(self._path)
        with ExitStack() as stack:
            unfinished = partial(self._path, self._fingerprint, keep_failed=self.keep_failed)
            part, self._journal = stack.enter_context(unfinished)
            _check_folder(text, zarr=self._kind is ZarrStore)
            self._store: TileStore = self._kind(part, self._metadata)
            stack.callback(self._store.close)
            self._pyramid = _Pyramid(
                self._metadata.levels, self.dtype, self._metadata.channels, self._put, labels=self._labels
            )
            self._pool = stack.enter_context(ThreadPoolExecutor(_THREADS, "tiledseg-write"))
            self._restore(self._journal)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            stack.push(self._stack)
            if kind is None:
                self._settle(0)
                self._check_whole()
                self._store.finish()
            else:
                stack.pop_all().__exit__(kind, error, trace)

    def __setitem__(self, key: Any, pixels: Any) -> None:
        rows, columns = rows_and_columns(key, self.shape, "Index out[y0:y1, x0:x1].")
        block = array_of(pixels, "pixels")
        wanted = (rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:])
        if block.shape != wanted:
            fix = "Assign an array of the region's own shape."
            raise invalid(ArrayError, "pixels", must=f"have shape {wanted}", got=block.shape, fix=fix)
        check_values(block, self.dtype, "pixels")
        self._settle(0)  # so that the journal is at most one region behind
        self._pyramid.feed(0, rows.start, columns.start, block)

    def finished_rows(self, start: int, stop: int) -> int:
        """Count the rows from the top that are stored in a range of columns.

        Parameters
        ----------
        start, stop : int
            The columns in px.

        Returns
        -------
        int
            Rows in px; the height where all are stored.
        """
        stored = self._pyramid.done[0]
        done = stored[:, start // TILE : -(-stop // TILE)].all(axis=1)
        rows = len(stored) if done.all() else int(done.argmin())
        return min(rows * TILE, self.shape[0])

    def _put(self, level: int, row: int, column: int, tile: AnyArray) -> None:
        self._waiting.append((level, row, column, self._pool.submit(self._store.encode, tile.copy())))
        self._settle(_WAITING)

    def _settle(self, most: int) -> None:
        """Store encoded tiles in order, until at most a number of them waits."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0][3].done()):
            level, row, column, encoding = self._waiting.popleft()
            record = self._store.put(level, row, column, encoding.result())
            if self._journal is not None:
                self._journal.note([level, row, column, record])

    def _restore(self, journal: Partial | None) -> None:
        """Find the tiles of an earlier run, and shrink again those whose next level is missing."""
        records = [] if journal is None else journal.records
        self.resumed = journal is not None and journal.resumed
        done = self._pyramid.done
        known = {}
        for level, row, column, record in records:
            if self._store.get(level, row, column, record) is not None:
                done[level][row, column] = True
                known[level, row, column] = record
        self._store.begin()
        for (level, row, column), record in sorted(known.items()):
            if level + 1 < len(done) and not done[level + 1][row // 2, column // 2]:
                tile = self._store.get(level, row, column, record)
                if tile is not None:
                    self._pyramid.shrink(level, row, column, tile)

    def _check_whole(self) -> None:
        missing = sum(int((~level).sum()) for level in self._pyramid.done)
        if missing:
            name, got = named(path_text(self._path)), f"{missing} tiles of {TILE} px missing"
            fix = "Assign every region before the block ends."
            raise invalid(FileError, name, must="be written whole", got=got, fix=fix)


def _check_folder(text: str, *, zarr: bool) -> None:
    """Refuse to replace a folder, unless a zarr replaces a zarr."""
    target, fix = Path(text), "Choose another name."
    if is_folder(target) and not (zarr and is_zarr(text)):
        got = "a folder that is not a zarr" if zarr else "a folder"
        raise invalid(FileError, named(text), must="not exist, or be a result of tiledseg", got=got, fix=fix)
    if zarr and exists(target) and not is_folder(target):
        raise invalid(FileError, named(text), must="not exist, or be a folder", got="a file", fix=fix)


def _texts_of(provenance: object) -> dict[str, str]:
    if not isinstance(provenance, Mapping):
        must, fix = "be a mapping", "Give text by name."
        raise invalid(SettingError, "provenance", must=must, got=provenance, fix=fix)
    return dict(provenance)


def _dtype_of(dtype: Any) -> np.dtype[np.generic]:
    try:
        found: np.dtype[np.generic] = np.dtype(dtype)
    except Exception:  # noqa: BLE001  NumPy raises what the object raises
        found = np.dtype(object)
    if found.name not in _DTYPES:
        fix = "Use uint8 for masks, float32 for probabilities."
        raise invalid(SettingError, "dtype", must=f"be one of {sorted(_DTYPES)}", got=repr(dtype), fix=fix)
    return found


def _level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """List the sizes of a pyramid: each is half of the last, rounded up, until it fits into one tile."""
    shapes = [(height, width)]
    while max(shapes[-1]) > TILE:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _covered(parts: list[_Part], size: tuple[int, int]) -> bool:
    """Return whether rectangles, which may overlap, cover a tile."""
    areas = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in parts]
    if sum(areas) < size[0] * size[1]:
        return False
    filled = np.zeros(size, bool)
    for part in parts:
        filled[part] = True
    return bool(filled.all())


class _Pyramid:
    """Collects rectangles until a tile is whole, then stores it and shrinks it into the next level."""

    def __init__(
        self,
        shapes: list[tuple[int, int]],
        dtype: np.dtype[Any],
        channels: tuple[int, ...],
        put: Callable[[int, int, int, AnyArray], None],
        *,
        labels: bool,
    ) -> None:
        self.done: list[np.ndarray[Any, np.dtype[np.bool_]]] = [
            np.zeros((-(-height // TILE), -(-width // TILE)), bool) for height, width in shapes
        ]
        self._shapes, self._dtype, self._channels = shapes, dtype, channels
        self._put, self._labels = put, labels
        self._begun: dict[tuple[int, int, int], tuple[AnyArray, list[_Part]]] = {}

    def feed(self, level: int, y: int, x: int, pixels: AnyArray) -> None:
        """Take a rectangle of a level; tiles that are stored already are skipped."""
        height, width = pixels.shape[:2]
        for row in range(y // TILE, -(-(y + height) // TILE)):
            for column in range(x // TILE, -(-(x + width) // TILE)):
                if self.done[level][row, column]:
                    continue
                top, left = max(y, row * TILE), max(x, column * TILE)
                end, right = min(y + height, (row + 1) * TILE), min(x + width, (column + 1) * TILE)
                self._fill(level, row, column, (top, left), pixels[top - y : end - y, left - x : right - x])

    def shrink(self, level: int, row: int, column: int, tile: AnyArray) -> None:
        """Shrink a whole tile into the next level, where there is one."""
        if level + 1 < len(self._shapes):
            self.feed(level + 1, row * TILE // 2, column * TILE // 2, self._half(tile))

    def _fill(self, level: int, row: int, column: int, corner: tuple[int, int], part: AnyArray) -> None:
        height, width = self._shapes[level]
        size = (min(TILE, height - row * TILE), min(TILE, width - column * TILE))
        if part.shape[:2] == size:
            self._finish(level, row, column, np.ascontiguousarray(part, self._dtype))
            return
        key = (level, row, column)
        if key not in self._begun:
            self._begun[key] = (np.empty((*size, *self._channels), self._dtype), [])
        tile, filled = self._begun[key]
        y, x = corner[0] - row * TILE, corner[1] - column * TILE
        where = (slice(y, y + part.shape[0]), slice(x, x + part.shape[1]))
        tile[where] = part
        filled.append(where)
        if _covered(filled, size):
            del self._begun[key]
            self._finish(level, row, column, tile)

    def _finish(self, level: int, row: int, column: int, tile: AnyArray) -> None:
        self.done[level][row, column] = True
        self._put(level, row, column, tile)
        self.shrink(level, row, column, tile)

    def _half(self, tile: AnyArray) -> AnyArray:
        if self._labels:
            return tile[::2, ::2]
        odd = [(0, length % 2) for length in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
        even = np.pad(tile, odd, mode="edge") if tile.shape[0] % 2 or tile.shape[1] % 2 else tile
        total = even[::2, ::2].astype(np.float32)
        for corner in (even[1::2, ::2], even[::2, 1::2], even[1::2, 1::2]):
            total += corner
        total *= 0.25
        return total.astype(self._dtype) if self._dtype.kind == "f" else np.rint(total).astype(self._dtype)
