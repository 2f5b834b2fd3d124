"""Losses that look at each px by itself."""

from __future__ import annotations

from typing import Any

from tiledseg._backend import keras

__all__ = ["cross_entropy", "focal_entropy", "mean_of_px", "px_weights"]


def cross_entropy(y: Any, p: Any) -> Any:  # noqa: ANN401  tensors, which Keras does not type
    """Give -y log p - (1 - y) log(1 - p) of each px and class, (N, h, w, K)."""
    return keras.ops.binary_crossentropy(y, p)


def focal_entropy(y: Any, p: Any, gamma: float, alpha: float | None) -> Any:  # noqa: ANN401
    """Weigh the cross-entropy of each px and class by how wrong it is, (N, h, w, K)."""
    wrong = keras.ops.maximum(y + p - 2 * y * p, 1e-7)  # 1 - p or p; a root has no slope at 0
    values = keras.ops.power(wrong, gamma) * cross_entropy(y, p)
    return values if alpha is None else values * (alpha * y + (1 - alpha) * (1 - y))


def px_weights(y: Any, weights: tuple[float, ...]) -> Any:  # noqa: ANN401
    """Give each px the weight of its own class, (N, h, w, 1)."""
    if len(weights) == 2 and y.shape[-1] == 1:
        return weights[0] + (weights[1] - weights[0]) * y
    return keras.ops.sum(y * keras.ops.convert_to_tensor(weights, y.dtype), axis=-1, keepdims=True)


def mean_of_px(values: Any, weights: Any = None) -> Any:  # noqa: ANN401
    """Average over px and classes, (N,)."""
    return keras.ops.mean(values if weights is None else weights * values, axis=(1, 2, 3))
