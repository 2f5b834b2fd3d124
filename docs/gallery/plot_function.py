"""
Any function as a network
=========================

A model may be any function from tiles (N, h, w, C) to maps (N, h, w, K): a filter, another library,
a call over the network.
"""

import cv2
import matplotlib.pyplot as plt
import numpy as np

import tiledseg as ts
from tiledseg.samples import smear

image = smear(600, 800, seed=5).image


def edges(tiles):
    """Return the strength of edges, in [0, 1]."""
    grey = tiles.mean(axis=-1)
    found = [np.hypot(cv2.Sobel(one, -1, 1, 0), cv2.Sobel(one, -1, 0, 1)) for one in grey]
    return np.clip(np.stack(found)[..., np.newaxis] / 400, 0, 1)


tiled = ts.tiled_predict(edges, image, {"tile_size": 256, "overlap": 32, "blend": "crop"})
whole = edges(image[np.newaxis].astype(np.float32))[0]
axes = plt.subplots(figsize=(7, 5), layout="constrained")[1]
axes.imshow(tiled[..., 0], cmap="gray")
axes.set_title(f"largest difference from the whole image: {np.abs(tiled - whole).max():.1g}")
axes.axis("off")
