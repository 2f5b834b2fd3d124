"""
Weights of the tiles
====================

Along each axis every tile has a window. The windows of all tiles sum to exactly one at each px, so
a map of ones comes back as ones, to the bit. Here a tile is made visible: the predictor returns one
for a single tile, and zero for the others.
"""

import matplotlib.pyplot as plt
import numpy as np

import tiledseg as ts

shape = (256, 700)
figure, axes = plt.subplots(3, 1, sharex=True, sharey=True, figsize=(7, 5), layout="constrained")
for ax, blend in zip(axes, ("crop", "linear", "gaussian"), strict=True):
    tiler = ts.Tiler(ts.TilingConfig(tile_size=256, overlap=64, blend=blend))
    grid = tiler.grid(shape)
    for tile in range(len(grid)):
        stitcher = ts.Stitcher(grid, n_channels=1)
        for batch in tiler.batches(np.zeros((*shape, 1), np.float32), batch_size=8):
            maps = np.zeros((*batch.tiles.shape[:3], 1), np.float32)
            maps[np.asarray(batch.ids) == tile] = 1
            stitcher.add(batch.ids, maps)
        ax.plot(stitcher.merge()[128, :, 0])
    ax.set_ylabel("weight")
    ax.set_title(blend, loc="left")
axes[-1].set_xlabel("x in px")
