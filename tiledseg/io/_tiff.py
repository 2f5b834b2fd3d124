"""TIFF to pixels: one page, or the three pages of a colour image, through tifffile."""

from __future__ import annotations

import html
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from tiledseg.errors import FileError
from tiledseg.io._orientation import is_turned, upright
from tiledseg.io._tiff_check import check_tiff_page
from tiledseg.io._tiff_pages import pages_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import AnyArray
    from tiledseg.io._file import Reader
    from tiledseg.io._header import Request
    from tiledseg.io._tiff_check import Colours
    from tiledseg.io._tiff_pages import Page

__all__ = [
    "check_complete",
    "check_palette",
    "complete_page",
    "decoding",
    "listed_pages",
    "ome_pixels",
    "orientation_of",
    "read_tiff",
    "shown_as",
    "tiff_file",
    "tiff_shape",
]

_LISTED = 8
_PHOTOMETRIC = 262


def read_tiff(file: Reader, request: Request) -> AnyArray:
    """Read one page, or the three pages that hold the channels of one image."""
    with _chosen(file, request) as pages:
        planes = [_pixels(file, page, request) for page in pages]
    if len({plane.shape for plane in planes}) > 1 or (len(planes) > 1 and planes[0].ndim > 2):
        raise file.damaged("channels of different shapes")
    return planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)


def tiff_shape(file: Reader, request: Request) -> tuple[int, ...]:
    """Tell the shape that `read_tiff` returns, from the tags alone."""
    with _chosen(file, request) as pages:
        colours = check_tiff_page(file, pages[0], request)
        size = (int(pages[0].imagelength), int(pages[0].imagewidth))
        size = size[::-1] if is_turned(orientation_of(pages[0])) else size
    channels = 3 if colours.palette else colours.channels * len(pages)
    return size if channels == 1 else (*size, channels)


@contextmanager
def _chosen(file: Reader, request: Request) -> Iterator[list[tifffile.TiffPage]]:
    """Open the pages that make the image."""
    known = pages_of(file)
    with decoding(file), tiff_file(file) as tiff:
        chosen = _selection(file, known, tiff.pages.first, request)
        yield [complete_page(file, tiff, known[index]) for index in chosen]


def tiff_file(file: Reader) -> tifffile.TiffFile:
    """Let tifffile read the tags."""
    file.handle.seek(0)
    return tifffile.TiffFile(file.handle, name="image", _multifile=False)


@contextmanager
def decoding(file: Reader) -> Iterator[None]:
    """Turn an error of tifffile into one of ours."""
    try:
        yield
    except (FileError, OSError):
        raise
    except Exception as error:  # tifffile has no common error, and struct, zlib and NumPy speak through it
        if "imagecodecs" in str(error):
            fix = 'Install it with `pip install "tiledseg[codecs]"`.'
            raise file.bad("be readable without imagecodecs", str(error), fix) from error
        raise file.damaged(f"an error of tifffile: {error}") from error


def complete_page(file: Reader, tiff: tifffile.TiffFile, known: Page) -> tifffile.TiffPage:
    """Read a page's tags, none of them lost."""
    found = tiff.pages[known.index]
    page = found if isinstance(found, tifffile.TiffPage) else found.aspage()
    lost = sorted((known.tags | {_PHOTOMETRIC}) - set(page.tags.keys()))
    if lost:  # tifffile leaves them out with no more than a line in the log
        raise file.damaged(f"unreadable or missing tags {lost} on page {known.index}")
    return page


def _selection(file: Reader, known: list[Page], first: tifffile.TiffPage, request: Request) -> list[int]:
    """Name the pages to read."""
    if request.page is not None:
        if request.page >= len(known):
            fix = f"Pass page=0 to page={len(known) - 1}."
            raise file.bad(f"have page {request.page}", f"{len(known)} pages", fix)
        return [request.page]
    pages = [page for page in known if not page.extra] or known
    check_complete(file, pages, first)
    if len(pages) == 1 or (len(pages) == 3 and _are_channels(str(first.description or ""))):
        return [page.index for page in pages]
    raise listed_pages(file, pages)


def listed_pages(file: Reader, pages: list[Page]) -> FileError:
    """Build the error for several pages of which none was asked for."""
    listed = ", ".join(f"{page.index} ({page.height}x{page.width} px)" for page in pages[:_LISTED])
    more = f" and {len(pages) - _LISTED} more" if len(pages) > _LISTED else ""
    return file.bad("hold one image", f"{len(pages)} pages: {listed}{more}", "Pass `page`, counted from 0.")


def ome_pixels(description: str) -> list[dict[str, str]]:
    """Find the attributes of each OME ``Pixels`` element; by pattern, since XML can be made to explode."""
    blocks = re.findall(r"<(?:\w+:)?Pixels\b([^>]*)>", description)
    found = [re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", block) for block in blocks]
    return [{name: html.unescape(value) for name, value in block} for block in found]


def check_complete(file: Reader, pages: list[Page], first: tifffile.TiffPage) -> None:
    """Refuse a part of an OME-TIFF whose other parts lie in other files."""
    description = str(first.description or "")
    if "<OME" not in description and ":OME" not in description:
        return
    others = set(re.findall(r"\bFileName\s*=\s*[\"']([^\"']*)[\"']", description))
    if len(others) > 1 or re.search(r"<(?:\w+:)?BinaryOnly\b", description):
        fix = "Export it as one file, or pass `page` to take one page of this file alone."
        raise file.bad("hold the whole image", f"a part of an OME-TIFF of {len(others)} files", fix)
    pixels = ome_pixels(description)
    if len(pixels) != 1:
        return
    sizes = [_count(pixels[0], f"Size{axis}") for axis in "ZTC"]
    planes = sizes[0] * sizes[1] * -(-sizes[2] // int(first.samplesperpixel))
    if len(pages) != planes:
        fix = "Copy or export it again, or pass `page` to take one of its pages."
        must = f"hold {planes} planes, as its OME metadata says"
        raise file.bad(must, f"{len(pages)} pages", fix)


def _count(attributes: dict[str, str], name: str) -> int:
    text = attributes.get(name, "1")
    return int(text) if text.isdecimal() and len(text) < 10 else 1


def _are_channels(description: str) -> bool:
    """Say whether the metadata calls three pages the channels of one plane: OME, ImageJ or tifffile's own."""
    pixels = ome_pixels(description)
    if len(pixels) == 1:
        return [_count(pixels[0], f"Size{axis}") for axis in "CZT"] == [3, 1, 1]
    if description.startswith("ImageJ="):
        lines = dict(line.split("=", 1) for line in description.splitlines() if "=" in line)
        return [lines.get(name, "1") for name in ("channels", "slices", "frames")] == ["3", "1", "1"]
    try:
        fields = json.loads(description)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("axes") == "CYX"


def orientation_of(page: tifffile.TiffPage) -> int:
    """Read the tag that says which way up the page is stored."""
    return int(page.tags.valueof(274, default=1) or 1)


def _pixels(file: Reader, page: tifffile.TiffPage, request: Request) -> AnyArray:
    colours = check_tiff_page(file, page, request)
    check_palette(file, colours, request)
    pixels = shown_as(file, page, colours, _channels_last(_decoded(file, page), page), request)
    return upright(pixels, orientation_of(page))


def check_palette(file: Reader, colours: Colours, request: Request) -> None:
    """Refuse a palette where nothing says whether its indices or its colours are meant."""
    if colours.palette and request.palette == "refuse":
        fix = "Pass palette='index' to read the indices, or palette='colour' to read the colours."
        raise file.bad("say what its pixels mean", "a palette, whose indices and colours differ", fix)


def shown_as(
    file: Reader, page: tifffile.TiffPage, colours: Colours, pixels: AnyArray, request: Request
) -> AnyArray:
    """Turn decoded samples (h, w, s), of the page or of a part of it, into what its colours mean."""
    if colours.alpha:
        pixels = _without_alpha(file, pixels, drop=request.alpha == "drop")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if colours.palette and request.palette == "colour":
        pixels = _coloured(file, pixels, page)
    return _plain(pixels, colours, request)


def _decoded(file: Reader, page: tifffile.TiffPage) -> AnyArray:
    try:
        pixels: AnyArray = page.asarray(squeeze=False)
    except Exception as error:
        raise file.damaged(f"{_first_bad(file, page)} ({error})") from error
    return pixels[:, 0]  # (S, D, H, W, s) -> (S, H, W, s); the depth was checked to be 1


def _first_bad(file: Reader, page: tifffile.TiffPage) -> str:
    """Name the first tile or strip that cannot be decoded."""
    columns = page.tilewidth if page.is_tiled else page.imagewidth
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    across, down = -(-page.imagewidth // columns), -(-page.imagelength // rows)
    for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=False)):
        try:
            page.decode(file.take(offset, count), index, jpegtables=page.jpegtables)
        except Exception:  # noqa: BLE001  any error marks the segment
            y, x = index // across % down * rows, index % across * columns
            return f"{'tile' if page.is_tiled else 'strip'} {index} at y={y}, x={x} px corrupt"
    return "corrupt pixels"


def _channels_last(pixels: AnyArray, page: tifffile.TiffPage) -> AnyArray:
    return pixels[0] if page.planarconfig == 1 or pixels.shape[0] == 1 else np.moveaxis(pixels[..., 0], 0, -1)


def _without_alpha(file: Reader, pixels: AnyArray, *, drop: bool) -> AnyArray:
    alpha = pixels[..., -1]
    opaque = 1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
    if not drop and not (alpha == opaque).all():
        fix = "Flatten it in the program that made it, or pass alpha='drop' to leave the last channel out."
        raise file.bad("be opaque", f"an alpha or extra channel that goes down to {alpha.min()}", fix)
    return pixels[..., :-1]


def _coloured(file: Reader, pixels: AnyArray, page: tifffile.TiffPage) -> AnyArray:
    if page.colormap is None or page.colormap.shape[1] <= int(pixels.max()):
        raise file.damaged("a palette that is missing or too short")
    palette = (page.colormap.T >> 8).astype(np.uint8)  # TIFF stores colours in 16 bits
    return palette[pixels.astype(np.intp)]


def _plain(pixels: AnyArray, colours: Colours, request: Request) -> AnyArray:
    """Bring the samples into native uint8, uint16 or float32 (labels: any integer)."""
    if colours.inverted:
        pixels = ~pixels
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8) * np.uint8(1 if request.purpose == "labels" else 255)
    dtype = np.dtype(np.float32) if pixels.dtype.kind == "f" else pixels.dtype.newbyteorder("=")
    return np.ascontiguousarray(pixels, dtype)
