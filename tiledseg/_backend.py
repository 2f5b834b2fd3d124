"""The one door to Keras and TensorFlow: importing this module loads Keras.

TensorFlow itself loads only where something of its own is touched, so that the JAX and PyTorch
backends of Keras work without it.
"""

from __future__ import annotations

import os

import lazy_loader

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import, or its banner is printed

import keras

tf = lazy_loader.load("tensorflow")

__all__ = ["keras", "tf"]
