"""Maps that are written while they are computed."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tiledseg._validate import invalid, named, path_text
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io._map_facts import MapFacts
from tiledseg.io._partial import partial
from tiledseg.io._pyramid import TILE, Pyramid, level_shapes
from tiledseg.io._tile_stores import NpyStore, TiffStore, TileStore, ZarrStore
from tiledseg.io._zarr_regions import is_zarr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.io._partial import Partial
    from tiledseg.io._pixel_size import PixelSize

__all__ = ["ImageSink", "create_image"]

_STORES: dict[tuple[str, ...], type[TiffStore | ZarrStore | NpyStore]] = {
    (".ome.tif", ".ome.tiff"): TiffStore,
    (".ome.zarr", ".zarr"): ZarrStore,
    (".npy",): NpyStore,
}
_DTYPES = {"uint8", "uint16", "uint32", "float32"}
_THREADS = 2
_WAITING = 6  # tiles between the one who hands them over and the disk


def create_image(  # noqa: PLR0913  what a file says of its px
    path: PathLike,
    shape: Sequence[int],
    dtype: Any,  # noqa: ANN401  whatever NumPy takes for one
    *,
    labels: bool = False,
    pixel_size: PixelSize | None = None,
    names: Sequence[str] = (),
    provenance: Mapping[str, str] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
) -> ImageSink:
    """Make a file that takes a map while it is computed; whole or not at all.

    The suffix says which: ``.ome.tif`` a tiled, compressed OME-TIFF with a pyramid (BigTIFF where it could
    outgrow 4 GB), ``.ome.zarr`` or ``.zarr`` an OME-Zarr 0.5 with one (extra ``zarr``), ``.npy`` NumPy's own.
    Smaller levels are made while tiles come in. Memory depends on neither height nor width where the map
    comes in panels, as `tiled_predict` hands it over.

    Parameters
    ----------
    path : str or PathLike
        The target; missing folders are made. A zarr that stands there is replaced, no other folder.
    shape : sequence of int
        (H, W) or (H, W, K) in px.
    dtype : dtype
        One of uint8, uint16, uint32 and float32.
    labels : bool
        Whether smaller levels take px as they are (labels), or average them.
    pixel_size : PixelSize, optional
        Of a px of the map; None is written as unknown.
    names : sequence of str
        Name of each channel.
    provenance : mapping, optional
        Text by name: where the map comes from.
    fingerprint : mapping, optional
        What the map depends on, in JSON's terms. Where it is given, what a kill or an error leaves stays
        beside the target, and the next call with the same fingerprint goes on with it.

    Returns
    -------
    ImageSink
        To be used in a ``with`` block: takes regions by slice assignment.

    Raises
    ------
    FileError
        On entering or leaving the block: if the target cannot be written, another run is at it, or it was
        begun with another fingerprint; on leaving also if px are missing.
    SettingError
        If the suffix, shape or dtype cannot be written.

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
        fix = f"End it in one of {', '.join(suffix for suffixes in _STORES for suffix in suffixes)}."
        raise invalid(
            SettingError, "path", must="have a suffix that can be streamed to", got=named(text), fix=fix
        )
    whole = tuple(int(length) for length in shape)
    if len(whole) not in {2, 3} or min(whole) < 1:
        raise invalid(
            SettingError, "shape", must="be (H, W) or (H, W, K)", got=shape, fix="Give px, channels last."
        )
    if np.dtype(dtype).name not in _DTYPES:
        fix = "Use uint8 for masks, float32 for probabilities."
        raise invalid(SettingError, "dtype", must=f"be one of {sorted(_DTYPES)}", got=str(dtype), fix=fix)
    levels = level_shapes(whole[0], whole[1])
    levels = levels[:1] if kind is NpyStore else levels
    facts = MapFacts(levels, whole[2:], np.dtype(dtype), pixel_size, tuple(names), dict(provenance or {}))
    return ImageSink(path, facts, kind, labels=labels, fingerprint=fingerprint)


class ImageSink:
    """A map under way to its file; made by `create_image`, used in a ``with`` block.

    Attributes
    ----------
    shape : tuple of int
        (H, W) or (H, W, K).
    dtype : dtype
        Of the pixels.
    block_shape : tuple of int
        Height and width in px of what is stored at once; regions cut along it cost no memory.
    resumed : bool
        Whether a part of it stood already.
    """

    def __init__(
        self,
        path: PathLike,
        facts: MapFacts,
        store: type[TiffStore | ZarrStore | NpyStore],
        *,
        labels: bool,
        fingerprint: Mapping[str, Any] | None,
    ) -> None:
        self.shape: tuple[int, ...] = facts.shape
        self.dtype: np.dtype[Any] = facts.dtype
        self.block_shape: tuple[int, int] = (TILE, TILE)
        self.resumed: bool = False
        self._path, self._facts, self._kind = path, facts, store
        self._labels, self._fingerprint = labels, fingerprint
        self._stack = ExitStack()
        self._waiting: deque[tuple[int, int, int, Future[Any]]] = deque()

    def __enter__(self) -> Self:
        text = path_text(self._path)
        with ExitStack() as stack:
            part, self._journal = stack.enter_context(partial(self._path, self._fingerprint))
            _check_folder(text, zarr=self._kind is ZarrStore)
            self._store: TileStore = self._kind(part, self._facts)
            stack.callback(self._store.close)
            self._pyramid = Pyramid(
                self._facts.levels, self.dtype, self._facts.channels, self._put, labels=self._labels
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

    def __setitem__(self, key: Any, pixels: Any) -> None:  # noqa: ANN401
        rows, columns = self._spelt(key)
        block = np.asarray(pixels)
        wanted = (rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:])
        if block.shape != wanted:
            fix = "Assign an array of the region's own shape."
            raise invalid(ArrayError, "pixels", must=f"have shape {wanted}", got=block.shape, fix=fix)
        self._settle(0)  # so that the journal is never more than one region behind
        self._pyramid.feed(0, rows.start, columns.start, block)

    def finished_rows(self, start: int, stop: int) -> int:
        """Count the rows from the top that stand already in some columns.

        Parameters
        ----------
        start, stop : int
            The columns in px.

        Returns
        -------
        int
            Rows in px; the height where all stand.
        """
        stored = self._pyramid.done[0]
        done = stored[:, start // TILE : -(-stop // TILE)].all(axis=1)
        rows = len(stored) if done.all() else int(done.argmin())
        return min(rows * TILE, self.shape[0])

    def _spelt(self, key: object) -> tuple[slice, slice]:
        given = [one for one in (key if isinstance(key, tuple) else (key,)) if one is not Ellipsis]
        parts = [*given, slice(None), slice(None)][:2]
        spelt = []
        for part, length in zip(parts, self.shape, strict=False):
            if not isinstance(part, slice) or part.step not in {None, 1}:
                fix = "Index out[y0:y1, x0:x1]."
                raise invalid(ArrayError, "key", must="hold slices with a step of 1", got=key, fix=fix)
            spelt.append(slice(*part.indices(length)[:2]))
        return spelt[0], spelt[1]

    def _put(self, level: int, row: int, column: int, tile: AnyArray) -> None:
        self._waiting.append((level, row, column, self._pool.submit(self._store.encode, tile.copy())))
        self._settle(_WAITING)

    def _settle(self, most: int) -> None:
        """Store encoded tiles, in the order in which they came, until few are waiting."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0][3].done()):
            level, row, column, encoding = self._waiting.popleft()
            record = self._store.put(level, row, column, encoding.result())
            if self._journal is not None:
                self._journal.note([level, row, column, record])

    def _restore(self, journal: Partial | None) -> None:
        """Find the tiles that an earlier run stored, and shrink those again whose larger one is missing."""
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
            raise invalid(
                FileError,
                named(path_text(self._path)),
                must="be written whole",
                got=f"{missing} tiles of {TILE} px missing",
                fix="Assign every region before the block ends.",
            )


def _check_folder(text: str, *, zarr: bool) -> None:
    """Refuse to put a file in a folder's place, and a zarr in that of a folder that is none."""
    target = Path(text)
    if target.is_dir() and not (zarr and is_zarr(text)):
        got = "a folder that is no zarr" if zarr else "a folder"
        raise invalid(
            FileError, named(text), must="be free or a result of ours", got=got, fix="Choose another name."
        )
    if zarr and target.exists() and not target.is_dir():
        raise invalid(
            FileError, named(text), must="be a folder or free", got="a file", fix="Choose another name."
        )
