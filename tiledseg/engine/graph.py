"""What is known of a network without running it: its shapes, stride, receptive field, memory and work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiledseg._validate import invalid
from tiledseg.engine.predictor import check_fixed
from tiledseg.errors import ModelError
from tiledseg.tiling import Axis, Grow, ReceptiveField, Slide, Step, Windows, check_multiple

if TYPE_CHECKING:
    from tiledseg.tiling import Rule

_ALIVE = 2.4  # memory, over that of the maps alive at once; measured: Keras 0.3 to 2.4, OpenVINO 1.0 to 2.4
_RULES = {"slide": Slide, "grow": Grow, "windows": Windows}
_LARGEST = 1 << 20  # of a number in a record


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


def _number(value: Any) -> Any:  # noqa: ANN401
    """Check a number of a rule; None stands for the padding `same`."""
    if value is not None and (type(value) is not int or abs(value) > _LARGEST):
        raise ValueError(f"{value!r} in a rule")
    return value


def _size(value: Any, *others: None) -> Any:  # noqa: ANN401
    """Check a positive number, or None where that is among `others`."""
    if value in others:
        return None
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise ValueError(f"{value!r} in place of a size")
    return value
