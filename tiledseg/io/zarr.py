"""Zarr arrays (formats 2 and 3) and OME-Zarr images (0.4 and 0.5), read by region."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._lazy import extra
from tiledseg._storage import is_file
from tiledseg._validate import named
from tiledseg.errors import TiledSegError
from tiledseg.io.file import MARKS, Reader, check_one_page, state_of
from tiledseg.io.metadata import Placement, micrometres, pixel_size_of_scale
from tiledseg.io.regions import CachedBlocks, picked
from tiledseg.io.remote import is_remote, is_remote_zarr, remote_store, shown_address
from tiledseg.io.source import Facts
from tiledseg.io.stores import UNFINISHED
from tiledseg.io.zarr_files import ChunkFiles, local_store

if TYPE_CHECKING:
    from tiledseg._types import AnyArray
    from tiledseg.io.file import Request
    from tiledseg.io.metadata import PixelSize
    from tiledseg.io.regions import Regions
    from tiledseg.io.source import Selection

_LARGEST_CHUNK = 2**30
_NAMES = {"y": "y", "height": "y", "row": "y", "rows": "y", "lat": "y", "latitude": "y", "northing": "y"} | {
    "x": "x", "width": "x", "column": "x", "columns": "x", "col": "x", "lon": "x", "longitude": "x",
    "easting": "x", "c": "c", "s": "c", "channel": "c", "channels": "c", "band": "c", "bands": "c",
    "wavelength": "c", "z": "z", "depth": "z", "slice": "z", "t": "t", "time": "t",
}  # fmt: skip
_TYPES = {"channel": "c", "time": "t"}
_HOW = "Name its axes y, x and c (z, t) in dimension_names or the attribute _ARRAY_DIMENSIONS."
_MOST_SERIES = 10_000
_FEW = 4  # channels of a usual image


def is_zarr(path: str) -> bool:
    """Return whether a path is a folder or an address that holds a zarr array or group."""
    return is_remote_zarr(path) if is_remote(path) else any(is_file(Path(path, mark)) for mark in MARKS)


def zarr_source(path: str, request: Request, selection: Selection) -> tuple[Regions, Facts]:
    """Open a zarr array, or a level of an OME-Zarr image."""
    file = Reader(named(shown_address(path)) if is_remote(path) else named(path), io.BytesIO(), 0)
    check_one_page(file, request, "a zarr")
    try:
        return _opened(file, path, selection)
    except OSError as error:  # of an array in the group
        raise file.bad(
            "be readable", error.strerror or str(error), "Check its files and their rights."
        ) from error


def _opened(file: Reader, path: str, selection: Selection) -> tuple[Regions, Facts]:
    zarr = extra("zarr", "zarr")
    try:
        node = zarr.open(store=remote_store(path) if is_remote(path) else local_store(path), mode="r")
        attributes = dict(node.attrs)
    except FileNotFoundError as error:
        raise file.bad("exist", "no zarr metadata", "Check the address.") from error
    except (TiledSegError, OSError):
        raise
    except Exception as error:  # zarr has no common error
        raise file.damaged(f"zarr metadata that cannot be read ({error})") from error
    if attributes.get(UNFINISHED):
        fix = "Resume the prediction that writes it, or delete it."
        raise file.bad("be finished", "an image that is still being written", fix)
    if isinstance(node, zarr.Array):
        image = _Multiscales(_array_axes(file, node, attributes), [node], [None], [None])
    else:
        image = _multiscales(file, *_image_in(file, node, attributes))
    level = selection.level_of(file, len(image.arrays))
    y, x = image.axes.index("y"), image.axes.index("x")
    sizes = tuple((int(array.shape[y]), int(array.shape[x])) for array in image.arrays)
    _check_array(file, image.arrays[level])
    folder = None if is_remote(path) else Path(path, image.arrays[level].path)
    blocks = _ZarrBlocks(file, folder, image.arrays[level], image.axes, selection)
    placement = image.origins[level] and Placement(origin=image.origins[level])
    facts = Facts(
        file.name, image.sizes[level], sizes, level, {"metadata": state_of(path)}, placement or None
    )
    return CachedBlocks(blocks), facts


def _check_array(file: Reader, array: Any) -> None:
    if np.dtype(array.dtype).kind not in "biuf":
        raise file.bad("hold numbers", str(array.dtype), "Store the image as uint8, uint16 or float32.")
    if "pickle" in json.dumps(array.metadata.to_dict(), default=str):
        fix = "Store the image with another codec: unpickling runs any code in the file."
        raise file.bad("be readable without running code", "a pickle codec", fix)
    if int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize > _LARGEST_CHUNK:
        fix = "Store the image in smaller chunks, for example of 512 px."
        raise file.bad("have chunks of at most 1 GiB", f"chunks of {array.chunks}", fix)


def _array_axes(file: Reader, array: Any, attributes: dict[str, Any]) -> list[str]:
    """Name the axes of a single array by its metadata, or else by its shape where that is clear."""
    stated = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    stated = stated if isinstance(stated, list | tuple) and any(stated) else None
    if stated is not None:
        return _known_axes(file, [str(name) for name in stated], array.shape, _HOW)
    if array.ndim == 2:
        return ["y", "x"]
    if array.ndim == 3:
        first, *_, last = array.shape
        if last <= _FEW < first or last < min(array.shape[:2]):
            return ["y", "x", "c"]
        got = f"shape {array.shape} without names, which could be (y, x, c) or (c, y, x)"
        raise file.bad("have axes whose meaning is clear", got, _HOW)
    raise file.bad("have named axes y and x", f"shape {array.shape} without names", _HOW)


def _known_axes(file: Reader, stated: list[str], shape: tuple[int, ...], fix: str) -> list[str]:
    """Find what named axes are; another one may have one position only."""
    found = [
        _NAMES.get(name.lower(), f"?{name}" if length > 1 else name)
        for name, length in zip(stated, shape, strict=False)
    ]
    unknown = any(name.startswith("?") for name in found)
    clear = {"y", "x"} <= set(found) and len(set(found)) == len(found) == len(shape)
    if unknown or not clear:
        raise file.bad(
            "have one axis y, one x, and others named c, z or t", f"axes {stated} of shape {shape}", fix
        )
    return found


@dataclass(frozen=True, slots=True)
class _Multiscales:
    """An image: its axes, and array, px size and origin of each level."""

    axes: list[str]
    arrays: list[Any]
    sizes: list[PixelSize | None]
    origins: list[tuple[float, float] | None]  # (y, x) in µm


def _image_in(file: Reader, group: Any, attributes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Find the group of the one image, and its metadata of OME."""
    ome = attributes.get("ome", attributes)
    ome = ome if isinstance(ome, dict) else {}
    if ome.get("bioformats2raw.layout") and "multiscales" not in ome:
        series = list(takewhile(group.__contains__, map(str, range(_MOST_SERIES))))
        if len(series) != 1:
            names = ", ".join(f"{file.name}/{name}" for name in series[:4])
            fix = f"Open one of them: {names}." if series else "Copy or export it again."
            raise file.bad("hold one image", f"{len(series)} images", fix)
        return _image_in(file, group[series[0]], dict(group[series[0]].attrs))
    images = ome.get("multiscales")
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], dict):
        got = "a group without one" if not images else f"{images!r:.60}"
        known = _names_in(group)
        fix = f"Name the image in it, one of {known}." if known else "Copy or export it again."
        raise file.bad("hold one OME-Zarr image", got, fix)
    return group, images[0]


def _names_in(group: Any) -> list[str]:
    """List the first names in a group; a web server lists none."""
    try:
        return sorted(str(name) for name in group)[:8]
    except Exception:  # noqa: BLE001  each store has its own errors
        return []


def _multiscales(file: Reader, group: Any, image: dict[str, Any]) -> _Multiscales:
    """Read the axes, arrays, px sizes and origins of an OME-Zarr image."""
    try:
        stated = image.get("axes", ["t", "c", "z", "y", "x"])  # as up to version 0.2
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in stated]
        units = [str(axis.get("unit", "")) for axis in axes]
        arrays = [group[str(one["path"])] for one in image["datasets"]]
        shape = arrays[0].shape if arrays else ()
        names = _known_axes(file, [_axis_name(axis) for axis in axes], shape, "Correct its metadata.")
        places = []
        for one in image["datasets"]:
            steps = [*one.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())]
            places.append(_scale_and_translation(group, steps, len(names)))
    except TiledSegError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise file.damaged(f"OME-Zarr metadata that cannot be read ({error!r})") from error
    if not arrays or any(getattr(array, "ndim", None) != len(names) for array in arrays):
        raise file.damaged(f"axes {names} for arrays of {[getattr(a, 'shape', '?') for a in arrays]}")
    plane = [names.index("y"), names.index("x")]
    _check_order(file, [(array.shape[plane[0]], array.shape[plane[1]]) for array in arrays])
    _check_levels(file, places, plane)
    return _Multiscales(
        names,
        arrays,
        [_pixel_size(place, plane, units) for place in places],
        [_origin(place, plane, units) for place in places],
    )


def _axis_name(axis: dict[str, Any]) -> str:
    """Name an axis of OME-Zarr: by its type, where its name says nothing."""
    name = str(axis["name"])
    return name if name.lower() in _NAMES else _TYPES.get(str(axis.get("type")), name)


_Place: TypeAlias = "tuple[AnyArray, AnyArray] | None"


def _scale_and_translation(group: Any, steps: list[dict[str, Any]], count: int) -> _Place:
    """Combine the transformations of a level, one after the other; None where a scale is not stated."""
    scale, translation, known = np.ones(count), np.zeros(count), False
    for step in steps:
        kind = step["type"]
        if kind == "identity":
            continue
        if kind not in {"scale", "translation"}:
            return None  # a rotation, for example: a px has no height and width
        values = np.asarray(step[kind] if kind in step else _vector(group[str(step["path"])], count), float)
        if values.shape != (count,) or not np.isfinite(values).all():
            raise ValueError(f"{kind} {values.tolist()} for {count} axes")
        if kind == "scale":
            scale, translation, known = scale * values, translation * values, True
        else:
            translation = translation + values
    return (scale, translation) if known else None


def _vector(array: Any, count: int) -> Any:
    """Read the values of a transformation that are stored as an array."""
    if tuple(array.shape) != (count,):
        raise ValueError(f"a transformation of shape {array.shape} for {count} axes")
    return array[:]


def _check_order(file: Reader, sizes: list[tuple[int, int]]) -> None:
    """Refuse levels that do not begin with the largest, as OME-Zarr demands: the first is the image."""
    if any(y * x > sizes[0][0] * sizes[0][1] for y, x in sizes):
        got = f"levels of {', '.join(f'{y}x{x}' for y, x in sizes)} px"
        fix = "List its `datasets` from the largest to the smallest."
        raise file.bad("have the largest level first", got, fix)


def _check_levels(file: Reader, places: list[_Place], plane: list[int]) -> None:
    """Refuse levels that begin elsewhere than the image, by more than one of their px."""
    if places[0] is None:
        return
    for level, place in enumerate(places):
        if place is None:
            continue
        apart = np.abs(place[1] - places[0][1])[plane]
        if (apart > np.abs(place[0])[plane]).any():
            got = f"level {level} at {place[1][plane].tolist()}, level 0 at {places[0][1][plane].tolist()}"
            raise file.bad("have levels that begin at one place", got, "Correct the translations.")


def _pixel_size(place: _Place, plane: list[int], units: list[str]) -> PixelSize | None:
    if place is None:
        return None
    (y, x), (down, across) = place[0][plane], (units[axis] for axis in plane)
    return pixel_size_of_scale((float(y), float(x)), (down, across))


def _origin(place: _Place, plane: list[int], units: list[str]) -> tuple[float, float] | None:
    """Find where a level begins, in µm; None where it begins at 0, or the unit is not known."""
    lengths = [micrometres(units[axis]) for axis in plane]
    if place is None or 0 in lengths or not place[1][plane].any():
        return None
    y, x = (float(place[1][axis]) * length for axis, length in zip(plane, lengths, strict=True))
    return y, x


class _ZarrBlocks:
    """The chunks of the chosen channels and plane."""

    def __init__(
        self,
        file: Reader,
        folder: Path | None,
        array: Any,
        axes: list[str],
        selection: Selection,
    ) -> None:
        self._file, self._array, self._axes = file, array, axes
        self._files = None if folder is None else ChunkFiles(file, folder, array)
        lengths = dict(zip(axes, (int(length) for length in array.shape), strict=True))
        others = {axis: length for axis, length in lengths.items() if axis in {"z", "t"}}
        self._at = dict.fromkeys(set(axes) - set("yxczt"), 0) | selection.plane_of(file, others)
        self._channels = selection.channels_of(file, lengths.get("c", 1))
        count = lengths.get("c", 1) if self._channels is None else len(self._channels)
        self._alone = lengths.get("c") == 1  # a channel whose axis is left out
        stored = np.dtype(array.dtype)
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if stored == np.float16 else stored.newbyteorder("=")
        self.shape: tuple[int, ...] = (lengths["y"], lengths["x"]) + ((count,) if count > 1 else ())
        down, across = (int(array.chunks[axes.index(axis)]) for axis in "yx")
        self.block_shape: tuple[int, int] = (down, across)

    def block(self, row: int, column: int) -> AnyArray:
        """Read a chunk, cut off at the end of the image."""
        high, wide = self.block_shape
        where: dict[str, Any] = {
            "y": slice(row * high, min((row + 1) * high, self.shape[0])),
            "x": slice(column * wide, min((column + 1) * wide, self.shape[1])),
        }
        key = tuple(where.get(axis, self._at.get(axis, slice(None))) for axis in self._axes)
        if self._files is not None:
            self._files.check(key)
        try:
            found = np.asarray(self._array[key])
        except TiledSegError:
            raise
        except Exception as error:  # codecs and stores have no common error
            where_px = f"y={row * high}, x={column * wide} px"
            raise self._file.damaged(f"a chunk at {where_px} corrupt ({error})") from error
        left = [axis for axis in self._axes if axis not in self._at]
        found = found.transpose([left.index(axis) for axis in ("y", "x", "c") if axis in left])
        return np.ascontiguousarray(picked(found, [0] if self._alone else self._channels), self.dtype)
