"""Seeding the generators that a run draws from, and giving the caller's back."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._backend import keras

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and Keras; afterwards Python's and NumPy's global generators go on as before.

    Parameters
    ----------
    seed : int
        In [0, 2**32).

    Yields
    ------
    None
        While the seed holds.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  what the caller may draw from
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
