"""One network over one image: this project, other libraries, the bare engines and the lower limit.

What: a generated smear of 2560 x 1920 px through the founding network (8 levels, 9 px kernels,
125 million parameters) and through one of 5 levels and 3 px kernels, random weights, the same in
all: 512 px tiles, 64 px of overlap, gaussian, one tile per call. MONAI runs the network rebuilt
in PyTorch, checked against Keras; medic-ai runs the Keras network; the founding experiment's method
is 20 crops with 64 px of margin, resized to 512 px, and the whole image, with ``model.predict`` for
each. The bare engine is called on tiles that were cut beforehand, and its outputs are discarded.
``auto`` takes the tile with which the fewest px are computed, for the network built for any size.
How: in a fresh process per network, each once to warm up (compiling and converting are not timed),
then in turn, five rounds, medians; a ratio is the median of the rounds' ratios. Beside each time: the
largest difference from the whole image run as one tile by Keras, and the Dice coefficient of both
masks, thresholded at the median of the whole map. The lower limit is the time for the FLOP of the
image's px at the best rate that the engine reaches, with 3 x 3 px convolutions of 256 channels.
Targets: those of the table. Targets for ratios to other libraries are for the ``auto`` tile; ratios
with the same tiles as theirs are listed too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._clock import ratios, take_turns
from benchmarks._fresh import call_fresh
from benchmarks._methods import Methods, flop_rate
from benchmarks._rows import Row, of_samples
from tiledseg import UNetConfig
from tiledseg.samples import smear

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray

__all__ = ["measure", "run"]

_NETWORKS = {
    "founding network": UNetConfig(),
    "5 levels, 3 px": UNetConfig(levels=5, base_kernel=3),
}
_KERAS, _F32, _BF16 = "tiled_predict, Keras", "tiled_predict, OpenVINO f32", "tiled_predict, OpenVINO bf16"
_AUTO_F32, _AUTO_BF16 = "auto tile, OpenVINO f32", "auto tile, OpenVINO bf16"
_FOUNDING, _MONAI, _MEDICAI = "the founding experiment's method", "MONAI, PyTorch", "medic-ai, Keras"
_BARE_F32, _BARE_BF16 = "bare OpenVINO f32", "bare OpenVINO bf16"
_BARE_KERAS, _ONE_BY_ONE = "bare calls of a tf.function", "model.predict, tile by tile"
_AT_LEAST = {
    (_FOUNDING, _AUTO_F32): 1.5,
    (_FOUNDING, _AUTO_BF16): 3.0,
    (_MONAI, _AUTO_F32): 2.2,
    (_MONAI, _AUTO_BF16): 4.5,
    (_MEDICAI, _AUTO_F32): 1.8,
    (_FOUNDING, _F32): None,
    (_FOUNDING, _BF16): None,
    (_MONAI, _F32): None,
    (_MONAI, _BF16): None,
    (_MEDICAI, _F32): None,
    (_ONE_BY_ONE, _KERAS): None,
}
_AT_MOST = {(_F32, _BARE_F32): 1.03, (_BF16, _BARE_BF16): 1.03, (_KERAS, _BARE_KERAS): 1.05}
_AIM = 1.15
_SILENT = {"TQDM_DISABLE": "1"}  # medic-ai's progress bars


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    rows = []
    for name in _NETWORKS:
        rows += [
            Row.from_dict(row)
            for row in call_fresh("benchmarks.fast:measure", _SILENT, name=name, quick=quick)
        ]
    return rows


def measure(name: str, *, quick: bool) -> list[Row]:
    """Measure with one network, in the process that this module is loaded into."""
    config = _NETWORKS[name].changed(base_filters=2, input_shape=(128, 128, 3)) if quick else _NETWORKS[name]
    image = smear(384, 512) if quick else smear(1920, 2560)
    methods = Methods(config, image.image.astype(np.float32) / 255)
    contenders: dict[str, Callable[[], AnyArray | None]] = {
        _FOUNDING: methods.founding,
        _MONAI: methods.monai,
        _MEDICAI: methods.medicai,
        _ONE_BY_ONE: methods.one_by_one,
        _BARE_KERAS: methods.bare_keras,
        _KERAS: lambda: methods.ours("keras"),
        _BARE_F32: lambda: methods.bare("f32"),
        _F32: lambda: methods.ours("openvino"),
        _BARE_BF16: lambda: methods.bare("bf16"),
        _BF16: lambda: methods.ours("openvino", "bf16"),
        _AUTO_F32: lambda: methods.ours_auto("f32"),
        _AUTO_BF16: lambda: methods.ours_auto("bf16"),
    }
    whole = methods.whole()
    agreement = {what: _agreement(run(), whole) for what, run in contenders.items()}
    times = take_turns(contenders, 1 if quick else 5)
    limits = {precision: _lower_limit(methods, precision) for precision in ("f32", "bf16")}
    rows = [of_samples(f"{name}: {what}", times[what], "s", beside=agreement[what]) for what in contenders]
    rows += [
        of_samples(f"{name}: {slow} over {fast}", ratios(times[slow], times[fast]), "times", at_least=target)
        for (slow, fast), target in _AT_LEAST.items()
    ]
    rows += [
        of_samples(f"{name}: {ours} over {bare}", ratios(times[ours], times[bare]), at_most=target)
        for (ours, bare), target in _AT_MOST.items()
    ]
    for what, precision in ((_AUTO_F32, "f32"), (_F32, "f32"), (_AUTO_BF16, "bf16"), (_BF16, "bf16")):
        over = [seconds / limits[precision] for seconds in times[what]]
        aim = _AIM if what.startswith("auto") else None
        rows.append(of_samples(f"{name}: {what} over the lower limit", over, at_most=aim))
    return rows


def _agreement(found: AnyArray | None, whole: FloatArray) -> str:
    """Describe how far a map is from that of the whole image, and how well their masks agree."""
    if found is None:
        return ""
    cut = float(np.median(whole))
    one, other = found >= cut, whole >= cut
    dice = 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))
    return f"{np.abs(found - whole).max():.1e} from the whole image, Dice {dice:.4f}"


def _lower_limit(methods: Methods, precision: str) -> float:
    """Return the seconds that the image's px take at the engine's best rate."""

    def timed(run: Callable[[], object]) -> float:
        times = []
        for _ in range(7):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return min(times)

    height, width, _ = methods.image.shape
    return 2 * methods.products_per_px * height * width / flop_rate(precision, timed)
