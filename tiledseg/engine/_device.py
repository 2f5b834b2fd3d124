"""What Keras runs on."""

from __future__ import annotations

from tiledseg._backend import keras, tf

__all__ = ["backend", "n_gpus"]


def backend() -> str:
    """Name the backend of Keras."""
    return str(keras.backend.backend())


def n_gpus() -> int:
    """Count the GPUs that TensorFlow can run on."""
    return len(tf.config.get_visible_devices("GPU"))
