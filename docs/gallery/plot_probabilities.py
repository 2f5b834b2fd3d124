"""
Probabilities, and the mask of a threshold
==========================================

``tiled_predict`` returns the probabilities, (H, W, K) float32, or the mask at the threshold of the
segmenter.
"""

import matplotlib.pyplot as plt

import tiledseg as ts
from tiledseg import plots
from tiledseg.samples import smear

image = smear(1920, 2560, seed=1, n_cells=9).image
segmenter = ts.load_model("demo")
probs = ts.tiled_predict(segmenter, image)
mask = (probs[..., 0] >= segmenter.threshold).astype("uint8")

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
plots.plot_probabilities(probs, ax=axes[0])
plots.plot_overlay(image, mask, ax=axes[1])
