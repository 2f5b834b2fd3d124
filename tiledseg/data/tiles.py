"""Cutting a dataset into a set of tiles on disk."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._progress import progress_bar
from tiledseg._storage import file_digest, first_alike, new_folder
from tiledseg._validate import instance_of, invalid, settings_of
from tiledseg.config import PreprocessingConfig, Record, TileOrigin, TileSetConfig
from tiledseg.data.load import load_both, pixel_size_of_pair, shrink_labels
from tiledseg.data.manifest import Manifest, write_manifest
from tiledseg.data.pairs import each_pair
from tiledseg.data.split import random_rank
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import IGNORED, write_image, write_mask
from tiledseg.preprocess import scaled_length, shrunk
from tiledseg.tiling import Box, Tiler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import AnyArray
    from tiledseg.data.pairs import Pair
    from tiledseg.io import Mask, PixelSize

_log = logging.getLogger("tiledseg")

MANIFEST = "manifest.jsonl"
"""Name of a tile set's manifest in its folder."""

_IGNORED_CELL = 65535
_SUFFIXES = {"png": ".png", "tiff": ".tif"}


@dataclass(frozen=True, slots=True)
class TileSet:
    """A set of tiles on disk.

    Attributes
    ----------
    folder : Path
        The tile set's folder.
    tiles : dict of str to int
        Number of tiles by split.
    dropped : int
        Number of tiles without foreground that were left out.
    """

    folder: Path
    tiles: dict[str, int]
    dropped: int

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {split}".strip() for split, count in self.tiles.items())
        dropped = f"; {self.dropped} empty ones left out" if self.dropped else ""
        return f"{sum(self.tiles.values())} tiles ({counts}){dropped}"


def write_tiles(
    source: Manifest, config: TileSetConfig | dict[str, Any], *, progress: bool = False
) -> TileSet:
    """Cut the images and masks of a manifest into tiles.

    Each tile is ``SPLIT/images/NAME_yROW_xCOLUMN.png``, and its mask has the same name in
    ``SPLIT/masks``; row and column are those of its first px in the image as it is cut, after
    scaling. ``manifest.jsonl`` names all of them, with the image that each was cut from. The
    folder appears only when everything is written.

    Parameters
    ----------
    source : Manifest
        The images, with their groups and splits, which the tiles inherit.
    config : TileSetConfig or dict
        Size, scale, share of empty tiles, format, and the folder.
    progress : bool
        Whether to show progress.

    Returns
    -------
    TileSet
        The folder and the numbers of tiles.

    Raises
    ------
    SettingError
        If an argument is of another type, or `source` has none of the splits from which empty tiles
        are to be left out.
    FileError
        If the folder holds anything, or a file cannot be read or written.
    ArrayError
        If an image does not have 8 or 16 bits, or is neither grey nor RGB where tiles are PNG, or a mask
        does not fit; the message names all of them.
    """
    instance_of(Manifest, source, "source", "Read one with tiledseg.data.Manifest.read.")
    config = settings_of(TileSetConfig, config, "config", optional=False)
    if config.empty_share < 1 and not {*config.empty_splits, ""} & set(source.splits):
        raise invalid(
            SettingError,
            "empty_splits",
            must=f"name a split of {', '.join(source.splits) or 'the data'}",
            got=config.empty_splits,
            fix="Name one, or keep all empty tiles with empty_share=1.",
        )
    with (
        new_folder(config.output) as folder,
        progress_bar(len(source.records), "images", shown=progress) as step,
    ):
        _check_spellings(folder, source)
        writer = _Writer(folder, config)
        records = {record.name: record for record in source.records}

        def one(pair: Pair) -> None:
            writer.add(records[pair.name], pair)
            step(1)

        each_pair(source.pairs(), one)
        write_manifest(folder / MANIFEST, writer.records)
    if writer.n_unsized and config.scale != 1:
        _log.warning(
            "%d of %d images state no px size, so nothing will say that their tiles are shrunk: for a "
            "network that is trained on them set preprocessing.scale=%g before it predicts whole images.",
            writer.n_unsized,
            len(source.records),
            config.scale,
        )
    counts = Counter(record.split for record in writer.records)
    return TileSet(Path(config.output), {split: counts[split] for split in source.splits}, writer.dropped)


def _check_spellings(folder: Path, source: Manifest) -> None:
    """Refuse names of images whose tiles the file system of the folder would take for the same."""
    if (found := first_alike(folder, [record.name for record in source.records])) is not None:
        fix = "Rename one of them, and split the data again."
        raise invalid(FileError, found[1], must="have a name of its own", got=f"that of {found[0]}", fix=fix)


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """A tile before it is written."""

    name: str
    origin: TileOrigin
    image: AnyArray
    mask: AnyArray  # labels, or numbers of cells
    ignored: int | None  # the label of px that do not count
    pixel_size: PixelSize | None

    @property
    def foreground(self) -> AnyArray:
        """Which px are foreground."""
        return np.asarray((self.mask != 0) & (self.mask != self.ignored) if self.ignored else self.mask != 0)


@dataclass(slots=True)
class _Writer:
    """Writes the tiles image by image, and collects their records."""

    folder: Path
    config: TileSetConfig
    records: list[Record] = field(default_factory=list)
    dropped: int = 0
    n_unsized: int = 0  # images whose px size is not known
    _empty: Counter[str] = field(default_factory=Counter)  # tiles without foreground, by split
    _written_empty: Counter[str] = field(default_factory=Counter)  # those of them that were written

    def add(self, record: Record, pair: Pair) -> None:
        """Cut one image, and write its tiles."""
        cut = list(_cut(record, pair, self.config))
        self.n_unsized += any(tile.pixel_size is None for tile in cut)
        for tile in self._chosen(cut, record.split):
            self.records.append(self._written(tile, record))

    def _chosen(self, tiles: list[_Tile], split: str) -> list[_Tile]:
        """Leave empty tiles out at random; the share of those written holds over all images of a split."""
        empty = [tile for tile in tiles if not tile.foreground.any()]
        if split not in {*self.config.empty_splits, ""} or not empty:
            return tiles
        self._empty[split] += len(empty)
        chosen = round(self.config.empty_share * self._empty[split]) - self._written_empty[split]
        self._written_empty[split] += chosen
        self.dropped += len(empty) - chosen
        ranked = sorted(empty, key=lambda tile: random_rank(tile.name, self.config.seed))
        left_out = {tile.name for tile in ranked[chosen:]}
        return [tile for tile in tiles if tile.name not in left_out]

    def _written(self, tile: _Tile, source: Record) -> Record:
        cells = source.mask_parts == "instances"
        merged = source.mask_parts == "merged" and source.mask_threshold is not None
        cut = merged and not source.class_names and tile.ignored is None
        file = tile.name + _SUFFIXES[self.config.image_format]
        image, mask = (f"{source.split}/{kind}/{file}".lstrip("/") for kind in ("images", "masks"))
        write_image(self.folder / image, tile.image, pixel_size=tile.pixel_size)
        write_mask(self.folder / mask, tile.mask, foreground=255 if cut else None, pixel_size=tile.pixel_size)
        n_ignored = 0 if tile.ignored is None else int(np.count_nonzero(tile.mask == tile.ignored))
        return Record(
            name=tile.name,
            image=image,
            masks=(mask,),
            group=source.group,
            split=source.split,
            height=tile.mask.shape[0],
            width=tile.mask.shape[1],
            foreground=float(np.count_nonzero(tile.foreground) / max(1, tile.mask.size - n_ignored)),
            digest=file_digest(self.folder / image),
            mask_digests=(file_digest(self.folder / mask),),
            mask_threshold=128 if cut else None,
            mask_parts="instances" if cells else "merged",
            mask_found=source.mask_found,
            ignore_label=tile.ignored,
            ignored=n_ignored / tile.mask.size,
            origin=tile.origin,
        )


def _cut(record: Record, pair: Pair, config: TileSetConfig) -> Iterator[_Tile]:
    image, truth = load_both(pair)
    mask, ignored = _stored(truth, pair)
    if image.dtype.kind != "u":
        raise invalid(
            ArrayError,
            record.image,
            must="be of 8 or 16 bits to be cut into tiles on disk",
            got=str(image.dtype),
            fix="Convert it; training crops from the images themselves and needs no tiles.",
        )
    tiler, size = Tiler(config.tiling), pixel_size_of_pair(pair)
    small, labels = _shrunk(image, mask, config.scale)
    for tile in tiler.grid(labels.shape):
        box = tile.read_box
        origin = _origin(record, config.scale, box.y0, box.x0)
        name = f"{record.name}_y{box.y0:05d}_x{box.x0:05d}"
        yield _Tile(name, origin, *_read(tiler, small, labels, box), ignored, _shrunk_px(size, mask, labels))
    if config.thumbnails:
        height, width = config.tiling.tile_shape
        scale = min(1.0, height / mask.shape[0], width / mask.shape[1])
        whole = Box(0, height, 0, width)
        small, labels = _shrunk(image, mask, scale)
        px, origin = _shrunk_px(size, mask, labels), _origin(record, scale, 0, 0, thumbnail=True)
        yield _Tile(f"{record.name}_whole", origin, *_read(tiler, small, labels, whole), ignored, px)


def _stored(truth: Mask, pair: Pair) -> tuple[AnyArray, int | None]:
    """Give what the masks of tiles hold, and their label of px that do not count."""
    mask, ignored = truth.labels, IGNORED
    if pair.mask_parts == "instances" and truth.cells is not None:
        mask, ignored = truth.cells.astype(np.int64), _IGNORED_CELL
        if pair.ignores:  # a cell of that number gets another one
            mask[mask == ignored] = max(ignored, int(mask.max(initial=0))) + 1
        mask[truth.labels == IGNORED] = ignored
    return mask, ignored if pair.ignores else None


def _read(tiler: Tiler, image: AnyArray, mask: AnyArray, box: Box) -> tuple[AnyArray, AnyArray]:
    pixels = tiler.read(image, box)
    return pixels[..., 0] if image.ndim == 2 else pixels, _in_16_bits(tiler.read(mask, box)[..., 0])


def _in_16_bits(mask: AnyArray) -> AnyArray:
    """Give the cells of a tile other numbers where one is too large for its file."""
    if int(mask.max(initial=0)) <= _IGNORED_CELL:
        return mask
    values, places = np.unique(mask, return_inverse=True)
    kept = np.isin(values, (0, _IGNORED_CELL))
    return np.where(kept, values, np.cumsum(~kept))[places].reshape(mask.shape)


def _shrunk(image: AnyArray, mask: AnyArray, scale: float) -> tuple[AnyArray, AnyArray]:
    """Shrink an image as for training, but keep its dtype; the mask takes the label at each centre."""
    shape = (scaled_length(image.shape[0], scale), scaled_length(image.shape[1], scale))
    if shape == image.shape[:2]:
        return image, mask
    channels = image.shape[2] if image.ndim == 3 else 1
    settings = PreprocessingConfig.model_validate(
        {"dtype": image.dtype.name, "channels": channels, "scale": scale}
    )
    small = shrunk(image, settings)
    return small[..., 0] if image.ndim == 2 else small, shrink_labels(mask, shape)


def _shrunk_px(size: PixelSize | None, mask: AnyArray, small: AnyArray) -> PixelSize | None:
    """Find the size of a px of a smaller copy."""
    return size and size.shrunk(mask.shape[0] / small.shape[0], mask.shape[1] / small.shape[1])


def _origin(record: Record, scale: float, y: int, x: int, *, thumbnail: bool = False) -> TileOrigin:
    return TileOrigin(
        image=record.name,
        digest=record.source,
        height=record.height,
        width=record.width,
        scale=scale,
        y=y,
        x=x,
        thumbnail=thumbnail,
    )
