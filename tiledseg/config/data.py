"""Settings of data: where it is, how it is split, cut into tiles and shown; the lines of a manifest."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from tiledseg._storage import check_component
from tiledseg._validate import invalid
from tiledseg.config.base import Config
from tiledseg.config.fields import Count, Names, Pair, Positive, Regex, Seed, Share, as_numbers
from tiledseg.config.files import MaskConfig, ReadConfig
from tiledseg.config.tiling import TilingConfig, _Fraction, _Pixels
from tiledseg.errors import FileError, SettingError

_READING = {*ReadConfig.model_fields, *MaskConfig.model_fields}
_HONOURED = {
    "folders": {"images", "masks"} | _READING,
    "segpc": {"path"} | _READING,
    "list": {"path"} | _READING,
    "manifest": {"path", "split", "verify"},
}


class DataConfig(ReadConfig, MaskConfig):
    """Where images and their masks are found."""

    layout: Literal["folders", "segpc", "list", "manifest"] = "folders"
    """How the data is stored: a folder of images and one of masks; ``x/NAME.bmp`` with one mask per cell in
    ``y/NAME_1.bmp``, …; a table of pairs; a manifest that a split was written to."""
    images: str = "images"
    """Folder of images, for the layout ``folders``."""
    masks: str = "masks"
    """Folder of masks or outlines (GeoJSON, ImageJ ROI, COCO), paired with the images by stem; or one COCO
    file of all images. For the layout ``folders``."""
    path: str | None = None
    """For the other layouts: the folder that holds ``x`` and ``y``; a ``.csv`` or ``.tsv`` file with the
    columns image and mask; the manifest."""
    split: str | None = None
    """Which split of a manifest is taken, for example ``train``; None for all."""
    verify: bool = True
    """Whether the files of a manifest are compared with the digests in it."""
    problems: Literal["refuse", "skip"] = "refuse"
    """What to do about files that cannot be used: refuse all, or leave them out with a warning."""

    @model_validator(mode="before")
    @classmethod
    def _cut(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("layout") == "segpc" and "mask_threshold" not in data:
            return data | {"mask_threshold": 1}
        return data

    def _check(self) -> None:
        super()._check()
        honoured = _HONOURED[self.layout] | {"layout", "problems"}
        for name, field in type(self).model_fields.items():
            if name not in honoured and getattr(self, name) != field.default:
                raise invalid(
                    SettingError,
                    name,
                    must=f"be left out with layout={self.layout}, where it is not used",
                    got=getattr(self, name),
                    fix=f"Take it out, or choose a layout of {', '.join(_layouts_with(name))}.",
                )
        if "path" in honoured and self.path is None:
            raise self._invalid(
                "path",
                f"be given with layout={self.layout}",
                "Name the folder that holds x and y, the table, or the manifest.",
            )


def _layouts_with(name: str) -> list[str]:
    return [layout for layout, honoured in _HONOURED.items() if name in honoured]


_THREE: tuple[tuple[str, ...], tuple[float, ...]] = (("train", "valid", "test"), (80, 15, 5))
_TWO: tuple[tuple[str, ...], tuple[float, ...]] = (("train", "valid"), (80, 20))


class SplitConfig(Config):
    """How a dataset is split: by source image, or by groups of them that stay together."""

    names: Names = _THREE[0]
    """Names of the splits."""
    shares: Annotated[tuple[Positive, ...], as_numbers] = _THREE[1]
    """Share of the images that goes into each split; they are divided by their sum."""
    group_by: Literal["image", "regex", "run"] = "image"
    """What stays together: nothing but an image; images in whose names ``group_regex`` finds the same
    text; images whose names end in neighbouring numbers, as those of one slide often do."""
    group_regex: Regex | None = None
    r"""Regular expression for ``group_by="regex"``, as in ``^slide(\d+)``; its first group, or all that it
    finds, names the group."""
    run_gap: Count = 1
    """For ``group_by="run"``: numbers at most this far apart belong to one run."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """For cross-validation: number of equal parts, in place of `names` and `shares`. One of them is the
    split valid, the others are train. None for splits of those shares."""
    fold: Count | None = None
    """Which of the `folds` is valid, from 1; None for each in turn, which ``tiledseg split`` does."""
    stratify: bool = True
    """Whether the splits get images of all foreground shares alike."""
    seed: Seed = 0
    """Seed of the random numbers."""
    manifest: str = "manifest.jsonl"
    """File that ``tiledseg split`` writes, JSON lines; paths in it are relative to its folder. With `folds`
    one for each fold, as in ``manifest_1.jsonl``."""

    def _check(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names) or not all(map(_is_name, self.names)):
            raise self._invalid(
                "names", "be different words of letters, digits, - and _", "Use for example train,valid,test."
            )
        if len(self.shares) != len(self.names):
            raise self._invalid(
                "shares",
                f"have one share for each of the {len(self.names)} splits {', '.join(self.names)}",
                "Give as many shares as names.",
            )
        if (self.group_by == "regex") != (self.group_regex is not None):
            raise self._invalid(
                "group_regex",
                "be given with group_by=regex, and only then",
                r"Set both, as in group_by=regex and group_regex=^slide(\d+).",
            )
        self._check_folds()

    def _check_folds(self) -> None:
        """Check that a fold is one of the folds, which take the place of shares."""
        if self.fold is not None and not self.fold <= (self.folds or 0):
            must, fix = "be one of the folds, whose number is `folds`", "Set for example folds=5 and fold=1."
            raise self._invalid("fold", must, fix)
        if self.folds is not None and (self.names, self.shares) not in (_THREE, _TWO):
            fix = "Leave them out, or leave folds out."
            raise self._invalid("shares", f"be left out with folds={self.folds}, as names must", fix)


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w-]*", name, re.ASCII) is not None


class TileSetConfig(Config):
    """How a dataset is cut into a set of tiles on disk."""

    tile_size: Pair = 512
    """Tile height and width in px, (y, x); one number for both; ``"256x384"`` as text."""
    overlap: Annotated[_Pixels | _Fraction | tuple[_Pixels, _Pixels], as_numbers] = 0
    """Least overlap of neighbours: whole numbers are px, a float is a fraction of the tile."""
    pad_mode: Literal["reflect", "symmetric", "edge", "wrap"] = "reflect"
    """How an image smaller than a tile is padded, in NumPy's terms."""
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor in (0, 1] by which an image is shrunk (area average) before it is cut into tiles."""
    empty_share: Share = 1.0
    """Share of the tiles without foreground that is kept, in [0, 1]."""
    empty_splits: Names = ("train",)
    """The splits to which `empty_share` applies; the others keep all tiles, so that false positives there
    are scored. It applies to data that is not split, too."""
    thumbnails: bool = False
    """Whether each whole image, shrunk into one tile, is added."""
    image_format: Literal["png", "tiff"] = "png"
    """Format of the tiles; both are lossless."""
    seed: Seed = 0
    """Seed of the random choice among empty tiles."""
    output: str = "tiles"
    """Folder that the tiles are written to: a new or an empty one."""

    @property
    def tiling(self) -> TilingConfig:
        """Size, overlap and padding of the tiles."""
        return TilingConfig(tile_size=self.tile_size, overlap=self.overlap, pad_mode=self.pad_mode)

    def _check(self) -> None:
        _ = self.tiling  # which says what is wrong


TRAIN_AND_VALID = SplitConfig(names=_TWO[0], shares=_TWO[1])
"""How data is split for training where no validation data is given."""


class StatsConfig(Config):
    """What is shown of a dataset."""

    output: str | None = None
    """Folder for the numbers (JSON, CSV), the chart and the sheets (PNG), new or empty; None to only
    print a table."""
    chart: bool = True
    """Whether a bar chart of the counts per split is drawn; needs matplotlib."""
    sheet_images: Annotated[int, Field(ge=0, le=1000)] = 24
    """Most images on the contact sheet of a split; 0 for no sheets."""
    sheet_columns: Annotated[int, Field(ge=1, le=20)] = 3
    """Images in a row of a contact sheet, each with its mask and an overlay."""
    thumb_px: Annotated[int, Field(ge=32, le=2048)] = 256
    """Longer side of a picture on a contact sheet."""


Digest: TypeAlias = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""SHA-256 of a file's bytes."""

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")


class TileOrigin(Config):
    """Where a tile was cut from."""

    image: str
    """Name of the source image."""
    digest: Digest
    """Digest of its file."""
    height: Count
    """Its size in px."""
    width: Count
    """Its size in px."""
    scale: Annotated[float, Field(gt=0, le=1)]
    """Factor by which it was shrunk before it was cut."""
    y: Annotated[int, Field(ge=0)]
    """First row and column of the tile in the shrunk image."""
    x: Annotated[int, Field(ge=0)]
    """First row and column of the tile in the shrunk image."""
    thumbnail: bool = False
    """Whether the tile is the whole image."""


class Record(ReadConfig, MaskConfig):
    """An image and its masks in a manifest."""

    name: str
    """Its name in messages and in the names of its tiles: one plain component of a path."""
    image: str
    """Path of the image, relative to the manifest, with ``/``."""
    masks: Annotated[Names, Field(min_length=1)]
    """Paths of its masks, likewise."""
    group: str
    """Its group: images of one group are in one split."""
    split: str = ""
    """The split that it belongs to, one plain component of a path; empty before there is one."""
    height: Count
    """Size in px."""
    width: Count
    """Size in px."""
    foreground: Share
    """Share of the px that are foreground, in [0, 1]."""
    digest: Digest
    """Digest of the image's file."""
    mask_digests: Annotated[tuple[Digest, ...], as_numbers]
    """Digests of the masks' files, in their order."""
    mask_found: str = ""
    """What the values of the masks were taken for."""
    ignored: Share = 0.0
    """Share of the px that do not count, in [0, 1]."""
    class_shares: Annotated[tuple[Share, ...], as_numbers] = ()
    """Share of the px of each class from 1 on, in [0, 1]; empty where the mask has one class."""
    origin: TileOrigin | None = None
    """Where it was cut from, if it is a tile."""

    @property
    def source(self) -> str:
        """Digest of the image that its px come from."""
        return self.digest if self.origin is None else self.origin.digest

    def _check(self) -> None:
        super()._check()
        # tiles are written to folders and files of these names
        for part in self.name.split("/"):  # of images in several folders
            check_component(part, "name", "Rename the file, or write the manifest again.")
        if self.split:
            check_component(self.split, "split", "Name splits as in train, valid, test.")
        for path in (self.name, self.image, *self.masks):
            if any("\ud800" <= mark <= "\udfff" for mark in path):
                raise invalid(
                    FileError,
                    self.name,
                    must="be a name in UTF-8",
                    got=path,
                    fix="Rename the file.",
                )
        for path in (self.image, *self.masks):
            if not path or _ABSOLUTE.match(path):
                raise invalid(
                    FileError,
                    self.name,
                    must="have paths relative to the manifest",
                    got=path,
                    fix="Write the manifest with tiledseg split, on the disk of the data.",
                )
        if len(self.masks) != len(self.mask_digests):
            raise invalid(
                FileError,
                self.name,
                must=f"have {len(self.masks)} mask digests",
                got=len(self.mask_digests),
                fix="Write the manifest again.",
            )
