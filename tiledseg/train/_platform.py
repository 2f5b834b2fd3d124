"""What each backend of Keras does in its own way: exact repetition, and several devices."""

from __future__ import annotations

import importlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras, tf
from tiledseg._validate import invalid
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tiledseg.config import TrainConfig

__all__ = ["check_platform", "on_devices", "repeat_exactly"]

_EXACT_ON_GPU = "--xla_gpu_deterministic_ops=true"


def check_platform(config: TrainConfig) -> None:
    """Check that the backend can do what a run asks of it, before anything is done."""
    chosen = _chosen(config.devices)
    if config.batch_size % len(chosen):
        raise invalid(
            SettingError,
            "batch_size",
            must=f"be a multiple of the {len(chosen)} devices that share it",
            got=config.batch_size,
            fix=f"Use {config.batch_size // len(chosen) * len(chosen) + len(chosen)}, or devices=1.",
        )
    told = _EXACT_ON_GPU in os.environ.get("XLA_FLAGS", "").split()
    if config.deterministic and keras.backend.backend() == "jax" and chosen[0][:3] == "gpu" and not told:
        raise invalid(
            SettingError,
            "deterministic",
            must="be False on a GPU by JAX that was not told from the start to repeat itself exactly",
            got=True,
            fix=f"Set XLA_FLAGS={_EXACT_ON_GPU} before Python starts, or deterministic=False.",
        )


def repeat_exactly() -> None:
    """Let the backend compute the same bits from the same numbers, from now on in this process.

    JAX does so on a processor by itself; on a GPU see `check_platform`.
    """
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
    """
    chosen = _chosen(devices)
    if len(chosen) == 1:
        yield
    elif keras.backend.backend() == "tensorflow":
        with tf.distribute.MirroredStrategy(chosen).scope():
            yield
    else:
        with _Shared(devices=chosen).scope():
            yield


class _Shared(keras.distribution.DataParallel):
    """Shares batches among devices; one that cannot be shared evenly goes whole to each of them.

    Keras settles by the first batch how all of them are shared; see `Feed`.
    """

    def get_data_layout(self, data_shape: Sequence[int]) -> keras.distribution.TensorLayout:
        """Say which axis of a batch is shared."""
        if data_shape[0] % self.num_model_replicas:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)


def _chosen(devices: int | str) -> list[str]:
    """Name the devices, in the backend's words."""
    backend = keras.backend.backend()
    there = _there(backend)
    if devices != "all" and int(devices) > len(there):
        raise invalid(
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
