"""TIFF, read whole or by region; tifffile's series state which pages are the image."""

from __future__ import annotations

import logging
import math
import re
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import lazy
from tiledseg._validate import listed
from tiledseg.errors import FileError
from tiledseg.io.file import is_turned, upright
from tiledseg.io.metadata import (
    GEO_TYPES,
    PixelSize,
    Placement,
    geo_tags,
    is_ome,
    pixel_size_of,
    pixel_size_of_scale,
)
from tiledseg.io.regions import CachedBlocks, WholeImage, read_whole
from tiledseg.io.source import Facts, Selection
from tiledseg.io.tiff_checks import (
    check_complete,
    check_metadata,
    check_page,
    directories_of,
    images_of,
    is_ndpi,
)
from tiledseg.io.tiff_pixels import Plane, TiffBlocks, colours_of, raw_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import tifffile

    from tiledseg._types import AnyArray
    from tiledseg.io.file import Reader, Request
    from tiledseg.io.regions import Regions
else:
    tifffile = lazy("tifffile")

_log = logging.getLogger("tiledseg")
_LISTED = 8
_XMP, _MOST_XMP = 700, 1 << 20  # bytes
_MOST_TILE = 1 << 26  # px of a tile: OpenSlide takes any memory
_LSM_INFO, _UIC = 34412, (33628, 33631)  # what microscopes state in LSM and STK
_OVERLAP = re.compile(rb'<TileJointInfo\b[^>]*\bOverlap[XY]="-?0*[1-9]')  # of neighbouring tiles, in px
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 274, 282, 283, 296
_SLIDES = {"svs", "ndpi", "scn", "bif", "philips", "avs", "qpi"}  # one series is the scan, the largest
_ASIDE = re.compile(r"\b(label|macro|overview|thumbnail|barcode)\b", re.IGNORECASE)  # names in OME
_IMAGE_NUMBER = re.compile(r"image (\d{1,6})", re.IGNORECASE)  # of the metadata, from 0
_BY_SHAPE = {"generic", "uniform"}  # series without metadata on how the pages are related
_RATIO_TOLERANCE = 0.02  # of height to width, between the image and a smaller copy of it


def tiff_source(
    file: Reader, request: Request, selection: Selection, stack: ExitStack
) -> tuple[Regions, Facts]:
    """Open a TIFF for reading by region."""
    with _decoding(file):
        image = _Image(file, request, selection, stack)
        sizes = tuple((planes[0].page.imagelength, planes[0].page.imagewidth) for planes in image.levels)
        level = selection.level_of(file, len(sizes))
        size = image.pixel_size(sizes[0][0] / sizes[level][0], sizes[0][1] / sizes[level][1])
        turn = image.orientation(level)
        place = image.placement(sizes[0][0] / sizes[level][0], sizes[0][1] / sizes[level][1])
        if turn == 1:
            return image.regions(level), Facts(file.name, size, sizes, level, {}, place)
        if place is not None:
            _log.warning("%s: its place on earth is left out, since the image is turned.", file.name)
        file.check_size(*sizes[level], selection.whole_pixels)
        pixels = upright(read_whole(image.regions(level)), turn)
        if is_turned(turn):
            sizes = tuple((width, height) for height, width in sizes)
            size = size and PixelSize(size.x, size.y)
        return WholeImage(pixels), Facts(file.name, size, sizes, level, {})


def has_overlapping_tiles(file: Reader) -> bool:
    """Say whether a Ventana slide states that its tiles overlap: only stitching puts them in place."""
    with _decoding(file):
        directories_of(file)  # checked before tifffile reads them
        file.handle.seek(0)
        with tifffile.TiffFile(file.handle, name="image", _multifile=False, is_ndtiff=False) as tiff:
            found = [tiff.pages[number] for number in range(min(8, len(tiff.pages)))]
            pages = [page for page in found if isinstance(page, tifffile.TiffPage)]
            if any(page.tilewidth * page.tilelength > _MOST_TILE for page in pages):
                raise file.damaged("a tile larger than any slide has")
            stated = [page.tags.valueof(_XMP) for page in pages]
            overlaps = [_OVERLAP.search(one) for one in stated if isinstance(one, bytes)]
            return bool(tiff.is_bif) and any(overlaps)


def read_tiff(file: Reader, request: Request) -> AnyArray:
    """Read one page, or the pages that hold the channels of one image."""
    with _image_in(file, request) as image:
        return upright(read_whole(image.regions(0)), image.orientation(0))


def tiff_header(file: Reader, request: Request) -> tuple[tuple[int, ...], int]:
    """Return the shape that `read_tiff` returns, and the orientation tag, from the tags alone."""
    with _image_in(file, request) as image:
        (height, width, *channels), turn = image.regions(0).shape, image.orientation(0)
        return (width, height, *channels) if is_turned(turn) else (height, width, *channels), turn


@contextmanager
def _image_in(file: Reader, request: Request) -> Iterator[_Image]:
    with _decoding(file), ExitStack() as stack:
        yield _Image(file, request, Selection(0, None, {}, request.max_pixels), stack)


@contextmanager
def _decoding(file: Reader) -> Iterator[None]:
    """Turn an error of tifffile into a FileError."""
    try:
        yield
    except (FileError, OSError, MemoryError):
        raise
    except Exception as error:  # tifffile has no common error, and struct, zlib and NumPy raise through it
        if "imagecodecs" in str(error):
            fix = 'Install it with `pip install "tiledseg[codecs]"`.'
            raise file.bad("be readable without imagecodecs", str(error), fix) from error
        raise file.damaged(f"an error of tifffile: {error}") from error


class _Image:
    """The planes that hold the channels of one image, and those of its smaller copies."""

    def __init__(self, file: Reader, request: Request, selection: Selection, stack: ExitStack) -> None:
        self._file, self._request, self._selection = file, request, selection
        self._directories = directories_of(file)  # checked before tifffile reads them
        layout: dict[str, Any] = {"is_ndpi": True} if is_ndpi(file) else {}
        file.handle.seek(0)
        opened = tifffile.TiffFile(file.handle, name="image", _multifile=False, is_ndtiff=False, **layout)
        self._tiff = stack.enter_context(opened)
        self._number: int | None = None  # of the image in the metadata
        page = request.page
        self.levels: list[list[Plane]] = (
            self._of_series(page) if page is None or isinstance(page, str) else self._of_page(page)
        )

    def orientation(self, level: int) -> int:
        """Read the orientation tag of a level."""
        return int(self.levels[level][0].page.tags.valueof(_ORIENTATION, default=1) or 1)

    def pixel_size(self, down: float, across: float) -> PixelSize | None:
        """Read the size of a px, of a copy that is smaller by two factors."""
        page, shared = self.levels[0][0].page, str(self._tiff.pages.first.description or "")
        of_all = shared.startswith("ImageJ=") or is_ome(shared)
        description = shared if of_all else str(page.description or "")
        if self._tiff.is_bif and "level=" in description:
            description = self._scanner() or description
        if (self._tiff.is_lsm or self._tiff.is_stk) and not self._tiff.is_ome:  # OME states it by itself
            size = self._of_microscope()
            return size and size.shrunk(down, across)
        resolution = [_ratio(page.tags.valueof(tag)) for tag in (_Y_RESOLUTION, _X_RESOLUTION)]
        unit = int(page.tags.valueof(_RESOLUTION_UNIT, default=0) or 0)
        size = pixel_size_of(description, (resolution[0], resolution[1]), unit, self._number)
        return size and size.shrunk(down, across)

    def _of_microscope(self) -> PixelSize | None:
        """Read the px size that an LSM or STK states."""
        tags = self._tiff.pages.first.tags
        if self._tiff.is_lsm:
            stated, names, unit = _mapping(tags.valueof(_LSM_INFO)), ("VoxelSizeY", "VoxelSizeX"), "m"
        else:  # the later tag overrides the first one
            stated = {key: value for tag in _UIC for key, value in _mapping(tags.valueof(tag)).items()}
            names, unit = ("YCalibration", "XCalibration"), str(stated.get("CalibrationUnits", ""))
            stated = stated if stated.get("SpatialCalibration", 1) else {}  # 0: it is switched off
        try:
            y, x = (float(stated.get(name, 0)) for name in names)
        except (TypeError, ValueError):  # damaged: the px are whole, their size is not known
            return None
        return pixel_size_of_scale((y, x), (unit, unit))

    def _scanner(self) -> str:
        """Read what the scanner of a Ventana slide states, in the XMP of one of the first pages."""
        for page in (self.levels[0][0].page, self._tiff.pages.first):
            stated = page.tags.valueof(_XMP)
            if isinstance(stated, bytes) and b"<iScan" in stated[:_MOST_XMP]:
                return stated[:_MOST_XMP].decode("utf-8", "replace")
        return ""

    def placement(self, down: float, across: float) -> Placement | None:
        """Read the place on earth, of a copy that is smaller by two factors."""
        tags = self.levels[0][0].page.tags
        try:
            geo = geo_tags({code: tags.valueof(code) for code in GEO_TYPES}, down, across)
        except (ValueError, TypeError):
            _log.warning(
                "%s: the tags of its place on earth cannot be read, and are left out.", self._file.name
            )
            return None
        return Placement(geo=geo) if geo else None

    def regions(self, level: int) -> Regions:
        """Check the planes of a level, and open them for reading."""
        file, request, planes = self._file, self._request, self.levels[level]
        for plane in planes:
            check_complete(file, plane.page)
            check_page(file, plane.page, request, plane.shift)
        colours = [colours_of(file, plane.page, request) for plane in planes]
        forms = {
            (plane.page.imagelength, plane.page.imagewidth, str(plane.page.dtype), one.form)
            for plane, one in zip(planes, colours, strict=True)
        }
        if len(forms) > 1:
            raise file.damaged("channels of different shapes")
        total = colours[0].channels * len(planes)
        channels = self._selection.channels_of(file, total)
        count = total if channels is None else len(channels)
        if request.is_mask and count not in {1, 3}:
            fix = f"Choose the channel that holds the labels by channels=0 to channels={count - 1}."
            raise file.bad("have 1 or 3 channels to be a mask", f"{count} channels", fix)
        if channels is None and (raw := raw_rows(file, planes, colours[0], total)) is not None:
            return raw
        return CachedBlocks(TiffBlocks(file, planes, colours[0], request, channels))

    def _of_page(self, number: int) -> list[list[Plane]]:
        """Find the page with the requested number, and its smaller copies."""
        if number >= len(self._directories):
            fix = f"Pass page=0 to page={len(self._directories) - 1}."
            raise self._file.bad(f"have page {number}", f"{len(self._directories)} pages", fix)
        page = self._page(self._tiff.pages[number])
        for index, one in enumerate(self._series(unless_refused=True)):
            if any(found is not None and found.index == number for found in one):
                self._number = index
                if len(one) == 1 and one.kind not in _BY_SHAPE and one.shape == page.shape:
                    return self._planes(one)
        self._selection.plane_of(self._file, {})
        return self._pyramid([page])

    def _series(self, *, unless_refused: bool = False) -> list[tifffile.TiffPageSeries]:
        """Let tifffile read the metadata, once it is checked."""
        first = self._tiff.pages.first
        try:
            check_metadata(
                self._file, str(first.description or ""), self._directories, int(first.samplesperpixel)
            )
        except FileError:
            if unless_refused:
                return []
            raise
        return list(self._tiff.series)

    def _of_series(self, name: str | None) -> list[list[Plane]]:
        """Find the requested planes by the metadata of their series."""
        series = self._series()
        if name is not None:
            image = self._named(name, series)
            self._number = series.index(image)
            return self._planes(image)
        images = [one for one in series if not _is_copy(one.keyframe)] or series
        if images[0].kind in _BY_SHAPE:
            pages = images_of(self._directories)
            if len(pages) > 1:
                raise self._several()
            self._selection.plane_of(self._file, {})
            return self._pyramid([self._page(self._tiff.pages[pages[0].index])])
        image = self._scan(images)
        self._number = series.index(image)
        return self._planes(image)

    def _named(self, name: str, series: list[tifffile.TiffPageSeries]) -> tifffile.TiffPageSeries:
        """Find the image of a slide that has a name, as `label` or `macro`."""
        number = _IMAGE_NUMBER.fullmatch(name)
        if number and int(number[1]) < len(series):
            return series[int(number[1])]
        word = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
        same = [one for one in series if one.name == name]
        found = same or [one for one in series if word.search(one.name)]
        if len(found) != 1:
            names = [one.name for one in series if one.name]
            got = f"images named {listed(names, _LISTED)}" if names else "images without names"
            fix = f"Pass the number of a page, from 0, or page='image 0' to page='image {len(series) - 1}'."
            raise self._file.bad(f"have one page {name!r}", got, fix)
        return found[0]

    def _scan(self, images: list[tifffile.TiffPageSeries]) -> tifffile.TiffPageSeries:
        """Find the image of a slide; its label and its macro image are images, too."""
        largest = max(images, key=lambda one: one.keyframe.imagelength * one.keyframe.imagewidth)
        others = [one for one in images if not _ASIDE.search(one.name)]
        with_levels = [one for one in images if len(one.levels) > 1]
        if len(images) == 1 or largest.kind in _SLIDES or [largest] in (others, with_levels):
            return largest
        raise self._several()

    def _planes(self, series: tifffile.TiffPageSeries) -> list[list[Plane]]:
        """Find the pages of the chosen plane in a series, and in its levels."""
        numbers, count = self._numbers(series)
        if len(series) == 1 < count:  # ImageJ above 4 GB: one directory; its planes are contiguous
            page = self._page(series[0])
            if page.samplesperpixel > 1 and (series.axes[-3:], series.shape[-3:]) != (page.axes, page.shape):
                got, fix = f"axes {series.axes} of shape {series.shape}", "Write it again without axes."
                raise self._file.bad(f"have metadata that fit its page, {page.shape}", got, fix)
            if not page.is_contiguous or page.bitspersample % 8:
                raise self._file.damaged(f"{count} planes in one page that is not contiguous")
            return [[Plane(page, number * page.nbytes) for number in numbers]]
        if len(series) != count:
            raise self._file.damaged(f"{len(series)} pages for {count} planes")
        pages = [self._page(series[number]) for number in numbers]
        levels = [level for level in series.levels[1:] if len(level) == len(series)]
        return self._pyramid(pages, [[self._page(level[number]) for number in numbers] for level in levels])

    def _numbers(self, series: tifffile.TiffPageSeries) -> tuple[list[int], int]:
        """List the numbers of the chosen planes, channel by channel, and count all planes."""
        # The planes of an STK that states neither distances nor times were taken one after the other.
        names = series.axes.replace("I", "T") if series.kind == "stk" else series.axes
        axes = {axis: n for axis, n in zip(names, series.shape, strict=True) if axis not in "YXS"}
        page = series.keyframe
        shared = "S" not in series.axes and axes.get("C") == page.samplesperpixel > 1
        if shared and math.prod(axes.values()) != len(series):
            del axes["C"]  # they are the samples of one page
        axes = {axis: length for axis, length in axes.items() if length > 1}
        count, channels = math.prod(axes.values()), axes.get("C", 1)
        if not set(axes) <= set("CZT"):
            raise self._several()
        others = {axis.lower(): n for axis, n in axes.items() if axis != "C"}
        place = self._selection.plane_of(self._file, others)
        numbers = []
        for channel in range(channels):
            where = [channel if axis == "C" else place[axis.lower()] for axis in axes]
            numbers.append(int(np.ravel_multi_index(where, tuple(axes.values()))) if axes else 0)
        return numbers, count

    def _several(self) -> FileError:
        """Build the error for several planes of which none was chosen."""
        pages, images = images_of(self._directories), self._tiff.series
        if len(pages) == 1 == len(images):
            fix = "Choose a plane with the `at` of read_image, read_mask or open_image."
            return self._file.bad("hold one image", f"axes {images[0].axes} of shape {images[0].shape}", fix)
        is_several = len(images) > 1 and (len(pages) == 1 or max(map(len, images)) > 1)
        if is_several and images[0].kind not in _BY_SHAPE:
            names = [f"{n} ({one.name!r}, {one.axes} {one.shape})" for n, one in enumerate(images)]
            fix = f"Pass page='image 0' to page='image {len(images) - 1}', or a name."
            got = f"{len(images)} images: {listed(names, _LISTED)}"
            return self._file.bad("hold one image", got, fix)
        sizes = listed([f"{page.index} ({page.height}x{page.width} px)" for page in pages], _LISTED)
        return self._file.bad(
            "hold one image", f"{len(pages)} pages: {sizes}", "Pass `page`, counted from 0."
        )

    def _page(self, found: tifffile.TiffPage | tifffile.TiffFrame | None) -> tifffile.TiffPage:
        """Read a page with all its tags."""
        if found is None:
            raise self._file.damaged("metadata of a plane without a page")
        return found if isinstance(found, tifffile.TiffPage) else found.aspage()

    def _pyramid(
        self, pages: list[tifffile.TiffPage], copies: list[list[tifffile.TiffPage]] | None = None
    ) -> list[list[Plane]]:
        """List the levels, from large to small: the pages, and their complete smaller copies."""
        levels, page = [pages], pages[0]
        for level in copies or zip(*(self._copies(one) for one in pages), strict=False):
            copy = level[0]
            down = page.imagelength / max(1, copy.imagelength)
            across = page.imagewidth / max(1, copy.imagewidth)
            slack = _RATIO_TOLERANCE + 1 / max(1, min(copy.imagelength, copy.imagewidth))
            same = (copy.samplesperpixel, copy.dtype) == (page.samplesperpixel, page.dtype)
            if same and copy.imagelength < levels[-1][0].imagelength and abs(down / across - 1) <= slack:
                levels.append(list(level))
        return [[Plane(one) for one in level] for level in levels]

    def _copies(self, page: tifffile.TiffPage) -> list[tifffile.TiffPage]:
        """List the copies that belong to a page (SubIFDs), or else those that follow it."""
        if page.subifds:
            if page.pages is None or not all(0 < offset < self._file.size for offset in page.subifds):
                raise self._file.damaged(f"smaller copies at bytes {page.subifds}")
            copies = [self._page(page.pages[number]) for number in range(len(page.subifds))]
            if _is_copy(page) and not all(int(one.subfiletype) & 1 for one in copies):  # raw files of cameras
                got = "a smaller copy, and the image behind it"
                raise self._file.bad("have its image on a page", got, "Export it as a TIFF without copies.")
            return copies
        following = takewhile(lambda one: one.extra, self._directories[page.index + 1 :])
        return [self._page(self._tiff.pages[one.index]) for one in following]


def _is_copy(page: tifffile.TiffPage) -> bool:
    """Return whether a page is a smaller copy or a transparency mask of another."""
    return bool(page.is_subifd or int(page.subfiletype) & 0b101)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _ratio(value: object) -> float:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return 0.0
