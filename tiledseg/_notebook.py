"""What public objects show of themselves: tables as text, and fragments of HTML in a notebook."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

_SIDE = 360  # px of the longer side of the drawing of tiles
_MOST_LINES = 120  # along an axis; of more, every n-th is drawn
_FRAME, _SHARED, _BORDER, _TILE, _COVERED = "#8883", "#0072b233", "#0072b2", "#d55e00", "#8888"
_NAME = 'style="text-align:left;vertical-align:top;white-space:nowrap"'
_CELL = 'style="text-align:left"'
_Item = TypeVar("_Item")


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Write rows as lines of text, the cells of some columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ways = [str.ljust if place in left else str.rjust for place in range(len(widths))]
    return [
        "  ".join(way(cell, width) for way, cell, width in zip(ways, row, widths, strict=True)).rstrip()
        for row in rows
    ]


def paragraph(text: object) -> str:
    """Write text as a paragraph."""
    return f"<p>{html.escape(str(text))}</p>"


def facts(rows: Mapping[str, object], title: str = "") -> str:
    """Write names and values as a table of two columns."""
    head = f"<p><strong>{html.escape(title)}</strong></p>" if title else ""
    lines = (
        f"<tr><th {_NAME}>{html.escape(name)}</th><td {_CELL}>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"{head}<table><tbody>{''.join(lines)}</tbody></table>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write rows below a head."""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def picture(png: bytes, alt: str) -> str:
    """Embed a PNG."""
    source = base64.b64encode(png).decode()
    return f'<img style="max-width:100%" alt="{html.escape(alt)}" src="data:image/png;base64,{source}"/>'


def side_by_side(*parts: str) -> str:
    """Set parts beside each other where there is room."""
    cells = "".join(f'<div style="max-width:38em">{part}</div>' for part in parts if part)
    return f'<div style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start">{cells}</div>'


def tiles(
    shape: tuple[int, int],
    tile: tuple[int, int],
    shared: tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]],
    borders: tuple[Sequence[int], Sequence[int]],
    covered: Sequence[tuple[int, int, int, int]] = (),
) -> str:
    """Draw a grid in an empty frame: shared px, borders of cores, the first tile, boxes that are left out."""
    height, width = shape
    scale = _SIDE / max(height, width)
    down = [(0, start, width, stop - start) for start, stop in _some(shared[0])]
    across = [(start, 0, stop - start, height) for start, stop in _some(shared[1])]
    lines = [f"M0 {at}H{width}" for at in _some(borders[0])]
    lines += [f"M{at} 0V{height}" for at in _some(borders[1])]
    thin = "vector-effect:non-scaling-stroke;fill:none"
    parts = [
        _box((0, 0, width, height), f"fill:{_FRAME}"),
        *(_box(place, f"fill:{_SHARED}") for place in down + across),
        *(_box((x0, y0, x1 - x0, y1 - y0), f"fill:{_COVERED}") for y0, y1, x0, x1 in covered),
        f'<path d="{"".join(lines)}" style="{thin};stroke:{_BORDER};stroke-width:1"/>',
        _box((0, 0, min(tile[1], width), min(tile[0], height)), f"{thin};stroke:{_TILE};stroke-width:2"),
    ]
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width * scale:.0f}" height="{height * scale:.0f}" '
        f'preserveAspectRatio="none" role="img" aria-label="tiles">{"".join(parts)}</svg>'
    )


def _box(place: tuple[int, int, int, int], style: str) -> str:
    x, y, width, height = place
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" style="{style}"/>'


def _some(items: Sequence[_Item]) -> Sequence[_Item]:
    return items[:: -(-len(items) // _MOST_LINES) or 1]
