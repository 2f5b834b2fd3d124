"""read_image, read_mask and read_probs: whole files to arrays."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np

from tiledseg._validate import ELSEWHERE, invalid, named, one_of, path_text, whole_number
from tiledseg.errors import FileError, SettingError
from tiledseg.io.file import (
    MAX_PIXELS,
    LossyError,
    PaletteError,
    Request,
    advised,
    check_max_pixels,
    check_page,
    opened,
    sniff,
    within_memory,
)
from tiledseg.io.masks import OF_READ_MASK, MaskRules, mask_of
from tiledseg.io.ome_files import ome_files
from tiledseg.io.open import MAX_REGION_PIXELS, is_npy, open_image, part_of, selection_of
from tiledseg.io.png import pixel_size_of_png
from tiledseg.io.raster import raster_shape, read_raster
from tiledseg.io.slides import is_slide
from tiledseg.io.tiff import read_tiff, tiff_header
from tiledseg.io.zarr import is_zarr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.io.file import Alpha, Palette
    from tiledseg.io.masks import Threshold
    from tiledseg.io.metadata import PixelSize
    from tiledseg.io.source import ImageSource

_log = logging.getLogger("tiledseg")
_LARGEST = 255


def read_image(  # noqa: PLR0913  what a file can hold several of
    path: PathLike,
    *,
    level: int = 0,
    channels: int | Sequence[int] | None = None,
    at: Mapping[str, int] | None = None,
    page: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    alpha: Alpha = "refuse",
) -> npt.NDArray[np.generic]:
    """Read an image from a PNG, JPEG, BMP, WebP, TIFF or ``.npy`` file, a slide or a zarr.

    The format is recognised by the first bytes of the file, not by its suffix. The declared size is checked
    before memory is allocated for it. The orientation in Exif or in a TIFF tag is applied. A palette is
    expanded to its colours, or to grey where all of them are grey; samples of less than 8 bits are scaled to
    0 to 255, those of 9 to 31 bits are as stored. CMYK becomes RGB without a colour profile: each of R, G and
    B is what its ink and black leave of white, ``(1 - ink) * (1 - black)``. Colour profiles are not applied.
    Tiles of a TIFF that were left out are 0. A JPEG has no checksums: damage that its decoder notices is
    refused, but damage that leaves valid codes is not noticed. The channels of a TIFF may be separate
    planes, or pages where the metadata of OME, ImageJ or tifffile says so.

    Parameters
    ----------
    path : str or PathLike
        A regular file, a zarr folder, or an address such as ``https://host/image.png``.
    level : int
        Which level of a pyramid: 0 for the image, 1 and up for its smaller copies.
    channels : int or sequence of int, optional
        The channels to read, from 0, in the order given; all where it is None. ``(0, 0, 0)`` makes a grey
        image RGB.
    at : mapping, optional
        Position along ``z`` and ``t``, for example ``{"z": 3}``; needed where a file has several.
    page : int or str, optional
        Which page of a TIFF to read, from 0; needed where there are several. Or an image beside the scan of
        a slide, for example ``"label"`` or ``"macro"``; or ``"image 2"``, the third image of the metadata
        with all its channels. Smaller copies of another page (pyramids) do not count as images, but they
        are numbered too.
    max_pixels : int
        Limit on the height times width that the file declares, in px. Above 2**30, OpenCV's own limit, only
        TIFF and PNG that is not interlaced can be read.
    alpha : {'refuse', 'drop', 'keep'}
        An alpha channel that is opaque everywhere is ignored, and another one is an error. ``"drop"`` ignores
        both, ``"keep"`` returns both as the last channel.

    Returns
    -------
    ndarray
        (H, W) grey, (H, W, 3) RGB, or (H, W, C) where a TIFF holds further channels; in the stored dtype,
        but float16 becomes float32.

    Raises
    ------
    FileError
        If the file cannot be read, is damaged, is larger than the limit, or is ambiguous: several pages,
        transparency, a part of a larger OME-TIFF.
    SettingError
        If an option has an invalid value.

    See Also
    --------
    read_mask : Read labels.
    image_shape : Read only the shape.
    """
    one_of("alpha", alpha, ("refuse", "drop", "keep"))
    request = Request(page, max_pixels, alpha)
    return positions_read(path, request, level=level, channels=channels, at=at)


def read_mask(  # noqa: PLR0913  what a file can hold several of
    path: PathLike,
    threshold: Threshold = "auto",
    *,
    ignore_label: int | None = None,
    level: int = 0,
    channels: int | Sequence[int] | None = None,
    at: Mapping[str, int] | None = None,
    page: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    alpha: Alpha = "refuse",
    palette: Palette = "refuse",
) -> AnyArray:
    """Read labels from any file that `read_image` reads; nothing is interpolated.

    The rules of `read_image` apply, and these. By default the values decide: 0 and one of 1, 255 or 65535
    are background and foreground; more than 20 values that can only be numbers of cells are foreground,
    each of them; values of a lossy file that are nearly black and white are cut in the middle. What else
    the values are is an error that names `threshold`.

    Parameters
    ----------
    path : str or PathLike
        A regular file: grey, or colour with three equal channels.
    threshold : float, "auto" or None
        Stored values at or above it are foreground. None: the stored integers are labels of classes or
        numbers of cells; a JPEG, which changes values, is then refused.
    ignore_label : int, optional
        Value of px that do not count; they are read as 255.
    level : int
        As for `read_image`.
    channels : int or sequence of int, optional
        As for `read_image`.
    at : mapping, optional
        As for `read_image`.
    page : int or str, optional
        As for `read_image`.
    max_pixels : int
        As for `read_image`.
    alpha : {'refuse', 'drop'}
        An alpha channel that is not opaque everywhere is an error, or is ignored.
    palette : {'refuse', 'index', 'colour'}
        The value of a pixel of a palette image: its index or its colour; of a TIFF in which 0 is white: what
        is stored or what is shown. By default, both are refused, if index and colour differ; but px of 0 and
        1 that are shown black and white mean the same where the values decide. A BMP with a palette of grey
        colours counts as grey, and booleans that tifffile wrote are read as stored.

    Returns
    -------
    ndarray
        (H, W) uint8: 0 and 1, or, with ``threshold=None``, the stored values, in a larger integer dtype
        where one is above 255.

    Raises
    ------
    FileError
        If the file cannot be read or is not grey, or its values do not suit the threshold: all values other
        than 0 are below it (a mask of 0 and 1 with a threshold of 128 would be empty), or the values have 16
        bits and the threshold is for 8 bits, or they could mean several things.
    SettingError
        If an option has an invalid value.

    Examples
    --------
    >>> from tiledseg.io import write_mask
    >>> path = getfixture("tmp_path") / "mask.png"
    >>> write_mask(path, np.array([[0, 1], [1, 0]], np.uint8), foreground=255)
    >>> read_mask(path).tolist()
    [[0, 1], [1, 0]]
    """
    _check_threshold(threshold)
    rules = MaskRules(threshold, ignore_label=ignore_label, advice=OF_READ_MASK)
    where: dict[str, Any] = {"level": level, "channels": channels, "at": at}
    options: dict[str, Any] = {"page": page, "max_pixels": max_pixels, "alpha": alpha, "palette": palette}
    values, lossy = mask_values(path, threshold, ignore_label=ignore_label, **options, **where)
    if threshold is None and ignore_label is None and np.max(values, initial=0) > _LARGEST:
        rules = replace(rules, parts="instances")
        cells, highest = mask_of(values, named(path), rules).cells, int(np.max(values))
        dtype = next(one for one in (np.uint16, np.int32, np.int64) if highest <= np.iinfo(one).max)
        return np.asarray(cells, dtype)
    mask = mask_of(values, named(path), rules, lossy=lossy)
    _log.debug("%s: %s", named(path), mask.found)
    return mask.labels


def mask_values(  # noqa: PLR0913  what a file can hold several of
    path: PathLike,
    threshold: Threshold,
    *,
    ignore_label: int | None = None,
    page: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    alpha: Alpha = "refuse",
    palette: Palette = "refuse",
    **where: Any,  # level, channels, at
) -> tuple[AnyArray, bool]:
    """Read the values that a mask's file stores, and say whether a lossy codec changed them."""
    one_of("alpha", alpha, ("refuse", "drop"))
    one_of("palette", palette, ("refuse", "index", "colour"))
    purpose: Literal["mask", "labels", "values"] = "mask"
    if threshold is None or isinstance(threshold, str):
        purpose = "labels" if threshold is None else "values"
    request, lossy = Request(page, max_pixels, alpha, palette, purpose), False
    try:
        values = positions_read(path, request, **where)
    except LossyError:
        if purpose == "labels":
            raise
        values, lossy = positions_read(path, replace(request, purpose="mask"), **where), True
    except PaletteError:
        if purpose != "values" or ignore_label is not None:
            raise
        values = positions_read(path, replace(request, palette="index"), **where)
        if not _is_shown_so(values, path, request, where):
            raise
    if alpha == "drop" and where.get("channels") is None and values.min() == values.max():
        _check_alpha(path, replace(request, alpha="keep", purpose="image"), where)
    return values, lossy


def open_labels(
    path: PathLike,
    *,
    page: int | str | None = None,
    alpha: Alpha = "refuse",
    palette: Palette = "refuse",
    **where: Any,
) -> ImageSource:
    """Open the file of a mask of which the labels are read by region, as they are stored."""
    one_of("alpha", alpha, ("refuse", "drop"))
    selection = selection_of(
        where.get("level", 0), where.get("channels"), where.get("at"), whole_pixels=MAX_PIXELS
    )
    return part_of(path, Request(page, MAX_REGION_PIXELS, alpha, palette, "labels"), selection)


def _is_shown_so(indices: AnyArray, path: PathLike, request: Request, where: Mapping[str, Any]) -> bool:
    """Say whether the px of a mask are stored as 0 and 1, and shown black and white: both mean the same."""
    if int(indices.max()) > 1:
        return False
    shown = positions_read(path, replace(request, palette="colour"), **where)
    planes = indices.reshape(*indices.shape[:2], -1), shown.reshape(*shown.shape[:2], -1)
    return bool((planes[1] == 255 * planes[0]).all())


def _check_alpha(path: PathLike, request: Request, where: Mapping[str, Any]) -> None:
    """Refuse to drop the alpha channel of a mask that is of one colour: it holds the mask."""
    try:
        values = positions_read(path, request, **where)
    except FileError:  # a transparent colour, for example, which is no channel
        return
    if values.ndim > 2 and (values[..., -1] != values[0, 0, -1]).any():
        must, got = "hold its mask in colours", "one colour, and an alpha channel that differs"
        fix = "Save its alpha channel as a grey image."
        raise invalid(FileError, named(path), must=must, got=got, fix=fix)


def read_probs(path: PathLike, *, max_pixels: int = MAX_PIXELS) -> FloatArray:
    """Read a map of probabilities that `write_probs` wrote.

    Parameters
    ----------
    path : str or PathLike
        A TIFF of one page.
    max_pixels : int
        Limit on the height times width that the file declares, in px.

    Returns
    -------
    ndarray
        (H, W, K) float32.

    Raises
    ------
    FileError
        If the file cannot be read, or holds integers.
    """
    with advised(f"Read it with tiledseg.read_image, {ELSEWHERE}."):
        probs = positions_read(path, Request(None, max_pixels, purpose="probs"))
        if probs.dtype.kind != "f":
            fix = "Read it with read_image."
            raise invalid(FileError, named(path), must="hold real numbers", got=str(probs.dtype), fix=fix)
    return np.ascontiguousarray(probs, np.float32).reshape(*probs.shape[:2], -1)


def image_shape(
    path: PathLike, *, page: int | str | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[int, ...]:
    """Read the shape of an image without decoding its pixels."""
    check_max_pixels(max_pixels)
    check_page(page)
    request = Request(page, max_pixels, "drop")
    if _is_by_region(path, page):
        with open_image(path, page=page, max_pixels=max_pixels) as image:
            return image.shape
    with opened(path) as file:
        kind = sniff(file)
        if kind == "tiff":
            return tiff_header(file, request)[0]
        return raster_shape(file, kind, max_pixels)


def read_pixel_size(path: PathLike, *, page: int | str | None = None) -> PixelSize | None:
    """Read the px size that a file states, without decoding its pixels; None where it states none."""
    if not _is_by_region(path, page):
        with opened(path) as file:
            kind = sniff(file)
            if kind != "tiff":
                return pixel_size_of_png(file) if kind == "png" else None  # others state that of a print
    with open_image(path, page=page, alpha="drop") as image:
        return image.pixel_size


def positions_read(
    path: PathLike,
    request: Request,
    *,
    level: int = 0,
    channels: int | Sequence[int] | None = None,
    at: Mapping[str, int] | None = None,
) -> AnyArray:
    """Read the px of a level, channels and a plane."""
    is_part = whole_number("level", level, least=0) > 0 or channels is not None or at is not None
    check_max_pixels(request.max_pixels)
    check_page(request.page)
    if not is_part and not _is_by_region(path, request.page):
        with opened(path) as file:
            kind = sniff(file)
            return read_tiff(file, request) if kind == "tiff" else read_raster(file, kind, request)
    selection = selection_of(level, channels, at, request.max_pixels)
    with within_memory(named(path)), part_of(path, request, selection) as image:
        return np.asarray(image)


def _is_by_region(path: PathLike, page: int | str | None) -> bool:
    """Say whether a path is an array, a slide or an image of several files, which are read by region."""
    text = path_text(path)
    if is_zarr(text):
        return True
    with opened(path) as file:
        several = page is None and ome_files(file, text) is not None
        return several or is_slide(file, text) or is_npy(file)


def _check_threshold(threshold: object) -> None:
    if threshold is None or (isinstance(threshold, str) and threshold == "auto"):
        return
    if not _is_number(threshold) or not 0 < threshold < math.inf:
        fix = 'Pass 128 for 8-bit masks, 1 for every value other than 0, None for labels, or "auto".'
        must = 'be a number above 0, None or "auto"'
        raise invalid(SettingError, "threshold", must=must, got=threshold, fix=fix)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
