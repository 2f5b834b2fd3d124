"""write_image, write_mask, write_probs: arrays to files, without loss."""

from __future__ import annotations

import io
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tiledseg._lazy import cv2, lazy
from tiledseg._storage import write_bytes
from tiledseg._validate import array_of, check_shape, invalid, named, one_of, path_text, whole_number
from tiledseg.errors import ArrayError, FileError
from tiledseg.io.metadata import pixel_size_from
from tiledseg.io.png import density_chunk
from tiledseg.io.source import as_array

if TYPE_CHECKING:
    import numpy.typing as npt
    import tifffile

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.io.metadata import PixelSize, Placement
else:
    tifffile = lazy("tifffile")

_PNG, _TIFF = {".png"}, {".tif", ".tiff"}
_UM_PER_CM = 10_000
_AFTER_HEADER = 33  # of a PNG: the end of the first chunk
_LOSSY = {".jpg", ".jpeg"}
_LARGEST_PNG = 2**20  # OpenCV's


def write_image(
    path: PathLike,
    image: npt.ArrayLike,
    *,
    pixel_size: PixelSize | float | tuple[float, float] | None = None,
    placement: Placement | None = None,
) -> None:
    """Write an image as PNG or TIFF, by the suffix of the name; whole or not at all.

    Parameters
    ----------
    path : str or PathLike
        The target, ending in ``.png``, ``.tif`` or ``.tiff``. Missing folders are made.
    image : array_like
        (H, W) grey or (H, W, 3) RGB, uint8 or uint16; a TIFF holds any number of channels from 2, (H, W, C).
    pixel_size : PixelSize, float or tuple of float, optional
        Height and width of a px in µm; where it is known, other programs read it from the file.
    placement : Placement, optional
        Where the image is on earth; written to a TIFF, as GeoTIFF.

    Raises
    ------
    FileError
        If the suffix is another, or the target cannot be written; it is then unchanged.
    ArrayError
        If the array is of another shape or dtype.
    """
    pixels = array_of(as_array(image, "image"), "image")
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        fix = "Convert it to uint8 or uint16, or write it with `write_probs`."
        raise invalid(ArrayError, "image", must="be uint8 or uint16", got=str(pixels.dtype), fix=fix)
    if pixels.size == 0 or pixels.ndim not in {2, 3} or pixels.shape[2:] == (1,):
        fix = "Write one channel as (H, W), several with channels last."
        raise invalid(ArrayError, "image", must="have shape (H, W) or (H, W, C)", got=pixels.shape, fix=fix)
    if _suffix(path, _PNG | _TIFF) in _PNG and pixels.shape[2:] not in {(), (3,)}:
        fix = "Write it as TIFF, with a name that ends in .tif (image_format=tiff for tiles)."
        must = "have shape (H, W) or (H, W, 3) to be a PNG"
        raise invalid(ArrayError, "image", must=must, got=pixels.shape, fix=fix)
    _write(path, pixels, pixel_size_from(pixel_size), placement)


def write_mask(
    path: PathLike,
    labels: npt.ArrayLike,
    *,
    foreground: int | None = 255,
    pixel_size: PixelSize | float | tuple[float, float] | None = None,
    placement: Placement | None = None,
) -> None:
    """Write labels as PNG or TIFF, by the suffix of the name; whole or not at all.

    Parameters
    ----------
    path : str or PathLike
        The target, ending in ``.png``, ``.tif`` or ``.tiff``; never JPEG, which changes values.
    labels : array_like
        (H, W) bool or integers from 0 to 65535; 16 bits are stored where one is above 255.
    foreground : int or None
        For masks of 0 and 1: the value from 1 to 255 that is stored for 1. With 255, other programs show the
        mask, and ``read_mask(path)`` reads it. None: the labels are stored unchanged;
        ``read_mask(path, threshold=None)`` reads them.
    pixel_size : PixelSize, float or tuple of float, optional
        Height and width of a px in µm; where it is known, other programs read it from the file.
    placement : Placement, optional
        Where the image is on earth; written to a TIFF, as GeoTIFF.

    Raises
    ------
    FileError
        If the suffix is another, or the target cannot be written; it is then unchanged.
    ArrayError
        If the labels have another shape, dtype or range.
    SettingError
        If `foreground` is out of range.
    """
    values = array_of(as_array(labels, "labels"), "labels")
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "bui":
        got = f"{values.dtype} of shape {values.shape}"
        fix = "Convert the labels to integers first."
        raise invalid(ArrayError, "labels", must="be bool or integers of shape (H, W)", got=got, fix=fix)
    if foreground is not None:
        whole_number("foreground", foreground, 1, 255, "Pass 255, or None to store labels unchanged.")
    most = 65535 if foreground is None else 1
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > most:
        fix = "Pass foreground=None to store labels as they are." if foreground else "Renumber the labels."
        must = f"be from 0 to {most} with foreground={foreground}"
        raise invalid(ArrayError, "labels", must=must, got=f"{lowest} to {highest}", fix=fix)
    stored: AnyArray = values.astype(np.uint8 if highest <= 255 else np.uint16)
    _write(
        path,
        stored if foreground is None else np.uint8(foreground) * stored,
        pixel_size_from(pixel_size),
        placement,
    )


def write_probs(
    path: PathLike,
    probs: npt.ArrayLike,
    dtype: Literal["float16", "float32"] = "float16",
    *,
    pixel_size: PixelSize | float | tuple[float, float] | None = None,
    placement: Placement | None = None,
) -> None:
    """Write probabilities as a TIFF, compressed without loss; whole or not at all.

    Parameters
    ----------
    path : str or PathLike
        The target, ending in ``.tif`` or ``.tiff``.
    probs : array_like
        (H, W) or (H, W, K) floats, finite.
    dtype : {'float16', 'float32'}
        The stored dtype; float16 rounds probabilities by 0.00025 at most.
    pixel_size : PixelSize, float or tuple of float, optional
        Height and width of a px in µm; where it is known, other programs read it from the file.
    placement : Placement, optional
        Where the image is on earth; written to a TIFF, as GeoTIFF.

    Raises
    ------
    FileError
        If the suffix is another, or the target cannot be written; it is then unchanged.
    ArrayError
        If the array has another shape or dtype, or holds NaN, infinities, or values too large for `dtype`.

    See Also
    --------
    read_probs : Read them back as (H, W, K) float32.
    """
    one_of("dtype", dtype, ("float16", "float32"))
    values = array_of(as_array(probs, "probs"), "probs")
    if values.dtype.kind != "f" or values.ndim not in {2, 3} or values.size == 0:
        got = f"{values.dtype} of shape {values.shape}"
        must = "be floats of shape (H, W) or (H, W, K)"
        raise invalid(ArrayError, "probs", must=must, got=got, fix="Write labels with `write_mask`.")
    check_shape(values.shape, name="probs")
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    bad = ~np.isfinite(stored)
    if bad.any():
        first = tuple(int(index) for index in np.argwhere(bad)[0])
        got = f"{int(bad.sum())} values that are not, the first {values[first]} at {first}"
        fix = "Check the network's weights and inputs for NaN, or pass dtype='float32' for large values."
        raise invalid(ArrayError, "probs", must=f"be finite as {dtype}", got=got, fix=fix)
    _suffix(path, _TIFF)
    stored = stored[..., 0] if stored.shape[2:] == (1,) else stored
    write_bytes(path, _tiff(stored, pixel_size_from(pixel_size), placement))


def _suffix(path: PathLike, known: set[str]) -> str:
    suffix = PurePath(path_text(path)).suffix.lower()
    if suffix not in known:
        got = "JPEG, which changes values" if suffix in _LOSSY else f"the suffix {suffix!r}"
        fix = f"Use the suffix {' or '.join(sorted(known))}."
        raise invalid(FileError, named(path), must="have the suffix of a lossless format", got=got, fix=fix)
    return suffix


def _write(path: PathLike, pixels: npt.NDArray[Any], size: PixelSize | None, place: Placement | None) -> None:
    suffix = _suffix(path, _PNG | _TIFF)
    native = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    write_bytes(path, _png(path, native, size) if suffix in _PNG else _tiff(native, size, place, predictor=2))


def _png(path: PathLike, pixels: npt.NDArray[Any], size: PixelSize | None) -> bytes:
    if max(pixels.shape) > _LARGEST_PNG:
        must = f"have at most {_LARGEST_PNG} px along each axis as PNG"
        raise invalid(FileError, named(path), must=must, got=pixels.shape, fix="Write it as TIFF.")
    try:
        return _encoded_png(pixels, size)
    except ValueError as error:
        got, fix = str(error), "Write it as TIFF."
        raise invalid(FileError, named(path), must="be encoded as PNG", got=got, fix=fix) from None


def _tiff(
    pixels: npt.NDArray[Any],
    size: PixelSize | None,
    place: Placement | None,
    *,
    predictor: int | None = None,
) -> memoryview:
    """Encode in memory, so that tifffile never writes to the disk itself."""
    buffer = io.BytesIO()
    geo = [
        (code, kind, 0 if isinstance(value, str) else len(value), value, True)
        for code, kind, value in (place.geo if place else ())
    ]
    tifffile.imwrite(
        buffer,
        pixels,
        photometric="rgb" if pixels.shape[2:] == (3,) and pixels.dtype.kind == "u" else "minisblack",
        planarconfig=None if pixels.ndim == 2 else "contig",
        compression="zlib",
        predictor=predictor,
        software="tiledseg",
        metadata=None,
        extratags=geo,
        resolution=None if size is None else (_UM_PER_CM / size.x, _UM_PER_CM / size.y),
        resolutionunit=None if size is None else "CENTIMETER",
    )
    return buffer.getbuffer()


def _encoded_png(pixels: AnyArray, size: PixelSize | None = None) -> bytes:
    """Encode grey or RGB, with the size of a px; raise a ValueError where OpenCV fails."""
    ordered = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    try:
        done, data = cv2.imencode(".png", ordered)
    except cv2.error as error:
        raise ValueError(error.err) from error
    if not done or not data.size:
        raise ValueError("nothing from OpenCV")
    encoded = data.tobytes()
    return encoded[:_AFTER_HEADER] + density_chunk(size) + encoded[_AFTER_HEADER:]
