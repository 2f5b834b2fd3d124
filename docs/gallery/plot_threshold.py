"""
Scores over the threshold, and calibration
==========================================

One evaluation gives the scores at 255 thresholds: the probabilities are counted once. Choose a
threshold on images that are not scored.
"""

import matplotlib.pyplot as plt

import tiledseg as ts
from tiledseg import plots
from tiledseg.metrics import reliability
from tiledseg.samples import smear

smears = [smear(600, 800, seed=seed, cell_px=(150, 300)) for seed in range(3)]
scores = ts.Evaluator().evaluate(ts.load_model("demo"), [(one.image, one.mask) for one in smears])
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
plots.plot_thresholds(scores.threshold_curve(), ax=axes[0])
plots.plot_calibration(reliability(scores.probabilities), ax=axes[1])
