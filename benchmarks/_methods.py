"""One network over one large image, by each of the compared methods: same weights, same tiles.

Each method takes the image (H, W, 3) float32 and returns the map (H, W, 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import tensorflow as tf
import torch
from medicai.utils.inference import SlidingWindowInference
from monai.inferers import sliding_window_inference

from benchmarks._torch_twin import TorchTwin
from tiledseg import Tiler, TilingConfig, UNetBuilder, plan, tiled_predict
from tiledseg.config import RuntimeConfig
from tiledseg.engine import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg import UNetConfig
    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import Engine, Precision
    from tiledseg.engine import Predictor

__all__ = ["Methods", "flop_rate"]

_SHARE = 8  # of the tile: overlap of neighbours, and margin of the founding experiment's crops


class Methods:
    """The network, for one tile size and for any size, the same network in PyTorch, and the image."""

    def __init__(self, config: UNetConfig, image: FloatArray) -> None:
        self.image = image
        self._tile = config.input_shape[0] or 512
        self._shared = self._tile // _SHARE
        self._tiling = TilingConfig(tile_size=self._tile, overlap=self._shared)
        self.model = UNetBuilder(config).build()
        self.free = UNetBuilder(config.changed(input_shape=(None, None, 3))).build()
        self.free.set_weights(self.model.get_weights())
        self._twin = TorchTwin(self.model).eval()
        self._compiled = tf.function(
            lambda tiles: self.model(tiles, training=False),
            input_signature=[tf.TensorSpec((1, self._tile, self._tile, 3), tf.float32)],
        )
        grid = plan(self.model, image.shape, self._tiling).grid
        self._batches = [batch.tiles for batch in Tiler(self._tiling).batches(image, 1, grid=grid)]
        self._by_engine = {precision: _by_openvino(self.model, precision) for precision in ("f32", "bf16")}

    @property
    def products_per_px(self) -> float:
        """Multiplications by weights, for each px."""
        return Network.of(self.model).predictor.work(1)  # type: ignore[attr-defined]

    def whole(self) -> FloatArray:
        """Run the network on the image as one tile, by Keras."""
        return Network.of(self.free)(self.image[None])[0]

    def ours(self, engine: Engine, precision: Precision = "f32") -> AnyArray:
        """Predict with the same tiles as all others."""
        return tiled_predict(
            self.model,
            self.image,
            self._tiling,
            batch_size=1,
            runtime={"engine": engine, "precision": precision},
        )

    def ours_auto(self, precision: Precision) -> AnyArray:
        """Predict with the tile with which the fewest px are computed."""
        tiling = TilingConfig(tile_size="auto")
        return tiled_predict(
            self.free, self.image, tiling, runtime={"engine": "openvino", "precision": precision}
        )

    def founding(self) -> AnyArray:
        """Predict as the founding experiment does: crops resized to a tile, and the whole image."""
        height, width = self.image.shape[:2]
        self._predicted(self.image)  # its thumbnail, which it combines with the tiles in 8 bits
        out = np.zeros((height, width, 1), np.float32)
        tile, length = self._tile, self._tile + self._shared
        for y in range(0, height, tile):
            for x in range(0, width, tile):
                top, left = max(y - self._shared, 0), max(x - self._shared, 0)
                crop = self.image[top : y + length, left : x + length]
                core = self._predicted(crop)[y - top : y - top + tile, x - left : x - left + tile]
                out[y : y + tile, x : x + tile] = core
        return out

    def _predicted(self, crop: FloatArray) -> FloatArray:
        """Resize to the network's size, predict, and resize back."""
        small = cv2.resize(crop, (self._tile, self._tile))
        probs = self.model.predict(small[None], verbose=0)[0]
        return cv2.resize(probs, (crop.shape[1], crop.shape[0])).reshape(*crop.shape[:2], 1)

    def monai(self) -> AnyArray:
        """Predict by MONAI, with the same network in PyTorch."""
        tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(self.image, -1, 0)))[None]
        with torch.inference_mode():
            found = sliding_window_inference(
                tensor, (self._tile, self._tile), 1, self._twin, 1 / _SHARE, "gaussian"
            )
        return np.moveaxis(found[0].numpy(), 0, -1)

    def medicai(self) -> AnyArray:
        """Predict by medic-ai."""
        infer = SlidingWindowInference(
            self.model, 1, (self._tile, self._tile), 1, overlap=1 / _SHARE, mode="gaussian"
        )
        return np.asarray(infer(self.image[None]))[0]

    def bare(self, precision: Precision) -> None:
        """Call the engine on the same tiles, cut beforehand, and discard its outputs."""
        for tiles in self._batches:
            self._by_engine[precision](tiles)

    def bare_keras(self) -> None:
        """Call a ``tf.function`` on the same tiles, cut beforehand."""
        for tiles in self._batches:
            self._compiled(tf.constant(tiles)).numpy()

    def one_by_one(self) -> None:
        """Call ``model.predict`` on each of the same tiles."""
        for tiles in self._batches:
            self.model.predict(tiles, verbose=0)


def flop_rate(precision: Precision, timed: Callable[[Callable[[], object]], float]) -> float:
    """Return the FLOP per s that the engine reaches at its best: 3 x 3 px, 256 channels."""
    keras = tf.keras
    inputs = keras.Input((64, 64, 256))
    x: Any = inputs
    for _ in range(8):
        x = keras.layers.Conv2D(256, 3, padding="same", use_bias=False)(x)
    model = keras.Model(inputs, x)
    tiles = np.random.default_rng(0).standard_normal((1, 64, 64, 256), np.float32)
    quick = _by_openvino(model, precision)
    quick(tiles)
    return 2 * Network.of(model).predictor.work(64 * 64) / timed(lambda: quick(tiles))  # type: ignore[attr-defined]


def _by_openvino(model: Any, precision: Precision) -> Predictor:
    """Return the network alone, run by OpenVINO."""
    return Network.of(model, RuntimeConfig(engine="openvino", precision=precision)).fastest()
