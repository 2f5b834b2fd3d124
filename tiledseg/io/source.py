"""ImageSource: an open image that is read by region; and images of other libraries in memory, as arrays."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeGuard

import numpy as np

from tiledseg._arrays import array_of, by_name, check_image
from tiledseg._notebook import facts, picture, side_by_side
from tiledseg._storage import exists
from tiledseg._validate import counted, invalid, named, raised_as, whole_number
from tiledseg.errors import ArrayError, FileError
from tiledseg.io.file import state_of
from tiledseg.io.regions import CachedBlocks, RepeatedChannels, WholeImage
from tiledseg.plots import as_png, thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from tiledseg._types import AnyArray, Source
    from tiledseg.io.file import Reader
    from tiledseg.io.metadata import PixelSize, Placement
    from tiledseg.io.regions import Regions

_MODES = ("1", "L", "RGB", "RGBA", "I;16", "I", "F")  # of Pillow, whose px need no conversion
_ORIENTATION, _TURNED = 0x0112, range(2, 9)  # of Exif
_THUMBNAIL_SIDE, _THUMBNAIL_READS = 360, 1 << 26  # px


@dataclass(frozen=True, slots=True)
class Selection:
    """Which level, channels and plane of a file are read."""

    level: int  # 0 for the image, 1 and up for its smaller copies
    channels: tuple[int, ...] | None  # in order; None for all
    at: Mapping[str, int]  # position along ``z`` and ``t``
    whole_pixels: int  # limit on height times width where a file is decoded whole

    def level_of(self, file: Reader, count: int) -> int:
        """Check that the file has the level."""
        if self.level >= count:
            got = counted(count, "level")
            fix = "Leave `level` out." if count == 1 else f"Pass level=0 to level={count - 1}."
            raise file.bad(f"have level {self.level}", got, fix)
        return self.level

    def channels_of(self, file: Reader, count: int) -> list[int] | None:
        """Check that the file has the channels; None for all of them in order."""
        if self.channels is None or self.channels == tuple(range(count)):
            return None
        if max(self.channels) >= count:
            fix = f"Count them from 0 to {count - 1}."
            raise file.bad(f"have channels {self.channels}", f"{count} channels", fix)
        return list(self.channels)

    def plane_of(self, file: Reader, lengths: Mapping[str, int]) -> dict[str, int]:
        """Find the position along every axis other than y, x and channels."""
        plane = {}
        for axis, length in {**dict.fromkeys(self.at, 1), **lengths}.items():
            index = self.at.get(axis, 0 if length == 1 else None)
            if index is None or not 0 <= index < length:
                must = "hold one plane" if index is None else f"have position {index} along {axis}"
                fix = f"Pass at={{{axis!r}: 0}} to at={{{axis!r}: {length - 1}}}."
                if length == 1:
                    fix = f"Leave {axis!r} out of `at`."
                raise file.bad(must, f"{counted(length, 'position')} along {axis}", fix)
            plane[axis] = index
        return plane


@dataclass(frozen=True, slots=True)
class Facts:
    """The properties of a source besides its pixels."""

    name: str  # the path, as errors show it
    pixel_size: PixelSize | None  # of the level that is read
    levels: tuple[tuple[int, int], ...]  # height and width of the image and of its smaller copies
    level: int  # the level that is read
    identity: dict[str, Any]  # what `ImageSource.identity` shows
    placement: Placement | None = None  # of the level that is read


def region(key: object, shape: tuple[int, ...], fix: str) -> list[slice]:
    """Complete the slices of an index, one for each axis."""
    given: list[Any] = list(key) if isinstance(key, tuple) else [key]
    dots = [place for place, one in enumerate(given) if one is Ellipsis]
    missing = len(shape) - len(given) + len(dots[:1])
    place = dots[0] if dots else len(given)
    given[place : place + 1] = [slice(None)] * missing
    if missing < 0 or len(dots) > 1 or not all(_is_plain(one) for one in given):
        must = f"hold slices with a step of 1, at most {len(shape)} of them"
        raise invalid(ArrayError, "key", must=must, got=key, fix=fix)
    found = [one.indices(length) for one, length in zip(given, shape, strict=True)]
    return [slice(start, max(start, stop)) for start, stop, _ in found]


def _is_plain(part: Any) -> TypeGuard[slice]:
    """Say whether a part of an index is a slice of whole numbers with a step of 1."""
    with suppress(TypeError):
        return isinstance(part, slice) and part.indices(1)[2] == 1
    return False


def rows_and_columns(key: object, shape: tuple[int, ...], fix: str) -> tuple[slice, slice]:
    """Complete the slices of an index that takes all channels."""
    rows, columns, *channels = region(key, shape, fix)
    if channels and channels[0] != slice(0, shape[2]):
        raise invalid(ArrayError, "key", must="take all channels", got=key, fix=fix)
    return rows, columns


class ImageSource:
    """An open image: read by slicing, closed at the end of a ``with`` block.

    Slices along y, x and channels have a step of 1. Several threads may read it at once.

    Attributes
    ----------
    shape : tuple of int
        (H, W) or (H, W, C).
    dtype : dtype
        Dtype of the pixels.
    name : str
        The path, as errors show it.
    pixel_size : PixelSize or None
        Height and width of a px in µm; None where the file does not state it.
    levels : tuple of tuple of int
        Height and width of the image and of its smaller copies.
    level : int
        The level that is read.
    placement : Placement or None
        Where the level is on earth, or in a larger space; None where the file does not state it.
    block_shape : tuple of int
        Height and width in px of a block that is decoded at once; (1, 1) where there are no blocks.
    identity : dict
        Path, size and time of change of the file, and the part of it that is read.
    is_whole : bool
        Whether all pixels are in memory, as those of a JPEG, PNG or BMP.
    array : array_like or None
        The array that was opened in place of a file.
    """

    def __init__(
        self,
        regions: Regions,
        facts: Facts,
        stack: ExitStack,
        at: tuple[str, list[int]] | None,
        other: Callable[[int], ImageSource],
    ) -> None:
        self.shape: tuple[int, ...] = regions.shape
        self.dtype: np.dtype[Any] = regions.dtype
        self.block_shape: tuple[int, int] = regions.block_shape
        self.name: str = facts.name
        self.pixel_size: PixelSize | None = facts.pixel_size
        self.placement: Placement | None = facts.placement
        self.levels: tuple[tuple[int, int], ...] = facts.levels
        self.level: int = facts.level
        self.identity: dict[str, Any] = facts.identity
        self.is_whole: bool = isinstance(regions, WholeImage)
        self._regions, self._stack = regions, stack
        self.array: Source | None = regions.pixels if at is None and isinstance(regions, WholeImage) else None
        self._at = at
        self._other = other

    @property
    def memory_bytes(self) -> int:
        """Most bytes that reading takes: the cached blocks, or the whole image where it is decoded whole."""
        whole = 0 if self.array is not None else int(np.prod(self.shape)) * self.dtype.itemsize
        if self.is_whole:
            return whole
        regions = self._regions.regions if isinstance(self._regions, RepeatedChannels) else self._regions
        return min(whole, regions.most_bytes) if isinstance(regions, CachedBlocks) else 0

    @property
    def level_scale(self) -> tuple[float, float]:
        """Px of level 0 for each px of the level that is read, along y and x."""
        full = self.levels[0] if self.level else self.shape
        return full[0] / self.shape[0], full[1] / self.shape[1]

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> AnyArray:
        rows, columns, *rest = region(
            key, self.shape, "Index image[y0:y1, x0:x1] and take every n-th px of it."
        )
        pixels = self._regions.read(rows, columns)
        return pixels[:, :, rest[0]] if rest and rest[0] != slice(0, self.shape[2]) else pixels

    def __array__(self, dtype: Any = None, copy: Any = None) -> AnyArray:
        return self[:, :].astype(dtype or self.dtype, copy=bool(copy))

    def check_unchanged(self) -> None:
        """Check that the file is still the one that was opened, by its size and time of change.

        Of a zarr, the metadata files are checked; changed chunks are not noticed.

        Raises
        ------
        FileError
            If it was changed, replaced or removed.
        """
        if self._at is not None and state_of(self._at[0]) != self._at[1]:
            raise FileError(
                f"`{self.name}` changed while it was read. Start again when nothing writes to it."
            )

    def at_level(self, level: int) -> ImageSource:
        """Open another level of the same file, with the same channels and plane.

        Parameters
        ----------
        level : int
            0 for the image, 1 and up for its smaller copies.

        Returns
        -------
        ImageSource
            Of its own; to be closed.

        Raises
        ------
        FileError
            If there is no such level, or the file has changed since it was opened.
        """
        self.check_unchanged()
        return self._other(level)

    def facts(self) -> dict[str, str]:
        """Say what the image is, by the name of each part.

        Returns
        -------
        dict
            Text by name, such as ``size``, ``px size`` and ``levels``.
        """
        height, width = self.shape[:2]
        channels = counted(self.shape[2], "channel") if self.ndim == 3 else "no channel axis"
        levels = ", ".join(f"{down} x {across}" for down, across in self.levels)
        rows = {
            "size": f"{height} x {width} px, {channels}, {self.dtype}",
            "px size": "not known" if self.pixel_size is None else str(self.pixel_size),
        }
        if len(self.levels) > 1:
            rows["levels"] = f"{levels}; level {self.level} is read"
        if self.block_shape != (1, 1):
            rows["blocks"] = f"{self.block_shape[0]} x {self.block_shape[1]} px"
        return rows

    def __repr__(self) -> str:
        rows = "; ".join(f"{name} {text}" for name, text in self.facts().items() if name != "size")
        return f"ImageSource({self.name}: {self.facts()['size']}; {rows})"

    def _repr_html_(self) -> str:
        return side_by_side(self._thumbnail(), facts(self.facts(), self.name))

    def _thumbnail(self) -> str:
        """Show the smallest level that fills a thumbnail; nothing where that is too much to read."""
        large = [number for number, size in enumerate(self.levels) if max(size) >= _THUMBNAIL_SIDE]
        level = max([*large[-1:], self.level])
        height, width = self.levels[level]
        if height * width > _THUMBNAIL_READS:
            return ""
        with ExitStack() as stack:
            shown = self if level == self.level else stack.enter_context(self.at_level(level))
            pixels = thumbnail(shown, _THUMBNAIL_SIDE)
        return picture(as_png(pixels), self.name)

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def array_source(image: Source, size: PixelSize | None) -> ImageSource:
    """Open an array, to state the size of its px."""
    height, width, _ = check_image(image)

    def other(level: int) -> ImageSource:
        whole_number("level", level, 0, 0, "An array has only level 0.")
        return array_source(image, size)

    facts = Facts("image", size, ((height, width),), 0, {})
    return ImageSource(WholeImage(image), facts, ExitStack(), None, other)


def check_own_memory(out: object, image: object) -> None:
    """Refuse to write to the memory or the mapped file of an image, or several px to one place."""
    got, fix = "", "Pass a new array: rows are written while others are still to be read."
    if out is image:
        got = "the image itself"
    elif isinstance(out, np.ndarray):
        files = [file for file in map(_mapped_file, (out, image)) if file is not None]
        if isinstance(image, np.ndarray) and np.may_share_memory(image, out):
            got = "some of the image's"
        elif len(files) == 2 and all(map(exists, files)) and os.path.samefile(*files):  # noqa: PTH121
            got = f"the image's file, {named(files[1])}"
        elif any(step == 0 and length > 1 for step, length in zip(out.strides, out.shape, strict=True)):
            got, fix = "an array in which px share a place", "Pass a copy of it."
    if got:
        raise invalid(ArrayError, "out", must="have memory of its own", got=got, fix=fix)


def _mapped_file(values: object) -> str | None:
    """Find the file that an array is a view of, or an image is read from."""
    if isinstance(values, ImageSource):
        return str(values.identity.get("path", "")) or None
    while isinstance(values, np.ndarray):
        if isinstance(values, np.memmap) and values.filename is not None:
            return str(values.filename)
        values = values.base
    return None


def in_memory(values: Any, name: str) -> Any:  # arrays of all libraries
    """Read an array of any library whole; give paths, open images and what is no array back."""
    found = as_array(values, name)
    if isinstance(found, np.ndarray | ImageSource) or not hasattr(found, "__array__"):
        return found
    return array_of(found, name)


def as_array(image: Any, name: str = "image") -> Any:  # arrays of all libraries
    """Give an image of Pillow, xarray, PyTorch or TensorFlow as an array; give anything else back."""
    library = type(image).__module__.partition(".")[0]
    with raised_as(ArrayError, f"`{name}` cannot be read", "Pass a NumPy array of it, channels last."):
        if library == "PIL" and hasattr(image, "mode"):
            return _of_pillow(image, name)
        if library in {"torch", "tensorflow"} and hasattr(image, "shape"):
            return _of_tensor(image, name)
    return by_name(image, name)


def _of_pillow(image: Any, name: str) -> Any:
    if image.mode not in _MODES:
        fix = f'Pass {name}.convert("RGB"), or numpy.asarray({name}) for the indices of a palette.'
        raise invalid(ArrayError, name, must="be grey or RGB", got=f"mode {image.mode}", fix=fix)
    turn = image.getexif().get(_ORIENTATION, 1)
    if turn in _TURNED:  # Pillow gives the px as they are stored, viewers and paths those that are shown
        fix = f"Pass PIL.ImageOps.exif_transpose({name}), or numpy.asarray({name}) for its px as stored."
        raise invalid(ArrayError, name, must="be upright", got=f"orientation {turn} in Exif", fix=fix)
    return np.asarray(image.convert("L") if image.mode == "1" else image)  # black and white, as in files


def _of_tensor(image: Any, name: str) -> Any:
    try:
        return np.asarray(image)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        fix = f"Pass {name}.detach().cpu().float().numpy(), channels last."
        got = f"{type(image).__name__}: {error}"
        raise invalid(ArrayError, name, must="be readable as an array", got=got, fix=fix) from None


def check_values(block: AnyArray, dtype: np.dtype[Any], name: str) -> None:
    """Refuse values that another dtype would change: fractions, and whole numbers beyond its range."""
    if block.dtype == dtype or dtype.kind == "f" or block.dtype.kind == "b" or not block.size:
        return
    fix = "Convert them first, or choose their dtype for the map."
    if block.dtype.kind == "f":
        must, got = f"be {dtype}, or whole numbers that it holds", str(block.dtype)
        raise invalid(ArrayError, name, must=must, got=got, fix=fix)
    if np.can_cast(block.dtype, dtype):
        return
    lowest, highest = int(block.min()), int(block.max())
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if lowest < least or highest > most:
        must, got = f"lie in the range of {dtype}, {least} to {most}", f"{lowest} to {highest}"
        raise invalid(ArrayError, name, must=must, got=got, fix=fix)
