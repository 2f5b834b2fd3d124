"""``tiledseg export``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

from tiledseg._storage import new_folder
from tiledseg._validate import invalid, named
from tiledseg.cli.options import Table
from tiledseg.cli.settings import Settings, needed, with_options
from tiledseg.config import ExportConfig
from tiledseg.errors import ArrayError, FileError
from tiledseg.export import write_coco, write_geojson
from tiledseg.io import IGNORED, MaskRules, find_images, mask_of, mask_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tiledseg._types import AnyArray

_log = logging.getLogger("tiledseg")


@with_options(Table("export", ExportConfig(), "Export", without=("inputs",)))
def export(
    *inputs: Annotated[Path, Parameter(help="Mask files, or folders of masks.")], settings: Settings
) -> int:
    """Write the cells of masks for other programs."""
    config = settings.over(settings.run.export, "export")
    files = inputs or tuple(map(Path, needed(config.inputs, "inputs", "export.inputs")))
    paths = find_images(files, recursive=config.recursive)
    _check_stems(paths)
    failed: set[Path] = set()
    names, cell_px, n_cells = config.names, config.cell_px, 0
    with new_folder(needed(config.output, "--output", "export.output")) as folder:
        if "geojson" in config.write:
            for path, labels in _read(paths, config, failed):
                file = folder / "geojson" / f"{path.stem}.geojson"
                n_cells += write_geojson(file, labels, names=names, cell_px=cell_px, image=path.name)
        if "coco" in config.write:
            images = ((path.name, labels) for path, labels in _read(paths, config, failed))
            n_cells = write_coco(folder / "coco.json", images, names=names, cell_px=cell_px)
    sys.stdout.write(f"{n_cells} cells of {len(paths) - len(failed)} masks, {len(failed)} failed\n")
    return 1 if failed else 0


def _check_stems(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise invalid(
                FileError,
                str(path),
                must="have a unique stem",
                got=f"the stem of {seen[path.stem]}",
                fix="Rename one, or export them to different folders.",
            )
        seen[path.stem] = path


def _read(paths: Sequence[Path], config: ExportConfig, failed: set[Path]) -> Iterator[tuple[Path, AnyArray]]:
    """Read masks one by one, and collect those that cannot be read."""
    for path in paths:
        if path not in failed:
            try:
                labels = _labels(path, config)
            except (FileError, ArrayError) as error:
                failed.add(path)
                _log.warning("%s", error)
            else:
                yield path, labels


def _labels(path: Path, config: ExportConfig) -> AnyArray:
    """Read a mask; px that do not count are background."""
    values, lossy = mask_values(
        path, config.mask_threshold, page=config.page, alpha=config.alpha, palette=config.palette
    )
    rules = MaskRules(config.mask_threshold, config.mask_parts, ignore_label=config.ignore_label)
    mask = mask_of(values, named(path), rules, lossy=lossy)
    _log.info("%s: %s", named(path), mask.found)
    ignored = (mask.labels == IGNORED) & (config.ignore_label is not None)
    return np.where(ignored, 0, mask.labels) if ignored.any() else mask.labels
