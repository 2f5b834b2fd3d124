"""One network over one large image, by each of the compared methods: same weights, same tiles.

Each method takes an image (H, W, 3) float32 and returns the map (H, W, 1). It loads its library itself, so
that a process has the threads of one library only.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import cv2
import keras
import numpy as np

from tiledseg import Tiler, TilingConfig, UNetBuilder, plan, tiled_predict
from tiledseg.config import RuntimeConfig
from tiledseg.engine import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg import UNetConfig
    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import Engine, Precision
    from tiledseg.engine import Predictor

__all__ = ["Methods", "flop_rate", "products_per_px"]

_SHARE = 8  # of the tile: overlap of neighbours, and margin of the founding experiment's crops


class Methods:
    """The network for one tile size and for any size, with the same weights in any process."""

    def __init__(self, config: UNetConfig) -> None:
        self._config = config
        self.tile: int = config.input_shape[0] or 512
        self._shared = self.tile // _SHARE
        self._tiling = TilingConfig(tile_size=self.tile, overlap=self._shared)

    @cached_property
    def model(self) -> Any:
        """The network for one tile size."""
        keras.utils.set_random_seed(0)
        return UNetBuilder(self._config).build()

    @cached_property
    def free(self) -> Any:
        """The network for any size."""
        keras.utils.set_random_seed(0)
        return UNetBuilder(self._config.changed(input_shape=(None, None, 3))).build()

    def whole(self, image: FloatArray) -> FloatArray:
        """Run the network on the image as one tile, by Keras."""
        return Network.of(self.free)(image[None])[0]

    def ours(self, image: FloatArray, engine: Engine, precision: Precision = "f32") -> AnyArray:
        """Predict with the same tiles as all others."""
        runtime = {"engine": engine, "precision": precision}
        return tiled_predict(self.model, image, self._tiling, batch_size=1, runtime=runtime)

    def auto(self, image: FloatArray, precision: Precision = "f32", engine: Engine = "openvino") -> AnyArray:
        """Predict with the tile with which the fewest px are computed."""
        runtime = {"engine": engine, "precision": precision}
        return tiled_predict(self.free, image, TilingConfig(tile_size="auto"), runtime=runtime)

    def founding(self, image: FloatArray) -> AnyArray:
        """Predict as the founding experiment does: crops resized to a tile, and the whole image."""
        height, width = image.shape[:2]
        self._predicted(image)  # its thumbnail, which it combines with the tiles in 8 bits
        out = np.zeros((height, width, 1), np.float32)
        tile, length = self.tile, self.tile + self._shared
        for y in range(0, height, tile):
            for x in range(0, width, tile):
                top, left = max(y - self._shared, 0), max(x - self._shared, 0)
                crop = image[top : y + length, left : x + length]
                core = self._predicted(crop)[y - top : y - top + tile, x - left : x - left + tile]
                out[y : y + tile, x : x + tile] = core
        return out

    def _predicted(self, crop: FloatArray) -> FloatArray:
        """Resize to the network's size, predict, and resize back."""
        small = cv2.resize(crop, (self.tile, self.tile))
        probs = self.model.predict(small[None], verbose=0)[0]
        return cv2.resize(probs, (crop.shape[1], crop.shape[0])).reshape(*crop.shape[:2], 1)

    @cached_property
    def _twin(self) -> Any:
        return import_module("benchmarks._torch_twin").TorchTwin(self.model).eval()

    def monai(self, image: FloatArray) -> AnyArray:
        """Predict by MONAI, with the same network in PyTorch."""
        torch = import_module("torch")
        infer = import_module("monai.inferers").sliding_window_inference
        tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))[None]
        with torch.inference_mode():
            found = infer(tensor, (self.tile, self.tile), 1, self._twin, 1 / _SHARE, "gaussian")
        return np.moveaxis(found[0].numpy(), 0, -1)

    def medicai(self, image: FloatArray) -> AnyArray:
        """Predict by medic-ai."""
        infer = import_module("medicai.utils.inference").SlidingWindowInference(
            self.model, 1, (self.tile, self.tile), 1, overlap=1 / _SHARE, mode="gaussian"
        )
        return np.asarray(infer(image[None]))[0]

    def bare(
        self, image: FloatArray, engine: Engine, precision: Precision, *, auto: bool
    ) -> Callable[[], None]:
        """Cut the same tiles; return a call of the engine alone on them, whose outputs are discarded."""
        model, tiling = (self.free, TilingConfig(tile_size="auto")) if auto else (self.model, self._tiling)
        grid = plan(model, image.shape, tiling).grid
        batches = [batch.tiles for batch in Tiler(tiling).batches(image, 1, grid=grid)]
        by_keras = engine == "keras"
        run = _by_keras(model, batches[0].shape) if by_keras else _by_openvino(model, precision)

        def call() -> None:
            for tiles in batches:
                run(tiles)

        return call


def _by_keras(model: Any, shape: tuple[int, ...]) -> Callable[[FloatArray], AnyArray]:
    """Return the network alone, as one ``tf.function``."""
    tf = import_module("tensorflow")
    call = tf.function(
        lambda tiles: model(tiles, training=False), input_signature=[tf.TensorSpec(shape, tf.float32)]
    )
    return lambda tiles: call(tf.constant(tiles)).numpy()


def flop_rate(precision: Precision, timed: Callable[[Callable[[], object]], float]) -> float:
    """Return the FLOP per s that the engine reaches at its best: 3 x 3 px, 256 channels."""
    inputs = keras.Input((64, 64, 256))
    x: Any = inputs
    for _ in range(8):
        x = keras.layers.Conv2D(256, 3, padding="same", use_bias=False)(x)
    model = keras.Model(inputs, x)
    tiles = np.random.default_rng(0).standard_normal((1, 64, 64, 256), np.float32)
    quick = _by_openvino(model, precision)
    quick(tiles)
    return 2 * products_per_px(model) * 64 * 64 / timed(lambda: quick(tiles))


def products_per_px(model: Any) -> float:
    """Return the multiplications by weights for each px."""
    return Network.of(model).predictor.graph.products_per_px  # type: ignore[attr-defined]


def _by_openvino(model: Any, precision: Precision) -> Predictor:
    """Return the network alone, run by OpenVINO."""
    return Network.of(model, RuntimeConfig(engine="openvino", precision=precision)).fastest()
