from .architectures import build_model, builder_for, training_network
from .architectures.unet import UNetBuilder
from .builder import NetworkBuilder
from .bundle import read_config
from .loading import BundleReference, load_model, missing_fix, model_path, shipped_folder
from .losses import SegmentationLoss, build_loss
from .segmenter import Segmenter

__all__ = [
    "BundleReference",
    "NetworkBuilder",
    "SegmentationLoss",
    "Segmenter",
    "UNetBuilder",
    "build_loss",
    "build_model",
    "builder_for",
    "load_model",
    "missing_fix",
    "model_path",
    "read_config",
    "shipped_folder",
    "training_network",
]
