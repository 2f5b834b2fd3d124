"""Cells as COCO instances with compressed run-length encoding."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._storage import write_text
from tiledseg._validate import invalid, items_of
from tiledseg.errors import SettingError
from tiledseg.export.geojson import ascii_text, check_named, names_of
from tiledseg.objects import cells_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.objects import Cell

_ITEMS, _FIX = "be tuples of a file name and labels", 'Pass ("a.png", labels), for example.'
_BITS, _MORE, _SIGN, _FIRST = 5, 32, 16, 48  # format of COCO's compressed run lengths


def write_coco(
    path: PathLike,
    images: Iterable[tuple[str, AnyArray]],
    *,
    names: Sequence[str] = ("foreground",),
    cell_px: int = 1,
) -> int:
    """Write the cells of many maps of labels as one COCO file of instances.

    Each connected area is an annotation: ``segmentation`` in compressed run lengths, ``bbox``
    (x, y, width, height) and ``area`` in px.

    Parameters
    ----------
    path : path
        File to write, whole or not at all.
    images : iterable of tuple
        File name and labels, (H, W), of each image; only one at a time is held in memory.
    names : sequence of str
        Names of the labels 1, 2, …, which are the ids of the categories.
    cell_px : int
        Smaller areas are left out.

    Returns
    -------
    int
        Number of cells that were written.

    Raises
    ------
    ArrayError
        If a map does not hold labels.
    SettingError
        If a label has no name, `cell_px` is not a whole number of at least 1, or an argument is of another
        type.
    FileError
        If the file cannot be written.
    """
    entries: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    known = names_of(names)
    for number, item in enumerate(items_of(images, "images", _ITEMS, _FIX), start=1):
        name, labels = _named(item, f"images[{number - 1}]")
        cells = cells_of(labels, least_px=cell_px)
        check_named(labels, known)
        height, width = np.shape(labels)
        entries.append({"id": number, "file_name": ascii_text(name), "height": height, "width": width})
        for cell in cells:
            entry = _annotation(cell, (height, width))
            annotations.append({"id": len(annotations) + 1, "image_id": number, **entry})
    categories = [{"id": label, "name": name} for label, name in enumerate(known, start=1)]
    content = {"images": entries, "categories": categories, "annotations": annotations}
    write_text(path, json.dumps(content, separators=(",", ":")) + "\n")
    return len(annotations)


def _named(item: object, place: str) -> tuple[str, AnyArray]:
    if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
        raise invalid(SettingError, place, must=_ITEMS, got=item, fix=_FIX)
    return item


def _annotation(cell: Cell, shape: tuple[int, int]) -> dict[str, object]:
    height, width = cell.mask.shape
    return {
        "category_id": cell.label,
        "segmentation": {"size": list(shape), "counts": _compressed(_runs(cell, shape))},
        "area": cell.area,
        "bbox": [cell.x, cell.y, width, height],
        "iscrowd": 0,
    }


def _runs(cell: Cell, shape: tuple[int, int]) -> list[int]:
    """Return the lengths of the runs of 0 and 1 in column order, beginning with 0."""
    padded = np.pad(cell.mask.T, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(padded, axis=1)
    columns, starts = np.nonzero(steps == 1)
    _, stops = np.nonzero(steps == -1)
    first = (columns + cell.x) * shape[0] + cell.y
    begins, ends = first + starts, first + stops
    separate = begins[1:] != ends[:-1]  # a run may continue at the top of the next column
    begins = begins[np.concatenate([[True], separate])]
    ends = ends[np.concatenate([separate, [True]])]
    changes = np.stack([begins, ends], axis=1).ravel()
    runs = np.diff(changes, prepend=0).tolist()
    rest = shape[0] * shape[1] - int(changes[-1])
    return [*runs, rest] if rest else list(runs)


def _compressed(runs: Sequence[int]) -> str:
    """Compress runs as COCO does: differences to the run before the last one, 5 bits per letter."""
    letters = []
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            part, value = value & (_MORE - 1), value >> _BITS
            more = value != (-1 if part & _SIGN else 0)
            letters.append(chr(_FIRST + (part | _MORE if more else part)))
    return "".join(letters)
