"""Masks: files to labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from tiledseg._validate import invalid, named, one_of
from tiledseg.errors import FileError, SettingError
from tiledseg.io._file import MAX_PIXELS
from tiledseg.io._header import Request
from tiledseg.io._read import read_pixels

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.io._header import Alpha, Palette

__all__ = ["read_mask"]

_LARGEST = 255


def read_mask(
    path: PathLike,
    threshold: float | None = 128,
    *,
    page: int | None = None,
    max_pixels: int = MAX_PIXELS,
    alpha: Alpha = "refuse",
    palette: Palette = "refuse",
) -> npt.NDArray[np.uint8]:
    """Read labels from a PNG, JPEG, BMP or TIFF file; nothing is interpolated.

    The rules of `read_image` hold, with these additions.

    Parameters
    ----------
    path : str or PathLike
        A regular file: grey, or colour with three equal channels.
    threshold : float or None
        Stored values from here up are foreground. None: the stored integers are the labels, unchanged; a
        JPEG, which cannot hold labels, is then refused.
    page : int, optional
        Which page of a TIFF to read, from 0; needed where there are several.
    max_pixels : int
        The most height times width that the file may declare, in px.
    alpha : {'refuse', 'drop'}
        What becomes of an alpha channel that is not opaque throughout.
    palette : {'refuse', 'index', 'colour'}
        What a pixel of a palette image counts as: its index or its colour. Refused unless stated, where the
        two differ. BMP stores grey by a palette of grey colours, which are cut as grey.

    Returns
    -------
    ndarray
        (H, W) uint8: 0 and 1, or, without a threshold, labels from 0 to 255.

    Raises
    ------
    FileError
        If the file cannot be read, is not grey, or its values could mean two things: all values other than 0
        lie below the threshold (a mask stored as 0 and 1, cut at 128, would be empty), or a mask of 16 bits
        is cut at a threshold for 8.
    SettingError
        If an option has a value that it cannot have.
    """
    one_of("alpha", alpha, ("refuse", "drop"))
    one_of("palette", palette, ("refuse", "index", "colour"))
    _check_threshold(threshold)
    request = Request(page, max_pixels, alpha, palette, "labels" if threshold is None else "mask")
    values = _one_plane(named(path), read_pixels(path, request))
    return _as_labels(named(path), values) if threshold is None else _cut(named(path), values, threshold)


def _check_threshold(threshold: object) -> None:
    if threshold is None:
        return
    if not _is_number(threshold) or not 0 < threshold < math.inf:
        fix = "Pass 128 for 8-bit masks, 1 for all that is not 0, or None for labels."
        raise invalid(SettingError, "threshold", must="be a number above 0, or None", got=threshold, fix=fix)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _one_plane(name: str, values: AnyArray) -> AnyArray:
    if values.ndim == 2:
        return values
    if not ((values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all()):
        fix = "Convert it to one grey channel that holds the labels."
        raise invalid(FileError, name, must="be grey to be a mask", got="three channels that differ", fix=fix)
    return values[..., 0]


def _as_labels(name: str, values: AnyArray) -> npt.NDArray[np.uint8]:
    if values.dtype.kind == "f":
        fix = "Convert the labels to integers, or pass a threshold."
        raise invalid(FileError, name, must="hold integers to be labels", got=str(values.dtype), fix=fix)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > _LARGEST:
        got, fix = f"labels from {lowest} to {highest}", "Renumber them, or pass a threshold."
        raise invalid(FileError, name, must=f"hold labels from 0 to {_LARGEST}", got=got, fix=fix)
    return np.ascontiguousarray(values, np.uint8)


def _cut(name: str, values: AnyArray, threshold: float) -> npt.NDArray[np.uint8]:
    highest = values.max()
    if np.isnan(highest):
        raise invalid(FileError, name, must="be finite to be cut", got="NaN", fix="Export the mask again.")
    if 0 < highest < threshold:
        fix = (
            "If these are 0 and 1, or all that is not 0 is foreground, pass threshold=1; if they are labels, "
            "pass threshold=None; if they are grey values, pass a lower threshold."
        )
        must = f"have values that reach threshold={threshold}, or only 0"
        raise invalid(FileError, name, must=must, got=f"a largest value of {highest}", fix=fix)
    if values.dtype == np.uint16 and highest > _LARGEST and 1 < threshold <= _LARGEST:
        _check_scale(name, values, threshold)
    return (values >= threshold).astype(np.uint8)


def _check_scale(name: str, values: AnyArray, threshold: float) -> None:
    """Refuse a threshold made for 8 bits on grey of 16, unless there are but two values."""
    highest = values.max()
    if ((values != 0) & (values != highest)).any():
        fix = "Pass threshold=32768 for the middle of 16 bits, 1 for all that is not 0, or None for labels."
        must = f"have 8-bit values to be cut at threshold={threshold}"
        raise invalid(FileError, name, must=must, got=f"16-bit values up to {highest}", fix=fix)
