"""A Keras network as a Predictor: a compiled function per batch shape, copies on several devices."""

from __future__ import annotations

import hashlib
import logging
import weakref
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._backend import check_process, keras, tf
from tiledseg._memory import is_out_of_memory
from tiledseg._validate import invalid, shown
from tiledseg.engine.batching import padded, ready_shape
from tiledseg.engine.graph import GraphPredictor, Probe
from tiledseg.engine.keras_graph import read_graph
from tiledseg.engine.layers import read_layers
from tiledseg.engine.predictor import check_castable, checked_outputs, failures_named
from tiledseg.errors import ModelError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.graph import Graph
    from tiledseg.engine.layers import Layers
    from tiledseg.engine.predictor import Predictor

    _Call: TypeAlias = Callable[[FloatArray], AnyArray]

_Model: TypeAlias = Any  # Keras has no types
_log = logging.getLogger("tiledseg")
_FEW_CHANNELS = 4  # of images; a longer axis is one of px

_COMPILED: weakref.WeakKeyDictionary[_Model, dict[tuple[int, ...], _Call]] = weakref.WeakKeyDictionary()
"""Compiled functions by network. They outlive a Predictor, so that a second image needs no compilation. They
hold no reference to their network, so that its memory can be freed."""

_GRAPHS: weakref.WeakKeyDictionary[_Model, Graph] = weakref.WeakKeyDictionary()
"""Properties by network."""

_ACCEPTED: weakref.WeakKeyDictionary[_Model, set[tuple[int, ...]]] = weakref.WeakKeyDictionary()
"""Shapes of tiles that a network of free size takes, by network: Keras needs 15 ms to say so."""


class KerasPredictor(GraphPredictor):
    """A Keras network, compiled once per batch shape, in inference mode."""

    # A smaller batch is padded to a compiled shape. New weights are used at once; a new activation of a layer
    # is not, after the compilation.

    def __init__(self, model: _Model, device: str | None = None) -> None:
        check_process()
        _check_channels_last(model)
        height, width, channels = _input_shape(model)
        classes = _classes_of(model, height, width)
        self.model: _Model = model
        self.fingerprint: bytes = _weight_sums(model)
        self.writes_no_tile: bool = backend() != "torch"  # whose operations may write into them
        self._device = device
        if model not in _GRAPHS:
            _GRAPHS[model] = read_graph(model, (height, width, channels), classes)
        super().__init__(_GRAPHS[model])

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
        outputs = _single(self.model(keras.ops.convert_to_tensor(tiles), training=False))
        return keras.ops.convert_to_numpy(outputs)  # type: ignore[no-any-return]

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        check_process()
        functions = _COMPILED.setdefault(self.model, {})
        shape = ready_shape(functions, tiles.shape)
        check_castable(tiles, str(self.model.inputs[0].dtype) if getattr(self.model, "inputs", None) else "")
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
        self._check_size((1, *tile_size, self.graph.channels))

    def _check_size(self, shape: tuple[int, ...]) -> None:
        self.graph.check_tiles(shape)
        accepted = _ACCEPTED.setdefault(self.model, set())
        if None in self.tile_size and shape[1:] not in accepted:
            _check_output(self.model, *shape[1:])
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


def _check_weight(variable: Any) -> None:  # Keras has no types
    if keras.backend.is_float_dtype(variable.dtype) and not np.isfinite(variable.numpy()).all():
        raise _refused(
            "have finite weights",
            f"NaN or infinity in {variable.path}",
            "Train it again, or load an earlier checkpoint.",
        )


def _values_of(variables: Sequence[Any]) -> list[AnyArray]:
    """Read weights; those that are on another device as their sums along the last axis, which becomes 1."""
    held: list[Any] = []
    with suppress(ValueError):  # a network that several devices train has no handles between its steps
        held = [getattr(variable.value, "handle", None) for variable in variables]  # by TensorFlow
    if held and all(one is not None and "CPU" in one.device for one in held):
        # Neither copies nor the checks of an operation; and all in a row, which takes less time.
        kinds, read = [variable.value.dtype for variable in variables], tf.raw_ops.ReadVariableOp
        tensors = [read(resource=one, dtype=kind) for one, kind in zip(held, kinds, strict=True)]
        return [np.asarray(one) for one in tensors]
    return [_sums_of(variable) for variable in variables]


def _sums_of(variable: Any) -> AnyArray:  # Keras has no types
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
        lambda tiles: _single(model()(tiles, training=False)), input_signature=signature, autograph=False
    )
    ready = call.get_concrete_function()
    return lambda tiles: ready(tf.convert_to_tensor(tiles)).numpy()


def _jax(model: Callable[[], _Model], shape: tuple[int, ...]) -> _Call:
    jax = import_module("jax")  # it needs to be installed for this backend only
    call = jax.jit(lambda state, tiles: _single(model().stateless_call(*state, tiles, training=False)[0]))

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
            return keras.ops.convert_to_numpy(_single(model()(tiles, training=False)))  # type: ignore[no-any-return]

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
            fix="Choose the device with the functions of the backend itself.",
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


def _input_shape(model: _Model) -> tuple[int | None, int | None, int]:
    """Return height and width, None where free, and channels; refuse anything but one image."""
    if keras.config.image_data_format() != "channels_last":
        raise invalid(
            ModelError,
            "image_data_format",
            must="be channels_last",
            got=keras.config.image_data_format(),
            fix="Call keras.config.set_image_data_format('channels_last') before building.",
        )
    shape = _one_shape(model, "input_shape", "input")
    if len(shape) != 4 or shape[3] is None:
        raise _refused(
            "take one image, (N, h, w, C)",
            f"input {shape}",
            "Name the channels in keras.Input((height, width, channels)).",
        )
    return shape[1], shape[2], shape[3]


def _one_shape(model: _Model, name: str, what: str) -> tuple[int | None, ...]:
    try:
        shape = getattr(model, name)
    except AttributeError:  # a subclassed network that was never called
        raise _refused(
            f"have an {what} shape",
            f"{type(model).__name__} without one",
            "Build it with keras.Input, or pass a callable: lambda tiles: model(tiles).",
        ) from None
    if isinstance(shape, list | dict) or (shape and isinstance(shape[0], list | tuple)):
        raise _refused(
            f"have one {what}",
            f"{len(shape)} of them",
            f"Make one with a single {what}: keras.Model(model.inputs[0], model.outputs[0]).",
        )
    return tuple(shape)


def _classes_of(model: _Model, height: int | None, width: int | None) -> int | None:
    """Return the output channels, None where free; refuse outputs that are no map of the input's size."""
    shape = _one_shape(model, "output_shape", "output")
    if len(shape) != 4:
        raise _refused(
            "return a map, (N, h, w, K)",
            f"output {shape}",
            "A classifier cannot be tiled; end in a map of the input's size.",
        )
    for axis, size, out in zip("yx", (height, width), shape[1:3], strict=True):
        if size is not None and out is not None and size != out:
            raise _wrong_output(axis, size, out)
    return shape[3]


def _check_channels_last(model: _Model) -> None:
    """Refuse a network that takes channels first, as many that were exported from PyTorch."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[1] is None or shape[1] >= (shape[3] or 1e9):
        return  # channels last, of whatever layers inside
    flat = getattr(model, "_flatten_layers", lambda: getattr(model, "layers", ()))
    first = [one.name for one in flat() if getattr(one, "data_format", None) == "channels_first"]
    moved = shape[3] is None or getattr(model, "output_shape", shape)[1:2] != shape[1:2]  # refused anyway
    if first or (moved and shape[1] <= _FEW_CHANNELS):
        raise _refused(
            "take channels last, (N, h, w, C)",
            f"an input of shape {shape}, "
            + (f"whose layer {first[0]} takes " if first else "which is ")
            + "channels first",
            "Pass a callable that moves the axis before and after it: "
            "lambda tiles: numpy.moveaxis(model(numpy.moveaxis(tiles, -1, 1)), 1, -1).",
        )


def _check_output(model: _Model, height: int, width: int, channels: int) -> None:
    """Check that a network takes tiles of a size, and returns maps of that size."""
    try:
        spec = _single(model.compute_output_spec(keras.KerasTensor((1, height, width, channels))))
    except Exception as error:  # noqa: BLE001  Keras and its backends raise many kinds
        text = str(error).strip().splitlines()[0]
        raise invalid(
            SettingError,
            "tile_size",
            must="be a size that the network accepts",
            got=f"{height}x{width} px: {text}",
            fix="Use a multiple of the network's stride.",
        ) from None
    if len(getattr(spec, "shape", ())) != 4:
        raise _refused(
            "return one map, (N, h, w, K)",
            f"{type(spec).__name__}",
            "Make a network with one output: keras.Model(model.inputs[0], model.outputs[0]).",
        )
    for axis, size, out in zip("yx", (height, width), spec.shape[1:3], strict=True):
        if out is not None and size != out:
            raise _wrong_output(axis, size, out)


def _single(outputs: Any) -> Any:  # of any backend
    """Return the one map of a network whose outputs are a list or a mapping of one."""
    parts = list(outputs.values()) if isinstance(outputs, dict) else outputs
    return parts[0] if isinstance(parts, list | tuple) and len(parts) == 1 else outputs


def _wrong_output(axis: str, size: int, out: int) -> ModelError:
    fix = "Use padding='same' and undo every stride, or add an UpSampling2D layer."
    return _refused("return a map of its input's size", f"{out} px for {size} px along {axis}", fix)


def _refused(must: str, got: str, fix: str) -> ModelError:
    return invalid(ModelError, "model", must=must, got=got, fix=fix)
