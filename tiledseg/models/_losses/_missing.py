"""Losses for labels that are not complete."""

from __future__ import annotations

from typing import Any

from tiledseg._backend import keras

__all__ = ["believed", "doubt_weights"]


def believed(y: Any, p: Any, trust: float) -> Any:  # noqa: ANN401
    """Mix the labels with what the network believes (Reed et al., arXiv 1412.6596, soft)."""
    return trust * y + (1 - trust) * p


def doubt_weights(y: Any, p: Any, certain: float, weight: float) -> Any:  # noqa: ANN401
    """Weigh background px that look like foreground by `weight`, all others by 1, (N, h, w, 1).

    No gradient flows through the weights.
    """
    background = 1 - y if y.shape[-1] == 1 else y[..., :1]
    foreground = p if y.shape[-1] == 1 else keras.ops.max(p[..., 1:], axis=-1, keepdims=True)
    doubted = background * keras.ops.cast(foreground >= certain, y.dtype)
    return keras.ops.stop_gradient(1 - (1 - weight) * doubted)
