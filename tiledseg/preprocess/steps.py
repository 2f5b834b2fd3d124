"""A preparation of px in steps, with statistics of the whole image, computed block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import check_finite, check_image, invalid, read_region
from tiledseg.errors import ArrayError
from tiledseg.preprocess.prepare import Prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, Source
    from tiledseg.config import PixelStep, StepsConfig

_BLOCK = (512, 4096)
_Pair = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


class Stepped(Prepared):
    """An image that is prepared in steps: float32 (h, w, C), computed where it is sliced."""

    def __init__(self, image: Source, config: StepsConfig) -> None:
        height, width, channels = check_image(image, config.channels)
        self.shape: tuple[int, int, int] = (height, width, channels)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self._image: Source = image
        self._steps = [(one, _statistic(image, channels, one)) for one in config.steps]

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        pixels = self._read(*key)
        check_finite(pixels, "image", (key[0].start or 0, key[1].start or 0))
        for step, statistic in self._steps:
            pixels = _OPERATIONS[step.op](pixels, step, statistic)
        return np.ascontiguousarray(pixels, np.float32)


def _cast(pixels: AnyArray, step: PixelStep, _: _Pair | None) -> AnyArray:
    with np.errstate(invalid="ignore"):
        return pixels.astype(step.dtype)


def _linear(pixels: AnyArray, step: PixelStep, _: _Pair | None) -> AnyArray:
    return pixels * np.asarray(step.gain, np.float64) + np.asarray(step.offset, np.float64)


def _clipped(pixels: AnyArray, step: PixelStep, limits: _Pair | None) -> AnyArray:
    low, high = (step.least, step.most) if limits is None else limits
    return np.clip(pixels, low, high)


def _binarized(pixels: AnyArray, step: PixelStep, _: _Pair | None) -> AnyArray:
    return pixels > np.asarray(step.threshold)


def _standardized(pixels: AnyArray, step: PixelStep, found: _Pair | None) -> AnyArray:
    mean, std = found or (0.0, 1.0)
    return (pixels - mean) / (std + step.eps)


def _ranged(pixels: AnyArray, step: PixelStep, found: _Pair | None) -> AnyArray:
    low, high = found or (0.0, 1.0)
    return (pixels - low) / (high - low + step.eps)


def _sigmoid(pixels: AnyArray, _step: PixelStep, _: _Pair | None) -> AnyArray:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(pixels, np.float64)))


def _softmax(pixels: AnyArray, _step: PixelStep, _: _Pair | None) -> AnyArray:
    powers = np.exp(pixels - pixels.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


_OPERATIONS: dict[str, Callable[[AnyArray, PixelStep, _Pair | None], AnyArray]] = {
    "cast": _cast,
    "linear": _linear,
    "clip": _clipped,
    "binarize": _binarized,
    "standardize": _standardized,
    "range": _ranged,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
}


def _statistic(image: Source, channels: int, step: PixelStep) -> _Pair | None:
    """Return what a step needs to know of the whole image, per channel, or once for all channels."""
    if step.op == "standardize":
        return _moments(image, channels, joint=not step.per_channel)
    if step.op == "range" or (step.op == "clip" and (step.least, step.most) == (None, None)):
        values = quantiles_of(
            image, channels, step.percentiles, joint=not step.per_channel, linear=step.op == "range"
        )
        return values[0], values[1]
    return None


def _blocks(image: Source, channels: int) -> Iterator[AnyArray]:
    """Read an image block by block, as (px, channels)."""
    height, width = image.shape[:2]
    for y in range(0, height, _BLOCK[0]):
        for x in range(0, width, _BLOCK[1]):
            rows = slice(y, min(y + _BLOCK[0], height))
            block = read_region(image, rows, slice(x, min(x + _BLOCK[1], width)))
            check_finite(block, "image", (y, x))
            yield block.reshape(-1, channels)


def _moments(image: Source, channels: int, *, joint: bool) -> _Pair:
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
        sums = _counted(rows, (one.reshape(-1, rows) for one in _blocks(image, channels))).cumsum(1)
        return {
            rank: np.array([np.searchsorted(line, rank, side="right") for line in sums], np.float64)
            for rank in ranks
        }

    def keys() -> Iterator[NDArray[np.uint32]]:
        for block in _blocks(image, channels):
            yield _key(block).reshape(-1, rows)

    upper = _counted(rows, (key >> np.uint32(16) for key in keys()))
    lowers: dict[tuple[int, ...], NDArray[np.int64]] = {}
    result = {rank: np.zeros(rows) for rank in ranks}
    for rank in ranks:
        bins = [int(np.searchsorted(line, rank, side="right")) for line in upper.cumsum(1)]
        before = [int(line[:place].sum()) for line, place in zip(upper, bins, strict=True)]
        if tuple(bins) not in lowers:
            lowers[tuple(bins)] = _counted(rows, keys(), bins)
        lower = lowers[tuple(bins)]
        for row, (place, skipped) in enumerate(zip(bins, before, strict=True)):
            rest = int(np.searchsorted(lower[row].cumsum(), rank - skipped, side="right"))
            result[rank][row] = _value(np.uint32((place << 16) | rest))
    return result


def _counted(rows: int, blocks: Iterator[AnyArray], within: list[int] | None = None) -> NDArray[np.int64]:
    """Count values of 16 bits, or the lower 16 bits of those whose upper ones have a value."""
    counts = np.zeros((rows, 1 << 16), np.int64)
    for block in blocks:
        for row in range(rows):
            values = block[:, row]
            if within is not None:
                values = values[values >> np.uint32(16) == within[row]] & np.uint32(0xFFFF)
            counts[row] += np.bincount(values, minlength=1 << 16)
    return counts


def _key(values: AnyArray) -> NDArray[np.uint32]:
    """Map float32 to integers of the same order."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, ~bits, bits | np.uint32(1 << 31))


def _value(key: np.uint32) -> float:
    bits = ~key if key >> np.uint32(31) == 0 else key & np.uint32(0x7FFFFFFF)
    return float(np.array(bits, np.uint32).view(np.float32))
