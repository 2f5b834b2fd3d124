"""Turns a network of any kind into a Predictor that maps batches of tiles to outputs."""

from tiledseg.engine._callable import CallablePredictor
from tiledseg.engine._choose import Engine, Precision, Way, fastest, n_devices, networks_for, predictor_for
from tiledseg.engine._memory import allowed_memory, available_memory, check_memory, fitting_batch
from tiledseg.engine._packing import Packing
from tiledseg.engine._reach import UNKNOWN, Grow, Reach, Slide, Windows
from tiledseg.engine._views import Views, n_views, own_views
from tiledseg.engine.network import ModelReference, Predictor, SegmenterLike

__all__ = [
    "UNKNOWN",
    "CallablePredictor",
    "Engine",
    "Grow",
    "ModelReference",
    "Packing",
    "Precision",
    "Predictor",
    "Reach",
    "SegmenterLike",
    "Slide",
    "Views",
    "Way",
    "Windows",
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
