"""The same stitching by this project and by others, with their fastest and their default settings.

All cut an image (H, W, 3) uint8 into 512 px tiles with 128 px of overlap, call a predictor that
returns a tile's first channel, and blend. The map must equal the image's first channel; `wrong_by`
measures this. ``prepare(image)`` makes the input of a contender, and its time is not counted; the
function that it returns is timed. Each contender runs in a process of its own, and loads its library
itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg import TilingConfig, tiled_predict

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from tiledseg._types import AnyArray

__all__ = ["CONTENDERS", "wrong_by"]

_TILE, _OVERLAP = 512, 128


def _ours(image: AnyArray, batch_size: int | None = None) -> Callable[[], AnyArray]:
    tiling = TilingConfig(tile_size=_TILE, overlap=_OVERLAP, blend="gaussian")
    return lambda: tiled_predict(lambda tiles: tiles[..., :1], image, tiling, batch_size=batch_size)


def _tensor(image: AnyArray) -> torch.Tensor:
    """Make the batch of one float32 image, channels first and contiguous, that MONAI works on."""
    torch = import_module("torch")
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0), dtype=np.float32))[None]


def _monai(tensor: torch.Tensor) -> AnyArray:
    size, overlap = (_TILE, _TILE), _OVERLAP / _TILE
    infer = import_module("monai.inferers").sliding_window_inference
    # A window is a view of the image, and MONAI multiplies what is returned in place.
    return infer(tensor, size, 1, lambda windows: windows[:, :1].clone(), overlap, "gaussian").numpy()


def _monai_ready(image: AnyArray) -> Callable[[], AnyArray]:
    import_module("torch").set_num_threads(1)
    tensor = _tensor(image)
    return lambda: _monai(tensor)


def _monai_from_array(image: AnyArray, threads: int | None = None) -> Callable[[], AnyArray]:
    if threads is not None:
        import_module("torch").set_num_threads(threads)
    return lambda: _monai(_tensor(image))


def _tiler(image: AnyArray, batch: int, *, visits: bool) -> Callable[[], AnyArray]:
    """Use tiler with our gaussian: tiler has none, and its hann is zero at the image's border."""
    tiler = import_module("tiler")
    height, width, channels = image.shape
    place = (np.arange(_TILE) + 0.5 - _TILE / 2) / (_TILE / 8)
    bell = np.exp(-0.5 * np.square(place))
    window = np.multiply.outer(bell, bell)[..., None]

    def run() -> AnyArray:
        options: dict[str, Any] = {"overlap": _OVERLAP, "channel_dimension": 2, "mode": "reflect"}
        cutter = tiler.Tiler((height, width, channels), (_TILE, _TILE, channels), **options)
        joiner = tiler.Tiler((height, width, 1), (_TILE, _TILE, 1), **options)
        merger = tiler.Merger(joiner, window=window, save_visits=visits)
        for number, tiles in cutter(image, batch_size=batch):
            merger.add_batch(number, batch, tiles[..., :1])
        return merger.merge()

    return run


CONTENDERS: dict[str, Callable[[AnyArray], Callable[[], AnyArray]]] = {
    "tiledseg gaussian": _ours,
    "tiledseg gaussian, 8 tiles per call": lambda image: _ours(image, 8),
    "MONAI gaussian, from its tensor, 1 thread": _monai_ready,
    "MONAI gaussian, from the array": _monai_from_array,
    "MONAI gaussian, from the array, 1 thread": lambda image: _monai_from_array(image, 1),
    "tiler, 4 tiles per batch, no visits": lambda image: _tiler(image, 4, visits=False),
    "tiler, default settings": lambda image: _tiler(image, 1, visits=True),
}


def wrong_by(found: AnyArray, image: AnyArray) -> float:
    """Return the largest error of a map against the image's first channel."""
    return float(np.abs(found.reshape(image.shape[:2]) - image[..., 0]).max())
