"""Settings: pydantic models, checked when they are made."""

from tiledseg.config._base import Config
from tiledseg.config._data import DataConfig, MaskParts, SplitConfig, StatsConfig, TileSetConfig
from tiledseg.config._network import PreprocessingConfig, UNetConfig
from tiledseg.config._predict import PredictConfig, Product
from tiledseg.config._record import Record, TileOrigin
from tiledseg.config._run import RunConfig
from tiledseg.config._tiling import Blend, PadMode, TilingConfig
from tiledseg.config._train import EvaluateConfig, TrainConfig

__all__ = [
    "Blend",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "MaskParts",
    "PadMode",
    "PredictConfig",
    "PreprocessingConfig",
    "Product",
    "Record",
    "RunConfig",
    "SplitConfig",
    "StatsConfig",
    "TileOrigin",
    "TileSetConfig",
    "TilingConfig",
    "TrainConfig",
    "UNetConfig",
]
