"""Make the picture of `augmentation.md`: crops of a generated smear, and the default set on them."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from tiledseg.config import PreprocessingConfig, augmenting
from tiledseg.data import CropSampler, Pair, prepare_pair
from tiledseg.plots import overlay
from tiledseg.samples import smear

SIZE, SHOWN, COLUMNS = 512, 220, 4


def main(target: str = "docs/images/augmentation.jpg") -> None:
    """Tint the mask on each crop; above the crops as they are, below as they are changed."""
    sample = smear(1536, 2048, seed=3)
    prepared = prepare_pair(Pair("smear", sample.image, sample.mask), PreprocessingConfig())
    lines = []
    for name in ("none", "default"):
        sampler = CropSampler(
            [prepared],
            (SIZE, SIZE),
            length=COLUMNS,
            foreground_share=1.0,
            transforms=augmenting(name, 3),
            seed=1,
        )
        images, masks = sampler.batch(0, range(COLUMNS))
        lines.append(np.hstack([_picture(*crop) for crop in zip(images, masks[..., 0], strict=True)]))
    _, data = cv2.imencode(".jpg", np.vstack(lines)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    Path(target).write_bytes(data.tobytes())


def _picture(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    pixels = np.rint(image * 255).astype(np.uint8)
    drawn = overlay(pixels, mask.astype(np.uint8))
    small = cv2.resize(drawn, (SHOWN, SHOWN), interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(small, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))


if __name__ == "__main__":
    main(*sys.argv[1:])
