"""The nodes and constants of an ONNX model that is being written."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import extra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray

INPUT, OUTPUT = "image", "output"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of OpenVINO, seen at all sizes."""

    kind: str
    attributes: dict[str, Any]
    inputs: tuple[tuple[int, int], ...]  # the operation and the output that each input comes from
    shapes_in: tuple[tuple[tuple[int, ...], ...], ...]  # of each input, by axis, at each size
    shapes_out: tuple[tuple[tuple[int, ...], ...], ...]
    values: tuple[AnyArray, ...]  # of a constant, at each size


class FixedError(Exception):
    """An operation depends on the size in a way that no proportion describes."""


class OnnxWriter:
    """The nodes and constants that have been written so far."""

    def __init__(self, sizes: Sequence[tuple[int, ...]], height_axis: int) -> None:
        self._helper, self._numpy = extra("onnx.helper", "onnx"), extra("onnx.numpy_helper", "onnx")
        self.sizes = sizes  # (N, h, w, C) of the input
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._axes = {"n": 0, "h": height_axis, "w": height_axis + 1}
        self._known: dict[Any, str] = {}
        self._count = 0

    def name(self, kind: str) -> str:
        """Return a name that is not used yet."""
        self._count += 1
        return f"{kind.lower()}_{self._count}"

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:  # noqa: ANN401
        """Write a node; return the name of its output, or the names of several."""
        names = [self.name(kind) for _ in range(outputs)]
        self.nodes.append(self._helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: AnyArray | Sequence[int], dtype: Any = None) -> str:  # noqa: ANN401
        """Write a constant, int64 or float32 as it is; return its name."""
        array = np.ascontiguousarray(values, dtype)
        array = array.reshape(np.shape(values))  # the line above gives a number an axis
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key in self._known:
            return self._known[key]
        name = self.name("constant")
        self.constants.append(self._numpy.from_array(array, name))
        if key is not None:
            self._known[key] = name
        return name

    def floats(self, values: Any) -> str:  # noqa: ANN401
        """Write a constant of float32."""
        return self.constant(np.asarray(values, np.float32))

    def shape(self, lengths: Sequence[tuple[int, ...]], like: Sequence[tuple[int, ...]] = ()) -> str:
        """Write a shape, whose lengths are known at each size; an axis that is as in `like` is copied."""
        parts: list[int | None] = [
            one[0]
            if len(set(one)) == 1 and one[0] > 0
            else 0
            if place < len(like) and one == like[place]
            else None
            for place, one in enumerate(lengths)
        ]
        if parts.count(None) == 1:
            return self.constant([-1 if one is None else one for one in parts], np.int64)
        if None not in parts:
            return self.constant([one or 0 for one in parts], np.int64)
        names = [
            self.length(lengths[place]) if one is None else self.constant([one], np.int64)
            for place, one in enumerate(parts)
        ]
        return str(self.node("Concat", *names, axis=0))

    def length(self, lengths: tuple[int, ...]) -> str:
        """Write a length that is in proportion to the input's height, width or number of px."""
        for names in (("h",), ("w",), ("h", "w"), ("n",)):
            found = [np.prod([size["nhwc".index(one)] for one in names], dtype=int) for size in self.sizes]
            shares = {Fraction(one, int(two)) for one, two in zip(lengths, found, strict=True)}
            if len(shares) == 1:
                return self._share(names, shares.pop())
        raise FixedError("a length that is not in proportion to height and width")

    def rename(self, output: str) -> None:
        """Give the output of the network its name."""
        output = self.node("Identity", output) if output == INPUT else output
        for node in self.nodes:
            for side in (node.input, node.output):
                side[:] = [OUTPUT if one == output else one for one in side]

    def _share(self, names: Sequence[str], share: Fraction) -> str:
        key = (tuple(names), share)
        if key not in self._known:
            value = self._input_length(names[0])
            for one in names[1:]:
                value = self.node("Mul", value, self._input_length(one))
            if share.numerator != 1:
                value = self.node("Mul", value, self.constant([share.numerator], np.int64))
            if share.denominator != 1:
                value = self.node("Div", value, self.constant([share.denominator], np.int64))
            self._known[key] = value
        return self._known[key]

    def _input_length(self, name: str) -> str:
        if ("input", name) not in self._known:
            if "shape" not in self._known:
                self._known["shape"] = self.node("Shape", INPUT)
            index = self.constant([self._axes[name]], np.int64)
            self._known["input", name] = self.node("Gather", self._known["shape"], index, axis=0)
        return self._known["input", name]
