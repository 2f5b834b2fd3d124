"""Objects as GeoJSON for QuPath."""

from __future__ import annotations

import gzip
import json
import math
import uuid
from typing import TYPE_CHECKING, BinaryIO, cast, get_args

import numpy as np

from tiledseg._validate import as_utf8, one_of, path_text
from tiledseg.config import ObjectType
from tiledseg.export.batches import ObjectFile, Style, pass_on
from tiledseg.objects import Corners, simplified, stretched
from tiledseg.plots import PALETTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiledseg._types import AnyArray, PathLike, Source
    from tiledseg.objects import ObjectBatch, Objects, Outlines, Table

_NAMESPACE = uuid.UUID("9d6a4b5e-3c0f-5a3b-9a55-0d1c6d1b7f42")
_MEASUREMENTS = {
    "area": "Area px^2",
    "perimeter": "Perimeter px",
    "equivalent_diameter": "Equivalent diameter px",
    "major_axis": "Major axis px",
    "minor_axis": "Minor axis px",
}
_GZIP_LEVEL = 4  # 6 takes four times as long for files a sixth smaller


def write_geojson(  # noqa: PLR0913  what QuPath distinguishes
    path: PathLike,
    objects: Objects | Source,
    *,
    names: Sequence[str] = ("foreground",),
    instances: bool = False,
    cell_px: int = 1,
    image: str = "",
    object_type: ObjectType = "detection",
    tolerance: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    progress: bool = False,
) -> int:
    """Write objects as GeoJSON for QuPath.

    Each object is a feature: a polygon (x, y) with holes along the edges of its px, or a multipolygon of
    several where its px are not 4-connected; ``id``, a UUID that is the same for the same object of the same
    image; and ``properties`` with ``objectType``, ``classification`` (name and colour) and ``measurements``.
    Memory does not grow with the area of the map.

    Parameters
    ----------
    path : path
        File to write, whole or not at all; ``.geojson.gz`` is compressed.
    objects : Objects or array
        What `segment` and `label_objects` return; or labels (H, W), boolean or integer, where 0 is the
        background: an array or anything that is read by slicing.
    names : sequence of str
        Names of the classes 1, 2, ….
    instances : bool
        Whether each label of a map is one object, of the first class. By default labels are classes, and
        each connected area is an object.
    cell_px : int
        Smaller objects are left out, in px of the map.
    image : str
        Name of the image, from which the UUIDs are derived.
    object_type : {"detection", "annotation"}
        How QuPath shows the objects; it handles many detections better than many annotations.
    tolerance : float
        By how many px a simplified outline may differ from that of the px; 0 keeps each corner. An outline
        that would cross itself, a hole or another part of its object keeps each corner too.
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
        If `objects` is a map that does not hold labels.
    SettingError
        If a class has no name, or an argument is of another type or out of its range.
    FileError
        If the file cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> write_geojson(getfixture("tmp_path") / "cells.geojson", np.array([[1, 1, 0, 2]]), instances=True)
    2
    """
    style = Style.of(names, image, tolerance, scale)
    with GeoJsonWriter(path, style, object_type) as writer:
        pass_on(objects, [writer], instances=instances, cell_px=cell_px, progress=progress)
    return len(writer)


class GeoJsonWriter(ObjectFile):
    """Writes objects as features; compressed where the suffix says so."""

    def __init__(self, path: PathLike, style: Style, object_type: ObjectType = "detection") -> None:
        one_of("object_type", object_type, get_args(ObjectType))
        super().__init__(path, style)
        self._kinds = [_kind(object_type, place, name) for place, name in enumerate(style.names)]

    def add(self, batch: ObjectBatch) -> None:
        """Take some objects."""
        outlines = simplified(Corners.of(batch).rings(), self._style.tolerance)
        rings = _ring_texts(outlines, self._style.scale)
        corner = np.stack([outlines.x, outlines.y], axis=1)[outlines.start[:-1]].tolist()
        first_ring = np.searchsorted(outlines.part, np.arange(len(outlines.number) + 1)).tolist()
        first_part = np.searchsorted(outlines.number, np.arange(len(batch.first))).tolist()
        classes, areas = self._style.classes_of(batch), batch.table["area"].tolist()
        features = []
        for place, measured in enumerate(_measurements(_in_level_0(batch.table, self._style.scale))):
            begin, end, label = first_part[place], first_part[place + 1], classes[place]
            parts = [
                b"[" + b",".join(rings[first_ring[one] : first_ring[one + 1]]) + b"]"
                for one in range(begin, end)
            ]
            x, y = corner[first_ring[begin]]
            spot = f"{as_utf8(self._style.image)}/{label}/({x}, {y})/{areas[place]}"
            head = f'{{"type":"Feature","id":"{uuid.uuid5(_NAMESPACE, spot)}","geometry":'.encode()
            tail = f',"properties":{{{self._kinds[label - 1]}{measured}}}}}'.encode()
            features.append(head + _geometry(parts) + tail)
        self._objects.add(batch.table["label"], features)

    def _write(self, file: BinaryIO) -> None:
        if not path_text(self._path).lower().endswith(".gz"):
            self._write_features(file)
            return
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:  # the same bytes each time
            self._write_features(cast("BinaryIO", packed))

    def _write_features(self, file: BinaryIO) -> None:
        file.write(b'{"type":"FeatureCollection","features":[')
        self._objects.copy_to(file, b",\n")
        file.write(b"]}\n")


def _kind(object_type: ObjectType, place: int, name: str) -> str:
    """Write what QuPath needs to know of a class."""
    classification = {"name": name, "color": list(PALETTE[place % len(PALETTE)])}
    return f'"objectType":"{object_type}","classification":{json.dumps(classification)}'


def _geometry(polygons: list[bytes]) -> bytes:
    if len(polygons) == 1:
        return b'{"type":"Polygon","coordinates":' + polygons[0] + b"}"
    return b'{"type":"MultiPolygon","coordinates":[' + b",".join(polygons) + b"]}"


def _in_level_0(table: Table, scale: tuple[float, float]) -> Table:
    """Bring measurements in px of the map to px of level 0, as the outlines."""
    if scale == (1, 1):
        return table
    if "orientation" not in table:
        return {**table, "area": table["area"] * (scale[0] * scale[1])}
    moved = stretched(table, *scale)
    for name, factor in zip(("centroid_y", "centroid_x"), scale, strict=True):
        moved[name] = moved[name] + (factor - 1) / 2  # px count from the middle of the first one
    round_ = np.where(np.isfinite(moved["perimeter"]), table["circularity"], np.nan)
    return {**table, **moved, "circularity": round_}


def _measurements(table: Table) -> list[str]:
    """Write the measurements of each object as JSON; those that are not defined are left out."""
    columns = {
        _MEASUREMENTS.get(name, name.replace("_", " ").capitalize()): np.asarray(column, np.float64)
        for name, column in table.items()
        if name not in {"label", "class"} and not name.startswith("box_")
    }
    rows = np.stack(list(columns.values()), axis=1)
    whole = ",".join(f'"{name}":%.9g' for name in columns)
    texts, finite = [], np.asarray(np.isfinite(rows).all(axis=1))
    for row, is_finite in zip(rows.tolist(), finite.tolist(), strict=True):
        known = zip(columns, row, strict=True)
        text = whole % tuple(row) if is_finite else _finite(known)
        texts.append(f',"measurements":{{{text}}}')
    return texts


def _finite(values: Iterable[tuple[str, float]]) -> str:
    return ",".join(f'"{name}":{value:.9g}' for name, value in values if math.isfinite(value))


def _ring_texts(outlines: Outlines, scale: tuple[float, float]) -> list[bytes]:
    """Write each ring as JSON, its first corner again at the end."""
    sizes = np.diff(outlines.start)
    places = np.arange(len(outlines.x) + len(sizes)) - np.repeat(np.arange(len(sizes)), sizes + 1)
    ends = np.cumsum(sizes + 1)
    places[ends - 1] = outlines.start[:-1]
    x, width_x = _numbers(outlines.x, scale[1])
    y, width_y = _numbers(outlines.y, scale[0])
    text = np.zeros((len(places), width_x + width_y + 4), np.uint8)
    text[:, 0], text[:, -1] = ord("["), ord(",")
    text[:, 1 : width_x + 1], text[:, width_x + 1] = x[places], ord(",")
    text[:, width_x + 2 : -2], text[:, -2] = y[places], ord("]")
    flat = text.reshape(-1)
    used = flat != 0
    stops = np.cumsum(np.count_nonzero(used.reshape(text.shape), axis=1))[ends - 1].tolist()
    data = flat[used].tobytes()
    begin, rings = 0, []
    for stop in stops:
        rings.append(b"[" + data[begin : stop - 1] + b"]")
        begin = stop
    return rings


def _numbers(values: AnyArray, scale: float) -> tuple[AnyArray, int]:
    """Write numbers as text, one in each row, padded by NUL."""
    if scale != 1:
        scaled = np.round(values * scale, 3)
        if (scaled != np.rint(scaled)).any():
            texts = np.array([f"{one:.10g}".encode() for one in scaled.tolist()])
            return texts.view(np.uint8).reshape(len(texts), -1), texts.itemsize
        values = scaled.astype(np.int64)
    digits = len(str(int(values.max(initial=0))))
    powers = 10 ** np.arange(digits - 1, -1, -1)
    table = (values[:, None] // powers % 10 + ord("0")).astype(np.uint8)
    table[:, :-1][values[:, None] < powers[:-1]] = 0
    return table, digits
