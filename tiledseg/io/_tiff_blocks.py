"""TIFF read by region: the tiles or strips that a rectangle needs, and no others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg.errors import FileError
from tiledseg.io._pixel_size import pixel_size_of
from tiledseg.io._source import CachedBlocks, Facts, RawRows, WholeImage
from tiledseg.io._tiff import (
    check_complete,
    check_palette,
    complete_page,
    decoding,
    listed_pages,
    ome_pixels,
    orientation_of,
    read_tiff,
    shown_as,
    tiff_file,
)
from tiledseg.io._tiff_check import check_tiff_page
from tiledseg.io._tiff_pages import pages_of
from tiledseg.io._tiff_planes import levels_of, planes_of

if TYPE_CHECKING:
    from contextlib import ExitStack

    import tifffile

    from tiledseg._types import AnyArray
    from tiledseg.io._file import Reader
    from tiledseg.io._header import Request, Wish
    from tiledseg.io._source import Regions
    from tiledseg.io._tiff_check import Colours
    from tiledseg.io._tiff_pages import Page

__all__ = ["tiff_source"]

_LARGEST_BLOCK = 2**30
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_FORMS = {"image": "uint8, uint16 or float32"}


def tiff_source(file: Reader, request: Request, wish: Wish, stack: ExitStack) -> tuple[Regions, Facts]:
    """Open a TIFF for reading by region."""
    known = pages_of(file)
    with decoding(file):
        tiff = stack.enter_context(tiff_file(file))
        indices = _chosen(file, known, tiff, request, wish)
        planes = [levels_of(file, tiff, known, complete_page(file, tiff, known[index])) for index in indices]
        sizes = tuple((page.imagelength, page.imagewidth) for page in planes[0])
        level = wish.level_of(file, len(min(planes, key=len)))
        pages = [plane[level] for plane in planes]
        size = _pixel_size(tiff.pages.first)
        if size is not None and level:
            size = size.shrunk(sizes[0][0] / sizes[level][0], sizes[0][1] / sizes[level][1])
        if orientation_of(pages[0]) != 1:
            file.check_size(*sizes[0], wish.whole_pixels)
            return WholeImage(_turned(file, request, planes)), Facts(file.name, size, sizes[:1], 0, {})
        return _regions(file, pages, request, wish), Facts(file.name, size, sizes, level, {})


def _turned(file: Reader, request: Request, planes: list[list[tifffile.TiffPage]]) -> AnyArray:
    if len(planes) > 1:
        raise file.bad("be upright", "several pages that are to be turned", "Export it upright.")
    file.handle.seek(0, os.SEEK_SET)
    return read_tiff(file, request)


def _chosen(
    file: Reader, known: list[Page], tiff: tifffile.TiffFile, request: Request, wish: Wish
) -> list[int]:
    """Name the pages that hold the channels wanted."""
    if request.page is not None:
        if request.page >= len(known):
            fix = f"Pass page=0 to page={len(known) - 1}."
            raise file.bad(f"have page {request.page}", f"{len(known)} pages", fix)
        return [request.page]
    pages = [page for page in known if not page.extra] or known
    first = tiff.pages.first
    check_complete(file, pages, first)
    description = str(first.description or "")
    found = planes_of(file, pages, description, ome_pixels(description), wish.at)
    if found is None:
        raise listed_pages(file, pages)
    return [pages[index].index for index in found]


def _regions(file: Reader, pages: list[tifffile.TiffPage], request: Request, wish: Wish) -> Regions:
    colours = [check_tiff_page(file, page, request) for page in pages]
    forms = {
        (page.imagelength, page.imagewidth, str(page.dtype), one.channels)
        for page, one in zip(pages, colours, strict=True)
    }
    if len(forms) > 1 or (len(pages) > 1 and colours[0].channels > 1):
        raise file.damaged("channels of different shapes")
    for one in colours:
        check_palette(file, one, request)
    total = colours[0].channels * len(pages)
    if colours[0].palette and request.palette == "colour":
        total = 3
    channels = wish.channels_of(file, total)
    raw = _raw(file, pages, colours[0], channels, total)
    if raw is not None:
        return raw
    return CachedBlocks(_TiffBlocks(file, pages, colours, request, channels))


def _raw(
    file: Reader, pages: list[tifffile.TiffPage], colours: Colours, channels: list[int] | None, total: int
) -> RawRows | None:
    """Say whether the rows lie in the file as they are, in strips."""
    page = pages[0]
    plain = (
        page.compression == 1 and page.predictor in {1, None} and not page.is_tiled and page.fillorder == 1
    )
    shown = colours.alpha or colours.inverted or colours.palette
    if len(pages) > 1 or not plain or shown or channels is not None or page.dtype is None:
        return None
    if page.dtype.kind != "u" and page.dtype.str[1:] != "f4":
        return None
    if page.planarconfig != 1 and total > 1:
        return None
    rows = min(page.rowsperstrip, page.imagelength)
    wide = page.imagewidth * total * page.dtype.itemsize
    counts = page.databytecounts
    if any(count < wide * rows for count in counts[:-1]) or counts[-1] < wide * (
        page.imagelength - rows * (len(counts) - 1)
    ):
        return None  # as tifffile reads it, with an error that names the strip
    shape = (page.imagelength, page.imagewidth) + ((total,) if total > 1 else ())
    dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    return RawRows(file, shape, dtype, tuple(page.dataoffsets), rows)


class _TiffBlocks:
    """The tiles or strips of the pages that hold an image's channels."""

    def __init__(
        self,
        file: Reader,
        pages: list[tifffile.TiffPage],
        colours: list[Colours],
        request: Request,
        channels: list[int] | None,
    ) -> None:
        self._file, self._pages, self._colours = file, pages, colours
        self._request, self._channels = request, channels
        page = pages[0]
        rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self.block_shape: tuple[int, int] = (rows, page.tilewidth if page.is_tiled else page.imagewidth)
        self._down = -(-page.imagelength // self.block_shape[0])
        self._across = -(-page.imagewidth // self.block_shape[1])
        size = rows * self.block_shape[1] * page.samplesperpixel * np.dtype(page.dtype).itemsize
        if size > _LARGEST_BLOCK:
            fix = "Export it with tiles of 512 px, say."
            raise file.bad("have tiles or strips of at most 1 GiB", f"{size} bytes in one", fix)
        trial = self._meaning(np.zeros((1, 1, page.samplesperpixel), page.dtype), 0)
        self.dtype: np.dtype[Any] = trial.dtype
        total = len(pages) if len(pages) > 1 else int(np.prod(trial.shape[2:], dtype=int))
        count = total if channels is None else len(channels)
        self.shape: tuple[int, ...] = (page.imagelength, page.imagewidth) + ((count,) if count > 1 else ())

    def block(self, row: int, column: int) -> AnyArray:
        """Decode a block, cut off at the end of the image."""
        high, wide = self.block_shape
        size = (min(high, self.shape[0] - row * high), min(wide, self.shape[1] - column * wide))
        which = range(len(self._pages)) if self._channels is None or len(self._pages) == 1 else self._channels
        planes = []
        for number in which:
            samples = self._samples(self._pages[number], row, column)[: size[0], : size[1]]
            planes.append(self._meaning(samples, number))
        if len(planes) > 1:
            return np.stack(planes, axis=-1)
        if self._channels is None or len(self._pages) > 1 or planes[0].ndim == 2:
            return planes[0]
        picked = planes[0][..., self._channels]
        return np.ascontiguousarray(picked[..., 0] if len(self._channels) == 1 else picked)

    def _meaning(self, samples: AnyArray, number: int) -> AnyArray:
        if samples.shape[:2] == (1, 1) and self._colours[number].alpha and not samples.any():
            samples = np.full_like(samples, 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max)
        return shown_as(self._file, self._pages[number], self._colours[number], samples, self._request)

    def _samples(self, page: tifffile.TiffPage, row: int, column: int) -> AnyArray:
        """Decode the samples (h, w, s) of a block."""
        first = row * self._across + column
        if page.planarconfig == 1:
            return self._segment(page, first)
        each = self._down * self._across
        return np.concatenate(
            [self._segment(page, first + s * each) for s in range(page.samplesperpixel)], axis=-1
        )

    def _segment(self, page: tifffile.TiffPage, index: int) -> AnyArray:
        data = self._file.at(page.dataoffsets[index], page.databytecounts[index])
        try:
            found, *_ = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
            pixels: AnyArray = np.asarray(found)[0]
        except FileError:
            raise
        except Exception as error:  # codecs raise whatever they like
            y, x = (
                index // self._across % self._down * self.block_shape[0],
                index % self._across * self.block_shape[1],
            )
            what = "tile" if page.is_tiled else "strip"
            raise self._file.damaged(f"{what} {index} at y={y}, x={x} px corrupt ({error})") from error
        return pixels


def _pixel_size(first: tifffile.TiffPage) -> Any:  # noqa: ANN401
    pixels = ome_pixels(str(first.description or ""))
    across, down = (_ratio(first.tags.valueof(tag)) for tag in (_X_RESOLUTION, _Y_RESOLUTION))
    unit = int(first.tags.valueof(_RESOLUTION_UNIT, default=0) or 0)
    return pixel_size_of(
        pixels[0] if len(pixels) == 1 else {}, str(first.description or ""), (down, across), unit
    )


def _ratio(value: object) -> float:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return 0.0
