"""Networks of the libraries of PyTorch, exported to ONNX by both exporters.

What: networks of segmentation_models_pytorch, MONAI, torchvision and nnU-Net with random weights. For each
exported file: the verdict of ``plan``, which must be that of its architecture; where it says exact, an
image of a few tiles is predicted with ``overlap="exact"`` and compared with the whole, run at once by the
same engine, ONNX Runtime and OpenVINO (target: 1e-5 of the largest output); of the others a small image is
compared. Beside the times stands how far MONAI's ``sliding_window_inference`` is from the whole, with the
very network in PyTorch and the same tiles. Then the times: an image of 960 x 960 px in 4 tiles of 512 px
with 64 px of overlap, gaussian, by ``tiled_predict``, by bare calls of the engine that it took on tiles that
were cut beforehand (OpenVINO with as many streams), and by MONAI, one tile per call. How: each file and each
measurement of times in a process of its own with a time limit; each contender once to warm up, then in turn,
three rounds; a ratio is the median of the rounds' ratios. The bare calls have fifteen rounds, before PyTorch
is imported; in every other round they are first. Processor time counts all threads; MONAI's is that on one
thread, because PyTorch's threads count while they wait. Targets: MONAI takes 1.5 times as long for smp's
and MONAI's U-Net; at most 1.03 times the bare calls for all. An exporter that fails, fails with this network:
its row says so. ``--only "smp*"`` chooses networks, ``--resume`` takes what an earlier run has finished. All
results are also in ``benchmarks/results/onnx.md``, as a table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from fnmatch import fnmatch
from pathlib import Path
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

__all__ = ["compared", "exported", "run", "timed"]

_RESULTS = Path(__file__).parent / "results" / "onnx"
_FILES = _RESULTS.with_name("networks")  # exports of minutes are kept from run to run
_TILE, _OVERLAP = 512, 64
_SHAPE = (960, 960)
_SMALL = 256  # px of tiles, where no tiling is exact
_MORE = 5  # rounds with the bare calls for each round with MONAI
_LIMIT = 900  # seconds of each process
_FEW = ("smp Unet", "MONAI UNet, batch norm", "MONAI UNet")
_FASTER = {"smp Unet": 1.5, "MONAI UNet, batch norm": 1.5}
_OURS, _BARE, _MONAI, _ONE = "tiled_predict", "bare calls", "MONAI, PyTorch", "MONAI, PyTorch, 1 thread"
_EXPORTERS = ("legacy", "dynamo")
_STATED = {
    "smp Unet": "exact",
    "smp UnetPlusPlus": "exact",
    "smp Linknet": "exact",
    "smp Unet, MobileNetV2": "exact",
    "smp Unet, EfficientNet": "impossible",
    "smp FPN": "impossible",
    "smp DeepLabV3Plus": "impossible",
    "smp Segformer": "impossible",
    "MONAI UNet, batch norm": "exact",
    "MONAI UNet": "impossible",
    "MONAI BasicUNet, batch norm": "exact",
    "MONAI BasicUNet, pixel shuffle": "exact",
    "MONAI SegResNet, batch norm": "exact",
    "MONAI AttentionUnet": "impossible",
    "torchvision FCN": "exact",
    "torchvision DeepLabV3": "impossible",
    "torchvision LR-ASPP": "impossible",
    "nnU-Net plain, batch norm": "exact",
    "nnU-Net residual, batch norm": "exact",
    "nnU-Net plain": "impossible",
}
"""The verdict that each network has by its architecture."""


def run(quick: bool = False, only: str = "*", resume: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure the networks of a pattern, the verdicts before the times."""
    chosen = [name for name in (_STATED if not quick else _FEW) if fnmatch(name, only)]
    if not chosen:
        raise SystemExit(f"no network is called {only!r}; there are {', '.join(_STATED)}")
    jobs = [(name, part) for name in chosen for part in _EXPORTERS]
    jobs += [(name, "times") for name in chosen]
    rows = [row for name, part in jobs for row in _rows(name, part, _found(name, part, quick, resume))]
    _RESULTS.with_suffix(".md").write_text(_table())
    return rows


def _file(name: str, part: str) -> Path:
    return _RESULTS / f"{name.replace(', ', ' ').replace(' ', '_').lower()}_{part}.json"


def _found(name: str, part: str, quick: bool, resume: bool) -> dict[str, Any]:  # noqa: FBT001
    """Measure one part in a process of its own, or take what an earlier run has stored."""
    file = _file(name, part)
    if resume and file.is_file():
        stored: dict[str, Any] = json.loads(file.read_text())
        return stored
    try:
        if part == "times":
            found = call_fresh("benchmarks.onnx:timed", limit=_LIMIT, name=name, rounds=1 if quick else 3)
        else:
            found = call_fresh("benchmarks.onnx:compared", limit=_LIMIT, name=name, exporter=part)
    except subprocess.SubprocessError as error:
        return {"failed": _how(error)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))
    return dict(found)


def _how(error: subprocess.SubprocessError) -> str:
    """Say how a process ended."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"took more than {_LIMIT} s"
    return f"ended with code {getattr(error, 'returncode', '?')}, see the console"


def _rows(name: str, part: str, found: dict[str, Any]) -> list[Row]:
    what = name if part == "times" else f"{name}, {part}"
    if "failed" in found:
        rows = [Row(f"{what}: {found['failed']}", float("nan"))]
    else:
        rows = _of_times(name, found) if part == "times" else _of_verdict(what, found)
    print(
        *(f"{row.what}: {row.value:.3g} {row.beside}" for row in rows), sep="\n", file=sys.stderr, flush=True
    )
    return rows


def _of_verdict(what: str, found: dict[str, Any]) -> list[Row]:
    beside = f"verdict {found['verdict']}, tiles of {found['tile']} px"
    limit = 1e-5 if found["stated"] == "exact" else None
    right = float(found["verdict"] == found["stated"])
    return [
        Row(f"{what}: verdict as by its architecture", right, at_least=1),
        Row(
            f"{what}: tiled - whole, ONNX Runtime", found["ours"], "of largest", at_most=limit, beside=beside
        ),
        Row(f"{what}: tiled - whole, OpenVINO", found["openvino"], "of largest", at_most=limit),
    ]


def _of_times(name: str, found: dict[str, Any]) -> list[Row]:
    clock, processor, engine = found["clock"], found["processor"], found["engine"]
    rows = [of_samples(f"{name}: {what}", clock[what], "s", beside=engine) for what in clock]
    rows += [of_samples(f"{name}: {what}, processor time", processor[what], "s") for what in processor]
    target = _FASTER.get(name)
    slower, work, over = _ratios(found)
    beside = f"tiled_predict with these tiles {found['ours']:.1e}"
    rows.append(Row(f"{name}: MONAI - whole", found["monai"], "of largest", beside=beside))
    rows.append(of_samples(f"{name}: {_MONAI} over {_OURS}", slower, "times", at_least=target))
    rows.append(of_samples(f"{name}: the same of processor time, 1 thread", work, "times", at_least=target))
    rows.append(of_samples(f"{name}: {_OURS} over {_BARE}, processor time", over, at_most=1.03))
    return rows


def _ratios(found: dict[str, Any]) -> tuple[list[float], list[float], list[float]]:
    clock, processor = found["clock"], found["processor"]
    return ratios(clock[_MONAI], clock[_OURS]), ratios(processor[_ONE], processor[_OURS]), found["over"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _table() -> str:
    """Write all results that are stored as a table of Markdown."""
    columns = ["network", "verdict", "tiled - whole", "by OpenVINO", "MONAI - whole"]
    columns += ["MONAI / ours, clock", "the same, processor, 1 thread", "ours / bare calls", "engine"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in _STATED:
        parts = {part: _file(name, part) for part in (*_EXPORTERS, "times")}
        found = {part: json.loads(file.read_text()) for part, file in parts.items() if file.is_file()}
        files = [found.get(part, {"failed": "not run"}) for part in _EXPORTERS]
        cells = [" and ".join(dict.fromkeys(one.get("failed") or one["verdict"] for one in files))]
        apart = [[_number(one.get(engine)) for one in files] for engine in ("ours", "openvino")]
        cells += [", ".join(dict.fromkeys(numbers)) for numbers in apart]
        times = found.get("times", {"failed": ""})
        if "failed" in times:
            cells += ["-"] * 5
        else:
            cells.append(_number(times["monai"]))
            cells += [f"{np.median(one):.2f}" for one in _ratios(times)] + [times["engine"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _image(height: int, width: int) -> FloatArray:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def _loaded(path: Any) -> OnnxNetwork:
    network: Any = ts.load_model(path)
    return network


def exported(name: str, exporter: str) -> Path:
    """Export a network, or take an earlier export; PyTorch is loaded only where it must be."""
    path = _FILES / _file(name, exporter).with_suffix(".onnx").name
    if not path.exists():
        from benchmarks._networks import export  # noqa: PLC0415

        export(name, exporter, path)
    return path


def compared(name: str, exporter: str) -> dict[str, Any]:
    """Compare the verdict of one file with that of its architecture, and tiles with the whole."""
    warnings.filterwarnings("ignore")
    try:
        path = exported(name, exporter)
    except Exception as error:  # noqa: BLE001  exporters raise any kind
        return {"failed": f"cannot be exported, {type(error).__name__}"}
    network = _loaded(path)
    stated = _STATED[name]
    tile, overlap = _tiling(network) if stated == "exact" else (_SMALL, _OVERLAP)
    size = tile + (4 * network.stride[0] if isinstance(overlap, str) else tile - overlap)
    image = _image(size, size)
    tiling = {"tile_size": tile, "overlap": overlap}
    plan = ts.plan(network, image, tiling)
    found = {"stated": stated, "verdict": plan.verdict, "tile": tile}
    for engine, key in (("onnxruntime", "ours"), ("openvino", "openvino")):
        ours = ts.tiled_predict(network, image, tiling, runtime={"engine": engine})
        found[key] = _apart(ours, _whole(network, image, engine))
    return found


def _apart(found: FloatArray, whole: FloatArray) -> float:
    """Return the largest difference, over the largest output."""
    return float(np.abs(found - whole).max() / np.abs(whole).max())


def _tiling(network: OnnxNetwork) -> tuple[int, str]:
    """Return a tile that is somewhat larger than the halo asks for, and the exact overlap."""
    (top, bottom), _ = network.receptive_field.halo or ((0, 0), (0, 0))
    step = network.stride[0]
    return -(-(2 * max(top, bottom) + 3 * step) // step) * step, "exact"


def _session(network: OnnxNetwork) -> Callable[[FloatArray], FloatArray]:
    """Return a bare call of ONNX Runtime for a tile (1, C, h, w)."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(network.file.path), options, ["CPUExecutionProvider"])
    return lambda x: session.run([network.output], {network.file.input.name: x})[0]


def _whole(network: OnnxNetwork, image: FloatArray, engine: str = "onnxruntime") -> FloatArray:
    if engine == "onnxruntime":
        return _session(network)(_first(image))[0].transpose(1, 2, 0)
    call = _compiled(network, image.shape[:2])
    found: FloatArray = call([_first(image)])[network.output]
    return found[0].transpose(1, 2, 0)


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


def timed(name: str, rounds: int) -> dict[str, Any]:
    """Measure the time of one network, by us, by the bare engine and by MONAI."""
    warnings.filterwarnings("ignore")
    path = next(path for path in (_or_none(name, one) for one in _EXPORTERS) if path)
    network, image = _loaded(path), _image(*_SHAPE)
    tiling = {"tile_size": _TILE, "overlap": _OVERLAP, "blend": "gaussian"}
    plan = ts.plan(network, image, tiling)
    taken = network.by_engine("auto", "f32")
    tiles = [_tile_of(image, plan.tile(number).read_box) for number in range(plan.n_tiles)]
    taken(np.concatenate(tiles[: plan.batch_size]))  # both engines are compared, and one is taken
    engine = taken.engine
    batches = [_first(tile[0]) for tile in tiles]
    calls = _bare(network, engine, batches, plan.batch_size)
    own: dict[str, Callable[[], object]] = {
        _OURS: lambda: ts.tiled_predict(network, image, tiling, runtime={"engine": engine}),
        _BARE: calls,
    }
    over = _over_bare(own, rounds * _MORE)  # before PyTorch is there, whose threads and memory change it
    from benchmarks._networks import built  # noqa: PLC0415

    module = built(name)
    others = {_MONAI: _by_monai(module, image, _TILE), _ONE: _by_monai(module, image, _TILE, threads=1)}
    maps = [one() for one in (own[_OURS], others[_MONAI])]  # this warms up as well
    whole = _whole(network, image)
    ours, monai = (_apart(np.asarray(one), whole) for one in maps)
    found = _in_turn({_OURS: own[_OURS], **others}, rounds)
    clock, processor = ({what: [one[place] for one in found[what]] for what in found} for place in (0, 1))
    return {
        "engine": engine,
        "ours": ours,
        "monai": monai,
        "clock": clock,
        "processor": processor,
        "over": over,
    }


def _over_bare(own: dict[str, Callable[[], object]], rounds: int) -> list[float]:
    """Return the processor time of predictions over that of bare calls, which are first every other time."""
    for call in own.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in own}
    for number in range(rounds):
        for name in list(own)[:: 1 if number % 2 else -1]:
            times[name].append(_timed(own[name])[1])
    return ratios(times[_OURS], times[_BARE])


def _in_turn(
    contenders: dict[str, Callable[[], object]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Run each contender once per round; return its seconds of the clock and of the processor."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(_timed(call)[:2])
    return times


def _or_none(name: str, exporter: str) -> Path | None:
    try:
        return exported(name, exporter)
    except Exception:  # noqa: BLE001  exporters raise any kind
        return None


def _tile_of(image: FloatArray, box: Any) -> FloatArray:
    return image[box.y0 : box.y1, box.x0 : box.x1][np.newaxis]


def _compiled(network: OnnxNetwork, size: tuple[int, ...], **hints: Any) -> Any:
    """Compile with OpenVINO for one tile per call."""
    import openvino  # noqa: PLC0415

    model = openvino.Core().read_model(network.file.path)
    model.reshape({network.file.input.name: [1, 3, *size]})
    hints = hints or {"PERFORMANCE_HINT": "LATENCY"}
    return openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **hints})


def _bare(network: OnnxNetwork, engine: str, tiles: list[FloatArray], at_once: int) -> Callable[[], None]:
    """Return bare calls of the engine that was taken, as it is set up there."""
    if engine == "onnxruntime":
        call = _session(network)

        def one_by_one() -> None:
            for tile in tiles:
                call(tile)

        return one_by_one
    import openvino  # noqa: PLC0415

    hints = {"NUM_STREAMS": at_once, "ENABLE_CPU_PINNING": False} if at_once > 1 else {}
    queue = openvino.AsyncInferQueue(_compiled(network, (_TILE, _TILE), **hints), at_once)

    def calls() -> None:
        for tile in tiles:
            queue.start_async({0: tile}, share_inputs=True)
        queue.wait_all()

    return calls
