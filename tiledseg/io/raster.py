"""PNG, JPEG, BMP and WebP to pixels: the declared size is checked before the bytes are decoded."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, JpegImagePlugin, WebPImagePlugin
from PIL.Image import DecompressionBombError

from tiledseg.io.file import (
    Header,
    check_opaque,
    is_grey,
    is_turned,
    rgb_of_cmyk,
    upright,
)
from tiledseg.io.jpeg import checked_jpeg
from tiledseg.io.metadata import exif_orientation
from tiledseg.io.png import decoded_png, png_bands, png_header

if TYPE_CHECKING:
    from PIL import ImageFile

    from tiledseg._types import AnyArray
    from tiledseg.io.file import Kind, Reader, Request

_PIXELS_PER_BYTE = 1024  # of a JPEG; one bit per block of 64 px would be 512
_Bmp = BmpImagePlugin.BmpImageFile
_BITFIELDS = {3, 6}  # without and with a mask of alpha
_HEADER, _WITH_ALPHA = 40, 56  # bytes of the header, which later versions extend by masks
_JPEG_LS = re.compile(rb"\xff\xd8(\xff\xe8.{,60})?\xff\xf7", re.DOTALL)  # ITU-T T.87, maybe with SPIFF
_LONGEST_HEAD = 80
_JPEG_COLOURS = {"L": "GRAY", "CMYK": "CMYK"}
_TIMES = {"png": 2, "jpeg": 1, "bmp": 4, "webp": 6}  # the bytes of the px that a decoder takes
_PILLOW_ERRORS = (SyntaxError, OSError, ValueError, OverflowError, EOFError, IndexError, struct.error)


def raster_shape(file: Reader, kind: Kind, max_pixels: int) -> tuple[int, ...]:
    """Read the shape of the image that a file declares."""
    header = _HEADERS[kind](file, max_pixels)
    size = (header.height, header.width)[:: -1 if is_turned(header.orientation) else 1]
    return size if header.channels == 1 else (*size, 3)


def raster_orientation(file: Reader, kind: Kind, max_pixels: int) -> int:
    """Read the orientation of Exif, 1 to 8."""
    return _HEADERS[kind](file, max_pixels).orientation


def read_raster(file: Reader, kind: Kind, request: Request) -> AnyArray:
    """Read a PNG, JPEG, BMP or WebP."""
    bands = png_bands(file, kind, request)
    if bands is not None:
        return bands.whole()
    file = file.whole(request.max_pixels)
    header = _HEADERS[kind](file, request.max_pixels)
    header.check(file, request)
    file.check_memory(header.height * header.width * header.channels * header.bits // 8 * _TIMES[kind])
    pixels = _DECODERS[kind](file, header, request)
    if pixels.shape[:2] != (header.height, header.width):
        raise file.damaged(f"{pixels.shape[:2]} px decoded of {(header.height, header.width)} declared")
    return upright(pixels, header.orientation)


# --- JPEG ----------------------------------------------------------------------------------------------


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG without the resolution of Exif: Pillow warns where Exif is damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


def _jpeg_header(file: Reader, max_pixels: int) -> Header:
    if _JPEG_LS.match(file.take(0, min(file.size, _LONGEST_HEAD))):
        raise file.bad("be a JPEG", "a JPEG-LS, another format", "Convert it, for example to PNG.")
    image = _probed(file, _JpegFile)
    width, height = image.size
    file.check_size(height, width, max_pixels)
    if height * width > file.size * _PIXELS_PER_BYTE:
        raise file.damaged(f"{file.size} bytes for {height}x{width} px")
    if image.mode not in {"L", "RGB", "CMYK"}:
        fix = "Convert it to RGB in the program that made it, and export it as PNG or TIFF."
        raise file.bad("be grey, RGB or CMYK", f"a JPEG of {len(image.getbands())} channels", fix)
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    channels = 1 if image.mode == "L" else 3
    return Header("jpeg", height, width, channels, orientation=exif_orientation(exif))


def _decoded_jpeg(file: Reader, header: Header, request: Request) -> AnyArray:  # noqa: ARG001
    image = _probed(file, _JpegFile)
    data = checked_jpeg(file, image.fp.tell(), (header.height, header.width))
    try:  # strict: otherwise libjpeg repairs damaged data and only warns
        colours = _JPEG_COLOURS.get(image.mode, "RGB")
        pixels: AnyArray = simplejpeg.decode_jpeg(data, colorspace=colours, strict=True)
    except ValueError as error:
        raise file.damaged(f"libjpeg's warning: {error}") from None
    if image.mode == "CMYK":  # stored inverted, as Adobe does and Pillow assumes
        return rgb_of_cmyk(255 - pixels, 8)
    return pixels[..., 0] if header.channels == 1 else pixels


# --- BMP -----------------------------------------------------------------------------------------------


def _bmp_header(file: Reader, max_pixels: int) -> Header:
    fields = _bit_fields(file)
    if fields is not None:
        file.check_size(fields.height, fields.width, max_pixels)
        _check_bmp(file, fields.offset, fields.end)
        alphas: Literal["plane", "none"] = "plane" if len(fields.masks) > 3 else "none"
        return Header("bmp", fields.height, fields.width, 3, alpha=alphas)
    image = _probed(file, _Bmp)
    width, height = image.size
    file.check_size(height, width, max_pixels)
    tile = image.tile[0]
    if tile.codec_name != "raw":
        raise file.bad("be uncompressed as a BMP", "a run-length code", "Export it as PNG.")
    end = tile.offset + height * tile.args[1]
    _check_bmp(file, tile.offset, end)
    palette = _palette_of(image)
    grey = is_grey(palette)
    alpha: Literal["plane", "none"] = "plane" if image.mode == "RGBA" else "none"
    return Header("bmp", height, width, 1 if grey else 3, alpha=alpha, palette=palette)


def _check_bmp(file: Reader, start: int, end: int) -> None:
    if start < 14 + int.from_bytes(file.take(14, 4), "little"):
        raise file.damaged(f"pixels at byte {start}, within the header")
    if end > file.size:
        raise file.damaged(f"{file.size} bytes where {end} are declared")
    file.check_alone(end, b"BM")


def _decoded_bmp(file: Reader, header: Header, request: Request) -> AnyArray:
    fields = _bit_fields(file)
    try:
        pixels: AnyArray = fields.pixels(file) if fields else np.array(_probed(file, _Bmp))
    except _PILLOW_ERRORS as error:
        raise file.damaged(f"Pillow's error {error}") from None
    pixels = _opaque(file, pixels, header, request)
    if header.palette is None:
        return pixels
    indices = pixels.astype(np.uint8)
    if header.wants_indices(request):
        return indices
    colours = np.zeros((256, 3), np.uint8)  # an index without a colour is black
    colours[: len(header.palette)] = header.palette
    return np.take(colours if header.channels == 3 else colours[:, 0], indices, axis=0)


@dataclass(frozen=True, slots=True)
class _BitFields:
    """A BMP whose colours are bits of a word, of which Pillow knows a few: where its pixels are."""

    height: int  # px
    width: int
    upwards: bool  # whether the last row comes first
    bits: int  # of a word
    offset: int  # of the pixels, in bytes
    masks: tuple[int, ...]  # the bits of red, green, blue and, where there is one, alpha

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, which end at a multiple of 4."""
        return (self.width * self.bits + 31) // 32 * 4

    @property
    def end(self) -> int:
        """Where the pixels end."""
        return self.offset + self.row_bytes * self.height

    def pixels(self, file: Reader) -> AnyArray:
        """Decode the words to (h, w, 3), or (h, w, 4) with alpha."""
        data = np.frombuffer(file.take(self.offset, self.row_bytes * self.height), f"<u{self.bits // 8}")
        words = data.reshape(self.height, -1)[:: -1 if self.upwards else 1, : self.width]
        return np.stack([_field(words, mask) for mask in self.masks], axis=-1)


def _field(words: AnyArray, mask: int) -> AnyArray:
    """Spread the bits of a mask over 0 to 255."""
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    values = ((words & words.dtype.type(mask)) >> words.dtype.type(shift)).astype(np.uint64)
    spread: AnyArray = (values * 255 + most // 2) // most
    return spread.astype(np.uint8)


def _bit_fields(file: Reader) -> _BitFields | None:
    """Read the header of a BMP with bit fields; None for any other."""
    start = file.take(10, min(file.size - 10, 60))
    if len(start) < _HEADER + 4:
        return None
    offset, size, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", start)
    if size < _HEADER or compression not in _BITFIELDS or bits not in {16, 32}:
        return None
    count = 4 if size >= _WITH_ALPHA or compression == max(_BITFIELDS) else 3
    masks = struct.unpack(f"<{count}I", file.take(14 + _HEADER, 4 * count))
    masks = masks if all(masks) else masks[:3]
    if not all(masks):  # Pillow knows what some writers mean
        return None
    overlap = sum(masks) != reduce(or_, masks)
    if overlap or not all(_is_run(mask, bits) for mask in masks):
        raise file.damaged(f"bit fields {[hex(mask) for mask in masks]} of {bits}-bit words")
    return _BitFields(abs(height), width, height > 0, bits, offset, masks)


def _is_run(mask: int, bits: int) -> bool:
    """Say whether the bits of a mask are neighbours within a word."""
    low = mask & -mask
    return mask.bit_length() <= bits and ((mask + low) & mask) == 0


def _palette_of(image: ImageFile.ImageFile) -> AnyArray | None:
    """Read the palette of a BMP; None where it has none."""
    if image.mode == "1":
        return np.array([[0] * 3, [255] * 3], np.uint8)
    if image.mode == "L":
        return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    if image.palette is None:
        return None
    data, order = bytes(image.palette.palette), image.palette.rawmode or "RGB"  # BGRX, for example
    entries = np.frombuffer(data[: len(data) // len(order) * len(order)], np.uint8)
    return entries.reshape(-1, len(order))[:, [order.index(colour) for colour in "RGB"]]


# --- WebP ----------------------------------------------------------------------------------------------


def _webp_header(file: Reader, max_pixels: int) -> Header:
    declared = int.from_bytes(file.take(4, 4), "little") + 8
    if declared > file.size:
        raise file.damaged(f"{file.size} bytes where {declared} are declared")
    file.check_alone(declared, b"RIFF")
    height, width = _webp_size(file.take(12, 18))
    file.check_size(height, width, max_pixels)  # before Pillow takes memory for all of them
    image = _probed(file, WebPImagePlugin.WebPImageFile)
    if getattr(image, "n_frames", 1) > 1:
        raise file.bad("hold one image", f"a film of {image.n_frames} frames", "Export one frame as PNG.")
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    alpha: Literal["plane", "none"] = "plane" if image.mode == "RGBA" else "none"
    return Header("webp", height, width, 3, orientation=exif_orientation(exif), alpha=alpha)


def _webp_size(chunk: bytes) -> tuple[int, int]:
    """Read height and width of the first chunk, with its header; 0 where it is no image."""
    if chunk[:4] == b"VP8X":
        return 1 + int.from_bytes(chunk[15:18], "little"), 1 + int.from_bytes(chunk[12:15], "little")
    if chunk[:4] == b"VP8L":
        packed = int.from_bytes(chunk[9:13], "little")
        return 1 + (packed >> 14 & 0x3FFF), 1 + (packed & 0x3FFF)
    if chunk[:4] == b"VP8 ":
        return int.from_bytes(chunk[16:18], "little") & 0x3FFF, int.from_bytes(
            chunk[14:16], "little"
        ) & 0x3FFF
    return 0, 0


def _decoded_webp(file: Reader, header: Header, request: Request) -> AnyArray:
    try:
        pixels: AnyArray = np.array(_probed(file, WebPImagePlugin.WebPImageFile))
    except _PILLOW_ERRORS as error:
        raise file.damaged(f"Pillow's error {error}") from None
    return _opaque(file, pixels, header, request)


# --- shared by several formats ---------------------------------------------------------------------------


def _probed(file: Reader, plugin: type[ImageFile.ImageFile]) -> Any:  # plugins have own fields
    """Let Pillow read the header of a file; no pixel is decoded."""
    file.handle.seek(0)
    try:
        return plugin(file.handle)
    except DecompressionBombError as error:
        raise file.bad("be smaller in this format", str(error), "Export it as TIFF.") from None
    except _PILLOW_ERRORS as error:
        got = f"Pillow's error {str(error) or type(error).__name__}"
        if "nsupported" in got or "cannot handle" in got:
            raise file.bad("have a layout that Pillow reads", got, "Export it as PNG.") from None
        raise file.damaged(got) from None


def _opaque(file: Reader, pixels: AnyArray, header: Header, request: Request) -> AnyArray:
    """Leave the alpha channel out, unless it is to be kept."""
    if header.alpha != "plane" or request.alpha == "keep":
        return pixels
    check_opaque(file, pixels[..., -1], request.alpha, kept=not request.is_mask)
    return np.ascontiguousarray(pixels[..., :3])


_HEADERS = {"png": png_header, "jpeg": _jpeg_header, "bmp": _bmp_header, "webp": _webp_header}
_DECODERS = {"png": decoded_png, "jpeg": _decoded_jpeg, "bmp": _decoded_bmp, "webp": _decoded_webp}
