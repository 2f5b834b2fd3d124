"""write_image, write_mask, write_probs: arrays to files, without loss.

And the rows of a map to a PNG, one by one; and the scale that the file of a map states.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from PIL import Image

from tiledseg._arrays import array_of, check_shape
from tiledseg._lazy import cv2, lazy
from tiledseg._storage import atomic_write, is_file, json_of, write_bytes
from tiledseg._validate import invalid, named, one_of, path_text, whole_number
from tiledseg.errors import ArrayError, FileError
from tiledseg.io.metadata import pixel_size_from
from tiledseg.io.png import MAGIC, METRE, UM_PER_M, UP, framed
from tiledseg.io.source import as_array

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

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
_PNG_LEVEL, _VALUES = 3, 1 << 22  # of its compression; that are encoded at once


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
    encoded = _png(path, native, size, place) if suffix in _PNG else _tiff(native, size, place, predictor=2)
    write_bytes(path, encoded)


def _png(path: PathLike, pixels: npt.NDArray[Any], size: PixelSize | None, place: Placement | None) -> bytes:
    if max(pixels.shape) > _LARGEST_PNG:
        must = f"have at most {_LARGEST_PNG} px along each axis as PNG"
        raise invalid(FileError, named(path), must=must, got=pixels.shape, fix="Write it as TIFF.")
    try:
        return _encoded_png(pixels, size, level_notes(place))
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
    notes = "".join(f'<M K="{name}">{text}</M>' for name, text in level_notes(place).items())
    tifffile.imwrite(
        buffer,
        pixels,
        description=notes or None,
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


def _encoded_png(
    pixels: AnyArray, size: PixelSize | None = None, notes: Mapping[str, str] | None = None
) -> bytes:
    """Encode grey or RGB, with the size of a px and texts; raise a ValueError where OpenCV fails."""
    ordered = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    try:
        done, data = cv2.imencode(".png", ordered)
    except cv2.error as error:
        raise ValueError(error.err) from error
    if not done or not data.size:
        raise ValueError("nothing from OpenCV")
    encoded = data.tobytes()
    texts = b"".join(
        framed(b"tEXt", f"{name}\0{text}".encode("latin-1")) for name, text in (notes or {}).items()
    )
    return encoded[:_AFTER_HEADER] + _density_chunk(size) + texts + encoded[_AFTER_HEADER:]


def _density_chunk(size: PixelSize | None) -> bytes:
    """Make the chunk that states the size of a px; nothing where it is not known, or cannot be stated."""
    across, down = (round(UM_PER_M / one) for one in (size.x, size.y)) if size else (0, 0)
    if not (0 < across < 2**31 and 0 < down < 2**31):
        return b""
    return framed(b"pHYs", struct.pack(">IIB", across, down, METRE))


class PngRows:
    """Takes the rows of a map of uint8 or uint16 in order, and encodes them at once."""

    def __init__(
        self,
        path: PathLike,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        pixel_size: PixelSize | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = dtype
        self._path, self._density, self._notes = path, _density_chunk(pixel_size), dict(notes or {})
        self._above: npt.NDArray[np.uint8] = np.zeros(shape[1] * dtype.itemsize, np.uint8)
        self._done = 0
        self._packer = zlib.compressobj(_PNG_LEVEL, strategy=zlib.Z_RLE)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._file = stack.enter_context(atomic_write(self._path))
            height, width = self.shape
            self._file.write(MAGIC)
            self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * self.dtype.itemsize, 0, 0, 0, 0))
            self._file.write(self._density)
            for name, text in self._notes.items():
                self._chunk(b"tEXt", f"{name}\0{text}".encode("latin-1", "replace"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            stack.push(self._stack)
            if kind is not None:
                stack.pop_all().__exit__(kind, error, trace)
                return
            if self._done != self.shape[0]:
                got, fix = f"{self._done} of {self.shape[0]} rows", "Assign every row before the block ends."
                raise invalid(FileError, named(self._path), must="be written whole", got=got, fix=fix)
            self._chunk(b"IDAT", self._packer.flush())
            self._chunk(b"IEND", b"")

    def __setitem__(self, rows: slice, pixels: AnyArray) -> None:
        start, stop, _ = rows.indices(self.shape[0])
        if start != self._done or pixels.shape != (stop - start, self.shape[1]):
            must, got = f"be rows from {self._done}", f"rows {start} to {stop} of shape {pixels.shape}"
            raise invalid(FileError, named(self._path), must=must, got=got, fix="Write the rows in order.")
        at_once = max(1, _VALUES // self.shape[1])
        for first in range(0, stop - start, at_once):
            self._encode(pixels[first : first + at_once])
        self._done = stop

    def _encode(self, pixels: AnyArray) -> None:
        wide = np.ascontiguousarray(pixels, self.dtype.newbyteorder(">")).view(np.uint8)
        lines = np.empty((len(wide), 1 + wide.shape[1]), np.uint8)
        lines[:, 0] = UP
        lines[0, 1:] = wide[0] - self._above
        np.subtract(wide[1:], wide[:-1], out=lines[1:, 1:])
        self._above = wide[-1].copy()
        self._chunk(b"IDAT", self._packer.compress(lines.data))

    def _chunk(self, name: bytes, data: bytes) -> None:
        if name == b"IDAT" and not data:
            return
        self._file.write(framed(name, data))


LEVEL_SCALE = "level_scale"
"""Name of the note that says how many px of level 0 a px of a map has, along y and x."""


def level_notes(image: object) -> dict[str, str]:
    """Note how many px of level 0 a px has, of an open image or a placement; nothing where it is level 0."""
    scale = getattr(image, "level_scale", None) if getattr(image, "level", 1) else None
    return {} if scale is None else {LEVEL_SCALE: " ".join(f"{one:g}" for one in scale)}


def level_scale_of(path: PathLike) -> tuple[float, float]:
    """Read how many px of level 0 a px of a map of ours has; (1, 1) where the file says nothing."""
    place, text = Path(path_text(path)), ""
    with suppress(OSError, ValueError, SyntaxError, TypeError, LookupError, AttributeError):
        if place.suffix.lower() == ".png":
            with Image.open(place) as image:
                text = str(image.info.get(LEVEL_SCALE, ""))
        elif is_file(place / "zarr.json"):
            group = json_of((place / "zarr.json").read_bytes(), nan=True)
            text = str(group["attributes"].get("tiledseg", {}).get(LEVEL_SCALE, ""))
        elif place.suffix.lower() in {".tif", ".tiff"}:
            with tifffile.TiffFile(place) as tiff:
                found = re.search(f'K="{LEVEL_SCALE}">([0-9. ]+)<', tiff.pages.first.description)
                text = found[1] if found else ""
    return _scales_in(text)


def _scales_in(text: str) -> tuple[float, float]:
    parts = text.split()
    with suppress(ValueError):
        y, x = map(float, parts)
        if 0 < y < math.inf and 0 < x < math.inf:
            return y, x
    return 1.0, 1.0
