"""PNG, JPEG, BMP and WebP to pixels: the declared size is checked before the bytes are decoded."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, JpegImagePlugin, WebPImagePlugin
from PIL.Image import DecompressionBombError

from tiledseg._lazy import cv2
from tiledseg._validate import invalid
from tiledseg.io.bmp import bit_fields, palette_colours, palette_of
from tiledseg.io.file import (
    LossyError,
    check_one_page,
    check_opaque,
    exif_orientation,
    is_turned,
    rgb_of_cmyk,
    two_ways,
    upright,
)
from tiledseg.io.jpeg import checked_jpeg
from tiledseg.io.png import PngBands, check_chunks, fits_bands, png_chunks

if TYPE_CHECKING:
    from PIL import ImageFile

    from tiledseg._types import AnyArray
    from tiledseg.io.file import Kind, Reader, Request

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, _GREY_ALPHA: 2, _COLOUR_ALPHA: 4}
_DEPTHS = {1: {_GREY, _PALETTE}, 2: {_GREY, _PALETTE}, 4: {_GREY, _PALETTE}, 8: set(_SAMPLES)}
_DEPTHS[16] = set(_SAMPLES) - {_PALETTE}
_DEFLATE_RATIO = 1032  # the highest compression ratio of deflate
_PIXELS_PER_BYTE = 1024  # of a JPEG; one bit per block of 64 px would be 512
_Bmp = BmpImagePlugin.BmpImageFile
_JPEG_COLOURS = {"L": "GRAY", "CMYK": "CMYK"}
_SHOWN = {"png": "PNG", "jpeg": "JPEG", "bmp": "BMP", "webp": "WebP"}
_TIMES = {"png": 2, "jpeg": 1, "bmp": 4, "webp": 6}  # the bytes of the px that a decoder takes
_PILLOW_ERRORS = (SyntaxError, OSError, ValueError, OverflowError, EOFError, IndexError, struct.error)


@dataclass(frozen=True, slots=True)
class _Header:
    """The declared geometry and colours of a file."""

    kind: Kind
    height: int  # size in px as stored, before the orientation is applied
    width: int
    channels: int  # grey or colour, alpha not counted
    bits: int = 8  # bits per sample, or per index where there is a palette
    orientation: int = 1  # of Exif, 1 to 8
    alpha: Literal["none", "plane", "key"] = "none"  # a channel, or one transparent colour or palette entry
    palette: AnyArray | None = None  # colours of the indices, uint8 (n, 3)

    @property
    def meaning(self) -> Literal["none", "identity", "grey", "colour"]:
        """The kind of palette; identity: entry i is grey i, so that index and colour are equal."""
        if self.palette is None:
            return "none"
        if (self.palette != self.palette[:, :1]).any():
            return "colour"
        return "identity" if (self.palette[:, 0] == np.arange(len(self.palette))).all() else "grey"


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
    _check_request(file, header, request)
    file.check_memory(header.height * header.width * header.channels * header.bits // 8 * _TIMES[kind])
    pixels = _DECODERS[kind](file, header, request)
    if pixels.shape[:2] != (header.height, header.width):
        raise file.damaged(f"{pixels.shape[:2]} px decoded of {(header.height, header.width)} declared")
    return upright(pixels, header.orientation)


def _check_request(file: Reader, header: _Header, request: Request) -> None:
    file.check_size(header.height, header.width, request.max_pixels)
    check_one_page(file, request, f"a {_SHOWN[header.kind]}")
    lossy = header.kind == "jpeg" or (header.kind == "webp" and file.take(12, 4) != b"VP8L")
    if request.is_stored and lossy:
        fix = "Export the labels as PNG or TIFF, or pass a threshold."
        got = f"a {_SHOWN[header.kind]}"
        raise invalid(LossyError, file.name, must="be lossless to hold labels", got=got, fix=fix)
    if request.palette == "refuse" and _is_ambiguous(header, request):
        raise two_ways(file)
    if header.alpha == "key" and request.alpha != "drop" and request.palette != "index":
        fix = "Flatten it in the program that made it, or pass alpha='drop' to ignore the transparency."
        raise file.bad("be opaque", "a transparent colour", fix)


def _is_ambiguous(header: _Header, request: Request) -> bool:
    if header.kind == "bmp" and request.purpose != "labels":  # BMP stores grey by a palette only
        return header.meaning == "colour"
    return header.meaning in {"grey", "colour"}


def _wants_indices(header: _Header, request: Request) -> bool:
    if header.palette is None:
        return False
    return request.palette == "index" or (header.meaning == "identity" and request.purpose != "image")


# --- PNG: Portable Network Graphics Specification, third edition (W3C, 2025) ---------------------------


def _png_header(file: Reader, max_pixels: int) -> _Header:
    """Read the header of a PNG; refuse one with too little data for its size."""
    start = file.take(len(_PNG_SIGNATURE), 18)
    kind, width, height, bits, colour = struct.unpack(">4x4sIIBB", start)
    if kind != b"IHDR" or colour not in _DEPTHS.get(bits, ()):
        raise file.damaged("a PNG without a valid IHDR chunk")
    file.check_size(height, width, max_pixels)
    chunks = list(png_chunks(file))
    check_chunks(file, chunks)
    stored = sum(length for name, _, length in chunks if name == b"IDAT")
    if height * (1 + (width * _SAMPLES[colour] * bits + 7) // 8) > stored * _DEFLATE_RATIO + 1024:
        raise file.damaged(f"{stored} bytes of data for {height}x{width} px")
    kept = {b"PLTE", b"tRNS", b"eXIf", b"acTL"}
    extra = {name: file.take(at, length) for name, at, length in chunks if name in kept}
    frames = int.from_bytes(extra.get(b"acTL", b"")[:4], "big")
    if frames > 1 or any(name == b"fdAT" for name, _, _ in chunks):  # the data of further frames
        raise file.bad("hold one image", f"a film of {max(frames, 2)} frames", "Export one frame as PNG.")
    opacity = extra.get(b"tRNS", b"")
    key = bool(opacity) and (colour != _PALETTE or opacity.count(255) < len(opacity))
    palette = palette_colours(extra.get(b"PLTE", b""), "RGB") if colour == _PALETTE else None
    return _Header(
        kind="png",
        height=height,
        width=width,
        channels=1 if colour in {_GREY, _GREY_ALPHA} or _is_grey(palette) else 3,
        bits=bits,
        orientation=exif_orientation(extra.get(b"eXIf", b"")),
        alpha="plane" if colour in {_GREY_ALPHA, _COLOUR_ALPHA} else "key" if key else "none",
        palette=palette,
    )


def png_bands(file: Reader, kind: Kind, request: Request) -> PngBands | None:
    """Open a large PNG, to be decoded band by band; None for what is decoded whole."""
    if kind != "png":
        return None
    width, height, bits, colour, interlaced = struct.unpack(">IIBB2xB", file.take(16, 13))
    samples = _SAMPLES.get(colour, 0)
    if interlaced or not fits_bands(height, width, samples, bits):
        return None  # before all chunks are looked at
    header = _png_header(file, request.max_pixels)
    if header.orientation != 1:
        return None
    _check_request(file, header, request)
    palette = None
    if header.palette is not None and not _wants_indices(header, request):
        palette = np.zeros((256, header.channels), np.uint8)  # an index without a colour is black
        palette[: len(header.palette)] = header.palette[:, : header.channels]
    alpha = request.alpha if header.alpha == "plane" else None
    scaled = header.palette is None and not request.is_stored
    return PngBands(
        file, (header.height, header.width), (samples, bits), palette=palette, alpha=alpha, scaled=scaled
    )


def _decoded_png(file: Reader, header: _Header, request: Request) -> AnyArray:
    plane = header.alpha == "plane" and request.alpha != "drop"
    indices = _wants_indices(header, request)
    grey = indices or header.channels == 1
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    flags |= cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    pixels = _decoded(file, _png_payload(file, indices=indices), cv2.IMREAD_UNCHANGED if plane else flags)
    if plane:
        pixels = _without_alpha(file, pixels, request, grey=grey)
    stored = indices or (header.channels == 1 and header.palette is None and request.is_stored)
    if header.bits < 8 and stored:
        pixels //= 255 // (2**header.bits - 1)  # OpenCV has scaled them to 0 to 255
    return pixels


def _without_alpha(file: Reader, pixels: AnyArray, request: Request, *, grey: bool) -> AnyArray:
    """Turn OpenCV's BGRA into RGB or grey; with its alpha where that is to be kept."""
    if request.alpha == "keep":
        return pixels[..., [0, -1]] if grey else cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
    check_opaque(file, pixels[..., -1], "refuse", kept=not request.is_mask)
    return pixels[..., 0].copy() if grey else cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB)


def _png_payload(file: Reader, *, indices: bool) -> bytes:
    """Check every checksum, and return the chunks of the pixels; indices as if they were grey."""
    parts = [_PNG_SIGNATURE]
    for kind, at, length in png_chunks(file):
        raw = file.take(at - 8, length + 12)
        if zlib.crc32(memoryview(raw)[4:-4]) != int.from_bytes(raw[-4:]):
            raise file.damaged(f"a wrong checksum in its {kind.decode('latin-1')} chunk")
        if kind == b"IHDR" and indices:
            body = raw[4:17] + bytes([_GREY]) + raw[18:-4]
            raw = raw[:4] + body + zlib.crc32(body).to_bytes(4)
        if kind in {b"IHDR", b"IDAT", b"IEND"} or (kind == b"PLTE" and not indices):
            parts.append(raw)
    return b"".join(parts)


def _decoded(file: Reader, payload: bytes, flags: int) -> AnyArray:
    try:
        pixels: AnyArray | None = cv2.imdecode(np.frombuffer(payload, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from None
        raise file.damaged(f"OpenCV's error {error.err!r}") from None
    if pixels is None:
        raise file.damaged("a PNG that OpenCV cannot decode")
    return pixels


# --- JPEG ----------------------------------------------------------------------------------------------


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG without the resolution of Exif: Pillow warns where Exif is damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


def _jpeg_header(file: Reader, max_pixels: int) -> _Header:
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
    return _Header("jpeg", height, width, channels, orientation=exif_orientation(exif))


def _decoded_jpeg(file: Reader, header: _Header, request: Request) -> AnyArray:  # noqa: ARG001
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


def _bmp_header(file: Reader, max_pixels: int) -> _Header:
    fields = bit_fields(file)
    if fields is not None:
        file.check_size(fields.height, fields.width, max_pixels)
        _check_bmp(file, fields.offset, fields.end)
        alphas: Literal["plane", "none"] = "plane" if len(fields.masks) > 3 else "none"
        return _Header("bmp", fields.height, fields.width, 3, alpha=alphas)
    image = _probed(file, _Bmp)
    width, height = image.size
    file.check_size(height, width, max_pixels)
    tile = image.tile[0]
    if tile.codec_name != "raw":
        raise file.bad("be uncompressed as a BMP", "a run-length code", "Export it as PNG.")
    end = tile.offset + height * tile.args[1]
    _check_bmp(file, tile.offset, end)
    palette = palette_of(image)
    grey = _is_grey(palette)
    alpha: Literal["plane", "none"] = "plane" if image.mode == "RGBA" else "none"
    return _Header("bmp", height, width, 1 if grey else 3, alpha=alpha, palette=palette)


def _check_bmp(file: Reader, start: int, end: int) -> None:
    if start < 14 + int.from_bytes(file.take(14, 4), "little"):
        raise file.damaged(f"pixels at byte {start}, within the header")
    if end > file.size:
        raise file.damaged(f"{file.size} bytes where {end} are declared")
    file.check_alone(end, b"BM")


def _decoded_bmp(file: Reader, header: _Header, request: Request) -> AnyArray:
    fields = bit_fields(file)
    try:
        pixels: AnyArray = fields.pixels(file) if fields else np.array(_probed(file, _Bmp))
    except _PILLOW_ERRORS as error:
        raise file.damaged(f"Pillow's error {error}") from None
    pixels = _opaque(file, pixels, header, request)
    if header.palette is None:
        return pixels
    indices = pixels.astype(np.uint8)
    if _wants_indices(header, request):
        return indices
    colours = np.zeros((256, 3), np.uint8)  # an index without a colour is black
    colours[: len(header.palette)] = header.palette
    return np.take(colours if header.channels == 3 else colours[:, 0], indices, axis=0)


# --- WebP ----------------------------------------------------------------------------------------------


def _webp_header(file: Reader, max_pixels: int) -> _Header:
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
    return _Header("webp", height, width, 3, orientation=exif_orientation(exif), alpha=alpha)


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


def _decoded_webp(file: Reader, header: _Header, request: Request) -> AnyArray:
    try:
        pixels: AnyArray = np.array(_probed(file, WebPImagePlugin.WebPImageFile))
    except _PILLOW_ERRORS as error:
        raise file.damaged(f"Pillow's error {error}") from None
    return _opaque(file, pixels, header, request)


# --- shared by several formats ---------------------------------------------------------------------------


def _probed(file: Reader, plugin: type[ImageFile.ImageFile]) -> Any:  # noqa: ANN401  plugins have own fields
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


def _opaque(file: Reader, pixels: AnyArray, header: _Header, request: Request) -> AnyArray:
    """Leave the alpha channel out, unless it is to be kept."""
    if header.alpha != "plane" or request.alpha == "keep":
        return pixels
    check_opaque(file, pixels[..., -1], request.alpha, kept=not request.is_mask)
    return np.ascontiguousarray(pixels[..., :3])


def _is_grey(palette: AnyArray | None) -> bool:
    return palette is not None and bool((palette == palette[:, :1]).all())


_HEADERS = {"png": _png_header, "jpeg": _jpeg_header, "bmp": _bmp_header, "webp": _webp_header}
_DECODERS = {"png": _decoded_png, "jpeg": _decoded_jpeg, "bmp": _decoded_bmp, "webp": _decoded_webp}
