"""Slides that OpenSlide opens (MRXS, DICOM and others), read by region and level."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import extra
from tiledseg._storage import exists, is_file, is_folder, open_regular
from tiledseg._validate import did_you_mean, invalid, listed, named
from tiledseg.errors import FileError, SettingError
from tiledseg.io.file import LossyError, is_tiff
from tiledseg.io.metadata import number_of, pixel_size_of_scale
from tiledseg.io.regions import CachedBlocks, WholeImage, picked
from tiledseg.io.remote import is_remote
from tiledseg.io.source import Facts
from tiledseg.io.tiff import has_overlapping_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import ExitStack

    from tiledseg._types import AnyArray
    from tiledseg.io.file import Reader, Request
from tiledseg.io.regions import Regions
from tiledseg.io.source import Selection

SLIDE_SUFFIXES: tuple[str, ...] = (".czi", ".dcm", ".mrxs", ".svslide", ".vms", ".vmu")
"""Suffixes of slides that OpenSlide opens, and no other reader here."""

_DICOM_MARK, _DICOM_OFFSET = b"DICM", 128
_MOST_HEADER = 1 << 16  # bytes in which the number of a series is looked for
_SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI..|..\0\0)([0-9.]{1,64})", re.DOTALL)
_LOSSLESS = {"PNG", "BMP24"}  # image formats of MIRAX
_LOSSLESS_DICOM = {f"1.2.840.10008.1.2.{syntax}" for syntax in ("1", "1.99", "2", "4.80", "4.90", "5")}
_BLOCK = 512
_WHITE = "ffffff"


def is_slide(file: Reader, path: str) -> bool:
    """Say whether a file is one for OpenSlide: by its suffix, or the mark of DICOM."""
    if _has_its_scan_elsewhere(path):
        return True
    # OpenSlide takes any memory that a TIFF asks for, and ends the process where there is none.
    if is_tiff(file):
        return path.lower().endswith(".bif") and has_overlapping_tiles(file)
    if path.lower().endswith(SLIDE_SUFFIXES):
        return True
    end = _DICOM_OFFSET + len(_DICOM_MARK)
    return file.size >= end and file.take(_DICOM_OFFSET, len(_DICOM_MARK)) == _DICOM_MARK


def _has_its_scan_elsewhere(path: str) -> bool:
    """Say whether a file is a VSI that keeps its scan in a folder beside it; its own px are an overview."""
    place = Path(path)
    return place.suffix.lower() == ".vsi" and is_folder(place.with_name(f"_{place.stem}_"))


def dicom_series(path: Path) -> str | None:
    """Find the series that a DICOM file belongs to: its files are one slide; None where it states none."""
    try:
        with open_regular(path) as handle:
            start = handle.read(_MOST_HEADER)
    except FileError:
        return None
    found = _SERIES.search(start) if start[_DICOM_OFFSET:].startswith(_DICOM_MARK) else None
    return found and found[1].decode()


def slide_source(
    file: Reader, path: str, request: Request, selection: Selection, stack: ExitStack
) -> tuple[Regions, Facts]:
    """Open a level of a slide, or its label or macro image."""
    if is_remote(path):
        fix = "Download it with the files beside it, and open the copy."
        raise file.bad("be a local file", "the address of a slide that only OpenSlide opens", fix)
    if _has_its_scan_elsewhere(path):
        got = "an Olympus slide whose scan is in the folder beside it"
        fix = "Export it as OME-TIFF, for example with QuPath or bfconvert."
        raise file.bad("be a slide that OpenSlide opens", got, fix)
    openslide = _library(file)
    _check_companions(file, Path(path))
    with _errors(file):
        slide = stack.enter_context(openslide.OpenSlide(os.fsencode(path)))
    selection.plane_of(file, {})
    if request.is_stored:
        _check_lossless(file, slide.properties)
    if request.page not in {None, 0}:
        return _associated(file, slide, str(request.page), request, selection)
    sizes = tuple((int(height), int(width)) for width, height in slide.level_dimensions)
    level = selection.level_of(file, len(sizes))
    y, x = (number_of(str(slide.properties.get(f"openslide.mpp-{axis}"))) for axis in "yx")
    size = pixel_size_of_scale((y, x), ("µm", "µm"))
    size = size and size.shrunk(sizes[0][0] / sizes[level][0], sizes[0][1] / sizes[level][1])
    blocks = _SlideBlocks(file, slide, level, sizes[level], selection.channels_of(file, 3))
    identity = {"slide": slide.properties.get("openslide.quickhash-1", "")}
    return CachedBlocks(blocks), Facts(file.name, size, sizes, level, identity)


def _library(file: Reader) -> Any:  # an optional library
    try:
        return extra("openslide", "slides")
    except SettingError as error:
        fix = 'Run `pip install "tiledseg[slides]"`.'
        raise file.bad("be opened by OpenSlide, which is not installed", "a slide", fix) from error


@contextmanager
def _errors(file: Reader) -> Iterator[None]:
    """Turn an error of OpenSlide into a FileError."""
    openslide = extra("openslide", "slides")
    try:
        yield
    except openslide.OpenSlideUnsupportedFormatError as error:
        fix = "Export it as OME-TIFF, for example with QuPath or bfconvert."
        raise file.bad("be a slide that OpenSlide opens", "another format, or a single image", fix) from error
    except openslide.OpenSlideError as error:
        raise file.damaged(f"OpenSlide's error: {error}") from error


def _check_lossless(file: Reader, properties: Mapping[str, str]) -> None:
    """Refuse labels of which the slide does not state that no codec has changed them."""
    formats = [value for key, value in properties.items() if key.endswith(".IMAGE_FORMAT")]
    syntax = properties.get("dicom.TransferSyntaxUID", "")
    lossy = properties.get("dicom.LossyImageCompression") == "01"  # by an earlier program
    if (formats and {*formats} <= _LOSSLESS) or (syntax in _LOSSLESS_DICOM and not lossy):
        return
    fix = "Export the labels as PNG or TIFF, or pass a threshold."
    got = f"a slide that {f'is of {listed(formats, 3)}' if formats else 'does not state it'}"
    raise invalid(LossyError, file.name, must="be lossless to hold labels", got=got, fix=fix)


def _check_companions(file: Reader, path: Path) -> None:
    """Refuse pipes and devices among the files that OpenSlide would open beside this one."""
    beside = path.with_suffix("")
    folder = beside if path.suffix.lower() == ".mrxs" and is_folder(beside) else path.absolute().parent
    for entry in folder.iterdir():
        if exists(entry) and not (is_file(entry) or is_folder(entry)):
            got = f"{named(entry)}, a pipe or a device"
            raise file.bad("have regular files beside it", got, "Copy the slide to a folder of its own.")


def _associated(
    file: Reader,
    slide: Any,
    name: str,
    request: Request,
    selection: Selection,
) -> tuple[Regions, Facts]:
    """Read the label, the macro image or the thumbnail of a slide."""
    if name not in slide.associated_images:
        known = list(slide.associated_images)
        fix = did_you_mean(name, known) if known else "Leave `page` out."
        raise file.bad(f"have page {name!r}", f"the pages {known} beside the scan", fix)
    selection.level_of(file, 1)
    height, width = (
        int(slide.properties[f"openslide.associated.{name}.{end}"]) for end in ("height", "width")
    )
    file.check_size(height, width, min(request.max_pixels, selection.whole_pixels))
    with _errors(file):
        pixels = _on_background(np.asarray(slide.associated_images[name]), _WHITE)
    pixels = picked(pixels, selection.channels_of(file, 3))
    return WholeImage(pixels), Facts(file.name, None, (pixels.shape[:2],), 0, {})


class _SlideBlocks:
    """A level in blocks."""

    def __init__(
        self,
        file: Reader,
        slide: Any,
        level: int,
        size: tuple[int, int],
        channels: list[int] | None,
    ) -> None:
        self._file, self._slide, self._level, self._channels = file, slide, level, channels
        count = 3 if channels is None else len(channels)
        self.shape: tuple[int, ...] = size if count == 1 else (*size, count)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.block_shape: tuple[int, int] = (_BLOCK, _BLOCK)
        self._factors = slide.level_dimensions[0][0] / size[1], slide.level_dimensions[0][1] / size[0]
        self._background = slide.properties.get("openslide.background-color", _WHITE)

    def block(self, row: int, column: int) -> AnyArray:
        """Read a block, cut off at the end of the image; px that were not scanned have the background."""
        y, x = row * _BLOCK, column * _BLOCK
        size = (min(_BLOCK, self.shape[1] - x), min(_BLOCK, self.shape[0] - y))
        place = (round(x * self._factors[0]), round(y * self._factors[1]))
        with _errors(self._file):
            found = self._slide.read_region(place, self._level, size)
        return picked(_on_background(np.asarray(found), self._background), self._channels)


def _on_background(pixels: AnyArray, background: str) -> AnyArray:
    """Lay RGBA on a colour."""
    colours, alpha = pixels[..., :3], pixels[..., 3:].astype(np.uint16)
    if (alpha == 255).all():
        return np.ascontiguousarray(colours)
    below = np.frombuffer(bytes.fromhex(background), np.uint8)
    mixed: AnyArray = (colours * alpha + below * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)
