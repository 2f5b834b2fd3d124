"""Turns a network of any kind into a Predictor that maps batches of tiles to outputs."""

from tiledseg.config import TTA as Views
from tiledseg.config import Engine, Precision
from tiledseg.engine._callable import CallablePredictor
from tiledseg.engine._choose import Way, fastest, n_devices, networks_for, own_views
from tiledseg.engine._memory import allowed_memory, available_memory, check_memory, fitting_batch
from tiledseg.engine._packing import Packing
from tiledseg.engine.network import ModelReference, Network, Predictor, SegmenterLike, predictor_for
from tiledseg.engine.tta import n_copies as n_views

__all__ = [
    "CallablePredictor",
    "Engine",
    "ModelReference",
    "Network",
    "Packing",
    "Precision",
    "Predictor",
    "SegmenterLike",
    "Views",
    "Way",
    "allowed_memory",
    "available_memory",
    "check_memory",
    "fastest",
    "fitting_batch",
    "n_devices",
    "n_views",
    "networks_for",
    "own_views",
    "predictor_for",
]
