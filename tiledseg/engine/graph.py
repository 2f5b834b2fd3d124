"""What is known of a network: shapes, stride, receptive field, memory and work; its outputs for one tile."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import lcm, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import invalid
from tiledseg.engine.predictor import check_fixed
from tiledseg.errors import ModelError
from tiledseg.tiling import Axis, Grow, ReceptiveField, Slide, Step, Windows, check_multiple

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.tiling import Rule

_ALIVE = 2.4  # memory, over that of the maps alive at once; measured: Keras 0.3 to 2.4, OpenVINO 1.0 to 2.4
_RULES = {"slide": Slide, "grow": Grow, "windows": Windows}
_LARGEST = 1 << 20  # of a number in a record
_LEAST_PX = 64  # of a probe's side
_MOST_PX = 512 * 512  # of a probe of the usual tile's size
_MOST_VALUES = 1024  # of a probe's outputs
_SCALES = (2.0, 16.0, 128.0)  # of a probe's px: prepared px are near 1, those of an image up to 255
_VARIED = 1e-2  # standard deviation of outputs that tell networks apart


@dataclass(frozen=True, slots=True)
class Graph:
    """The properties of a network's graph, whatever it was read from."""

    tile_size: tuple[int | None, int | None]  # input height and width in px; None where free
    channels: int
    classes: int | None
    stride: tuple[int, int]  # total stride (y, x) in px
    floats_per_px: float  # numbers in the feature maps that are alive at once, per px of the input
    products_per_px: float  # multiplications by a weight, per px of the input
    receptive_field: ReceptiveField

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate an upper bound of the memory that one tile needs."""
        return int(_ALIVE * 4 * self.floats_per_px * tile_size[0] * tile_size[1])

    def check_tiles(self, shape: tuple[int, ...]) -> None:
        """Check that tiles (N, h, w, C) of a shape are what the network takes."""
        _, height, width, channels = shape
        check_fixed((height, width), self.tile_size)
        for size, step in zip((height, width), self.stride, strict=True):
            check_multiple(size, step)
        if channels != self.channels:
            raise invalid(
                ModelError,
                "tiles",
                must=f"have {self.channels} channels",
                got=shape,
                fix="Give the image the channels that the network expects.",
            )

    def to_record(self) -> dict[str, Any]:
        """Return the properties as values of JSON."""
        field = self.receptive_field
        return {
            "tile_size": list(self.tile_size),
            "channels": self.channels,
            "classes": self.classes,
            "stride": list(self.stride),
            "floats_at_once_per_px": self.floats_per_px,
            "products_per_px": self.products_per_px,
            "receptive_field": field.axes and [_axis_record(axis) for axis in field.axes],
            "tile_dependent": list(field.tile_dependent),
            "unknown": list(field.unknown),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Graph:
        """Read what `to_record` returned; raise ValueError, TypeError or KeyError for anything else."""
        axes = record["receptive_field"]
        y, x = record["stride"]
        height, width = record["tile_size"]
        field = ReceptiveField(
            axes and (_axis(axes[0], y), _axis(axes[1], x)),
            tuple(map(str, record["tile_dependent"])),
            tuple(map(str, record["unknown"])),
        )
        return cls(
            (_size(height, None), _size(width, None)),
            _size(record["channels"]),
            _size(record["classes"], None),
            (_size(y), _size(x)),
            _floats(record),
            float(record["products_per_px"]),
            field,
        )


class GraphPredictor:
    """What a Predictor states of its network, by the properties of its graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph: Graph = graph
        self.channels: int | None = graph.channels
        self.classes: int | None = graph.classes
        self.tile_size: tuple[int | None, int | None] = graph.tile_size
        self.stride: tuple[int, int] = graph.stride
        self.receptive_field: ReceptiveField = graph.receptive_field

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate an upper bound of the memory that one tile needs."""
        return self.graph.bytes_per_tile(tile_size)

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Check that the network maps tiles of a size to maps of that size."""
        self.graph.check_tiles((1, *tile_size, self.graph.channels))


def total_stride(scales: list[tuple[Fraction, Fraction]]) -> tuple[int, int]:
    """Return the total stride (y, x) of maps with these px of the input per px."""
    # Sizes and origins that are multiples of all scales pass every pooling without a remainder.
    y, x = (lcm(*(scale[axis].numerator for scale in scales), 1) for axis in (0, 1))
    return y, x


def shrinking(rule: Rule) -> Fraction:
    """Return how many input px there are for each output px."""
    return Fraction(getattr(rule, "step", 1), getattr(rule, "factor", 1))


def period(rule: Rule) -> int:
    """Return the period of a rule's grid in px."""
    return rule.size if isinstance(rule, Windows) else 1


def _floats(record: dict[str, Any]) -> float:
    """Read the size of the maps alive at once; a quarter of all maps where an older record has those."""
    if "floats_at_once_per_px" in record:
        return float(record["floats_at_once_per_px"])
    return float(record["floats_per_px"]) / 4


def _axis_record(axis: Axis) -> dict[str, Any]:
    return {"output": axis.output, "steps": [_step_record(step) for step in axis.steps]}


def _step_record(step: Step) -> list[Any]:
    rule = step.rule
    kind = next(name for name, kind in _RULES.items() if isinstance(rule, kind))
    return [list(step.inputs), step.output, kind, *(getattr(rule, name) for name in rule.__slots__)]


def _axis(record: dict[str, Any], stride: int) -> Axis:
    """Read an axis, and check that a map is made before it is used."""
    steps, made = [], {0}
    for inputs, output, kind, *numbers in record["steps"]:
        if not made.issuperset(inputs) or not inputs or output in made:
            raise ValueError(f"a step from the maps {inputs} to {output}")
        made.add(output)
        rule: Rule = _RULES[kind](*(_number(one) for one in numbers))
        steps.append(Step(tuple(inputs), output, rule))
    axis = Axis(tuple(steps), record["output"], _size(stride))
    if axis.output not in made or not axis.fits:
        raise ValueError("a graph whose output has another size than its input")
    return axis


def _number(value: Any) -> Any:
    """Check a number of a rule; None stands for the padding `same`."""
    if value is not None and (type(value) is not int or abs(value) > _LARGEST):
        raise ValueError(f"{value!r} in a rule")
    return value


def _size(value: Any, *others: None) -> Any:
    """Check a positive number, or None where that is among `others`."""
    if value in others:
        return None
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise ValueError(f"{value!r} in place of a size")
    return value


@dataclass(frozen=True, slots=True)
class Probe:
    """A tile that is computed from its shape, and what a network returns for it."""

    shape: tuple[int, int, int, int]  # of the tile, (1, h, w, C)
    scale: float  # of its px
    outputs: FloatArray  # values spread evenly over the output

    @classmethod
    def of(
        cls, call: Callable[[FloatArray], AnyArray], graph: Graph, usual: tuple[int, int] | None = None
    ) -> Probe:
        """Run a network on a tile for which its outputs vary: one of the usual size needs no network more."""
        free = usual if usual is not None and prod(usual) <= _MOST_PX else (_LEAST_PX, _LEAST_PX)
        sizes = zip(graph.tile_size, free, graph.stride, strict=True)
        height, width = (fixed or -(-size // step) * step for fixed, size, step in sizes)
        shape, probes = (1, height, width, graph.channels), list[Probe]()
        for scale in _SCALES:
            probes.append(cls(shape, scale, _spread(call(_tile(shape, scale)))))
            if probes[-1].outputs.std() > _VARIED:
                break
        return max(probes, key=lambda one: float(one.outputs.std()))

    def difference(self, call: Callable[[FloatArray], AnyArray], share: float, least: float) -> float:
        """Return the quantile of the differences at a share, over the largest output or `least`."""
        found = _spread(call(_tile(self.shape, self.scale)))
        differences = np.abs(found - self.outputs)
        place = round(share * (differences.size - 1))
        return float(np.sort(differences)[place]) / max(least, float(np.abs(self.outputs).max()))

    def to_record(self) -> dict[str, Any]:
        """Return the probe as values of JSON."""
        outputs = [float(f"{value:.9g}") for value in self.outputs.tolist()]
        return {"shape": list(self.shape), "scale": self.scale, "outputs": outputs}

    @classmethod
    def from_record(cls, record: dict[str, Any], graph: Graph) -> Probe:
        """Read what `to_record` returned; raise ValueError, TypeError or KeyError for anything else."""
        shape, outputs = tuple(record["shape"]), np.array(record["outputs"], np.float32)
        _, height, width, _ = shape
        graph.check_tiles(shape)
        if not 0 < outputs.size <= _MOST_VALUES or outputs.ndim != 1 or max(height, width) > 1 << 14:
            raise ValueError(f"a probe of {shape} and {outputs.shape}")
        return cls(shape, float(record["scale"]), outputs)


def _tile(shape: tuple[int, ...], scale: float) -> FloatArray:
    """Make noise on waves, in [-scale / 2, scale / 2], the same on any machine."""
    place = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    mixed = (place ^ (place >> np.uint32(7))) * np.uint32(2654435761)  # Knuth's multiplicative hash
    noise = ((mixed >> np.uint32(16)) & np.uint32(255)).astype(np.float32) / 256
    y, x = (np.arange(length, dtype=np.int64) for length in shape[1:3])
    waves = ((y[:, None] + 2 * x) % 64).astype(np.float32) / 64
    return ((noise + waves[None, :, :, None] - 1) * (scale / 2)).astype(np.float32)


def _spread(outputs: AnyArray) -> FloatArray:
    """Take values that are spread evenly over an output."""
    flat = np.asarray(outputs, np.float32).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(flat.size, _MOST_VALUES)).astype(np.int64)]
