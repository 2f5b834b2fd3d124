"""Peak memory of one image, measured in the process that this module is loaded into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks._contenders import CONTENDERS
from benchmarks._memory import peak_of
from tiledseg import TilingConfig, UNetBuilder, UNetConfig, tiled_predict
from tiledseg.engine import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray

__all__ = ["first_channel", "network"]

_HEIGHT, _WIDTH, _TILE = 1920, 2560, 512


def network(rounds: int) -> list[float]:
    """Return the MB of each round above the founding network's own."""
    model = UNetBuilder(UNetConfig()).build()
    predictor = Network.of(model)
    tiling = TilingConfig(tile_size=_TILE, overlap=64)

    def alone() -> None:
        for _ in range(3):
            predictor(_image(_TILE, _TILE)[None])

    return _rounds(rounds, alone, lambda: tiled_predict(model, _image(_HEIGHT, _WIDTH), tiling))


def first_channel(name: str, rounds: int) -> list[float]:
    """Return the MB of each round above what is resident before it."""

    def predict(height: int, width: int) -> AnyArray:
        contender = CONTENDERS[name](_image(height, width))
        return contender()

    predict(_TILE, _TILE)  # what is loaded at the first use belongs to no round
    return _rounds(rounds, lambda: None, lambda: predict(_HEIGHT, _WIDTH))


def _rounds(rounds: int, alone: Callable[[], object], whole: Callable[[], object]) -> list[float]:
    alone()
    pairs = [(peak_of(alone), peak_of(whole)) for _ in range(rounds)]
    return [(after - before) / 1e6 for before, after in pairs]


def _image(height: int, width: int) -> AnyArray:
    return np.full((height, width, 3), 127, np.uint8)
