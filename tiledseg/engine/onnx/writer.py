"""An ONNX model written from the operations of OpenVINO that the layers of a network describe.

Each layer is described once, in `tiledseg.engine.openvino`. Here its operations are translated one by one.
The network is built at three sizes. A length that changes in proportion to the input's is written as such;
what changes in any other way fixes height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from tiledseg._lazy import extra, lazy
from tiledseg._version import __version__
from tiledseg.engine.layers import UnsupportedError
from tiledseg.engine.onnx.operators import INPUT, OUTPUT, TRANSLATIONS, FixedError, OnnxWriter, Operation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine import openvino
    from tiledseg.engine.layers import Layers
else:
    openvino = lazy("tiledseg.engine.openvino")

_OPSET, _IR = 17, 8  # which every ONNX Runtime since 1.12 reads
_LEAST = 224  # px of a side of the sizes at which the network is built
_MOST_BYTES = 2**31 - 2**20  # protobuf holds no more
_TO_FIRST, _TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
_SHAPES = {"Reshape", "Interpolate", "Broadcast", "Slice"}  # their integers may follow from the size


@dataclass(frozen=True, slots=True)
class WrittenOnnx:
    """An ONNX model as bytes."""

    content: bytes
    fixed_by: str | None  # the operation that fixes height and width; None where they are free


def to_onnx(
    layers: Layers,
    weights: Mapping[str, FloatArray],
    tile_size: tuple[int, int],
    stride: tuple[int, int],
    *,
    channels: int,
    channels_last: bool = False,
) -> WrittenOnnx:
    """Write a network for any height and width, or for one, or raise UnsupportedError."""

    def built(shape: tuple[int, ...]) -> Any:  # a model of OpenVINO
        return openvino.built(layers, weights, shape)

    try:
        y, x = (-(-_LEAST // step) for step in stride)
        factors = ((1, y, x + 1), (2, y + 2, x + 5), (3, y + 3, x + 2))
        sizes = [(n, rows * stride[0], columns * stride[1], channels) for n, rows, columns in factors]
        operations = _operations([_outline(built(size)) for size in sizes])
        fixed_by = None
        content = _written(operations, sizes, channels_last=channels_last)
    except (FixedError, UnsupportedError) as reason:  # the latter where a layer takes one size only
        sizes = [(1, *tile_size, channels)]
        operations = _operations([_outline(built(sizes[0]))])
        content = _written(operations, sizes, channels_last=channels_last)
        fixed_by = str(reason)
    return WrittenOnnx(content, fixed_by)


def _outline(model: Any) -> list[tuple[Any, ...]]:
    """List the operations of a model with what differs between sizes."""
    operations = model.get_ordered_ops()
    places = {one.get_name(): place for place, one in enumerate(operations)}
    found = []
    for one in operations:
        kind = one.get_type_name()
        sources = [port.get_source_output() for port in one.inputs()]
        inputs = tuple((places[port.get_node().get_name()], port.get_index()) for port in sources)
        attributes = {} if kind in {"Constant", "Parameter"} else one.get_attributes()
        shapes = [[tuple(port.get_shape()) for port in ports] for ports in (one.inputs(), one.outputs())]
        values = np.array(one.data) if kind == "Constant" else None
        found.append((kind, attributes, inputs, *shapes, values))
    return found


def _operations(outlines: Sequence[list[tuple[Any, ...]]]) -> list[Operation]:
    """Join the operations of a network at several sizes."""
    if len({len(one) for one in outlines}) > 1:
        raise FixedError("operations that not every size has")
    return [_joined(versions) for versions in zip(*outlines, strict=True)]


def _joined(versions: Sequence[tuple[Any, ...]]) -> Operation:
    kind, attributes, inputs, _, _, values = versions[0]
    if any(one[:3] != versions[0][:3] for one in versions):
        raise FixedError(f"the operation {kind}, which differs between sizes")
    ports = [list(zip(*(one[place] for one in versions), strict=True)) for place in (3, 4)]
    axes = [tuple(tuple(zip(*port, strict=True)) for port in some) for some in ports]
    found = () if values is None else _values([one[5] for one in versions])
    return Operation(kind, attributes, inputs, axes[0], axes[1], found)


def _values(versions: Sequence[AnyArray]) -> tuple[AnyArray, ...]:
    """Return the values of a constant at all sizes; one array where they are equal."""
    first = versions[0]
    equal = all(one.shape == first.shape and crc32(one.data) == crc32(first.data) for one in versions)
    if not equal and first.dtype.kind == "f":
        raise FixedError("a constant of another value at each size")
    return (first,) * len(versions) if equal else tuple(versions)


def _written(
    operations: Sequence[Operation], sizes: Sequence[tuple[int, ...]], *, channels_last: bool
) -> bytes:
    """Write all operations as a model."""
    writer = OnnxWriter(sizes, height_axis=1 if channels_last else 2)
    names: dict[tuple[int, int], str] = {}
    for place, one in enumerate(operations):
        if one.kind == "Transpose" and not channels_last and _at_an_end(operations, place):
            names[place, 0] = names[one.inputs[0]]
        else:
            made = _translated(writer, one, operations, names)
            names |= {(place, port): name for port, name in enumerate(made)}
    (last,) = [one for one in operations if one.kind == "Result"]
    writer.rename(names[last.inputs[0]])
    return _serialized(writer, last.shapes_in[0][3][0], channels_last=channels_last)


def _at_an_end(operations: Sequence[Operation], place: int) -> bool:
    """Say whether a transposition follows the input or makes the output."""
    source = operations[operations[place].inputs[0][0]].kind
    users = {one.kind for one in operations if (place, 0) in one.inputs}
    return source == "Parameter" or users == {"Result"}


def _translated(
    writer: OnnxWriter,
    operation: Operation,
    operations: Sequence[Operation],
    names: dict[tuple[int, int], str],
) -> list[str]:
    if operation.kind in {"Parameter", "Constant", "Result"}:
        return [INPUT] if operation.kind == "Parameter" else []
    translation = TRANSLATIONS.get(operation.kind)
    if translation is None:
        raise UnsupportedError(f"the operation {operation.kind} is not known")
    inputs: list[Any] = []
    for source in operation.inputs:
        constant = operations[source[0]]
        inputs.append(constant.values if constant.kind == "Constant" else names[source])
    changing = [one for one in inputs if isinstance(one, tuple) and any(two is not one[0] for two in one)]
    if changing and operation.kind not in _SHAPES:
        raise FixedError(f"the operation {operation.kind}, whose constants differ between sizes")
    made = translation(writer, operation, inputs)
    return [made] if isinstance(made, str) else made


def _serialized(writer: OnnxWriter, classes: int, *, channels_last: bool) -> bytes:
    helper, onnx = extra("onnx.helper", "onnx"), extra("onnx", "onnx")
    free = len(writer.sizes) > 1
    height, width = ("height", "width") if free else writer.sizes[0][1:3]

    def port(name: str, channels: int) -> Any:
        shape = ["batch" if free else 1, height, width, channels]
        shape = shape if channels_last else [shape[axis] for axis in _TO_FIRST]
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        writer.nodes,
        "network",
        [port(INPUT, writer.sizes[0][3])],
        [port(OUTPUT, classes)],
        writer.constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="tiledseg",
        producer_version=__version__,
    )
    size = model.ByteSize()
    if size > _MOST_BYTES:
        raise UnsupportedError(f"a network of {size} bytes, more than one ONNX file holds,")
    found: bytes = model.SerializeToString(deterministic=True)
    return found
