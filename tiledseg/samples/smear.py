"""The whole photograph: the positions and the order of its cells; smears as files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._storage import check_writable
from tiledseg._validate import invalid, path_text, real_pair, whole_number
from tiledseg.errors import SettingError
from tiledseg.io import write_image, write_mask
from tiledseg.samples.slide import (
    BLAST,
    LYMPHOCYTE,
    NEUTROPHIL,
    PLASMA,
    SMUDGE,
    Cell,
    developed,
    draw_stain,
    film,
    paint_cell,
    paint_red,
    scatter_debris,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiledseg._types import FloatArray, PathLike

_SHORTEST = 64
_MOST_PX = 2**28  # about 10 GiB of memory
_MOST_CELLS = 10_000
_SHARES = (0.13, 0.21)  # of the short side: 250 to 400 px at 1920
_OTHERS = (LYMPHOCYTE, LYMPHOCYTE, NEUTROPHIL, BLAST, SMUDGE)


@dataclass(frozen=True, slots=True)
class Smear:
    """A made-up photograph of a bone-marrow smear with its masks.

    Attributes
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        RGB.
    mask : ndarray of uint8, shape (H, W)
        1 in plasma cells (nucleus and cytoplasm), 0 elsewhere.
    instances : ndarray of uint16, shape (H, W)
        The same cells numbered from 1; where two overlap, the later one lies on top.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint16]


def smear(
    height: int = 1920,
    width: int = 2560,
    *,
    seed: int = 0,
    cell_px: tuple[float, float] | None = None,
    n_cells: int | None = None,
) -> Smear:
    """Make up a photograph of a stained bone-marrow smear, with a mask of its plasma cells.

    Plasma cells have an eccentric purple nucleus, blue cytoplasm and a pale zone between.
    Red cells, lymphocytes, neutrophils, blasts, bare nuclei, platelets and dirt are in the image
    but not in the mask. Stain, light and crowding differ from seed to seed.

    Parameters
    ----------
    height, width : int
        Size in px, each at least 64, with at most 2**28 px in all.
    seed : int
        Seed of the image, at least 0; the same seed gives the same image.
    cell_px : tuple of float, optional
        Smallest and largest diameter of a plasma cell in px, at least 4. By default 0.13 and 0.21
        of the short side, as in a photograph at high magnification, whatever its size.
    n_cells : int, optional
        Number of plasma cells, in [0, 10000]. The middle of each is in the image. By default as many
        as cover 5 to 16 % of it, and at least one.

    Returns
    -------
    Smear
        Image, mask and numbered cells.

    Raises
    ------
    SettingError
        If a value is out of its range.

    Examples
    --------
    >>> from tiledseg.samples import smear
    >>> sample = smear(96, 128, seed=1)
    >>> sample.image.shape, sample.image.dtype, sample.mask.shape
    ((96, 128, 3), dtype('uint8'), (96, 128))
    """
    height, width = whole_number("height", height, _SHORTEST), whole_number("width", width, _SHORTEST)
    seed = whole_number("seed", seed, 0)
    if height * width > _MOST_PX:
        raise invalid(
            SettingError,
            "height * width",
            must=f"be at most {_MOST_PX} px",
            got=height * width,
            fix="Make several images.",
        )
    if n_cells is not None:
        n_cells = whole_number("n_cells", n_cells, 0, _MOST_CELLS)
    sizes = _sizes((height, width), cell_px)
    cell, rng = sum(sizes) / 2, np.random.default_rng(seed)
    stain = draw_stain(rng)
    dyes = film(rng, (height, width), cell, stain.film)
    labels = np.zeros((height, width), np.uint16)
    _paint_reds(rng, dyes, cell)
    scatter_debris(rng, dyes, cell)
    for one in _placed(rng, (height, width), sizes, n_cells):
        paint_cell(rng, dyes, labels, one)
    image = developed(rng, dyes, stain, cell)
    return Smear(image.astype(np.uint8, copy=False), (labels > 0).astype(np.uint8), labels)


def _sizes(shape: tuple[int, int], cell_px: tuple[float, float] | None) -> tuple[float, float]:
    """Return the smallest and the largest diameter in px."""
    if cell_px is None:
        return (_SHARES[0] * min(shape), _SHARES[1] * min(shape))
    must = "be (smallest, largest), in px, at least 4"
    fix = "Use (250, 400) for a photograph of 2560x1920 px."
    sizes = real_pair("cell_px", cell_px, must, fix)
    if not 4 <= sizes[0] <= sizes[1]:
        raise invalid(SettingError, "cell_px", must=must, got=cell_px, fix=fix)
    return sizes


def _paint_reds(rng: np.random.Generator, dyes: FloatArray, cell: float) -> None:
    """Paint the red cells: loose ones and chains of them."""
    height, width = dyes.shape[:2]
    area, together = height * width / cell**2, rng.uniform(1, 6)
    for _ in range(math.ceil(rng.uniform(0.3, 1.3) * area / together)):
        y, x = rng.uniform(0, (height, width))
        blur = max(rng.normal(0.004, 0.006), 0) * cell
        heading = rng.uniform(0, 2 * np.pi)
        for _ in range(rng.poisson(together) + 1):
            diameter = cell * rng.normal(0.5, 0.035)
            paint_red(rng, dyes, (y, x), diameter, blur)
            heading += rng.normal(0, 0.6)
            step = diameter * rng.uniform(0.45, 0.95)
            y, x = y + step * math.sin(heading), x + step * math.cos(heading)


def _placed(
    rng: np.random.Generator, shape: tuple[int, int], sizes: tuple[float, float], n_cells: int | None
) -> list[Cell]:
    """Draw the nucleated cells and their positions; plasma cells come last, so that they lie on top."""
    area = shape[0] * shape[1] / (math.pi / 4 * (sum(sizes) / 2) ** 2)  # in cells
    drawn = max(1, round(rng.uniform(0.05, 0.16) * area))
    n_plasma = drawn if n_cells is None else n_cells
    n_others = max(1, round(rng.uniform(0.04, 0.2) * area))
    looks = [PLASMA] * n_plasma + [_OTHERS[i] for i in rng.integers(0, len(_OTHERS), n_others)]
    cells: list[Cell] = []
    for number, look in enumerate(looks, start=1):
        diameter = rng.uniform(*sizes) * rng.uniform(*look.size)
        y, x = _free_place(rng, shape, cells, diameter)
        cells.append(Cell(look, y, x, diameter, number if number <= n_plasma else 0))
    return cells[n_plasma:] + cells[:n_plasma]


def _free_place(
    rng: np.random.Generator, shape: tuple[int, int], cells: list[Cell], diameter: float
) -> tuple[float, float]:
    """Find a position where a cell touches no other, or else the emptiest of 60."""
    places = rng.uniform(0, shape, (60, 2))
    if not cells:
        return (float(places[0, 0]), float(places[0, 1]))
    taken = np.array([(cell.y, cell.x, cell.diameter) for cell in cells])
    apart = np.hypot(places[:, None, 0] - taken[:, 0], places[:, None, 1] - taken[:, 1])
    gap = (apart - 0.55 * (taken[:, 2] + diameter)).min(axis=1)
    best = int(np.argmax(gap > 0)) if (gap > 0).any() else int(gap.argmax())
    return (float(places[best, 0]), float(places[best, 1]))


def write_samples(  # noqa: PLR0913  the settings of `smear`, and the number
    folder: PathLike,
    *,
    n_images: int = 8,
    height: int = 1920,
    width: int = 2560,
    seed: int = 0,
    cell_px: tuple[float, float] | None = None,
    n_cells: int | None = None,
) -> list[Path]:
    """Write smears as ``images/smear_SEED.png`` and ``masks/smear_SEED.png``.

    Parameters
    ----------
    folder : str or PathLike
        Folder that gets the folders ``images`` and ``masks``, if they do not exist yet. Files of
        the same name are replaced.
    n_images : int
        Number of pairs, at least 1.
    height, width : int
        Size in px, each at least 64.
    seed : int
        Seed of the first smear, at least 0; the others have the next seeds. Two sets share no
        smear if their seeds differ by at least `n_images`.
    cell_px : tuple of float, optional
        Smallest and largest diameter of a plasma cell in px; see `smear`.
    n_cells : int, optional
        Number of plasma cells in each; see `smear`.

    Returns
    -------
    list of Path
        The images. Each mask has 255 in plasma cells and 0 elsewhere.

    Raises
    ------
    SettingError
        If a setting is out of its range.
    FileError
        If a file cannot be written.
    """
    n_images = whole_number("n_images", n_images)
    seed = whole_number("seed", seed, 0)
    root = Path(path_text(folder))
    images, masks = check_writable(root / "images"), check_writable(root / "masks")
    written = []
    for number in range(seed, seed + n_images):
        sample = smear(height, width, seed=number, cell_px=cell_px, n_cells=n_cells)
        name = f"smear_{number:04d}.png"
        write_mask(masks / name, sample.mask)
        write_image(images / name, sample.image)
        written.append(images / name)
    return written
