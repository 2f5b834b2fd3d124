"""``tiledseg train``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path  # noqa: TC003  cyclopts reads it
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import tiledseg
from tiledseg.cli import lazy
from tiledseg.cli.options import COMMON, Table
from tiledseg.cli.settings import Settings, read_run, with_options
from tiledseg.config import RunConfig, TilingConfig, TrainConfig

if TYPE_CHECKING:
    from tiledseg.data import Pair
    from tiledseg.train import TrainingResult

_RUN = RunConfig()
_RESUME = Parameter(
    help="Folder of an interrupted run to resume, with its own settings and data.",
    group=COMMON,
    metavar="DIR",
    negative_none=(),
)


@with_options(
    Table("train_data", _RUN.train_data, "Training data", prefix="train-"),
    Table("valid_data", _RUN.valid_data, "Validation data, to choose the best epoch", prefix="valid-"),
    Table("train", _RUN.train, "Training", without=("tiling",)),
    Table(
        "tiling", TilingConfig(), "Tiling of the trained segmenter", defaults={"tile_size": "the crop size"}
    ),
)
def train(*, resume: Annotated[Path | None, _RESUME] = None, settings: Settings) -> int:
    """Train a network on images and their masks, and save the best one as a bundle."""
    if resume is not None:
        result = _resumed(resume, settings)
    else:
        config = _config(settings)
        pairs, unseen = _pairs(settings, "train_data"), _pairs(settings, "valid_data")
        whole = settings.whole(train=config)
        result = tiledseg.Trainer(config).fit(pairs, unseen, progress=settings.progress, settings=whole)
    sys.stdout.write(_summary(result))
    return 0


def _resumed(run_dir: Path, settings: Settings) -> TrainingResult:
    """Resume a run; settings and data that are given must equal those of the run."""
    named = settings.file is not None or bool(settings.given.keys() & {"train_data", "valid_data"})
    if settings.file is None:
        settings = replace(settings, read=read_run(run_dir / "run.toml"))
    config = _config(settings)
    pairs = [_pairs(settings, name) if named else None for name in ("train_data", "valid_data")]
    return tiledseg.Trainer.resume(run_dir, *pairs, config=config, progress=settings.progress)


def _pairs(settings: Settings, name: str) -> list[Pair]:
    return lazy.data.pairs_of(settings.over(getattr(settings.run, name), name))


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
