"""Settings: pydantic models, checked when they are made."""

from tiledseg.config._augment import (
    NEEDS_RGB,
    AugmentSet,
    GeometricConfig,
    PhotometricConfig,
    TransformConfig,
    augmenting,
)
from tiledseg.config._base import Config, laid_over
from tiledseg.config._data import DataConfig, MaskParts, SplitConfig, StatsConfig, TileSetConfig
from tiledseg.config._geometric import (
    ElasticConfig,
    FlipConfig,
    LensConfig,
    RotateConfig,
    ShearConfig,
    WarpConfig,
    ZoomConfig,
)
from tiledseg.config._networks import ArchitectureConfig, AttentionUNetConfig, NetworkConfig, UNetConfig
from tiledseg.config._photometric import (
    BlurConfig,
    BrightnessConfig,
    ContrastConfig,
    GammaConfig,
    HueConfig,
    JpegConfig,
    NoiseConfig,
    SharpenConfig,
    StainConfig,
)
from tiledseg.config._predict import PredictConfig, Product
from tiledseg.config._preprocessing import PreprocessingConfig
from tiledseg.config._record import Record, TileOrigin
from tiledseg.config._run import RunConfig
from tiledseg.config._tiling import Blend, PadMode, TilingConfig
from tiledseg.config._train import EvaluateConfig, TrainConfig

__all__ = [
    "NEEDS_RGB",
    "ArchitectureConfig",
    "AttentionUNetConfig",
    "AugmentSet",
    "Blend",
    "BlurConfig",
    "BrightnessConfig",
    "Config",
    "ContrastConfig",
    "DataConfig",
    "ElasticConfig",
    "EvaluateConfig",
    "FlipConfig",
    "GammaConfig",
    "GeometricConfig",
    "HueConfig",
    "JpegConfig",
    "LensConfig",
    "MaskParts",
    "NetworkConfig",
    "NoiseConfig",
    "PadMode",
    "PhotometricConfig",
    "PredictConfig",
    "PreprocessingConfig",
    "Product",
    "Record",
    "RotateConfig",
    "RunConfig",
    "SharpenConfig",
    "ShearConfig",
    "SplitConfig",
    "StainConfig",
    "StatsConfig",
    "TileOrigin",
    "TileSetConfig",
    "TilingConfig",
    "TrainConfig",
    "TransformConfig",
    "UNetConfig",
    "WarpConfig",
    "ZoomConfig",
    "augmenting",
    "laid_over",
]
