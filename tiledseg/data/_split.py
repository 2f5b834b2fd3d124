"""Splitting a dataset: the same images get the same splits, on any machine and in any order."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from tiledseg._validate import instance_of, invalid
from tiledseg.config import SplitConfig
from tiledseg.data._groups import grouped
from tiledseg.data._records import as_records
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiledseg.config import Record

__all__ = ["split_records"]

_MOST_TRIED = 300  # groups: all pairs of more take too long, and more even out by themselves
_MOST_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class _Group:
    """Images that stay together."""

    name: str  # the group's name
    size: int  # number of images
    foreground: float  # sum of their foreground shares
    lot: bytes  # what chance gave it: a digest of seed and name, so that no order plays a part

    @property
    def mean(self) -> float:
        """Mean foreground share of its images."""
        return self.foreground / self.size


def split_records(records: Sequence[Record], config: SplitConfig) -> list[Record]:
    """Split records by groups, stratified by foreground share.

    Each split is given a whole number of images that is its share rounded by largest remainder.
    Where each image is a group, it gets exactly these; else groups, the largest first, go where
    most is missing, and are then exchanged as long as that brings the numbers, and after them the
    foreground shares, nearer to what they should be.

    Parameters
    ----------
    records : sequence of Record
        The records; what their groups and splits were plays no part.
    config : SplitConfig
        Names and shares of the splits, what stays together, and the seed.

    Returns
    -------
    list of Record
        The records, in their order, with group and split.

    Raises
    ------
    SettingError
        If a split would get no image, there are fewer groups than splits, or either is none.

    Notes
    -----
    The outcome depends on the names of the images, their foreground shares, which of them are
    copies, and the settings; on no order, path, locale or generator of random numbers.
    """
    instance_of(SplitConfig, config, "config")
    with_groups = grouped(as_records(records), config)
    groups = _groups(with_groups, config.seed)
    quotas = _quotas(len(with_groups), config)
    if len(groups) < len(quotas):
        raise invalid(
            SettingError,
            "group_by",
            must=f"leave at least one group for each of the {len(quotas)} splits",
            got=f"{len(groups)} groups of {len(with_groups)} images",
            fix="Group more finely, or use fewer splits.",
        )
    ordered = _ordered(groups, config)
    places = _first_choice(ordered, quotas)
    if any(group.size > 1 for group in groups) and len(groups) <= _MOST_TRIED:
        places = _Exchange(ordered, places, quotas, level=config.stratify).settled()
    splits = {group.name: config.names[place] for group, place in zip(ordered, places, strict=True)}
    return [record.changed(split=splits[record.group]) for record in with_groups]


def _groups(records: Iterable[Record], seed: int) -> list[_Group]:
    shares: dict[str, list[float]] = {}
    for record in records:
        shares.setdefault(record.group, []).append(record.foreground)
    return [
        _Group(name, len(some), sum(sorted(some)), _lot(name, seed)) for name, some in sorted(shares.items())
    ]


def _lot(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()


def _quotas(n_images: int, config: SplitConfig) -> list[int]:
    """Round the shares to whole images, by largest remainder."""
    total = sum(config.shares)
    wanted = [n_images * share / total for share in config.shares]
    quotas = [int(number + 1e-9) for number in wanted]
    remainders = sorted(range(len(wanted)), key=lambda place: (quotas[place] - wanted[place], place))
    for place in remainders[: n_images - sum(quotas)]:
        quotas[place] += 1
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
    """Order groups: the largest first; among alike ones by foreground, mixed within short stretches.

    A stretch is as long as it takes for the smallest split to get one group out of it.
    """
    if not config.stratify:
        return sorted(groups, key=lambda group: (-group.size, group.lot))
    by_share = sorted(groups, key=lambda group: (-group.size, group.mean, group.lot))
    stretch = math.ceil(sum(config.shares) / min(config.shares))
    keys = [(-group.size, place // stretch, group.lot) for place, group in enumerate(by_share)]
    return [by_share[place] for place in sorted(range(len(groups)), key=keys.__getitem__)]


def _first_choice(groups: Sequence[_Group], quotas: Sequence[int]) -> list[int]:
    """Give each group in turn to the split that is furthest behind its quota and has room for it."""
    counts, total, done = [0] * len(quotas), sum(quotas), 0
    places: list[int] = []
    for left, group in zip(range(len(groups), 0, -1), groups, strict=True):
        done += group.size
        empty = [place for place, count in enumerate(counts) if count == 0]
        room = [place for place, count in enumerate(counts) if count + group.size <= quotas[place]]
        if left <= len(empty):
            place = max(empty, key=lambda one: quotas[one])
        elif room:
            place = max(room, key=lambda one: quotas[one] * done / total - counts[one])
        else:
            place = max(range(len(quotas)), key=lambda one: quotas[one] - counts[one])
        counts[place] += group.size
        places.append(place)
    return places


class _Exchange:
    """Moves and swaps groups between splits as long as that brings them nearer to what they should be."""

    def __init__(
        self, groups: Sequence[_Group], places: list[int], quotas: Sequence[int], *, level: bool
    ) -> None:
        self._groups, self._places, self._quotas = groups, list(places), quotas
        self._counts, self._members = [0] * len(quotas), [0] * len(quotas)
        self._foreground = [0.0] * len(quotas)
        self._mean = sum(group.foreground for group in groups) / sum(quotas) if level else None
        for group, place in zip(groups, places, strict=True):
            self._add(group, place, 1)

    def settled(self) -> list[int]:
        """Exchange until nothing gets better."""
        for _ in range(_MOST_ROUNDS):
            tried = [self._moved(one) for one in range(len(self._groups))]
            tried += [self._swapped(*two) for two in combinations(range(len(self._groups)), 2)]
            if not any(tried):
                break
        return self._places

    def _moved(self, one: int) -> bool:
        goals = [place for place in range(len(self._quotas)) if place != self._places[one]]
        return any(self._members[self._places[one]] > 1 and self._kept({one: place}) for place in goals)

    def _swapped(self, one: int, other: int) -> bool:
        if self._places[one] == self._places[other]:
            return False
        return self._kept({one: self._places[other], other: self._places[one]})

    def _kept(self, new: dict[int, int]) -> bool:
        """Put groups into other splits, and back unless all is nearer to what it should be."""
        old = {one: self._places[one] for one in new}
        involved = {*old.values(), *new.values()}
        before = self._distance(involved)
        self._put(new)
        if self._distance(involved) < before:
            return True
        self._put(old)
        return False

    def _put(self, new: dict[int, int]) -> None:
        for one, place in new.items():
            self._add(self._groups[one], self._places[one], -1)
            self._add(self._groups[one], place, 1)
            self._places[one] = place

    def _add(self, group: _Group, place: int, times: int) -> None:
        self._counts[place] += times * group.size
        self._members[place] += times
        self._foreground[place] += times * group.foreground

    def _distance(self, places: Iterable[int]) -> tuple[int, float]:
        """Say how far splits are from their quotas, and then from the mean foreground share."""
        numbers, shares = 0, 0.0
        for place in places:
            numbers += abs(self._counts[place] - self._quotas[place])
            if self._mean is not None:
                shares += abs(self._foreground[place] - self._counts[place] * self._mean)
        return numbers, round(shares, 9)  # so that no rounding error looks like a gain
