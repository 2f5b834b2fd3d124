from .architectures.unet import UNetBuilder
from .builder import NetworkBuilder
from .bundle import read_config
from .loading import BundleReference, load_model, shipped_folder, shipped_or
from .losses import SegmentationLoss, build_loss
from .registry import build_model, builder_for, training_network
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
    "read_config",
    "shipped_folder",
    "shipped_or",
    "training_network",
]
