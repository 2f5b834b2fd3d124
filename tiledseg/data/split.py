"""Splits of a dataset: the same images get the same splits, on any machine and in any order."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import counted, invalid, settings_of, shown
from tiledseg.config import TRAIN_AND_VALID, SplitConfig
from tiledseg.data.manifest import as_records, read_records
from tiledseg.data.pairs import as_pairs, natural
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tiledseg._types import PathLike
    from tiledseg.config import Record
    from tiledseg.data.pairs import Pair, PairLike

_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>\D*)")
_MOST_TRIED = 300  # groups: all pairs of more take too long, and more groups even out by themselves
_MOST_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class _Group:
    """Images that stay together."""

    name: str  # the group's name
    size: int  # number of images
    foreground: float  # sum of their foreground shares
    rank: bytes  # random order, a digest of seed and name: the order of records has no influence

    @property
    def mean(self) -> float:
        """Mean foreground share of its images."""
        return self.foreground / self.size


def split_records(records: Sequence[Record], config: SplitConfig | dict[str, Any]) -> list[Record]:
    """Split records by groups, stratified by foreground share.

    Each split has a quota: its share of the images, rounded by largest remainder. Where each image
    is a group, the split gets exactly its quota. Otherwise groups, the largest first, go to the split
    that is furthest behind. They are then moved and swapped as long as this brings the numbers of
    images, and after them the foreground shares, nearer to what they should be.

    Parameters
    ----------
    records : sequence of Record
        The records; their present groups and splits are ignored.
    config : SplitConfig or dict
        Names and shares of the splits, or a fold of a cross-validation, what stays together, and the seed.

    Returns
    -------
    list of Record
        The records, in their order, with group and split.

    Raises
    ------
    SettingError
        If ``folds`` are given without a ``fold``, a split would get no image, there are fewer groups
        than splits, or an argument is of another type.

    Notes
    -----
    The result depends only on the names of the images, their foreground shares, which of them are
    copies, and the settings; not on order, paths, locale or a generator of random numbers.
    """
    config = settings_of(SplitConfig, config, "config", optional=False)
    if config.folds is None:
        return _split(as_records(records), config)
    if config.fold is None:
        must, fix = (
            f"be given with folds={config.folds}",
            "Set fold=1, for example; tiledseg split and split_folds make all of them.",
        )
        raise invalid(SettingError, "fold", must=must, got=None, fix=fix)
    return split_folds(records, config)[config.fold - 1]


def split_folds(records: Sequence[Record], config: SplitConfig | dict[str, Any]) -> list[list[Record]]:
    """Split records for cross-validation: each image is in the split valid of one fold.

    The folds are equal shares of the images, made as by `split_records`: groups are never divided.

    Parameters
    ----------
    records : sequence of Record
        The records; their present groups and splits are ignored.
    config : SplitConfig or dict
        How many ``folds``, what stays together, and the seed.

    Returns
    -------
    list of list of Record
        For each fold all records, in their order: those of the fold are in the split valid, the
        others in the split train.

    Raises
    ------
    SettingError
        If ``folds`` is missing or larger than the number of groups, or an argument is of another type.
    """
    config = settings_of(SplitConfig, config, "config", optional=False)
    if config.folds is None:
        fix = "Set for example folds=5."
        raise invalid(SettingError, "folds", must="be given for cross-validation", got=None, fix=fix)
    names = tuple(f"fold_{number}" for number in range(1, config.folds + 1))
    parts = config.changed(names=names, shares=(1,) * config.folds, folds=None, fold=None)
    placed = _split(as_records(records), parts)
    train, valid = TRAIN_AND_VALID.names
    return [[one.changed(split=valid if one.split == name else train) for one in placed] for name in names]


def _check_enough(groups: int, images: int, parts: int) -> None:
    """Check that no part stays empty."""
    if images < parts:
        must = f"be at least {parts} images, one for each part"
        fix = "Give more, ask for fewer splits or folds, or train with validation data of your own."
        raise invalid(SettingError, "images", must=must, got=images, fix=fix)
    if groups < parts:
        must = f"leave at least one group for each of the {parts} parts"
        got = f"{counted(groups, 'group')} of {images} images"
        fix = "Group more finely, or use fewer splits or folds."
        raise invalid(SettingError, "group_by", must=must, got=got, fix=fix)


def _split(records: Sequence[Record], config: SplitConfig) -> list[Record]:
    """Split records by their shares."""
    with_groups = _grouped(records, config)
    groups = _groups(with_groups, config.seed)
    _check_enough(len(groups), len(with_groups), len(config.names))
    quotas = _quotas(len(with_groups), config)
    ordered = _ordered(groups, config)
    places = _greedy(ordered, quotas)
    if any(group.size > 1 for group in groups) and len(groups) <= _MOST_TRIED:
        places = _LocalSearch(ordered, places, quotas, stratify=config.stratify).improved()
    splits = {group.name: config.names[index] for group, index in zip(ordered, places, strict=True)}
    return [record.changed(split=splits[record.group]) for record in with_groups]


def split_pairs(
    pairs: Sequence[PairLike],
    config: SplitConfig | None,
    folder: PathLike,
    classes: int | None = None,
    *,
    progress: bool = False,
) -> tuple[list[Pair], list[Pair], list[Record]]:
    """Split pairs for training into those to learn from and those to choose the best epoch by."""
    config = config or TRAIN_AND_VALID
    known = as_pairs(pairs, "train")
    missing = [name for name in TRAIN_AND_VALID.names if name not in config.names]
    if missing:
        fix = "Name them so, or give the validation data."
        must = "have the splits train and valid to train without validation data"
        raise invalid(SettingError, "names", must=must, got=", ".join(config.names), fix=fix)
    if any(isinstance(part, np.ndarray) for pair in known for part in (pair.image, pair.mask)):
        must, fix = "be given for images in memory", "Keep some pairs apart: fit(pairs[:-2], pairs[-2:])."
        raise invalid(SettingError, "valid", must=must, got="none", fix=fix)
    records = read_records(known, folder, classes, progress=progress)  # the training tells of the masks
    records = split_records(records, config)
    both = zip(known, records, strict=True)
    split = [(pair, record.split) for pair, record in both]
    train, valid = ([pair for pair, name in split if name == wanted] for wanted in TRAIN_AND_VALID.names)
    return train, valid, records


def _grouped(records: Sequence[Record], config: SplitConfig) -> list[Record]:
    """Set the group of each record; groups that hold identical files are joined."""
    groups = _group_names([record.name for record in records], config)
    joined = _joined((groups[record.name], record.source) for record in records)
    return [record.changed(group=joined[groups[record.name]]) for record in records]


def _group_names(names: Sequence[str], config: SplitConfig) -> dict[str, str]:
    if config.group_by == "image":
        return {name: name for name in names}
    if config.group_by == "regex":
        return {name: group_of(name, config.group_regex) for name in names}
    return dict(_runs(names, config.run_gap))


def group_of(name: str, regex: str | None) -> str:
    """Find the group in an image's name; without a regular expression it is the name itself."""
    if regex is None:
        return name
    match = re.search(regex, name)
    text = match and match[1 if match.re.groups else 0]
    if not text:
        raise invalid(
            SettingError,
            "group_regex",
            must="match every name",
            got=name,
            fix=f"{regex} does not match it: correct the expression, or rename the file.",
        )
    return text


def _runs(names: Sequence[str], gap: int) -> Iterator[tuple[str, str]]:
    """Group names that differ only in their last number, as long as the numbers have no gap."""
    families: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            raise SettingError(
                f"`group_by` is run, but the name `{shown(name)}` has no number. "
                "Rename the file, or group by image or regex."
            )
        families.setdefault((match["before"], match["after"]), []).append((int(match["number"]), name))
    for (before, after), family in families.items():
        for run in _unbroken(sorted(family), gap):
            first, last = run[0][0], run[-1][0]
            label = f"{before}{first}{after}" if first == last else f"{before}{first}-{last}{after}"
            yield from ((name, label) for _, name in run)


def _unbroken(family: list[tuple[int, str]], gap: int) -> Iterator[list[tuple[int, str]]]:
    start = 0
    for index in range(1, len(family) + 1):
        if index == len(family) or family[index][0] - family[index - 1][0] > gap:
            yield family[start:index]
            start = index


def _joined(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join groups that share a digest, and name each after the first of them."""
    parents: dict[str, str] = {}

    def root(group: str) -> str:
        while parents[group] != group:
            parents[group] = parents[parents[group]]
            group = parents[group]
        return group

    owners: dict[str, str] = {}
    for group, digest in links:
        parents.setdefault(group, group)
        first, second = sorted((root(group), root(owners.setdefault(digest, group))), key=natural)
        parents[second] = first
    return {group: root(group) for group in parents}


def _groups(records: Iterable[Record], seed: int) -> list[_Group]:
    shares: dict[str, list[float]] = {}
    for record in records:
        shares.setdefault(record.group, []).append(record.foreground)
    return [
        _Group(name, len(some), sum(sorted(some)), random_rank(name, seed))
        for name, some in sorted(shares.items())
    ]


def random_rank(name: str, seed: int) -> bytes:
    """Return a sort key for a random order that is the same on any machine."""
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()


def _quotas(n_images: int, config: SplitConfig) -> list[int]:
    """Round the shares to whole images, by largest remainder."""
    total = sum(config.shares)
    wanted = [n_images * share / total for share in config.shares]
    quotas = [int(number + 1e-9) for number in wanted]
    remainders = sorted(range(len(wanted)), key=lambda index: (quotas[index] - wanted[index], index))
    for index in remainders[: n_images - sum(quotas)]:
        quotas[index] += 1
    if 0 in quotas:
        raise invalid(
            SettingError,
            "shares",
            must="give every split at least one image",
            got=f"none for {config.names[quotas.index(0)]} of {n_images} images",
            fix="Give it a larger share, use fewer splits, or add images.",
        )
    return quotas


def _ordered(groups: Sequence[_Group], config: SplitConfig) -> list[_Group]:
    """Order groups: the largest first; those of equal size by foreground, shuffled within short stretches."""
    if not config.stratify:
        return sorted(groups, key=lambda group: (-group.size, group.rank))
    by_share = sorted(groups, key=lambda group: (-group.size, group.mean, group.rank))
    stretch = math.ceil(sum(config.shares) / min(config.shares))  # of which the smallest split gets one
    keys = [(-group.size, index // stretch, group.rank) for index, group in enumerate(by_share)]
    return [by_share[index] for index in sorted(range(len(groups)), key=keys.__getitem__)]


def _greedy(groups: Sequence[_Group], quotas: Sequence[int]) -> list[int]:
    """Assign each group in turn to the split that still takes it and is furthest below its share."""
    counts, total, done = [0] * len(quotas), sum(quotas), 0
    places: list[int] = []
    for left, group in zip(range(len(groups), 0, -1), groups, strict=True):
        done += group.size
        empty = [index for index, count in enumerate(counts) if count == 0]
        fitting = [index for index, count in enumerate(counts) if count + group.size <= quotas[index]]
        if left <= len(empty):
            index = max(empty, key=lambda one: quotas[one])
        elif fitting:
            index = max(fitting, key=lambda one: quotas[one] * done / total - counts[one])
        else:
            index = max(range(len(quotas)), key=lambda one: quotas[one] - counts[one])
        counts[index] += group.size
        places.append(index)
    return places


class _LocalSearch:
    """Moves and swaps groups as long as this brings the splits nearer to their quotas and mean foreground."""

    def __init__(
        self, groups: Sequence[_Group], places: list[int], quotas: Sequence[int], *, stratify: bool
    ) -> None:
        self._groups, self._places, self._quotas = groups, list(places), quotas
        self._counts, self._members = [0] * len(quotas), [0] * len(quotas)
        self._foreground = [0.0] * len(quotas)
        self._mean = sum(group.foreground for group in groups) / sum(quotas) if stratify else None
        for group, index in zip(groups, places, strict=True):
            self._add(group, index, 1)

    def improved(self) -> list[int]:
        """Move and swap until nothing improves."""
        for _ in range(_MOST_ROUNDS):
            tried = [self._moved(one) for one in range(len(self._groups))]
            tried += [self._swapped(*two) for two in combinations(range(len(self._groups)), 2)]
            if not any(tried):
                break
        return self._places

    def _moved(self, one: int) -> bool:
        goals = [index for index in range(len(self._quotas)) if index != self._places[one]]
        return any(self._members[self._places[one]] > 1 and self._accepted({one: index}) for index in goals)

    def _swapped(self, one: int, other: int) -> bool:
        if self._places[one] == self._places[other]:
            return False
        return self._accepted({one: self._places[other], other: self._places[one]})

    def _accepted(self, new: dict[int, int]) -> bool:
        """Put groups into other splits, and back if that brings the splits no nearer to their goals."""
        old = {one: self._places[one] for one in new}
        involved = {*old.values(), *new.values()}
        before = self._distance(involved)
        self._put(new)
        if self._distance(involved) < before:
            return True
        self._put(old)
        return False

    def _put(self, new: dict[int, int]) -> None:
        for one, index in new.items():
            self._add(self._groups[one], self._places[one], -1)
            self._add(self._groups[one], index, 1)
            self._places[one] = index

    def _add(self, group: _Group, index: int, times: int) -> None:
        self._counts[index] += times * group.size
        self._members[index] += times
        self._foreground[index] += times * group.foreground

    def _distance(self, places: Iterable[int]) -> tuple[int, float]:
        """Measure how far splits are from their quotas, and then from the mean foreground share."""
        numbers, shares = 0, 0.0
        for index in places:
            numbers += abs(self._counts[index] - self._quotas[index])
            if self._mean is not None:
                shares += abs(self._foreground[index] - self._counts[index] * self._mean)
        return numbers, round(shares, 9)  # a rounding error is no improvement
