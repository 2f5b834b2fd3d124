"""What tiling adds to the time of the founding network.

What: `tiled_predict` with the default U-Net (8 levels, 9 px kernels, 125 million parameters,
random weights) over 2560 x 1920 px, 512 px tiles, 64 px of overlap. How: beside it the bare calls
of a ``tf.function`` with a fixed batch shape, and ``model.predict`` tile by tile, on the same
batches, made beforehand; everything compiled before. The three take turns tile by tile: the
callback that `tiled_predict` calls after each tile runs the other two, and their time is taken off
its own. Three rounds; a ratio is the median of the rounds' ratios. What `tiled_predict` does
before the first tile and after the last counts as its own; the largest part of it, making the
network ready, is given too. Ratios of processor time stand beside those of wall time: they are
the ones to look at on a busy machine. Bar: 1.05 times the bare calls.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import tensorflow as tf

from benchmarks._clock import ratios
from benchmarks._rows import Row, of_samples
from tiledseg import Tiler, TilingConfig, UNetBuilder, UNetConfig, plan, tiled_predict
from tiledseg.engine import predictor_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray

__all__ = ["run"]

_RATIO = 1.05
_TILING = TilingConfig(tile_size=512, overlap=64)
_OURS, _BARE, _PREDICT = "tiled_predict", "bare calls of a tf.function", "model.predict, tile by tile"


@dataclass(slots=True)
class _Watch:
    """Seconds within its ``with`` blocks, summed: of the wall's clock and of the processor's."""

    wall: float = 0.0
    processor: float = 0.0
    _started: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def __enter__(self) -> Self:
        self._started = (time.perf_counter(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._started[0]
        self.processor += time.process_time() - self._started[1]


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    network = UNetBuilder(UNetConfig()).build()
    image = np.random.default_rng(0).integers(0, 256, (640, 896, 3) if quick else (1920, 2560, 3), np.uint8)
    batches = _batches(network, image)
    others = {
        _BARE: _bare(network, batches[0].shape),
        _PREDICT: lambda batch: network.predict(batch, verbose=0),
    }
    for call in others.values():
        call(batches[0])
    tiled_predict(network, image[:512, :512])
    rounds = [_round(network, image, batches, others) for _ in range(1 if quick else 3)]
    ready = _Watch()
    with ready:
        predictor_for(network)
    wall = {name: [watches[name].wall for watches in rounds] for name in rounds[0]}
    processor = {name: [watches[name].processor for watches in rounds] for name in rounds[0]}
    return [
        *(of_samples(f"{name}, {len(batches)} tiles", seconds, "s") for name, seconds in wall.items()),
        Row("making the network ready, part of tiled_predict", ready.wall, "s"),
        of_samples(f"{_OURS} over {_BARE}", ratios(wall[_OURS], wall[_BARE]), at_most=_RATIO),
        of_samples("the same in processor time", ratios(processor[_OURS], processor[_BARE])),
        of_samples(f"{_PREDICT}, over {_OURS}", ratios(wall[_PREDICT], wall[_OURS])),
        of_samples("the same, in processor time", ratios(processor[_PREDICT], processor[_OURS])),
    ]


def _batches(network: Any, image: AnyArray) -> list[FloatArray]:
    laid_out = plan(network, image.shape, _TILING)
    batches = Tiler(_TILING).batches(image, laid_out.batch_size, grid=laid_out.grid)
    return [batch.tiles.astype(np.float32) for batch in batches]


def _bare(network: Any, shape: tuple[int, ...]) -> Callable[[FloatArray], AnyArray]:
    call = tf.function(
        lambda tiles: network(tiles, training=False), input_signature=[tf.TensorSpec(shape, tf.float32)]
    )
    return lambda tiles: call(tf.constant(tiles)).numpy()


def _round(
    network: Any,
    image: AnyArray,
    batches: list[FloatArray],
    others: dict[str, Callable[[FloatArray], AnyArray]],
) -> dict[str, _Watch]:
    """Predict the image once, the others on the batch of each tile after it."""
    size = len(batches[0])
    watches = {name: _Watch() for name in (_OURS, *others)}
    aside = _Watch()

    def take_turns(_: object, done: int, total: int) -> None:
        if done % size and done < total:
            return
        with aside:
            for name, call in others.items():
                with watches[name]:
                    call(batches[(done - 1) // size])

    with watches[_OURS]:
        tiled_predict(network, image, _TILING, batch_size=size, callback=take_turns)
    watches[_OURS].wall -= aside.wall
    watches[_OURS].processor -= aside.processor
    return watches
