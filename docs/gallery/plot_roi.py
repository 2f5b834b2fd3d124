"""
Predict only where it matters
=============================

``roi`` says where to predict: a mask, outlines, or ``"tissue"``. Tiles elsewhere are not computed,
and count as 0.
"""

import matplotlib.pyplot as plt
import numpy as np

import tiledseg as ts
from tiledseg import plots
from tiledseg.samples import smear

image = smear(1920, 2560, seed=1, n_cells=9).image
roi = np.zeros(image.shape[:2], bool)
roi[300:1500, 400:1700] = True

probs = ts.tiled_predict(ts.load_model("demo"), image, {"tile_size": 48, "overlap": 16}, roi=roi)
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
plots.plot_overlay(image, roi, ax=axes[0])
axes[0].set_title("where to predict")
plots.plot_probabilities(probs, ax=axes[1])
