"""
Cells that touch
================

Touching cells are one connected area. The watershed of the distance from the background divides
them.
"""

import cv2
import matplotlib.pyplot as plt
import numpy as np

from tiledseg import plots
from tiledseg.objects import label_objects

mask = np.zeros((240, 420), np.uint8)
for x, y, radius in ((80, 110, 60), (180, 120, 55), (270, 110, 60), (360, 160, 45)):
    cv2.circle(mask, (x, y), radius, 1, -1)

figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for ax, split in zip(axes, ("none", "watershed"), strict=True):
    objects = label_objects(mask, {"split": split})
    plots.plot_labels(objects.labels, ax=ax)
    ax.set_title(f"split={split!r}: {len(objects)} objects")
