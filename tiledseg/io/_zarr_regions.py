"""Zarr arrays (formats 2 and 3) and OME-Zarr images (0.4 and 0.5), read by region."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._extras import extra
from tiledseg._validate import named
from tiledseg.errors import FileError
from tiledseg.io._file import Reader
from tiledseg.io._pixel_size import pixel_size_of_scale
from tiledseg.io._source import CachedBlocks, Facts
from tiledseg.io._state import MARKS, state_of

if TYPE_CHECKING:
    from tiledseg._types import AnyArray
    from tiledseg.io._header import Wish
    from tiledseg.io._pixel_size import PixelSize
    from tiledseg.io._source import Regions

__all__ = ["UNFINISHED", "is_zarr", "zarr_source"]

UNFINISHED = "tiledseg_unfinished"
"""Attribute of an array or image of ours that is still being written."""

_LARGEST_CHUNK = 2**30
_NAMES = {"y": "y", "height": "y", "row": "y", "x": "x", "width": "x", "column": "x"} | {
    "c": "c", "s": "c", "channel": "c", "z": "z", "t": "t", "time": "t"
}  # fmt: skip


def is_zarr(path: str) -> bool:
    """Say whether a path is a folder that holds a zarr array or group."""
    return os.path.isdir(path) and any(os.path.isfile(os.path.join(path, mark)) for mark in MARKS)  # noqa: PTH112, PTH113, PTH118


def zarr_source(path: str, wish: Wish) -> tuple[Regions, Facts]:
    """Open a zarr array, or a level of an OME-Zarr image."""
    zarr = extra("zarr", "zarr")
    place = Reader(named(path), io.BytesIO(), 0)
    try:
        node = zarr.open(store=path, mode="r")
        attributes = dict(node.attrs)
    except Exception as error:  # zarr has no common error
        raise place.damaged(f"zarr metadata that cannot be read ({error})") from error
    if attributes.get(UNFINISHED):
        fix = "Finish the prediction that writes it (resume), or delete it."
        raise place.bad("be finished", "an image that was still being written", fix)
    if isinstance(node, zarr.Array):
        axes = _array_axes(place, node, attributes)
        levels, size, level = [node], None, wish.level_of(place, 1)
    else:
        axes, levels, scales, units = _multiscales(place, node, attributes)
        level = wish.level_of(place, len(levels))
        size = _pixel_size(axes, scales[level], units)
    y, x = axes.index("y"), axes.index("x")
    sizes = tuple((int(array.shape[y]), int(array.shape[x])) for array in levels)
    _check_array(place, levels[level])
    blocks = _ZarrBlocks(place, levels[level], axes, wish)
    return CachedBlocks(blocks), Facts(place.name, size, sizes, level, {"metadata": state_of(path)})


def _check_array(place: Reader, array: Any) -> None:  # noqa: ANN401
    if np.dtype(array.dtype).kind not in "biuf":
        raise place.bad("hold numbers", str(array.dtype), "Store the image as uint8, uint16 or float32.")
    if "pickle" in json.dumps(array.metadata.to_dict(), default=str):
        fix = "Store the image with another codec: unpickling runs whatever the file says."
        raise place.bad("be readable without running code", "a pickle codec", fix)
    if int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize > _LARGEST_CHUNK:
        fix = "Store the image in chunks of 512 px, say."
        raise place.bad("have chunks of at most 1 GiB", f"chunks of {array.chunks}", fix)


def _array_axes(place: Reader, array: Any, attributes: dict[str, Any]) -> list[str]:  # noqa: ANN401
    """Name the axes of a lone array, by its metadata or else by its shape."""
    stated = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    if stated and len(stated) == array.ndim:
        found = [_NAMES.get(str(name).lower(), "?") for name in stated]
        if "y" in found and "x" in found and len(set(found)) == len(found) and "?" not in found:
            return found
    if array.ndim in {2, 3}:
        return ["y", "x", "c"][: array.ndim]
    fix = "Name its axes y, x and c (z, t) in dimension_names or _ARRAY_DIMENSIONS."
    raise place.bad("say which axes are y and x", f"axes {stated} of shape {array.shape}", fix)


def _multiscales(
    place: Reader,
    group: Any,  # noqa: ANN401
    attributes: dict[str, Any],
) -> tuple[list[str], list[Any], list[list[float]], list[str]]:
    """Read the axes, arrays and scales of an OME-Zarr image."""
    ome = attributes.get("ome", attributes)
    images = ome.get("multiscales") if isinstance(ome, dict) else None
    if not isinstance(images, list) or len(images) != 1:
        got = "a group without one" if not images else f"{len(images)} of them"
        fix = f"Name the array in it, one of {sorted(str(name) for name in group)[:8]}."
        raise place.bad("hold an OME-Zarr image", got, fix)
    try:
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in images[0]["axes"]]
        names = [_NAMES.get(str(axis["name"]).lower(), "?") for axis in axes]
        sets = images[0]["datasets"]
        arrays = [group[str(one["path"])] for one in sets]
        scales = [_scale(one, len(axes)) for one in sets]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise place.damaged(f"OME-Zarr metadata that cannot be read ({error!r})") from error
    if (
        not arrays
        or "?" in names
        or not {"y", "x"} <= set(names)
        or any(a.ndim != len(names) for a in arrays)
    ):
        raise place.damaged(f"axes {names} for arrays of {[getattr(a, 'shape', '?') for a in arrays]}")
    return names, arrays, scales, [str(axis.get("unit", "")) for axis in axes]


def _scale(dataset: dict[str, Any], count: int) -> list[float]:
    for transformation in dataset.get("coordinateTransformations", ()):
        if transformation.get("type") == "scale" and len(transformation.get("scale", ())) == count:
            return [float(one) for one in transformation["scale"]]
    return [0.0] * count


def _pixel_size(axes: list[str], scale: list[float], units: list[str]) -> PixelSize | None:
    y, x = axes.index("y"), axes.index("x")
    return pixel_size_of_scale((scale[y], scale[x]), (units[y], units[x]))


class _ZarrBlocks:
    """The chunks of the channels wanted at one place."""

    def __init__(self, place: Reader, array: Any, axes: list[str], wish: Wish) -> None:  # noqa: ANN401
        self._place, self._array, self._axes = place, array, axes
        lengths = dict(zip(axes, (int(length) for length in array.shape), strict=True))
        self._at = _fixed(place, lengths, wish)
        channels = wish.channels_of(place, lengths.get("c", 1))
        count = lengths.get("c", 1) if channels is None else len(channels)
        self._channels = channels
        alone = "c" in lengths and (count == 1)
        self._axis = (
            None if "c" not in lengths else sum(axis not in self._at for axis in axes[: axes.index("c")])
        )
        self._drop = alone
        self.dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("=")
        self.shape: tuple[int, ...] = (lengths["y"], lengths["x"]) + ((count,) if count > 1 else ())
        self.block_shape: tuple[int, int] = (
            int(array.chunks[axes.index("y")]),
            int(array.chunks[axes.index("x")]),
        )

    def block(self, row: int, column: int) -> AnyArray:
        """Read a chunk, cut off at the end of the image."""
        high, wide = self.block_shape
        where: dict[str, Any] = {
            "y": slice(row * high, min((row + 1) * high, self.shape[0])),
            "x": slice(column * wide, min((column + 1) * wide, self.shape[1])),
        }
        key = tuple(where.get(axis, self._at.get(axis, slice(None))) for axis in self._axes)
        try:
            found = np.asarray(self._array[key])
        except FileError:
            raise
        except Exception as error:  # codecs and stores raise whatever they like
            raise self._place.damaged(
                f"a chunk at y={row * high}, x={column * wide} px corrupt ({error})"
            ) from error
        left = [axis for axis in self._axes if axis not in self._at]
        found = found.transpose([left.index(axis) for axis in ("y", "x", "c") if axis in left])
        if self._channels is not None:
            found = found[..., self._channels]
        if self._drop:
            found = found[..., 0]
        return np.ascontiguousarray(found, self.dtype)


def _fixed(place: Reader, lengths: dict[str, int], wish: Wish) -> dict[str, int]:
    """Find the place along every axis that is neither y, x nor c."""
    at = {}
    for axis, length in lengths.items():
        if axis in {"y", "x", "c"}:
            continue
        given = wish.at.get(axis, 0 if length == 1 else None)
        if given is None or not 0 <= given < length:
            got = f"{length} places along {axis}" + ("" if given is None else f", at={dict(wish.at)}")
            raise place.bad(
                "hold one plane", got, f"Pass at={{{axis!r}: 0}} to at={{{axis!r}: {length - 1}}}."
            )
        at[axis] = given
    return at
