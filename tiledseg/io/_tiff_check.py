"""What one page of a TIFF declares, judged before memory is taken for it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tifffile

    from tiledseg.io._file import Reader
    from tiledseg.io._header import Request

__all__ = ["Colours", "check_tiff_page"]

_RATIOS = {1: 1, 5: 4096, 8: 1032, 32946: 1032, 32773: 64}  # most expansion: none, LZW, deflate, PackBits
_OTHER_RATIO = 2**20
_WITHOUT_CODECS = {1, 8, 32946, 32773, 34925}  # none, deflate, PackBits, LZMA: tifffile does them by itself
_LOSSLESS = {1, 5, 8, 32946, 32773, 34925, 50000}
_JPEGS = {6, 7}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_CHANNELS = {_WHITE_IS_ZERO: {1}, _BLACK_IS_ZERO: {1, 3}, _RGB: {3}, _PALETTE: {1}}
_NAMES = {4: "transparency mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 32803: "raw sensor data"}
_IMAGE_DTYPES = {"b1", "u1", "u2", "f2", "f4"}
_MASK_DTYPES = _IMAGE_DTYPES | {"u4", "u8", "i1", "i2", "i4", "i8"}
_DTYPES = {"image": _IMAGE_DTYPES, "mask": _MASK_DTYPES, "labels": _MASK_DTYPES, "probs": {"f2", "f4"}}
_DTYPES["source"] = _MASK_DTYPES
_LARGEST_TILE = 8192


@dataclass(frozen=True, slots=True)
class Colours:
    """How the samples of a page are to be understood."""

    channels: int  # samples per pixel, alpha not counted
    alpha: bool  # whether one more sample follows
    inverted: bool  # whether 0 is white
    palette: bool  # whether the samples are indices


def check_tiff_page(file: Reader, page: tifffile.TiffPage, request: Request) -> Colours:
    """Judge a page."""
    file.check_size(page.imagelength, page.imagewidth, request.max_pixels)
    if page.imagedepth != 1:
        raise file.bad("be flat", f"a page of depth {page.imagedepth}", "Export its slices as pages.")
    _check_codec(file, page, request)
    _check_dtype(file, page, request)
    colours = _colours(file, page, request)
    _check_segments(file, page)
    return colours


def _check_codec(file: Reader, page: tifffile.TiffPage, request: Request) -> None:
    name = getattr(page.compression, "name", str(page.compression))
    needed = page.compression not in _WITHOUT_CODECS or page.predictor == 3
    if needed and find_spec("imagecodecs") is None:
        fix = 'Install it with `pip install "tiledseg[codecs]"`, or export the file uncompressed.'
        raise file.bad("be readable without imagecodecs", f"compression {name}", fix)
    if request.purpose == "labels" and page.compression not in _LOSSLESS:
        fix = "Export the labels with deflate, LZW or no compression."
        raise file.bad("hold labels unchanged", f"compression {name}, which may change them", fix)


def _check_dtype(file: Reader, page: tifffile.TiffPage, request: Request) -> None:
    known = _DTYPES[request.purpose]
    dtype = None if page.dtype is None else np.dtype(page.dtype)
    bits = page.bitspersample
    whole = dtype is not None and bits == (1 if dtype.kind == "b" else 8 * dtype.itemsize)
    if dtype is None or not whole or f"{dtype.kind}{dtype.itemsize}" not in known:
        got = f"{bits}-bit samples of {dtype}"
        must = "hold float16 or float32" if request.purpose == "probs" else "hold uint8, uint16 or float32"
        raise file.bad(must, got, "Convert it to one of these.")


def _colours(file: Reader, page: tifffile.TiffPage, request: Request) -> Colours:
    kind, samples = int(page.photometric), int(page.samplesperpixel)
    if kind == _YCBCR and page.compression in _JPEGS:
        kind = _RGB  # the JPEG decoder converts
    if kind not in _CHANNELS:
        got = _NAMES.get(kind, f"photometric interpretation {kind}")
        raise file.bad("be grey or RGB", got, "Convert it to RGB in the program that made it.")
    if kind == _WHITE_IS_ZERO and (
        request.purpose not in {"image", "source"} or np.dtype(page.dtype).kind == "f"
    ):
        fix = "Export it with 0 as black: some programs mean the stored values, others what is shown."
        raise file.bad("say whether 0 is background", "grey values stored inverted (0 is white)", fix)
    channels = samples
    if request.purpose == "source":
        channels -= samples in {2, 4} and (
            kind == _RGB or bool({1, 2} & {int(one) for one in page.extrasamples})
        )
    elif request.purpose != "probs":
        channels -= samples in {2, 4} and bool(page.extrasamples)
        if channels not in _CHANNELS[kind]:
            fix = "Export the channels that you want."
            raise file.bad("have 1 or 3 channels", f"{samples} samples per pixel", fix)
    return Colours(channels, channels < samples, kind == _WHITE_IS_ZERO, kind == _PALETTE)


def _check_segments(file: Reader, page: tifffile.TiffPage) -> None:
    """Compare where the data should lie with the file's length, and how much there is with what it fills."""
    what = "tile" if page.is_tiled else "strip"
    longest = max(page.imagelength, page.imagewidth, _LARGEST_TILE)
    if page.is_tiled and max(page.tilelength, page.tilewidth) > longest:
        raise file.damaged(f"tiles of {page.tilelength}x{page.tilewidth} px")
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = int(np.prod(page.chunked))
    if len(offsets) < expected or len(counts) < expected:
        raise file.damaged(f"{min(len(offsets), len(counts))} {what}s where {expected} are declared")
    for index, (offset, count) in enumerate(zip(offsets[:expected], counts[:expected], strict=True)):
        if count < 1 or offset + count > file.size:
            raise file.damaged(f"{what} {index} of {expected} missing, or beyond the end of the file")
    ratio = _RATIOS.get(int(page.compression), _OTHER_RATIO)
    least = page.nbytes if page.bitspersample > 1 else page.nbytes // 8
    if sum(counts) * ratio < least:
        raise file.damaged(f"{sum(counts)} bytes of data for {page.imagelength}x{page.imagewidth} px")
