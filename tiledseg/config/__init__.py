"""Settings: pydantic models, checked when they are made."""

from tiledseg.config._base import Config
from tiledseg.config._network import PreprocessingConfig, UNetConfig
from tiledseg.config._predict import PredictConfig, Product
from tiledseg.config._tiling import Blend, PadMode, TilingConfig
from tiledseg.config._train import DataConfig, EvaluateConfig, RunConfig, TrainConfig

__all__ = [
    "Blend",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "PadMode",
    "PredictConfig",
    "PreprocessingConfig",
    "Product",
    "RunConfig",
    "TilingConfig",
    "TrainConfig",
    "UNetConfig",
]
