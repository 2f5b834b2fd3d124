"""Turns a network of any kind into a Predictor that maps batches of tiles to outputs."""

from tiledseg.engine._callable import CallablePredictor
from tiledseg.engine._choose import predictor_for
from tiledseg.engine._halving import Halving
from tiledseg.engine._memory import available_memory, check_memory, fitting_batch
from tiledseg.engine._reach import UNKNOWN, Reach

__all__ = [
    "UNKNOWN",
    "CallablePredictor",
    "Halving",
    "Reach",
    "available_memory",
    "check_memory",
    "fitting_batch",
    "predictor_for",
]
