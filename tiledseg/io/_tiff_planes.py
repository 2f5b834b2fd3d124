"""Which pages of a TIFF hold the channels of the one plane that is asked for, and its smaller copies."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tifffile

    from tiledseg.io._file import Reader
    from tiledseg.io._tiff_pages import Page

__all__ = ["levels_of", "planes_of"]

_TIFFDATA = re.compile(r"<(?:\w+:)?TiffData\b([^>]*)>")
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']")
_SAME_VIEW = 0.02  # how far the sides of a smaller copy may be from the image's own ratio


def planes_of(
    file: Reader, pages: list[Page], description: str, pixels: list[dict[str, str]], at: Mapping[str, int]
) -> list[int] | None:
    """List the pages of one plane, channel by channel."""
    axes = _axes(description, pixels)
    samples = len(pages) and math.prod(length for _, length in axes) == len(pages)
    if not axes or not samples:
        return [0] if len(pages) == 1 else None
    place = _place(file, dict(axes), at)
    order = _ome_order(description, axes) if len(pixels) == 1 else {}
    channels = dict(axes).get("C", 1)
    found = []
    for channel in range(channels):
        where = place | {"C": channel}
        index, step = 0, 1
        for axis, length in axes:
            index, step = index + where.get(axis, 0) * step, step * length
        found.append(order.get((where.get("C", 0), where.get("Z", 0), where.get("T", 0)), index))
    return found if max(found) < len(pages) else None


def _axes(description: str, pixels: list[dict[str, str]]) -> list[tuple[str, int]]:
    """List the axes that pages are counted along, the fastest first."""
    if len(pixels) == 1:
        names = pixels[0].get("DimensionOrder", "XYCZT")[2:]
        samples = _samples(description)
        sizes = {axis: _count(pixels[0].get(f"Size{axis}", "1")) for axis in names}
        return [(axis, -(-size // samples) if axis == "C" else size) for axis, size in sizes.items()]
    if description.startswith("ImageJ="):
        lines = dict(line.split("=", 1) for line in description.splitlines() if "=" in line)
        keys = {"C": "channels", "Z": "slices", "T": "frames"}
        return [(axis, _count(lines.get(key, "1"))) for axis, key in keys.items()]
    try:
        fields = json.loads(description)
        names, shape = str(fields["axes"]), [int(length) for length in fields["shape"]]
    except (ValueError, RecursionError, KeyError, TypeError):
        return []
    pairs = list(zip(names, shape, strict=False))
    return list(reversed([(axis, length) for axis, length in pairs if axis not in "YXS"]))


def _samples(description: str) -> int:
    found = re.search(r"<(?:\w+:)?Channel\b[^>]*\bSamplesPerPixel\s*=\s*[\"'](\d{1,4})[\"']", description)
    return max(1, int(found[1])) if found else 1


def _count(text: str) -> int:
    return int(text) if text.strip().isdecimal() and len(text) < 10 else 1


def _place(file: Reader, axes: dict[str, int], at: Mapping[str, int]) -> dict[str, int]:
    """Find the place along every axis that is not the channels'."""
    place = {}
    for axis, length in axes.items():
        given = at.get(axis.lower())
        if axis == "C" or (length == 1 and given is None):
            continue
        if given is None or not 0 <= given < length:
            got = f"{length} places along {axis.lower()}" + ("" if given is None else f", at={dict(at)}")
            fix = f"Pass at={{{axis.lower()!r}: 0}} to at={{{axis.lower()!r}: {length - 1}}}."
            raise file.bad("hold one plane", got, fix)
        place[axis] = given
    return place


def _ome_order(description: str, axes: list[tuple[str, int]]) -> dict[tuple[int, int, int], int]:
    """Map (c, z, t) to the page where the metadata puts it; what it leaves out stands in order."""
    order: dict[tuple[int, int, int], int] = {}
    for block in _TIFFDATA.findall(description):
        known = dict(_ATTRIBUTE.findall(block))
        if "IFD" not in known:
            continue
        first = {
            axis: _count(known.get(f"First{axis}", "0")) if f"First{axis}" in known else 0 for axis in "CZT"
        }
        for step in range(min(_count(known.get("PlaneCount", "1")), math.prod(n for _, n in axes))):
            where, left = dict(first), step
            for axis, length in axes:
                left, where[axis] = divmod(left + where.get(axis, 0), length)
            key = (where.get("C", 0), where.get("Z", 0), where.get("T", 0))
            order[key] = (_count(known["IFD"]) if known["IFD"] != "0" else 0) + step
    return order


def levels_of(
    file: Reader, tiff: tifffile.TiffFile, known: list[Page], page: tifffile.TiffPage
) -> list[tifffile.TiffPage]:
    """List a page and its smaller copies, from large to small."""
    if page.subifds:
        copies = [_sub_page(file, page, index) for index in range(len(page.subifds))]
    else:
        copies = []
        for following in known[page.index + 1 :]:
            if not following.extra:
                break
            copies.append(tiff.pages[following.index].aspage())
    levels = [page]
    for copy in copies:
        down, across = page.imagelength / max(1, copy.imagelength), page.imagewidth / max(1, copy.imagewidth)
        slack = _SAME_VIEW + 1 / max(1, min(copy.imagelength, copy.imagewidth))
        if copy.imagelength < levels[-1].imagelength and abs(down / across - 1) <= slack:
            levels.append(copy)
    return levels


def _sub_page(file: Reader, page: tifffile.TiffPage, index: int) -> tifffile.TiffPage:
    offset = 0 if page.subifds is None else page.subifds[index]
    if page.pages is None or not 0 < offset < file.size:
        raise file.damaged(f"a smaller copy at byte {offset}")
    return page.pages[index].aspage()
