"""What Keras runs on."""

from __future__ import annotations

from tiledseg._backend import keras, tf

__all__ = ["backend", "has_gpu"]


def backend() -> str:
    """Name the backend of Keras.

    Returns
    -------
    str
        ``tensorflow``, ``jax`` or ``torch``.
    """
    return str(keras.backend.backend())


def has_gpu() -> bool:
    """Say whether TensorFlow has a GPU to run on.

    Returns
    -------
    bool
        Whether it sees one.
    """
    return bool(tf.config.get_visible_devices("GPU"))
