from ._version import __version__
from .config import (
    DataConfig,
    EvaluateConfig,
    ObjectsConfig,
    PredictConfig,
    PreprocessingConfig,
    RunConfig,
    RuntimeConfig,
    TilingConfig,
    TrainConfig,
    UNetConfig,
)
from .errors import TiledSegError
from .evaluate import Evaluator
from .io import open_image, read_image
from .models import Segmenter, UNetBuilder, build_model, load_model
from .predict import plan, predict_files, segment, tiled_predict
from .tiling import Stitcher, TileGrid, Tiler
from .train import Trainer

__all__ = [
    "DataConfig",
    "EvaluateConfig",
    "Evaluator",
    "ObjectsConfig",
    "PredictConfig",
    "PreprocessingConfig",
    "RunConfig",
    "RuntimeConfig",
    "Segmenter",
    "Stitcher",
    "TileGrid",
    "TiledSegError",
    "Tiler",
    "TilingConfig",
    "TrainConfig",
    "Trainer",
    "UNetBuilder",
    "UNetConfig",
    "__version__",
    "build_model",
    "load_model",
    "open_image",
    "plan",
    "predict_files",
    "read_image",
    "segment",
    "tiled_predict",
]
