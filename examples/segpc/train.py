"""Plasma cells in whole bone-marrow smears: train on thumbnails, predict originals at their own size.

The SegPC-2021 images (the README beside this file states layout, source and licence) have 2560 x 1920
or 2040 x 1536 px. Cells are 250 to 500 px across, so a tile of a shrunk image shows more of them. This
script trains a U-Net at 0.15 of the originals' size. It uses the images of some slides to choose the
epoch, and not for training. It scores the six originals beside the predictions that the founding
experiment published, and draws overlays. None of these six is used for training, unless ``--add`` says so.

    python examples/segpc/train.py --data FOLDER [--output runs/segpc] [--epochs 30]

``--start FOLDER`` starts from the best network of an earlier run, at 0.6 of the rate. ``--best FOLDER``
uses the best network of an earlier run and does not train. ``--bundle FOLDER`` only scores a finished
bundle. ``--add 207,212,303`` trains on these originals as well, and scores the others. The README lists
the commands that made the bundle in ``segpc-plasma``.
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

import cv2
import numpy as np

import tiledseg as ts
from tiledseg.config import (
    AdamWConfig,
    BlurConfig,
    BrightnessConfig,
    ContrastConfig,
    CosineConfig,
    EncoderUNetConfig,
    FlipConfig,
    GammaConfig,
    HueConfig,
    JpegConfig,
    NoiseConfig,
    PreprocessingConfig,
    RotateConfig,
    SharpenConfig,
    ShearConfig,
    SplitConfig,
    StainConfig,
    ZoomConfig,
)
from tiledseg.data import Pair, describe, find_pairs, split_records
from tiledseg.evaluate import ScoredImage, score_map, side_by_side
from tiledseg.io import read_image, read_mask, write_image
from tiledseg.plots import overlay

if TYPE_CHECKING:
    from collections.abc import Collection

    from tiledseg.config import NetworkConfig
    from tiledseg.evaluate import EvaluationResult, ImageScores

THUMBNAIL_SCALE = 0.2  # of the originals: the size of the thumbnails
CONTENT = slice(64, 448)  # rows of the image in a 512 x 512 thumbnail; the others are padding
THUMBNAIL = (384, 512)  # px: height and width of the content of a thumbnail
RUN_GAP = 5  # numbers at most this far apart are of one slide
SECOND_CAMERA = range(300, 700)  # numbers of its images
TTA = "flips"  # test-time augmentation: the outputs for four mirrored tiles are averaged
THRESHOLD = 0.4  # on held-out slides 0.4 to 0.6 score nearly the same; see the model card
SMALLEST_CELL = 2000  # px of an original; smaller areas are not counted as cells
SCORING = ts.EvaluateConfig(cell_px=SMALLEST_CELL)
SCORING_THUMBNAILS = ts.EvaluateConfig(cell_px=round(SMALLEST_CELL * THUMBNAIL_SCALE**2))
LICENCE = "CC-BY-NC-SA-4.0"  # of the images, and so of the weights
CARD = Path(__file__).with_name("card.md")  # text that is added to the model card
FOUNDING_TILE = 512  # px: the published predictions have tile borders at its multiples

# Stain and light differ between slides, so colours vary more than in the default augmentation.
AUGMENT = (
    FlipConfig(),
    RotateConfig(),
    ZoomConfig(factors=(0.75, 1.35), stretch=1.1),
    ShearConfig(probability=0.3),
    StainConfig(factors=(0.65, 1.5), shifts=(-0.05, 0.05), tilt=0.06, probability=0.85),
    HueConfig(degrees=(-12.0, 12.0), saturations=(0.6, 1.6), probability=0.5),
    BrightnessConfig(gains=(0.8, 1.2), offsets=(-0.08, 0.08), probability=0.6),
    ContrastConfig(factors=(0.7, 1.4), probability=0.5),
    GammaConfig(gammas=(0.65, 1.5), probability=0.5),
    BlurConfig(sigmas=(0.3, 1.2), probability=0.5),
    NoiseConfig(sigmas=(0.005, 0.03), probability=0.3),
    JpegConfig(probability=0.2),
)

# More for originals, whose thumbnails were shrunk without smoothing.
SHARPER = (
    SharpenConfig(probability=0.3),
    StainConfig(factors=(0.5, 1.8), shifts=(-0.05, 0.05), tilt=0.1, probability=0.3),
    JpegConfig(probability=0.3),
)

ZOOM = ZoomConfig(factors=(0.87, 1.25), stretch=1.08, probability=0.5)  # of half of the whole images

MOVING = (RotateConfig, ZoomConfig, ShearConfig)  # these would move an image's border


def main() -> int:
    """Train or load, predict, score, draw."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    data, output = Path(options.data), Path(options.output)
    if options.bundle:
        results = on_originals(ts.load_model(options.bundle), data, output, options.add)
        return int(any(one.failed for one in results.values()))
    train, valid = by_slide(data / "letterbox_512")
    print(f"{len(train)} images to train on, {len(valid)} of other slides to choose the epoch by")
    folder = Path(options.best) if options.best else trained(train, valid, options)
    best = ts.load_model(folder).changed(tta=TTA, threshold=THRESHOLD)
    thumbnails = scaled(best, options.scale / THUMBNAIL_SCALE)
    held_out = ts.Evaluator(SCORING_THUMBNAILS).evaluate(thumbnails, valid)
    print(held_out)
    segmenter = scaled(best, options.scale)
    segmenter = segmenter.changed(provenance={**segmenter.provenance, "licence": LICENCE})
    originals = on_originals(segmenter, data, output, options.add)
    results = {"thumbnails, 5 held-out slides": held_out, **originals}
    bundle = segmenter.save(output / "segpc-plasma", overwrite=True)
    text = (bundle / "README.md").read_text(encoding="utf-8")
    (bundle / "README.md").write_text(with_card(text, results), "utf-8")
    print(f"{side_by_side(results)}\nbundle: {bundle}")
    return int(any(one.failed for one in results.values()))


def trained(train: list[Pair], valid: list[Pair], options: argparse.Namespace) -> Path:
    """Train, and return the folder of the best network."""
    started = time.perf_counter()
    network = lite_unet(options.encoder) if options.encoder else small_unet()
    if options.start:
        network = ts.load_model(options.start).architecture
    settings = training(len(train), network, options)
    if options.start:
        settings = from_earlier_run(settings, options.start)
    if options.whole:
        settings = on_whole_images(settings)
    train = [pair for pair in train for _ in range(options.times if int(pair.name) in SECOND_CAMERA else 1)]
    if options.originals:
        train += [shrunk_original(pair) for pair in originals_of(Path(options.data))]
        settings = settings.changed(augment=(*settings.augment, *SHARPER), learning_rate=3e-4)
    if options.zoom:
        settings = settings.changed(augment=(*settings.augment, ZOOM), learning_rate=5e-4, ema=0.995)
    if options.add:
        train += added(Path(options.data), options)
        settings = settings.changed(validation=False, learning_rate=4e-4, ema=0.99)
    result = ts.Trainer(settings).fit(train, None if options.add else valid)
    minutes = (time.perf_counter() - started) / 60
    print(f"trained for {minutes:.1f} minutes, best epoch {result.best_epoch}, {result.run_dir}")
    return result.run_dir / "best"


def added(data: Path, options: argparse.Namespace) -> list[Pair]:
    """Read the originals to add: those of the first camera, and many copies of those of the second."""
    first = [] if options.originals else originals_of(data)
    second = [pair for pair in scored_originals(data) if pair.name in options.add]
    small = [shrunk_original(pair) for pair in second]
    return [*map(shrunk_original, first), *(pair for pair in small for _ in range(2 * options.times))]


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    data = os.environ.get("TILEDSEG_DATA")
    parser.add_argument("--data", default=data, required=data is None, help="folder of the images")
    parser.add_argument("--output", default="runs/segpc", help="folder for runs")
    parser.add_argument("--epochs", type=int, default=30)
    initial = parser.add_mutually_exclusive_group()
    initial.add_argument("--encoder", help="start from these weights, written by lite0.py")
    initial.add_argument("--start", help="start from this network, the folder best of a run")
    parser.add_argument(
        "--times", type=int, default=1, help="number of copies of each image of the second camera"
    )
    parser.add_argument("--whole", action="store_true", help="train on whole images, not on crops")
    parser.add_argument("--scale", type=float, default=0.15, help="of originals 2560 px wide")
    parser.add_argument("--batch", type=int, default=8, help="images of a batch")
    parser.add_argument("--originals", action="store_true", help="train on originals of 2040 x 1536 px, too")
    parser.add_argument("--zoom", action="store_true", help="zoom half of the images, also whole ones")
    parser.add_argument(
        "--add",
        type=lambda text: tuple(text.split(",")),
        default=(),
        help="without validation, train on these originals of 2560 x 1920 px and all of 2040 x 1536 px, too",
    )
    parser.add_argument("--steps", type=int, help="steps of an epoch, in place of one pass over the images")
    parser.add_argument(
        "--best", help="do not train, but score and save this network, the folder best of a run"
    )
    parser.add_argument("--bundle", help="only score this finished bundle")
    options = parser.parse_args()
    known = {pair.name for pair in scored_originals(Path(options.data))} if options.add else set()
    if unknown := set(options.add) - known:
        parser.error(f"--add: there is no original {', '.join(sorted(unknown))}")
    return options


def by_slide(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """Read all thumbnails, and split them by slide: about a twelfth of them for validation."""
    pairs = [
        pair
        for part in ("train", "valid")  # the challenge's own partition divides slides
        for pair in find_pairs(folder / part / "images", folder / part / "masks")
    ]
    settings = SplitConfig(names=("train", "valid"), shares=(92, 8), group_by="run", run_gap=RUN_GAP, seed=3)
    records = split_records(describe(pairs, folder), settings)
    split = {record.name: record.split for record in records}
    return (
        [thumbnail(pair) for pair in pairs if split[pair.name] == "train"],
        [thumbnail(pair) for pair in pairs if split[pair.name] == "valid"],
    )


def thumbnail(pair: Pair) -> Pair:
    """Read a thumbnail and its mask, without the padding above and below."""
    mask = read_mask(pair.mask, threshold=128)
    return Pair(pair.name, read_image(pair.image)[CONTENT], mask[CONTENT])


def whole(scale: float) -> tuple[int, int]:
    """Return height and width of an image in px, at a scale of originals 2560 px wide."""
    height, width = (round(side * scale / THUMBNAIL_SCALE) for side in THUMBNAIL)
    return height, width


def training(n_images: int, network: NetworkConfig, options: argparse.Namespace) -> ts.TrainConfig:
    """Return settings with crops that show most of a smear."""
    scale = options.scale / THUMBNAIL_SCALE
    pretrained = network.preprocessing  # what a pretrained encoder expects, or None
    return ts.TrainConfig(
        network=network,
        preprocessing=(pretrained or PreprocessingConfig(mean=(0.5,), std=(0.25,))).changed(scale=scale),
        crop_size=whole(options.scale)[0],
        foreground_share=0.3,
        augment=AUGMENT,
        epochs=options.epochs,
        steps_per_epoch=options.steps or n_images // options.batch,
        batch_size=options.batch,
        optimizer=AdamWConfig(weight_decay=0.01),
        learning_rate=1e-3 if pretrained else 1.5e-3,
        schedule=CosineConfig(warmup_epochs=2 if pretrained else 4, final=0.005),
        clip_norm=1.0,
        ema=0.998,
        precision="float32" if pretrained else "mixed_bfloat16",  # no gain for depthwise layers
        patience=None,
        deterministic=False,  # faster; repeated runs differ by rounding
        labels=("plasma cell",),
        tiling=ts.TilingConfig(tile_size=whole(options.scale), overlap=0.25),
        runs_dir=options.output,
    )


def small_unet() -> ts.UNetConfig:
    """Return the settings of a U-Net that is trained from scratch."""
    return ts.UNetConfig(
        input_shape=(None, None, 3), levels=6, base_filters=8, base_kernel=3, norm="batch", dropout=0.05
    )


def lite_unet(weights: str) -> EncoderUNetConfig:
    """Return the settings of a U-Net around the first four levels of a pretrained encoder."""
    return EncoderUNetConfig(
        input_shape=(None, None, 3),
        encoder="efficientnet-lite0",
        encoder_weights=weights,
        decoder_filters=(128, 64, 32, 16),
        dropout=0.1,
    )


def from_earlier_run(settings: ts.TrainConfig, start: str) -> ts.TrainConfig:
    """Start from the best network of an earlier run, at 0.6 of the rate."""
    schedule = settings.schedule.changed(warmup_epochs=1)
    rate = 0.6 * settings.learning_rate
    return settings.changed(start_from=start, learning_rate=rate, schedule=schedule)


def on_whole_images(settings: ts.TrainConfig) -> ts.TrainConfig:
    """Train on whole images: the annotators omitted most of the cells that the border cuts."""
    still = tuple(one for one in AUGMENT if not isinstance(one, MOVING))
    return settings.changed(crop_size=settings.tiling.tile_size, augment=still, learning_rate=5e-4)


def scaled(segmenter: ts.Segmenter, scale: float) -> ts.Segmenter:
    """Set the scale at which a segmenter gets images."""
    return segmenter.changed(preprocessing=segmenter.preprocessing.changed(scale=scale))


def on_originals(
    segmenter: ts.Segmenter, data: Path, output: Path, seen: Collection[str] = ()
) -> dict[str, EvaluationResult]:
    """Score the originals of both cameras; those of the first show slides that training images show."""
    pairs = [pair for pair in scored_originals(data) if pair.name not in seen]
    results = {}
    if pairs:
        results["originals of 2560 x 1920 px"] = compare(segmenter, pairs, data, output / "overlays")
    if pairs := originals_of(data):
        # as large as the training images, which were shrunk to the same width from both cameras
        scale = segmenter.preprocessing.scale * 1920 / 1536
        first = ts.Evaluator(SCORING).evaluate(scaled(segmenter, scale), pairs)
        print(first)
        results["originals of 2040 x 1536 px, slides of training images"] = first
    return results


def originals_of(data: Path) -> list[Pair]:
    """Find the originals of the first camera, if there are any."""
    folder = data / "full_2040x1536"
    return find_pairs(folder / "images", folder / "masks") if folder.is_dir() else []


def scored_originals(data: Path) -> list[Pair]:
    """Find the originals of the second camera."""
    return find_pairs(data / "full_2560x1920" / "images", data / "full_2560x1920" / "masks")


def shrunk_original(pair: Pair) -> Pair:
    """Read an original and its mask at the size of a thumbnail, by area averaging."""
    image, mask = read_image(pair.image), read_mask(pair.mask, threshold=128)
    size = THUMBNAIL[::-1]
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    return Pair(f"{pair.name}_original", cv2.resize(image, size, interpolation=cv2.INTER_AREA), small)


def compare(segmenter: ts.Segmenter, pairs: list[Pair], data: Path, overlays: Path) -> EvaluationResult:
    """Score our maps beside the published ones, and draw ours and the truth."""
    theirs = data / "full_2560x1920" / "published_predictions"

    def draw(scored: ScoredImage) -> None:
        write_image(overlays / f"{scored.scores.name}.png", overlay(scored.image, scored.predicted))
        write_image(overlays / f"{scored.scores.name}_truth.png", overlay(scored.image, scored.truth))

    ours = ts.Evaluator(SCORING).evaluate(segmenter, pairs, callback=draw)
    print(ours)
    print(table(ours, [published(pair, theirs) for pair in pairs]))
    print(f"overlays: {overlays}")
    return ours


def with_card(text: str, results: dict[str, EvaluationResult]) -> str:
    """Add data, licence, training and scores to a bundle's model card."""
    rows = "\n".join(row(name, result) for name, result in results.items())
    return f"{text}\n{CARD.read_text(encoding='utf-8').format(rows=rows)}"


def row(name: str, result: EvaluationResult) -> str:
    """Describe an evaluation in one line of the table."""
    sums, between = result.summary(), result.intervals()
    scores = " | ".join(
        f"{between[score].value:.3f} ({between[score].low:.3f} to {between[score].high:.3f})"
        for score in ("dice_mean", "cells_ap50", "cells_ap75", "cells_dice")
    )
    cells = " | ".join(f"{sums[count]:.0f}" for count in ("cells_found", "cells_missed", "cells_false"))
    return f"| {name} ({len(result.images)}) | {scores} | {cells} |"


def published(pair: Pair, folder: Path) -> ImageScores:
    """Score the map that the founding experiment published for an image."""
    probs = read_image(folder / f"{pair.name}.jpg")
    probs = (probs if probs.ndim == 2 else probs[..., 0]) / 255.0
    borders = tuple(range(FOUNDING_TILE, length, FOUNDING_TILE) for length in probs.shape)
    truth = read_mask(pair.mask, threshold=128)
    return score_map(probs, truth, name=pair.name, threshold=128 / 255, borders=borders)


def table(ours: EvaluationResult, theirs: list[ImageScores]) -> str:
    """Return a table of both scores."""
    scores = f"{'Dice':>8}{'IoU':>8}{'seams':>8}"
    lines = [f"{'':<8}{'ours':>33}   {'published':>24}", f"{'image':<8}{scores}{'seconds':>9}   {scores}"]
    for one, other in zip(ours.images, theirs, strict=True):
        lines.append(
            f"{one.name:<8}{one.dice:>8.3f}{one.iou:>8.3f}{seams(one.seam_ratio)}{one.seconds:>9.2f}"
            f"   {other.dice:>8.3f}{other.iou:>8.3f}{seams(other.seam_ratio)}"
        )
    numbers = [
        (one.dice, one.iou, one.seam_ratio, one.seconds, other.dice, other.iou, other.seam_ratio)
        for one, other in zip(ours.images, theirs, strict=True)
    ]
    means = [math.fsum(column) / len(column) for column in zip(*numbers, strict=True)]
    lines.append(
        f"{'mean':<8}{means[0]:>8.3f}{means[1]:>8.3f}{seams(means[2])}{means[3]:>9.2f}"
        f"   {means[4]:>8.3f}{means[5]:>8.3f}{seams(means[6])}"
    )
    return "\n".join(lines)


def seams(ratio: float) -> str:
    """Format a seam ratio; an image of one tile has none."""
    return f"{'-' if math.isnan(ratio) else format(ratio, '.2f'):>8}"


if __name__ == "__main__":
    raise SystemExit(main())
