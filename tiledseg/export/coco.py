"""Objects as COCO instances: run lengths or polygons, areas, boxes."""

from __future__ import annotations

import json
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias, get_args

import numpy as np

from tiledseg._validate import as_utf8, invalid, items_of, one_of
from tiledseg.errors import SettingError
from tiledseg.export.batches import ObjectFile, Style, pass_on, shape_of
from tiledseg.objects import Corners, ObjectBatch, simplified

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike, Source
    from tiledseg.objects import Objects, Outlines

Segmentation: TypeAlias = Literal["rle", "polygons"]
"""How the px of an object are stated."""

_ITEMS, _FIX = "be tuples of a file name and labels", 'Pass ("a.png", labels), for example.'
_MOST_PX = 1 << 32  # COCO's own library counts the px of an image in 32 bits
_BITS, _MORE, _FIRST = 5, 32, 48  # format of COCO's compressed run lengths


def write_coco(  # noqa: PLR0913  what COCO distinguishes
    path: PathLike,
    images: Iterable[tuple[str, Objects | Source]],
    *,
    names: Sequence[str] = ("foreground",),
    instances: bool = False,
    cell_px: int = 1,
    segmentation: Segmentation = "rle",
    tolerance: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    progress: bool = False,
) -> int:
    """Write the objects of many images as one COCO file of instances.

    Each object is an annotation: ``segmentation`` in compressed run lengths or as polygons, ``bbox``
    (x, y, width, height) and ``area`` in px.

    Parameters
    ----------
    path : path
        File to write, whole or not at all.
    images : iterable of tuple
        File name of each image, and its objects: what `segment` and `label_objects` return, or labels
        (H, W), boolean or integer. Only one image at a time is held in memory.
    names : sequence of str
        Names of the classes 1, 2, …, which are the ids of the categories.
    instances : bool
        Whether each label of a map is one object, of the first class. By default labels are classes, and
        each connected area is an object.
    cell_px : int
        Smaller objects are left out, in px of the map.
    segmentation : {"rle", "polygons"}
        How px are stated. Polygons of COCO have no holes: an object with holes is written as run lengths.
    tolerance : float
        By how many px a simplified polygon may differ from the outline of the px; 0 keeps each corner.
    scale : tuple of float
        Px of level 0 for each px of the map, (y, x).
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    int
        Number of objects that were written.

    Raises
    ------
    ArrayError
        If a map does not hold labels.
    SettingError
        If a class has no name, an image has too many px for run lengths, or an argument is of another type
        or out of its range.
    FileError
        If the file cannot be written.
    """
    style = Style.of(names, "", tolerance, scale)
    with CocoWriter(path, style, segmentation) as writer:
        for place, item in enumerate(items_of(images, "images", _ITEMS, _FIX)):
            name, objects = _named(item, f"images[{place}]")
            with writer.image(name, shape_of(objects)):
                pass_on(objects, [writer], instances=instances, cell_px=cell_px, progress=progress)
    return len(writer)


def _named(item: object, place: str) -> tuple[str, Objects | Source]:
    if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
        raise invalid(SettingError, place, must=_ITEMS, got=item, fix=_FIX)
    return item


class CocoWriter(ObjectFile):
    """Writes the objects of one image after the other, which come in batches in any order."""

    def __init__(self, path: PathLike, style: Style, segmentation: Segmentation = "rle") -> None:
        one_of("segmentation", segmentation, get_args(Segmentation))
        super().__init__(path, style)
        self._segmentation = segmentation
        self._images: list[dict[str, object]] = []
        self._shape = (0, 0)

    def _write(self, file: BinaryIO) -> None:
        file.write(b'{"annotations":[')
        for number, (_, part) in enumerate(self._objects.parts(), start=1):
            between = b",\n" if number > 1 else b""
            file.write(b'%s{"id":%d,' % (between, number) + part)
        file.write(b"]," + self._rest()[1:])

    def _rest(self) -> bytes:
        categories = [{"id": label, "name": name} for label, name in enumerate(self._style.names, start=1)]
        content = {"images": self._images, "categories": categories}
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"

    @contextmanager
    def image(self, name: str, shape: tuple[int, int]) -> Iterator[None]:
        """Begin an image of a size in px of the map; an image that fails is left out."""
        height, width = (round(px * factor) for px, factor in zip(shape, self._style.scale, strict=True))
        if self._segmentation == "rle" and height * width >= _MOST_PX:
            must, fix = "be polygons for an image of 2^32 px or more", "Pass segmentation='polygons'."
            raise invalid(
                SettingError, "segmentation", must=must, got=f"rle for {height} x {width} px", fix=fix
            )
        entry = {"id": len(self._images) + 1, "file_name": as_utf8(name), "height": height, "width": width}
        self._images.append(entry)
        self._shape = height, width
        n_before = self._objects.n_batches
        try:
            yield
        except BaseException:
            self._images.pop()
            self._objects.cut(n_before)
            raise

    def add(self, batch: ObjectBatch) -> None:
        """Take some objects of the image."""
        batch = _scaled(batch, self._style.scale)
        if len(batch.first) == 1:
            return
        corners = Corners.of(batch)
        counts = _run_lengths(corners.columns(), len(batch.first) - 1, self._shape)
        size = _list(self._shape)
        shapes = [b'{"size":%s,"counts":"%s"}' % (size, text.replace(b"\\", b"\\\\")) for text in counts]
        if self._segmentation == "polygons":
            outlines = simplified(corners.rings(), self._style.tolerance)
            polygons = _polygons(outlines, len(shapes))
            shapes = [one or other for one, other in zip(polygons, shapes, strict=True)]
        annotations = [
            b'"image_id":%d,"category_id":%d,"segmentation":%s,"area":%d,"bbox":%s,"iscrowd":0}'
            % (len(self._images), label, shape, area, _list(box))
            for label, shape, area, box in zip(
                self._style.classes_of(batch), shapes, *_sizes(batch), strict=True
            )
        ]
        keys = (len(self._images) << 40) + np.asarray(batch.table["label"], np.int64)
        self._objects.add(keys, annotations)


def _list(numbers: Sequence[int]) -> bytes:
    return json.dumps(list(numbers), separators=(",", ":")).encode()


def _sizes(batch: ObjectBatch) -> tuple[list[int], list[list[int]]]:
    """Return the area of each object, and its box (x, y, width, height)."""
    begins = batch.first[:-1]
    areas = np.add.reduceat(batch.x1 - batch.x0, begins, dtype=np.int64)
    x, right = np.minimum.reduceat(batch.x0, begins), np.maximum.reduceat(batch.x1, begins)
    y, bottom = batch.y[begins], batch.y[batch.first[1:] - 1] + 1
    return areas.tolist(), np.stack([x, y, right - x, bottom - y], axis=1).tolist()


def _scaled(batch: ObjectBatch, scale: tuple[float, float]) -> ObjectBatch:
    """Bring runs to px of level 0, each px to those that it covers, rounded; leave out empty objects."""
    if scale == (1, 1):
        return batch
    top, bottom = (np.rint(rows * scale[0]).astype(np.int32) for rows in (batch.y, batch.y + 1))
    left, right = (np.rint(ends * scale[1]).astype(np.int32) for ends in (batch.x0, batch.x1))
    number = np.repeat(np.arange(len(batch.first) - 1), np.diff(batch.first))
    copies = np.where(right > left, bottom - top, 0)
    y = np.repeat(top, copies) + _counted(copies)
    x0, x1, number = (np.repeat(values, copies) for values in (left, right, number))
    order = np.lexsort((x0, y, number))  # the copies of several runs of a row lie between one another
    sizes = np.bincount(number, minlength=len(batch.first) - 1)
    table = {name: column[sizes > 0] for name, column in batch.table.items()}
    first = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
    return ObjectBatch(table, first, y[order], x0[order], x1[order])


def _counted(sizes: AnyArray) -> AnyArray:
    """Count from 0 in each group."""
    ends = np.cumsum(sizes)
    n = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(n) - np.repeat(ends - sizes, sizes))


def _run_lengths(columns: tuple[AnyArray, ...], n: int, shape: tuple[int, int]) -> list[bytes]:
    """Compress the runs of px along columns of each object."""
    number, x, y0, y1 = columns
    begins, ends = x * shape[0] + y0, x * shape[0] + y1
    same = number[1:] == number[:-1]
    separate = ~same | (begins[1:] != ends[:-1])  # a run may continue at the top of the next column
    first, last = np.concatenate([[True], separate]), np.concatenate([separate, [True]])
    number, begins, ends = number[first], begins[first], ends[last]
    changes = np.stack([begins, ends], axis=1).ravel()
    of = np.repeat(number, 2)
    rest = np.full(n, shape[0] * shape[1])
    whole = np.concatenate([changes, rest])
    owner = np.concatenate([of, np.arange(n)])
    order = np.argsort(owner, kind="stable")  # the end of the image after the last change
    whole, owner = whole[order], owner[order]
    new = np.concatenate([[True], owner[1:] != owner[:-1]])
    runs = np.diff(whole, prepend=0)
    runs[new] = whole[new]
    stay = (runs > 0) | ~np.concatenate([new[1:], [True]])  # no last run of 0
    return _compressed(runs[stay], owner[stay], n)


def _compressed(runs: NDArray[np.int64], owner: AnyArray, n: int) -> list[bytes]:
    """Compress runs as COCO does: differences to the run before the last one, 5 bits per letter."""
    first = np.searchsorted(owner, np.arange(n + 1))
    place = np.arange(len(runs)) - first[owner]
    values = runs.copy()
    late = np.flatnonzero(place > 2)
    values[late] -= runs[late - 2]
    letters = np.ones(len(values), np.int64)
    while (longer := (values >> (_BITS * letters - 1) != 0) & (values >> (_BITS * letters - 1) != -1)).any():
        letters[longer] += 1
    of = np.repeat(np.arange(len(values)), letters)
    nth = _counted(letters)
    part = (values[of] >> (_BITS * nth)) & (_MORE - 1)
    part |= np.where(nth + 1 < letters[of], _MORE, 0)
    text = (part + _FIRST).astype(np.uint8).tobytes()
    ends = np.concatenate([[0], np.cumsum(letters)])[first].tolist()
    return [text[begin:end] for begin, end in pairwise(ends)]


def _polygons(outlines: Outlines, n: int) -> list[bytes]:
    """Write the parts of each object as JSON; nothing for an object with holes."""
    points = np.stack([outlines.x, outlines.y], axis=1).ravel()
    starts = (2 * outlines.start).tolist()
    of_ring = outlines.number[outlines.part]
    holes = np.bincount(of_ring[np.diff(outlines.part, prepend=-1) == 0], minlength=n).tolist()
    texts: list[list[bytes]] = [[] for _ in range(n)]
    for place, (begin, end) in enumerate(pairwise(starts)):
        own = int(of_ring[place])
        if not holes[own]:
            texts[own].append(_list(points[begin:end].tolist()))
    return [b"[" + b",".join(parts) + b"]" if parts else b"" for parts in texts]
