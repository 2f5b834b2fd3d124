"""Outlines that people drew: QuPath's GeoJSON, ImageJ's ROI and COCO, and the px inside them."""

from __future__ import annotations

import unicodedata
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import extra
from tiledseg._storage import json_of, open_regular
from tiledseg._validate import invalid, listed, named, path_text
from tiledseg.errors import FileError
from tiledseg.io.file import MAX_PIXELS
from tiledseg.io.find import stem_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike

OUTLINE_SUFFIXES: tuple[str, ...] = (".geojson", ".json", ".roi", ".zip")
"""What files of outlines end in."""

_LARGEST = 2**30  # bytes of a file
_LARGEST_ROI = 1 << 24
_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""Errors of content that is not what its format says."""
_SHOWN = 8
_BITS, _MORE, _SIGN, _FIRST = 5, 32, 16, 48  # format of COCO's compressed run lengths
_OVAL_POINTS = 360


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """An area by its outline."""

    # A px is inside where its centre is: of px (y, x) that is (y + 0.5, x + 0.5). A centre is inside where a
    # ray from it crosses the rings an odd number of times, so that rings inside others are holes; one that
    # lies on a left or upper edge is inside, on a right or lower edge outside.

    name: str  # of its class; empty where it has none
    parts: tuple[tuple[NDArray[np.float64], ...], ...]  # the rings of each part, (n, 2) of x and y
    mask: NDArray[np.bool_] | None = None  # of an area that is stored by its px instead, (H, W)
    crowd: bool = False  # whether it marks many objects that nobody outlined (COCO's iscrowd)

    def inside(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Say which px of a rectangle are inside."""
        if self.mask is not None:
            found = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
            given = self.mask[rows, columns]
            found[: given.shape[0], : given.shape[1]] = given
            return found
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        found = np.zeros(shape, np.bool_)
        for rings in self.parts:
            found |= _inside(rings, rows, columns)
        return found

    def box(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns of an image that it lies in."""
        if self.mask is not None:
            return slice(0, shape[0]), slice(0, shape[1])
        rings_of_all = [ring for rings in self.parts for ring in rings]
        if not rings_of_all:
            return slice(0, 0), slice(0, 0)
        points = np.concatenate(rings_of_all)
        (x0, y0), (x1, y1) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
        rows, columns = np.clip([y0, y1 + 1], 0, shape[0]), np.clip([x0, x1 + 1], 0, shape[1])
        return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


class OutlineMask:
    """The px inside any of several outlines, read by region as an image is."""

    def __init__(self, outlines: Sequence[Outline], shape: tuple[int, int]) -> None:
        self.shape: tuple[int, int] = shape
        self.dtype: np.dtype[Any] = np.dtype(np.bool_)
        self._outlines = [(one, one.box(shape)) for one in outlines]

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.bool_]:
        rows, columns = (slice(*one.indices(length)[:2]) for one, length in zip(key, self.shape, strict=True))
        found = np.zeros((max(0, rows.stop - rows.start), max(0, columns.stop - columns.start)), np.bool_)
        for outline, (down, across) in self._outlines:
            y0, y1 = max(rows.start, down.start), min(rows.stop, down.stop)
            x0, x1 = max(columns.start, across.start), min(columns.stop, across.stop)
            if y0 < y1 and x0 < x1:
                part = found[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start]
                part |= outline.inside(slice(y0, y1), slice(x0, x1))
        return found


def _inside(rings: Sequence[NDArray[np.float64]], rows: slice, columns: slice) -> NDArray[np.bool_]:
    """Count, for each px, the edges that lie to the left of its centre; inside they are an odd number."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    crossings = np.zeros(height * (width + 1), np.int64)
    for ring in rings:
        y, x = _crossings(ring, rows)
        column = np.clip(np.ceil(x - 0.5), columns.start, columns.stop).astype(np.int64) - columns.start
        crossings += np.bincount((y - rows.start) * (width + 1) + column, minlength=crossings.size)
    parity = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :width] % 2
    return parity.astype(np.bool_)


def _crossings(ring: NDArray[np.float64], rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find where the edges of a ring cross the centres of rows: the row, and x."""
    start, end = ring, np.roll(ring, -1, axis=0)
    upper = np.where((start[:, 1] < end[:, 1])[:, None], start, end)
    lower = np.where((start[:, 1] < end[:, 1])[:, None], end, start)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), rows.start, rows.stop).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), rows.start, rows.stop).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(ring)), count)
    y = first[edge] + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    height = lower[edge, 1] - upper[edge, 1]
    share = (y + 0.5 - upper[edge, 1]) / np.where(height > 0, height, 1)
    return y, upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])


def is_outlines(path: PathLike) -> bool:
    """Say whether a path is that of a file of outlines, by what it ends in."""
    return Path(path_text(path)).suffix.lower() in OUTLINE_SUFFIXES


def read_outlines(
    path: PathLike, image: str | None = None, shape: tuple[int, int] | None = None
) -> list[Outline]:
    """Read GeoJSON (QuPath), ROI (ImageJ) or COCO, in px of level 0; `image` names one of a COCO file."""
    # `shape` is the size of the image, with which COCO must agree: it states one of its own.
    name, suffix = named(path), Path(path_text(path)).suffix.lower()
    if suffix in {".roi", ".zip"}:
        return _of_imagej(path, name)
    content = _json(path, name)
    if isinstance(content, dict) and "annotations" in content and "images" in content:
        return _of_coco(content, name, image, shape)
    try:
        return [one for feature in _features(content) for one in _of_feature(feature, name)]
    except _WRONG as error:
        raise _bad(name, "be GeoJSON of polygons", repr(error), "Export it from QuPath again.") from error


def _bad(name: str, must: str, got: object, fix: str) -> FileError:
    return invalid(FileError, name, must=must, got=got, fix=fix)


def _json(path: PathLike, name: str) -> Any:  # noqa: ANN401
    with open_regular(path) as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise _bad(
            name, f"have at most {_LARGEST >> 20} MiB", "more", "Split it into one file for each image."
        )
    try:
        return json_of(data, nan=True)  # QuPath writes measurements that are NaN
    except ValueError as error:
        raise _bad(name, "be GeoJSON or COCO", str(error), "Export it again.") from error


def _features(content: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """Yield the features of a collection, a list, a feature or a bare geometry."""
    if isinstance(content, list):
        for one in content:
            yield from _features(one)
    elif content["type"] == "FeatureCollection":
        yield from content["features"]
    elif content["type"] == "Feature":
        yield content
    else:
        yield {"geometry": content, "properties": {}}


def _of_feature(feature: dict[str, Any], name: str) -> list[Outline]:
    geometry = feature["geometry"]
    kind, coordinates = geometry["type"], geometry.get("coordinates")
    if kind == "GeometryCollection":
        parts = [{**feature, "geometry": one} for one in geometry["geometries"]]
        return [outline for part in parts for outline in _of_feature(part, name)]
    if kind not in {"Polygon", "MultiPolygon"}:
        fix = "Remove points and lines, or draw the area as a polygon."
        raise _bad(name, "hold polygons", f"a {kind}", fix)
    polygons = [coordinates] if kind == "Polygon" else coordinates
    parts_of = tuple(tuple(_ring(ring, name) for ring in polygon) for polygon in polygons)
    return [Outline(_class_of(feature.get("properties") or {}), parts_of)]


def _class_of(properties: dict[str, Any]) -> str:
    """Find the class in what QuPath writes."""
    found = properties.get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        found = found.get("name") or (": ".join(names) if isinstance(names, list) else "")
    return class_text(found)


def class_text(found: object) -> str:
    """Bring the name of a class to one Unicode form; empty where it has none."""
    return unicodedata.normalize("NFC", str(found or ""))


def _ring(points: Any, name: str) -> NDArray[np.float64]:  # noqa: ANN401
    ring = np.array([point[:2] for point in points], np.float64)
    if ring.ndim != 2 or not np.isfinite(ring).all():
        raise _bad(name, "have finite points (x, y)", points, "Export it again.")
    return ring


def _of_imagej(path: PathLike, name: str) -> list[Outline]:
    roifile = extra("roifile", "roi")
    try:
        _check_archive(path, name)
        found = roifile.roiread(path_text(path))
        rois = found if isinstance(found, list) else [found]
        return [_of_roi(roi, name) for roi in rois]
    except FileError:
        raise
    except Exception as error:  # roifile has no common error
        raise _bad(name, "be ROI of ImageJ", f"{type(error).__name__}: {error}", "Save it again.") from error


def _check_archive(path: PathLike, name: str) -> None:
    """Refuse a zip whose files would take too much memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        sizes = [one.file_size for one in archive.infolist()]
    if max(sizes, default=0) > _LARGEST_ROI or sum(sizes) > _LARGEST:
        must = f"hold ROI of at most {_LARGEST_ROI >> 20} MiB each, {_LARGEST >> 20} MiB together"
        raise _bad(name, must, f"{sum(sizes)} bytes of {len(sizes)} files", "Split it into several files.")


def _of_roi(roi: Any, file: str) -> Outline:  # noqa: ANN401
    kind, name = roi.roitype.name, class_text(roi.name)
    if roi.composite:
        rings = tuple(np.asarray(ring, np.float64) for ring in roi.coordinates(multi=True))
        return Outline(name, (rings,))
    if kind == "RECT":
        y0, x0, y1, x1 = roi.top, roi.left, roi.bottom, roi.right
        return Outline(
            class_text(roi.name), ((np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64),),)
        )
    if kind == "OVAL":
        turn = np.linspace(0, 2 * np.pi, _OVAL_POINTS, endpoint=False)
        half = np.array([roi.right - roi.left, roi.bottom - roi.top]) / 2
        middle = np.array([roi.right + roi.left, roi.bottom + roi.top]) / 2
        return Outline(
            class_text(roi.name), ((middle + half * np.stack([np.cos(turn), np.sin(turn)], axis=1),),)
        )
    if kind not in {"POLYGON", "FREEHAND", "TRACED"}:
        raise _bad(file, "hold areas", f"a ROI of type {kind}", "Remove it, or draw the area as a polygon.")
    return Outline(name, ((np.asarray(roi.coordinates(), np.float64),),))


def _of_coco(
    content: dict[str, Any], name: str, image: str | None, wanted: tuple[int, int] | None
) -> list[Outline]:
    try:
        for kind in ("images", "categories"):
            _check_numbers([one["id"] for one in content.get(kind, ())], kind, name)
        images = [one for one in content["images"] if image is None or _is_named(one["file_name"], image)]
        if len(images) != 1:
            known = listed([str(one["file_name"]) for one in content["images"]], _SHOWN)
            raise _bad(name, f"hold one image {image or ''}", known, "Name the images as in the COCO file.")
        shape = (int(images[0]["height"]), int(images[0]["width"]))
        if shape != (wanted or shape) or shape[0] * shape[1] > MAX_PIXELS:
            must = f"state the size of its image, {wanted}" if wanted else f"have at most {MAX_PIXELS} px"
            raise _bad(name, must, shape, "Export it again, for the image as it is.")
        names = {one["id"]: class_text(one["name"]) for one in content.get("categories", ())}
        of_image = [one for one in content["annotations"] if one["image_id"] == images[0]["id"]]
        return [_of_annotation(one, names, shape, name) for one in of_image]
    except _WRONG as error:
        raise _bad(name, "be COCO instances", repr(error), "Export it again.") from error


def _check_numbers(numbers: list[Any], kind: str, name: str) -> None:
    counts = Counter(numbers)
    if len(counts) < len(numbers):
        twice = counts.most_common(1)[0][0]
        raise _bad(name, f"have {kind} with different ids", f"the id {twice} twice", "Export it again.")


def _is_named(file_name: str, image: str) -> bool:
    return image in {file_name, Path(file_name).name, stem_of(file_name)}


def coco_images(path: PathLike) -> list[str]:
    """List the stems of the images of a COCO file; empty for any other file."""
    content = _json(path, named(path))
    found = content.get("images") if isinstance(content, dict) and "annotations" in content else None
    try:
        return [stem_of(str(one["file_name"])) for one in found or ()]
    except _WRONG as error:
        raise _bad(named(path), "be COCO instances", repr(error), "Export it again.") from error


def _of_annotation(
    annotation: dict[str, Any], names: dict[Any, str], shape: tuple[int, int], name: str
) -> Outline:
    kind, area = names.get(annotation.get("category_id"), ""), annotation["segmentation"]
    crowd = bool(annotation.get("iscrowd"))
    if isinstance(area, dict):
        size = (int(area["size"][0]), int(area["size"][1]))
        counts = area["counts"]
        runs = _decompressed(counts) if isinstance(counts, str) else [int(one) for one in counts]
        if size != shape or sum(runs) != shape[0] * shape[1] or min(runs, default=0) < 0:
            raise _bad(name, f"have run lengths of {shape} px", f"{sum(runs)} of {size}", "Export it again.")
        flat = np.repeat((np.arange(len(runs)) % 2).astype(np.bool_), runs)
        return Outline(kind, (), flat.reshape(shape[::-1]).T, crowd)
    rings = [_ring(np.array(flat, np.float64).reshape(-1, 2), name) for flat in area]
    return Outline(kind, tuple((ring,) for ring in rings), crowd=crowd)


def _decompressed(text: str) -> list[int]:
    """Read COCO's compressed runs: differences to the run before the last one, 5 bits per letter."""
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        part = ord(letter) - _FIRST
        value |= (part & (_MORE - 1)) << shift
        shift += _BITS
        if not part & _MORE:
            value -= (1 << shift) if part & _SIGN else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs


def painted(
    outlines: Sequence[Outline], labels: Sequence[int], shape: tuple[int, int], *, first: bool = False
) -> AnyArray:
    """Paint outlines with their labels: where two overlap the later one holds, or the first."""
    found = np.zeros(shape, np.int32)
    for outline, label in zip(outlines, labels, strict=True):
        box = outline.box(shape)
        inside = outline.inside(*box)
        found[box][inside & (found[box] == 0) if first else inside] = label
    return found
