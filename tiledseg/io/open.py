"""open_image: images of every format, read by region."""

from __future__ import annotations

import io
import math
import operator
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._arrays import looks_channels_first
from tiledseg._validate import invalid, one_of, path_text, whole_number
from tiledseg.errors import ArrayError, SettingError
from tiledseg.io.file import (
    MAX_PIXELS,
    Reader,
    Request,
    check_max_pixels,
    check_one_page,
    check_page,
    opened,
    sniff,
    state_of,
)
from tiledseg.io.metadata import pixel_size_from
from tiledseg.io.ome_files import ome_files, ome_files_source
from tiledseg.io.png import pixel_size_of_png, png_bands
from tiledseg.io.raster import read_raster
from tiledseg.io.regions import CachedBlocks, RawRows, Regions, RepeatedChannels, WholeImage, picked
from tiledseg.io.remote import is_remote, shown_address
from tiledseg.io.slides import is_slide, slide_source
from tiledseg.io.source import Facts, ImageSource, Selection, array_source, as_array
from tiledseg.io.tiff import tiff_source
from tiledseg.io.zarr import is_zarr, zarr_source

if TYPE_CHECKING:
    from tiledseg._types import PathLike, Source
    from tiledseg.io.file import Alpha, Kind
    from tiledseg.io.metadata import PixelSize

MAX_REGION_PIXELS = 2**38
"""Default limit on height times width of an image that is read by region, in px."""

_ONE_ENTRY = 'Save the array alone; of cellpose: numpy.load(path, allow_pickle=True).item()["masks"].'
_NPY_MAGIC = b"\x93NUMPY"
_MOST_HEADER = 10_000  # bytes of an .npy


def open_image(  # noqa: PLR0913  one for each thing that a file can hold several of
    image: PathLike | Source,
    *,
    level: int = 0,
    channels: int | Sequence[int] | None = None,
    at: Mapping[str, int] | None = None,
    page: int | str | None = None,
    max_pixels: int | None = None,
    alpha: Alpha = "refuse",
    pixel_size: PixelSize | float | tuple[float, float] | None = None,
) -> ImageSource:
    """Open an image of which only the slices that are indexed are read.

    TIFF is read by its tiles or strips, zarr (2 and 3) and OME-Zarr (0.4 and 0.5, extra ``zarr``) by their
    chunks, ``.npy`` by its rows, other slides (MIRAX, DICOM and what else OpenSlide opens, extra ``slides``)
    by their tiles, a PNG of more than 64 MiB that is not interlaced by bands of rows; another PNG, a JPEG,
    BMP or WebP is decoded whole. At an address (extra ``remote``), the bytes of a region are fetched. Axes,
    levels and px size come from the metadata. Otherwise the rules of
    `read_image` apply.

    Parameters
    ----------
    image : path or array_like
        A regular file, a zarr folder, or an address such as ``https://host/slide.svs``. An array, (H, W) or
        (H, W, C), is opened to state its `pixel_size`; no other option applies to it.
    level : int
        Which level of a pyramid: 0 for the image, 1 and up for its smaller copies.
    channels : int or sequence of int, optional
        The channels to read, from 0, in the order given; all where it is None. ``(0, 0, 0)`` gives a grey
        image to a network of RGB.
    at : mapping, optional
        Position along ``z`` and ``t``, for example ``{"z": 3}``; needed where a file has several.
    page : int or str, optional
        Which page of a TIFF, from 0; or an image beside the scan of a slide, for example ``"label"`` or
        ``"macro"``.
    max_pixels : int, optional
        Limit on the height times width that the file declares, in px. None means 2**38 where it is read by
        region, and 2**30 where it must be decoded whole.
    alpha : {'refuse', 'drop', 'keep'}
        An alpha channel that is not opaque everywhere is an error, raised when the px are read, or it is
        ignored. ``"keep"`` returns it as the last channel.
    pixel_size : PixelSize, float or tuple of float, optional
        Height and width in µm of a px of level 0, in place of what the file states; one number for both, or
        two, (y, x).

    Returns
    -------
    ImageSource
        (H, W) or (H, W, C), with shape, dtype and slicing; to be closed, for example by a ``with`` block.

    Raises
    ------
    ArrayError
        If an array cannot be an image.
    FileError
        If the file cannot be read, is damaged, is larger than the limit, or is ambiguous.
    SettingError
        If an option has an invalid value or does not apply, or the library that reads the format is not
        installed.

    See Also
    --------
    read_image : Read a whole image into memory.

    Examples
    --------
    >>> import numpy as np
    >>> path = getfixture("tmp_path") / "large.npy"
    >>> np.save(path, np.arange(12, dtype=np.uint8).reshape(3, 4))
    >>> with open_image(path) as image:
    ...     image.shape, image[1:3, 1:3].tolist()
    ((3, 4), [[5, 6], [9, 10]])
    >>> open_image(np.zeros((3, 4)), pixel_size=0.25).pixel_size
    PixelSize(y=0.25, x=0.25)
    """
    one_of("alpha", alpha, ("refuse", "drop", "keep"))
    check_page(page)
    if max_pixels is not None:
        check_max_pixels(max_pixels)
    whole = MAX_PIXELS if max_pixels is None else max_pixels
    selection = selection_of(level, channels, at, whole)
    size = pixel_size_from(pixel_size)
    if not isinstance(image, str | os.PathLike):
        _check_array(image, (level, channels, at, page, max_pixels, alpha))
        return array_source(as_array(image), size)
    most = MAX_REGION_PIXELS if max_pixels is None else max_pixels
    return part_of(image, Request(page, most, alpha, purpose="source"), selection, size)


def selection_of(level: int, channels: object, at: object, whole_pixels: int) -> Selection:
    """Check which level, channels and plane are chosen."""
    return Selection(whole_number("level", level, least=0), _channels(channels), _positions(at), whole_pixels)


def part_of(
    path: PathLike, request: Request, selection: Selection, size: PixelSize | None = None
) -> ImageSource:
    """Open a part of a file; the request says whether it is an image or a mask."""
    once = tuple(dict.fromkeys(selection.channels or ())) or None
    single = replace(selection, channels=once)
    text = path_text(path)
    place = text if is_remote(text) else os.path.realpath(text)
    state = state_of(place)

    def other(number: int) -> ImageSource:
        return part_of(place, request, replace(selection, level=whole_number("level", number, least=0)), size)

    with ExitStack() as stack:
        if is_zarr(text):
            regions, facts = zarr_source(text, request, single)
        else:
            file = stack.enter_context(opened(path))
            regions, facts = _of_file(file, text, request, single, stack)
            facts.identity.update(size=file.size, changed=state[1])
        if once is not None and selection.channels is not None and once != selection.channels:
            regions = RepeatedChannels(regions, [once.index(one) for one in selection.channels])
        facts = _of_px_size(facts, size)
        Reader(facts.name, io.BytesIO(), 0).check_size(regions.shape[0], regions.shape[1], request.max_pixels)
        facts.identity.update(
            path=shown_address(place) if is_remote(text) else place,
            level=selection.level,
            page=request.page,
            channels=selection.channels,
            at=dict(selection.at),
        )
        return ImageSource(regions, facts, stack.pop_all(), (place, state), other)


def _check_array(image: object, options: tuple[object, ...]) -> None:
    """Check what is opened in place of a file."""
    if isinstance(image, ImageSource):
        fix = "Pass pixel_size where it is opened."
        raise invalid(ArrayError, "image", must="be a path or an array", got="an open image", fix=fix)
    if hasattr(image, "shape") and options != (0, None, None, None, None, "refuse"):
        must, fix = "be a path, where an option besides pixel_size is given", "Slice the array."
        raise invalid(SettingError, "image", must=must, got="an array", fix=fix)


def _of_px_size(facts: Facts, pixel_size: PixelSize | None) -> Facts:
    """Replace the px size that a file states."""
    if pixel_size is None:
        return facts
    whole, read = facts.levels[0], facts.levels[facts.level]
    return replace(facts, pixel_size=pixel_size.shrunk(whole[0] / read[0], whole[1] / read[1]))


def _of_file(
    file: Reader, text: str, request: Request, selection: Selection, stack: ExitStack
) -> tuple[Regions, Facts]:
    if is_slide(file, text):
        return slide_source(file, text, request, selection, stack)
    if is_npy(file):
        check_one_page(file, request, "an .npy")
        regions: Regions = _npy_regions(file, selection)
        return regions, Facts(file.name, None, (regions.shape[:2],), 0, {})  # type: ignore[arg-type]
    several = ome_files(file, text) if request.page is None else None
    if several is not None:
        return ome_files_source(several, request, selection, stack)
    kind = sniff(file)
    if kind == "tiff":
        return tiff_source(file, request, selection, stack)
    selection.level_of(file, 1)
    selection.plane_of(file, {})
    request = replace(request, purpose="image" if request.purpose == "source" else request.purpose)
    regions = _raster_regions(file, kind, request, selection)
    size = pixel_size_of_png(file) if kind == "png" else None  # others state that of a print
    return regions, Facts(file.name, size, ((regions.shape[0], regions.shape[1]),), 0, {})


def _raster_regions(file: Reader, kind: Kind, request: Request, selection: Selection) -> Regions:
    bands = png_bands(file, kind, request)
    if bands is not None:
        rows: Regions = CachedBlocks(bands)
        channels = selection.channels_of(file, bands.shape[2] if len(bands.shape) == 3 else 1)
        return rows if channels is None else CachedBlocks(_PickedChannels(rows, channels))
    pixels = read_raster(file, kind, replace(request, max_pixels=selection.whole_pixels))
    channels = selection.channels_of(file, pixels.shape[2] if pixels.ndim == 3 else 1)
    return WholeImage(picked(pixels, channels))


def _channels(channels: object) -> tuple[int, ...] | None:
    if channels is None:
        return None
    given = channels if isinstance(channels, Sequence) and not isinstance(channels, str) else [channels]
    numbers = tuple(whole_number("channels", one, least=0) for one in given)
    if not numbers:
        fix = "List their numbers, for example (0, 2)."
        raise invalid(SettingError, "channels", must="list channels", got=channels, fix=fix)
    return numbers


def _positions(at: object) -> dict[str, int]:
    if at is None:
        return {}
    if not isinstance(at, Mapping) or not set(at) <= {"z", "t"}:
        fix = 'For example, pass {"z": 0}. Planes along other axes of a TIFF are chosen by page.'
        raise invalid(SettingError, "at", must="map z and t to positions", got=at, fix=fix)
    return {
        str(axis): whole_number(f"at[{axis!r}]", operator.index(place), least=0) for axis, place in at.items()
    }


def is_npy(file: Reader) -> bool:
    """Say whether a file is NumPy's own."""
    return file.take(0, min(file.size, len(_NPY_MAGIC))) == _NPY_MAGIC


def _npy_regions(file: Reader, selection: Selection) -> Regions:
    """Open an array of shape (H, W) or (H, W, C)."""
    selection.level_of(file, 1)
    selection.plane_of(file, {})
    shape, fortran, dtype, start = _npy_header(file)
    if len(shape) not in {2, 3} or min(shape) < 1 or dtype.kind not in "biuf":
        got = f"{dtype} of shape {shape}"
        fix = "Save the image, channels last." if dtype.kind != "O" else _ONE_ENTRY
        raise file.bad("hold numbers of shape (H, W) or (H, W, C)", got, fix)
    if looks_channels_first(shape):
        got = f"shape {shape}, which could be (H, W, C) or (C, H, W)"
        raise file.bad("have channels last", got, "Move them there with numpy.moveaxis(image, 0, -1).")
    end = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if file.size != end:
        got = f"{file.size} bytes where {shape} of {dtype} takes {end}"
        raise file.bad("be one whole array", got, "Copy it again, or save each array in a file of its own.")
    rows: Regions = RawRows(file, shape, dtype, (start,), shape[0])
    if fortran:
        height, width, *others = shape
        rows = _Columns(
            RawRows(file, (math.prod(others) * width, height), dtype, (start,), math.prod(others) * width),
            shape,
        )
    channels = selection.channels_of(file, shape[2] if len(shape) == 3 else 1)
    return rows if channels is None else CachedBlocks(_PickedChannels(rows, channels))


def _npy_header(file: Reader) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    head = io.BytesIO(file.take(0, min(file.size, _MOST_HEADER)))
    with suppress(Exception):  # NumPy parses it as Python: its tokens, syntax, names and numbers can all fail
        version = np.lib.format.read_magic(head)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(head, max_header_size=_MOST_HEADER)
        return tuple(shape), bool(fortran), np.dtype(dtype), head.tell()
    raise file.damaged("an .npy header that NumPy cannot read")


class _Columns(Regions):
    """An array in Fortran order: the columns of a channel are rows in the file."""

    def __init__(self, columns: RawRows, shape: tuple[int, ...]) -> None:
        super().__init__(shape, columns.dtype)
        self._columns = columns

    def read(self, rows: slice, columns: slice) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """Read a rectangle."""
        starts = range(0, self._columns.shape[0], self.shape[1])
        parts = [
            self._columns.read(slice(start + columns.start, start + columns.stop), rows).T for start in starts
        ]
        return np.stack(parts, axis=-1) if len(self.shape) == 3 else np.ascontiguousarray(parts[0])


class _PickedChannels:
    """Some channels of raw rows, in blocks."""

    def __init__(self, rows: Regions, channels: list[int]) -> None:
        count = (len(channels),) if len(channels) > 1 else ()
        self.shape: tuple[int, ...] = (*rows.shape[:2], *count)
        self.dtype: np.dtype[np.generic] = rows.dtype
        self.block_shape: tuple[int, int] = (512, 512)
        self._rows, self._channels = rows, channels

    def block(self, row: int, column: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """Read a block, cut off at the end of the image."""
        y, x = row * 512, column * 512
        rows, columns = slice(y, min(y + 512, self.shape[0])), slice(x, min(x + 512, self.shape[1]))
        return np.ascontiguousarray(picked(self._rows.read(rows, columns), self._channels))
