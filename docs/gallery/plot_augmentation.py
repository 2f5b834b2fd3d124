"""
Augmented crops
===============

Training takes random crops. Transforms move image and mask by one displacement field, and change
the values of the image alone.
"""

import matplotlib.pyplot as plt
import numpy as np

from tiledseg.config import PreprocessingConfig, augmenting
from tiledseg.data import CropSampler, Pair, prepare_pair
from tiledseg.plots import overlay
from tiledseg.samples import smear

sample = smear(768, 1024, seed=3)
pair = prepare_pair(Pair("smear", sample.image, sample.mask), PreprocessingConfig())
figure, axes = plt.subplots(2, 4, figsize=(10, 5), layout="constrained")
for row, name in zip(axes, ("none", "default"), strict=True):
    sampler = CropSampler(
        [pair], (256, 256), length=4, foreground_share=1.0, transforms=augmenting(name, 3), seed=1
    )
    images, masks = sampler.batch(0, range(4))
    for ax, crop, mask in zip(row, images, masks, strict=True):
        ax.imshow(overlay(np.rint(crop * 255).astype(np.uint8), mask[..., 0].astype(np.uint8)))
        ax.axis("off")
    row[0].set_title(f"augment={name!r}", loc="left")
