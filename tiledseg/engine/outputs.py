"""Outputs of a network: logits to probabilities, means over mirrored and transposed tiles, their check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import check_unit_interval, invalid
from tiledseg.errors import ModelError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import TTA, Activation

COPIES: dict[TTA | None, int] = {None: 1, "flips": 4, "d4": 8}
"""Number of copies of each tile in test-time augmentation."""


class Activated:
    """A network whose logits become probabilities."""

    def __init__(self, network: Callable[[AnyArray], FloatArray], activation: Activation) -> None:
        self._network, self._activation = network, activation

    def __call__(self, tiles: AnyArray) -> FloatArray:
        """Map tiles (N, h, w, C) to probabilities (N, h, w, K) float32."""
        return activated(self._network(tiles), self._activation)


def activated(outputs: FloatArray, activation: Activation | None) -> FloatArray:
    """Turn logits (N, h, w, K) into probabilities, without overflow."""
    if activation is None:
        return outputs
    if activation == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * outputs)), np.float32)
    if outputs.shape[3] == 1:
        must, fix = "be sigmoid for one channel", "Use sigmoid: a softmax of one channel is 1 everywhere."
        raise invalid(SettingError, "activation", must=must, got=activation, fix=fix)
    powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def check_probabilities(outputs: FloatArray) -> None:
    """Refuse outputs outside [0, 1] where a mask, scores or files are made of them."""
    must = "return probabilities in [0, 1]"
    fix = "For logits, set activation to sigmoid or softmax, in RuntimeConfig or as --activation."
    check_unit_interval(outputs, "network", must, fix, ModelError)


class Augmented:
    """Runs a network on all copies of each tile, in full batches, and averages the outputs."""

    def __init__(self, network: Callable[[AnyArray], FloatArray], tta: TTA, batch_size: int) -> None:
        self._network, self._number, self._batch_size = network, COPIES[tta], batch_size

    def __call__(self, tiles: AnyArray) -> FloatArray:
        """Map tiles (N, h, w, C) to the mean of the outputs (N, h, w, K) float32."""
        total: FloatArray | None = None
        wanted = [(copy, place) for copy in range(self._number) for place in range(len(tiles))]
        for first in range(0, len(wanted), self._batch_size):
            some = wanted[first : first + self._batch_size]
            outputs = self._network(np.stack([_transformed(tiles[place], copy) for copy, place in some]))
            if total is None:
                total = np.zeros((*tiles.shape[:3], outputs.shape[3]), np.float32)
            for (copy, place), output in zip(some, outputs, strict=True):
                total[place] += _restored(output, copy)
        if total is None:
            return np.zeros((*tiles.shape[:3], 0), np.float32)
        total /= self._number
        return total


def _transformed(tile: AnyArray, copy: int) -> AnyArray:
    """Return one of eight copies of a tile: bit 0 mirrors y, bit 1 mirrors x, bit 2 then transposes."""
    down, across = slice(None, None, -1 if copy & 1 else 1), slice(None, None, -1 if copy & 2 else 1)
    copied = tile[down, across]
    return copied.swapaxes(0, 1) if copy & 4 else copied


def _restored(output: FloatArray, copy: int) -> FloatArray:
    """Undo `_transformed`."""
    return _transformed(output.swapaxes(0, 1) if copy & 4 else output, copy & 3)
