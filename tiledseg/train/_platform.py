"""What each backend of Keras does in its own way: exact repetition, and several devices."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras, tf
from tiledseg._checks import broken
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["chosen_devices", "on_devices", "repeat_exactly"]


def repeat_exactly() -> None:
    """Let the backend compute the same bits from the same numbers, from now on in this process."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    elif backend == "torch":
        torch: Any = importlib.import_module("torch")
        torch.use_deterministic_algorithms(True, warn_only=True)  # noqa: FBT003


@contextmanager
def on_devices(devices: int | str) -> Iterator[None]:
    """Let networks that are made now share each batch among devices.

    Every device holds all weights and takes an even part of each batch; their gradients are added
    up (``tf.distribute.MirroredStrategy`` on TensorFlow, ``keras.distribution`` on JAX).

    Parameters
    ----------
    devices : int or {"all"}
        How many; accelerators where there are any, else processors.

    Yields
    ------
    None
        While it holds.

    Raises
    ------
    SettingError
        If there are fewer, or the backend can use but one.
    """
    if devices == 1:
        yield
        return
    backend = keras.backend.backend()
    chosen = chosen_devices(devices)
    if backend == "tensorflow":
        with tf.distribute.MirroredStrategy(chosen).scope():
            yield
        return
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=chosen))
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def chosen_devices(devices: int | str) -> list[str]:
    """Name the devices that share each batch.

    Parameters
    ----------
    devices : int or {"all"}
        How many.

    Returns
    -------
    list of str
        In the backend's words.

    Raises
    ------
    SettingError
        If there are fewer.
    """
    backend = keras.backend.backend()
    there = _there(backend)
    if devices != "all" and int(devices) > len(there):
        raise broken(
            SettingError,
            "devices",
            must=f"be at most {len(there)}, as many as there are for {backend}",
            got=devices,
            fix=f"There are {', '.join(there)}.",
        )
    return there if devices == "all" else there[: int(devices)]


def _there(backend: str) -> list[str]:
    """Name the devices of the best kind."""
    if backend == "tensorflow":
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return [device.name for device in found]
    if backend == "jax":
        return [str(name) for name in keras.distribution.list_devices()]
    return ["the one that PyTorch takes"]
