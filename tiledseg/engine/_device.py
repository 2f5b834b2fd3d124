"""What Keras runs on."""

from __future__ import annotations

from tiledseg._backend import keras, tf

__all__ = ["backend", "n_gpus"]


def backend() -> str:
    """Name the backend of Keras.

    Returns
    -------
    str
        ``tensorflow``, ``jax`` or ``torch``.
    """
    return str(keras.backend.backend())


def n_gpus() -> int:
    """Count the GPUs that TensorFlow can run on.

    Returns
    -------
    int
        Those that it sees.
    """
    return len(tf.config.get_visible_devices("GPU"))
