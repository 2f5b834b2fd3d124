"""``tiledseg train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003  cyclopts reads it
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import tiledseg
from tiledseg.cli import lazy
from tiledseg.cli.data import pairs_in, split_of
from tiledseg.cli.options import COMMON, Table
from tiledseg.cli.settings import Settings, read_run, with_options
from tiledseg.config import TRAIN_AND_VALID, DataConfig, RunConfig, TilingConfig, TrainConfig
from tiledseg.errors import SettingError

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
    Table("train_data", _RUN.train_data, "Data"),
    Table("split", TRAIN_AND_VALID, "Part that is set apart", prefix="split-", without=("manifest", "names")),
    Table("train", _RUN.train, "Training", without=("tiling",), reserved=tuple(DataConfig.model_fields)),
    Table(
        "tiling", TilingConfig(), "Tiling of the trained segmenter", defaults={"tile_size": "the crop size"}
    ),
    Table(
        "valid_data", _RUN.valid_data, "Validation data, or a part of the data is set apart", prefix="valid-"
    ),
)
def train(*, resume: Annotated[Path | None, _RESUME] = None, settings: Settings) -> int:
    """Train a network on images and their masks, and save the best one as a bundle."""
    if resume is not None:
        result = _resumed(resume, settings)
    else:
        config = _config(settings)
        pairs, unseen = _data(settings, config)
        whole = settings.whole(train=config, split=split_of(settings, TRAIN_AND_VALID))
        result = tiledseg.Trainer(config).fit(pairs, unseen, progress=settings.progress, settings=whole)
    best = _best(result)
    settings.say(_summary(result, best))
    facts = {"run": result.run_dir, "bundle": result.run_dir / "best", "epochs": len(result.history["epoch"])}
    settings.give(**facts, best_epoch=result.best_epoch, scores=best)
    return 0


def _resumed(run_dir: Path, settings: Settings) -> TrainingResult:
    """Resume a run; settings and data that are given must equal those of the run."""
    named = settings.file is not None or bool(settings.given.keys() & {"train_data", "valid_data"})
    if settings.file is None:
        settings = replace(settings, read=read_run(run_dir / "run.toml"))
    config = _config(settings)
    pairs, unseen = _data(settings, config) if named else (None, None)
    if pairs is not None and unseen is None and config.validation:
        how = (split_of(settings, TRAIN_AND_VALID), run_dir, config.network.classes)
        pairs, unseen, _ = lazy.data.split_pairs(pairs, *how, progress=settings.progress)
    return tiledseg.Trainer.resume(run_dir, pairs, unseen, config=config, progress=settings.progress)


def _data(settings: Settings, config: TrainConfig) -> tuple[list[Pair], list[Pair] | None]:
    """Find the pairs to learn from and to choose the best epoch by; None for a part of the first, or none."""
    data = settings.over(settings.run.train_data, "train_data")
    apart = "valid_data" in settings.given or settings.run.valid_data != DataConfig()
    if not config.validation and (apart or "split" in settings.given):
        fix = "Leave out the options that begin with --split- and --valid- and the table valid_data."
        raise SettingError(f"Without validation no image is set apart. {fix}")
    if apart:
        if "split" in settings.given:
            fix = "Leave the options that begin with --split- out, or those that begin with --valid-."
            raise SettingError(f"Validation data is given, so nothing is set apart. {fix}")
        return lazy.data.pairs_of(data), pairs_in(settings, "valid_data")
    if data.layout == "manifest" and data.split is None:
        first, second = (lazy.data.pairs_of(data.changed(split=name)) for name in TRAIN_AND_VALID.names)
        return (first, second) if config.validation else ([*first, *second], None)
    return lazy.data.pairs_of(data), None


def _config(settings: Settings) -> TrainConfig:
    config = settings.over(settings.run.train, "train")
    if "tiling" not in settings.given:
        return config
    own = config.tiling or TilingConfig(tile_size=config.crop_shape)
    return config.changed(tiling=settings.over(own, "tiling"))


def _best(result: TrainingResult) -> dict[str, float]:
    """Return the numbers of the best epoch."""
    place = result.history["epoch"].index(result.best_epoch)
    return {name: column[place] for name, column in result.history.items() if name != "epoch"}


def _summary(result: TrainingResult, best: dict[str, float]) -> str:
    values = ", ".join(f"{name} {value:.4f}" for name, value in best.items())
    rows = {
        "epochs": str(len(result.history["epoch"])),
        "best": f"epoch {result.best_epoch}: {values}",
        "bundle": str(result.run_dir / "best"),
    }
    return "\n".join(f"{name:<8}{text}" for name, text in rows.items())
