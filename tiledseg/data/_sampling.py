"""Taking the px of a crop out of an image and its mask, once and by one map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tiledseg._arrays import read_region

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, Source
    from tiledseg.data._warp import CropMap

__all__ = ["taken"]

_CHANNELS_AT_ONCE = 4  # OpenCV takes no more


def taken(
    pixels: Source, mask: Source, crop_map: CropMap, origin: tuple[int, int], shape: tuple[int, int]
) -> tuple[AnyArray, NDArray[np.uint8]]:
    """Take a crop of an image, between px bilinearly, and of its mask, from the nearest px.

    Beyond its edges the image is mirrored, the edge px not repeated.

    Parameters
    ----------
    pixels : array_like
        (H, W, C), uint8, uint16 or float32.
    mask : array_like
        Labels, uint8 (H, W).
    crop_map : CropMap
        Where px come from.
    origin : tuple of int
        Place (y, x) in the image of the crop's first px, were nothing moved.
    shape : tuple of int
        Height and width of the crop in px.

    Returns
    -------
    image : ndarray
        (h, w, C) in the dtype of `pixels`.
    labels : ndarray
        uint8 (h, w).
    """
    rows, columns = (
        _span(low, high, length)
        for (low, high), length in zip(_reach(crop_map, origin, shape), mask.shape, strict=True)
    )
    image, labels = read_region(pixels, rows, columns), read_region(mask, rows, columns)
    near = (origin[0] - rows.start, origin[1] - columns.start)
    if crop_map.still:
        return _mirrored(image, near, shape), _mirrored(labels, near, shape)
    matrix = _matrix(crop_map, near, shape)
    if crop_map.bend is None:
        return _straight(image, matrix, shape, cv2.INTER_LINEAR), _straight(
            labels, matrix, shape, cv2.INTER_NEAREST
        )
    places = _places(crop_map.bend, matrix)
    return _bent(image, places, cv2.INTER_LINEAR), _bent(labels, places, cv2.INTER_NEAREST)


def _reach(crop_map: CropMap, origin: tuple[int, int], shape: tuple[int, int]) -> list[tuple[float, float]]:
    """Say between which rows and between which columns all px come from."""
    matrix = _matrix(crop_map, origin, shape)
    corners = np.array([(x, y, 1) for x in (0, shape[1] - 1) for y in (0, shape[0] - 1)])
    reached = corners @ matrix.T
    low, high = reached.min(axis=0), reached.max(axis=0)
    if crop_map.bend is not None:
        low, high = low + crop_map.bend.min(axis=(0, 1)), high + crop_map.bend.max(axis=(0, 1))
    return [(float(low[axis]), float(high[axis])) for axis in (1, 0)]


def _span(low: float, high: float, length: int) -> slice:
    """Say which px of an axis are needed, those that are seen mirrored among them."""
    first, last = math.floor(low) - 1, math.ceil(high) + 1
    first, last = min(first, 2 * (length - 1) - last), max(last, -first)
    return slice(max(0, min(first, length - 1)), max(1, min(length, last + 1)))


def _matrix(crop_map: CropMap, origin: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Give the map from px (x, y) of the crop to those of what `origin` counts in."""
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    matrix = crop_map.matrix.copy()
    matrix[:, 2] += middle + origin[::-1] - matrix[:, :2] @ middle
    return matrix


def _places(bend: FloatArray, matrix: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    (x_of_x, x_of_y, x_shift), (y_of_x, y_of_y, y_shift) = matrix
    y, x = np.arange(bend.shape[0])[:, None], np.arange(bend.shape[1])
    return (
        bend[..., 0] + (x_of_x * x + x_shift).astype(np.float32) + (x_of_y * y).astype(np.float32),
        bend[..., 1] + (y_of_x * x + y_shift).astype(np.float32) + (y_of_y * y).astype(np.float32),
    )


def _straight(array: AnyArray, matrix: NDArray[np.float64], shape: tuple[int, int], how: int) -> AnyArray:
    flags = how | cv2.WARP_INVERSE_MAP
    return _by_parts(
        array,
        lambda part: cv2.warpAffine(
            part, matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101
        ),
    )


def _bent(array: AnyArray, places: tuple[FloatArray, FloatArray], how: int) -> AnyArray:
    return _by_parts(array, lambda part: cv2.remap(part, *places, how, borderMode=cv2.BORDER_REFLECT_101))


def _mirrored(array: AnyArray, origin: tuple[int, int], shape: tuple[int, int]) -> AnyArray:
    """Cut a crop that is not moved, mirrored where it reaches beyond the edges."""
    inside = all(
        first >= 0 and first + size <= have
        for first, size, have in zip(origin, shape, array.shape[:2], strict=True)
    )
    if inside:
        return array[origin[0] : origin[0] + shape[0], origin[1] : origin[1] + shape[1]]
    y, x = (
        _folded(np.arange(first, first + size), have)
        for first, size, have in zip(origin, shape, array.shape[:2], strict=True)
    )
    return array[y[:, None], x]


def _folded(places: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Mirror places into [0, length) as often as needed."""
    period = max(1, 2 * (length - 1))
    within = places % period
    return np.minimum(within, period - within) if length > 1 else within


def _by_parts(array: AnyArray, warp: Callable[[AnyArray], AnyArray]) -> AnyArray:
    if array.ndim == 2:
        return warp(array)
    parts = [
        warp(np.ascontiguousarray(array[..., first : first + _CHANNELS_AT_ONCE]))
        for first in range(0, array.shape[2], _CHANNELS_AT_ONCE)
    ]
    shape = (*parts[0].shape[:2], -1)  # OpenCV drops an axis of one channel
    return (
        parts[0].reshape(shape)
        if len(parts) == 1
        else np.concatenate([part.reshape(shape) for part in parts], axis=2)
    )
