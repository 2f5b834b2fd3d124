"""Images: files to arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiledseg._validate import one_of
from tiledseg.io._encoded import encoded_header, read_encoded
from tiledseg.io._file import MAX_PIXELS, check_max_pixels, opened
from tiledseg.io._header import Request, check_page, sniff
from tiledseg.io._orientation import is_turned
from tiledseg.io.tiff import read_tiff, tiff_shape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.io._header import Alpha

__all__ = ["image_shape", "read_image", "read_pixels", "read_probs"]


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
    Colour profiles are not applied. A TIFF's channels may lie in separate planes, or, where OME, ImageJ or
    tifffile metadata says so, on three pages.

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
    return read_pixels(path, Request(page, max_pixels, alpha))


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
    probs = read_pixels(path, Request(None, max_pixels, purpose="probs"))
    return probs.reshape(*probs.shape[:2], -1)


def read_pixels(path: PathLike, request: Request) -> AnyArray:
    """Read a file as the request says; the one way from a path to pixels."""
    check_max_pixels(request.max_pixels)
    check_page(request.page)
    with opened(path) as file:
        kind = sniff(file)
        return read_tiff(file, request) if kind == "tiff" else read_encoded(file, kind, request)


def image_shape(path: PathLike, *, page: int | None = None, max_pixels: int = MAX_PIXELS) -> tuple[int, ...]:
    """Read the shape of an image without decoding its pixels."""
    check_max_pixels(max_pixels)
    check_page(page)
    request = Request(page, max_pixels, "drop")
    with opened(path) as file:
        kind = sniff(file)
        if kind == "tiff":
            return tiff_shape(file, request)
        header = encoded_header(file, kind, max_pixels)
    size = (header.height, header.width)
    size = size[::-1] if is_turned(header.orientation) else size
    return size if header.channels == 1 else (*size, 3)
