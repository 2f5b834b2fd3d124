"""Layers of our own that several architectures share."""

from __future__ import annotations

from typing import Any

from tiledseg._backend import keras

__all__ = ["ReversedChannels", "Spread"]


@keras.saving.register_keras_serializable("tiledseg")
class ReversedChannels(keras.layers.Layer):
    """Reverses the channels: RGB becomes BGR."""

    looks_at = "px"

    def call(self, x: Any) -> Any:  # noqa: ANN401
        """Map x (N, h, w, C) to the same in the other order."""
        return keras.ops.flip(x, axis=-1)


@keras.saving.register_keras_serializable("tiledseg")
class Spread(keras.layers.Layer):
    """Spreads one px over a whole map."""

    looks_at = "px"

    def call(self, inputs: Any) -> Any:  # noqa: ANN401
        """Map a px (N, 1, 1, F) and a map (N, h, w, C) to (N, h, w, F)."""
        px, like = inputs
        return px + keras.ops.zeros_like(like[..., :1])

    def compute_output_shape(self, shapes: Any) -> Any:  # noqa: ANN401
        """Give the shape of the output."""
        return (*shapes[1][:3], shapes[0][3])
