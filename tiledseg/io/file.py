"""An open image file: its bytes, its format, its errors, and the request by which it is read."""

from __future__ import annotations

import hashlib
import io
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

import numpy as np

from tiledseg._memory import available_memory
from tiledseg._storage import file_digest, is_file, open_regular, read_at
from tiledseg._validate import invalid, named, path_text, whole_number
from tiledseg.errors import FileError
from tiledseg.io.remote import is_remote, is_remote_zarr, open_remote, remote_state, shown_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiledseg._types import AnyArray, PathLike

MAX_PIXELS = 2**30
"""Default limit on an image's height times width, in px; also OpenCV's own."""

MARKS: tuple[str, ...] = ("zarr.json", ".zarray", ".zgroup")
"""A folder that holds one of these files is a zarr."""

Kind: TypeAlias = Literal["png", "jpeg", "bmp", "webp", "tiff"]
Alpha: TypeAlias = Literal["refuse", "drop", "keep"]
Palette: TypeAlias = Literal["refuse", "index", "colour"]
Purpose: TypeAlias = Literal["image", "mask", "labels", "values", "probs", "source"]

_MAGIC: dict[bytes, Kind] = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}
_LONGEST_MAGIC = 12
_STEP = 1 << 20  # bytes that are read at once
_ROWS = 64  # that are converted at once
_CONVERT = "Convert it to OME-TIFF, for example with bfconvert of Bio-Formats."
_EXPORT = "Export the image as PNG or TIFF."
_FETCH = "Fetch the file again; the page says why it was not given."
_FOREIGN = {  # first bytes of files that are not read: what they are, and what to do
    b"ZISRAWFILE": ("a CZI without its suffix .czi", _CONVERT),
    b"\xda\xce\xbe\n": ("an ND2", _CONVERT),
    b"p\0\0\0": ("a LIF", _CONVERT),
    b"\x89HDF": ("an HDF5 file", "Read the array with h5py, and pass it or save it as .npy."),
    b"PK\x03\x04": ("a zip archive", "Unpack it. Of an .npz, save the one array as .npy."),
    b"\x1f\x8b": ("a gzip archive", "Unpack it."),
    b"GIF8": ("a GIF", _EXPORT),
    b"\0\0\0\x0cjP  ": ("a JPEG 2000", _EXPORT),
    b"\xff\x4f\xff\x51": ("a JPEG 2000", _EXPORT),
    b"\0\0\0\x0cJXL ": ("a JPEG XL", _EXPORT),
    b"MATLAB": ("a MATLAB file", "Read the array with scipy.io.loadmat, and pass it or save it as .npy."),
    b"NRRD": ("an NRRD", "Read the array with pynrrd, and pass it or save it as .npy."),
    b"P5": ("a PGM", _EXPORT),
    b"P6": ("a PPM", _EXPORT),
    b"<!DOCTYPE": ("a web page in place of the file", _FETCH),
    b"<!doctype": ("a web page in place of the file", _FETCH),
    b"<html": ("a web page in place of the file", _FETCH),
    b"version http": ("a pointer of Git LFS in place of the file", "Fetch the file with `git lfs pull`."),
}

_SHOWN = {"png": "PNG", "jpeg": "JPEG", "bmp": "BMP", "webp": "WebP"}
_MUCH = 64 << 20  # bytes, below which nobody asks how many are free
_LESS = "Free memory, or convert it to a TIFF of tiles and read it by region with open_image."
_RAISE = "raise `max_pixels` of open_image, read_image or read_mask, and pass what it returns"
_METADATA_BYTES = 2**26
_BEHIND = 4096  # bytes behind an image in which another is looked for
_BYTES_PER_PIXEL = 8  # four channels of 16 bits
_TURNS: dict[int, Callable[[AnyArray], AnyArray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True, slots=True)
class Reader:
    """An open file that is read at given offsets; errors name the file."""

    name: str  # the path, as errors show it
    handle: BinaryIO
    size: int  # in bytes

    def take(self, offset: int, count: int) -> bytes:
        """Read `count` bytes at `offset`; refuse a file that has fewer."""
        if offset + count > self.size:
            raise self.damaged(f"{self.size} bytes where {offset + count} or more are declared")
        self.handle.seek(offset)
        data = self.handle.read(count)
        if len(data) != count:
            raise self.damaged(f"{len(data)} bytes where {count} are declared at byte {offset}")
        return data

    def at(self, offset: int, count: int) -> bytes:
        """Read `count` bytes at `offset`, as `take` does, from any thread."""
        try:
            own: Callable[[int, int], bytes] | None = getattr(self.handle, "read_at", None)
            data = own(offset, count) if own else read_at(self.handle, offset, count)
        except OSError as error:
            raise self.bad("be readable", error.strerror or str(error), "Check the disk.") from error
        if len(data) != count:
            raise self.damaged(f"{len(data)} bytes where {count} are declared at byte {offset}")
        return data

    def whole(self, max_pixels: int) -> Reader:
        """Read the whole file into memory, if it is not larger than an image of `max_pixels` can be."""
        most = max_pixels * _BYTES_PER_PIXEL + _METADATA_BYTES
        if self.size > most:
            must = f"have at most {most} bytes with max_pixels={max_pixels}"
            raise self.bad(must, self.size, f"If you trust the file, {_RAISE}.")
        data = self.take(0, self.size)
        return Reader(self.name, io.BytesIO(data), len(data))

    def bad(self, must: str, got: object, fix: str) -> FileError:
        """Build the error that names this file."""
        return invalid(FileError, self.name, must=must, got=got, fix=fix)

    def damaged(self, got: str) -> FileError:
        """Build the error for a file that is cut off or corrupt."""
        return self.bad("be a whole, undamaged image", got, "Copy or export it again.")

    def check_alone(self, end: int, magic: bytes) -> None:
        """Refuse a file in which another image follows the end of the first."""
        if self.take(end, min(_BEHIND, max(0, self.size - end))).lstrip(b"\0").startswith(magic):
            raise self.bad("hold one image", "several images, one after the other", "Divide the file.")

    def check_memory(self, count: int) -> None:
        """Refuse px whose decoder needs more bytes than there are, before it takes them."""
        if count > _MUCH and count > (free := available_memory()):
            got = f"about {count >> 20} MiB that its decoder needs"
            raise self.bad(f"fit into the {max(0, free) >> 20} MiB of memory that are free", got, _LESS)

    def check_size(self, height: int, width: int, max_pixels: int) -> None:
        """Refuse a declared size of 0 px, or of more than the limit."""
        if height < 1 or width < 1:
            raise self.damaged(f"a declared size of {height}x{width} px")
        if height * width > max_pixels:
            raise self.bad(
                f"hold at most max_pixels={max_pixels} px",
                f"{height}x{width} px declared",
                f"If you trust the file, {_RAISE}.",
            )


@contextmanager
def opened(path: PathLike) -> Iterator[Reader]:
    """Open an image file for reading."""
    text = path_text(path)
    if is_remote(text):
        handle, size = open_remote(text)
        name = named(shown_address(text))
        with within_memory(name):
            yield Reader(name, handle, size)
        return
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if not size:
            fix = "Copy or export it again."
            raise invalid(FileError, named(path), must="hold an image", got="an empty file", fix=fix)
        with within_memory(named(path)):
            yield Reader(named(path), handle, size)


@contextmanager
def within_memory(name: str) -> Iterator[None]:
    """Name a file whose px do not fit into memory."""
    try:
        yield
    except MemoryError as error:
        must, fix = "fit into memory", _LESS
        raise invalid(FileError, name, must=must, got=str(error) or "too many px", fix=fix) from error


def content_digest(path: PathLike) -> str:
    """Compute the SHA-256 of a file's bytes, at an address too; of a zarr at an address, of that address."""
    text = path_text(path)
    if not is_remote(text):
        return file_digest(text)
    if is_remote_zarr(text):
        return f"sha256:{hashlib.sha256(shown_address(text).encode()).hexdigest()}"
    digest = hashlib.sha256()
    with opened(path) as file:
        for at in range(0, file.size, _STEP):
            digest.update(file.take(at, min(_STEP, file.size - at)))
    return f"sha256:{digest.hexdigest()}"


def check_max_pixels(max_pixels: object) -> None:
    """Refuse a limit that is not a positive whole number."""
    whole_number("max_pixels", max_pixels, fix=f"Use {MAX_PIXELS}, the default, or another number of px.")


@dataclass(frozen=True, slots=True)
class Request:
    """How a file is to be read."""

    page: int | str | None  # page of a TIFF, or the name of an image beside the scan of a slide
    max_pixels: int  # limit on height times width
    alpha: Alpha = "refuse"  # for an alpha channel that is not opaque everywhere
    palette: Palette = "colour"  # for the px of a palette image: their index or their colour
    # mask: a threshold is applied later; labels: values stay as stored, so that lossy files are refused and
    # values of few bits are not scaled; values: as labels, but of a BMP the grey levels;
    # probs and source: any number of channels; source: any integers
    purpose: Purpose = "image"

    @property
    def is_stored(self) -> bool:
        """Whether values stay as they are stored."""
        return self.purpose in {"labels", "values"}

    @property
    def is_mask(self) -> bool:
        """Whether the values say which px are foreground, or of which class."""
        return self.is_stored or self.purpose == "mask"


_ADVICE = re.compile(
    r"\b(page|at|alpha|level|channels|palette|threshold)=|`(page|threshold)`"
)  # options in an error
_PART = re.compile(r"\b(page|at|level|channels)(?==)|(?<=`)(page|at)(?=`)")  # of which masks have their own


@contextmanager
def advised(where: str, prefix: str = "") -> Iterator[None]:
    """Say of an error about a file that advises an option where that is; its name may have a prefix."""
    try:
        yield
    except FileError as error:
        advised_before = isinstance(error.__cause__, FileError)
        if advised_before or not _ADVICE.search(str(error)):
            raise
        text = _PART.sub(lambda found: f"{prefix}{found[0]}", str(error)) if prefix else str(error)
        raise type(error)(f"{text} {where}") from error


class LossyError(FileError):
    """A file whose values a lossy codec has changed cannot hold labels."""


class PaletteError(FileError):
    """A mask with a palette, whose px can be read in two ways."""


def two_ways(file: Reader) -> PaletteError:
    """Build the error about a mask whose indices and colours differ."""
    fix = "Pass palette='index' to read the indices, or palette='colour' to read the colours."
    got = "a palette whose indices and colours differ"
    return invalid(PaletteError, file.name, must="be unambiguous", got=got, fix=fix)


@dataclass(frozen=True, slots=True)
class Header:
    """The declared geometry and colours of a file."""

    kind: Kind
    height: int  # size in px as stored, before the orientation is applied
    width: int
    channels: int  # grey or colour, alpha not counted
    bits: int = 8  # bits per sample, or per index where there is a palette
    orientation: int = 1  # of Exif, 1 to 8
    alpha: Literal["none", "plane"] = "none"
    palette: AnyArray | None = None  # colours of the indices, uint8 (n, 3)
    key: AnyArray | None = None  # the transparent colour; of a palette the opacity of each index

    @property
    def meaning(self) -> Literal["none", "identity", "grey", "colour"]:
        """The kind of palette; identity: entry i is grey i, so that index and colour are equal."""
        if self.palette is None:
            return "none"
        if (self.palette != self.palette[:, :1]).any():
            return "colour"
        return "identity" if (self.palette[:, 0] == np.arange(len(self.palette))).all() else "grey"

    def check(self, file: Reader, request: Request) -> None:
        """Refuse a file of another size, page or kind than is wanted, or one that can be read in two ways."""
        file.check_size(self.height, self.width, request.max_pixels)
        check_one_page(file, request, f"a {_SHOWN[self.kind]}")
        lossy = self.kind == "jpeg" or (self.kind == "webp" and file.take(12, 4) != b"VP8L")
        if request.is_stored and lossy:
            fix = "Export the labels as PNG or TIFF, or pass a threshold."
            got = f"a {_SHOWN[self.kind]}"
            raise invalid(LossyError, file.name, must="be lossless to hold labels", got=got, fix=fix)
        if request.palette == "refuse" and self._is_ambiguous(request):
            raise two_ways(file)

    def _is_ambiguous(self, request: Request) -> bool:
        if self.kind == "bmp" and request.purpose != "labels":  # BMP stores grey by a palette only
            return self.meaning == "colour"
        return self.meaning in {"grey", "colour"}

    def key_for(self, request: Request) -> AnyArray | None:
        """Return what is transparent, where that matters."""
        return None if request.alpha == "drop" or request.palette == "index" else self.key

    def wants_indices(self, request: Request) -> bool:
        """Say whether the indices of the palette are the values."""
        if self.palette is None:
            return False
        return request.palette == "index" or (self.meaning == "identity" and request.purpose != "image")


def is_tiff(file: Reader) -> bool:
    """Say whether a file begins as a TIFF does."""
    return _MAGIC.get(file.take(0, min(4, file.size))) == "tiff"


def sniff(file: Reader) -> Kind:
    """Recognise the format by the first bytes, whatever the suffix."""
    start = file.take(0, min(_LONGEST_MAGIC, file.size))
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "webp"
    found = next((known for magic, known in _FOREIGN.items() if start.startswith(magic)), None)
    what, fix = found or (f"a file that begins with {start!r}", _EXPORT)
    raise file.bad("be a PNG, JPEG, BMP, WebP or TIFF", what, fix)


def check_page(page: object) -> None:
    """Refuse a page that is neither a whole number from 0 nor a name."""
    if page is not None and not (isinstance(page, str) and page):
        whole_number("page", page, least=0, fix="Count pages from 0.")


def check_one_page(file: Reader, request: Request, what: str) -> None:
    """Refuse another page than the only one."""
    if request.page not in {None, 0}:
        raise file.bad(f"have page {request.page!r}", f"{what}, which has one", "Leave `page` out.")


def check_opaque(
    file: Reader, alpha: AnyArray, how: Alpha, bits: int | None = None, *, kept: bool = True
) -> None:
    """Refuse an alpha channel that is not opaque everywhere, unless it is dropped."""
    opaque = 1 if alpha.dtype.kind in "fb" else np.iinfo(alpha.dtype).max
    if alpha.dtype.kind == "u" and bits is not None:
        opaque = 2**bits - 1
    if how != "drop" and not (alpha == opaque).all():
        keep = ", or alpha='keep' to read it like the others" if kept else ""
        fix = f"Flatten it in the program that made it, or pass alpha='drop' to ignore that channel{keep}."
        raise file.bad("be opaque", f"an alpha or extra channel that goes down to {alpha.min()}", fix)


def rgb_of_cmyk(inks: AnyArray, bits: int) -> AnyArray:
    """Multiply what the inks leave of white: (m - c) (m - k) / m, rounded; no profile is applied."""
    if inks.dtype.kind == "f":  # of which 1 is all
        left: AnyArray = 1 - inks.astype(np.promote_types(inks.dtype, np.float32))
        return left[..., :3] * left[..., 3:]
    most = 2**bits - 1
    colours: AnyArray = np.empty((*inks.shape[:-1], 3), inks.dtype)
    for top in range(0, len(inks), _ROWS):  # the products take several times the memory
        paper = most - np.minimum(inks[top : top + _ROWS], most).astype(np.uint64)
        colours[top : top + _ROWS] = (paper[..., :3] * paper[..., 3:] + most // 2) // most
    return colours


def is_grey(palette: AnyArray | None) -> bool:
    """Say whether all colours of a palette are grey."""
    return palette is not None and bool((palette == palette[:, :1]).all())


def is_turned(orientation: int) -> bool:
    """Return whether an orientation exchanges height and width."""
    return orientation >= 5


def upright(array: AnyArray, orientation: int) -> AnyArray:
    """Apply an orientation to pixels (H, W, …); the result is contiguous."""
    turn = _TURNS.get(orientation)
    return array if turn is None else np.ascontiguousarray(turn(array))


def state_of(path: str) -> list[int]:
    """Return size and time of change of a file; of a zarr, those of its metadata files."""
    if is_remote(path):
        return remote_state(path)
    folder = os.path.isdir(path)  # noqa: PTH112  of text
    marks = [Path(path, mark) for mark in MARKS] if folder else [Path(path)]
    states = [mark.stat() for mark in marks if is_file(mark)]
    return [number for state in states for number in (state.st_size, state.st_mtime_ns)]
