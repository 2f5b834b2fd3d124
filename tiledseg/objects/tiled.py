"""Objects of networks that give instances themselves: each is decided by one tile that holds it whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._arrays import array_of, check_image, check_labels, read_region
from tiledseg._progress import progress_bar
from tiledseg._validate import check_callable, invalid, raised_as, settings_of
from tiledseg.config import TilingConfig
from tiledseg.errors import ModelError, SettingError
from tiledseg.io import as_array, open_image
from tiledseg.objects.collect import Instances, check_out
from tiledseg.objects.runs import least_connected, ranges, runs_of
from tiledseg.tiling import Box, Tiler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike, Sink, Source
    from tiledseg.io import PixelSize
    from tiledseg.objects.table import Objects
    from tiledseg.tiling import AxisGrid, Tile, TileGrid

_Ints: TypeAlias = "NDArray[np.int64]"
_SAME = 0.5  # share of the smaller of two objects that they have in common, above which they are one
_FAR = 1 << 30  # px to a border that there is not
_BAND_PX = 1 << 21


def tiled_objects(  # noqa: PLR0913  what is labelled how, and where labels go
    fn: Callable[[AnyArray], AnyArray],
    image: Source | PathLike,
    tiling: TilingConfig | dict[str, Any] | None = None,
    *,
    out: Sink | PathLike | None = None,
    measure: bool = True,
    pixel_size: PixelSize | float | tuple[float, float] | None = None,
    progress: bool = False,
) -> Objects:
    """Find the objects of an image with a function that labels one tile: StarDist, Cellpose, any other.

    An object is whole in a tile if it does not touch a border of the tile inside the image. Where several
    tiles hold the same object whole, the tile in whose middle it lies decides: also that there is none, where
    others have one near their borders. An object that no tile holds
    whole is joined of its parts: of those that continue one another at the borders of tiles. Where the
    function gives for a tile what it gives there for the whole image, the labels equal those of the whole
    image, whatever the tiling.

    The image is read tile by tile. Only the runs of px of each tile's objects are kept: memory grows
    with their number, and not with the area of the image.

    Parameters
    ----------
    fn : callable
        Maps a part of the image, (h, w) or (h, w, C) in its own dtype, to labels (h, w), integers, where 0 is
        the background and each other label is one object. Parts at the image's border end with the image.
    image : array, Source or path
        (H, W) or (H, W, C); a file is read by region.
    tiling : TilingConfig or dict, optional
        Tile size and overlap, by default 512 and 128 px. Overlap by at least the size of an object plus
        twice the px around it that its label depends on; for StarDist, state ``alignment=16`` too.
    out : Sink or path, optional
        Where the labels are written, as for `label_objects`; a new array by default.
    measure : bool
        Whether to measure more than area and bounding box.
    pixel_size : PixelSize, float or tuple of float, optional
        Height and width of a px in µm; by default that of the image, where it states one.
    progress : bool
        Whether to show progress, in tiles.

    Returns
    -------
    Objects
        Labels in reading order, and a table as that of `label_objects`, with all objects of class 1.

    Raises
    ------
    ArrayError
        If `image` or `out` cannot be used, or a label is negative.
    ModelError
        If `fn` returns something else than labels of its part.
    SettingError
        If tiles do not overlap, or an option is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((50, 70), np.uint8)
    >>> image[10:30, 20:45] = 255
    >>> objects = tiled_objects(lambda tile: (tile > 0).astype(int), image, {"tile_size": 32, "overlap": 8})
    >>> objects.table["area"].tolist()
    [500]
    """
    check_callable("fn", fn)
    if isinstance(image, str | os.PathLike):
        options: dict[str, Any] = {"out": out, "measure": measure, "pixel_size": pixel_size}
        with open_image(os.fspath(image)) as source:
            return tiled_objects(fn, source, tiling, **options, progress=progress)
    px: Source = as_array(image)
    shape = check_image(px)[:2]
    check_out(out, shape)
    instances = Instances(shape, image=px, pixel_size=pixel_size)
    grid = _grid(shape, settings_of(TilingConfig, tiling, "tiling") if tiling else None)
    found = _Candidates(grid)
    with progress_bar(len(grid), "tiles", shown=progress) as advance:
        for tile in grid:
            found.add(tile, _labelled(fn, px, tile))
            advance(1)
    for first, rows in found.bands():
        instances[first : first + len(rows)] = rows
    return instances.finish(np.empty(shape, np.uint32) if out is None else out, measure=measure)


def _grid(shape: tuple[int, int], tiling: TilingConfig | None) -> TileGrid:
    chosen = tiling or TilingConfig(tile_size=512, overlap=128)
    grid = Tiler(chosen).grid(shape, clip=(True, True))
    for axis, length in ((grid.y, shape[0]), (grid.x, shape[1])):
        if len(axis.origins) > 1 and axis.overlap < 1:
            fix = "Overlap tiles by the size of an object, for example overlap=64."
            raise invalid(
                SettingError, "overlap", must=f"be at least 1 px for {length} px", got=axis.overlap, fix=fix
            )
    return grid


def _labelled(fn: Callable[[AnyArray], AnyArray], image: Source, tile: Tile) -> _Ints:
    """Label the part of a tile that lies in the image."""
    box = _inside(tile.read_box, (image.shape[0], image.shape[1]))
    pixels = read_region(image, *box.slices).copy()  # which may be changed in place
    with raised_as(ModelError, f"`fn` failed on a part of shape {pixels.shape}", "Correct it."):
        found: Any = fn(pixels)
    place = f"the labels of tile {tile.id} at (y, x) = ({box.y0}, {box.x0})"
    must, fix = f"be integers of shape {box.shape}", "Let fn return one label for each px of its part."
    if found is None or isinstance(found, tuple):  # of labels and details, as StarDist returns it
        fix = "Let fn return the labels alone, as in model.predict_instances(tile)[0]."
        raise invalid(ModelError, place, must=must, got=type(found).__name__, fix=fix)
    labels = array_of(found, place)
    if labels.dtype.kind == "b":
        fix = "Number the areas of a mask with tiledseg.metrics.components."
    if labels.shape != box.shape or labels.dtype.kind not in "iu":
        got = f"{labels.dtype} of shape {labels.shape}"
        raise invalid(ModelError, place, must=must, got=got, fix=fix)
    return check_labels(labels, place).astype(np.int64)


def _inside(box: Box, shape: tuple[int, int]) -> Box:
    """Cut a tile off where the image ends."""
    return Box(box.y0, min(box.y1, shape[0]), box.x0, min(box.x1, shape[1]))


@dataclass(frozen=True, slots=True, eq=False)
class _Labelled:
    """The labels of a tile, as long as later tiles overlap it."""

    box: Box
    labels: _Ints
    first: int  # candidate of label 1


class _Candidates:
    """Objects of all tiles, and which of them are the same."""

    def __init__(self, grid: TileGrid) -> None:
        self._shape = grid.shape
        self._alive: list[_Labelled] = []
        self._n = 0
        self._grid = grid
        self._known: list[_Ints] = []  # area, margin, in core, tile, middle tile, its margin: (6, n)
        self._runs: list[_Ints] = []  # row, x0, x1, candidate: (4, n) of each tile
        self._pairs: list[_Ints] = []  # two candidates and the px that they share: (3, n)
        self._links: list[_Ints] = []  # two candidates that continue one another: (2, n)

    def add(self, tile: Tile, labels: _Ints) -> None:
        """Take the labels of the next tile."""
        box = _inside(tile.read_box, self._shape)
        dense, n = _dense(labels)
        self._measure(tile, box, dense, n)
        self._alive = [one for one in self._alive if one.box.y1 > box.y0]
        new = _Labelled(box, dense, self._n)
        for other in self._alive:
            self._compare(new, other)
        self._alive.append(new)
        self._n += n

    def _measure(self, tile: Tile, box: Box, labels: _Ints, n: int) -> None:
        start, length, number = runs_of(labels, background=False)
        row, x0 = np.divmod(start, box.shape[1])
        of, x1 = number - 1, x0 + length
        area = np.bincount(of, length, n).astype(np.int64)
        down = _margins(self._grid.y, *_extent(of, n, row + box.y0, row + box.y0 + 1))
        across = _margins(self._grid.x, *_extent(of, n, x0 + box.x0, x1 + box.x0))
        margin = np.minimum(down[:, tile.row], across[:, tile.column])
        middle = down.argmax(axis=1) * across.shape[1] + across.argmax(axis=1)
        widest = np.minimum(down.max(axis=1), across.max(axis=1))
        core, y, x = tile.core_box, box.y0, box.x0
        central = labels[core.y0 - y : core.y1 - y, core.x0 - x : core.x1 - x]
        in_core = np.bincount(central.ravel(), minlength=n + 1)[1:] * 2 > area
        self._known.append(np.stack([area, margin, in_core, np.full(n, tile.id), middle, widest]))
        self._runs.append(np.stack([row + y, x0 + x, x1 + x, of + self._n]))

    def _compare(self, new: _Labelled, old: _Labelled) -> None:
        """Note which objects of two tiles share px, and which continue one another at a border."""
        y0, x0 = max(new.box.y0, old.box.y0), max(new.box.x0, old.box.x0)
        y1, x1 = min(new.box.y1, old.box.y1), min(new.box.x1, old.box.x1)
        if y1 <= y0 or x1 <= x0:
            return
        a, b = (
            one.labels[y0 - one.box.y0 : y1 - one.box.y0, x0 - one.box.x0 : x1 - one.box.x0]
            for one in (new, old)
        )
        codes, count = _counted(a, b)
        self._pairs.append(
            np.stack([(codes >> 32) - 1 + new.first, (codes & 0xFFFFFFFF) - 1 + old.first, count])
        )
        shared = Box(y0, y1, x0, x1)
        for own, other, first, second in ((a, b, new, old), (b, a, old, new)):
            for line in _inner_borders(first.box, shared, self._shape):
                found = _continued(own[line].ravel(), other[line].ravel())
                self._links.append(found - 1 + np.array([[first.first], [second.first]]))

    def bands(self) -> Iterator[tuple[int, _Ints]]:
        """Give rows of the map, in which each object has a number above 0."""
        number, rank = self._decided()
        row, x0, x1, of = np.concatenate([np.empty((4, 0), np.int64), *self._runs], axis=1)
        stay = number[of] >= 0
        row, x0, x1, of = row[stay], x0[stay], x1[stay], of[stay]
        order = np.lexsort((-rank[of], row))  # the best comes last, and covers others
        row, x0, x1, of = row[order], x0[order], x1[order], of[order]
        height, width = self._shape
        step = max(1, _BAND_PX // width)
        for top in range(0, height, step):
            bottom = min(top + step, height)
            part = slice(*np.searchsorted(row, (top, bottom)).tolist())
            rows = np.zeros((bottom - top, width), np.int64)
            length = (x1 - x0)[part]
            places = ranges((row[part] - top) * width + x0[part], length)
            rows.reshape(-1)[places] = np.repeat(number[of[part]] + 1, length)
            yield top, rows

    def _decided(self) -> tuple[_Ints, _Ints]:
        """Return the object of each candidate, or -1, and its rank among candidates: 0 is the best."""
        area, margin, central, *_ = known = np.concatenate([np.empty((6, 0), np.int64), *self._known], axis=1)
        one, other, count = np.concatenate([np.empty((3, 0), np.int64), *self._pairs], axis=1)
        same = count > _SAME * np.minimum(area[one], area[other])
        one, other = one[same], other[same]
        rank = np.empty(self._n, np.int64)
        rank[np.argsort(-margin, kind="stable")] = np.arange(self._n)
        absent = _absent(known, one, other)
        whole = _best((margin > 0) & ~absent, rank, one, other)
        cut = (margin == 0) & ~absent
        cut[one[whole[other]]] = cut[other[whole[one]]] = False
        a, b = np.concatenate([np.empty((2, 0), np.int64), *self._links], axis=1)
        both = cut[a] & cut[b]
        a, b = a[both], b[both]
        joined = np.zeros(self._n, bool)
        joined[a] = joined[b] = True
        cut &= joined | (central > 0)
        root = least_connected(self._n, np.maximum(a, b), np.minimum(a, b))
        return np.where(whole | cut, root, -1), rank


def _extent(of: _Ints, n: int, begin: _Ints, end: _Ints) -> tuple[_Ints, _Ints]:
    """Return where the runs of each of n objects begin and end along an axis."""
    first, last = np.full(n, _FAR), np.zeros(n, np.int64)
    np.minimum.at(first, of, begin)
    np.maximum.at(last, of, end)
    return first, last


def _margins(axis: AxisGrid, first: _Ints, last: _Ints) -> _Ints:
    """Return how far [first, last) lies from the borders of each tile inside the image, (n, tiles)."""
    begin = np.array(axis.origins)
    end = begin + axis.tile
    before = np.where(begin > 0, first[:, None] - begin, _FAR)
    return np.minimum(before, np.where(end < axis.length, end - last[:, None], _FAR))


def _absent(known: _Ints, one: _Ints, other: _Ints) -> NDArray[np.bool_]:
    """Mark candidates that the tile in whose middle they lie does not have."""
    _, margin, _, tile, middle, widest = known
    absent: NDArray[np.bool_] = margin < widest
    for a, b in ((one, other), (other, one)):
        absent[a[middle[a] == tile[b]]] = False
    return absent


def _dense(labels: _Ints) -> tuple[_Ints, int]:
    """Return the labels of a tile numbered from 1, and how many there are."""
    most = int(labels.max(initial=0))
    if most > 8 * labels.size:  # numbers of a whole slide, for example
        known = np.unique(labels[labels > 0])
        return np.where(labels > 0, np.searchsorted(known, labels) + 1, 0), len(known)
    present = np.bincount(labels.ravel()) > 0
    present[0] = False
    return np.asarray((np.cumsum(present) * present)[labels], np.int64), int(present.sum())


def _counted(a: _Ints, b: _Ints) -> tuple[_Ints, _Ints]:
    """Count the px of each pair of labels, as ``a << 32 | b``."""
    wide = int(b.max(initial=0)) + 1
    both = (a > 0) & (b > 0)
    codes = a[both] * wide + b[both]
    if int(a.max(initial=0) + 1) * wide > 1 << 20:
        found, count = np.unique(codes, return_counts=True)
    else:
        counts = np.bincount(codes)
        found = np.flatnonzero(counts)
        count = counts[found]
    return found // wide << 32 | found % wide, count.astype(np.int64)


def _best(open_: NDArray[np.bool_], rank: _Ints, one: _Ints, other: _Ints) -> NDArray[np.bool_]:
    """Choose candidates so that no two are the same object, the best first."""
    chosen = open_.copy()
    both = open_[one] & open_[other]
    worse = np.where(rank[one] > rank[other], one, other)[both]
    better = np.where(rank[one] > rank[other], other, one)[both]
    order = np.argsort(rank[worse], kind="stable")
    for low, high in zip(worse[order].tolist(), better[order].tolist(), strict=True):
        if chosen[high]:
            chosen[low] = False
    return chosen


def _inner_borders(box: Box, shared: Box, shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Give the outermost lines of a tile that lie in a region and not at the image's border."""
    rows, columns = slice(None), slice(None)
    if box.y0 > 0 and shared.y0 == box.y0:
        yield slice(0, 1), columns
    if box.y1 < shape[0] and shared.y1 == box.y1:
        yield slice(-1, None), columns
    if box.x0 > 0 and shared.x0 == box.x0:
        yield rows, slice(0, 1)
    if box.x1 < shape[1] and shared.x1 == box.x1:
        yield rows, slice(-1, None)


def _continued(own: _Ints, other: _Ints) -> _Ints:
    """Pair each part of a border line with the object that covers most of it in another tile, (2, n)."""
    begin = np.flatnonzero(np.diff(own, prepend=-1))
    part = np.cumsum(np.diff(own, prepend=-1) != 0) - 1
    length = np.diff(np.append(begin, len(own)))
    codes, count = np.unique(part[other > 0] << 32 | other[other > 0], return_counts=True)
    most = count > _SAME * length[codes >> 32]
    pairs = np.stack([own[begin[codes[most] >> 32]], codes[most] & 0xFFFFFFFF])
    return pairs[:, pairs[0] > 0]
