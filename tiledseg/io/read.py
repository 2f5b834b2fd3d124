"""Files to arrays: images, masks, probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from tiledseg._validate import invalid, named, one_of
from tiledseg.errors import FileError, SettingError
from tiledseg.io.file import MAX_PIXELS, Request, check_max_pixels, check_page, opened, sniff
from tiledseg.io.raster import raster_shape, read_raster
from tiledseg.io.tiff import read_tiff, tiff_shape

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.io.file import Alpha, Palette

_LARGEST = 255


def read_image(
    path: PathLike,
    *,
    page: int | None = None,
    max_pixels: int = MAX_PIXELS,
    alpha: Alpha = "refuse",
) -> npt.NDArray[np.uint8 | np.uint16 | np.float32]:
    """Read an image from a PNG, JPEG, BMP or TIFF file.

    The first bytes of the file decide what it is, not the suffix of its name. The declared size is checked
    before memory is taken for it. The orientation that Exif or a TIFF tag declares is applied, to images and
    masks alike. A palette is expanded to its colours; samples of less than 8 bits are spread over 0 to 255.
    Colour profiles are not applied. A JPEG has no checksums: what its decoder notices is refused, but damage
    that happens to leave valid codes is not noticed. A TIFF's channels may lie in separate planes, or,
    where OME, ImageJ or tifffile metadata says so, on three pages.

    Parameters
    ----------
    path : str or PathLike
        A regular file.
    page : int, optional
        Which page of a TIFF to read, from 0; needed where there are several. Smaller copies of another page
        (pyramids) are not counted as images, but they keep their numbers.
    max_pixels : int
        The most height times width that the file may declare, in px. Above 2**30, OpenCV's own limit, only
        TIFF.
    alpha : {'refuse', 'drop'}
        An alpha channel that is opaque throughout is always left out. One that is not is an error, or, with
        ``"drop"``, left out as well.

    Returns
    -------
    ndarray
        (H, W) grey or (H, W, 3) RGB; uint8 or uint16 as stored, float32 for TIFFs of 16 or 32 bit floats.

    Raises
    ------
    FileError
        If the file cannot be read, is cut off or damaged, is larger than the limit, or could mean two things:
        several pages, transparency, CMYK, a part of a larger OME-TIFF.
    SettingError
        If an option has a value that it cannot have.

    See Also
    --------
    read_mask : Read labels.
    image_shape : Read the shape alone.
    """
    one_of("alpha", alpha, ("refuse", "drop"))
    return _pixels(path, Request(page, max_pixels, alpha))


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
    values = _one_plane(named(path), _pixels(path, request))
    return _as_labels(named(path), values) if threshold is None else _cut(named(path), values, threshold)


def read_probs(path: PathLike, *, max_pixels: int = MAX_PIXELS) -> FloatArray:
    """Read a map of probabilities that `write_probs` wrote.

    Parameters
    ----------
    path : str or PathLike
        A TIFF of one page.
    max_pixels : int
        The most height times width that the file may declare, in px.

    Returns
    -------
    ndarray
        (H, W, K) float32.

    Raises
    ------
    FileError
        If the file cannot be read, or holds integers.
    """
    probs = _pixels(path, Request(None, max_pixels, purpose="probs"))
    return probs.reshape(*probs.shape[:2], -1)


def image_shape(path: PathLike, *, page: int | None = None, max_pixels: int = MAX_PIXELS) -> tuple[int, ...]:
    """Read the shape of an image without decoding its pixels."""
    check_max_pixels(max_pixels)
    check_page(page)
    request = Request(page, max_pixels, "drop")
    with opened(path) as file:
        kind = sniff(file)
        if kind == "tiff":
            return tiff_shape(file, request)
        return raster_shape(file, kind, max_pixels)


def _pixels(path: PathLike, request: Request) -> AnyArray:
    """Read a file as the request says."""
    check_max_pixels(request.max_pixels)
    check_page(request.page)
    with opened(path) as file:
        kind = sniff(file)
        return read_tiff(file, request) if kind == "tiff" else read_raster(file, kind, request)


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
