"""``tiledseg stats``, ``tiledseg split`` and ``tiledseg tile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from tiledseg._storage import check_new_folder, check_writable, new_folder, write_text
from tiledseg._validate import counted, invalid
from tiledseg.cli import lazy
from tiledseg.cli.options import Table
from tiledseg.cli.settings import Settings, with_options
from tiledseg.config import TRAIN_AND_VALID, DataConfig, RunConfig, SplitConfig
from tiledseg.errors import FileError, SettingError

if TYPE_CHECKING:
    from tiledseg.config import Record, StatsConfig, TrainConfig
    from tiledseg.data import DatasetStatistics, Manifest, Pair, Survey
    from tiledseg.plots import Rgb

_RUN = RunConfig()
DATA = Table("data", _RUN.data, "Data")
SPLIT = Table("split", SplitConfig(), "Split (not for manifests)", prefix="split-", without=("manifest",))


def split_of(settings: Settings, default: SplitConfig | None = None) -> SplitConfig | None:
    """Return how to split the data; None if neither file nor options say so."""
    if "split" not in settings.given:
        return settings.run.split
    return settings.over(settings.run.split or default or SplitConfig(), "split")


def pairs_in(settings: Settings, table: str) -> list[Pair]:
    """Find the pairs of a table of the settings."""
    return lazy.data.pairs_of(settings.over(getattr(settings.run, table), table))


def dataset(settings: Settings, folder: Path, split: SplitConfig | None) -> Manifest:
    """Find a dataset, describe its files, and split it."""
    data = settings.over(settings.run.data, "data")
    if data.layout == "manifest" and "split" in settings.given:
        raise SettingError(
            f"A manifest is split already; got {', '.join(settings.given['split'])} as well. "
            "To split the data in another way, run tiledseg split on its folders."
        )
    pairs = lazy.data.pairs_of(data)
    if data.layout == "manifest":
        return _chosen(data, {pair.name for pair in pairs})
    records = lazy.data.describe(pairs, folder, progress=settings.progress)
    if split is not None:
        records = lazy.data.split_records(records, split)
    return lazy.data.Manifest(folder, tuple(records))


def _chosen(data: DataConfig, names: set[str]) -> Manifest:
    manifest = lazy.data.Manifest.read(data.path or "")
    records = [record for record in manifest.of(data.split) if record.name in names]
    return lazy.data.Manifest(manifest.folder, tuple(records))


@with_options(DATA, SPLIT, Table("stats", RunConfig().stats, "Statistics"))
def stats(*, settings: Settings) -> int:
    """Show statistics of a dataset."""
    config = settings.over(settings.run.stats, "stats")
    if config.output is not None:
        check_new_folder(config.output)
        if config.chart:
            lazy.plots.new_figure(1, 1)  # raises an error if matplotlib is missing, before files are read
    split = split_of(settings)
    found = _parts(settings) or dataset(settings, Path(), split)
    numbers = lazy.data.statistics_of(found.records)
    settings.say(numbers)
    settings.give(**numbers.to_dict(), output=config.output)
    if config.output is not None:
        with new_folder(config.output) as folder:
            _write(folder, found, numbers, config)
            settings.keep(folder, split=split)
    return 0


def _parts(settings: Settings) -> Manifest | None:
    """Describe the data of training, validation and test, where the file names these and no whole dataset."""
    run, whole = settings.run, DataConfig()
    parts = {"train": run.train_data, "valid": run.valid_data, "test": run.test_data}
    parts = {name: data for name, data in parts.items() if data != whole}
    if settings.given.keys() & {"data", "split"} or run.data != whole or run.split is not None or not parts:
        return None
    records = []
    for name, data in parts.items():
        pairs = lazy.data.pairs_of(data)
        found = lazy.data.describe(pairs, Path(), progress=settings.progress)
        records += [record.changed(split=name) for record in found]
    return lazy.data.Manifest(Path(), tuple(records))


def _write(folder: Path, found: Manifest, numbers: DatasetStatistics, config: StatsConfig) -> None:
    numbers.to_json(folder / "statistics.json")
    numbers.to_csv(folder / "statistics.csv")
    if config.chart:
        lazy.report.write_split_chart(folder / "splits.png", numbers, found.records)
    for split in found.splits if config.sheet_images else ():
        lazy.io.write_image(folder / f"sheet{f'_{split}' if split else ''}.png", _sheet(found, split, config))


def _sheet(found: Manifest, split: str, config: StatsConfig) -> Rgb:
    """Draw images of a split, evenly spaced in the order of their names."""
    records, pairs = found.of(split), found.pairs(split)
    n_shown = min(config.sheet_images, len(records))
    rows = []
    for index in (number * len(records) // n_shown for number in range(n_shown)):
        record = records[index]
        note = f"{record.height}x{record.width} px, {record.foreground:.1%} foreground"
        rows.append(
            lazy.report.mask_row(
                record.name, note, *lazy.data.load_pair(pairs[index]), thumb_px=config.thumb_px
            )
        )
    title = f"{split or 'all'}: {n_shown} of {len(records)} images"
    return lazy.report.contact_sheet(title, rows, columns=config.sheet_columns)


@with_options(DATA, Table("split", SplitConfig(), "Split"))
def split(*, settings: Settings) -> int:
    """Split a dataset, and write a manifest, or one for each fold of a cross-validation."""
    config = split_of(settings) or SplitConfig()
    target = Path(config.manifest)
    folder = check_writable(target.parent, keep=False)
    each = config.folds is not None and config.fold is None
    records = list(dataset(settings, folder, None if each else config).records)
    if each:
        records = _write_folds(target, lazy.data.split_folds(records, config))
    else:
        lazy.data.write_manifest(target, records)
    settings.keep(folder, f"{target.stem}.toml", split=config)
    numbers = lazy.data.statistics_of(records)
    settings.say(numbers)
    settings.give(**numbers.to_dict(), manifest=target, folds=config.folds if each else None)
    return 0


def _write_folds(target: Path, folds: list[list[Record]]) -> list[Record]:
    """Write a manifest for each fold; return the records that are valid in it, for a table of folds."""
    parts = []
    for number, records in enumerate(folds, start=1):
        lazy.data.write_manifest(target.with_stem(f"{target.stem}_{number}"), records)
        unseen = [one for one in records if one.split == TRAIN_AND_VALID.names[1]]
        parts += [one.changed(split=f"fold_{number}") for one in unseen]
    return parts


@with_options(DATA, SPLIT, Table("tiles", RunConfig().tiles, "Tiles"))
def tile(*, settings: Settings) -> int:
    """Cut a dataset into a set of tiles on disk."""
    config = settings.over(settings.run.tiles, "tiles")
    check_new_folder(config.output)
    split = split_of(settings)
    source = dataset(settings, Path(), split)
    tiles = lazy.data.write_tiles(source, config, progress=settings.progress)
    settings.keep(tiles.folder, split=split)
    settings.say(tiles)
    settings.give(folder=tiles.folder, tiles=tiles.tiles, dropped=tiles.dropped)
    return 0


_READING = Table(
    "data", _RUN.data, "Data", without=("images", "masks", "layout", "path", "split", "problems", "verify")
)
_PROBLEMS_SHOWN, _STRIDE, _LARGEST_CROP, _SMALLEST_CROP = 3, 16, 512, 64

_Images = Annotated[str, Parameter(help="Folder of images.")]
_Masks = Annotated[str, Parameter(help="Folder of masks with the same names, or a COCO file.")]
_Output = Annotated[str, Parameter(help="New folder for run.toml and sheet.png.")]


@with_options(_READING, file=False)
def init(images: _Images, masks: _Masks, /, *, output: _Output = "project", settings: Settings) -> int:
    """Look at a dataset, and write settings for it."""
    check_new_folder(output)
    places = {"images": str(Path(images).resolve()), "masks": str(Path(masks).resolve())}
    data = settings.over(_RUN.data, "data").changed(**places)
    found = lazy.data.survey(data)
    settings.say(_problems_of(found))
    if not found.pairs:
        fix = "Give folders whose files have the same names, apart from the suffix."
        raise invalid(FileError, images, must="hold images with masks", got="no pair", fix=fix)
    records = lazy.data.describe(found.pairs, Path(), progress=settings.progress)
    numbers = lazy.data.statistics_of(records)
    settings.say(numbers)
    data = data.changed(problems="skip" if found.problems else "refuse")
    parts = SplitConfig(names=("train", "valid"), shares=(80, 20))
    run = RunConfig(train_data=data, split=parts, train=_training_of(found.pairs, numbers))
    with new_folder(output) as folder:
        write_text(folder / "run.toml", run.to_toml())
        manifest = lazy.data.Manifest(Path(), tuple(records))
        lazy.io.write_image(folder / "sheet.png", _sheet(manifest, "", run.stats))
    settings.say(f"\nLook at {output}/sheet.png, and edit {output}/run.toml. Then:")
    settings.say(f"tiledseg train --config {output}/run.toml")
    problems = [str(one) for one in found.problems]
    settings.give(**numbers.to_dict(), pairs=len(found.pairs), problems=problems, output=output)
    return 0


def _problems_of(found: Survey) -> str:
    """Say how many pairs there are, and what is wrong with the first files that have none."""
    lines = [f"{counted(len(found.pairs), 'pair')}, {counted(len(found.problems), 'problem')}"]
    lines += [f"  {problem}" for problem in found.problems[:_PROBLEMS_SHOWN]]
    more = len(found.problems) - _PROBLEMS_SHOWN
    return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])


def _training_of(pairs: tuple[Pair, ...], numbers: DatasetStatistics) -> TrainConfig:
    """Choose a network and crops that suit the first image, the sizes and the classes of a dataset."""
    with lazy.io.open_image(pairs[0].image, **pairs[0].reading) as image:
        channels, dtype = (*image.shape, 1)[2], cast("Any", image.dtype.name)  # checked by the settings
    sides = [int(side) for size in numbers.total.sizes for side in size.split("x")]
    crop = max(min(_LARGEST_CROP, *sides) // _STRIDE * _STRIDE, _SMALLEST_CROP)
    n_classes = len(numbers.total.class_shares)
    names = ("background", *(f"class {number}" for number in range(1, n_classes + 1)))
    settings = lazy.config
    return settings.TrainConfig(
        network=settings.UNetConfig(
            input_shape=(None, None, channels),
            classes=len(names) if n_classes else 1,
            levels=5,
            base_filters=16,
            base_kernel=3,
        ),
        preprocessing=settings.PreprocessingConfig(dtype=dtype, channels=channels),
        labels=names if n_classes else ("foreground",),
        crop_size=crop,
    )
