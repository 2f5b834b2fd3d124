"""``tiledseg train``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import tiledseg
from tiledseg.cli._options import Table
from tiledseg.cli._quiet import load_keras
from tiledseg.cli._settings import Settings, with_options
from tiledseg.config import RunConfig, TilingConfig, TrainConfig
from tiledseg.data import pairs_of

if TYPE_CHECKING:
    from tiledseg.train import TrainingResult

__all__ = ["train"]

_RUN = RunConfig()


@with_options(
    Table("train_data", _RUN.train_data, "Data to train on", prefix="train-"),
    Table("valid_data", _RUN.valid_data, "Data to choose the best epoch by", prefix="valid-"),
    Table("train", _RUN.train, "Training", without=("tiling",)),
    Table(
        "tiling", TilingConfig(), "Tiling of the trained segmenter", defaults={"tile_size": "the crop size"}
    ),
)
def train(*, settings: Settings) -> int:
    """Train a network on images and their masks, and keep the best as a bundle."""
    config = _config(settings)
    pairs = pairs_of(settings.over(settings.run.train_data, "train_data"))
    unseen = pairs_of(settings.over(settings.run.valid_data, "valid_data"))
    load_keras()
    whole = settings.whole(train=config)
    result = tiledseg.Trainer(config).fit(pairs, unseen, progress=settings.progress, settings=whole)
    sys.stdout.write(_summary(result))
    return 0


def _config(settings: Settings) -> TrainConfig:
    config = settings.over(settings.run.train, "train")
    if "tiling" not in settings.given:
        return config
    own = config.tiling or TilingConfig(tile_size=config.crop_shape)
    return config.changed(tiling=settings.over(own, "tiling"))


def _summary(result: TrainingResult) -> str:
    history = result.history
    best = history["epoch"].index(result.best_epoch)
    values = ", ".join(f"{name} {column[best]:.4f}" for name, column in history.items() if name != "epoch")
    rows = {
        "epochs": str(len(history["epoch"])),
        "best": f"epoch {result.best_epoch}: {values}",
        "bundle": str(result.run_dir / "best"),
    }
    return "".join(f"{name:<8}{text}\n" for name, text in rows.items())
