"""Cells as GeoJSON for QuPath."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._storage import write_text
from tiledseg._validate import all_of, instance_of, invalid, shown
from tiledseg.errors import SettingError
from tiledseg.objects import cells_of
from tiledseg.plots import PALETTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.objects import Cell

_NAMESPACE = uuid.UUID("9d6a4b5e-3c0f-5a3b-9a55-0d1c6d1b7f42")


def write_geojson(
    path: PathLike,
    labels: AnyArray,
    *,
    names: Sequence[str] = ("foreground",),
    cell_px: int = 1,
    image: str = "",
) -> int:
    """Write the cells of a map of labels as GeoJSON for QuPath.

    Each connected area is a feature: a polygon (x, y) with holes along the edges of its px, in px
    of the image; ``id``, a UUID that is the same for the same cell of the same image; and
    ``properties`` with ``objectType`` and ``classification`` (name and colour).

    Parameters
    ----------
    path : path
        File to write, whole or not at all.
    labels : ndarray, shape (H, W)
        Boolean or integer; 0 is the background.
    names : sequence of str
        Names of the labels 1, 2, ….
    cell_px : int
        Smaller areas are left out.
    image : str
        Name of the image, from which the UUIDs are derived.

    Returns
    -------
    int
        Number of cells that were written.

    Raises
    ------
    ArrayError
        If `labels` is not an array of labels.
    SettingError
        If a label has no name, `cell_px` is not a whole number of at least 1, or an argument is of another
        type.
    FileError
        If the file cannot be written.
    """
    instance_of(str, image, "image", "Pass the name of the image.")
    known, cells = names_of(names), cells_of(labels, least_px=cell_px)
    check_named(labels, known)
    features = [_feature(cell, known, image) for cell in cells]
    content = {"type": "FeatureCollection", "features": features}
    write_text(path, json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n")
    return len(features)


def names_of(names: Sequence[str]) -> list[str]:
    """Check the names of the labels."""
    alone = isinstance(names, str)  # its letters would become names
    return all_of(str, names, "names", f'Pass ("{shown(names)}",).' if alone else "Pass str.")


def check_named(labels: AnyArray, known: list[str]) -> None:
    """Check that each label has a name."""
    most = int(np.max(labels, initial=0))
    if most > len(known):
        raise invalid(
            SettingError,
            "names",
            must=f"name the labels 1 to {most}",
            got=tuple(known),
            fix="Give one name for each class except the background.",
        )


def ascii_text(text: str) -> str:
    """Escape bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _feature(cell: Cell, names: Sequence[str], image: str) -> dict[str, object]:
    rings = cell.rings()
    spot = f"{ascii_text(image)}/{cell.label}/{rings[0][0]}/{cell.area}"
    colour = PALETTE[(cell.label - 1) % len(PALETTE)]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, spot)),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": names[cell.label - 1], "color": list(colour)},
        },
    }
