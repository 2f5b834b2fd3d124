"""ONNX files, checked before anything evaluates them, and read into plain nodes and constants.

A file of a few nodes can end the process, hang, or fill the memory in libraries that infer shapes or inline
functions. So nothing of that kind is called before the file has passed the checks of this module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tiledseg._lazy import extra
from tiledseg._storage import is_file, open_regular, sha256
from tiledseg._validate import invalid, one_of, path_text, shown
from tiledseg.errors import BundleError, ModelError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tiledseg._types import AnyArray, PathLike

_OLDEST = 9  # of the operator sets; before it, scales of `Upsample` are attributes
_MOST_NODES = 20_000
_MOST_CALLS = 1_000  # of local functions, after expansion
_MOST_DENSE = 1 << 24  # numbers of a sparse constant
_PACKED = frozenset({21, 22, 23, 25, 26})  # dtypes of less than a byte
_CLASS_NUMBERS = frozenset({"ArgMax", "ArgMin"})
_KEEPING = frozenset("Cast Identity Reshape Squeeze Transpose Unsqueeze".split())  # noqa: SIM905
_MOST_BYTES = 2 << 30  # protobuf holds no more
_REFUSED = frozenset({"Loop", "Scan", "SequenceMap"})
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    10: "float16",
    11: "float64",
}


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a graph."""

    kind: str  # name of the operator
    name: str  # of the node; of its first output where it has none
    inputs: tuple[str, ...]  # empty text for an input that is left out
    outputs: tuple[str, ...]
    attributes: dict[
        str, Any
    ]  # numbers, texts, arrays, lists of them; a tuple of nodes and outputs for a graph


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of a file."""

    shape: tuple[int, ...]
    values: AnyArray | None  # None for those that are stored beside the file


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output of a graph."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]  # None where free


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An ONNX file that passed all checks."""

    path: Path
    digest: str  # SHA-256 of the file and of what is stored beside it
    opset: int
    nodes: tuple[Node, ...]
    constants: dict[str, Constant]
    input: Port
    outputs: tuple[Port, ...]


def read_onnx(path: PathLike) -> OnnxFile:
    """Check and read an ONNX file; nothing of it is evaluated."""
    file = Path(path_text(path, error=BundleError))
    _check_file(file)
    onnx = extra("onnx", "onnx")
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf raises many kinds
        raise _refused(file, "be an ONNX file", _first_line(error), "Export the network again.") from error
    beside = _stored_beside(model, file)
    _check_operators(model, file)
    try:
        onnx.checker.check_model(str(file))
        model = extra("onnx.inliner", "onnx").inline_local_functions(model) if model.functions else model
    except Exception as error:
        raise _refused(file, "pass the checks of `onnx`", _first_line(error), "Export it again.") from error
    _check_operators(model, file)
    graph = model.graph
    try:
        constants, nodes = _constants(graph), _nodes(graph)
    except (ValueError, TypeError, LookupError) as error:
        raise _refused(file, "have whole constants", _first_line(error), "Export it again.") from error
    inputs = [_port(one) for one in graph.input if one.name not in constants]
    if len(inputs) != 1 or not graph.output:
        got = f"{len(inputs)} inputs {[one.name for one in inputs]} and {len(graph.output)} outputs"
        fix = "Export a network that takes one image."
        raise _refused(file, "have one input and an output", shown(got), fix)
    digest = "".join(sha256(one) for one in (file, *beside))
    outputs = tuple(map(_port, graph.output))
    return OnnxFile(file, digest, _opset(model), nodes, constants, inputs[0], outputs)


def _check_file(file: Path) -> None:
    if not is_file(file):
        raise _refused(file, "be an ONNX file", "no such file", "Check the path.")
    if file.stat().st_size > _MOST_BYTES:
        fix = "Export the network with its weights in a file of their own."
        raise _refused(file, f"be a file of at most {_MOST_BYTES} bytes", f"{file.stat().st_size} bytes", fix)
    with open_regular(file):  # which says why where that fails
        pass


def _refused(file: Path, must: str, got: object, fix: str) -> BundleError:
    return invalid(BundleError, str(file), must=must, got=got, fix=fix)


def _first_line(error: Exception) -> str:
    return shown(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")


def _opset(model: Any) -> int:  # protobuf has no types
    return next((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), 0)


def _check_operators(model: Any, file: Path) -> None:
    """Refuse versions, domains, operators and sizes that this library does not know or that could hang."""
    newest = extra("onnx.defs", "onnx").onnx_opset_version()
    if not _OLDEST <= _opset(model) <= newest:
        fix = "Export it with another `opset_version`."
        raise _refused(file, f"use an operator set from {_OLDEST} to {newest}", _opset(model), fix)
    functions = {(one.domain, one.name): one for one in model.functions}
    nodes = list(_all_nodes(model.graph.node))
    count = len(nodes) + sum(len(list(_all_nodes(one.node))) for one in functions.values())
    if count > _MOST_NODES:
        fix = "Simplify it, for example with onnxslim."
        raise _refused(file, f"have at most {_MOST_NODES} nodes", count, fix)
    if functions:
        _check_calls(nodes, functions, file)
    for node in [*nodes, *(inner for one in functions.values() for inner in _all_nodes(one.node))]:
        known = node.domain in {"", "ai.onnx"} or (node.domain, node.op_type) in functions
        if not known or node.op_type in _REFUSED:
            what = f"{node.domain or 'ai.onnx'}::{node.op_type}"
            fix = "Export it with only ONNX's own operators, without loops."
            raise _refused(file, "use operators that this library can check", what, fix)


def _check_calls(nodes: Iterable[Any], functions: dict[tuple[str, str], Any], file: Path) -> None:
    """Count the calls of local functions after expansion, without expanding them."""
    counts: dict[tuple[str, str], int] = {}

    def calls(inside: Iterable[Any], callers: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for key in ((node.domain, node.op_type) for node in inside):
            if key not in functions:
                continue
            if key in callers:
                fix = "Export it again."
                raise _refused(file, "have functions that do not call themselves", key[1], fix)
            if key not in counts:
                counts[key] = 1 + calls(_all_nodes(functions[key].node), (*callers, key))
            total += counts[key]
        return total

    found = calls(nodes, ())
    if found > _MOST_CALLS:
        fix = "Export it with its functions inlined."
        raise _refused(file, f"call local functions at most {_MOST_CALLS} times", found, fix)


def _all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes, and those of the graphs in their attributes."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting += graph.node


def _stored_beside(model: Any, file: Path) -> list[Path]:
    """Return the files of weights beside a file; any other place, and links, are refused."""
    found = {}
    for tensor in _all_tensors(model):
        if tensor.data_location != 1:
            continue
        stated = {entry.key: entry.value for entry in tensor.external_data}
        name = stated.get("location", "")
        path = file.parent / name
        if Path(name).name != name or name in {"", ".", ".."} or path.is_symlink() or not is_file(path):
            fix = "Put the file of weights beside it, under the name that it states."
            raise _refused(file, "keep its weights in a plain file beside it", name, fix)
        _check_part(tensor, stated, path, file)
        found[name] = path
    return [found[name] for name in sorted(found)]


def _check_part(tensor: Any, stated: dict[str, str], path: Path, file: Path) -> None:
    """Check that a file of weights has the bytes of a tensor where it is stated to be."""
    size, texts = path.stat().st_size, [stated.get(key) for key in ("offset", "length")]
    dtype = extra("onnx.helper", "onnx").tensor_dtype_to_np_dtype(tensor.data_type)
    need = 0 if tensor.data_type in _PACKED else math.prod(tensor.dims) * dtype.itemsize
    if all(text is None or (text.isascii() and text.isdecimal()) for text in texts):
        offset, length = (None if text is None else int(text) for text in texts)
        if (offset or 0) + max(need, length or 0) <= size and (length is None or length >= need):
            return
    got = f"{size} bytes where {need} are needed for {tensor.name!r}, with {shown(str(stated))}"
    raise _refused(file, f"find its weights in {path.name}", got, "Put the whole file of weights beside it.")


def _all_tensors(model: Any) -> Iterator[Any]:
    graphs = [model.graph]
    nodes = [*_all_nodes(model.graph.node), *(n for one in model.functions for n in _all_nodes(one.node))]
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            graphs += [attribute.g, *attribute.graphs]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


def _constant(tensor: Any) -> Constant:
    shape = tuple(tensor.dims)
    if tensor.data_location == 1:
        return Constant(shape, None)
    return Constant(shape, np.asarray(extra("onnx.numpy_helper", "onnx").to_array(tensor)))


def _constants(graph: Any) -> dict[str, Constant]:
    sparse = {one.values.name: _dense(one) for one in graph.sparse_initializer}
    return {one.name: _constant(one) for one in graph.initializer} | sparse


def _dense(tensor: Any) -> Constant:
    """Write out a sparse constant, where it is not large."""
    shape = tuple(tensor.dims)
    values, places = _constant(tensor.values).values, _constant(tensor.indices).values
    if values is None or places is None or math.prod(shape) > _MOST_DENSE:
        return Constant(shape, None)
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), shape)] = values
    return Constant(shape, dense.reshape(shape))


def _port(value: Any) -> Port:
    kind = value.type.tensor_type
    shape: tuple[int | None, ...] = (None,) * 4
    if kind.HasField("shape"):  # some exporters write -1 or 0 for what is free
        shape = tuple(one.dim_value if one.dim_value > 0 else None for one in kind.shape.dim)
    return Port(value.name, _DTYPES.get(kind.elem_type, f"type {kind.elem_type}"), shape)


def _nodes(graph: Any) -> tuple[Node, ...]:
    return tuple(
        Node(
            node.op_type,
            node.name or next(iter(node.output), ""),
            tuple(node.input),
            tuple(node.output),
            {one.name: _attribute(one) for one in node.attribute},
        )
        for node in graph.node
    )


def _attribute(attribute: Any) -> Any:
    values = extra("onnx.helper", "onnx").get_attribute_value(attribute)
    if isinstance(values, bytes):
        return values.decode("utf-8", "replace")
    if attribute.type == attribute.TENSOR:
        return _constant(values)
    if attribute.type == attribute.GRAPH:
        constants = {one.name: _constant(one) for one in values.initializer}
        return _nodes(values), constants, tuple(one.name for one in values.output)
    return values


def layout_of(file: OnnxFile, given: str | None) -> Literal["channels_first", "channels_last"]:
    """Return which axis of the input the channels are: the one of a few channels, where that is clear."""
    if given is not None:
        one_of("layout", given, ("channels_first", "channels_last"))
    shape = file.input.shape
    if len(shape) != 4:
        fix = "Export a network that takes one batch of images."
        raise invalid(ModelError, f"input {file.input.name!r}", must="have four axes", got=shape, fix=fix)
    if file.input.dtype not in _DTYPES.values():
        fix = "Export a network that takes numbers, such as float32."
        got = file.input.dtype
        raise invalid(
            ModelError, f"input {file.input.name!r}", must="be an array of numbers", got=got, fix=fix
        )
    if given is not None:
        return given  # type: ignore[return-value]
    few = [size is not None and size <= 4 for size in (shape[1], shape[3])]
    if few[0] != few[1]:
        return "channels_first" if few[0] else "channels_last"
    named = [size is not None for size in (shape[1], shape[3])]
    if named[0] != named[1]:
        return "channels_first" if named[0] else "channels_last"
    raise invalid(
        SettingError,
        "layout",
        must="be given where the input's shape does not show which axis holds the channels",
        got=f"input {shape}",
        fix="Pass layout='channels_first' or layout='channels_last' to load_model.",
    )


def output_of(file: OnnxFile, given: str | None) -> str:
    """Return the name of the output: the one that is given, or the only one."""
    ports: dict[str, Port] = {one.name: one for one in file.outputs}
    if given is None and len(ports) == 1:
        given = next(iter(ports))
    if given not in ports:
        raise invalid(
            SettingError,
            "output",
            must=f"name one of {list(ports)}",
            got=given,
            fix=f'Pass output="{next(iter(ports))}" to load_model, for example.',
        )
    _check_output(file, ports[given])
    return given


def _check_output(file: OnnxFile, port: Port) -> None:
    """Refuse an output that is no map, or one of class numbers."""
    what, must = f"output {port.name!r}", "be probabilities or logits"
    if len(port.shape) not in {3, 4}:
        fix = "Export a network that returns a map, or name another of its outputs."
        raise invalid(ModelError, what, must="be a map with three or four axes", got=port.shape, fix=fix)
    if port.dtype not in {"float16", "float32", "float64"} or _made_by(file, port.name) in _CLASS_NUMBERS:
        numbers = "class numbers" if port.dtype.startswith("float") else f"numbers of {port.dtype}"
        fix = "Export the network without its final ArgMax."
        raise invalid(ModelError, what, must=must, got=f"{numbers}, which cannot be blended", fix=fix)


def _made_by(file: OnnxFile, output: str) -> str:
    """Return the operator whose numbers an output has, rearranged or cast."""
    made = {name: node for node in file.nodes for name in node.outputs}
    node = made.get(output)
    while node is not None and node.kind in _KEEPING and node.inputs:
        node = made.get(node.inputs[0])
    return "" if node is None else node.kind


def stated_classes(file: OnnxFile, output: str, *, last: bool) -> int | None:
    """Return the channels of the output as the file states them."""
    shape = next(one.shape for one in file.outputs if one.name == output)
    return None if len(shape) != 4 else shape[3 if last else 1]
