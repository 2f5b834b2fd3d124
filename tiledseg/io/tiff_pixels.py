"""The pixels of TIFF pages: decoded by tile or strip, and converted to grey, colours or labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg

from tiledseg.io.regions import RawRows
from tiledseg.io.tiff_checks import EMPTY

if TYPE_CHECKING:
    import tifffile

    from tiledseg._types import AnyArray
    from tiledseg.io.file import Alpha, Reader, Request
    from tiledseg.io.tiff_colours import Colours

_LARGEST_BLOCK = 2**30
_UNCHECKED: dict[Alpha, Alpha] = {"refuse": "drop", "drop": "drop", "keep": "keep"}


_JPEG, _JPEG_2000 = {7, 33007}, {33003, 33004, 33005, 34712}  # compressions
_END = b"\xff\xd9"
_LARGER = 2  # times the size of a tile or strip, which its JPEG may have at most
_COLOURS = {(1, 0): "Gray", (1, 1): "Gray", (3, 2): "RGB", (3, 6): "YCbCr"}
"""Colours of a JPEG by samples and photometric interpretation, where libjpeg gives what is wanted."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A page, or one of several images that are stored one after the other behind its directory."""

    page: tifffile.TiffPage
    shift: int = 0  # bytes from the first image of the page


def raw_rows(file: Reader, planes: list[Plane], colours: Colours, channels: int) -> RawRows | None:
    """Open a page of uncompressed rows in strips; None for other pages."""
    page, shift = planes[0].page, planes[0].shift
    plain = page.compression == 1 and page.predictor in {1, None} and page.fillorder == 1
    if len(planes) > 1 or not plain or page.is_tiled or not colours.is_plain:
        return None
    stored = np.dtype(page.dtype)
    if stored.kind not in "iuf" or stored == np.float16 or page.bitspersample != 8 * stored.itemsize:
        return None
    if page.planarconfig != 1 and channels > 1:
        return None
    rows = min(page.rowsperstrip, page.imagelength)
    wide = page.imagewidth * channels * stored.itemsize
    *counts, last = page.databytecounts
    if any(count < wide * rows for count in counts) or last < wide * (page.imagelength - rows * len(counts)):
        return None  # tifffile then raises an error for the strip
    shape = (page.imagelength, page.imagewidth) + ((channels,) if channels > 1 else ())
    dtype = stored.newbyteorder(page.parent.byteorder)
    return RawRows(file, shape, dtype, tuple(offset + shift for offset in page.dataoffsets), rows)


class TiffBlocks:
    """The tiles or strips of the planes that hold an image's channels."""

    def __init__(
        self,
        file: Reader,
        planes: list[Plane],
        colours: Colours,
        request: Request,
        channels: list[int] | None,
    ) -> None:
        self._file, self._planes, self._colours = file, planes, colours
        self._request, self._channels = request, channels
        page = planes[0].page
        rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self.block_shape: tuple[int, int] = (rows, page.tilewidth if page.is_tiled else page.imagewidth)
        self._each = page.samplesperpixel if page.planarconfig == 1 else 1
        self._down = -(-page.imagelength // self.block_shape[0])
        self._across = -(-page.imagewidth // self.block_shape[1])
        size = rows * self.block_shape[1] * page.samplesperpixel * np.dtype(page.dtype).itemsize
        if request.purpose == "source" and size > _LARGEST_BLOCK:
            fix = "Export it with smaller tiles, for example of 512 px."
            raise file.bad("have tiles or strips of at most 1 GiB", f"{size} bytes in one", fix)
        self._decoders = {  # made here: tifffile reads tags when they are first used
            one.offset: partial(one.decode, jpegtables=one.jpegtables, jpegheader=one.jpegheader)
            for one in (plane.page for plane in planes)
        }
        self._tables = {one.page.offset: _jpeg_tables(one.page) for one in planes}
        sample = np.zeros((1, 1, page.samplesperpixel), page.dtype)
        trial = replace(colours, request=replace(request, alpha=_UNCHECKED[request.alpha])).pixels(sample)
        self.dtype: np.dtype[Any] = trial.dtype
        total = len(planes) * (trial.shape[2] if trial.ndim == 3 else 1)
        count = total if channels is None else len(channels)
        self.shape: tuple[int, ...] = (page.imagelength, page.imagewidth) + ((count,) if count > 1 else ())

    def block(self, row: int, column: int) -> AnyArray:
        """Decode a block, cut off at the end of the image."""
        high, wide = self.block_shape
        size = (min(high, self.shape[0] - row * high), min(wide, self.shape[1] - column * wide))
        chosen = range(len(self._planes)) if self._channels is None else self._channels
        numbers = chosen if len(self._planes) > 1 else [0]
        found = []
        for plane in (self._planes[number] for number in numbers):
            samples = self._samples(plane, row, column)[: size[0], : size[1]]
            if samples.shape[:2] != size:
                raise self._file.damaged(
                    f"{self._name(row * self._across + column)} of {samples.shape[:2]} px"
                )
            found.append(self._colours.pixels(samples))
        if len(found) > 1:
            return np.stack(found, axis=-1)
        if self._channels is None or len(self._planes) > 1 or found[0].ndim == 2:
            return found[0]
        picked = found[0][..., self._channels]
        return np.ascontiguousarray(picked[..., 0] if len(self._channels) == 1 else picked)

    def _samples(self, plane: Plane, row: int, column: int) -> AnyArray:
        """Decode the samples (h, w, s) of a block."""
        first, page = row * self._across + column, plane.page
        if page.planarconfig == 1:
            return self._segment(plane, first)
        each = self._down * self._across
        parts = [self._segment(plane, first + sample * each) for sample in range(page.samplesperpixel)]
        return np.concatenate(parts, axis=-1)

    def _segment(self, plane: Plane, index: int) -> AnyArray:
        page = plane.page
        if (page.dataoffsets[index], page.databytecounts[index]) == EMPTY:
            return np.full((*self.block_shape, self._each), page.nodata, page.dtype)
        data = self._file.at(page.dataoffsets[index] + plane.shift, page.databytecounts[index])
        try:
            pixels = self._strictly(data, page)
            if pixels is None:
                found, *_ = self._decoders[page.offset](data, index)
                pixels = np.asarray(found)[0].astype(page.dtype, copy=False)  # fax bits are uint8
        except MemoryError:
            raise
        except Exception as error:  # codecs have no common error
            raise self._file.damaged(f"{self._name(index)} corrupt ({error})") from error
        return pixels

    def _strictly(self, data: bytes, page: tifffile.TiffPage) -> AnyArray | None:
        """Refuse what decoders repair without a word; decode a JPEG whose colours are as stated."""
        if page.compression in _JPEG_2000 and not data.rstrip(b"\0").endswith(_END):
            raise ValueError("no end marker")
        tables = self._tables[page.offset]
        if tables is None:
            return None
        whole = data[:2] + tables[2:-2] + data[2:]
        height, width, colours, _ = simplejpeg.decode_jpeg_header(whole)
        if height > _LARGER * (self.block_shape[0] + 8) or width > _LARGER * (self.block_shape[1] + 8):
            raise ValueError(f"a JPEG of {height}x{width} px")
        if (height, width) == self.block_shape and colours == _COLOURS.get((self._each, page.photometric)):
            pixels: AnyArray = simplejpeg.decode_jpeg(whole, "GRAY" if self._each == 1 else "RGB")
            return pixels
        most = "CMYK" if colours in {"CMYK", "YCCK"} else "GRAY"
        simplejpeg.decode_jpeg(whole, most, min_height=1, min_width=1, min_factor=8)
        return None

    def _name(self, index: int) -> str:
        """Describe a tile or strip with its position."""
        y = index // self._across % self._down * self.block_shape[0]
        x = index % self._across * self.block_shape[1]
        return f"{'tile' if self._planes[0].page.is_tiled else 'strip'} {index} at y={y}, x={x} px"


def _jpeg_tables(page: tifffile.TiffPage) -> bytes | None:
    """Return the tables that the JPEGs of a page share; None for other pages, and for slides in one JPEG."""
    each = page.samplesperpixel if page.planarconfig == 1 else 1
    known = page.compression in _JPEG and page.bitspersample == 8 and each in {1, 3, 4}
    if not known or page.jpegheader is not None:
        return None
    return page.jpegtables or b"\xff\xd8\xff\xd9"
