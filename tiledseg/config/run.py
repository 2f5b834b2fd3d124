"""All of a run's settings together."""

from __future__ import annotations

from tiledseg.config.base import Config
from tiledseg.config.data import DataConfig, SplitConfig, StatsConfig, TileSetConfig
from tiledseg.config.evaluate import EvaluateJobConfig
from tiledseg.config.export import ExportConfig
from tiledseg.config.predict import PredictJobConfig
from tiledseg.config.train import TrainConfig


class RunConfig(Config):
    """All settings of a run, as a TOML file holds them."""

    data: DataConfig = DataConfig()
    """The whole dataset: what is split, cut into tiles and counted."""
    split: SplitConfig | None = None
    """How it is split; None for data that is not split, or that a manifest has split."""
    tiles: TileSetConfig = TileSetConfig()
    """How it is cut into tiles on disk."""
    stats: StatsConfig = StatsConfig()
    """What statistics of it are shown."""
    train_data: DataConfig = DataConfig()
    """Images and masks to train on."""
    valid_data: DataConfig = DataConfig()
    """Images and masks to choose the best epoch by."""
    train: TrainConfig = TrainConfig()
    """How the network is built and trained."""
    test_data: DataConfig = DataConfig()
    """Images and masks to score a trained network on."""
    evaluate: EvaluateJobConfig = EvaluateJobConfig()
    """What is scored, and how."""
    predict: PredictJobConfig = PredictJobConfig()
    """What is predicted, and what is written for each image."""
    export: ExportConfig = ExportConfig()
    """How cells are written for other programs."""
