"""The cost and the receptive field of each architecture: the table of docs/architectures.md.

What: the default settings of every architecture, 512 x 512 px, three channels, one class, random
weights: parameters, GFLOP per tile, total stride, receptive field, whether tiling can be exact, and
processor seconds per tile. How: parameters, stride and receptive field are read from the graph as
`plan` reads them; operations are counted on the traced graph, two for each multiplication with its
addition; seconds are processor time, all cores together, which a busy machine changes little: the
median of up to three calls of one tile, compiled before. ``python -m benchmarks.architectures [name
...]`` writes the rows of all, or of some, into the page, between its two markers.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks._flops import gflop
from benchmarks._rows import Row, of_samples
from tiledseg.config import NetworkConfig, TilingConfig
from tiledseg.engine import Network
from tiledseg.errors import SettingError
from tiledseg.models import build_model
from tiledseg.predict import plan

__all__ = ["run"]

_SIZE, _ROUNDS, _PATIENCE = 512, 3, 5.0
_PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
_HEAD = "| `name` | paper | parameters, 10⁶ | GFLOP | stride, px | receptive field | exact tiling | s |"
_RULE = "|---|---|---|---|---|---|---|---|"
_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure all architectures; only the first one if `quick`."""
    return [row for name, kind in list(_kinds().items())[: 1 if quick else None] for row in _rows(name, kind)]


def _kinds() -> dict[str, Any]:
    return {kind.model_fields["name"].default: kind for kind in get_args(get_args(NetworkConfig)[0])}


def _rows(name: str, kind: Any) -> list[Row]:
    network = build_model(kind(input_shape=(_SIZE, _SIZE, 3)))
    predictor = Network.of(network)
    return [
        Row(f"{name}: parameters", network.count_params()),
        Row(f"{name}: GFLOP per tile", gflop(network, _SIZE), "GFLOP"),
        Row(f"{name}: total stride", predictor.stride[0], "px"),
        Row(f"{name}: least overlap that is exact", _overlap(network), "px"),
        Row(
            f"{name}: receptive field",
            _field(predictor),
            "px",
            note=", ".join(predictor.receptive_field.tile_dependent[:1]),
        ),
        of_samples(f"{name}: one tile", _seconds(predictor), "s"),
    ]


def _field(predictor: Any) -> float:
    """Return the side of the receptive field in px; infinite if it is the whole tile."""
    field = predictor.receptive_field.extent
    return sum(field[0]) + 1 if field else float("inf")


def _overlap(network: Any) -> float:
    """Return the overlap with which tiled equals whole; infinite if none does with tiles of this size."""
    exact = TilingConfig(tile_size=_SIZE, overlap="exact")
    try:
        return plan(network, (4 * _SIZE, 4 * _SIZE), exact).grid.y.overlap
    except SettingError:
        return float("inf")


def _seconds(predictor: Any) -> list[float]:
    tile = np.random.default_rng(0).random((1, _SIZE, _SIZE, 3), dtype=np.float32)
    predictor(tile)
    samples: list[float] = []
    while len(samples) < _ROUNDS and sum(samples) < _PATIENCE:
        started = time.process_time()
        predictor(tile)
        samples.append(time.process_time() - started)
    return samples


def _line(name: str, kind: Any) -> str:
    count, flop, stride, overlap, sees, seconds = _rows(name, kind)
    numbers = re.findall(r"arXiv ([\d.]+\d)", kind.__doc__)
    papers = ", ".join(f"[{one}](https://arxiv.org/abs/{one})" for one in numbers)
    whole = sees.value == float("inf")
    field = f"whole tile ({sees.note.split(' ')[0]})" if whole else f"{sees.value:.0f} px"
    larger = "no" if whole else "only larger tiles"
    exact = larger if overlap.value == float("inf") else f"{overlap.value:.0f} px of overlap"
    return (
        f"| `{name}` | {papers} | {count.value / 1e6:.2f} | {flop.value:.1f} | {stride.value:.0f} | {field} "
        f"| {exact} | {statistics.median(seconds.samples):.2f} |"
    )


def _main() -> None:
    kinds = _kinds()
    for name in sys.argv[1:] or kinds:
        line = _line(name, kinds[name])
        print(line, file=sys.stderr, flush=True)
        before, rest = _PAGE.read_text().split(_BEGIN)
        table, after = rest.split(_END)
        known = {row.split("`")[1]: row for row in table.splitlines()[3:]} | {name: line}
        lines = [_HEAD, _RULE, *(known[one] for one in kinds if one in known)]
        _PAGE.write_text("\n".join([f"{before}{_BEGIN}", *lines, f"{_END}{after}"]))


if __name__ == "__main__":
    _main()
