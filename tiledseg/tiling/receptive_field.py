"""How far an output px of a network sees, and how far the ends of a tile spoil it.

Each layer is reduced to what it does to places along one axis. Two questions are then answered
in whole numbers: which input px an output px depends on (intervals of px, walked from the output
back to the input), and how many px at the two ends of a tile differ from what the whole image
gives (walked from the input to the output). Sizes and origins are multiples of the total stride
throughout, so that paddings which depend on a remainder are the same in the tile and the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

__all__ = ["UNKNOWN", "Axis", "Grow", "ReceptiveField", "Rule", "Slide", "Step", "Windows"]

_STRIDES = 1 << 16  # in the axis that the questions are answered on: no end may touch its middle


@dataclass(frozen=True, slots=True)
class _Places:
    """Output px i takes the input px from (step i - before) / factor up to (step i + after) / factor."""

    size: int
    step: int
    factor: int
    before: int
    after: int

    def sources(self, low: int, high: int) -> tuple[int, int]:
        """Give the first and the last input px that the output px from `low` to `high` take."""
        first = -((self.before - self.step * low) // self.factor)
        return first, (self.step * high + self.after) // self.factor

    def spoiled(self, size: int, left: int, right: int) -> tuple[int, int]:
        """Count the px at the two ends of the output that take spoiled px, or px beyond the ends."""
        clean = (self.factor * (left - 1) + self.before) // self.step + 1
        stop = -((self.after - self.factor * (size - right)) // self.step)
        return max(clean, 0), max(self.size - stop, 0)


@dataclass(frozen=True, slots=True)
class _Gridded:
    """Output px take the input px of their window; windows start at `shift` and every `window` px."""

    size: int
    window: int
    shift: int

    def _start(self, place: int) -> int:
        return (place - self.shift) // self.window * self.window + self.shift

    def sources(self, low: int, high: int) -> tuple[int, int]:
        """Give the first and the last input px that the output px from `low` to `high` take."""
        return self._start(low), self._start(high) + self.window - 1

    def spoiled(self, size: int, left: int, right: int) -> tuple[int, int]:
        """Count the px at the two ends of the output that take spoiled px, or lack px beyond the ends."""
        first, last = self._start(left - 1) + self.window, self._start(size - right)
        return max(first, 0), max(size - last, 0)


@dataclass(frozen=True, slots=True)
class Slide:
    """A window that slides over px: convolution and pooling; with a kernel of 1 padding and cropping."""

    kernel: int = 1  # length of the window in px, its dilation counted in
    step: int = 1  # px from one window to the next
    # px added before the first one, negative for px taken away; None for as many on both sides as
    # give size / step outputs, the smaller half before
    left: int | None = 0
    right: int = 0  # px added after the last one

    def places(self, size: int) -> _Places:
        """Say where the px of the output come from."""
        left, right = self.left, self.right
        if left is None:
            added = max((-(-size // self.step) - 1) * self.step + self.kernel - size, 0)
            left, right = added // 2, added - added // 2
        out = (size + left + right - self.kernel) // self.step + 1
        return _Places(out, self.step, 1, left, self.kernel - 1 - left)


@dataclass(frozen=True, slots=True)
class Grow:
    """A window that every px spreads over: transposed convolution and upsampling."""

    kernel: int  # length of the window in px of the output
    factor: int  # px of the output from one window to the next
    left: int = 0  # px of the output cut off before the first window's end and after the last one's
    right: int = 0  # px of the output cut off before the first window's end and after the last one's

    def places(self, size: int) -> _Places:
        """Say where the px of the output come from."""
        out = (size - 1) * self.factor + self.kernel - self.left - self.right
        return _Places(out, 1, self.factor, self.kernel - 1 - self.left, self.left)


@dataclass(frozen=True, slots=True)
class Windows:
    """A grid of attention windows that do not overlap; a px takes all px of its window."""

    # Where the grid is shifted, the windows at the ends of the map are cut off: they lack px that a
    # larger map has there.

    size: int  # length of a window in px; the map's length is a multiple of it
    shift: int = 0  # place of the first whole window

    @property
    def step(self) -> int:
        """Px from one px of the output to the next, in the input."""
        return 1

    def places(self, size: int) -> _Gridded:
        """Say where the px of the output come from."""
        return _Gridded(size, self.size, self.shift % self.size)


Rule: TypeAlias = Slide | Grow | Windows
"""What a layer does to places along one axis."""


@dataclass(frozen=True, slots=True)
class Step:
    """One layer at one place of the graph; its inputs and its output are known by number."""

    inputs: tuple[int, ...]  # maps that it takes
    output: int  # map that it gives
    rule: Rule  # where the px of its output come from


@dataclass(frozen=True, slots=True)
class Axis:
    """A network along one axis."""

    steps: tuple[Step, ...]  # the layers, in the order of computation; the input is map 0
    output: int  # map that the network returns
    stride: int  # total stride in px

    @property
    def fits(self) -> bool:
        """Whether the maps that meet are of one size, and the output is of the input's size."""
        sizes = {0: self.stride * _STRIDES}
        for step in self.steps:
            met = {sizes[one] for one in step.inputs}
            if len(met) != 1:
                return False
            sizes[step.output] = step.rule.places(met.pop()).size
        return sizes.get(self.output) == sizes[0]


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What the outputs of a network depend on."""

    axes: tuple[Axis, Axis] | None  # along y and x; None where that does not say what an output depends on
    tile_dependent: tuple[str, ...] = ()  # layers that look at the whole tile, or at a px's place in it
    unknown: tuple[str, ...] = ()  # layers of which it is not known what they look at

    @property
    def halo(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Px at the start and at the end of a tile that differ from the whole's, along y and x."""
        # They differ where the tile's end is not the image's: the network pads there, and the whole
        # image continues. All other px are the whole's if size and origin of the tile are multiples
        # of the total stride.
        return None if self.axes is None else (_halo(self.axes[0]), _halo(self.axes[1]))

    @property
    def extent(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Px of the input before and after an output px that it depends on, along y and x."""
        # The largest over the output px of one total stride, since these differ.
        return None if self.axes is None else (_field(self.axes[0]), _field(self.axes[1]))


UNKNOWN = ReceptiveField(None, unknown=("a callable",))
"""The receptive field of a network of which nothing but its outputs can be seen."""


@lru_cache(maxsize=32)
def _halo(axis: Axis) -> tuple[int, int]:
    sizes, ends = {0: axis.stride * _STRIDES}, {0: (0, 0)}
    for step in axis.steps:
        size = sizes[step.inputs[0]]
        left, right = (max(ends[one][side] for one in step.inputs) for side in (0, 1))
        places = step.rule.places(size)
        sizes[step.output], ends[step.output] = places.size, places.spoiled(size, left, right)
    return ends[axis.output]


@lru_cache(maxsize=32)
def _field(axis: Axis) -> tuple[int, int]:
    sizes, walk = {0: axis.stride * _STRIDES}, []
    for step in axis.steps:
        places = step.rule.places(sizes[step.inputs[0]])
        sizes[step.output] = places.size
        walk.append((step, places))
    middle = axis.stride * (_STRIDES // 2)
    before = after = 0
    for place in range(middle, middle + axis.stride):
        first, last = _seen(walk[::-1], axis.output, place)
        before, after = max(before, place - first), max(after, last - place)
    return before, after


def _seen(walk: list[tuple[Step, _Places | _Gridded]], output: int, place: int) -> tuple[int, int]:
    """Give the first and the last input px that an output px depends on."""
    seen = {output: (place, place)}
    for step, places in walk:
        if step.output not in seen:
            continue
        low, high = places.sources(*seen[step.output])
        for one in step.inputs if low <= high else ():
            known = seen.get(one, (low, high))
            seen[one] = (min(known[0], low), max(known[1], high))
    return seen.get(0, (place, place))
