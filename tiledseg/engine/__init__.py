"""Turns a network of any kind into a Predictor that maps batches of tiles to outputs."""

from tiledseg.engine._callable import CallablePredictor
from tiledseg.engine._choose import Engine, Precision, fastest, predictor_for
from tiledseg.engine._halving import Halving
from tiledseg.engine._memory import available_memory, check_memory, fitting_batch
from tiledseg.engine._reach import UNKNOWN, Reach

__all__ = [
    "UNKNOWN",
    "CallablePredictor",
    "Engine",
    "Halving",
    "Precision",
    "Reach",
    "available_memory",
    "check_memory",
    "fastest",
    "fitting_batch",
    "predictor_for",
]
