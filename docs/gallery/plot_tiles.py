"""
The tiles of an image
=====================

``plan`` says before a prediction which tiles there are, how much memory they need, and whether
tiled equals whole. Here the borders between the tiles are drawn over the image.
"""

import tiledseg as ts
from tiledseg import plots
from tiledseg.samples import smear

image = smear(1920, 2560, seed=1, n_cells=9).image
plan = ts.plan(ts.load_model("demo"), image, {"tile_size": 96, "overlap": 16})
axes = plots.plot_tiles(plan, image)
axes.set_title(f"{plan.n_tiles} tiles, {plan.verdict}")
