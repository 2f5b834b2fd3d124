"""Make the README's picture from what `make demo` wrote: input, mask and overlay beside each other."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from tiledseg.io import read_image
from tiledseg.plots import as_rgb

SIZE = (560, 420)  # width and height of each of the three, in px
GAP = np.full((SIZE[1], 12, 3), 255, np.uint8)


def main(demo: str = "demo", target: str = "docs/images/smear.jpg") -> None:
    """Shrink the three pictures, lay them side by side, write them as JPEG."""
    pictures = [as_rgb(read_image(Path(demo) / f"{name}.png")) for name in ("input", "mask", "overlay")]
    small = [cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA) for picture in pictures]
    row = np.hstack([small[0], GAP, small[1], GAP, small[2]])
    _, data = cv2.imencode(".jpg", row[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    Path(target).write_bytes(data.tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
