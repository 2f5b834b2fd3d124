"""Tensors of an ONNX graph at one size of the input, the walk through the graph that meets and checks them.

Each axis of a feature map is a list of factors: the batch, plain numbers, the px along y or x, or these px as
windows and px within a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from tiledseg._validate import invalid
from tiledseg.engine.graph import period, shrinking
from tiledseg.errors import BundleError
from tiledseg.tiling import Rule, Sample, Step, Windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray
    from tiledseg.engine.onnx.file import Node

Factor: TypeAlias = tuple[str, int]
"""A kind, and a length: n batch, c plain, y and x px, yn and xn windows, yp and xp px within a window."""

Layout: TypeAlias = tuple[tuple[Factor, ...], ...]
"""The factors of each axis; none for an axis of length 1."""

_ONES = (Fraction(1), Fraction(1))
_LARGEST_SCALE = 4096
_MOST_NUMBERS = 1 << 31  # of a map


class UntrackedError(Exception):
    """The px that an operation takes cannot be derived."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor at one size of the input."""

    shape: tuple[int, ...] | None  # None where not known
    layout: Layout | None = None  # None for what does not depend on the input's px
    number: int = 0  # of the map
    scale: tuple[Fraction, Fraction] = _ONES  # px of the input per px, along y and x
    data: AnyArray | None = None  # values of a constant, where they are known
    from_size: bool = False  # whether the data were computed from the size of the input
    lost: bool = False  # whether it depends on the input in an unknown way


SAME = Sample()
"""The rule of an operation on each px."""

LOST = Value(None, lost=True)
Inputs: TypeAlias = list[Value | None]
"""The inputs of an operation; None for one that is left out."""


@dataclass(slots=True)
class Walk:
    """A walk through a graph at one size of the input."""

    opset: int
    knows_channels: bool = True  # of the input; else they are taken as one
    steps: tuple[list[Step], list[Step]] = field(default_factory=lambda: ([], []))
    scales: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    facts: list[bytes] = field(default_factory=list)  # computed from the size, and used on maps
    tile_dependent: dict[str, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)
    floats: dict[str, int] = field(default_factory=dict)  # numbers in each feature map, by name
    largest: int = 0  # numbers of the largest map, also where it is too large to go on
    products: float = 0.0  # multiplications by weights
    maps: int = 1

    def step(
        self, inputs: Sequence[Value], shape: tuple[int, ...], layout: Layout, y: Rule, x: Rule
    ) -> Value:
        """Add an operation, and return its output."""
        self.largest = max(self.largest, math.prod(shape))
        if min(shape, default=1) < 1 or math.prod(shape) > 1 << 40:
            raise UntrackedError
        numbers = tuple(dict.fromkeys(one.number for one in inputs))
        largest = max(one.scale for one in inputs)
        if len(numbers) == 1 and y == x == Sample():
            return Value(shape, layout, numbers[0], largest)
        scale = (largest[0] * shrinking(y), largest[1] * shrinking(x))
        for steps, rule in zip(self.steps, (y, x), strict=True):
            steps.append(Step(numbers, self.maps, rule))
        self.maps += 1
        self.scales += [scale, (largest[0] * period(y), largest[1] * period(x))]
        return Value(shape, layout, self.maps - 1, scale)

    def tile(self, node: Node, cure: str = "") -> None:
        """Note an operation that depends on the whole tile."""
        self.tile_dependent[name_of(node) + (f" ({cure})" if cure else "")] = None

    def windows(self, value: Value, kinds: set[str], node: Node) -> tuple[Rule, Rule]:
        """Return the rules of an operation that takes all numbers of the factors of these kinds."""
        if kinds <= {"c"}:
            return Sample(), Sample()
        if "n" in kinds:
            raise UntrackedError
        if kinds & {"y", "x", "yn", "xn"}:
            self.tile(node)
            return Sample(), Sample()
        lengths = dict(factor for axis in value.layout or () for factor in axis)
        return (
            Windows(lengths["yp"]) if "yp" in kinds else Sample(),
            Windows(lengths["xp"]) if "xp" in kinds else Sample(),
        )


def name_of(node: Node) -> str:
    """Return how messages name an operation."""
    return f"{node.kind} {node.name!r}"


def joined(axis: Sequence[Factor]) -> tuple[Factor, ...]:
    """Join plain neighbours, and windows with the px within them; leave out plain factors of length 1."""
    done: list[Factor] = []
    for kind, length in axis:
        if kind in {"c", "n"} and length == 1:
            continue
        last = done[-1] if done else ("", 1)
        if last[0] == kind == "c":
            done[-1] = ("c", last[1] * length)
        elif last[0] in {"yn", "xn"} and kind == f"{last[0][0]}p":
            done[-1] = (kind[0], last[1] * length)
        else:
            done.append((kind, length))
    return tuple(done)


def split(layout: Layout, shape: Sequence[int]) -> Layout:
    """Distribute the factors of all axes over the axes of another shape."""
    waiting = [factor for axis in layout for factor in axis][::-1]
    axes = []
    for length in shape:
        axis, missing = [], length
        while missing > 1:
            if not waiting:
                raise UntrackedError
            kind, size = waiting.pop()
            if missing % size == 0:
                axis.append((kind, size))
                missing //= size
            elif size % missing == 0 and kind in {"c", "y", "x"}:
                first, rest = (kind, kind) if kind == "c" else (f"{kind}n", f"{kind}p")
                waiting.append((rest, size // missing))
                axis.append((first, missing))
                missing = 1
            else:
                raise UntrackedError
        axes.append(joined(axis))
    if waiting:
        raise UntrackedError
    return tuple(axes)


def kinds_of(layout: Layout | None, axes: Sequence[int]) -> set[str]:
    """Return the kinds of the factors of some axes."""
    return {kind for axis in axes for kind, _ in (layout or ())[axis]} if layout else set()


def shape_of(value: Value | None) -> tuple[int, ...]:
    """Return the shape of a tensor, where it is known."""
    if value is None or value.shape is None:
        raise UntrackedError
    return value.shape


def layout_of(value: Value) -> Layout:
    """Return the layout of a map; a constant has plain axes alone."""
    return (
        value.layout if value.layout is not None else tuple(joined((("c", one),)) for one in shape_of(value))
    )


def data_of(value: Value | None) -> AnyArray:
    """Return the values of a constant, where they are known."""
    if value is None or value.data is None:
        raise UntrackedError
    return value.data


def optional(inputs: Inputs, place: int) -> Value | None:
    """Return an optional input; None where it is left out."""
    return inputs[place] if len(inputs) > place else None


def first_map(inputs: Inputs) -> Value:
    """Return the first input, which must be a map."""
    if inputs[0] is None or inputs[0].layout is None:
        raise UntrackedError
    return inputs[0]


def only_map(inputs: Inputs) -> Value:
    """Return the first input, which must be a map, and the only one."""
    if any(one and one.layout is not None for one in inputs[1:]):
        raise UntrackedError
    return first_map(inputs)


def length_of(axis: Sequence[Factor]) -> int:
    """Return the length of an axis."""
    return math.prod(length for _, length in axis)


def _wrong(node: Node, must: str, got: object, fix: str = "Export the network again.") -> BundleError:
    return invalid(BundleError, name_of(node), must=must, got=got, fix=fix)


def check_steps(node: Node, kernel: Sequence[int]) -> None:
    """Refuse windows, strides and dilations of less than one px."""
    stated = {name: node.attributes.get(name, [1]) for name in ("strides", "dilations")}
    for name, values in ({"kernel_shape": kernel} | stated).items():
        if min(values, default=1) < 1:
            raise _wrong(node, f"have `{name}` of at least 1", list(values))


def check_conv(walk: Walk, node: Node, inputs: Inputs, taken: int, made: int) -> None:
    """Refuse weights that do not fit the channels of the map; `taken` and `made` are those of the weights."""
    value, shape, group = inputs[0], shape_of(inputs[1]), node.attributes.get("group", 1)
    if group < 1 or made % group:
        raise _wrong(node, f"have `group` as a divisor of its {made} output channels", group)
    stated = node.attributes.get("kernel_shape")
    if stated is not None and tuple(stated) != shape[2:]:
        raise _wrong(node, f"have the `kernel_shape` of its weights {shape}", list(stated))
    if walk.knows_channels and value and _plain(value, 1) and shape_of(value)[1] != taken:
        must = f"have weights for the {shape_of(value)[1]} channels of its input"
        raise _wrong(node, must, f"weights of shape {shape} for {taken} channels")
    bias = optional(inputs, 2)
    if bias is not None and shape_of(bias) != (made,):
        raise _wrong(node, f"have a bias of shape ({made},)", shape_of(bias))


def check_channels(walk: Walk, node: Node, inputs: Inputs) -> None:
    """Refuse constants that should have one number for each channel, the second axis, and have not."""
    value = inputs[0]
    if not walk.knows_channels or value is None or not _plain(value, 1):
        return
    channels = shape_of(value)[1]
    for one in inputs[1:]:
        if one and one.shape not in {None, (channels,)}:
            raise _wrong(
                node, f"have constants of shape ({channels},), one number for each channel", one.shape
            )


def check_product(walk: Walk, node: Node, a: Value, b: Value) -> None:
    """Refuse a product with weights of another length."""
    one, two = shape_of(a)[-1], shape_of(b)[-2]
    with_weights = (a.layout is None) != (b.layout is None)
    if one != two and walk.knows_channels and with_weights and _plain(a, -1) and _plain(b, -2):
        got = f"{shape_of(a)} and {shape_of(b)}"
        raise _wrong(node, "multiply matrices whose inner lengths are equal", got)


def check_scales(node: Node, scales: Sequence[float]) -> None:
    """Refuse scales by which no map has a sensible size."""
    for scale in scales:
        if not 0 < scale <= _LARGEST_SCALE:
            raise _wrong(node, f"resize by a scale in (0, {_LARGEST_SCALE}]", f"{scale:g}")


def check_sizes(node: Node, sizes: Sequence[int]) -> None:
    """Refuse sizes that are fixed, and that no map has."""
    if min(sizes, default=1) < 1 or math.prod(sizes) > _MOST_NUMBERS:
        must = f"resize to sizes of at least 1 and maps of at most {_MOST_NUMBERS} numbers"
        raise _wrong(node, must, list(sizes))


def _plain(value: Value, axis: int) -> bool:
    """Say whether an axis has channels alone."""
    return kinds_of(layout_of(value), [axis]) <= {"c"}
