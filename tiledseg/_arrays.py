"""What an array must be to be taken for an image; said once, for every room that takes one."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._checks import broken
from tiledseg.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiledseg._types import AnyArray, Source

__all__ = ["array_of", "check_finite", "check_image", "check_shape", "read_region"]

_CHANNELS_FIRST = {1, 3, 4}  # lengths of a first axis that make one suspect channels there,
_LEAST_IMAGE = 16  # if the two others are at least as long as this


def array_of(values: object, name: str) -> AnyArray:
    """Take numbers for an array, and refuse what is none.

    Parameters
    ----------
    values : array_like
        Numbers.
    name : str
        Name of the argument, for messages.

    Returns
    -------
    ndarray
        The numbers.

    Raises
    ------
    ArrayError
        If they are no numbers, or rows differ in length.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # rows of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise broken(
            ArrayError,
            name,
            must="have a boolean, integer or real dtype",
            got=type(values).__name__ if array.dtype.kind == "O" else str(array.dtype),
            fix="Read or convert it first, for example with numpy.asarray.",
        )
    return array


def check_image(image: Source, channels: int | None = None) -> tuple[int, int, int]:
    """Check that an array can be an image, and say its height, width and channels.

    Parameters
    ----------
    image : array_like
        Anything with ``shape`` and ``dtype``.
    channels : int, optional
        Channels that the image must have; any number where it is None.

    Returns
    -------
    tuple of int
        (H, W, C); C is 1 for an image of shape (H, W).

    Raises
    ------
    ArrayError
        If it is not an array of shape (H, W) or (H, W, C), has an empty axis, has a dtype that
        is not boolean, integer or real, looks channels-first, or has other channels than asked.
    """
    if not all(hasattr(image, name) for name in ("shape", "dtype", "__getitem__")):
        raise broken(
            ArrayError,
            "image",
            must="be an array with shape and dtype",
            got=type(image).__name__,
            fix="Read a file with tiledseg.io.read_image, or convert with numpy.asarray.",
        )
    if isinstance(image, np.ma.MaskedArray):
        raise broken(
            ArrayError,
            "image",
            must="be no masked array",
            got="one",
            fix="Fill it with image.filled(value), and say where to predict by `mask`.",
        )
    if _kind(image.dtype) not in set("biuf"):
        raise broken(
            ArrayError,
            "image",
            must="have a boolean, integer or real dtype",
            got=str(image.dtype),
            fix="Convert it with image.astype(numpy.float32).",
        )
    return check_shape(image.shape, channels)


def check_shape(shape: Sequence[int], channels: int | None = None) -> tuple[int, int, int]:
    """Check that a shape can be that of an image.

    Parameters
    ----------
    shape : sequence of int
        Of the image, in px.
    channels : int, optional
        Channels that the image must have; any number where it is None.

    Returns
    -------
    tuple of int
        (H, W, C); C is 1 for a shape (H, W).

    Raises
    ------
    ArrayError
        If it is not (H, W) or (H, W, C), has an empty axis, looks channels-first, or has other
        channels than asked.
    """
    shape = _whole(shape)
    if len(shape) not in {2, 3}:
        raise broken(
            ArrayError,
            "image",
            must="have shape (H, W) or (H, W, C)",
            got=shape,
            fix="Give one image at a time, channels last.",
        )
    if min(shape) < 1:
        raise broken(
            ArrayError,
            "image",
            must="have at least 1 px and 1 channel",
            got=shape,
            fix="An empty image has no map.",
        )
    _check_channels(shape, channels)
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)


def _kind(dtype: object) -> str:
    try:
        return np.dtype(dtype).kind  # type: ignore[call-overload, no-any-return]
    except TypeError:  # of a library with dtypes of its own
        return "O"


def _whole(shape: Iterable[Any]) -> tuple[int, ...]:
    """Take a shape's lengths as whole numbers."""
    try:
        lengths = [None if isinstance(one, bool) else operator.index(one) for one in shape]
    except TypeError:
        lengths = [None]
    whole = tuple(one for one in lengths if one is not None)
    if len(whole) < len(lengths):
        raise broken(
            ArrayError,
            "shape",
            must="hold whole numbers of px, (H, W) or (H, W, C)",
            got=shape,
            fix="Pass image.shape.",
        )
    return whole


def _check_channels(shape: tuple[int, ...], channels: int | None) -> None:
    found = shape[2] if len(shape) == 3 else 1
    if channels is None:
        if len(shape) == 3 and shape[0] in _CHANNELS_FIRST and min(shape[1:]) >= _LEAST_IMAGE:
            raise broken(
                ArrayError,
                "image",
                must="be channels last, (H, W, C)",
                got=f"{shape}, which reads as (C, H, W)",
                fix="Move the axis with numpy.moveaxis(image, 0, -1).",
            )
        return
    if found == channels:
        return
    fix = f"Give an image of shape (H, W, {channels})."
    if len(shape) == 3 and shape[0] == channels:
        fix = "It reads as (C, H, W): move the axis with numpy.moveaxis(image, 0, -1)."
    elif found == 1 and channels == 3:
        fix = "Make a grey image three equal channels with numpy.repeat(image.reshape(*shape, 1), 3, axis=2)."
        fix = fix.replace("*shape", f"{shape[0]}, {shape[1]}")
    elif found == 4 and channels == 3:
        fix = "If the fourth channel is alpha, drop it with image[..., :3]."
    raise broken(
        ArrayError, "image", must=f"have {channels} channels, as the network expects", got=shape, fix=fix
    )


def check_finite(pixels: AnyArray, name: str, origin: tuple[int, int] = (0, 0)) -> None:
    """Check that an array has no NaN and no infinity.

    Parameters
    ----------
    pixels : ndarray
        Any dtype, (H, W) or (H, W, C).
    name : str
        Name of the array for the message.
    origin : tuple of int
        Place (y, x) of its first px in the image.

    Raises
    ------
    ArrayError
        If a value is NaN or infinite; the message has their count and the first place.
    """
    if pixels.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(pixels.astype(np.float32, copy=False))
    if bad.any():
        y, x = (int(place) for place in np.argwhere(bad)[0][:2])
        raise broken(
            ArrayError,
            name,
            must="be finite as float32",
            got=f"{int(bad.sum())} NaN or infinite values, the first at (y, x) = "
            f"({origin[0] + y}, {origin[1] + x})",
            fix="Replace them, for example with numpy.nan_to_num.",
        )


def read_region(image: Source, rows: slice, columns: slice) -> AnyArray:
    """Read a region, and check that the source keeps what its shape and dtype promise.

    Parameters
    ----------
    image : array_like
        (H, W) or (H, W, C).
    rows, columns : slice
        The region, with a start and a stop inside the image.

    Returns
    -------
    ndarray
        (h, w) or (h, w, C), in the dtype of the image.

    Raises
    ------
    ArrayError
        If the region has another shape, or a dtype that the image's own cannot hold.
    """
    pixels = np.asarray(image[rows, columns])
    wanted = (rows.stop - rows.start, columns.stop - columns.start, *tuple(image.shape)[2:])
    if pixels.shape != wanted or not np.can_cast(pixels.dtype, np.dtype(image.dtype), "safe"):
        raise broken(
            ArrayError,
            "image",
            must=f"give {wanted} px of {image.dtype} at (y, x) = ({rows.start}, {columns.start})",
            got=f"{pixels.shape} px of {pixels.dtype}",
            fix="Mend the source: a slice of it must have the shape and dtype that it states.",
        )
    return pixels
