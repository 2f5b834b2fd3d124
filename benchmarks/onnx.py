"""Networks of the libraries of PyTorch, exported to ONNX by both exporters.

What: networks of segmentation_models_pytorch, MONAI, torchvision and nnU-Net with random weights. For each
exported file: the verdict of ``plan``, which must be that of its architecture; where it says exact, an image
of a few tiles is predicted with ``overlap="exact"`` and compared with the whole, run at once by ONNX Runtime
(target: 1e-5 of the largest output). Beside it stands how far MONAI's ``sliding_window_inference`` is from
the whole, with the very network in PyTorch and the same tiles. Then the times: an image of 960 x 1408 px in
6 tiles of 512 px with 64 px of overlap, gaussian, one tile per call, by ``tiled_predict``, by bare calls of
the engine that it took on tiles that were cut beforehand, and by MONAI. How: each network in a process of its
own, each contender once to warm up, then in turn, three rounds; a ratio is the median of the rounds' ratios.
Processor time counts all threads; MONAI's is that on one thread, because PyTorch's threads count while they
wait. Targets: MONAI takes 1.5 times as long for smp's and MONAI's U-Net; at most 1.03 times the bare calls
for all. An exporter that fails, fails with this network: its row says so.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

import tiledseg as ts
from benchmarks._clock import ratios
from benchmarks._clock import timed as _timed
from benchmarks._fresh import call_fresh
from benchmarks._rows import Row, of_samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import FloatArray
    from tiledseg.engine import OnnxNetwork

__all__ = ["compared", "run", "timed"]

_TILE, _OVERLAP = 512, 64
_SHAPE = (960, 1408)
_FEW = ("smp Unet", "MONAI UNet, batch norm", "MONAI UNet")
_FASTER = {"smp Unet": 1.5, "MONAI UNet, batch norm": 1.5}
_OURS, _BARE, _MONAI, _ONE = "tiled_predict", "bare calls", "MONAI, PyTorch", "MONAI, PyTorch, 1 thread"


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    names = call_fresh("benchmarks.onnx:names")
    rows: list[Row] = []
    for name in names if not quick else _FEW:
        files = [_row("compared", name=name, exporter=exporter) for exporter in ("legacy", "dynamo")]
        rows += [row for found in files for row in found]
        rows += _row("timed", name=name, rounds=1 if quick else 3)
    return rows


def names() -> list[str]:
    """Name the networks; this loads PyTorch."""
    from benchmarks._networks import NETWORKS  # noqa: PLC0415

    return list(NETWORKS)


def _row(function: str, **arguments: Any) -> list[Row]:
    try:
        found = call_fresh(f"benchmarks.onnx:{function}", **arguments)
    except subprocess.CalledProcessError:
        found = [Row(f"{arguments}: failed, see the console", float("nan")).as_dict()]
    print(*(f"{row['what']}: {row['value']:.3g} {row['beside']}" for row in found), sep="\n", file=sys.stderr)
    return [Row.from_dict(row) for row in found]


def _image(height: int, width: int) -> FloatArray:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def _loaded(path: Any) -> OnnxNetwork:
    network: Any = ts.load_model(path)
    return network


def compared(name: str, exporter: str) -> list[Row]:
    """Compare the verdict of one file with that of its architecture, and tiles with the whole."""
    from benchmarks._networks import NETWORKS, built, exported  # noqa: PLC0415

    warnings.filterwarnings("ignore")
    what = f"{name}, {exporter}"
    try:
        path = exported(name, exporter)
    except Exception as error:  # noqa: BLE001  exporters raise any kind
        return [Row(f"{what}: cannot be exported, {type(error).__name__}", float("nan"))]
    network = _loaded(path)
    stated = NETWORKS[name][0]
    exact = stated == "exact"
    tile, overlap = _tiling(network) if exact else (_TILE, _OVERLAP)
    size = tile + (tile - (overlap if overlap != "exact" else 0) if not exact else 4 * network.stride[0])
    image = _image(size, size)
    tiling = {"tile_size": tile, "overlap": overlap}
    plan = ts.plan(network, image, tiling)
    whole = _whole(network, image)
    scale = float(np.abs(whole).max())
    ours = float(np.abs(ts.tiled_predict(network, image, tiling) - whole).max()) / scale
    monai = float(np.abs(_by_monai(built(name), image, tile)() - whole).max()) / scale
    beside = f"verdict {plan.verdict}; MONAI with the same tiles {monai:.1e}"
    return [
        Row(f"{what}: verdict as by its architecture", float(plan.verdict == stated), at_least=1),
        Row(f"{what}: tiled - whole", ours, "of largest", at_most=1e-5 if exact else None, beside=beside),
    ]


def _tiling(network: OnnxNetwork) -> tuple[int, str]:
    """Return a tile that is somewhat larger than the halo asks for, and the exact overlap."""
    (top, bottom), _ = network.receptive_field.halo or ((0, 0), (0, 0))
    step = network.stride[0]
    return -(-(2 * max(top, bottom) + 3 * step) // step) * step, "exact"


def _session(network: OnnxNetwork) -> Callable[[FloatArray], FloatArray]:
    """Return a bare call of ONNX Runtime for tiles (N, C, h, w)."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(network.file.path), options, ["CPUExecutionProvider"])
    return lambda x: session.run([network.output], {network.file.input.name: x})[0]


def _whole(network: OnnxNetwork, image: FloatArray) -> FloatArray:
    return _session(network)(_first(image))[0].transpose(1, 2, 0)


def _first(image: FloatArray) -> FloatArray:
    return np.ascontiguousarray(image.transpose(2, 0, 1))[np.newaxis]


def _by_monai(
    module: Any, image: FloatArray, tile: int, threads: int | None = None
) -> Callable[[], FloatArray]:
    import torch  # noqa: PLC0415
    from monai.inferers import sliding_window_inference  # noqa: PLC0415

    overlap, all_threads = _OVERLAP / tile, torch.get_num_threads()

    def call() -> FloatArray:
        torch.set_num_threads(threads or all_threads)
        with torch.inference_mode():
            x = torch.from_numpy(_first(image))
            out = sliding_window_inference(x, (tile, tile), 1, module, overlap, mode="gaussian")
        return out[0].numpy().transpose(1, 2, 0)

    return call


def timed(name: str, rounds: int) -> list[Row]:
    """Measure the processor time of one network, by us, by the bare engine and by MONAI."""
    from benchmarks._networks import EXPORTERS, built, exported  # noqa: PLC0415

    warnings.filterwarnings("ignore")
    path = next(path for path in (_exported(exported, name, one) for one in EXPORTERS) if path)
    network, image = _loaded(path), _image(*_SHAPE)
    tiling = {"tile_size": _TILE, "overlap": _OVERLAP, "blend": "gaussian"}
    plan = ts.plan(network, image, tiling, batch_size=1)
    taken = network.by_engine("auto", "f32")
    tiles = [_tile_of(image, plan.tile(number).read_box) for number in range(plan.n_tiles)]
    taken(tiles[0])  # both engines are compared, and one is taken
    engine = taken.engine
    bare = _bare(network, engine)
    batches = [_first(tile[0]) for tile in tiles]

    def calls() -> None:
        for batch in batches:
            bare(batch)

    runtime, module = {"engine": engine}, built(name)
    contenders: dict[str, Callable[[], object]] = {
        _OURS: lambda: ts.tiled_predict(network, image, tiling, batch_size=1, runtime=runtime),
        _BARE: calls,
        _MONAI: _by_monai(module, image, _TILE),
        _ONE: _by_monai(module, image, _TILE, threads=1),
    }
    for call in contenders.values():
        call()
    found = _in_turn(contenders, rounds)
    clock, processor = ({what: [one[place] for one in found[what]] for what in found} for place in (0, 1))
    rows = [of_samples(f"{name}: {what}", clock[what], "s", beside=engine) for what in found]
    rows += [of_samples(f"{name}: {what}, processor time", processor[what], "s") for what in found]
    target = _FASTER.get(name)
    slower, work = ratios(clock[_MONAI], clock[_OURS]), ratios(processor[_ONE], processor[_OURS])
    rows.append(of_samples(f"{name}: {_MONAI} over {_OURS}", slower, "times", at_least=target))
    rows.append(of_samples(f"{name}: the same of processor time, 1 thread", work, "times", at_least=target))
    over = ratios(processor[_OURS], processor[_BARE])
    rows.append(of_samples(f"{name}: {_OURS} over {_BARE}, processor time", over, at_most=1.03))
    return rows


def _in_turn(
    contenders: dict[str, Callable[[], object]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Run each contender once per round; return its seconds of the clock and of the processor."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(_timed(call)[:2])
    return times


def _exported(export: Callable[[str, str], Any], name: str, exporter: str) -> Any:
    try:
        return export(name, exporter)
    except Exception:  # noqa: BLE001  exporters raise any kind
        return None


def _tile_of(image: FloatArray, box: Any) -> FloatArray:
    return image[box.y0 : box.y1, box.x0 : box.x1][np.newaxis]


def _bare(network: OnnxNetwork, engine: str) -> Callable[[FloatArray], object]:
    """Return a bare call of the engine that was taken, as it is set up there."""
    if engine == "onnxruntime":
        return _session(network)
    import openvino  # noqa: PLC0415

    model = openvino.Core().read_model(network.file.path)
    model.reshape({network.file.input.name: [1, 3, _TILE, _TILE]})
    compiled = openvino.compile_model(
        model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda x: compiled([x])[network.output]
