"""Statistics of a whole image, computed block by block: percentiles, mean and standard deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from tiledseg._arrays import check_finite, check_image, read_region
from tiledseg._validate import invalid, real_pair
from tiledseg.errors import ArrayError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, Source

Limits: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Two statistics of each channel, float64 (C,) each: the lower and the upper percentile, for example."""

_BLOCK = (512, 4096)
_BINS = 1 << 16  # of the upper or the lower half of a float32


def percentiles_of(image: Source, percentiles: Sequence[float]) -> Limits:
    """Find two percentiles of each channel of a whole image, exactly, by its histogram.

    A percentile q is the least value that at least q per cent of the px do not exceed.

    Parameters
    ----------
    image : array_like
        (H, W) or (H, W, C) uint8 or uint16; read block by block.
    percentiles : sequence of float
        Two of them, in [0, 100].

    Returns
    -------
    ndarray
        float64 (C,): the lower.
    ndarray
        float64 (C,): the upper.

    Raises
    ------
    ArrayError
        If `image` is not an image of uint8 or uint16.
    SettingError
        If `percentiles` are not two numbers in [0, 100], the lower first.

    Examples
    --------
    >>> image = np.arange(100, dtype=np.uint8).reshape(10, 10)
    >>> [values.tolist() for values in percentiles_of(image, (1, 99))]
    [[0.0], [98.0]]
    """
    height, width, channels = check_image(image)
    dtype = np.dtype(image.dtype)
    if dtype.kind != "u" or dtype.itemsize > 2:
        fix = "Convert it to integers first."
        raise invalid(ArrayError, "image", must="be uint8 or uint16", got=str(dtype), fix=fix)
    limits = _checked_percentiles(percentiles)
    ranks = [max(int(np.ceil(np.float64(one) / 100 * height * width)), 1) - 1 for one in limits]
    found = _order_statistics(image, channels, ranks, joint=False)
    low, high = (found[rank] for rank in ranks)
    return low, high


def _checked_percentiles(percentiles: Sequence[float]) -> tuple[float, float]:
    must, fix = "be two numbers in [0, 100], the lower first", "Give (1.0, 99.0), for example."
    values = real_pair("percentiles", percentiles, must, fix)
    if not 0 <= values[0] <= values[1] <= 100:
        raise invalid(SettingError, "percentiles", must=must, got=percentiles, fix=fix)
    return values


def _blocks(image: Source, channels: int) -> Iterator[AnyArray]:
    """Read an image block by block, as (px, channels)."""
    height, width = image.shape[:2]
    for y in range(0, height, _BLOCK[0]):
        for x in range(0, width, _BLOCK[1]):
            rows = slice(y, min(y + _BLOCK[0], height))
            block = read_region(image, rows, slice(x, min(x + _BLOCK[1], width)))
            check_finite(block, "image", (y, x))
            yield block.reshape(-1, channels)


def moments_of(image: Source, channels: int, *, joint: bool) -> Limits:
    """Return mean and standard deviation, by the method of Chan, Golub and LeVeque (1983)."""
    count, mean, squares = 0, np.zeros(channels), np.zeros(channels)
    for block in _blocks(image, channels):
        values = block.astype(np.float64)
        own = values.mean(0)
        shift, total = own - mean, count + len(values)
        squares += ((values - own) ** 2).sum(0) + shift**2 * count * len(values) / total
        mean += shift * len(values) / total
        count = total
    if joint:
        common = mean.mean()
        squares = np.array([(squares + count * (mean - common) ** 2).mean()])
        mean = np.array([common])
    return mean, np.sqrt(squares / count)


def quantiles_of(
    image: Source, channels: int, percentiles: tuple[float, ...], *, joint: bool, linear: bool
) -> list[NDArray[np.float64]]:
    """Find percentiles of a whole image exactly, in two passes over its px."""
    # With `linear`, between the two nearest values, as numpy.quantile; else the least value that at least
    # that share of the px does not exceed.
    n_px = image.shape[0] * image.shape[1] * (channels if joint else 1)
    places = [_ranks(one / 100, n_px, linear=linear) for one in percentiles]
    ranks = sorted({rank for low, high, _ in places for rank in (low, high)})
    found = _order_statistics(image, channels, ranks, joint=joint)
    return [found[low] + (found[high] - found[low]) * share for low, high, share in places]


def _ranks(share: float, count: int, *, linear: bool) -> tuple[int, int, float]:
    if not linear:
        rank = max(int(np.ceil(share * count)) - 1, 0)
        return rank, rank, 0.0
    place = share * (count - 1)
    low = int(np.floor(place))
    return low, min(low + 1, count - 1), place - low


def _order_statistics(
    image: Source, channels: int, ranks: list[int], *, joint: bool
) -> dict[int, NDArray[np.float64]]:
    """Return the values of some ranks: a histogram of their upper 16 bits, then one of the lower within."""
    dtype = np.dtype(image.dtype)
    if dtype.itemsize > 4 or (dtype.kind != "f" and dtype.itemsize > 2):
        fix = "Convert it to float32 or uint16 first."
        must = "have 8 or 16 bits, or be float32, where percentiles of it are taken"
        raise invalid(ArrayError, "image", must=must, got=str(dtype), fix=fix)
    rows = 1 if joint else channels
    if dtype.kind in "bu":
        values = (one.reshape(-1, rows) for one in _blocks(image, channels))
        sums = _counted(rows, values, 1 << 8 * dtype.itemsize).cumsum(1)
        return {
            rank: np.array([np.searchsorted(line, rank, side="right") for line in sums], np.float64)
            for rank in ranks
        }

    def keys() -> Iterator[NDArray[np.uint32]]:
        for block in _blocks(image, channels):
            yield _key(block).reshape(-1, rows)

    upper = _counted(rows, (key >> np.uint32(16) for key in keys()), _BINS)
    lowers: dict[tuple[int, ...], NDArray[np.int64]] = {}
    result = {rank: np.zeros(rows) for rank in ranks}
    for rank in ranks:
        bins = [int(np.searchsorted(line, rank, side="right")) for line in upper.cumsum(1)]
        before = [int(line[:place].sum()) for line, place in zip(upper, bins, strict=True)]
        if tuple(bins) not in lowers:
            lowers[tuple(bins)] = _counted(rows, keys(), _BINS, bins)
        lower = lowers[tuple(bins)]
        for row, (place, skipped) in enumerate(zip(bins, before, strict=True)):
            rest = int(np.searchsorted(lower[row].cumsum(), rank - skipped, side="right"))
            result[rank][row] = _value(np.uint32((place << 16) | rest))
    return result


def _counted(
    rows: int, blocks: Iterator[AnyArray], bins: int, within: list[int] | None = None
) -> NDArray[np.int64]:
    """Count values below `bins`, or the lower 16 bits of those whose upper ones have a value."""
    counts = np.zeros((rows, bins), np.int64)
    for block in blocks:
        for row in range(rows):
            values = block[:, row]
            if within is not None:
                values = values[values >> np.uint32(16) == within[row]] & np.uint32(0xFFFF)
            counts[row] += np.bincount(values, minlength=bins)
    return counts


def _key(values: AnyArray) -> NDArray[np.uint32]:
    """Map float32 to integers of the same order."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, ~bits, bits | np.uint32(1 << 31))


def _value(key: np.uint32) -> float:
    bits = ~key if key >> np.uint32(31) == 0 else key & np.uint32(0x7FFFFFFF)
    return float(np.array(bits, np.uint32).view(np.float32))
