"""Networks: architectures by name, losses, and segmenters saved as safe bundles."""

from tiledseg.models._loading import load_model
from tiledseg.models._losses import BceDiceLoss, BceLoss, DiceLoss, loss_by_name
from tiledseg.models._saving import save_bundle
from tiledseg.models._segmenter import Segmenter
from tiledseg.models._training import training_network
from tiledseg.models.architectures import NetworkBuilder, UNetBuilder, build_model

__all__ = [
    "BceDiceLoss",
    "BceLoss",
    "DiceLoss",
    "NetworkBuilder",
    "Segmenter",
    "UNetBuilder",
    "build_model",
    "load_model",
    "loss_by_name",
    "save_bundle",
    "training_network",
]
