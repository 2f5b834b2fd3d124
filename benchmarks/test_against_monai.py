"""The same network through this project and through MONAI gives the same map.

Sizes are drawn so that both place the same tiles: MONAI uses a fixed stride and shifts the last tile
back, this project spreads the tiles evenly, and both agree where the stride divides the rest. Images
smaller than a tile are omitted, because the two libraries pad differently. The network's output
depends on the position in a tile, so that only equal weights give equal maps.

Values are in [0, 1); both sum up to 16 tiles in float32, so 1e-5 is their rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference

from tiledseg import Tiler, TilingConfig, tiled_predict

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import Blend

_ROUNDING = 1e-5
_LEAST_WEIGHT = 1e-3  # MONAI lifts smaller weights of its gaussian to this


@dataclass(frozen=True)
class _Case:
    """An image, a tiling on which the grids agree, and a network that depends on the position in a tile."""

    image: FloatArray
    tile: tuple[int, int]
    overlap: tuple[int, int]
    field: FloatArray

    def ours(self, blend: Blend) -> FloatArray:
        tiling = TilingConfig(tile_size=self.tile, overlap=self.overlap, blend=blend)
        return tiled_predict(lambda tiles: tiles[..., :1] * self.field, self.image, tiling)

    def monai(self, mode: str, weights: torch.Tensor | None = None) -> AnyArray:
        field = torch.from_numpy(np.moveaxis(self.field, -1, 0).copy())
        tensor = torch.from_numpy(np.moveaxis(self.image, -1, 0).copy())[None]
        shared = [(px - 0.5) / tile if px else 0.0 for px, tile in zip(self.overlap, self.tile, strict=True)]
        found = sliding_window_inference(
            tensor, self.tile, 3, lambda tiles: tiles[:, :1] * field, shared, mode, roi_weight_map=weights
        )
        return np.moveaxis(found[0].numpy(), 0, -1)


def _case(tile: tuple[int, int], overlap: tuple[int, int], counts: tuple[int, int], seed: int) -> _Case:
    draw = np.random.default_rng(seed)
    height, width = (
        size + (count - 1) * (size - shared)
        for size, shared, count in zip(tile, overlap, counts, strict=True)
    )
    image = draw.random((height, width, 3), np.float32)
    return _Case(image, tile, overlap, draw.random((*tile, 1 + seed % 3), np.float32))


def _drawn(seed: int) -> _Case:
    draw = np.random.default_rng(1000 + seed)
    tile = tuple(int(size) for size in draw.integers(24, 97, 2))
    overlap = tuple(int(draw.integers(0, size // 2)) for size in tile)
    return _case(tile, overlap, tuple(int(count) for count in draw.integers(1, 5, 2)), seed)


_CASES = [pytest.param(_drawn(seed), id=f"drawn-{seed}") for seed in range(24)] + [
    pytest.param(_case((512, 512), (160, 256), (5, 9), 0), id="1920x2560"),
]


def _bell(tile: tuple[int, int]) -> torch.Tensor:
    """Make the gaussian with a sigma of an eighth of the tile, its small weights as they are."""
    y, x = (np.exp(-0.5 * ((np.arange(size) + 0.5 - size / 2) / (size / 8)) ** 2) for size in tile)
    return torch.from_numpy(np.multiply.outer(y, x).astype(np.float32))[None, None]


@pytest.mark.parametrize("case", _CASES)
def test_constant_agrees_everywhere(case: _Case) -> None:
    np.testing.assert_allclose(case.ours("constant"), case.monai("constant"), rtol=0, atol=_ROUNDING)


@pytest.mark.parametrize("case", _CASES)
def test_gaussian_agrees_everywhere_with_the_same_weights(case: _Case) -> None:
    theirs = case.monai("gaussian", _bell(case.tile))
    np.testing.assert_allclose(case.ours("gaussian"), theirs, rtol=0, atol=_ROUNDING)


@pytest.mark.parametrize("case", _CASES)
def test_gaussian_agrees_where_monai_lifts_no_weight(case: _Case) -> None:
    tiling = TilingConfig(tile_size=case.tile, overlap=case.overlap)
    tiles_at, lifted_at = np.zeros(case.image.shape[:2], int), np.zeros(case.image.shape[:2], int)
    lifted = _bell(case.tile)[0, 0].numpy() < _LEAST_WEIGHT
    for tile in Tiler(tiling).grid(case.image.shape):
        tiles_at[tile.read_box.slices] += 1
        lifted_at[tile.read_box.slices] += lifted
    same = (tiles_at == 1) | (lifted_at == 0)
    np.testing.assert_array_less(0.2, same.mean())  # there is something to compare
    ours, theirs = case.ours("gaussian"), case.monai("gaussian")
    np.testing.assert_allclose(ours[same], theirs[same], rtol=0, atol=_ROUNDING)


def test_the_weights_are_monais_own_before_the_lift() -> None:
    theirs = compute_importance_map((40, 64), "gaussian", 0.125).numpy()
    np.testing.assert_allclose(np.maximum(_bell((40, 64))[0, 0].numpy(), _LEAST_WEIGHT), theirs, rtol=1e-5)
