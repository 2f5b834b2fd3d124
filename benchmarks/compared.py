"""All architectures on real smears: similar numbers of operations, the same training time, one table.

What: each architecture at a width with about the GFLOP of a U-Net of 5 levels and 16 filters,
trained from scratch for the same processor time on the thumbnails of SegPC-2021 at 0.1 of the
originals' size, and scored on held-out slides (mean Dice with its 95 % bootstrap interval over
images) and on the six originals of the other camera. How: settings, crops and augmentation of
``examples/segpc/train.py``, a constant learning rate, a running average of the weights. The clock
counts the seconds of both cores together, so that other work on the machine changes little, and
starts after the first step, which compiles. Seconds per image are processor time as well, for an
original of 2560 x 1920 px, the least of three. One run each, one seed: differences within the
intervals mean nothing.

    python -m benchmarks.compared --data FOLDER [--seconds 1500] [name ...]

This takes the given seconds for each of the twelve, and about a third more.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras

import tiledseg as ts
from benchmarks._flops import gflop
from tiledseg.config import ConstantConfig
from tiledseg.data import find_pairs
from tiledseg.io import read_image
from tiledseg.models import build_model

CONTENDERS: dict[str, dict[str, Any]] = {
    "unet": {"levels": 5, "base_filters": 16, "base_kernel": 3},
    "attention_unet": {"levels": 5, "base_filters": 16},
    "multires_unet": {"levels": 5, "base_filters": 14},
    "sharp_unet": {"levels": 5, "base_filters": 16, "norm": "batch"},
    "u2net": {"size": "lite", "width": 0.5},
    "unet3plus": {"base_filters": 8, "skip_filters": 8},
    "resenc_unet": {"levels": 5, "base_filters": 10, "norm": "batch"},
    "efficient_unet": {"encoder": "efficientnet-b0"},
    "encoder_unet": {"encoder": "efficientnetv2-b0"},
    "deeplabv3plus": {"encoder": "mobilenetv2", "output_stride": 8},
    "swin_unet": {"patch": 2, "depths": (2, 2, 2), "heads": (2, 4, 8), "embedding": 32},
    "trans_unet": {
        "width": 32,
        "units": (2, 2, 2),
        "hidden": 192,
        "layers": 4,
        "heads": 4,
        "mlp": 768,
        "decoder_filters": (64, 32, 16, 8),
    },
}
_TILE = (192, 256)  # an original at a tenth of its size
_PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
_BEGIN, _END = "<!-- compared: begin -->", "<!-- compared: end -->"
_TEXT = """\
## On real smears, in the same time

Each architecture has a width at which it needs about as many operations as a U-Net of 5 levels and 16
filters. It was trained from scratch for {seconds:.0f} seconds of processor time on thumbnails of stained
bone-marrow smears (SegPC-2021, see `examples/segpc`) at a tenth of the originals' size. It was scored on
held-out slides, with 95 % bootstrap intervals over images, and on the six originals of another camera.
There is one run with one seed for each, of minutes and not of hours: the table shows which network learns
most in little time, not which is best after long training. Differences within the intervals mean nothing.
The last column is processor time, all cores together, for one original of 2560 x 1920 px.

In so few steps the deep encoders of `efficient_unet` and `deeplabv3plus` learn almost nothing from scratch.
They are meant to start from pretrained weights: [plasma cells](plasma.md) shows what these change.

`python -m benchmarks.compared --data FOLDER --seconds {seconds:.0f} --write` measures again.
"""
_HEAD = (
    "| architecture | parameters | GFLOP | steps | Dice, held-out slides | Dice, six originals "
    "| s per image |\n|---|---|---|---|---|---|---|"
)


class _Clock(keras.callbacks.Callback):
    """Ends the training when its processor time is used up."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds, self._end, self.steps = seconds, float("inf"), 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        if self.steps == 0:
            self._end = time.process_time() + self._seconds
        self.steps += 1
        if time.process_time() > self._end:
            self.model.stop_training = True


def main() -> int:
    """Train and score all, or the named ones; write the table if it is complete."""
    options = _options()
    segpc, data = _example(), Path(options.data)
    segpc.ORIGINAL_SCALE = 0.1
    train, valid = segpc.by_slide(data / "letterbox_512")
    originals = find_pairs(data / "full_2560x1920" / "images", data / "full_2560x1920" / "masks")
    results: dict[str, dict[str, Any]] = json.loads(options.keep.read_text()) if options.keep.exists() else {}
    for name in options.names or list(CONTENDERS):
        if name in results:
            continue
        with tempfile.TemporaryDirectory() as runs:
            segmenter, steps = _trained(segpc, name, options.seconds, (train, valid), Path(runs))
        scores = ts.Evaluator().evaluate(segmenter, valid)
        segmenter = segpc.for_originals(segmenter)
        unseen = ts.Evaluator().evaluate(segmenter, originals)
        interval = scores.intervals()["dice_mean"]
        results[name] = {
            "parameters": segmenter.network.count_params(),
            "gflop": _gflop(name),
            "steps": steps,
            "dice": scores.summary()["dice_mean"],
            "low": interval.low,
            "high": interval.high,
            "originals": unseen.summary()["dice_mean"],
            "seconds": _seconds(segmenter, read_image(originals[0].image)),
        }
        keras.backend.clear_session()
        options.keep.parent.mkdir(parents=True, exist_ok=True)
        options.keep.write_text(json.dumps(results, indent=1))
        print(name, results[name], flush=True)
    table = "\n".join([_HEAD, *(_line(name, results[name]) for name in CONTENDERS if name in results)])
    print(table)
    if options.write:
        text = _PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(_BEGIN)
        _PAGE.write_text(
            f"{before}{_BEGIN}\n{_TEXT.format(seconds=options.seconds)}\n{table}\n{_END}{rest.partition(_END)[2]}",
            encoding="utf-8",
        )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compared",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = os.environ.get("TILEDSEG_DATA")
    parser.add_argument("names", nargs="*", metavar="name", help=f"all, or some of {', '.join(CONTENDERS)}")
    parser.add_argument("--data", default=data, required=data is None, help="folder of the images")
    parser.add_argument("--seconds", type=float, default=1500.0, help="processor time to train each for")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("benchmarks/results/compared.json"),
        help="what is done stands here, and is not done again",
    )
    parser.add_argument("--write", action="store_true", help="write the table into docs/architectures.md")
    return parser.parse_args()


def _example() -> Any:
    """Load the example, whose settings are used for all."""
    path = Path(__file__).parents[1] / "examples" / "segpc" / "train.py"
    spec = importlib.util.spec_from_file_location("segpc_train", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _network(name: str, input_shape: tuple[int | None, int | None, int]) -> dict[str, Any]:
    return {"name": name, "input_shape": input_shape, **CONTENDERS[name]}


def _trained(
    segpc: Any, name: str, seconds: float, pairs: tuple[Any, Any], runs: Path
) -> tuple[ts.Segmenter, int]:
    base = segpc.training(1, 10_000_000, runs)
    # Fixed sizes for all, since not every architecture takes any: crops as large as a whole image.
    settings = base.model_dump() | {
        "network": _network(name, (*_TILE, 3)),
        "crop_size": _TILE,
        "tiling": ts.TilingConfig(tile_size=_TILE, overlap=0),
        "batch_size": 4,
        "learning_rate": 1e-3,
        "schedule": ConstantConfig(warmup_epochs=0),
        "ema": 0.99,
    }
    clock = _Clock(seconds)
    result = ts.Trainer(ts.TrainConfig(**settings)).fit(*pairs, progress=False, callbacks=[clock])
    return result.segmenter, clock.steps


def _gflop(name: str) -> float:
    return gflop(build_model(_network(name, (512, 512, 3))), 512)


def _seconds(segmenter: ts.Segmenter, image: Any) -> float:
    """Return the processor time for one original, all cores together."""
    taken = []
    for _ in range(4):  # the first one compiles
        started = time.process_time()
        ts.tiled_predict(segmenter, image)
        taken.append(time.process_time() - started)
    return min(taken[1:])


def _line(name: str, one: dict[str, Any]) -> str:
    return (
        f"| `{name}` | {one['parameters'] / 1e6:.2f} M | {one['gflop']:.1f} | {one['steps']} "
        f"| {one['dice']:.3f} ({one['low']:.3f} to {one['high']:.3f}) | {one['originals']:.3f} "
        f"| {one['seconds']:.2f} |"
    )


if __name__ == "__main__":
    raise SystemExit(main())
