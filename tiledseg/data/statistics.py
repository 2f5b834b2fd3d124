"""Counts, sizes and foreground of each split of a dataset."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tiledseg._notebook import aligned, paragraph, table
from tiledseg._storage import csv_text, write_text
from tiledseg._validate import counted, listed, shown
from tiledseg.data.manifest import as_records, ordered_splits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import PathLike
    from tiledseg.config import Record

_MOST_SIZES = 4
_TITLES = ("split", "images", "groups", "Mpx", "foreground", "per image", "empty", "sizes")


@dataclass(frozen=True, slots=True)
class SplitStatistics:
    """Statistics of a split."""

    split: str  # its name; ``all`` for the whole dataset
    images: int  # number of images
    groups: int  # number of groups
    pixels: int  # px of all images
    foreground: float  # share of all px that are foreground, in [0, 1]
    foreground_mean: float  # mean share of an image
    foreground_least: float  # least share of an image
    foreground_most: float  # largest share of an image
    empty: int  # number of images without foreground
    sizes: dict[str, int]  # number of images by size, as in 1920x2560 (height first), most frequent first
    ignored: float = 0.0  # share of all px that do not count, in [0, 1]
    masks: dict[str, int] = field(default_factory=dict)  # what the values of masks were taken for
    class_shares: tuple[float, ...] = ()  # share of all px of each class from 1 on; empty of one class


@dataclass(frozen=True, slots=True, repr=False)
class DatasetStatistics:
    """Statistics of a dataset.

    Attributes
    ----------
    splits : tuple of SplitStatistics
        One for each split: train, valid and test, then others, the largest first.
    total : SplitStatistics
        All together.
    """

    splits: tuple[SplitStatistics, ...]
    total: SplitStatistics

    def __repr__(self) -> str:
        images, groups = counted(self.total.images, "image"), counted(self.total.groups, "group")
        return f"DatasetStatistics({images}, {groups}, {len(self.splits)} splits)"

    def _repr_html_(self) -> str:
        return table(_TITLES, (_cells(one) for one in self._rows())) + "".join(map(paragraph, self._notes()))

    def __str__(self) -> str:
        lines = aligned([_TITLES, *map(_cells, self._rows())], left=(0, len(_TITLES) - 1))
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *self._notes()])

    def _notes(self) -> list[str]:
        """Say what masks were taken for, and how many px do not count."""
        found = [f"masks: {_sizes(self.total.masks, _MOST_SIZES)}"] if self.total.masks else []
        for one in self._rows() if self.total.class_shares else ():
            shares = ", ".join(f"{label}: {share:.2%}" for label, share in enumerate(one.class_shares, 1))
            found.append(f"classes of {shown(one.split)}: {shares}")
        return found + ([f"ignored: {self.total.ignored:.2%} of the px"] if self.total.ignored else [])

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, as they are written as JSON.

        Returns
        -------
        dict
            ``splits``, a list with the numbers of each split, and ``total``.
        """
        return {"splits": [asdict(one) for one in self.splits], "total": asdict(self.total)}

    def to_json(self, path: PathLike) -> None:
        """Write all numbers as JSON.

        Parameters
        ----------
        path : path
            The target.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def to_csv(self, path: PathLike) -> None:
        """Write one line per split, and one for all, as CSV.

        Parameters
        ----------
        path : path
            The target.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        rows = [_as_row(one) for one in self._rows()]
        write_text(path, csv_text(rows[0], rows))

    def _rows(self) -> tuple[SplitStatistics, ...]:
        return (*self.splits, self.total) if len(self.splits) > 1 else self.splits


def statistics_of(records: Sequence[Record]) -> DatasetStatistics:
    """Count the images of a dataset, their px and their foreground.

    Parameters
    ----------
    records : sequence of Record
        Its images, at least one.

    Returns
    -------
    DatasetStatistics
        By split, and all together.

    Raises
    ------
    SettingError
        If there is no record.
    """
    known = as_records(records)
    splits: dict[str, list[Record]] = {}
    for record in known:
        splits.setdefault(record.split, []).append(record)
    ordered = ordered_splits(record.split for record in known)
    return DatasetStatistics(tuple(_summed(split, splits[split]) for split in ordered), _summed("all", known))


def _summed(split: str, records: Sequence[Record]) -> SplitStatistics:
    areas = [record.height * record.width for record in records]
    shares = [record.foreground for record in records]
    counted = [area * (1 - record.ignored) for area, record in zip(areas, records, strict=True)]
    sizes = Counter(f"{record.height}x{record.width}" for record in records)
    return SplitStatistics(
        split=split or "all",
        images=len(records),
        groups=len({record.group for record in records}),
        pixels=sum(areas),
        foreground=sum(px * share for px, share in zip(counted, shares, strict=True)) / max(1, sum(counted)),
        foreground_mean=sum(shares) / len(shares),
        foreground_least=min(shares),
        foreground_most=max(shares),
        empty=shares.count(0),
        sizes=dict(sizes.most_common()),
        ignored=1 - sum(counted) / sum(areas),
        class_shares=_class_shares(counted, records),
        masks=dict(Counter(record.mask_found for record in records if record.mask_found).most_common()),
    )


def _class_shares(areas: Sequence[float], records: Sequence[Record]) -> tuple[float, ...]:
    """Return the share of each class in all px that count; a record of one class has its foreground."""
    shares = [one.class_shares or (one.foreground,) for one in records]
    n_classes = max(map(len, shares))
    if n_classes < 2:
        return ()
    sums = [0.0] * n_classes
    for area, found in zip(areas, shares, strict=True):
        for label, share in enumerate(found):
            sums[label] += area * share
    return tuple(px / max(1, sum(areas)) for px in sums)


def _cells(one: SplitStatistics) -> tuple[str, ...]:
    return (
        shown(one.split),
        str(one.images),
        str(one.groups),
        f"{one.pixels / 1e6:.1f}",
        f"{one.foreground:.2%}",
        f"{one.foreground_least:.1%} to {one.foreground_most:.1%}",
        str(one.empty),
        _sizes(one.sizes, _MOST_SIZES),
    )


def _sizes(sizes: dict[str, int], most: int) -> str:
    return listed([f"{count} of {size}" for size, count in sizes.items()], most)


def _as_row(one: SplitStatistics) -> dict[str, object]:
    counts = {"sizes": one.sizes, "masks": one.masks}
    return asdict(one) | {name: _sizes(values, len(values)) for name, values in counts.items()}
