"""The shapes of a Keras network: one image in, one map of its size out, channels last."""

from __future__ import annotations

from typing import Any, TypeAlias

from tiledseg._backend import keras
from tiledseg._validate import invalid
from tiledseg.errors import ModelError, SettingError

_Model: TypeAlias = Any  # Keras has no types
_FEW_CHANNELS = 4  # of images; a longer axis is one of px


def input_shape(model: _Model) -> tuple[int | None, int | None, int]:
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
        raise invalid(
            ModelError,
            "model",
            must="take one image, (N, h, w, C)",
            got=f"input {shape}",
            fix="Name the channels in keras.Input((height, width, channels)).",
        )
    return shape[1], shape[2], shape[3]


def _one_shape(model: _Model, name: str, what: str) -> tuple[int | None, ...]:
    try:
        shape = getattr(model, name)
    except AttributeError:  # a subclassed network that was never called
        raise invalid(
            ModelError,
            "model",
            must=f"have an {what} shape",
            got=f"{type(model).__name__} without one",
            fix="Build it with keras.Input, or pass a callable: lambda tiles: model(tiles).",
        ) from None
    if isinstance(shape, list | dict) or (shape and isinstance(shape[0], list | tuple)):
        raise invalid(
            ModelError,
            "model",
            must=f"have one {what}",
            got=f"{len(shape)} of them",
            fix=f"Make one with a single {what}: keras.Model(model.inputs[0], model.outputs[0]).",
        )
    return tuple(shape)


def classes_of(model: _Model, height: int | None, width: int | None) -> int | None:
    """Return the output channels, None where free; refuse outputs that are no map of the input's size."""
    shape = _one_shape(model, "output_shape", "output")
    if len(shape) != 4:
        raise invalid(
            ModelError,
            "model",
            must="return a map, (N, h, w, K)",
            got=f"output {shape}",
            fix="A classifier cannot be tiled; end in a map of the input's size.",
        )
    for axis, size, out in zip("yx", (height, width), shape[1:3], strict=True):
        if size is not None and out is not None and size != out:
            raise _wrong_output(axis, size, out)
    return shape[3]


def check_channels_last(model: _Model) -> None:
    """Refuse a network that takes channels first, as many that were exported from PyTorch."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[1] is None or shape[1] >= (shape[3] or 1e9):
        return  # channels last, of whatever layers inside
    flat = getattr(model, "_flatten_layers", lambda: getattr(model, "layers", ()))
    first = [one.name for one in flat() if getattr(one, "data_format", None) == "channels_first"]
    moved = shape[3] is None or getattr(model, "output_shape", shape)[1:2] != shape[1:2]  # refused anyway
    if first or (moved and shape[1] <= _FEW_CHANNELS):
        raise invalid(
            ModelError,
            "model",
            must="take channels last, (N, h, w, C)",
            got=f"an input of shape {shape}, "
            + (f"whose layer {first[0]} takes " if first else "which is ")
            + "channels first",
            fix="Pass a callable that moves the axis before and after it: "
            "lambda tiles: numpy.moveaxis(model(numpy.moveaxis(tiles, -1, 1)), 1, -1).",
        )


def check_output(model: _Model, height: int, width: int, channels: int) -> None:
    """Check that a network takes tiles of a size, and returns maps of that size."""
    try:
        spec = single(model.compute_output_spec(keras.KerasTensor((1, height, width, channels))))
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
        raise invalid(
            ModelError,
            "model",
            must="return one map, (N, h, w, K)",
            got=f"{type(spec).__name__}",
            fix="Make a network with one output: keras.Model(model.inputs[0], model.outputs[0]).",
        )
    for axis, size, out in zip("yx", (height, width), spec.shape[1:3], strict=True):
        if size != out:
            raise _wrong_output(axis, size, out)


def single(outputs: Any) -> Any:  # noqa: ANN401  of any backend
    """Return the one map of a network whose outputs are a list or a mapping of one."""
    parts = list(outputs.values()) if isinstance(outputs, dict) else outputs
    return parts[0] if isinstance(parts, list | tuple) and len(parts) == 1 else outputs


def _wrong_output(axis: str, size: int, out: int) -> ModelError:
    return invalid(
        ModelError,
        "model",
        must="return a map of its input's size",
        got=f"{out} px for {size} px along {axis}",
        fix="Use padding='same' and undo every stride, or add an UpSampling2D layer.",
    )
