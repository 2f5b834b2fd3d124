"""Constants of an ONNX graph: what depends only on constants and shapes is evaluated, where it is small."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import invalid
from tiledseg.engine.onnx.tensors import UntrackedError
from tiledseg.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray
    from tiledseg.engine.onnx.file import Node

_MOST_MADE = 1 << 28  # numbers of a constant that an engine computes
_MOST = 65_536  # numbers of a constant that is computed


def evaluated(node: Node, data: list[AnyArray | None]) -> list[AnyArray] | None:
    """Evaluate a small operation on constants; None where it is large, or not known."""
    if node.kind == "Constant":
        return _stated(node)
    compute = _EVALUATED.get(node.kind)
    if compute is None:
        return None
    try:
        sizes = [one.size for one in data if one is not None]
        if node.kind in _GROWING and _size_of(node, data) > _MOST:
            return None
        if max(sizes, default=0) > _MOST and node.kind not in _VIEWS:
            return None
        found = compute(node, *data)
    except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError, OverflowError, UntrackedError):
        return None
    return [np.asarray(one) for one in found] if isinstance(found, list) else [np.asarray(found)]


def _stated(node: Node) -> list[AnyArray] | None:
    for name, value in node.attributes.items():
        if name == "value":
            return None if value.values is None else [value.values]
        if name.startswith("value_") and "string" not in name:
            return [np.asarray(value, np.float32 if "float" in name else np.int64)]
    return None


def _size_of(node: Node, data: list[AnyArray | None]) -> float:
    """Return the size of the output of an operation that can make much of little."""
    values = [np.atleast_1d(one).astype(float) for one in data if one is not None]
    if node.kind == "Range":
        return float(abs((values[1] - values[0]) / values[2])[0])
    if node.kind == "Tile":
        return float(np.prod(values[1]) * values[0].size)
    return float(np.prod(values[-1])) * (values[0].size if node.kind == "Expand" else 1)


def check_made(node: Node, data: list[AnyArray | None]) -> None:
    """Refuse an operation that makes far too much of small constants: engines would compute it."""
    if node.kind not in _GROWING or any(one is None for one in data):
        return
    try:
        with np.errstate(all="ignore"):
            size = _size_of(node, data)
    except (ValueError, IndexError):
        return
    if size > _MOST_MADE:
        raise invalid(
            BundleError,
            f"{node.kind} {node.name!r}",
            must=f"make a constant of at most {_MOST_MADE} numbers",
            got=f"{size:.3g}",
            fix="Do not run this file: no exporter writes such a constant.",
        )


def _axes(node: Node, more: tuple[AnyArray, ...]) -> tuple[int, ...] | None:
    """Return the axes of an operation, which are an attribute or the second input."""
    axes = more[0] if more and more[0] is not None else node.attributes.get("axes")
    return None if axes is None else tuple(int(one) for one in np.atleast_1d(axes))


def unsqueezed(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """Return a shape with axes of length 1 inserted."""
    rank = len(shape) + len(axes)
    places, rest = {axis % rank for axis in axes}, iter(shape)
    return tuple(1 if place in places else next(rest) for place in range(rank))


def resolved(shape: Sequence[int], target: Sequence[int], *, allow_zero: bool = False) -> tuple[int, ...]:
    """Return the shape of a Reshape: 0 copies a length, and -1 is inferred."""
    found = [
        shape[place] if length == 0 and not allow_zero else int(length) for place, length in enumerate(target)
    ]
    if -1 in found:
        known = math.prod(length for length in found if length != -1)
        found[found.index(-1)] = math.prod(shape) // known
    if math.prod(found) != math.prod(shape):
        raise UntrackedError
    return tuple(found)


def _slice(node: Node, x: AnyArray, *more: AnyArray) -> AnyArray:
    starts, ends, axes, steps = slices(node, x.ndim, more)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        end_ = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, end_, step)
    return x[tuple(index)]


def slices(
    node: Node, rank: int, more: Sequence[AnyArray]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return starts, ends, axes and steps of a Slice, which are inputs or attributes."""
    if not more:
        more = [np.asarray(node.attributes[name]) for name in ("starts", "ends")]
        axes = node.attributes.get("axes")
        more = [*more, *([] if axes is None else [np.asarray(axes)])]
    starts, ends = ([int(one) for one in np.atleast_1d(part)] for part in more[:2])
    given = more[2] if len(more) > 2 and more[2] is not None else np.arange(len(starts))
    steps = more[3] if len(more) > 3 and more[3] is not None else np.ones(len(starts), int)
    return (
        starts,
        ends,
        [int(one) % rank for one in np.atleast_1d(given)],
        [int(one) for one in np.atleast_1d(steps)],
    )


def _divided(_: Node, a: AnyArray, b: AnyArray) -> AnyArray:
    if a.dtype.kind == "f":
        return a / b
    return (np.sign(a) * np.sign(b) * (abs(a) // abs(b))).astype(a.dtype)


def _cast(node: Node, x: AnyArray) -> AnyArray:
    return x.astype(_NUMPY[node.attributes["to"]])


def _parts(node: Node, x: AnyArray, sizes: AnyArray | None = None) -> list[AnyArray]:
    axis = node.attributes.get("axis", 0)
    sizes = np.asarray(node.attributes["split"]) if sizes is None and "split" in node.attributes else sizes
    if sizes is None:
        return np.array_split(x, node.attributes.get("num_outputs", len(node.outputs)), axis)
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _reduced(function: Callable[..., AnyArray]) -> Callable[..., AnyArray]:
    def reduced(node: Node, x: AnyArray, *more: AnyArray) -> AnyArray:
        return function(x, axis=_axes(node, more), keepdims=bool(node.attributes.get("keepdims", 1)))

    return reduced


def _plain(function: Callable[..., AnyArray]) -> Callable[..., AnyArray]:
    return lambda _, *data: function(*data)


_NUMPY = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip

_GROWING = frozenset({"ConstantOfShape", "Expand", "Range", "Tile"})
_VIEWS = frozenset("Cast Identity Reshape Squeeze Transpose Unsqueeze".split())  # noqa: SIM905
"""They compute nothing, and make no more of their input."""

_EVALUATED: dict[str, Callable[..., Any]] = {
    "Abs": _plain(np.abs),
    "Add": _plain(np.add),
    "And": _plain(np.logical_and),
    "Cast": _cast,
    "Ceil": _plain(np.ceil),
    "Concat": lambda node, *data: np.concatenate(data, node.attributes["axis"]),
    "ConstantOfShape": lambda node, shape: np.full(
        shape.astype(int), node.attributes["value"].values[0] if "value" in node.attributes else np.float32(0)
    ),
    "Div": _divided,
    "Equal": _plain(np.equal),
    "Expand": lambda _, x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.astype(int)))),
    "Floor": _plain(np.floor),
    "Gather": lambda node, x, index: np.take(x, index, node.attributes.get("axis", 0)),
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "Identity": _plain(lambda x: x),
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "Max": _plain(lambda *data: np.max(np.broadcast_arrays(*data), axis=0)),
    "Min": _plain(lambda *data: np.min(np.broadcast_arrays(*data), axis=0)),
    "Mod": lambda node, a, b: np.fmod(a, b) if node.attributes.get("fmod") else np.mod(a, b),
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "Not": _plain(np.logical_not),
    "Or": _plain(np.logical_or),
    "Pow": lambda _, a, b: np.power(a, b).astype(a.dtype),
    "Range": lambda _, start, limit, delta: np.arange(start, limit, delta).astype(start.dtype),
    "Reciprocal": _plain(np.reciprocal),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "Reshape": lambda node, x, shape: x.reshape(
        resolved(x.shape, shape, allow_zero=bool(node.attributes.get("allowzero")))
    ),
    "Round": _plain(np.round),
    "Slice": _slice,
    "Split": _parts,
    "Sqrt": _plain(np.sqrt),
    "Squeeze": lambda node, x, *more: np.squeeze(x, _axes(node, more)),
    "Sub": _plain(np.subtract),
    "Tile": lambda _, x, repeats: np.tile(x, repeats.astype(int)),
    "Transpose": lambda node, x: np.transpose(x, node.attributes.get("perm")),
    "Unsqueeze": lambda node, x, *more: x.reshape(unsqueezed(x.shape, _axes(node, more) or ())),
    "Where": _plain(np.where),
}
