"""Parts of a BioImage.IO package: the steps before and after its network, its weights as one ONNX file."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tiledseg._lazy import extra, lazy
from tiledseg._storage import write_bytes
from tiledseg._validate import invalid
from tiledseg.config import PixelStep
from tiledseg.engine import read_onnx
from tiledseg.errors import BundleError, SettingError
from tiledseg.models.formats import onnx_of_keras

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tiledseg import _backend
else:
    _backend = lazy("tiledseg._backend")

_EPS = 1e-6
MODEL = "model.onnx"
_LARGEST = 2 << 30  # bytes


def refused(
    what: str, must: str, got: object, fix: str = "Ask its author for another package."
) -> BundleError:
    """Return the error for a package that cannot be used."""
    return invalid(BundleError, what, must=must, got=got, fix=fix)


def steps_of(tensor: dict[str, Any], kind: str, where: str) -> tuple[PixelStep, ...]:
    """Read the steps before or after the network, with the casts that the specification adds."""
    stated = tensor.get(kind) or []
    data = tensor.get("data") if isinstance(tensor.get("data"), dict) else {}
    dtype = str(data.get("type", "float32")) if isinstance(data, dict) else "float32"
    if not isinstance(stated, list) or not all(isinstance(one, dict) for one in stated):
        raise refused(f"{where}: {kind}", "be a list of steps", stated)
    has_channels = any(one.get("type") == "channel" for one in tensor["axes"])
    steps = [_step(one, f"{where}: {kind}", has_channels=has_channels) for one in stated]
    cast = _made({"op": "cast", "dtype": _dtype(dtype, where)}, where)
    if kind == "postprocessing":
        while steps and steps[-1].op == "cast":
            steps.pop()
        _check_after(steps, f"{where}: {kind}")
        return tuple(one for one in steps if one.op != "cast")
    if not steps or steps[0].op != "cast":
        steps.insert(0, cast)
    if steps[-1].op not in {"cast", "binarize"}:
        steps.append(cast)
    return tuple(steps)


def _check_after(steps: list[PixelStep], where: str) -> None:
    """Refuse what cannot be done tile by tile, or inside an ONNX file."""
    for place, one in enumerate(steps):
        whole = one.op in {"standardize", "range"} or (
            one.op == "clip" and (one.least, one.most) == (None, None)
        )
        if whole or (one.op == "cast" and "float" not in one.dtype):
            what = "a statistic of the whole output" if whole else f"a cast to {one.dtype} between steps"
            raise refused(where, "need one px of the output at a time", what)
        if one.op == "binarize" and place < len(steps) - 1:
            raise refused(where, "have binarize as the last step", steps[place + 1].op)


_KEYS = {
    "ensure_dtype": {"dtype"},
    "scale_linear": {"gain", "offset", "axis"},
    "clip": {"min", "max", "min_percentile", "max_percentile", "axes"},
    "binarize": {"threshold", "axis"},
    "sigmoid": set(),
    "softmax": {"axis"},
    "zero_mean_unit_variance": {"axes", "eps", "mode"},
    "fixed_zero_mean_unit_variance": {"mean", "std", "axis"},
    "scale_range": {"axes", "min_percentile", "max_percentile", "eps", "reference_tensor", "mode"},
}


def _step(stated: dict[str, Any], where: str, *, has_channels: bool) -> PixelStep:
    name, kwargs = str(stated.get("id", stated.get("name"))), stated.get("kwargs") or {}
    if name not in _KEYS:
        fix = f"Known: {', '.join(_KEYS)}."
        raise refused(where, "consist of steps that this library knows", name, fix)
    unknown = sorted(set(kwargs) - _KEYS[name]) if isinstance(kwargs, dict) else ["kwargs"]
    if unknown or kwargs.get("reference_tensor") is not None:
        raise refused(f"{where}: {name}", "have known arguments", unknown or "a reference_tensor")
    if kwargs.get("axis", "channel") != "channel":
        raise refused(f"{where}: {name}", "be along the channels", kwargs["axis"])
    return _made(_ARGUMENTS[name](kwargs, f"{where}: {name}", has_channels), f"{where}: {name}")


def _made(fields: dict[str, Any], where: str) -> PixelStep:
    try:
        return PixelStep(**fields)
    except SettingError as error:
        raise refused(where, "have arguments of the right types", str(error)) from None


def _dtype(name: object, where: str) -> str:
    if isinstance(name, str) and re.fullmatch(r"bool|u?int(8|16|32|64)|float(32|64)", name):
        return name
    raise refused(where, "name a dtype", name)


def _per_channel(kwargs: dict[str, Any], where: str, has_channels: bool) -> bool:  # noqa: FBT001
    """Say whether a statistic is that of each channel."""
    axes = kwargs.get("axes")
    if axes is None:
        return False
    if isinstance(axes, str):
        axes = [{"b": "batch", "c": "channel"}.get(one, one) for one in axes]
    if not isinstance(axes, list) or not {"x", "y"} <= set(map(str, axes)) <= {"batch", "channel", "x", "y"}:
        raise refused(where, "take its statistic over y and x", axes)
    return has_channels and "channel" not in axes


def _floats(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(float(one) if type(one) in {int, float} else one for one in values)


def _linear(kwargs: dict[str, Any], _where: str, _channels: bool) -> dict[str, Any]:  # noqa: FBT001
    return {
        "op": "linear",
        "gain": _floats(kwargs.get("gain", 1)),
        "offset": _floats(kwargs.get("offset", 0)),
    }


def _fixed(kwargs: dict[str, Any], where: str, _channels: bool) -> dict[str, Any]:  # noqa: FBT001
    mean, std = (_floats(kwargs.get(name)) for name in ("mean", "std"))
    if len(mean) != len(std) or not all(type(one) is float for one in mean + std) or min(std) <= 0:
        raise refused(where, "have as many positive std as mean", kwargs)
    gain = [1 / (one + _EPS) for one in std]
    return {
        "op": "linear",
        "gain": tuple(gain),
        "offset": tuple(-m * g for m, g in zip(mean, gain, strict=True)),
    }


def _clip(kwargs: dict[str, Any], where: str, has_channels: bool) -> dict[str, Any]:  # noqa: FBT001
    limits = [kwargs.get(name) for name in ("min", "max")]
    shares = [kwargs.get(name) for name in ("min_percentile", "max_percentile")]
    if shares == [None, None] and limits != [None, None]:
        low, high = (None if one is None else _floats(one)[0] for one in limits)
        return {"op": "clip", "least": low, "most": high}
    if None in shares or limits != [None, None]:
        raise refused(where, "have limits, or two percentiles", kwargs)
    return {
        "op": "clip",
        "percentiles": _floats(shares),
        "per_channel": _per_channel(kwargs, where, has_channels),
    }


def _standardized(kwargs: dict[str, Any], where: str, has_channels: bool) -> dict[str, Any]:  # noqa: FBT001
    eps = _floats(kwargs.get("eps", _EPS))[0]
    return {"op": "standardize", "eps": eps, "per_channel": _per_channel(kwargs, where, has_channels)}


def _ranged(kwargs: dict[str, Any], where: str, has_channels: bool) -> dict[str, Any]:  # noqa: FBT001
    shares = _floats([kwargs.get("min_percentile", 0), kwargs.get("max_percentile", 100)])
    if not all(type(one) is float and 0 <= one <= 100 for one in shares) or shares[0] >= shares[1]:
        raise refused(where, "have rising percentiles in [0, 100]", shares)
    return _standardized(kwargs, where, has_channels) | {"op": "range", "percentiles": shares}


_ARGUMENTS: dict[str, Callable[[dict[str, Any], str, bool], dict[str, Any]]] = {
    "ensure_dtype": lambda kwargs, where, _: {"op": "cast", "dtype": _dtype(kwargs.get("dtype"), where)},
    "scale_linear": _linear,
    "clip": _clip,
    "binarize": lambda kwargs, _where, _: {"op": "binarize", "threshold": _floats(kwargs.get("threshold"))},
    "sigmoid": lambda _kwargs, _where, _: {"op": "sigmoid"},
    "softmax": lambda _kwargs, _where, _: {"op": "softmax"},
    "zero_mean_unit_variance": _standardized,
    "fixed_zero_mean_unit_variance": _fixed,
    "scale_range": _ranged,
}


class Files(Protocol):
    """The files of a package."""

    name: str

    def copy(self, name: str, most: int, write: Callable[[bytes], object]) -> None:
        """Pass a file on in parts."""
        ...


def write_weights(
    folder: Path, files: Files, entry: dict[str, Any], *, layout: str, place: int, steps: Sequence[PixelStep]
) -> None:
    """Write one ONNX file of a package's weights and the steps after them."""
    keras = str(entry.get("source", "")).endswith(".keras")
    raw = folder / ("raw.keras" if keras else "raw.onnx")
    beside = entry.get("external_data")
    try:
        _copy(folder, raw.name, files, entry)
        if isinstance(beside, dict):
            _copy(folder, str(beside.get("source", "")).rpartition("/")[2], files, beside)
        content = _of_keras(raw, files.name, layout) if keras else _of_onnx(raw, place)
        write_bytes(folder / MODEL, _with_steps(content, steps, layout))
    finally:
        for one in folder.iterdir():
            if one.name != MODEL:
                one.unlink()


def _copy(folder: Path, name: str, files: Files, entry: dict[str, Any]) -> None:
    digest = hashlib.sha256()
    with (folder / name).open("xb") as target:

        def write(part: bytes) -> None:
            digest.update(part)
            target.write(part)

        files.copy(entry.get("source"), _LARGEST, write)  # type: ignore[arg-type]
    stated = entry.get("sha256")
    if stated is not None and stated != digest.hexdigest():
        what, fix = f"{files.name}: {entry.get('source')}", "Download the package again."
        raise invalid(BundleError, what, must=f"have the digest {stated}", got=digest.hexdigest(), fix=fix)


def _of_keras(path: Path, name: str, layout: str) -> bytes:
    """Load a network of Keras in its safe mode, and convert it."""
    _backend.check_process()
    try:
        model = _backend.keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file can make Keras raise anything
        fix = "Ask its author for ONNX weights."
        got = f"{type(error).__name__}: {error}"
        raise invalid(
            BundleError, name, must="be loaded by Keras in its safe mode", got=got, fix=fix
        ) from error
    return onnx_of_keras(model, channels_last=layout == "channels_last").content


def _of_onnx(path: Path, place: int) -> bytes:
    """Read a checked file with what is stored beside it, and leave one of its outputs."""
    checked = read_onnx(path)
    onnx = extra("onnx", "onnx")
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    if place >= len(checked.outputs):
        must = f"have the output {place} that the package describes"
        raise invalid(BundleError, str(path), must=must, got=len(checked.outputs), fix="Ask its author.")
    kept = model.graph.output[place]
    del model.graph.output[:]
    model.graph.output.append(kept)
    found: bytes = model.SerializeToString(deterministic=True)
    return found


def _with_steps(content: bytes, steps: Sequence[PixelStep], layout: str) -> bytes:
    """Append steps to a model, each a node or two."""
    if not steps:
        return content
    onnx, helper = extra("onnx", "onnx"), extra("onnx.helper", "onnx")
    numpy_helper = extra("onnx.numpy_helper", "onnx")
    model = onnx.load_from_string(content)
    graph, (port,) = model.graph, model.graph.output
    name = port.name
    n_axes = len(port.type.tensor_type.shape.dim)
    axis = 1 if layout == "channels_first" else n_axes - 1

    def add(kind: str, *values: Any, **attributes: Any) -> None:
        nonlocal name
        inputs = [name]
        for value in values:
            shape = [1] * n_axes
            shape[axis] = -1
            array = np.asarray(value, np.float32).reshape(shape)
            graph.initializer.append(numpy_helper.from_array(array, f"tiledseg_{len(graph.initializer)}"))
            inputs.append(graph.initializer[-1].name)
        name = f"tiledseg_step_{len(graph.node)}"
        graph.node.append(helper.make_node(kind, inputs, [name], **attributes))

    if port.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        add("Cast", to=onnx.TensorProto.FLOAT)
    for step in steps:
        _add_step(add, step, axis)
    last = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    last.type.tensor_type.shape.CopyFrom(port.type.tensor_type.shape)
    del graph.output[:]
    graph.output.append(last)
    found: bytes = model.SerializeToString(deterministic=True)
    return found


def _add_step(add: Callable[..., None], step: PixelStep, axis: int) -> None:
    if step.op == "linear":
        add("Mul", step.gain)
        add("Add", step.offset)
    elif step.op == "clip":
        for kind, limit in (("Max", step.least), ("Min", step.most)):
            if limit is not None:
                add(kind, limit)
    elif step.op == "sigmoid":
        add("Sigmoid")
    else:
        add("Softmax", axis=axis)
