"""What a Keras graph says about tiling: total stride, receptive field, size of its feature maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tiledseg.engine._rules import is_kerass_own, rules_of
from tiledseg.tiling import Axis, Grow, ReceptiveField, Rule, Slide, Step, Windows

__all__ = ["Graph", "read_graph"]


@dataclass(frozen=True, slots=True)
class Graph:
    """What was read off a graph."""

    stride: tuple[int, int]  # total stride (y, x) in px
    floats_per_px: float  # numbers in all feature maps together, for each px of the input
    products_per_px: float  # multiplications of a number with a weight, for each px of the input
    receptive_field: ReceptiveField  # what an output px depends on


@dataclass(frozen=True, slots=True)
class _Map:
    """A tensor: its number, and how many px of the input one of its px stands for."""

    number: int
    scale: tuple[Fraction, Fraction]


_INPUT = _Map(0, (Fraction(1), Fraction(1)))


@dataclass(slots=True)
class _Walk:
    """What was met on the way, in order; tensors without places, as after a global pooling, are None."""

    steps: tuple[list[Step], list[Step]] = field(default_factory=lambda: ([], []))
    scales: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    floats: float = 0.0
    products: float = 0.0
    maps: int = 1
    tile_dependent: dict[str, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)


def read_graph(model: Any) -> Graph:  # noqa: ANN401
    """Walk a functional Keras graph, nested ones too.

    The scale of a tensor follows from the strides of the layers before it. The total stride is the
    least multiple of all of them: sizes and origins that are multiples of it pass every pooling and
    every upsampling without a remainder.
    """
    walk, output = _Walk(), None
    graph = _graph_of(model)
    if graph is None:
        walk.unknown[f"{type(model).__name__} {model.name!r}"] = None
    else:
        output = _walk(graph, [_INPUT], walk, training=False)[0]
    y, x = (math.lcm(*(scale[axis].numerator for scale in walk.scales), 1) for axis in (0, 1))
    return Graph((y, x), walk.floats or 64.0, walk.products, _receptive_field(walk, output, (y, x)))


def _receptive_field(walk: _Walk, output: _Map | None, stride: tuple[int, int]) -> ReceptiveField:
    if not walk.tile_dependent and not walk.unknown and output is not None:
        y, x = (
            Axis(tuple(steps), output.number, step) for steps, step in zip(walk.steps, stride, strict=True)
        )
        if y.fits and x.fits:
            return ReceptiveField((y, x))
        walk.unknown["layers whose maps do not fit one another"] = None
    return ReceptiveField(None, tuple(walk.tile_dependent), tuple(walk.unknown))


def _graph_of(operation: Any) -> Any:  # noqa: ANN401
    """Give the graph that a network runs; None where it has none, or runs something else."""
    graph = getattr(operation, "_functional", None) or operation
    own = is_kerass_own(getattr(type(operation), "call", None))
    return graph if own and hasattr(graph, "_nodes_by_depth") else None


def _walk(graph: Any, incoming: list[_Map | None], walk: _Walk, *, training: bool) -> list[_Map | None]:  # noqa: ANN401
    local = dict(zip(map(id, graph.inputs), incoming, strict=True))
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input:
                continue
            before = [local[id(tensor)] for tensor in node.input_tensors]
            after = _after(node, before, walk, training=training)
            local.update(zip(map(id, node.outputs), after, strict=True))
    return [local[id(tensor)] for tensor in graph.outputs]


def _after(node: Any, before: list[_Map | None], walk: _Walk, *, training: bool) -> list[_Map | None]:  # noqa: ANN401
    inner = _graph_of(node.operation)
    if inner is not None:
        return _walk(inner, before, walk, training=node.arguments.kwargs.get("training", training) is True)
    rules = rules_of(node, training=training)
    met = [one for one in before if one is not None]
    if rules == "tile":
        walk.tile_dependent[_name(node.operation)] = None
    if not met:
        return [None for _ in node.outputs]
    if rules == "unknown" or (len(node.outputs) > 1 and rules != "tile"):
        walk.unknown[_name(node.operation)] = None
    if isinstance(rules, str):
        rules = (_guessed(node, 0), _guessed(node, 1))
    walk.products += _products(node.operation, max(one.scale for one in met), rules)
    return [_stepped(tensor, met, rules, walk) for tensor in node.outputs]


def _stepped(tensor: Any, met: list[_Map], rules: tuple[Rule, Rule], walk: _Walk) -> _Map | None:  # noqa: ANN401
    """Give a layer's output a number, and note where its px come from."""
    if len(tensor.shape) != 4 or tensor.shape[1:3] == (1, 1):
        return None
    largest = max(one.scale for one in met)
    scale = (largest[0] * _shrinking(rules[0]), largest[1] * _shrinking(rules[1]))
    made = _Map(walk.maps, scale)
    for steps, rule in zip(walk.steps, rules, strict=True):
        steps.append(Step(tuple(one.number for one in met), made.number, rule))
    walk.maps += 1
    walk.scales.append((scale[0] * _grid(rules[0]), scale[1] * _grid(rules[1])))
    walk.floats += (tensor.shape[3] or 1) / float(scale[0] * scale[1])
    return made


def _products(operation: Any, scale: tuple[Fraction, Fraction], rules: tuple[Rule, Rule]) -> float:  # noqa: ANN401
    """Count a layer's multiplications by weights: every kernel meets every px of the smaller map."""
    kernels = sum(math.prod(one.shape) for one in getattr(operation, "weights", ()) if len(one.shape) > 1)
    larger = (max(one, one * _shrinking(rule)) for one, rule in zip(scale, rules, strict=True))
    return float(kernels / math.prod(larger))


def _shrinking(rule: Rule) -> Fraction:
    return Fraction(1, rule.factor) if isinstance(rule, Grow) else Fraction(rule.step)


def _grid(rule: Rule) -> int:
    """Give the px after which the grid of a rule repeats itself."""
    return rule.size if isinstance(rule, Windows) else 1


def _guessed(node: Any, axis: int) -> Rule:  # noqa: ANN401
    """Guess by how much a layer that is not known shrinks or grows: for the total stride alone."""
    strides = getattr(node.operation, "strides", None)
    if strides is not None:
        step = strides[axis] if isinstance(strides, tuple | list) else strides
        grows = "Transpose" in type(node.operation).__name__
        return Grow(step, step) if grows else Slide(step, step)
    sizes = [one.shape[1 + axis] for one in (node.input_tensors[0], node.outputs[0]) if len(one.shape) == 4]
    if len(sizes) < 2 or not all(sizes):
        return Slide()
    ratio = Fraction(sizes[0], sizes[1])  # padding and cropping give one, too, but no whole one
    if ratio.numerator == 1:
        return Grow(ratio.denominator, ratio.denominator)
    return Slide(ratio.numerator, ratio.numerator) if ratio.denominator == 1 else Slide()


def _name(operation: Any) -> str:  # noqa: ANN401
    return f"{type(operation).__name__} {operation.name!r}"
