"""Logits to probabilities, where a network ends in logits; and the check that outputs are probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import invalid
from tiledseg.errors import ModelError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import Activation

_TOLERANCE = 1e-3  # of probabilities, beyond [0, 1]


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
    low, high = float(outputs.min(initial=0)), float(outputs.max(initial=0))
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise invalid(
            ModelError,
            "network",
            must="return probabilities in [0, 1]",
            got=f"values from {low:.4g} to {high:.4g}",
            fix="For logits, set activation to sigmoid or softmax, in RuntimeConfig or as --activation.",
        )
