"""
Measurements of the objects
===========================

The table has a row for each object: area, perimeter, mean intensity and more, in px, and in µm
where the px size is known.
"""

import matplotlib.pyplot as plt

import tiledseg as ts
from tiledseg import plots
from tiledseg.samples import smear

image = smear(1920, 2560, seed=4, cell_px=(120, 260), n_cells=40).image
table = ts.segment(ts.load_model("demo"), image, objects={"min_area": 2000}).objects.table
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
plots.plot_histogram(table, "area", bins=15, ax=axes[0])
axes[1].scatter(table["area"], table["solidity"])
axes[1].set(xlabel="area in px", ylabel="solidity")
