"""StarDist in tiles, beside StarDist over the whole image.

What: a network of StarDist (2-D, 32 rays, a U-Net of depth 3), trained for a minute on drawn cells, seeded.
How: it labels 1024 x 1024 px as one image, and `tiled_objects` labels it in tiles; the objects that are not
the same, px by px, are counted. Targets: none differs where tiles overlap by the size of an object and
twice the px that the network sees around it, as StarDist itself states them. Smaller overlaps are measured
beside it, without a target. It runs where StarDist is installed: ``pip install stardist tf_keras``, in an
environment of its own.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks._fresh import call_fresh
from benchmarks._rows import Row

__all__ = ["run"]

_STEP = 34  # px from cell to cell
_OBJECT = 36  # px, the longest cell
_DIVISOR = 16  # of the network: its grid times its pooling
_LEGACY = {"TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "-1"}  # StarDist is written for Keras 2


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    if find_spec("stardist") is None or find_spec("tf_keras") is None:
        return [Row("not run: StarDist is not installed", 0, note="pip install stardist tf_keras")]
    with tempfile.TemporaryDirectory() as folder:
        found = call_fresh("benchmarks.stardist:compared", _LEGACY, folder=folder, quick=quick)
    enough = found["seen"] * 2 + _OBJECT
    rows = [Row("trained and whole image labelled", found["seconds"], "s", beside=f"{found['n']} objects")]
    for tile, overlap, differ in found["differ"]:
        target = {} if quick or overlap < enough else {"at_most": 0}
        what = f"tiles of {tile} px, overlap {overlap} px ({enough} suffice): objects that differ"
        rows.append(Row(what, differ, **target))
    return rows


def compared(folder: str, quick: bool) -> dict[str, Any]:  # noqa: FBT001  JSON
    """Train, label the whole image and its tiles, and count the objects that differ."""
    from tiledseg.objects import tiled_objects  # noqa: PLC0415

    started = time.perf_counter()
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):  # the progress of each batch
        model = _trained(folder, quick=quick)
    image, _ = _cells(256 if quick else 1024, seed=20)

    def label(part: Any) -> Any:
        return model.predict_instances(part, prob_thresh=0.5, nms_thresh=0.4)[0]

    whole = label(image)
    seconds, seen = time.perf_counter() - started, int(max(model._axes_tile_overlap("YX")))
    differ = []
    for tile, overlap in ((128, 64),) if quick else ((256, 64), (256, 96), (384, 224), (512, 256)):
        tiling = {"tile_size": tile, "overlap": overlap, "alignment": _DIVISOR}
        tiled = tiled_objects(label, image, tiling, measure=False).labels
        differ.append((tile, overlap, _differing(whole, tiled)))
    return {"seconds": seconds, "seen": seen, "n": int(whole.max()), "differ": differ}


def _differing(one: Any, other: Any) -> int:
    """Count the objects of both maps that have no object of the same px in the other map."""
    pairs, shared = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1, return_counts=True)
    areas = [np.bincount(labels.ravel()) for labels in (one, other)]
    both = (pairs > 0).all(axis=0)
    same = both & (shared == areas[0][pairs[0]]) & (shared == areas[1][pairs[1]])
    n_objects = sum(int((area[1:] > 0).sum()) for area in areas)
    return n_objects - 2 * int(same.sum())


def _cells(size: int, seed: int) -> tuple[Any, Any]:
    """Draw blurred ellipses with noise, and their labels."""
    rng = np.random.default_rng(seed)
    labels, n = np.zeros((size, size), np.int32), 0
    for row in range(size // _STEP):
        for column in range(size // _STEP):
            if rng.random() < 0.15:
                continue
            n += 1
            y, x = (int((place + 0.5) * _STEP + rng.uniform(-8, 8)) for place in (row, column))
            axes = tuple(int(radius) for radius in rng.uniform(8, 15, 2))
            cv2.ellipse(labels, (x, y), axes, rng.uniform(0, 180), 0, 360, n, -1)
    level = np.append(0, rng.uniform(0.4, 1, n)).astype(np.float32)
    noise = rng.normal(0, 0.08, labels.shape).astype(np.float32)
    return cv2.GaussianBlur(level[labels], (0, 0), 1.5) + noise, labels


def _trained(folder: str, *, quick: bool) -> Any:
    """Train a small network of StarDist."""
    import tensorflow as tf  # noqa: PLC0415  with Keras 2, in a process of its own
    from stardist.models import Config2D, StarDist2D  # noqa: PLC0415

    tf.keras.utils.set_random_seed(1)
    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        unet_n_filter_base=16,
        net_conv_after_unet=64,
        train_patch_size=(128, 128),
        train_batch_size=4,
        train_epochs=1 if quick else 10,
        train_steps_per_epoch=4 if quick else 40,
        train_tensorboard=False,
    )
    model = StarDist2D(config, name="cells", basedir=str(Path(folder)))
    images, labels = zip(*(_cells(512, seed) for seed in range(2, 6)), strict=True)
    image, truth = _cells(256, seed=9)
    model.train(list(images), list(labels), validation_data=([image], [truth]), seed=1)
    return model
