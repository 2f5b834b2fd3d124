"""Crops of prepared pairs: random ones to train on, a fixed grid of them to validate on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import all_of, invalid, real_number, whole_number, whole_pair
from tiledseg.config import Config, TilingConfig
from tiledseg.data._prepared import PreparedPair
from tiledseg.data._recolour import check_recolourable, recoloured
from tiledseg.data._sampling import taken
from tiledseg.data._warp import GEOMETRIC, STILL, drawn_map
from tiledseg.errors import SettingError
from tiledseg.tiling import Tiler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tiledseg._types import FloatArray
    from tiledseg.config import TransformConfig
    from tiledseg.tiling import Box

__all__ = ["CropSampler", "GridCrops", "crops_to_cover"]

_JITTER = 0.25  # of the crop: how far off its middle the foreground px may lie


def crops_to_cover(pairs: Sequence[PreparedPair], crop_shape: tuple[int, int]) -> int:
    """Count the crops whose area is that of the images."""
    found, area = _known(pairs), math.prod(whole_pair("crop_shape", crop_shape))
    return sum(math.ceil(math.prod(pair.shape[:2]) / area) for pair in found)


def _known(pairs: Sequence[PreparedPair]) -> list[PreparedPair]:
    fix = "Make them with tiledseg.data.prepare_pairs."
    known = all_of(PreparedPair, pairs, "pairs", fix)
    if not known:
        raise invalid(SettingError, "pairs", must="be at least one", got="none", fix=fix)
    return known


class CropSampler:
    """Random crops, the same from the same seed, epoch and place in the epoch.

    Images take turns in proportion to their area. A share of the crops lies around a foreground
    px, which is drawn evenly from all of the image's; an image without any gives random crops.
    """

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
        all_of(Config, transforms, "transforms", "Pass settings of transforms, of tiledseg.config.")
        self._moving = [one for one in transforms if one.name in GEOMETRIC]
        self._colouring = [one for one in transforms if one.name not in GEOMETRIC]
        self._pairs, self._shape = _known(pairs), whole_pair("crop_shape", crop_shape)
        for pair in self._pairs:
            check_recolourable(pair, self._colouring)
        self._classes, self._seed = whole_number("classes", classes), whole_number("seed", seed, 0)
        covering = crops_to_cover(self._pairs, self._shape)
        self._length = whole_number("length", covering if length is None else length)
        self._share = real_number("foreground_share", foreground_share, "Use 0.5, say.")
        areas = np.array([math.prod(pair.shape[:2]) for pair in self._pairs])
        self._until = np.cumsum(areas) / areas.sum()

    def __len__(self) -> int:
        """Count the crops of an epoch."""
        return self._length

    def batch(self, epoch: int, ids: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Cut some crops of an epoch."""
        chosen = self._chosen(epoch)
        crops = [
            self._crop(chosen[place], np.random.default_rng([self._seed, epoch, 1 + place])) for place in ids
        ]
        return (
            np.stack([image for image, _ in crops]),
            np.stack([_channels(mask, self._classes) for _, mask in crops]),
        )

    def _chosen(self, epoch: int) -> NDArray[np.intp]:
        """Choose the image of every crop: each gets its share of the epoch, in mixed order."""
        rng = np.random.default_rng([self._seed, epoch, 0])
        even = (rng.permutation(self._length) + rng.random()) / self._length
        return np.minimum(np.searchsorted(self._until, even, side="right"), len(self._pairs) - 1)

    def _crop(self, place: int, rng: np.random.Generator) -> tuple[FloatArray, NDArray[np.uint8]]:
        pair, origin = self._pairs[place], self._origin(place, rng)
        crop_map = drawn_map(self._moving, self._shape, rng)
        pixels, mask = taken(pair, crop_map, origin, self._shape)
        return pair.prepared(recoloured(pixels, self._colouring, rng)), mask

    def _origin(self, place: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw where a crop begins; an image that is smaller lies in its middle."""
        shape, foreground = self._pairs[place].shape[:2], self._pairs[place].foreground
        room = np.array(shape) - np.array(self._shape)
        if len(foreground) == 0 or rng.random() >= self._share:
            y, x = rng.integers(0, np.maximum(room, 0) + 1)
        else:
            middle = np.array(np.unravel_index(rng.choice(foreground), shape))
            off = rng.uniform(-_JITTER, _JITTER, 2) * self._shape
            y, x = np.clip(middle - np.array(self._shape) // 2 + off.astype(int), 0, np.maximum(room, 0))
        y, x = np.where(room < 0, room // 2, (y, x))
        return int(y), int(x)


class GridCrops:
    """A grid of crops that covers every image once, never changed: what is validated on.

    Where a size is no multiple of the crop's, crops share some px, which count twice.
    """

    def __init__(
        self, pairs: Sequence[PreparedPair], crop_shape: tuple[int, int], *, classes: int = 1
    ) -> None:
        self._shape, self._classes = whole_pair("crop_shape", crop_shape), whole_number("classes", classes)
        tiler = Tiler(TilingConfig(tile_size=self._shape, overlap=0))
        self._crops = [(pair, tile.read_box) for pair in _known(pairs) for tile in tiler.grid(pair.shape)]

    def __len__(self) -> int:
        """Count the crops."""
        return len(self._crops)

    def batch(self, epoch: int, ids: Sequence[int]) -> tuple[FloatArray, FloatArray]:  # noqa: ARG002
        """Cut some crops."""
        crops = [self._crop(*self._crops[place]) for place in ids]
        return (
            np.stack([image for image, _ in crops]),
            np.stack([_channels(mask, self._classes) for _, mask in crops]),
        )

    def _crop(self, pair: PreparedPair, box: Box) -> tuple[FloatArray, NDArray[np.uint8]]:
        pixels, mask = taken(pair, STILL, (box.y0, box.x0), self._shape)
        return pair.prepared(pixels), mask


def _channels(mask: NDArray[np.uint8], classes: int) -> FloatArray:
    """Give each label its channel; of one class, the foreground's alone."""
    labels = np.arange(classes) if classes > 1 else np.ones(1)
    return np.asarray(mask[..., None] == labels, np.float32)
