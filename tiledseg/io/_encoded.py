"""PNG, JPEG and BMP to pixels: OpenCV decodes bytes that were checked before, and never sees a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from tiledseg.io._bmp import bmp_header, bmp_payload
from tiledseg.io._jpeg import jpeg_header, jpeg_payload
from tiledseg.io._orientation import upright
from tiledseg.io._png import png_header, png_payload

if TYPE_CHECKING:
    from tiledseg._types import AnyArray
    from tiledseg.io._file import Reader
    from tiledseg.io._header import Header, Kind, Request

__all__ = ["encoded_header", "read_encoded"]

_HEADERS = {"png": png_header, "jpeg": jpeg_header, "bmp": bmp_header}
_AS_STORED = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def encoded_header(file: Reader, kind: Kind, max_pixels: int) -> Header:
    """Read what a PNG, JPEG or BMP declares."""
    return _HEADERS[kind](file, max_pixels)


def read_encoded(file: Reader, kind: Kind, request: Request) -> AnyArray:
    """Read a PNG, JPEG or BMP."""
    file = file.whole(request.max_pixels)
    header = encoded_header(file, kind, request.max_pixels)
    _check(file, header, request)
    labels = request.purpose == "labels"
    indices = header.palette == "identity" and request.purpose != "image"
    indices |= header.palette != "none" and request.palette == "index"
    payload = _payload(file, header, request, indices=indices)
    grey = indices or header.channels == 1
    pixels = _decoded(file, payload, header, _flags(header, request, grey=grey))
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = _without_alpha(file, pixels, grey=grey, drop=request.alpha == "drop")
    if header.kind == "png" and header.bits < 8 and (indices or (header.channels == 1 and labels)):
        pixels //= 255 // (2**header.bits - 1)  # few bits were spread over 0 to 255
    return upright(pixels, header.orientation)


def _check(file: Reader, header: Header, request: Request) -> None:
    if request.page:
        got = f"a {header.kind.upper()}, which has one"
        raise file.bad(f"have page {request.page}", got, "Leave `page` out.")
    if request.purpose == "labels" and header.kind == "jpeg":
        fix = "Export the labels as PNG or TIFF, or pass a threshold to cut it in two."
        raise file.bad("hold labels unchanged", "a JPEG, which cannot", fix)
    if request.palette == "refuse" and _is_two_faced(header, request):
        fix = "Pass palette='index' to read the indices, or palette='colour' to read the colours."
        raise file.bad("say what its pixels mean", "a palette, whose indices and colours differ", fix)
    if header.alpha == "key" and request.alpha == "refuse" and request.palette != "index":
        raise _see_through(file, "a transparent colour")


def _is_two_faced(header: Header, request: Request) -> bool:
    if header.kind == "bmp" and request.purpose != "labels":  # BMP has no other way to store grey
        return header.palette == "colour"
    return header.palette in {"grey", "colour"}


def _see_through(file: Reader, got: str) -> Exception:
    fix = "Flatten it in the program that made it, or pass alpha='drop' to read the colours beneath."
    return file.bad("be opaque", got, fix)


def _payload(file: Reader, header: Header, request: Request, *, indices: bool) -> bytes:
    if header.kind == "png":
        return png_payload(file, indices=indices)
    if header.kind == "jpeg":
        return jpeg_payload(file)
    return bmp_payload(file, request.max_pixels, indices=indices)


def _flags(header: Header, request: Request, *, grey: bool) -> int:
    if header.alpha == "plane" and request.alpha == "refuse":
        return cv2.IMREAD_UNCHANGED
    return _AS_STORED | (cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB)


def _decoded(file: Reader, payload: bytes, header: Header, flags: int) -> AnyArray:
    try:
        pixels: AnyArray | None = cv2.imdecode(np.frombuffer(payload, np.uint8), flags)
    except cv2.error as error:
        raise file.damaged(f"OpenCV's error {error.err!r}") from None
    if pixels is None:
        raise file.damaged(f"a {header.kind.upper()} that OpenCV cannot decode")
    if pixels.shape[:2] != (header.height, header.width):
        raise file.damaged(f"{pixels.shape[:2]} px decoded of {(header.height, header.width)} declared")
    return pixels


def _without_alpha(file: Reader, pixels: AnyArray, *, grey: bool, drop: bool) -> AnyArray:
    lowest = int(pixels[..., 3].min())
    if lowest != np.iinfo(pixels.dtype).max and not drop:
        raise _see_through(file, f"an alpha channel that goes down to {lowest}")
    return pixels[..., 0].copy() if grey else cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB)
