"""Taking the px of a crop out of an image and its mask, once and by one map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.data._prepared import PreparedPair
    from tiledseg.data._warp import CropMap

__all__ = ["taken"]

_CHANNELS_AT_ONCE = 4  # OpenCV takes no more

_Warp: TypeAlias = "Callable[[AnyArray, int], AnyArray]"


def taken(
    pair: PreparedPair, crop_map: CropMap, origin: tuple[int, int], shape: tuple[int, int]
) -> tuple[AnyArray, NDArray[np.uint8]]:
    """Take a crop of an image, between px bilinearly, and of its mask, from the nearest px.

    Beyond its edges the image is mirrored, the edge px not repeated.
    """
    matrix = _matrix(crop_map, shape)
    places = None if crop_map.bend is None else _places(crop_map.bend, matrix)
    reach = _corners(matrix, shape) if places is None else places
    rows, columns = (
        _span(axis, first, length)
        for axis, first, length in zip(reversed(reach), origin, pair.shape[:2], strict=True)
    )
    image, labels = pair.read(rows, columns)
    near = (origin[0] - rows.start, origin[1] - columns.start)
    if crop_map.still:
        return _mirrored(image, near, shape), _mirrored(labels, near, shape)
    warp = _straight(matrix, near, shape) if places is None else _bent(places, near)
    return _by_parts(image, warp), warp(labels, cv2.INTER_NEAREST)


def _matrix(crop_map: CropMap, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Give the straight part of the map, of places (x, y) counted from the crop's first px."""
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    matrix = crop_map.matrix.copy()
    matrix[:, 2] += middle - matrix[:, :2] @ middle
    return matrix


def _corners(matrix: NDArray[np.float64], shape: tuple[int, int]) -> tuple[AnyArray, AnyArray]:
    corners = np.array([(x, y, 1) for x in (0, shape[1] - 1) for y in (0, shape[0] - 1)])
    x, y = matrix @ corners.T
    return x, y


def _places(bend: FloatArray, matrix: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    """Give x and y of the places that the crop's px come from, counted from its first px."""
    (x_of_x, x_of_y, x_shift), (y_of_x, y_of_y, y_shift) = matrix.astype(np.float32)
    y, x = np.arange(bend.shape[0], dtype=np.float32)[:, None], np.arange(bend.shape[1], dtype=np.float32)
    return (
        bend[..., 0] + (x_of_x * x + x_shift) + x_of_y * y,
        bend[..., 1] + (y_of_x * x + y_shift) + y_of_y * y,
    )


def _span(places: AnyArray, origin: int, length: int) -> slice:
    """Say which px of an axis are needed, those that are seen mirrored among them."""
    low, high, _, _ = cv2.minMaxLoc(places)
    first, last = math.floor(low) + origin - 1, math.ceil(high) + origin + 1
    first, last = min(first, 2 * (length - 1) - last), max(last, -first)
    return slice(max(0, min(first, length - 1)), max(1, min(length, last + 1)))


def _straight(matrix: NDArray[np.float64], near: tuple[int, int], shape: tuple[int, int]) -> _Warp:
    shifted = matrix + np.array([[0, 0, near[1]], [0, 0, near[0]]])
    return lambda part, how: cv2.warpAffine(
        part, shifted, shape[::-1], flags=how | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101
    )


def _bent(places: tuple[FloatArray, FloatArray], near: tuple[int, int]) -> _Warp:
    x, y = places[0] + np.float32(near[1]), places[1] + np.float32(near[0])
    return lambda part, how: cv2.remap(part, x, y, how, borderMode=cv2.BORDER_REFLECT_101)


def _by_parts(image: AnyArray, warp: _Warp) -> AnyArray:
    """Warp an image, a few channels at a time."""
    parts = [
        warp(np.ascontiguousarray(image[..., first : first + _CHANNELS_AT_ONCE]), cv2.INTER_LINEAR)
        for first in range(0, image.shape[2], _CHANNELS_AT_ONCE)
    ]
    whole = [part.reshape(*part.shape[:2], -1) for part in parts]  # OpenCV drops an axis of one channel
    return whole[0] if len(whole) == 1 else np.concatenate(whole, axis=2)


def _mirrored(array: AnyArray, origin: tuple[int, int], shape: tuple[int, int]) -> AnyArray:
    """Cut a crop that is not moved, mirrored where it reaches beyond the edges."""
    y, x = (
        _folded(np.arange(first, first + size), have)
        for first, size, have in zip(origin, shape, array.shape[:2], strict=True)
    )
    inside = y[0] + shape[0] - 1 == y[-1] and x[0] + shape[1] - 1 == x[-1]
    return array[y[0] : y[-1] + 1, x[0] : x[-1] + 1] if inside else array[y[:, None], x]


def _folded(places: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Mirror places into [0, length) as often as needed."""
    within = places % max(1, 2 * (length - 1))
    return np.asarray(np.minimum(within, abs(2 * (length - 1) - within)), np.intp)
