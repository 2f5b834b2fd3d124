"""The compiled call of a Keras network, one way per backend."""

from __future__ import annotations

import weakref
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras, tf

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray

__all__ = ["compiled"]


def compiled(
    model: Any,  # noqa: ANN401  Keras has no types
    shape: tuple[int, ...],
    device: str | None = None,
) -> Callable[[FloatArray], AnyArray]:
    """Compile a network's inference call for one batch shape."""
    make = _BACKENDS[keras.backend.backend()]
    if device is None:
        return make(weakref.ref(model), shape)
    with tf.device(device):
        call = make(weakref.ref(model), shape)

    def on_device(tiles: FloatArray) -> AnyArray:
        with tf.device(device):
            return call(tiles)

    return on_device


def _tensorflow(model: Callable[[], Any], shape: tuple[int, ...]) -> Callable[[FloatArray], AnyArray]:
    signature = [tf.TensorSpec(shape, tf.float32)]
    call = tf.function(
        lambda tiles: model()(tiles, training=False), input_signature=signature, autograph=False
    )
    ready = call.get_concrete_function()
    return lambda tiles: ready(tf.convert_to_tensor(tiles)).numpy()


def _jax(model: Callable[[], Any], shape: tuple[int, ...]) -> Callable[[FloatArray], AnyArray]:
    jax = import_module("jax")  # only the backend in use needs to be installed
    call = jax.jit(lambda state, tiles: model().stateless_call(*state, tiles, training=False)[0])

    def run(tiles: FloatArray) -> AnyArray:
        network = model()
        state = (
            [v.value for v in network.trainable_variables],
            [v.value for v in network.non_trainable_variables],
        )
        return keras.ops.convert_to_numpy(call(state, tiles))  # type: ignore[no-any-return]

    del shape  # jit compiles per shape by itself
    return run


def _torch(model: Callable[[], Any], shape: tuple[int, ...]) -> Callable[[FloatArray], AnyArray]:
    torch = import_module("torch")

    def run(tiles: FloatArray) -> AnyArray:
        with torch.no_grad():
            return keras.ops.convert_to_numpy(model()(tiles, training=False))  # type: ignore[no-any-return]

    del shape  # nothing is compiled: the eager call runs the same kernels
    return run


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
