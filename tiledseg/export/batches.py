"""What exports have in common: where objects come from, their classes, their order, px of level 0."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from tiledseg._arrays import check_image
from tiledseg._progress import progress_bar
from tiledseg._storage import ScratchFile, atomic_write
from tiledseg._validate import all_of, invalid, listed, real_number, real_pair, shown, whole_number
from tiledseg.errors import ArrayError, SettingError
from tiledseg.io import as_array, open_image
from tiledseg.objects import Instances, ObjectBatch, Objects, ObjectsSink, Shapes, bands_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from tiledseg._types import AnyArray, PathLike, Source

_log = logging.getLogger("tiledseg")
_PICTURES = ([255], [65535])  # labels of a mask that is shown black and white


@dataclass(frozen=True, slots=True)
class Style:
    """How objects are written."""

    names: tuple[str, ...] = ("foreground",)  # of the classes 1, 2, …
    image: str = ""  # its name
    tolerance: float = 0.0  # px of the map that a simplified outline may differ from that of the px
    scale: tuple[float, float] = (1.0, 1.0)  # px of level 0 for each px of the map, (y, x)

    @classmethod
    def of(
        cls, names: Sequence[str], image: object, tolerance: object = 0.0, scale: object = (1.0, 1.0)
    ) -> Style:
        """Check the arguments of an export."""
        alone = isinstance(names, str)  # its letters would become names
        known = all_of(str, names, "names", f'Pass ("{shown(names)}",).' if alone else "Pass str.")
        if len(set(known)) < len(known):
            fix = "Name each class once: a program that reads the file knows classes by their names."
            raise invalid(SettingError, "names", must="differ from each other", got=listed(known, 9), fix=fix)
        if not isinstance(image, str):
            raise invalid(
                SettingError, "image", must="be of type str", got=image, fix="Pass the name of the image."
            )
        most = real_number("tolerance", tolerance, "Use 0.5, for example.")
        must, fix = "be two numbers above 0, (y, x)", "Use (1, 1), for example."
        factors = real_pair("scale", scale, must, fix)
        if min(factors) <= 0:
            raise invalid(SettingError, "scale", must=must, got=scale, fix=fix)
        if most < 0:
            raise invalid(SettingError, "tolerance", must="be at least 0", got=tolerance, fix="Use 0.")
        return cls(tuple(known), image, most, factors)

    def classes_of(self, batch: ObjectBatch) -> list[int]:
        """Return the class of each object, from 1; check that each has a name."""
        classes = np.asarray(batch.table["class"], np.int64)
        most = int(classes.max(initial=0))
        if most > len(self.names):
            fix = "Give one name for each class; where each label is one object, pass instances=True."
            if [most] in _PICTURES and set(classes.tolist()) == {most}:
                fix = "It looks like a picture of a mask: pass labels > 0."
            got = f"{len(self.names)} names: {', '.join(self.names)}"
            raise invalid(SettingError, "names", must=f"name the labels 1 to {most}", got=got, fix=fix)
        return [int(one) for one in classes]


def pass_on(
    objects: Objects | Source,
    writers: Sequence[ObjectFile],
    *,
    instances: bool = False,
    cell_px: int = 1,
    progress: bool = False,
) -> int:
    """Pass on the objects of a result, of a map of classes, or of a map in which each label is an object."""
    least = whole_number("cell_px", cell_px)
    n_objects = 0

    def each(batch: ObjectBatch) -> None:
        nonlocal n_objects
        batch = with_runs(batch)
        if len(batch.first) == 1:  # all of them were left out
            return
        n_objects += len(batch.first) - 1
        for writer in writers:
            writer.add(batch)

    if isinstance(objects, Objects):
        _pass_on_result(objects, each, least, progress=progress)
        return n_objects
    labels = _checked(objects)
    if instances and np.dtype(labels.dtype).kind == "b":
        must, fix = (
            "be integers, a number for each object",
            "Leave instances out: areas of a mask are objects.",
        )
        raise invalid(ArrayError, "labels", must=must, got="bool with instances=True", fix=fix)
    shape = (labels.shape[0], labels.shape[1])
    kind = {"pixel_size": getattr(labels, "pixel_size", None)}
    numbered = Instances(shape, **kind) if instances else None
    sink = ObjectsSink(shape, labels.dtype, {"min_area": least}, **kind) if numbered is None else numbered
    with progress_bar(shape[0], "rows", shown=progress) as advance:
        for top, band in bands_of(labels):
            sink[top : top + len(band)] = band
            advance(len(band))
    if numbered is None:
        sink.finish(each=each, progress=progress)
    else:
        own = numbered.labels
        _check_numbered(own)
        numbered.finish(each=lambda batch: each(_as_labelled(batch, own, least)), progress=progress)
    return n_objects


def _check_numbered(labels: AnyArray) -> None:
    """Refuse a mask of black and white as numbers of objects."""
    if labels.tolist() in _PICTURES:
        must, got = "hold a number for each object", f"the values 0 and {labels[0]}"
        fix = "Leave instances out, and pass labels > 0: areas of a mask are objects."
        raise invalid(ArrayError, "labels", must=must, got=got, fix=fix)


def _as_labelled(batch: ObjectBatch, labels: AnyArray, least: int) -> ObjectBatch:
    """Give objects the labels that they have in their map, and leave out small ones."""
    keep = batch.table["area"] >= least
    table = batch.table | {"label": labels[batch.table["label"].astype(np.int64) - 1]}
    sizes = np.diff(batch.first)
    stay = np.repeat(keep, sizes)
    first = np.concatenate([[0], np.cumsum(sizes[keep])])
    rows = {name: column[keep] for name, column in table.items()}
    return ObjectBatch(rows, first, batch.y[stay], batch.x0[stay], batch.x1[stay])


def _pass_on_result(
    objects: Objects, each: Callable[[ObjectBatch], object], least: int, *, progress: bool
) -> None:
    with (
        labels_of_result(objects) as labels,
        progress_bar(labels.shape[0], "rows", shown=progress) as advance,
    ):
        shapes = Shapes.of(labels, advance)
    table = objects.table
    keep = shapes.areas() >= least
    if not keep.all():
        shapes, table = shapes.selected(keep), {name: column[keep] for name, column in table.items()}
    for batch in shapes.batches(table):
        each(batch)


def with_runs(batch: ObjectBatch) -> ObjectBatch:
    """Leave out objects of so many runs that they came without them."""
    known = np.diff(batch.first) > 0
    if known.all():
        return batch
    for label in batch.table["label"][~known].tolist():
        _log.warning("Object %d is too large to be outlined, and is left out.", label)
    table = {name: column[known] for name, column in batch.table.items()}
    first = np.append(batch.first[:-1][known], batch.first[-1])
    return ObjectBatch(table, first, batch.y, batch.x0, batch.x1)


def shape_of(objects: Objects | Source) -> tuple[int, int]:
    """Return the size of the map that objects lie in."""
    if isinstance(objects, Objects):
        with labels_of_result(objects) as labels:
            return int(labels.shape[0]), int(labels.shape[1])
    checked = _checked(objects)
    return int(checked.shape[0]), int(checked.shape[1])


@contextmanager
def labels_of_result(objects: Objects) -> Iterator[Source]:
    """Open the labels of a result, which may lie in a file."""
    if objects.labels is None:
        raise SettingError("These objects were found without labels. Give `out` to keep labels.")
    if not isinstance(objects.labels, str | os.PathLike):
        yield objects.labels
        return
    with open_image(os.fspath(objects.labels)) as labels:
        yield labels


def _checked(labels: object) -> Source:
    """Check that an argument can be a map of labels."""
    source: Any = as_array(labels, "labels")
    check_image(source, name="labels")
    if len(source.shape) == 2 and np.dtype(source.dtype).kind in "biu":
        return source  # type: ignore[no-any-return]
    must, fix = "be Objects, or labels of shape (H, W)", "Cut probabilities first: probs[..., 0] >= 0.5."
    raise invalid(ArrayError, "labels", must=must, got=f"{source.dtype} {tuple(source.shape)}", fix=fix)


class Ordered:
    """Bytes of objects that come in any order: they wait in a temporary file, and leave by their labels."""

    def __init__(self) -> None:
        self._file = ScratchFile()
        self._end = 0  # bytes
        self._labels: list[AnyArray] = []
        self._sizes: list[AnyArray] = []

    def __len__(self) -> int:
        return sum(map(len, self._labels))

    @property
    def n_batches(self) -> int:
        """Number of times that objects were added."""
        return len(self._sizes)

    def add(self, labels: AnyArray, parts: Sequence[bytes]) -> None:
        """Take the bytes of some objects."""
        data = b"".join(parts)
        self._file.write(self._end, data)
        self._end += len(data)
        self._labels.append(np.asarray(labels, np.int64))
        self._sizes.append(np.fromiter(map(len, parts), np.int64, len(parts)))

    def cut(self, n_batches: int) -> None:
        """Forget all but the first batches."""
        del self._labels[n_batches:], self._sizes[n_batches:]
        self._end = sum(int(sizes.sum()) for sizes in self._sizes)

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """Give label and bytes of each object, ascending."""
        labels, sizes = (np.concatenate([np.empty(0, np.int64), *one]) for one in (self._labels, self._sizes))
        begins = np.cumsum(sizes) - sizes
        order = np.argsort(labels, kind="stable")
        for place in order.tolist():
            yield int(labels[place]), self._file.read(int(begins[place]), int(sizes[place]))

    def copy_to(self, file: BinaryIO, separator: bytes) -> None:
        """Write the bytes of all objects in order."""
        between = b""
        for _, part in self.parts():
            file.write(between + part)
            between = separator

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()


class ObjectFile(ABC):
    """A file of objects that come in batches, in any order; it is written at the end, whole or not at all."""

    def __init__(self, path: PathLike, style: Style) -> None:
        self._path, self._style = path, style

    def __enter__(self) -> Self:
        self._objects = Ordered()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(self._objects):
            if kind is None:
                with atomic_write(self._path) as file:
                    self._write(file)

    def __len__(self) -> int:
        return len(self._objects)

    @abstractmethod
    def add(self, batch: ObjectBatch) -> None:
        """Take some objects."""

    @abstractmethod
    def _write(self, file: BinaryIO) -> None:
        """Write all objects in order."""
