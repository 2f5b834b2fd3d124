"""OME-TIFF of several files in one folder, described in one of them or in a companion file."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._storage import check_component
from tiledseg._validate import listed, path_text
from tiledseg.errors import FileError
from tiledseg.io.file import opened, state_of
from tiledseg.io.metadata import attributes_of, is_ome, pixel_size_of
from tiledseg.io.regions import Regions
from tiledseg.io.source import Facts, Selection
from tiledseg.io.tiff import tiff_source
from tiledseg.io.tiff_checks import directories_of, first_description, images_of

if TYPE_CHECKING:
    from contextlib import ExitStack

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.io.file import Reader, Request

_MOST_TEXT = 1 << 26  # bytes of metadata
_MOST_PLANES = 1 << 16
_TEXTS = (b"<?xml", b"<OME:", b"<OME ", b"\xef\xbb\xbf<?")
_TIFFS = (b"II", b"MM")


@dataclass(frozen=True, slots=True)
class _Image:
    """An image of the metadata, and the file and page of each of its planes."""

    sizes: dict[str, int]  # of C, counted in planes, Z and T
    samples: int  # of a px of a plane, as it is stated
    planes: dict[tuple[int, int, int], tuple[str, int]]  # by (c, z, t)


@dataclass(frozen=True, slots=True)
class OmeFiles:
    """The metadata of an OME-TIFF of several files."""

    file: Reader
    path: str
    text: str

    @property
    def folder(self) -> str:
        """What stands before the name of each file."""
        return self.path[: -len(self.name)]

    @property
    def name(self) -> str:
        """The name of the opened file."""
        return re.split(r"[/\\]", self.path)[-1] if "\\" in self.path else self.path.rpartition("/")[2]


def ome_files(file: Reader, path: str) -> OmeFiles | None:
    """Find the metadata of an OME-TIFF of several files; None for any other file."""
    start = file.take(0, min(file.size, 5))
    if start[:2] in _TIFFS:
        text = first_description(file)
    elif start.startswith(_TEXTS) and file.size <= _MOST_TEXT:
        text = file.take(0, file.size).decode("utf-8", "replace")
    else:
        return None
    if not is_ome(text):
        return None
    found = OmeFiles(file, path, text)
    head = re.search(r"<(?:\w+:)?BinaryOnly\b([^>]*)>", text)
    if head is not None:
        name = attributes_of(head[1]).get("MetadataFile", "")
        return OmeFiles(file, path, _text_of(found, name))
    names = set(re.findall(r"\bFileName\s*=\s*[\"']([^\"']*)[\"']", text))
    return found if len(names) > 1 or start[:2] not in _TIFFS else None


def ome_set(path: PathLike) -> str | None:
    """Name the files of the image that a file is a part of; None where it is whole, or cannot be read."""
    try:
        with opened(path) as file:
            found = ome_files(file, path_text(path))
            planes = {} if found is None else _chosen(found)[1].planes
    except (FileError, OSError):
        return None
    names = sorted({name for name, _ in planes.values()})
    return "/".join([os.path.dirname(path_text(path)), *names]) if len(names) > 1 else None  # noqa: PTH120


def _text_of(found: OmeFiles, name: str) -> str:
    """Read the metadata of all files from the one that holds them."""
    check_component(name, "MetadataFile", "Export the image again.")
    try:
        with opened(found.folder + name) as file:
            if file.take(0, min(file.size, 2)) in _TIFFS:
                return first_description(file)
            return file.take(0, min(file.size, _MOST_TEXT)).decode("utf-8", "replace")
    except FileError as error:
        raise _missing(found, name) from error


def _missing(found: OmeFiles, name: str) -> FileError:
    must, got = "hold the whole image", f"a part of an OME-TIFF of several files, and {name} cannot be read"
    fix = "Copy all of its files into one folder, or pass `page` to read one page of this file."
    return found.file.bad(must, got, fix)


def ome_files_source(
    found: OmeFiles, request: Request, selection: Selection, stack: ExitStack
) -> tuple[Regions, Facts]:
    """Open the planes of an image, each in its file."""
    number, image = _chosen(found)
    place = selection.plane_of(found.file, {axis: image.sizes[axis.upper()] for axis in "zt"})
    several = image.sizes["C"] > 1
    whole = Selection(selection.level, None if several else selection.channels, {}, selection.whole_pixels)

    def plane(channel: int) -> tuple[Regions, Facts]:
        where = image.planes.get((channel, place["z"], place["t"]))
        return _plane(found, where, request, whole, stack)

    each = math.prod(plane(0)[0].shape[2:]) if several and image.samples > 1 else 1  # channels of a plane
    total = each * image.sizes["C"]
    chosen = (selection.channels_of(found.file, total) if several else None) or range(total)
    opened_planes = {number: plane(number) for number in sorted({one // each for one in chosen})}
    parts = list(opened_planes.values())
    forms = {(regions.shape, str(regions.dtype)) for regions, _ in parts}
    if len(forms) > 1 or (several and math.prod(parts[0][0].shape[2:]) != each):
        raise found.file.damaged(f"planes of {listed(sorted(map(str, forms)), 3)}")
    first, facts = parts[0]
    size = pixel_size_of(found.text, (0, 0), 0, number)
    (height, width), (down, across) = facts.levels[0], facts.levels[facts.level]
    size = size and size.shrunk(height / down, width / across)
    identity = {"files": [one.identity["files"] for _, one in parts]}
    joined = Facts(found.file.name, size or facts.pixel_size, facts.levels, facts.level, identity)
    if not several:
        return first, joined
    places = [(list(opened_planes).index(one // each), one % each) for one in chosen]
    return _Joined([regions for regions, _ in parts], places), joined


def _plane(
    found: OmeFiles, where: tuple[str, int] | None, request: Request, selection: Selection, stack: ExitStack
) -> tuple[Regions, Facts]:
    """Open a plane: a page of one of the files."""
    if where is None:
        raise found.file.damaged("OME metadata that name no file for a plane")
    name, page = where
    check_component(name, "FileName", "Export the image again.")
    try:
        file = stack.enter_context(opened(found.folder + name))
    except FileError as error:
        raise _missing(found, name) from error
    regions, facts = tiff_source(file, replace(request, page=page), selection, stack)
    facts.identity["files"] = [name, *state_of(found.folder + name)]
    return regions, facts


def _chosen(found: OmeFiles) -> tuple[int, _Image]:
    """Find the one image, or the one that the opened file is a part of."""
    blocks = re.split(r"<(?:\w+:)?Pixels\b", found.text)[1:]
    images = [_image_of(found, block) for block in blocks]
    own = [
        number for number, one in enumerate(images) if found.name in {name for name, _ in one.planes.values()}
    ]
    numbers = own or list(range(len(images)))
    if len(numbers) != 1:
        fix = "Open a TIFF of one of them, or pass `page` to read one page of this file."
        raise found.file.bad("describe one image", f"{len(images)} images", fix)
    return numbers[0], images[numbers[0]]


def _image_of(found: OmeFiles, block: str) -> _Image:
    """Read the sizes of an image, and where its planes are."""
    known = attributes_of(block.partition(">")[0])
    channels = re.search(r"<(?:\w+:)?Channel\b([^>]*)>", block)
    samples = _count(found, attributes_of(channels[1] if channels else ""), "SamplesPerPixel", 1)
    sizes = {axis: _count(found, known, f"Size{axis}", 1) for axis in "CZT"}
    sizes["C"] = -(-sizes["C"] // max(1, samples))
    order = [axis for axis in known.get("DimensionOrder", "XYCZT") if axis in "CZT"]
    total = math.prod(sizes.values())
    if sorted(order) != ["C", "T", "Z"] or not 0 < total <= _MOST_PLANES:
        raise found.file.damaged(f"OME metadata of {sizes} in the order {order}")
    planes: dict[tuple[int, int, int], tuple[str, int]] = {}
    for piece in re.split(r"<(?:\w+:)?TiffData\b", block)[1:][:_MOST_PLANES]:
        planes |= _planes_of(found, piece, {axis: sizes[axis] for axis in reversed(order)})
    return _Image(sizes, samples, planes)


def _planes_of(
    found: OmeFiles, piece: str, sizes: dict[str, int]
) -> dict[tuple[int, int, int], tuple[str, int]]:
    """Read which planes are on which pages of a file; the last axis of `sizes` is the fastest."""
    stated = attributes_of(piece.partition(">")[0])
    file = re.search(r"\bFileName\s*=\s*[\"'][^\"']*[\"']", piece)
    name = attributes_of(file[0])["FileName"] if file else found.name
    page = _count(found, stated, "IFD", 0)
    count = _count(found, stated, "PlaneCount", 1 if "IFD" in stated else -1)
    lengths = tuple(sizes.values())
    start = [_count(found, stated, f"First{axis}", 0) for axis in sizes]
    if any(first >= length for first, length in zip(start, lengths, strict=True)):
        raise found.file.damaged(f"a plane beyond the sizes {sizes}")
    begin = int(np.ravel_multi_index(start, lengths))
    count = _pages_in(found, name) if count < 0 else count
    planes = {}
    for step in range(min(count, math.prod(lengths) - begin)):
        where = dict(zip(sizes, np.unravel_index(begin + step, lengths), strict=True))
        planes[int(where["C"]), int(where["Z"]), int(where["T"])] = (name, page + step)
    return planes


def _pages_in(found: OmeFiles, name: str) -> int:
    """Count the pages of a file of which all are planes."""
    check_component(name, "FileName", "Export the image again.")
    try:
        with opened(found.folder + name) as file:
            return len(images_of(directories_of(file)))
    except FileError as error:
        raise _missing(found, name) from error


def _count(found: OmeFiles, attributes: dict[str, str], name: str, usual: int) -> int:
    text = attributes.get(name)
    if text is None:
        return usual
    if not text.isdecimal() or len(text) > 9:
        raise found.file.damaged(f"{name}={text!r} in OME metadata")
    return int(text)


class _Joined(Regions):
    """The channels of an image, whose planes are in several files."""

    def __init__(self, parts: list[Regions], places: list[tuple[int, int]]) -> None:
        first, count = parts[0], (len(places),) if len(places) > 1 else ()
        super().__init__((*first.shape[:2], *count), first.dtype, first.block_shape)
        self._parts, self._places = parts, places  # of each channel: its part, and the sample of that

    def read(self, rows: slice, columns: slice) -> AnyArray:
        """Read a rectangle."""
        found = [part.read(rows, columns) for part in self._parts]
        channels = [found[part].reshape(*found[part].shape[:2], -1)[..., one] for part, one in self._places]
        return np.stack(channels, axis=-1) if len(channels) > 1 else np.ascontiguousarray(channels[0])
