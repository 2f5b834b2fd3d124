"""Turns a network of any kind into a Predictor that maps batches of tiles to outputs."""

from tiledseg.engine._callable import CallablePredictor
from tiledseg.engine._choose import predictor_for
from tiledseg.engine._memory import available_memory, fitting_batch

__all__ = ["CallablePredictor", "available_memory", "fitting_batch", "predictor_for"]
