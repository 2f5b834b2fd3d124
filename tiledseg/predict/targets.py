"""Where the results of image files go, and what they never replace: images, one another, earlier results."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from tiledseg._storage import check_writable, first_alike, is_folder, remove_parts
from tiledseg._validate import invalid, shown
from tiledseg.config import OBJECT_PRODUCTS
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tiledseg.config import PredictConfig, Product

FOLDERS: dict[Product, str] = {
    "mask": "masks",
    "probs": "probs",
    "overlay": "overlays",
    "coloured": "coloured",
    "labels": "labels",
    "objects": "objects",
    "geojson": "geojson",
    "coco": "coco",
    "roi": "roi",
}
"""Folder of each product."""

_SUFFIXES = {
    "png": ".png",
    "tiff": ".tif",
    "ome-tiff": ".ome.tif",
    "ome-zarr": ".ome.zarr",
    "npy": ".npy",
    "csv": ".csv",
    "parquet": ".parquet",
    "geojson": ".geojson",
    "coco": ".json",
    "roi": ".zip",
}
_OME = {".tif", ".tiff", ".zarr"}  # what may follow a .ome


def targets_of(path: Path, roots: list[Path], output: Path, config: PredictConfig) -> dict[Product, Path]:
    """Name the files to be written for an image."""
    root = next((root for root in roots if is_folder(root) and path.is_relative_to(root)), path.parent)
    place = path.relative_to(root).parent
    name = path.stem.removesuffix(".ome") if path.suffix.lower() in _OME else path.stem
    ends = {what: _SUFFIXES[format_of(what, config)] for what in config.write}
    if config.formats.compress and "geojson" in ends:
        ends["geojson"] += ".gz"
    return {what: output / FOLDERS[what] / place / (name + end) for what, end in ends.items()}


def check_targets(targets: dict[Path, dict[Product, Path]], config: PredictConfig) -> None:
    """Check that outputs meet neither one another, nor an input, nor an output of before."""
    inputs = {identity: path for path in targets for identity in _identities(path)}
    owner: dict[Path, Path] = {}
    standing = []
    for path, products in targets.items():
        for target in products.values():
            if target in owner:
                raise _same_name(path, owner[target])
            if own := inputs.keys() & _identities(target):
                got = f"{shown(str(inputs[own.pop()]))}, which is the same file, by its path or by a link"
                fix = "Choose another output folder, or remove the link."
                raise invalid(FileError, str(target), must="not overwrite an input", got=got, fix=fix)
            owner[target] = path
            standing += [target] if os.path.lexists(target) else []
    if standing and config.existing == "refuse" and not config.resume:
        raise invalid(
            FileError,
            "output",
            must="not hold results already",
            got=f"{len(standing)} of them, the first {shown(str(standing[0]))}",
            fix='Set existing="skip" or existing="overwrite", or choose another folder.',
        )


def _identities(path: Path) -> set[object]:
    """Say how a file is recognised: by its path without links and by its number."""
    found: set[object] = {os.path.realpath(path)}
    with suppress(OSError):
        status = path.stat()
        found |= {(status.st_dev, status.st_ino)} if status.st_ino else set()
    return found


def _same_name(path: Path, other: Path) -> FileError:
    return invalid(
        FileError,
        str(path),
        must="have a name of its own",
        got=f"the output name of {shown(str(other))}",
        fix="Rename one of them, or predict them into two folders.",
    )


def check_inputs(images: Iterable[Path], roots: Iterable[Path], folder: Path, config: PredictConfig) -> None:
    """Refuse results of earlier runs that a search through all folders takes for images."""
    home = os.path.realpath(folder)
    above = [root for root in roots if _is_within(home, os.path.realpath(root))]
    if not (config.recursive and above):
        return
    places = [os.path.join(home, one) for one in FOLDERS.values()]  # noqa: PTH118
    for path in images:
        if any(_is_within(os.path.realpath(path), place) for place in places):
            must = "lead to no results, of which new results would be made"
            fix = f"Choose an output folder outside {shown(str(above[0]))}, or name folders without results."
            raise invalid(FileError, "inputs", must=must, got=str(path), fix=fix)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))  # noqa: PTH118


def check_spellings(folder: Path, targets: dict[Path, dict[Product, Path]]) -> None:
    """Refuse names that the file system of the output folder takes for one."""
    owner = {
        str(target.relative_to(folder)): path
        for path, products in targets.items()
        for target in products.values()
    }
    if (found := first_alike(folder, owner)) is not None:
        raise _same_name(owner[found[1]], owner[found[0]])


def check_folders(folder: Path, targets: dict[Path, dict[Product, Path]], config: PredictConfig) -> None:
    """Check that products can be written; remove the parts of files that a killed run left."""
    for what in config.write:
        check_writable(folder / FOLDERS[what])
    for place in {target.parent for products in targets.values() for target in products.values()}:
        remove_parts(place)


def format_of(what: Product, config: PredictConfig) -> str:
    """Return the format of a product."""
    formats: dict[str, str] = {
        "mask": config.mask_format,
        "probs": config.probs_format,
        "labels": config.labels_format,
        "objects": config.table_format,
    }
    return formats.get(what, what if what in OBJECT_PRODUCTS else "png")
