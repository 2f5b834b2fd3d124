"""Receptive field and halo of a network.

Each layer is reduced to a rule: which input px an output px takes, along one axis. Two quantities
follow in whole numbers. The receptive field is the interval of input px that an output px depends
on; it is computed from the output back to the input. The halo is the number of px at the two ends
of a tile that differ from those of the whole image; it is computed from the input to the output.
Sizes and origins are multiples of the total stride, so that a padding that depends on a remainder
is the same in the tile and in the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

_STRIDES = 1 << 16  # in the axis of the computation: long enough that no end affects its middle


@dataclass(frozen=True, slots=True)
class _Places:
    """Output px i takes the input px from (step i - before) / factor up to (step i + after) / factor."""

    size: int
    step: int
    factor: int
    before: int
    after: int

    def sources(self, low: int, high: int) -> tuple[int, int]:
        """Return the first and the last input px that the output px from `low` to `high` take."""
        first = -((self.before - self.step * low) // self.factor)
        return first, (self.step * high + self.after) // self.factor

    def spoiled(self, size: int, left: int, right: int) -> tuple[int, int]:
        """Count the px at the two ends of the output that take a spoiled px, or a px beyond an end."""
        clean = (self.factor * (left - 1) + self.before) // self.step + 1
        stop = -((self.after - self.factor * (size - right)) // self.step)
        return max(clean, 0), max(self.size - stop, 0)


@dataclass(frozen=True, slots=True)
class _Gridded:
    """Output px take all input px of their window; a window starts at `shift` and every `window` px."""

    size: int
    window: int
    shift: int

    def _start(self, place: int) -> int:
        return (place - self.shift) // self.window * self.window + self.shift

    def sources(self, low: int, high: int) -> tuple[int, int]:
        """Return the first and the last input px that the output px from `low` to `high` take."""
        return self._start(low), self._start(high) + self.window - 1

    def spoiled(self, size: int, left: int, right: int) -> tuple[int, int]:
        """Count the px at the two ends of the output that take a spoiled px, or lack a px beyond an end."""
        first, last = self._start(left - 1) + self.window, self._start(size - right)
        return max(first, 0), max(size - last, 0)


@dataclass(frozen=True, slots=True)
class Slide:
    """A window that slides over px: convolution, pooling; with a kernel of 1, padding and cropping."""

    kernel: int = 1  # length of the window in px, dilation included
    step: int = 1  # px from one window to the next
    # padding in px before the first px, negative for cropping; None for padding before and after that gives
    # size / step outputs, the smaller half before
    left: int | None = 0
    right: int = 0  # padding in px after the last px

    def places(self, size: int) -> _Places:
        """Return which input px the output px take, for an input of a size."""
        left, right = self.left, self.right
        if left is None:
            added = max((-(-size // self.step) - 1) * self.step + self.kernel - size, 0)
            left, right = added // 2, added - added // 2
        out = (size + left + right - self.kernel) // self.step + 1
        return _Places(out, self.step, 1, left, self.kernel - 1 - left)


@dataclass(frozen=True, slots=True)
class Grow:
    """A window of output px that each input px is spread over: transposed convolution, upsampling."""

    kernel: int  # length of the window in px of the output
    factor: int  # px of the output from one window to the next
    left: int = 0  # px cropped at the start of the output
    right: int = 0  # px cropped at its end

    def places(self, size: int) -> _Places:
        """Return which input px the output px take, for an input of a size."""
        out = (size - 1) * self.factor + self.kernel - self.left - self.right
        return _Places(out, 1, self.factor, self.kernel - 1 - self.left, self.left)


@dataclass(frozen=True, slots=True)
class Sample:
    """Output px i takes the input px from (step i - before) / factor up to (step i + after) / factor."""

    step: int = 1
    factor: int = 1
    before: int = 0
    after: int = 0
    added: Fraction = Fraction(0)  # px of the output beyond factor / step of the input's

    def places(self, size: int) -> _Places:
        """Return which input px the output px take, for an input of a size."""
        out = int(size * Fraction(self.factor, self.step) + self.added)
        return _Places(out, self.step, self.factor, self.before, self.after)


@dataclass(frozen=True, slots=True)
class Windows:
    """A grid of attention windows without overlap; an output px takes all px of its window."""

    # Where the grid is shifted, the windows at the ends of the map are incomplete: a larger map has more px
    # there.

    size: int  # length of a window in px; the map's length is a multiple of it
    shift: int = 0  # position of the first whole window

    @property
    def step(self) -> int:
        """Input px from one output px to the next."""
        return 1

    def places(self, size: int) -> _Gridded:
        """Return which input px the output px take, for an input of a size."""
        return _Gridded(size, self.size, self.shift % self.size)


Rule: TypeAlias = Slide | Grow | Sample | Windows
"""Which input px the output px of a layer take, along one axis."""


@dataclass(frozen=True, slots=True)
class Step:
    """One use of a layer in a graph; maps are identified by number."""

    inputs: tuple[int, ...]  # its input maps
    output: int  # its output map
    rule: Rule


@dataclass(frozen=True, slots=True)
class Axis:
    """A network along one axis."""

    steps: tuple[Step, ...]  # the layers, in the order of computation; the input is map 0
    output: int  # the output map of the network
    stride: int  # total stride in px

    @property
    def fits(self) -> bool:
        """Whether the inputs of each layer have one size, and the output has the network's input size."""
        sizes = {0: self.stride * _STRIDES}
        for step in self.steps:
            found = {sizes[one] for one in step.inputs}
            if len(found) != 1:
                return False
            sizes[step.output] = step.rule.places(found.pop()).size
        return sizes.get(self.output) == sizes[0]


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """The px that an output px of a network depends on."""

    axes: tuple[Axis, Axis] | None  # along y and x; None where not known
    tile_dependent: tuple[str, ...] = ()  # layers that depend on the whole tile, or on positions in it
    unknown: tuple[str, ...] = ()  # layers that this library does not know
    mirrored: bool = False  # whether the network also gets mirrored copies of a tile
    transposed: bool = False  # whether it also gets transposed copies, which are mirrored, too

    def of_copies(self, *, transposed: bool) -> ReceptiveField:
        """Return the field of outputs that are averaged with those of mirrored, or all eight, copies."""
        return self if self.axes is None else replace(self, mirrored=True, transposed=transposed)

    @property
    def halo(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Px at the start and at the end of a tile that differ from the whole image's, along y and x."""
        # They differ where a tile ends inside the image: the network pads there, but the image continues. All
        # other px are equal if size and origin of the tile are multiples of the total stride.
        return self._sides(_halo)

    @property
    def extent(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Input px before and after an output px that it depends on, along y and x."""
        # The largest of all output px within one total stride, since they differ.
        return self._sides(_extent)

    def _sides(
        self, px_of: Callable[[Axis], tuple[int, int]]
    ) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Measure both axes; of copies the most that any of them has at an end."""
        if self.axes is None:
            return None
        y, x = (px_of(axis) for axis in self.axes)
        if self.mirrored:
            y, x = (max(y), max(y)), (max(x), max(x))
        return (max(y, x), max(y, x)) if self.transposed else (y, x)


UNKNOWN = ReceptiveField(None, unknown=("a callable",))
"""The receptive field of a callable."""


def sides_of(px: tuple[tuple[int, int], tuple[int, int]]) -> str:
    """Say how far something extends, along y and x."""
    (above, below), (left, right) = px
    return f"{above} px above, {below} below, {left} left, {right} right"


@lru_cache(maxsize=32)
def _halo(axis: Axis) -> tuple[int, int]:
    sizes, ends = {0: axis.stride * _STRIDES}, {0: (0, 0)}
    for step in axis.steps:
        size = sizes[step.inputs[0]]
        left, right = (max(ends[one][end] for one in step.inputs) for end in (0, 1))
        places = step.rule.places(size)
        sizes[step.output], ends[step.output] = places.size, places.spoiled(size, left, right)
    return ends[axis.output]


@lru_cache(maxsize=32)
def _extent(axis: Axis) -> tuple[int, int]:
    sizes, walk = {0: axis.stride * _STRIDES}, []
    for step in axis.steps:
        places = step.rule.places(sizes[step.inputs[0]])
        sizes[step.output] = places.size
        walk.append((step, places))
    before = after = 0
    for place in range(axis.stride):  # the same in each total stride
        first, last = _sources(walk[::-1], axis.output, place)
        before, after = max(before, place - first), max(after, last - place)
    return before, after


def _sources(walk: list[tuple[Step, _Places | _Gridded]], output: int, place: int) -> tuple[int, int]:
    """Return the first and the last input px that an output px depends on."""
    needed = {output: (place, place)}
    for step, places in walk:
        if step.output not in needed:
            continue
        low, high = places.sources(*needed[step.output])
        for one in step.inputs if low <= high else ():
            known = needed.get(one, (low, high))
            needed[one] = (min(known[0], low), max(known[1], high))
    return needed.get(0, (place, place))
