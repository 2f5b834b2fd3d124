"""Percentiles of a whole image, exactly, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from tiledseg._validate import check_image, invalid, read_region, real_pair
from tiledseg.errors import ArrayError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import Source

Limits: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""The lower and the upper percentile of each channel, float64 (C,) each."""

_HISTOGRAM_BLOCK = (512, 4096)


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
        If `percentiles` are not two numbers in [0, 100].

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
    counts = np.zeros((channels, 1 << 8 * dtype.itemsize), np.int64)
    for y in range(0, height, _HISTOGRAM_BLOCK[0]):
        for x in range(0, width, _HISTOGRAM_BLOCK[1]):
            rows = slice(y, min(y + _HISTOGRAM_BLOCK[0], height))
            columns = slice(x, min(x + _HISTOGRAM_BLOCK[1], width))
            block = read_region(image, rows, columns).reshape(-1, channels)
            for channel in range(channels):
                counts[channel] += np.bincount(block[:, channel], minlength=counts.shape[1])
    sums = counts.cumsum(axis=1)
    ranks = [np.ceil(np.float64(one) / 100 * height * width) for one in limits]
    low, high = (
        np.array([np.searchsorted(line, max(rank, 1)) for line in sums], np.float64) for rank in ranks
    )
    return low, high


def _checked_percentiles(percentiles: Sequence[float]) -> tuple[float, float]:
    must, fix = "be two numbers in [0, 100]", "Give (1.0, 99.0), for example."
    values = real_pair("percentiles", percentiles, must, fix)
    if not all(0 <= value <= 100 for value in values):
        raise invalid(SettingError, "percentiles", must=must, got=percentiles, fix=fix)
    return values
