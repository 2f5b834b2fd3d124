"""Crops of prepared pairs: random ones to train on, a fixed grid of them to validate on."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tiledseg._lazy import cv2
from tiledseg._validate import all_of, invalid, listed, real_number, whole_number, whole_pair
from tiledseg.config import Config, TilingConfig
from tiledseg.data.augment import (
    GEOMETRIC,
    IDENTITY,
    SHARES_OF_WHITE,
    change_values,
    check_values,
    draw_map,
)
from tiledseg.data.cache import PreparedPair
from tiledseg.errors import SettingError
from tiledseg.io import IGNORED
from tiledseg.tiling import Tiler, padded_places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import TransformConfig
    from tiledseg.data.augment import CropMap
    from tiledseg.tiling import Tile

_log = logging.getLogger("tiledseg")
_LITTLE = 8  # parts of a dtype's range, of which images that use one look dark
_JITTER = 0.25  # largest distance of the foreground px from the crop's centre, as a share of the crop
_CHANNELS_AT_ONCE = 4  # OpenCV's limit

_Crop: TypeAlias = "tuple[AnyArray, NDArray[np.uint8], NDArray[np.bool_] | None]"
"""Px, labels, and which px count; None for all of them."""
_Warp: TypeAlias = "Callable[[AnyArray, int], AnyArray]"


def crops_to_cover(pairs: Sequence[PreparedPair], crop_shape: tuple[int, int]) -> int:
    """Count the crops that have the same area as the images."""
    found, area = _checked_pairs(pairs), math.prod(whole_pair("crop_shape", crop_shape))
    return sum(math.ceil(_counted(pair) / area) for pair in found)


def _counted(pair: PreparedPair) -> int:
    """Count the px of a pair that count; at least one."""
    return max(1, math.prod(pair.shape[:2]) if pair.counted is None else pair.counted)


def _checked_pairs(pairs: Sequence[PreparedPair]) -> list[PreparedPair]:
    fix = "Make them with tiledseg.data.prepare_pairs."
    known = all_of(PreparedPair, pairs, "pairs", fix)
    if not known:
        raise invalid(SettingError, "pairs", must="hold at least one prepared pair", got="none", fix=fix)
    return known


class CropSampler:
    """Random crops, a share of them around foreground; seed, epoch and index determine each crop."""

    def __init__(  # noqa: PLR0913
        self,
        pairs: Sequence[PreparedPair],
        crop_shape: tuple[int, int],
        *,
        length: int | None = None,
        classes: int = 1,
        foreground_share: float = 0.5,
        transforms: Sequence[TransformConfig] = (),
        seed: int = 0,
    ) -> None:
        all_of(Config, transforms, "transforms", "Pass settings such as tiledseg.config.FlipConfig().")
        self._geometric = [one for one in transforms if one.name in GEOMETRIC]
        self._photometric = [one for one in transforms if one.name not in GEOMETRIC]
        self._pairs, self._shape = _checked_pairs(pairs), whole_pair("crop_shape", crop_shape)
        for pair in self._pairs:
            check_values(pair, self._photometric)
        self._warn_of_small_values()
        self._classes, self._seed = whole_number("classes", classes), whole_number("seed", seed, 0)
        covering = crops_to_cover(self._pairs, self._shape)
        self._length = whole_number("length", covering if length is None else length)
        self._share = real_number("foreground_share", foreground_share, "Use 0.5, for example.")
        areas = np.array([_counted(pair) for pair in self._pairs])
        self._until = np.cumsum(areas) / areas.sum()

    def __len__(self) -> int:
        """Count the crops of an epoch."""
        return self._length

    def _warn_of_small_values(self) -> None:
        """Warn where the images use little of the range that is taken for theirs."""
        config = self._pairs[0].preprocessing
        largest = max(pair.extremes[1] for pair in self._pairs)
        names = [one.name for one in self._photometric if one.name in SHARES_OF_WHITE]
        if config.dtype == "float32" or config.white is not None or largest * _LITTLE >= config.largest:
            return
        if names or config.percentiles is None:
            shares = f", and {listed(names, len(names))} of `augment` are shares of it" if names else ""
            text = (
                "Values reach only %d of %d, which is taken for white%s. Set `preprocessing.white` to the "
                "largest value that images can have: 4095 for a camera of 12 bits."
            )
            _log.warning(text, largest, config.largest, shares)

    def batch(self, epoch: int, ids: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Cut some crops of an epoch."""
        chosen = self._chosen(epoch)
        crops = [
            self._crop(chosen[index], np.random.default_rng([self._seed, epoch, 1 + index])) for index in ids
        ]
        return _stacked(crops, self._classes)

    def _chosen(self, epoch: int) -> NDArray[np.intp]:
        """Choose the image of each crop, by area and in random order."""
        rng = np.random.default_rng([self._seed, epoch, 0])
        even = (rng.permutation(self._length) + rng.random()) / self._length
        return np.minimum(np.searchsorted(self._until, even, side="right"), len(self._pairs) - 1)

    def _crop(self, index: int, rng: np.random.Generator) -> _Crop:
        pair, origin = self._pairs[index], self._origin(index, rng)
        crop_map = draw_map(self._geometric, self._shape, rng)
        pixels, mask = _sampled(pair, crop_map, origin, self._shape)
        counts = mask != IGNORED if pair.ignores else None
        return (
            pair.prepared(change_values(pixels, self._photometric, rng, pair.preprocessing.largest)),
            mask,
            counts,
        )

    def _origin(self, index: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the origin of a crop; an image that is smaller than the crop is centred in it."""
        shape, foreground = self._pairs[index].shape[:2], self._pairs[index].foreground
        free = np.array(shape) - np.array(self._shape)
        if len(foreground) == 0 or rng.random() >= self._share:
            y, x = rng.integers(0, np.maximum(free, 0) + 1)
        else:
            middle = np.array(np.unravel_index(rng.choice(foreground), shape))
            off = rng.uniform(-_JITTER, _JITTER, 2) * self._shape
            y, x = np.clip(middle - np.array(self._shape) // 2 + off.astype(int), 0, np.maximum(free, 0))
        y, x = np.where(free < 0, free // 2, (y, x))
        return int(y), int(x)


class GridCrops:
    """A fixed grid of crops that covers each image, for validation."""

    # Each px of an image counts in one crop: not where crops overlap, nor where it is mirrored.

    def __init__(
        self, pairs: Sequence[PreparedPair], crop_shape: tuple[int, int], *, classes: int = 1
    ) -> None:
        self._shape, self._classes = whole_pair("crop_shape", crop_shape), whole_number("classes", classes)
        tiler = Tiler(TilingConfig(tile_size=self._shape, overlap=0))
        pairs = _checked_pairs(pairs)
        self._crops = [(pair, tile) for pair in pairs for tile in tiler.grid(pair.shape)]

    def __len__(self) -> int:
        """Count the crops."""
        return len(self._crops)

    def batch(self, epoch: int, ids: Sequence[int]) -> tuple[FloatArray, FloatArray]:  # noqa: ARG002
        """Cut some crops."""
        crops = [self._crop(*self._crops[index]) for index in ids]
        return _stacked(crops, self._classes)

    def _crop(self, pair: PreparedPair, tile: Tile) -> _Crop:
        box, core = tile.read_box, tile.core_box
        pixels, mask = _sampled(pair, IDENTITY, (box.y0, box.x0), self._shape)
        counts = np.zeros(self._shape, np.bool_)
        counts[core.y0 - box.y0 : core.y1 - box.y0, core.x0 - box.x0 : core.x1 - box.x0] = True
        if pair.ignores:
            counts &= mask != IGNORED
        return pair.prepared(pixels), mask, counts


def _stacked(crops: Sequence[_Crop], classes: int) -> tuple[FloatArray, FloatArray]:
    truths = [_channels(mask, classes, counts) for _, mask, counts in crops]
    return np.stack([image for image, _, _ in crops]), np.stack(truths)


def _channels(mask: NDArray[np.uint8], classes: int, counts: NDArray[np.bool_] | None) -> FloatArray:
    """Turn labels into a channel for each class, or for only one class; -1 where a px does not count."""
    labels = np.arange(classes) if classes > 1 else np.ones(1)
    channels = np.asarray(mask[..., None] == labels, np.float32)
    if counts is not None:
        channels[~counts] = -1
    return channels


def _sampled(
    pair: PreparedPair, crop_map: CropMap, origin: tuple[int, int], shape: tuple[int, int]
) -> tuple[AnyArray, NDArray[np.uint8]]:
    """Sample a crop of an image (bilinear) and of its mask (nearest px); edges are mirrored."""
    matrix = _matrix(crop_map, shape)
    places = None if crop_map.displacement is None else _places(crop_map.displacement, matrix)
    needed = _corners(matrix, shape) if places is None else places
    rows, columns = (
        _span(axis, first, length)
        for axis, first, length in zip(reversed(needed), origin, pair.shape[:2], strict=True)
    )
    image, labels = pair.read(rows, columns)
    near = (origin[0] - rows.start, origin[1] - columns.start)
    if crop_map.is_identity:
        return _mirrored(image, near, shape), _mirrored(labels, near, shape)
    warp = _affine_warp(matrix, near, shape) if places is None else _displacement_warp(places, near)
    return _by_parts(image, warp), warp(labels, cv2.INTER_NEAREST)


def _matrix(crop_map: CropMap, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the affine part of the map, for positions (x, y) relative to the crop's first px."""
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    matrix = crop_map.matrix.copy()
    matrix[:, 2] += middle - matrix[:, :2] @ middle
    return matrix


def _corners(matrix: NDArray[np.float64], shape: tuple[int, int]) -> tuple[AnyArray, AnyArray]:
    corners = np.array([(x, y, 1) for x in (0, shape[1] - 1) for y in (0, shape[0] - 1)])
    x, y = matrix @ corners.T
    return x, y


def _places(displacement: FloatArray, matrix: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    """Return x and y of the positions that the px come from, relative to the crop's first px."""
    (x_of_x, x_of_y, x_shift), (y_of_x, y_of_y, y_shift) = matrix.astype(np.float32)
    y, x = (
        np.arange(displacement.shape[0], dtype=np.float32)[:, None],
        np.arange(displacement.shape[1], dtype=np.float32),
    )
    return (
        displacement[..., 0] + (x_of_x * x + x_shift) + x_of_y * y,
        displacement[..., 1] + (y_of_x * x + y_shift) + y_of_y * y,
    )


def _span(places: AnyArray, origin: int, length: int) -> slice:
    """Find the range of px that is needed of an axis, mirrored px included."""
    low, high, _, _ = cv2.minMaxLoc(places)
    first, last = math.floor(low) + origin - 1, math.ceil(high) + origin + 1
    first, last = min(first, 2 * (length - 1) - last), max(last, -first)
    return slice(max(0, min(first, length - 1)), max(1, min(length, last + 1)))


def _affine_warp(matrix: NDArray[np.float64], near: tuple[int, int], shape: tuple[int, int]) -> _Warp:
    shifted = matrix + np.array([[0, 0, near[1]], [0, 0, near[0]]])
    return lambda part, how: cv2.warpAffine(
        part, shifted, shape[::-1], flags=how | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101
    )


def _displacement_warp(places: tuple[FloatArray, FloatArray], near: tuple[int, int]) -> _Warp:
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
    """Cut an unmoved crop; px beyond the edges are mirrored."""
    y, x = (
        padded_places(np.arange(first, first + size), have, "reflect")
        for first, size, have in zip(origin, shape, array.shape[:2], strict=True)
    )
    inside = y[0] + shape[0] - 1 == y[-1] and x[0] + shape[1] - 1 == x[-1]
    return array[y[0] : y[-1] + 1, x[0] : x[-1] + 1] if inside else array[y[:, None], x]
