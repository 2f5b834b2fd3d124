"""Networks: architectures by name, losses, and segmenters saved as safe bundles."""

from tiledseg.models._loading import load_model
from tiledseg.models._losses import SegmentationLoss, build_loss
from tiledseg.models._reference import BundleReference
from tiledseg.models._saving import save_bundle
from tiledseg.models._segmenter import Segmenter
from tiledseg.models._training import training_network
from tiledseg.models.architectures import NetworkBuilder, UNetBuilder, build_model

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
    "training_network",
]
