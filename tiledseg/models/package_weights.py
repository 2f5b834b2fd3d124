"""The weights of a package, as one ONNX file with the steps that follow the network."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tiledseg._lazy import extra, lazy
from tiledseg._storage import write_bytes
from tiledseg._validate import invalid
from tiledseg.engine import read_onnx
from tiledseg.errors import BundleError
from tiledseg.models.formats import onnx_of_keras

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tiledseg import _backend
    from tiledseg.config import PixelStep
else:
    _backend = lazy("tiledseg._backend")

MODEL = "model.onnx"
_LARGEST = 2 << 30  # bytes


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

    def add(kind: str, *values: Any, **attributes: Any) -> None:  # noqa: ANN401
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
