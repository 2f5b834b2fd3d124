"""What is global while a run lasts: generators of random numbers, and the precision of layers."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._backend import keras

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["computing_in", "seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and Keras; afterwards Python's and NumPy's global generators go on as before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  what the caller may draw from
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Let layers that are made now compute in a precision; afterwards Keras' own setting holds again."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
