"""Zarr arrays (formats 2 and 3) and OME-Zarr images (0.4 and 0.5), read by region."""

from __future__ import annotations

import io
import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._extras import extra
from tiledseg._validate import named
from tiledseg.io.file import MARKS, Reader, state_of
from tiledseg.io.metadata import pixel_size_of_scale
from tiledseg.io.source import CachedBlocks, Facts
from tiledseg.io.stores import UNFINISHED

if TYPE_CHECKING:
    from tiledseg._types import AnyArray
    from tiledseg.io.metadata import PixelSize
    from tiledseg.io.source import Regions, Selection

_LARGEST_CHUNK = 2**30
_NAMES = {"y": "y", "height": "y", "row": "y", "x": "x", "width": "x", "column": "x"} | {
    "c": "c", "s": "c", "channel": "c", "z": "z", "t": "t", "time": "t"
}  # fmt: skip


def is_zarr(path: str) -> bool:
    """Return whether a path is a folder that holds a zarr array or group."""
    return any(Path(path, mark).is_file() for mark in MARKS)


def zarr_source(path: str, selection: Selection) -> tuple[Regions, Facts]:
    """Open a zarr array, or a level of an OME-Zarr image."""
    zarr = extra("zarr", "zarr")
    file = Reader(named(path), io.BytesIO(), 0)
    try:
        node = zarr.open(store=path, mode="r")
        attributes = dict(node.attrs)
    except Exception as error:  # zarr has no common error
        raise file.damaged(f"zarr metadata that cannot be read ({error})") from error
    if attributes.get(UNFINISHED):
        fix = "Resume the prediction that writes it, or delete it."
        raise file.bad("be finished", "an image that is still being written", fix)
    if isinstance(node, zarr.Array):
        axes = _array_axes(file, node, attributes)
        levels, size, level = [node], None, selection.level_of(file, 1)
    else:
        axes, levels, sizes_of_px = _multiscales(file, node, attributes)
        level = selection.level_of(file, len(levels))
        size = sizes_of_px[level]
    y, x = axes.index("y"), axes.index("x")
    sizes = tuple((int(array.shape[y]), int(array.shape[x])) for array in levels)
    _check_array(file, levels[level])
    blocks = _ZarrBlocks(file, Path(path, levels[level].path), levels[level], axes, selection)
    return CachedBlocks(blocks), Facts(file.name, size, sizes, level, {"metadata": state_of(path)})


def _check_array(file: Reader, array: Any) -> None:  # noqa: ANN401
    if np.dtype(array.dtype).kind not in "biuf":
        raise file.bad("hold numbers", str(array.dtype), "Store the image as uint8, uint16 or float32.")
    if "pickle" in json.dumps(array.metadata.to_dict(), default=str):
        fix = "Store the image with another codec: unpickling runs any code in the file."
        raise file.bad("be readable without running code", "a pickle codec", fix)
    if int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize > _LARGEST_CHUNK:
        fix = "Store the image in smaller chunks, for example of 512 px."
        raise file.bad("have chunks of at most 1 GiB", f"chunks of {array.chunks}", fix)


def _array_axes(file: Reader, array: Any, attributes: dict[str, Any]) -> list[str]:  # noqa: ANN401
    """Name the axes of a single array by its metadata, or else by its shape."""
    stated = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    if stated and len(stated) == array.ndim:
        found = [_NAMES.get(str(name).lower(), "?") for name in stated]
        if "y" in found and "x" in found and len(set(found)) == len(found) and "?" not in found:
            return found
    if array.ndim in {2, 3}:
        return ["y", "x", "c"][: array.ndim]
    fix = "Name its axes y, x and c (z, t) in dimension_names or _ARRAY_DIMENSIONS."
    raise file.bad("have named axes y and x", f"axes {stated} of shape {array.shape}", fix)


def _multiscales(
    file: Reader,
    group: Any,  # noqa: ANN401
    attributes: dict[str, Any],
) -> tuple[list[str], list[Any], list[PixelSize | None]]:
    """Read the axes, arrays and px sizes of an OME-Zarr image."""
    ome = attributes.get("ome", attributes)
    images = ome.get("multiscales") if isinstance(ome, dict) else None
    if not isinstance(images, list) or len(images) != 1:
        got = "a group without one" if not images else f"{len(images)} of them"
        fix = f"Name the array in it, one of {sorted(str(name) for name in group)[:8]}."
        raise file.bad("hold an OME-Zarr image", got, fix)
    try:
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in images[0]["axes"]]
        names = [_NAMES.get(str(axis["name"]).lower(), "?") for axis in axes]
        sets = images[0]["datasets"]
        arrays = [group[str(one["path"])] for one in sets]
        sizes = [_pixel_size(one, names, [str(axis.get("unit", "")) for axis in axes]) for one in sets]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise file.damaged(f"OME-Zarr metadata that cannot be read ({error!r})") from error
    named_axes = "?" not in names and {"y", "x"} <= set(names)
    if not arrays or not named_axes or any(array.ndim != len(names) for array in arrays):
        raise file.damaged(f"axes {names} for arrays of {[getattr(a, 'shape', '?') for a in arrays]}")
    return names, arrays, sizes


def _pixel_size(dataset: dict[str, Any], axes: list[str], units: list[str]) -> PixelSize | None:
    """Find the size of a px of a level in its scale."""
    y, x = axes.index("y"), axes.index("x")
    for transformation in dataset.get("coordinateTransformations", ()):
        scale = transformation.get("scale", ()) if transformation.get("type") == "scale" else ()
        if len(scale) == len(axes):
            return pixel_size_of_scale((float(scale[y]), float(scale[x])), (units[y], units[x]))
    return None


class _ZarrBlocks:
    """The chunks of the chosen channels and plane."""

    def __init__(
        self,
        file: Reader,
        folder: Path,
        array: Any,  # noqa: ANN401
        axes: list[str],
        selection: Selection,
    ) -> None:
        self._file, self._array, self._axes, self._folder = file, array, axes, folder
        lengths = dict(zip(axes, (int(length) for length in array.shape), strict=True))
        others = {axis: length for axis, length in lengths.items() if axis not in {"y", "x", "c"}}
        self._at = selection.plane_of(file, others)
        self._channels = selection.channels_of(file, lengths.get("c", 1))
        count = lengths.get("c", 1) if self._channels is None else len(self._channels)
        self._drop = "c" in lengths and count == 1
        self.dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("=")
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
        self._check_files(key)
        try:
            found = np.asarray(self._array[key])
        except Exception as error:  # codecs and stores have no common error
            where_px = f"y={row * high}, x={column * wide} px"
            raise self._file.damaged(f"a chunk at {where_px} corrupt ({error})") from error
        left = [axis for axis in self._axes if axis not in self._at]
        found = found.transpose([left.index(axis) for axis in ("y", "x", "c") if axis in left])
        if self._channels is not None:
            found = found[..., self._channels]
        if self._drop:
            found = found[..., 0]
        return np.ascontiguousarray(found, self.dtype)

    def _check_files(self, key: tuple[slice | int, ...]) -> None:
        """Refuse chunks that are pipes or devices, for which zarr would wait."""
        ranges = []
        sizes = self._array.shards or self._array.chunks
        for part, length, size in zip(key, self._array.shape, sizes, strict=True):
            start, stop = (part, part + 1) if isinstance(part, int) else part.indices(length)[:2]
            ranges.append(range(start // size, -(-stop // size)))
        for coordinates in product(*ranges):
            chunk = self._folder / self._array.metadata.encode_chunk_key(coordinates)
            if chunk.exists() and not chunk.is_file():
                got = f"{named(chunk)}, which is a folder, a pipe or a device"
                raise self._file.bad("have regular files as chunks", got, "Copy or export it again.")
