"""A Keras network as a Predictor: a compiled function per batch shape, copies on several devices."""

from __future__ import annotations

import hashlib
import logging
import weakref
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._backend import check_process, keras, tf
from tiledseg._memory import is_out_of_memory
from tiledseg._validate import invalid, shown
from tiledseg.engine.graph import Probe
from tiledseg.engine.keras_graph import read_graph
from tiledseg.engine.keras_shapes import check_channels_last, check_output, classes_of, input_shape, single
from tiledseg.engine.layers import read_layers
from tiledseg.engine.predictor import checked_outputs, failures_named, padded, ready_shape
from tiledseg.errors import ModelError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.graph import Graph
    from tiledseg.engine.layers import Layers
    from tiledseg.engine.predictor import Predictor
    from tiledseg.tiling import ReceptiveField

    _Call: TypeAlias = Callable[[FloatArray], AnyArray]

_Model: TypeAlias = Any  # Keras has no types
_log = logging.getLogger("tiledseg")

_COMPILED: weakref.WeakKeyDictionary[_Model, dict[tuple[int, ...], _Call]] = weakref.WeakKeyDictionary()
"""Compiled functions by network. They outlive a Predictor, so that a second image needs no compilation. They
hold no reference to their network, so that its memory can be freed."""

_GRAPHS: weakref.WeakKeyDictionary[_Model, Graph] = weakref.WeakKeyDictionary()
"""Properties by network."""

_ACCEPTED: weakref.WeakKeyDictionary[_Model, set[tuple[int, ...]]] = weakref.WeakKeyDictionary()
"""Shapes of tiles that a network of free size takes, by network: Keras needs 15 ms to say so."""


class KerasPredictor:
    """A Keras network, compiled once per batch shape, in inference mode."""

    # A smaller batch is padded to a compiled shape. New weights are used at once; a new activation of a layer
    # is not, after the compilation.

    def __init__(self, model: _Model, device: str | None = None) -> None:
        check_process()
        self._device = device
        self.model: _Model = model
        check_channels_last(model)
        height, width, self.channels = input_shape(model)
        self.tile_size: tuple[int | None, int | None] = (height, width)
        self.classes: int | None = classes_of(model, height, width)
        self.fingerprint: bytes = _weight_sums(model)
        self.keeps_tiles: bool = backend() != "torch"  # whose operations may write into them
        if model not in _GRAPHS:
            _GRAPHS[model] = read_graph(model, (height, width, self.channels), self.classes)
        self.graph: Graph = _GRAPHS[model]
        self.stride: tuple[int, int] = self.graph.stride
        self.receptive_field: ReceptiveField = self.graph.receptive_field

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate an upper bound of the memory that one tile needs."""
        return self.graph.bytes_per_tile(tile_size)

    def by_keras(self) -> KerasPredictor:
        """Return the network as Keras runs it."""
        return self

    def layers(self) -> Layers:
        """Read the layers; raise UnsupportedError where one cannot be recorded."""
        return read_layers(self.model)

    def weights(self) -> dict[str, FloatArray]:
        """Copy the weights by their paths."""
        return {variable.path: np.array(variable.numpy()) for variable in self.model.weights}

    def probe(self, usual: tuple[int, int] | None = None) -> Probe:
        """Return the outputs of Keras for a tile, of the usual size where one is given."""
        return Probe.of(self._at_once, self.graph, usual)

    def _at_once(self, tiles: FloatArray) -> AnyArray:
        """Run one batch without a compilation."""
        outputs = single(self.model(keras.ops.convert_to_tensor(tiles), training=False))
        return keras.ops.convert_to_numpy(outputs)  # type: ignore[no-any-return]

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        check_process()
        functions = _COMPILED.setdefault(self.model, {})
        shape = ready_shape(functions, tiles.shape)
        with failures_named(tiles.shape):
            if shape not in functions:
                self._check_size(tiles.shape)
                functions[shape] = _compiled(self.model, shape, self._device)
            try:
                outputs = functions[shape](padded(tiles, shape[0]))
            except Exception as error:
                if is_out_of_memory(error):  # so that fewer tiles are not padded to this shape
                    functions.pop(shape, None)
                raise
        return checked_outputs(outputs, shape)[: len(tiles)]

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Check that the network maps tiles of a size to maps of that size."""
        self._check_size((1, *tile_size, self.channels or 1))

    def _check_size(self, shape: tuple[int, ...]) -> None:
        self.graph.check_tiles(shape)
        accepted = _ACCEPTED.setdefault(self.model, set())
        if None in self.tile_size and shape[1:] not in accepted:
            check_output(self.model, *shape[1:])
            accepted.add(shape[1:])


def _weight_sums(model: _Model) -> bytes:
    """Return a digest of sums of the weights, so that new weights are noticed; refuse NaN and infinity."""
    # They are along the last axis: a change of weights hardly ever leaves all of them equal.
    digest, sums = hashlib.sha256(), [np.zeros(0, np.float32)]
    with np.errstate(over="ignore", invalid="ignore"):
        for values in _values_of(model.weights):
            if values.dtype.kind in "biu":
                digest.update(np.ascontiguousarray(values).data)
            else:
                one = values if values.ndim < 2 else values.sum(axis=-1, dtype=np.float32)
                sums.append(np.asarray(one, np.float32).reshape(-1))
    total = np.concatenate(sums)
    if not np.isfinite(total).all():  # or a sum overflows
        for variable in model.weights:
            _check_weight(variable)
    digest.update(total.data)
    return digest.digest()


def _check_weight(variable: Any) -> None:  # noqa: ANN401  Keras has no types
    if keras.backend.is_float_dtype(variable.dtype) and not np.isfinite(variable.numpy()).all():
        raise invalid(
            ModelError,
            "model",
            must="have finite weights",
            got=f"NaN or infinity in {variable.path}",
            fix="Train it again, or load an earlier checkpoint.",
        )


def _values_of(variables: Sequence[Any]) -> list[AnyArray]:
    """Read weights; those that are on another device as their sums along the last axis, which becomes 1."""
    held = [getattr(variable.value, "handle", None) for variable in variables]  # by TensorFlow
    if held and all(one is not None and "CPU" in one.device for one in held):
        # Neither copies nor the checks of an operation; and all in a row, which takes less time.
        kinds, read = [variable.value.dtype for variable in variables], tf.raw_ops.ReadVariableOp
        tensors = [read(resource=one, dtype=kind) for one, kind in zip(held, kinds, strict=True)]
        return [np.asarray(one) for one in tensors]
    return [_sums_of(variable) for variable in variables]


def _sums_of(variable: Any) -> AnyArray:  # noqa: ANN401  Keras has no types
    if len(variable.shape) < 2 or not keras.backend.is_float_dtype(variable.dtype):
        return variable.numpy()  # type: ignore[no-any-return]
    return keras.ops.convert_to_numpy(keras.ops.sum(variable, axis=-1, keepdims=True))  # type: ignore[no-any-return]


def _compiled(model: _Model, shape: tuple[int, ...], device: str | None) -> _Call:
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


def _tensorflow(model: Callable[[], _Model], shape: tuple[int, ...]) -> _Call:
    signature = [tf.TensorSpec(shape, tf.float32)]
    call = tf.function(
        lambda tiles: single(model()(tiles, training=False)), input_signature=signature, autograph=False
    )
    ready = call.get_concrete_function()
    return lambda tiles: ready(tf.convert_to_tensor(tiles)).numpy()


def _jax(model: Callable[[], _Model], shape: tuple[int, ...]) -> _Call:
    jax = import_module("jax")  # it needs to be installed for this backend only
    call = jax.jit(lambda state, tiles: single(model().stateless_call(*state, tiles, training=False)[0]))

    def run(tiles: FloatArray) -> AnyArray:
        network = model()
        state = (
            [v.value for v in network.trainable_variables],
            [v.value for v in network.non_trainable_variables],
        )
        return keras.ops.convert_to_numpy(call(state, tiles))  # type: ignore[no-any-return]

    del shape  # jit compiles per shape by itself
    return run


def _torch(model: Callable[[], _Model], shape: tuple[int, ...]) -> _Call:
    torch = import_module("torch")

    def run(tiles: FloatArray) -> AnyArray:
        with torch.no_grad():
            return keras.ops.convert_to_numpy(single(model()(tiles, training=False)))  # type: ignore[no-any-return]

    del shape  # nothing is compiled: an eager call runs the same kernels
    return run


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


_COPIES: weakref.WeakKeyDictionary[_Model, dict[str, tuple[bytes, Any]]] = weakref.WeakKeyDictionary()
"""Copies by network and device, with the fingerprint of their weights."""


def replicas(predictor: KerasPredictor, devices: Sequence[str] | None) -> list[Predictor]:
    """Copy a network to devices; where none are given, to all GPUs if there are several."""
    if keras.backend.backend() != "tensorflow":
        if devices is None:
            return [predictor]
        raise invalid(
            ModelError,
            "devices",
            must="be None unless Keras uses TensorFlow",
            got=keras.backend.backend(),
            fix="Choose the device by the means of the backend.",
        )
    known = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    names = [name for name in known if name.startswith("GPU")] if devices is None else list(devices)
    if devices is None and len(names) < 2:
        return [predictor]
    for name in names:
        if name not in known:
            raise invalid(
                SettingError,
                "devices",
                must=f"be among {', '.join(known)}",
                got=name,
                fix="Use names from tf.config.list_logical_devices().",
            )
    try:
        return [KerasPredictor(_copy(predictor, name), name) for name in names]
    except (ValueError, TypeError, NotImplementedError) as error:  # Keras copies no subclassed network
        if devices is None:
            _log.warning("The network cannot be copied to other devices: %s", shown(str(error)))
            return [predictor]
        raise invalid(
            ModelError,
            "devices",
            must="be None for a network that Keras cannot copy",
            got=str(error),
            fix="Build it with keras.Input.",
        ) from None


def _copy(predictor: KerasPredictor, device: str) -> _Model:
    copies = _COPIES.setdefault(predictor.model, {})
    fingerprint, copy = copies.get(device, (b"", None))
    if fingerprint != predictor.fingerprint:
        with tf.device(device):
            copy = copy or keras.models.clone_model(predictor.model)
            copy.set_weights(predictor.model.get_weights())
        copies[device] = (predictor.fingerprint, copy)
    return copy


def backend() -> str:
    """Return the name of the backend of Keras."""
    return str(keras.backend.backend())


def n_gpus() -> int:
    """Count the GPUs that TensorFlow can run on."""
    return len(tf.config.get_visible_devices("GPU"))


def n_devices() -> int:
    """Count the devices that run a network by default."""
    return max(1, n_gpus()) if backend() == "tensorflow" else 1
