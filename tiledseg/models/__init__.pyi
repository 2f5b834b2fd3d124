from ._loading import load_model
from ._losses import SegmentationLoss, build_loss
from ._reference import BundleReference
from ._saving import save_bundle
from ._segmenter import Segmenter
from ._training import training_network
from .architectures import NetworkBuilder, UNetBuilder, build_model
from .shipped import shipped_folder, shipped_or

__all__ = [
    "BundleReference",
    "NetworkBuilder",
    "SegmentationLoss",
    "Segmenter",
    "UNetBuilder",
    "build_loss",
    "build_model",
    "load_model",
    "save_bundle",
    "shipped_folder",
    "shipped_or",
    "training_network",
]
