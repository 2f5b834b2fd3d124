"""All of a run's settings together."""

from __future__ import annotations

from tiledseg.config.base import Config
from tiledseg.config.data import DataConfig, SplitConfig, StatsConfig, TileSetConfig
from tiledseg.config.evaluate import EvaluateJobConfig
from tiledseg.config.fields import Given, or_else
from tiledseg.config.files import ExportConfig
from tiledseg.config.predict import PredictJobConfig
from tiledseg.config.train import TrainConfig


class RunConfig(Config):
    """All settings of a run, as a TOML file holds them."""

    data: Given[DataConfig] = or_else(DataConfig())
    """The whole dataset: what is split, cut into tiles and counted."""
    split: Given[SplitConfig | None] = or_else(None)
    """How it is split; None for data that is not split, or that a manifest has split."""
    tiles: Given[TileSetConfig] = or_else(TileSetConfig())
    """How it is cut into tiles on disk."""
    stats: Given[StatsConfig] = or_else(StatsConfig())
    """What statistics of it are shown."""
    train_data: Given[DataConfig] = or_else(DataConfig())
    """Images and masks to train on."""
    valid_data: Given[DataConfig] = or_else(DataConfig())
    """Images and masks to choose the best epoch by."""
    train: Given[TrainConfig] = or_else(TrainConfig())
    """How the network is built and trained."""
    test_data: Given[DataConfig] = or_else(DataConfig())
    """Images and masks to score a trained network on."""
    evaluate: Given[EvaluateJobConfig] = or_else(EvaluateJobConfig())
    """What is scored, and how."""
    predict: Given[PredictJobConfig] = or_else(PredictJobConfig())
    """What is predicted, and what is written for each image."""
    export: Given[ExportConfig] = or_else(ExportConfig())
    """How cells are written for other programs."""
