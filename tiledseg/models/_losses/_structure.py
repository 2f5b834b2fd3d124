"""Losses that look at the neighbours of a px: outlines and local structure."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledseg._backend import keras

__all__ = ["outline_f1", "ssim"]

_WINDOW, _SIGMA = 11, 1.5  # of the Gaussian window of Wang et al. (2004)
_C1, _C2 = 0.01**2, 0.03**2


def ssim(y: Any, p: Any) -> Any:  # noqa: ANN401
    """Give the mean structural similarity of each sample and class, (N, K).

    With a Gaussian window of 11 px and zeros beyond the edges, as BASNet has it.
    """
    classes = y.shape[-1]
    blurred = _blurred(keras.ops.concatenate([y, p, y * y, p * p, y * p], axis=-1))
    mean_y, mean_p, yy, pp, yp = (blurred[..., n * classes : (n + 1) * classes] for n in range(5))
    light = (2 * mean_y * mean_p + _C1) / (mean_y**2 + mean_p**2 + _C1)
    spread = (yy - mean_y**2) + (pp - mean_p**2)
    structure = (2 * (yp - mean_y * mean_p) + _C2) / (spread + _C2)
    return keras.ops.mean(light * structure, axis=(1, 2))


def outline_f1(y: Any, p: Any, width: int) -> Any:  # noqa: ANN401
    """Give the F1 score of soft outlines that may be `width` px off, (N, K), smoothed by 1."""
    true, found = _outline(y), _outline(p)
    precision = _share(found, _grown(true, width))
    recall = _share(true, _grown(found, width))
    return 2 * precision * recall / (precision + recall)


def _share(outline: Any, near: Any) -> Any:  # noqa: ANN401
    within = keras.ops.sum(outline * near, axis=(1, 2))
    return (within + 1) / (keras.ops.sum(outline, axis=(1, 2)) + 1)


def _outline(maps: Any) -> Any:  # noqa: ANN401
    """Mark the px inside a region beside its edge."""
    return _grown(1 - maps, 1) - (1 - maps)


def _grown(maps: Any, px: int) -> Any:  # noqa: ANN401
    return keras.ops.max_pool(maps, 2 * px + 1, strides=1, padding="same")


def _blurred(maps: Any) -> Any:  # noqa: ANN401
    """Blur each channel along y, then along x: two lines of 11 px cost a fifth of a square."""
    away = np.arange(_WINDOW) - _WINDOW // 2
    line = np.exp(-(away**2) / (2 * _SIGMA**2))
    line = np.tile((line / line.sum())[:, None], (1, maps.shape[-1])).astype(np.float32)
    down = keras.ops.depthwise_conv(maps, line[:, None, :, None], padding="same")
    return keras.ops.depthwise_conv(down, line[None, :, :, None], padding="same")
