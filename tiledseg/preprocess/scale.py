"""An image brought to the px size of the network, region by region; and its map to the size of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._arrays import check_finite, read_region
from tiledseg._validate import invalid, pair_of, real_number, whole_number
from tiledseg.errors import SettingError, StitchError
from tiledseg.io import CachedBlocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, Sink, Source
    from tiledseg.config import PreprocessingConfig
    from tiledseg.io import PixelSize

SAME_SIZE = 0.02
"""Px sizes that differ by no more than this share count as the same: such an image is not resampled."""

_BLOCK = 128  # px of the resampled image
_STRIPE = 8  # of them that one product computes
_LONGEST = 1024  # px of the image for one block
_CACHED_ROWS = 1024  # of the resampled image, within these bytes
_CACHE_BYTES = 32 << 20
_VALUES_AT_ONCE = 1 << 17  # of a resized map
_AS = "as `pixel_size`: in settings, or by tiledseg.open_image(image, pixel_size=0.25)."
_MOST_TIMES = 500  # nm and mm are 1,000 times smaller and larger
_PARTS = 4096  # shares of px are multiples of 1/4096, which float32 adds exactly


def scaled_length(length: int, scale: float) -> int:
    """Return the length of an axis after shrinking."""
    return max(1, round(whole_number("length", length) * real_number("scale", scale)))


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the network gets of an image: a level of it, brought to a size."""

    shape: tuple[int, int]  # height and width that the network sees, in px
    level: int | None = None  # of the file; None for the image as it is
    pixel_size: PixelSize | None = None  # of the image, where it is known


def sampling_of(
    shape: tuple[int, int],
    config: PreprocessingConfig,
    pixel_size: PixelSize | None = None,
    levels: Sequence[tuple[int, int]] = (),
) -> Sampling:
    """Decide which of the levels of the image's file is read, and to what size it is brought."""
    # The coarsest that is fine enough; where none is, level 0 is enlarged.
    if config.pixel_size is None:
        scale = config.scale
        seen = shape if scale == 1 else (scaled_length(shape[0], scale), scaled_length(shape[1], scale))
        return Sampling(seen, None, pixel_size)
    if pixel_size is None:
        raise _unknown_size(config)
    _check_unit(config, pixel_size)
    wanted = tuple(one / config.scale for one in pair_of(config.pixel_size))
    choices = list(levels) or [shape]
    ratios = [
        tuple(
            size * whole / length / target
            for size, whole, length, target in zip(
                (pixel_size.y, pixel_size.x), shape, one, wanted, strict=True
            )
        )
        for one in choices
    ]
    fine = [place for place, ratio in enumerate(ratios) if max(ratio) <= 1 + SAME_SIZE]
    chosen = fine[-1] if fine else 0
    lengths = [
        length if abs(ratio - 1) <= SAME_SIZE else scaled_length(length, ratio)
        for length, ratio in zip(choices[chosen], ratios[chosen], strict=True)
    ]
    return Sampling((lengths[0], lengths[1]), chosen if levels else None, pixel_size)


def _check_unit(config: PreprocessingConfig, size: PixelSize) -> None:
    """Refuse a px size in another unit: the image would be shrunk to a few px without a word."""
    trained = pair_of(config.pixel_size or 1.0)
    if not all(
        1 / _MOST_TIMES <= one / own <= _MOST_TIMES
        for one, own in zip((size.y, size.x), trained, strict=True)
    ):
        must = f"be within {_MOST_TIMES} times that of the network, {trained[0]:g} x {trained[1]:g} µm"
        fix = f"State it in µm {_AS}"
        raise invalid(SettingError, "pixel_size", must=must, got=f"{size.y:g} x {size.x:g} µm", fix=fix)


def _unknown_size(config: PreprocessingConfig) -> SettingError:
    y, x = pair_of(config.pixel_size or 1.0)
    trained = f"{y:g}" if y == x else f"{y:g} x {x:g}"
    return invalid(
        SettingError,
        "pixel_size",
        must=f"be known, since the network was trained at {trained} µm per px",
        got="an image that does not state it",
        fix=f"State µm per px {_AS}",
    )


class Resampled:
    """An image at another size: along each axis the mean of the area where it shrinks, else bilinear."""

    # Blocks are fixed, so that a px does not depend on the region that was asked for; the last are cached.

    def __init__(self, image: Source, shape: tuple[int, int, int]) -> None:
        self._image = image
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        sides = [
            max(1, min(_BLOCK, _LONGEST * new // old)) for new, old in zip(shape, image.shape, strict=False)
        ]
        self.block_shape: tuple[int, int] = (sides[0], sides[1])
        self._regions = CachedBlocks(self, min(_CACHED_ROWS * 4 * shape[1] * shape[2], _CACHE_BYTES))

    def __getitem__(self, key: tuple[slice, slice]) -> AnyArray:
        rows, columns = (
            slice(*one.indices(length)[:2]) for one, length in zip(key, self.shape, strict=False)
        )
        return self._regions.read(rows, columns)

    def block(self, row: int, column: int) -> FloatArray:
        """Compute a block, cut off at the end of the image."""
        (rows, down), (columns, across) = (
            _stripes(place * side, min((place + 1) * side, new), new, old)
            for place, side, new, old in zip(
                (row, column), self.block_shape, self.shape, self._image.shape, strict=False
            )
        )
        pixels = read_region(self._image, rows, columns)
        check_finite(pixels, "image", (rows.start, columns.start))
        pixels = pixels.reshape(*pixels.shape[:2], self.shape[2])
        mixed = _mixed(_mixed(pixels, down).swapaxes(0, 1), across)
        return np.ascontiguousarray(mixed.swapaxes(0, 1))


_Stripes = list[tuple[slice, "NDArray[np.float32]"]]


def _stripes(start: int, stop: int, new: int, old: int) -> tuple[slice, _Stripes]:
    """Return which px a part of a resampled axis is made from, and the shares by which they are mixed."""
    parts = [_shares(first, min(first + _STRIPE, stop), new, old) for first in range(start, stop, _STRIPE)]
    begin = parts[0][0]
    end = max(first + shares.shape[1] for first, shares in parts)
    return slice(begin, end), [
        (slice(first - begin, first - begin + shares.shape[1]), shares) for first, shares in parts
    ]


def _shares(start: int, stop: int, new: int, old: int) -> tuple[int, NDArray[np.float32]]:
    """Return the first px of an axis, and the share of each in each px of the resampled axis."""
    if new > old:
        return _linear_shares(start, stop, new, old)
    edges = np.arange(start, stop + 1) * (old / new)
    first, last = int(edges[0]), min(old, int(np.ceil(edges[-1] - 1e-9)))
    place = np.arange(first, last)
    covered = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
    shares = np.clip(covered, 0, None)
    return first, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def _linear_shares(start: int, stop: int, new: int, old: int) -> tuple[int, NDArray[np.float32]]:
    """Mix the two nearest px; px centres are at halves."""
    place = np.clip((np.arange(start, stop) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first, last = int(place[0]), min(old, int(place[-1]) + 2)
    distance = np.abs(place[:, None] - np.arange(first, last))
    return first, np.clip(1 - distance, 0, None).astype(np.float32)


def _mixed(pixels: AnyArray, stripes: _Stripes) -> FloatArray:
    """Mix px along the first axis."""
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    # No `@`: the threads of BLAS would spin after each product, for longer than the product takes.
    parts = ((shares, flat[part].astype(np.float32, copy=False)) for part, shares in stripes)
    mixed = np.concatenate([np.einsum("ij,jk->ik", *part) for part in parts])
    return mixed.reshape(-1, *pixels.shape[1:])


class ResizingSink:
    """Takes the rows of a map in order, in any pieces, and writes those of the map at another size."""

    # An axis is enlarged bilinearly, and shrunk by the mean of the area.

    def __init__(self, out: Sink, shape: tuple[int, int, int]) -> None:
        self.out: Sink = out
        self.shape: tuple[int, int, int] = shape
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self._rows, self._down = _sources(shape[0], out.shape[0])
        self._columns, self._across = _sources(shape[1], out.shape[1])
        self._at_once = max(1, _VALUES_AT_ONCE // (out.shape[1] * shape[2]))
        self._held = np.empty((0, *shape[1:]), np.float32)
        self._first = 0  # row of the given map at the start of `_held`
        self.written_rows: int = 0  # of the resized map, final

    def __setitem__(self, rows: slice, probs: FloatArray) -> None:
        if rows.start != self._first + len(self._held):
            raise invalid(
                StitchError,
                "rows",
                must=f"follow row {self._first + len(self._held)}",
                got=f"row {rows.start}",
                fix="Write the rows in order.",
            )
        self._held = np.concatenate([self._held, probs])
        ready = int(np.searchsorted(self._rows[:, -1], rows.stop))
        for start in range(self.written_rows, ready, self._at_once):
            self._write(start, min(start + self._at_once, ready))
        self.written_rows = ready
        if ready < len(self._rows):
            drop = int(self._rows[ready, 0]) - self._first
            self._held, self._first = self._held[drop:].copy(), self._first + drop

    def _write(self, start: int, stop: int) -> None:
        first, last = int(self._rows[start, 0]), int(self._rows[stop - 1, -1]) + 1
        held = self._held[first - self._first : last - self._first]
        tall = _mix_of(held, self._rows[start:stop] - first, self._down[start:stop], axis=0)
        self.out[start:stop] = _mix_of(tall, self._columns, self._across, axis=1)


def _sources(given: int, wanted: int) -> tuple[NDArray[np.intp], FloatArray]:
    """Return, for each px of a resized axis, the px that it is made from and their shares: (wanted, n)."""
    # Shares are multiples of 1/4096 that sum to 1, so that the mixture of values in [0, 1] stays there.
    if wanted >= given:  # px centres are at halves, as in OpenCV and TensorFlow
        place = np.clip((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0, given - 1)
        first = np.floor(place).astype(np.intp)
        share = np.rint((place - first) * _PARTS) / _PARTS
        shares = np.stack([1 - share, share], axis=1)
    else:
        edges = np.arange(wanted + 1) * (given / wanted)
        first = np.floor(edges[:-1]).astype(np.intp)
        most = int((np.ceil(edges[1:]) - first).max())
        ends = np.clip(first[:, None] + np.arange(most + 1), edges[:-1, None], edges[1:, None])
        sums = np.rint((ends - edges[:-1, None]) * (_PARTS * wanted / given)) / _PARTS
        shares = np.diff(sums, axis=1)
    places = np.minimum(first[:, None] + np.arange(shares.shape[1]), given - 1)
    return places, shares.astype(np.float32)


def _mix_of(values: FloatArray, places: NDArray[np.intp], shares: FloatArray, axis: int) -> FloatArray:
    """Mix px of an axis."""
    wide = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    mixed = values.take(places[:, 0], axis)
    mixed *= shares[:, 0].reshape(wide)
    for place, share in zip(places.T[1:], shares.T[1:], strict=True):
        part = values.take(place, axis)
        part *= share.reshape(wide)
        mixed += part
    return mixed
