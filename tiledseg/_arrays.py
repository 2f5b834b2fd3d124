"""Checks of arrays: images, labels, probabilities; how they are read by region; axes of xarray by name."""

from __future__ import annotations

import math
import operator
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import cv2
from tiledseg._validate import counted, invalid, listed, raised_as
from tiledseg.errors import ArrayError, TiledSegError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tiledseg._types import AnyArray, Source

_FEW, _AT_ONCE = 1 << 20, 1 << 24  # numbers
_REAL = "have a boolean, integer or real dtype"
_MOST_LABEL, _MOST_LABELS = (1 << 63) - 1, 5  # what int64 holds; labels that are listed in one message
_CHANNELS_FIRST, _LEAST_IMAGE = {1, 3, 4}, 16  # lengths of a first axis that may be that of the channels
_MOST_CHANNELS, _LEAST_SIDE = 16, 64  # if the other two are at least so long; also of maps of classes
_ROUNDING = 1e-3  # of a network, by which its probabilities may lie outside [0, 1]
_AXES = {
    "y": {"y", "row", "rows", "height", "lat", "latitude"},
    "x": {"x", "column", "columns", "col", "width", "lon", "longitude"},
    "c": {"c", "channel", "channels", "band", "bands", "rgb"},
}


def check_unmasked(values: object, name: str) -> None:
    """Refuse an array with a mask of its own, which NumPy would drop without a word."""
    if "numpy.ma" not in sys.modules:  # its import takes a while
        return
    meta = getattr(values, "_meta", None) if type(values).__module__.startswith("dask.") else None
    if isinstance(values, np.ma.MaskedArray) or isinstance(meta, np.ma.MaskedArray):
        own = name if name.isidentifier() else ""
        how = f"{own}.filled(value)" if meta is None else f"dask.array.ma.filled({own}, value)"
        fix = f"Fill it with {how}; to predict a part of an image, pass `roi`."
        raise ArrayError(f"`{name}` must not be a masked array. {fix}")


def array_of(values: object, name: str) -> AnyArray:
    """Convert numbers to an array; refuse what cannot be converted."""
    check_unmasked(values, name)
    try:
        array = np.asarray(values)
    except Exception:  # noqa: BLE001  rows of different lengths, or a class of the user's
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        of_torch = hasattr(type(values), "detach")  # with gradients, bfloat16 or on a GPU
        how = f"{name}.detach().cpu().float().numpy()" if of_torch else "numpy.asarray"
        fix = f"Read or convert it first, for example with {how}."
        got = type(values).__name__ if array.dtype.kind == "O" else str(array.dtype)
        raise invalid(ArrayError, name, must=_REAL, got=got, fix=fix)
    return array


def check_image(image: Source, channels: int | None = None, name: str = "image") -> tuple[int, int, int]:
    """Check that an array can be an image, and return its height, width and channels."""
    with raised_as(ArrayError, f"`{name}` does not say its shape and dtype", "See the object's own code."):
        described = all(hasattr(image, one) for one in ("shape", "dtype", "__getitem__"))
        shape, dtype = (image.shape, image.dtype) if described else ((), None)
    if not described:
        must = "be an array with shape and dtype"
        fix = "Read a file with tiledseg.io.read_image, or convert with numpy.asarray."
        raise invalid(ArrayError, name, must=must, got=type(image).__name__, fix=fix)
    check_unmasked(image, name)
    _check_order(image, name)
    if dtype_of(dtype).kind not in set("biuf"):
        how = f"{name}.astype(numpy.float32)" if isinstance(dtype, np.dtype) else "numpy.asarray"
        raise invalid(ArrayError, name, must=_REAL, got=str(dtype), fix=f"Convert it with {how}.")
    return check_shape(shape, channels, name)


def check_shape(
    shape: Sequence[int], channels: int | None = None, name: str = "image"
) -> tuple[int, int, int]:
    """Check the shape of an image, and return its height, width and channels."""
    shape = _whole(shape)
    if len(shape) not in {2, 3}:
        fix = "Give one image at a time, channels last."
        raise invalid(ArrayError, name, must="have shape (H, W) or (H, W, C)", got=shape, fix=fix)
    if min(shape) < 1:
        must, fix = "have at least 1 px and 1 channel", "Check how it was read: an empty image has no map."
        raise invalid(ArrayError, name, must=must, got=shape, fix=fix)
    _check_channels(shape, channels, name)
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)


def dtype_of(dtype: object) -> np.dtype[Any]:
    """Return a dtype of NumPy; object for one of another library."""
    try:
        return np.dtype(dtype)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        return np.dtype(object)


def _whole(shape: Iterable[Any]) -> tuple[int, ...]:
    """Return the lengths of a shape as ints."""
    try:
        lengths = [None if isinstance(one, bool) else operator.index(one) for one in shape]
    except Exception:  # noqa: BLE001  of a class of the user's
        lengths = [None]
    whole = tuple(one for one in lengths if one is not None)
    if len(whole) < len(lengths):
        must = "hold whole numbers of px, (H, W) or (H, W, C)"
        raise invalid(ArrayError, "shape", must=must, got=shape, fix="Pass image.shape.")
    return whole


def looks_channels_first(shape: Sequence[int]) -> bool:
    """Say whether a shape is that of an image with its channels first."""
    first = shape[0] if len(shape) == 3 else _MOST_CHANNELS + 1
    least = _LEAST_IMAGE if first in _CHANNELS_FIRST else _LEAST_SIDE
    return first <= _MOST_CHANNELS and min(shape[1:]) >= least


def _check_channels(shape: tuple[int, ...], channels: int | None, name: str) -> None:
    found = shape[2] if len(shape) == 3 else 1
    if channels is None and looks_channels_first(shape):
        fix = f"It looks like (C, H, W): move the axis with numpy.moveaxis({name}, 0, -1)."
        raise invalid(ArrayError, name, must="be channels last, (H, W, C)", got=shape, fix=fix)
    if channels in {None, found}:
        return
    fix = f"Give an image of shape (H, W, {channels})."
    if len(shape) == 3 and shape[0] == channels:
        fix = "It looks like (C, H, W): move the axis with numpy.moveaxis(image, 0, -1)."
    elif found == 1 and channels == 3:
        fix = f"Repeat the grey channel with numpy.repeat(image.reshape{(*shape[:2], 1)}, 3, axis=2)."
        fix += " Read a file with channels=(0, 0, 0)."
    elif found == 4 and channels == 3:
        fix = "If the fourth channel is alpha, drop it with image[..., :3]."
    elif found > channels:
        some = tuple(range(channels)) if channels > 1 else 0
        fix = f"Choose {counted(channels, 'channel')}: of an array by slicing, of a file by channels={some}."
    must = f"have {channels} channels, as the network expects"
    raise invalid(ArrayError, "image", must=must, got=shape, fix=fix)


def check_labels(
    mask: object, name: str, shape: Sequence[int] | None = None, classes: int | None = None
) -> AnyArray:
    """Check that an array holds labels (H, W) from 0 to classes - 1."""
    array = array_of(by_name(mask, name), name)
    if array.dtype.kind == "f":
        must, fix = "hold labels: be boolean or integer", "Apply a threshold first, as in probs >= 0.5."
        raise invalid(ArrayError, name, must=must, got=str(array.dtype), fix=fix)
    if array.ndim != 2 or (shape is not None and array.shape != tuple(shape)):
        size = "shape (H, W)" if shape is None else f"the size of its image, (H, W) = {tuple(shape)}"
        fix = "Give one label for each px; remove an axis of one channel with mask[..., 0]."
        raise invalid(ArrayError, name, must=f"have {size}", got=array.shape, fix=fix)
    most = math.inf if classes is None else classes - 1
    if array.size and array.dtype.kind != "b" and not 0 <= array.min() <= array.max() <= most:
        must = "hold labels from 0 up" if classes is None else f"hold labels in [0, {classes - 1}]"
        wrong = array[(array < 0) | (array > most)]
        got = f"{listed(np.unique(wrong), _MOST_LABELS)} in {wrong.size} of {array.size} px"
        fix = "Use 0 for the background and 1, 2, … for the classes, or more classes."
        if classes == 2 and array.max() == 255:
            fix = "It looks like a picture of a mask: apply a threshold, as in mask >= 128."
        elif classes == 2 and array.min() >= 0:
            fix = f"Give {name} > 0 if its numbers count cells; for several classes, state their number."
        raise invalid(ArrayError, name, must=must, got=got, fix=fix)
    if array.dtype == np.uint64 and array.size and array.max() > _MOST_LABEL:
        fix = "Renumber them, for example with numpy.unique(mask, return_inverse=True)."
        raise invalid(ArrayError, name, must="hold labels below 2^63", got=str(array.max()), fix=fix)
    return array


def is_finite(pixels: AnyArray) -> bool:
    """Return whether a float32 array, of 2 axes or more, has no NaN and no infinity."""
    if pixels.size <= _FEW:
        return bool(np.isfinite(pixels).all())
    rows = pixels if pixels.ndim == 2 else pixels.reshape(math.prod(pixels.shape[:-2]), -1)
    few = max(1, _AT_ONCE // rows.shape[1])  # OpenCV sums in float64, which holds it, but fails above 2^31
    return all(math.isfinite(cv2.sumElems(rows[top : top + few])[0]) for top in range(0, len(rows), few))


def check_finite(pixels: AnyArray, name: str, origin: tuple[int, int] = (0, 0)) -> None:
    """Check that an array has no NaN and no infinity."""
    if pixels.dtype.kind != "f" or (pixels.dtype == np.float32 and is_finite(pixels)):
        return
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(pixels.astype(np.float32, copy=False))
    if bad.any():
        y, x = (start + int(place) for start, place in zip(origin, np.argwhere(bad)[0], strict=False))
        got = f"{int(bad.sum())} NaN or infinite values, the first at (y, x) = ({y}, {x})"
        fix = "Replace them, for example with numpy.nan_to_num."
        raise invalid(ArrayError, name, must="be finite as float32", got=got, fix=fix)


def check_unit_interval(
    values: AnyArray, name: str, must: str, fix: str, error: type[TiledSegError] = ArrayError
) -> None:
    """Check that probabilities lie in [0, 1], up to the rounding of a network."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise invalid(error, name, must=must, got=f"values from {low:.4g} to {high:.4g}", fix=fix)


def read_region(image: Source, rows: slice, columns: slice) -> AnyArray:
    """Read a region, and check that it has the shape and dtype that the source states."""
    where = f"at (y, x) = ({rows.start}, {columns.start})"
    with raised_as(ArrayError, f"`image` cannot be read {where}", "Correct the source, or read it first."):
        pixels = np.asarray(found := image[rows, columns])
    check_unmasked(found, "image")
    wanted = (rows.stop - rows.start, columns.stop - columns.start, *tuple(image.shape)[2:])
    if pixels.shape != wanted or not np.can_cast(pixels.dtype, np.dtype(image.dtype), "safe"):
        must = f"give {wanted} px of {image.dtype} {where}"
        fix = "Correct the source: a slice of it must have the shape and dtype that it states."
        raise invalid(ArrayError, "image", must=must, got=f"{pixels.shape} px of {pixels.dtype}", fix=fix)
    return pixels


def read_bands(source: Source, n_rows: int) -> Iterator[tuple[int, AnyArray]]:
    """Read whole rows, some at a time, each time with the number of the first."""
    height, width = map(int, source.shape[:2])
    for top in range(0, height, n_rows):
        yield top, read_region(source, slice(top, min(top + n_rows, height)), slice(0, width))


def by_name(values: Any, name: str) -> Any:  # arrays of all libraries
    """Give an array of xarray with its axes in the order y, x, channel; give anything else back."""
    if not _is_named(values):
        return values
    if not hasattr(values, "data"):
        held = [str(one) for one in values]
        fix = f"Pass one of its arrays, as in {name}[{held[0]!r}]." if held else "Pass an array."
        got = f"a {type(values).__name__} of {', '.join(held) or 'none'}"
        raise invalid(ArrayError, name, must="be one array of xarray", got=got, fix=fix)
    order, others = _order(values, name)
    return values.isel(dict.fromkeys(others, 0)).transpose(*order).data


def _check_order(values: Any, name: str) -> None:
    """Refuse an array of xarray whose axes, where they are taken by their position, have another order."""
    if _is_named(values) and list(values.dims) != (order := _order(values, name)[0]):
        how = f"{name}.transpose({', '.join(map(repr, order))})"
        raise ArrayError(
            f"`{name}` must have its axes in the order {', '.join(map(str, order))} here; got "
            f"{', '.join(map(str, values.dims))}. Pass {how}, with one position of each other axis selected."
        )


def _is_named(values: Any) -> bool:
    return type(values).__module__.partition(".")[0] == "xarray" and hasattr(values, "dims")


def _order(values: Any, name: str) -> tuple[list[Any], list[Any]]:
    """Find the axes y, x and channel by their names, and others, each of which must have a length of 1."""
    named = {kind: [axis for axis in values.dims if str(axis).lower() in _AXES[kind]] for kind in _AXES}
    order = [axes[0] for axes in named.values() if axes]
    others = [axis for axis in values.dims if axis not in order]
    is_clear = all(len(axes) <= 1 for axes in named.values()) and named["y"] and named["x"]
    if not is_clear or any(values.sizes[axis] != 1 for axis in others):
        raise ArrayError(
            f"`{name}` must have the dimensions y, x and channel; got {dict(values.sizes)}. "
            "Rename them, or select one position of each other one."
        )
    return order, others
