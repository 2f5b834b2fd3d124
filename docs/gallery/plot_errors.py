"""
What is right, missed and too much
==================================

``error_overlay`` paints px by truth and prediction: found, false and missed. It needs no
matplotlib.
"""

import matplotlib.pyplot as plt

import tiledseg as ts
from tiledseg.metrics import count
from tiledseg.plots import error_overlay
from tiledseg.samples import smear

sample = smear(1920, 2560, seed=2, n_cells=9)
mask = ts.tiled_predict(ts.load_model("demo"), sample.image, output="mask")
axes = plt.subplots(figsize=(7, 5), layout="constrained")[1]
axes.imshow(error_overlay(sample.image, mask, sample.mask))
axes.set_title(f"Dice {count(sample.mask, mask).dice:.3f}")
axes.axis("off")
