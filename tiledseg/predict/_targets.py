"""Where files are written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tiledseg._validate import invalid, shown
from tiledseg.errors import FileError
from tiledseg.predict._outputs import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path

    from tiledseg.config import PredictConfig, Product

__all__ = ["FOLDERS", "check_targets", "targets_of"]

FOLDERS: dict[Product, str] = {
    "mask": "masks",
    "probs": "probs",
    "overlay": "overlays",
    "coloured": "coloured",
}
"""Folder of each product."""

_OME = {".tif", ".tiff", ".zarr"}  # what may follow a .ome


def targets_of(path: Path, roots: list[Path], output: Path, config: PredictConfig) -> dict[Product, Path]:
    """Name the files to be written for an image."""
    root = next((root for root in roots if root.is_dir() and path.is_relative_to(root)), path.parent)
    place = path.relative_to(root).parent
    name = path.stem.removesuffix(".ome") if path.suffix.lower() in _OME else path.stem
    formats: dict[str, str] = {"mask": config.mask_format, "probs": config.probs_format}
    ends = {what: SUFFIXES[formats.get(what, "png")] for what in config.write}
    return {what: output / FOLDERS[what] / place / (name + end) for what, end in ends.items()}


def check_targets(targets: dict[Path, dict[Product, Path]], config: PredictConfig) -> None:
    """Check that outputs meet neither one another, nor an input, nor an output of before."""
    inputs = {os.path.realpath(path) for path in targets}
    owner: dict[Path, Path] = {}
    standing = []
    for path, products in targets.items():
        for target in products.values():
            if target in owner:
                raise invalid(
                    FileError,
                    str(path),
                    must="have a name of its own",
                    got=f"the output name of {shown(str(owner[target]))}",
                    fix="Rename one of them, or predict them into two folders.",
                )
            if os.path.realpath(target) in inputs:
                raise invalid(
                    FileError,
                    str(target),
                    must="not overwrite an input",
                    got="an image of the same name there",
                    fix="Choose another output folder.",
                )
            owner[target] = path
            standing += [target] if os.path.lexists(target) else []
    if standing and config.existing == "refuse" and not config.resume:
        raise invalid(
            FileError,
            "output",
            must="not hold results already",
            got=f"{len(standing)} of them, the first {shown(str(standing[0]))}",
            fix="Set existing to skip or overwrite, or choose another folder.",
        )
