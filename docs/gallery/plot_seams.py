"""
Where are the seams?
====================

Neighbouring tiles predict the px of their overlap twice. Where the two disagree, a seam may be
seen. ``seams=True`` measures it on your own image, while it is predicted.
"""

import matplotlib.pyplot as plt

import tiledseg as ts
from tiledseg import plots
from tiledseg.samples import smear

image = smear(1920, 2560, seed=1, n_cells=9).image
segmenter = ts.load_model("demo")
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for ax, overlap in zip(axes, (8, 32), strict=True):
    result = ts.segment(segmenter, image, {"tile_size": 64, "overlap": overlap}, seams=True)
    plots.plot_seams(result.seams, ax=ax)
    ax.set_title(f"overlap {overlap} px: mean disagreement {result.seams.score:.4f}")
