"""
Cells of an image
=================

``segment`` gives the labels, the objects and their table; ``plot`` draws the outlines over the
image.
"""

import tiledseg as ts
from tiledseg.samples import smear

image = smear(1920, 2560, seed=1, n_cells=9).image  # or the path of a file
result = ts.segment(ts.load_model("demo"), image)
axes = result.plot()
axes.set_title(f"{len(result.objects)} objects")
