"""One network over one image: this project, other libraries, the bare engines and the lower limit.

What: a generated smear of 2560 x 1920 px through the founding network (8 levels, 9 px kernels,
125 million parameters) and through one of 5 levels and 3 px kernels, random weights, the same in
all: 512 px tiles, 64 px of overlap, gaussian, one tile per call. MONAI runs the network rebuilt
in PyTorch; medic-ai runs the Keras network; the founding experiment's method is 20 crops with 64 px of
margin, resized to 512 px, and the whole image, with ``model.predict`` for each. ``auto`` takes the tile
with which the fewest px are computed, for the network built for any size.
How: each in a process of its own, one after the other: threads of one library that wait for work slow the
others down. Each is warmed up (on one tile; ``auto`` on the image) and then timed once, 3 times with the
smaller network, by the clock and by processor time, which other programs change less. Beside each time: the
largest difference from the whole image run as one tile by Keras, and the Dice coefficient of both masks,
thresholded at the median of the whole map. The lower limit is the time for the FLOP of the image's px at the
best rate that the engine reaches, with 3 x 3 px convolutions of 256 channels, in the process of ``auto``.
Over bare calls: `tiled_predict` and the engine alone on tiles of the whole image that were cut beforehand, in
turn in one process, 3 rounds, 9 with the smaller network: with ``auto``, by which the image is one tile, and
with the smaller network also in 512 px tiles. Targets: those of the table.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._clock import timed
from benchmarks._fresh import call_fresh
from benchmarks._methods import Methods, flop_rate, products_per_px
from benchmarks._rows import Row, of_samples
from tiledseg import UNetConfig
from tiledseg.samples import smear

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray

__all__ = ["overhead", "run", "times", "whole"]

_SMALLER = "5 levels, 3 px"
_NETWORKS = {
    "founding network": (UNetConfig(), 1),
    _SMALLER: (UNetConfig(levels=5, base_kernel=3), 3),
}
_AUTO_F32, _AUTO_BF16 = "auto tile, OpenVINO f32", "auto tile, OpenVINO bf16"
_FOUNDING, _MONAI, _MEDICAI = "the founding experiment's method", "MONAI, PyTorch", "medic-ai, Keras"
_CONTENDERS: dict[str, Callable[[Methods, FloatArray], AnyArray]] = {
    _FOUNDING: lambda methods, image: methods.founding(image),
    _MONAI: lambda methods, image: methods.monai(image),
    _MEDICAI: lambda methods, image: methods.medicai(image),
    "512 px tiles, Keras": lambda methods, image: methods.ours(image, "keras"),
    "512 px tiles, OpenVINO f32": lambda methods, image: methods.ours(image, "openvino"),
    "512 px tiles, OpenVINO bf16": lambda methods, image: methods.ours(image, "openvino", "bf16"),
    _AUTO_F32: lambda methods, image: methods.auto(image, "f32"),
    _AUTO_BF16: lambda methods, image: methods.auto(image, "bf16"),
}
_AUTO = {_AUTO_F32: "f32", _AUTO_BF16: "bf16"}
_AT_LEAST = {
    (_FOUNDING, _AUTO_F32): 1.8,
    (_FOUNDING, _AUTO_BF16): 3.7,
    (_MONAI, _AUTO_F32): 2.2,
    (_MONAI, _AUTO_BF16): 4.4,
    (_MEDICAI, _AUTO_F32): 1.8,
    (_MEDICAI, _AUTO_BF16): None,
}
_AUTO_TILE, _TILES = "auto tile", "512 px tiles"
_OVER_BARE = {  # by tiling and engine
    (_AUTO_TILE, "OpenVINO f32"): 1.03,
    (_AUTO_TILE, "OpenVINO bf16"): 1.03,
    (_AUTO_TILE, "Keras"): 1.05,
    (_TILES, "OpenVINO f32"): 1.03,
    (_TILES, "OpenVINO bf16"): 1.03,
    (_TILES, "Keras"): 1.05,
}
_OVER_LIMIT = 1.15
_SILENT = {"TQDM_DISABLE": "1"}  # medic-ai's progress bars


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    rows = []
    for name, (_, rounds) in _NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows += _network(name, Path(folder, "whole.npy"), 1 if quick else rounds, quick=quick)
    return rows


def _network(name: str, whole: Path, rounds: int, *, quick: bool) -> list[Row]:
    options = {"name": name, "whole_map": str(whole), "quick": quick}
    call_fresh("benchmarks.fast:whole", _SILENT, **options)
    found: dict[str, dict[str, Any]] = {}
    for what in _CONTENDERS:
        found[what] = call_fresh("benchmarks.fast:times", _SILENT, what=what, rounds=rounds, **options)
    rows = []
    for place, clock in enumerate(("", ", processor time")):
        seconds = {what: [one[place] for one in result["times"]] for what, result in found.items()}
        medians = {what: statistics.median(samples) for what, samples in seconds.items()}
        rows += [
            of_samples(f"{name}: {what}{clock}", seconds[what], "s", beside=found[what]["beside"])
            for what in _CONTENDERS
        ]
        rows += [
            Row(f"{name}: {slow} over {fast}{clock}", medians[slow] / medians[fast], "times", at_least=target)
            for (slow, fast), target in _AT_LEAST.items()
        ]
        rows += [
            Row(
                f"{name}: {what} over the lower limit{clock}",
                medians[what] / found[what]["limit"][place],
                at_most=_OVER_LIMIT,
            )
            for what in _AUTO
        ]
    return rows + _over_bare(name, quick=quick)


def _over_bare(name: str, *, quick: bool) -> list[Row]:
    rows = []
    for (tiling, engine), target in _OVER_BARE.items():
        if tiling == _TILES and name != _SMALLER:
            continue  # its calls are longer, and the share is smaller
        options = {"name": name, "engine": engine, "auto": tiling == _AUTO_TILE, "quick": quick}
        ratios = call_fresh("benchmarks.fast:overhead", _SILENT, **options)
        rows += [
            of_samples(f"{name}: {tiling}, {engine}, over bare calls{clock}", one, at_most=target)
            for clock, one in zip(("", ", processor time"), ratios, strict=True)
        ]
    return rows


def _prepared(name: str, *, quick: bool) -> tuple[Methods, FloatArray]:
    """Return the network and the image."""
    config, _ = _NETWORKS[name]
    if quick:
        config = config.changed(base_filters=2, input_shape=(128, 128, 3))
    image = smear(384, 512) if quick else smear(1920, 2560)
    return Methods(config), image.image.astype(np.float32) / 255


def whole(name: str, whole_map: str, *, quick: bool) -> None:
    """Store the map of the whole image."""
    methods, image = _prepared(name, quick=quick)
    np.save(whole_map, methods.whole(image))


def times(name: str, what: str, rounds: int, whole_map: str, *, quick: bool) -> dict[str, Any]:
    """Time one contender, by the clock and by processor time."""
    methods, image = _prepared(name, quick=quick)
    contender = _CONTENDERS[what]
    contender(methods, image if what in _AUTO else image[: methods.tile, : methods.tile])
    measured = [timed(lambda: contender(methods, image)) for _ in range(rounds)]
    beside = _agreement(measured[0][2], np.load(whole_map))
    limit = _lower_limit(methods, image, _AUTO[what]) if what in _AUTO else None
    return {"times": [one[:2] for one in measured], "beside": beside, "limit": limit}


def overhead(name: str, engine: str, *, auto: bool, quick: bool) -> tuple[list[float], list[float]]:
    """Return the times of `tiled_predict` over those of the engine alone on the same tiles."""
    methods, image = _prepared(name, quick=quick)
    count = 2 if quick else 1 + 3 * _NETWORKS[name][1]
    kind, _, stated = engine.lower().partition(" ")
    precision: Any = stated or "f32"
    bare = methods.bare(image, kind, precision, auto=auto)  # type: ignore[arg-type]

    def predict() -> AnyArray:
        if auto:
            return methods.auto(image, precision, kind)  # type: ignore[arg-type]
        return methods.ours(image, kind, precision)  # type: ignore[arg-type]

    rounds = []
    for _ in range(count):
        alone = timed(bare)
        ours = timed(predict)
        rounds.append((ours[0] / alone[0], ours[1] / alone[1]))
    walls, cpus = zip(*rounds[1:], strict=True)  # the first compiles
    return list(walls), list(cpus)


def _agreement(found: AnyArray, whole: FloatArray) -> str:
    """Describe how far a map is from that of the whole image, and how well their masks agree."""
    cut = float(np.median(whole))
    one, other = found >= cut, whole >= cut
    dice = 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))
    return f"{np.abs(found - whole).max():.1e} from the whole image, Dice {dice:.4f}"


def _lower_limit(methods: Methods, image: FloatArray, precision: Any) -> tuple[float, float]:
    """Return the seconds that the image's px take at the engine's best rate, by both clocks."""
    flop = 2 * products_per_px(methods.free) * image.shape[0] * image.shape[1]
    rates = [
        flop_rate(precision, lambda call, clock=clock: _fastest(call, clock))  # type: ignore[misc]
        for clock in (time.perf_counter, time.process_time)
    ]
    return flop / rates[0], flop / rates[1]


def _fastest(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the shortest of several times of a call."""
    seconds = []
    for _ in range(15):
        started = clock()
        call()
        seconds.append(clock() - started)
    return min(seconds)
