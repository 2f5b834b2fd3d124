"""Line charts as SVG, for a report and for a notebook: no library, no window."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 420, 280
_RIGHT, _TOP, _BOTTOM = 14, 12, 46
_LABEL_PX, _CHARACTER_PX = 34, 7  # beside the numbers of the y axis, and of each of their characters
_MOST_X_TICKS = 6
_COLOURS = {  # a page may set the variables; the second value is for a notebook
    "first": "var(--first, #0072b2)",
    "second": "var(--second, #d55e00)",
    "third": "var(--third, #009e73)",
    "soft": "var(--soft, #777)",
    "grid": "var(--line, #ddd)",
}

Points: TypeAlias = tuple[tuple[float, float], ...]
Ticks: TypeAlias = tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A line, or marks, in a chart."""

    name: str  # in the legend; empty for no entry
    kind: str  # style: ``first``, ``second``, ``third``, ``ideal`` or ``marks``
    points: Points  # (x, y) in units of the axes


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: its content, and the position of each number in the drawing."""

    title: str
    note: str  # how to read it
    x_label: str
    y_label: str
    x_ticks: Ticks  # the first and the last are the ends of the axis
    y_ticks: Ticks
    lines: tuple[Line, ...] = ()
    bars: tuple[tuple[float, float, float, str], ...] = ()  # left, right and upper edge, and tooltip
    guide: tuple[float, str] | None = None  # a vertical line, and the text beside it

    @property
    def left(self) -> int:
        """Px left of the axes: the label, and the longest number beside it."""
        return _LABEL_PX + _CHARACTER_PX * max(len(text) for _, text in self.y_ticks)

    def x(self, value: float) -> float:
        """Return the x coordinate of a number in the drawing."""
        low, high = self.x_ticks[0][0], self.x_ticks[-1][0]
        return round(self.left + (value - low) / (high - low) * (_WIDTH - self.left - _RIGHT), 1)

    def y(self, value: float) -> float:
        """Return the y coordinate of a number in the drawing."""
        low, high = self.y_ticks[0][0], self.y_ticks[-1][0]
        return round(_HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def svg(self) -> str:
        """Draw the chart, without its title, note and legend."""
        parts = [*self._axes(), *self._bars(), *self._guide()]
        parts += [mark for line in self.lines for mark in self._line(line)]
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" style="max-width:{_WIDTH}px;width:100%;font-size:12px" '
            f'role="img" aria-label="{html.escape(self.title)}">{"".join(parts)}</svg>'
        )

    def figure(self) -> str:
        """Draw the chart with its title and its legend, for a notebook."""
        names = (
            f'<span style="color:{_COLOURS[line.kind]}">&#9632;</span> {html.escape(line.name)}'
            for line in self.lines
            if line.name
        )
        return f"<strong>{html.escape(self.title)}</strong><br>{self.svg()}<br>{' &nbsp; '.join(names)}"

    def _axes(self) -> list[str]:
        left, right, low, high = self.left, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, _TOP
        parts = [
            _rule(left, right, self.y(value), "grid") + _text(left - 7, self.y(value) + 4, "end", text)
            for value, text in self.y_ticks
        ]
        parts += [_text(self.x(value), low + 17, "middle", text) for value, text in self.x_ticks]
        turned = f'transform="translate(13 {(low + high) / 2}) rotate(-90)"'
        return [
            *parts,
            _rule(left, right, low, "soft"),
            _text((left + right) / 2, _HEIGHT - 8, "middle", self.x_label),
            _text(0, 0, "middle", self.y_label, turned),
        ]

    def _bars(self) -> list[str]:
        low = _HEIGHT - _BOTTOM
        return [
            f'<rect class="bar" x="{self.x(start)}" width="{self.x(stop) - self.x(start):.1f}" '
            f'y="{self.y(value)}" height="{low - self.y(value):.1f}" '
            f'style="fill:{_COLOURS["first"]};fill-opacity:.3">'
            f"<title>{html.escape(text)}</title></rect>"
            for start, stop, value, text in self.bars
        ]

    def _guide(self) -> list[str]:
        if self.guide is None:
            return []
        place, low = self.x(self.guide[0]), _HEIGHT - _BOTTOM
        is_left = place < _WIDTH * 0.7
        line = (
            f'<line x1="{place}" x2="{place}" y1="{low}" y2="{_TOP}" '
            f'style="stroke:{_COLOURS["soft"]};stroke-dasharray:2 3"/>'
        )
        beside, anchor = (place + 5, "start") if is_left else (place - 5, "end")
        return [line, _text(beside, low - 6, anchor, self.guide[1])]

    def _line(self, line: Line) -> list[str]:
        if line.kind == "marks":
            return [
                f'<circle class="mark" cx="{self.x(x)}" cy="{self.y(y)}" r="3.5" '
                f'style="fill:{_COLOURS["first"]}">'
                f"<title>{x:.3f}, {y:.3f}</title></circle>"
                for x, y in line.points
            ]
        look = f"stroke:{_COLOURS['soft']};stroke-width:1;stroke-dasharray:4 4"
        if line.kind != "ideal":
            look = f"stroke:{_COLOURS[line.kind]};stroke-width:2;stroke-linejoin:round"
        if len(line.points) == 1:  # no line can be seen, as after the first epoch
            ((x, y),) = line.points
            return [f'<circle cx="{self.x(x)}" cy="{self.y(y)}" r="3.5" style="fill:{_COLOURS[line.kind]}"/>']
        points = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in line.points)
        return [f'<polyline class="{line.kind}" points="{points}" style="fill:none;{look}"/>']


def _rule(left: float, right: float, y: float, colour: str) -> str:
    return f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" style="stroke:{_COLOURS[colour]}"/>'


def _text(x: float, y: float, anchor: str, text: str, more: str = "") -> str:
    look = f'text-anchor="{anchor}" style="fill:{_COLOURS["soft"]}"'
    return f'<text x="{x}" y="{y}" {look} {more}>{html.escape(text)}</text>'


def known(xs: Sequence[float], ys: Sequence[float]) -> Points:
    """Pair coordinates, without those that are not known."""
    return tuple((x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y))


def round_up(value: float) -> float:
    """Round up to a number that is easy to divide by four."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)


def quarters(top: float) -> Ticks:
    """Divide an axis from 0 to a number into four."""
    return tuple((top * tick / 4, f"{top * tick / 4:.3g}") for tick in range(5))


def curves(title: str, x_label: str, xs: Sequence[float], columns: Mapping[str, Sequence[float]]) -> Chart:
    """Chart up to three columns over whole numbers, such as losses over epochs."""
    kinds = ("first", "second", "third")
    lines = tuple(
        Line(name, kind, known(xs, column))
        for kind, (name, column) in zip(kinds, columns.items(), strict=False)
    )
    top = round_up(max((y for line in lines for _, y in line.points), default=1.0))
    first, last = int(min(xs)), int(max(*xs, min(xs) + 1))
    step = -(-(last - first) // _MOST_X_TICKS)
    inner = [number for number in range(first, last, step) if last - number >= step / 2]
    x_ticks = tuple((float(number), str(number)) for number in (*inner, last))
    return Chart(title, "", x_label, title, x_ticks, quarters(top), lines)
