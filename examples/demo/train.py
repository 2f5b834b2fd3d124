"""Train the demo model of the package: plasma cells of generated smears.

    python examples/demo/train.py [--output tiledseg/models/shipped/demo] [--images 160] [--epochs 40]

`tiledseg.samples` generates all images, so the bundle has the licence of the package, Apache-2.0.
It is scored on smears of full size with other seeds.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import tiledseg as ts
from tiledseg.cli.demo import training_settings
from tiledseg.data import Pair
from tiledseg.samples import smear

FIELD = (1024, 1280)  # px of a training image, at the magnification of a whole smear
CELL_PX = (250.0, 400.0)
FIRST_SEED = 500_000  # far from the seeds of the images in the demo
UNSEEN_SEED = 900_000


def main() -> int:
    """Generate images, train, score, save."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    pairs = smears(options.images + options.images // 8, FIRST_SEED, FIELD)
    with tempfile.TemporaryDirectory() as runs:
        settings = training_settings(0, options.epochs, runs).changed(steps_per_epoch=48)
        trained = ts.Trainer(settings).fit(pairs[: options.images], pairs[options.images :])
        print(ts.Evaluator().evaluate(trained.segmenter, smears(8, UNSEEN_SEED, (1920, 2560))))
        print(trained.segmenter.save(options.output, overwrite=True))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("tiledseg/models/shipped/demo"), help="the bundle's folder"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=160,
        help="number of training images; an eighth of it are validation images",
    )
    parser.add_argument("--epochs", type=int, default=40)
    return parser.parse_args()


def smears(count: int, first_seed: int, shape: tuple[int, int]) -> list[Pair]:
    """Generate images with their masks."""
    made = (smear(*shape, seed=seed, cell_px=CELL_PX) for seed in range(first_seed, first_seed + count))
    return [Pair(f"smear {number}", one.image, one.mask) for number, one in enumerate(made)]


if __name__ == "__main__":
    raise SystemExit(main())
