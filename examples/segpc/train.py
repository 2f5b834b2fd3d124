"""Plasma cells in whole bone-marrow smears: train on thumbnails, predict originals at their own size.

The SegPC-2021 images (see the README beside this file for layout, source and licence) are
2560 x 1920 and 2040 x 1536 px; cells are 250 to 500 px across, so that a network sees more of
them in a shrunk image. This script trains a small U-Net at a tenth of the originals' size,
predicts the full-resolution images at their own size, scores them beside the predictions that
the founding experiment published, and draws overlays to look at.

    python examples/segpc/train.py --data FOLDER [--output runs/segpc] [--epochs 22]
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import keras

import tiledseg as ts
from tiledseg.config import PreprocessingConfig
from tiledseg.data import Pair, find_pairs
from tiledseg.evaluate import ScoredImage, score_map
from tiledseg.io import read_image, read_mask, write_image
from tiledseg.render import overlay

if TYPE_CHECKING:
    from tiledseg.evaluate import EvaluationResult, ImageScores

ORIGINAL_SCALE = 0.1  # of the originals: what the network sees
THUMBNAIL_SCALE = 0.2  # of the originals: what the thumbnails are
CONTENT = slice(64, 448)  # rows of a 512 x 512 thumbnail that hold the image; the others are padding
PEAK = 1e-3  # learning rate at the start; it falls to nothing along a cosine
FOUNDING_TILE = 512  # px: the published predictions have tile borders at its multiples


def main() -> int:
    """Train, predict, score, draw."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    data, output = Path(options.data), Path(options.output)
    train, valid = (thumbnails(data / "letterbox_512" / part) for part in ("train", "valid"))
    print(f"{len(train)} images to train on, {len(valid)} to choose the best epoch by")
    started = time.perf_counter()
    cosine = keras.optimizers.schedules.CosineDecay(PEAK, options.epochs)
    slower = keras.callbacks.LearningRateScheduler(lambda epoch: float(cosine(epoch)))
    result = ts.Trainer(training(options.epochs, output)).fit(train, valid, callbacks=[slower])
    minutes = (time.perf_counter() - started) / 60
    print(f"trained for {minutes:.1f} minutes, best epoch {result.best_epoch}, {result.run_dir}")
    segmenter = for_originals(result.segmenter)
    print(f"bundle: {segmenter.save(result.run_dir / 'bundle')}")
    return compare(segmenter, data / "full_2560x1920", result.run_dir / "overlays")


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    data = os.environ.get("TILEDSEG_DATA")
    parser.add_argument("--data", default=data, required=data is None, help="folder of the images")
    parser.add_argument("--output", default="runs/segpc", help="folder for runs")
    parser.add_argument("--epochs", type=int, default=22)
    return parser.parse_args()


def thumbnails(folder: Path) -> list[Pair]:
    """Read thumbnails and their masks, without the padding above and below."""
    return [
        Pair(pair.name, read_image(pair.image)[CONTENT], read_mask(pair.mask, threshold=128)[CONTENT])
        for pair in find_pairs(folder / "images", folder / "masks")
    ]


def training(epochs: int, output: Path) -> ts.TrainConfig:
    """Choose a small U-Net that sees most of a smear at once."""
    return ts.TrainConfig(
        network=ts.UNetConfig(
            input_shape=(None, None, 3), levels=5, base_filters=16, base_kernel=3, norm="batch", dropout=0.05
        ),
        preprocessing=PreprocessingConfig(scale=ORIGINAL_SCALE / THUMBNAIL_SCALE, mean=(0.5,), std=(0.25,)),
        crop_size=192,
        foreground_share=0.5,
        augment="flips",
        epochs=epochs,
        steps_per_epoch=48,
        batch_size=8,
        learning_rate=PEAK,
        patience=None,
        labels=("plasma cell",),
        runs_dir=str(output),
    )


def for_originals(segmenter: ts.Segmenter) -> ts.Segmenter:
    """Let the segmenter shrink originals, not thumbnails."""
    return segmenter.changed(preprocessing=segmenter.preprocessing.changed(scale=ORIGINAL_SCALE))


def compare(segmenter: ts.Segmenter, folder: Path, overlays: Path) -> int:
    """Score our maps beside the published ones, and draw both."""
    pairs = find_pairs(folder / "images", folder / "masks")

    def draw(scored: ScoredImage) -> None:
        write_image(overlays / f"{scored.scores.name}.png", overlay(scored.image, scored.predicted))
        write_image(overlays / f"{scored.scores.name}_truth.png", overlay(scored.image, scored.truth))

    ours = ts.Evaluator().evaluate(segmenter, pairs, callback=draw)
    print(table(ours, [published(pair, folder / "published_predictions") for pair in pairs]))
    print(f"overlays: {overlays}")
    return 1 if ours.failed else 0


def published(pair: Pair, folder: Path) -> ImageScores:
    """Score what the founding experiment published for an image."""
    probs = read_image(folder / f"{pair.name}.jpg")
    probs = (probs if probs.ndim == 2 else probs[..., 0]) / 255.0
    borders = tuple(range(FOUNDING_TILE, length, FOUNDING_TILE) for length in probs.shape)
    truth = read_mask(pair.mask, threshold=128)
    return score_map(probs, truth, name=pair.name, threshold=128 / 255, borders=borders)


def table(ours: EvaluationResult, theirs: list[ImageScores]) -> str:
    """Lay both scores out side by side."""
    scores = f"{'Dice':>8}{'IoU':>8}{'seams':>8}"
    lines = [f"{'':<8}{'ours':>33}   {'published':>24}", f"{'image':<8}{scores}{'seconds':>9}   {scores}"]
    for one, other in zip(ours.images, theirs, strict=True):
        lines.append(
            f"{one.name:<8}{one.dice:>8.3f}{one.iou:>8.3f}{one.seam_ratio:>8.2f}{one.seconds:>9.2f}"
            f"   {other.dice:>8.3f}{other.iou:>8.3f}{other.seam_ratio:>8.2f}"
        )
    numbers = [
        (one.dice, one.iou, one.seam_ratio, one.seconds, other.dice, other.iou, other.seam_ratio)
        for one, other in zip(ours.images, theirs, strict=True)
    ]
    means = [math.fsum(column) / len(column) for column in zip(*numbers, strict=True)]
    lines.append(
        f"{'mean':<8}{means[0]:>8.3f}{means[1]:>8.3f}{means[2]:>8.2f}{means[3]:>9.2f}"
        f"   {means[4]:>8.3f}{means[5]:>8.3f}{means[6]:>8.2f}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
