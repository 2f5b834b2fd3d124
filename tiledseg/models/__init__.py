"""Networks: architectures by name, losses, and segmenters saved as safe bundles."""

from tiledseg.models._loading import load_model
from tiledseg.models._losses import BceDiceLoss, BceLoss, DiceLoss, loss_by_name
from tiledseg.models._registry import build_model
from tiledseg.models._saving import save_bundle
from tiledseg.models._segmenter import Segmenter
from tiledseg.models._unet import UNetBuilder

__all__ = [
    "BceDiceLoss",
    "BceLoss",
    "DiceLoss",
    "Segmenter",
    "UNetBuilder",
    "build_model",
    "load_model",
    "loss_by_name",
    "save_bundle",
]
