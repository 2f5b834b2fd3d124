"""Made-up photographs as files, in the layout that training and evaluation read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._storage import check_writable
from tiledseg._validate import path_text, whole_number
from tiledseg.io import write_image, write_mask
from tiledseg.samples._smear import smear

if TYPE_CHECKING:
    from tiledseg._types import PathLike

__all__ = ["write_samples"]


def write_samples(  # noqa: PLR0913  the settings of `smear`, and how many
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
        Where the folders ``images`` and ``masks`` are made, or added to. Files of the same name
        are replaced.
    n_images : int
        Number of pairs, at least 1.
    height, width : int
        Size in px, each at least 64.
    seed : int
        Seed of the first smear, at least 0; the next have the seeds that follow. So two sets
        share no smear where their seeds are `n_images` or more apart.
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
