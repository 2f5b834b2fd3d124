"""Outlines that people drew: QuPath's GeoJSON, ImageJ's ROI and COCO, and the px inside them."""

from __future__ import annotations

import gzip
import logging
import math
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import extra
from tiledseg._storage import json_of, open_regular
from tiledseg._validate import invalid, listed, named, path_text
from tiledseg.errors import FileError
from tiledseg.io.areas import SLICE, Outline, class_text, outline_of_roi
from tiledseg.io.file import MAX_PIXELS
from tiledseg.io.find import stem_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from tiledseg._types import PathLike
    from tiledseg.io.metadata import PixelSize

_log = logging.getLogger("tiledseg")
_TEXTS = (".geojson", ".json")
_DAMAGED = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError)  # or locked
OUTLINE_SUFFIXES: tuple[str, ...] = (*_TEXTS, ".geojson.gz", ".json.gz", ".roi", ".zip")
"""What files of outlines end in."""

_LARGEST = 2**30  # bytes of a file
_LARGEST_ROI = 1 << 24
_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""Errors of content that is not what its format says."""
_SHOWN = 8
_BITS, _MORE, _SIGN, _FIRST = 5, 32, 16, 48  # format of COCO's compressed run lengths
_THIN, _FEW, _LARGE = 3, 2, 200  # px: of an outline, of all of them together, and of the sides of an image
_SAME, _FINE, _FILLED = 0.02, 0.8, 0.8  # of areas; µm per px; share of what an image would fill in µm
_UNITS = (
    "Give them in px of the image at level 0, not in degrees (longitude, latitude), in micrometres, or in px "
    "of a smaller level."
)
_IDS = "Correct the ids: numbers and texts are different."


def is_outlines(path: PathLike) -> bool:
    """Say whether a path is that of a file of outlines, by what it ends in."""
    return path_text(path).lower().endswith(OUTLINE_SUFFIXES)


def read_outlines(
    path: PathLike,
    image: str | None = None,
    shape: tuple[int, int] | None = None,
    at: Mapping[str, int] | None = None,
    pixel_size: PixelSize | None = None,
) -> list[Outline]:
    """Read GeoJSON (QuPath), ROI (ImageJ) or COCO, in px of level 0; `image` names one of a COCO file."""
    # `shape` is the size of the image, with which COCO must agree: it states one of its own. `at` is the
    # plane of the image, to which the outlines of a stack must belong. By the px size, that of level 0, it is
    # noticed where they are in micrometres.
    name = named(path)
    holds_rois = _holds_rois(path, name)
    content = None if holds_rois else _json(path, name)
    if holds_rois:
        found = _of_plane(_of_imagej(path, name), at or {}, name)
    elif isinstance(content, dict) and "annotations" in content and "images" in content:
        found = _of_coco(content, name, image, shape)
    else:
        found = _of_plane(_of_geojson(content, name), at or {}, name)
    if shape is not None:
        _check_inside(found, shape, name)
    if shape is not None and pixel_size is not None:
        _check_units(found, shape, pixel_size, name)
    return found


def _of_geojson(content: Any, name: str) -> list[Outline]:
    entries = content if isinstance(content, list) else [content]
    if not all(isinstance(one, dict) and "type" in one for one in entries):  # as of LabelMe, Label Studio
        got = f"the keys {listed(content, _SHOWN)}" if content and isinstance(content, dict) else "others"
        raise _bad(name, "be GeoJSON or COCO", got, "Export or convert it to one of these.")
    if isinstance(content, dict) and (crs := content.get("crs")):
        raise _bad(name, "have coordinates in px", f"those on earth (crs {crs})", "Convert them to px.")
    try:
        return [one for feature in _features(content) for one in _of_feature(feature, name)]
    except _WRONG as error:
        raise _bad(name, "be GeoJSON of polygons", repr(error), "Export it from QuPath again.") from error


def _check_inside(outlines: list[Outline], shape: tuple[int, int], name: str) -> None:
    """Refuse outlines that all lie beside their image or cover no px; warn of some that lie beside it."""
    drawn = [one for one in outlines if any(one.parts)]
    beside = [one for one in drawn if 0 in {part.stop - part.start for part in one.box(shape)}]
    if beside and len(beside) == len(drawn):
        must = f"have outlines in its image, (H, W) = {shape}"
        raise _bad(name, must, f"all of them at {_places(beside)}", _UNITS)
    known = [*drawn, *(one for one in outlines if one.mask is not None)]
    if known and (_are_tiny(known, shape) or not any(_covers(one, shape) for one in known)):
        got = f"{len(known)} that cover none or hardly any" + (f", at {_places(drawn)}" if drawn else "")
        raise _bad(name, f"have outlines that cover px of its image, (H, W) = {shape}", got, _UNITS)
    if beside:
        _log.warning(
            "%s: %d of %d outlines lie beside the image of %s px, at %s. Outlines are in px of level 0.",
            name,
            len(beside),
            len(drawn),
            shape,
            _places(beside),
        )


def _check_units(outlines: list[Outline], shape: tuple[int, int], size: PixelSize, name: str) -> None:
    """Refuse outlines in micrometres where their areas say so; warn where their places look like it."""
    drawn = [one for one in outlines if any(one.parts)]
    ratios = [one.area / one.area_um2 for one in drawn if one.area_um2]
    ratio, px_area = (float(np.median(ratios)) if ratios else 0.0), size.y * size.x
    if abs(ratio - 1) < _SAME < abs(px_area - 1):
        got = f"areas that are those in µm² which it states, with {size.y:g} x {size.x:g} µm per px"
        raise _bad(name, "have outlines in px", got, "Divide x and y by the µm per px.")
    if not drawn or abs(ratio * px_area - 1) < _SAME or max(size.y, size.x) > _FINE:
        return
    last, whole = _bounds(drawn)[1], np.array([shape[1] * size.x, shape[0] * size.y])
    if (_FILLED * whole <= last).all() and (last <= whole).all():
        _log.warning(
            "%s: all outlines lie in the upper left %d x %d of %s px, as if they were in µm (%g x %g "
            "a px). They are read as px of level 0; if they are in µm, divide x and y by the µm per px.",
            name,
            *whole[::-1],
            shape,
            size.y,
            size.x,
        )


def _places(drawn: list[Outline]) -> str:
    (left, top), (right, bottom) = _bounds(drawn)
    return f"x from {left:g} to {right:g}, y from {top:g} to {bottom:g}"


def _bounds(drawn: list[Outline]) -> NDArray[np.float64]:
    """Return the least and the largest point (x, y) of outlines."""
    points = np.concatenate([ring for one in drawn for rings in one.parts for ring in rings])
    return np.stack([points.min(axis=0), points.max(axis=0)])


def _are_tiny(known: list[Outline], shape: tuple[int, int]) -> bool:
    """Say whether all outlines of a large image lie between the corners of a few px, as degrees do."""
    if min(shape) < _LARGE or any(one.mask is not None for one in known):
        return False
    first, last = _bounds(known)
    return bool((last - first < _FEW).all() and (first % 1).any())


def _covers(outline: Outline, shape: tuple[int, int]) -> bool:
    """Say whether some px is inside; one of many rows and columns is taken to have one."""
    if outline.mask is not None:
        return bool(outline.mask.any())
    rows, columns = outline.box(shape)
    thin = min(rows.stop - rows.start, columns.stop - columns.start) <= _THIN
    return not thin or bool(outline.inside(rows, columns).any())


def _of_plane(outlines: list[Outline], at: Mapping[str, int], name: str) -> list[Outline]:
    """Leave out the outlines of other planes of a stack; an error where several could be meant."""
    axis = next(iter(at)) if len(at) == 1 else SLICE  # ImageJ numbers the slices of any one axis
    found = [{axis if key == SLICE else key: value for key, value in one.plane.items()} for one in outlines]
    for key in sorted({key for plane in found for key in plane} - set(at)):
        places = sorted({plane[key] for plane in found if key in plane})
        if len(places) > 1:
            got = f"outlines at {key} = {listed(places, _SHOWN)}"
            fix = "Export those of one plane, remove their positions, or set `at` to the plane of the image."
            raise _bad(name, "have outlines of one plane", got, fix)
    return [
        one
        for one, plane in zip(outlines, found, strict=True)
        if all(plane.get(key, place) == place for key, place in at.items())
    ]


def _bad(name: str, must: str, got: object, fix: str) -> FileError:
    return invalid(FileError, name, must=must, got=got, fix=fix)


def _json(path: PathLike, name: str) -> Any:
    suffix = Path(path_text(path)).suffix.lower()
    try:
        with open_regular(path) as file:
            content = gzip.GzipFile(fileobj=file) if suffix == ".gz" else file
            data = _only_json(path, name) if suffix == ".zip" else content.read(_LARGEST + 1)
    except _DAMAGED as error:
        raise _bad(name, "be a compressed file", str(error), "Export it again.") from error
    if len(data) > _LARGEST:
        raise _bad(name, f"have at most {_LARGEST >> 20} MiB", "more", "Split it: one file for each image.")
    try:
        return json_of(data, nan=True)  # QuPath writes measurements that are NaN
    except ValueError as error:
        raise _bad(name, "be GeoJSON or COCO", str(error), "Export it again.") from error


def _files_in(archive: zipfile.ZipFile) -> list[str]:
    """List the files of a zip, without what macOS adds."""
    files = [one.filename for one in archive.infolist() if not one.is_dir()]
    return [one for one in files if not one.startswith("__MACOSX/") and not Path(one).name.startswith(".")]


def _only_json(path: PathLike, name: str) -> bytes:
    """Read the one file of a zip that QuPath wrote."""
    with zipfile.ZipFile(path) as archive:
        files = _files_in(archive)
        if len(files) != 1:
            raise _bad(name, "hold ROI of ImageJ, or one GeoJSON", listed(files, _SHOWN), "Unpack it.")
        with archive.open(files[0]) as file:
            return file.read(_LARGEST + 1)


def _features(content: Any) -> Iterator[dict[str, Any]]:
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
    if geometry is None:  # of an object without a place, as GeoJSON allows
        return []
    kind, coordinates = geometry["type"], geometry.get("coordinates")
    if kind == "GeometryCollection":
        parts = [{**feature, "geometry": one} for one in geometry["geometries"]]
        return [outline for part in parts for outline in _of_feature(part, name)]
    if kind not in {"Polygon", "MultiPolygon"}:
        fix = "Remove points and lines, or draw the area as a polygon."
        raise _bad(name, "hold polygons", f"a {kind}", fix)
    polygons = [coordinates] if kind == "Polygon" else coordinates
    parts_of = tuple(tuple(_ring(ring, name) for ring in polygon) for polygon in polygons)
    plane = {axis: int(place) for axis, place in (geometry.get("plane") or {}).items() if axis in {"z", "t"}}
    properties = feature.get("properties") or {}
    return [Outline(_class_of(properties), parts_of, plane=plane, area_um2=_area_um2(properties))]


def _area_um2(properties: dict[str, Any]) -> float:
    """Find the area in µm² in what QuPath writes; 0 where there is none."""
    found = properties.get("measurements")
    if isinstance(found, list):  # of earlier versions
        found = {one["name"]: one["value"] for one in found}
    known = {str(key).replace("\u03bc", "µ"): value for key, value in (found or {}).items()}
    area = known.get("Area µm^2", known.get("Cell: Area µm^2", 0.0))
    return float(area) if isinstance(area, int | float) and math.isfinite(area) and area > 0 else 0.0


def _class_of(properties: dict[str, Any]) -> str:
    """Find the class in what QuPath writes."""
    found = properties.get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        found = found.get("name") or (": ".join(names) if isinstance(names, list) else "")
    return class_text(found)


def _ring(points: Any, name: str) -> NDArray[np.float64]:
    ring = np.array([point[:2] for point in points], np.float64)
    if ring.ndim != 2 or ring.shape[1] != 2 or not np.isfinite(ring).all():
        raise _bad(name, "have finite points (x, y)", points, "Export it again.")
    return ring


def _holds_rois(path: PathLike, name: str) -> bool:
    """Say whether a file is a ROI of ImageJ or a zip of them; refuse one that takes too much memory."""
    suffix = Path(path_text(path)).suffix.lower()
    if suffix != ".zip" or not zipfile.is_zipfile(path):
        return suffix in {".roi", ".zip"}
    try:
        with zipfile.ZipFile(path) as archive:
            files, sizes = _files_in(archive), [one.file_size for one in archive.infolist()]
    except _DAMAGED as error:
        raise _bad(name, "be a zip of outlines", str(error), "Export it again.") from error
    if len(files) == 1 and files[0].lower().endswith(_TEXTS):
        return False
    if max(sizes, default=0) > _LARGEST_ROI or sum(sizes) > _LARGEST:
        must = f"hold ROI of at most {_LARGEST_ROI >> 20} MiB each, {_LARGEST >> 20} MiB together"
        raise _bad(name, must, f"{sum(sizes)} bytes of {len(sizes)} files", "Split it into several files.")
    return True


def _of_imagej(path: PathLike, name: str) -> list[Outline]:
    roi = extra("roifile", "roi").ImagejRoi
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return [outline_of_roi(roi.frombytes(archive.read(one)), name) for one in _files_in(archive)]
        return [outline_of_roi(roi.fromfile(path_text(path)), name)]
    except FileError:
        raise
    except Exception as error:  # roifile has no common error
        raise _bad(name, "be ROI of ImageJ", f"{type(error).__name__}: {error}", "Save it again.") from error


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
        annotations, known_ids = content["annotations"], {one["id"] for one in content["images"]}
        if annotations and not any(one["image_id"] in known_ids for one in annotations):
            got = f"image_id {annotations[0]['image_id']!r} for images with ids such as {images[0]['id']!r}"
            raise _bad(name, "have annotations of its images", got, _IDS)
        of_image = [one for one in annotations if one["image_id"] == images[0]["id"]]
        return [_of_annotation(one, names, shape, name) for one in of_image]
    except _WRONG as error:
        raise _bad(name, "be COCO instances", repr(error), "Export it again.") from error


def _check_numbers(numbers: list[Any], kind: str, name: str) -> None:
    counts = Counter(numbers)
    if len(counts) < len(numbers):
        twice = counts.most_common(1)[0][0]
        raise _bad(name, f"have {kind} with different ids", f"the id {twice} twice", "Export it again.")


def _is_named(file_name: str, image: str) -> bool:
    path = _slashed(file_name)
    return image in {file_name, Path(path).name, stem_of(path)}


def _slashed(file_name: str) -> str:
    """Give the name of a file in the form of this system; programs on Windows write backslashes."""
    return file_name.replace("\\", "/")


def coco_images(path: PathLike) -> list[str]:
    """List the stems of the images of a COCO file; empty for any other file."""
    content = _json(path, named(path))
    found = content.get("images") if isinstance(content, dict) and "annotations" in content else None
    try:
        return [stem_of(_slashed(str(one["file_name"]))) for one in found or ()]
    except _WRONG as error:
        raise _bad(named(path), "be COCO instances", repr(error), "Export it again.") from error


def _of_annotation(
    annotation: dict[str, Any], names: dict[Any, str], shape: tuple[int, int], name: str
) -> Outline:
    category, area = annotation.get("category_id"), annotation.get("segmentation")
    if names and category not in names:
        got = f"category_id {category!r}"
        raise _bad(name, f"have annotations of its categories, {listed(list(names), _SHOWN)}", got, _IDS)
    if not area:
        got = "one with a box alone"
        raise _bad(name, "have a segmentation for each annotation", got, "Remove it, or outline the object.")
    kind = names.get(category, "")
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
