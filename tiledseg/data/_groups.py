"""Which images stay together when a dataset is split."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tiledseg._validate import invalid
from tiledseg.data._pairs import natural
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tiledseg.config import Record, SplitConfig

__all__ = ["grouped"]

_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>\D*)")


def grouped(records: Sequence[Record], config: SplitConfig) -> list[Record]:
    """Name the group of each record, from its name.

    Images whose files are the same to the byte get one group, and so do all whose groups they
    tie together: no split can then tear them apart.
    """
    groups = _groups_of([record.name for record in records], config)
    tied = _tied((groups[record.name], record.source) for record in records)
    return [record.changed(group=tied[groups[record.name]]) for record in records]


def _groups_of(names: Sequence[str], config: SplitConfig) -> dict[str, str]:
    if config.group_by == "image":
        return {name: name for name in names}
    if config.group_by == "regex":
        return {name: _found(name, config.group_regex or "") for name in names}
    return dict(_runs(names, config.run_gap))


def _found(name: str, regex: str) -> str:
    match = re.search(regex, name)
    text = match and match[1 if match.re.groups else 0]
    if not text:
        raise invalid(
            SettingError,
            "group_regex",
            must="find the group in every name",
            got=name,
            fix=f"{regex} finds nothing there: mend it, or rename the file.",
        )
    return text


def _runs(names: Sequence[str], gap: int) -> Iterator[tuple[str, str]]:
    """Group names that are alike but for their last number, where that goes on without a gap."""
    families: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            raise invalid(
                SettingError,
                "group_by",
                must="be image or regex where a name has no number",
                got=name,
                fix="Rename the file, or group in another way.",
            )
        families.setdefault((match["before"], match["after"]), []).append((int(match["number"]), name))
    for (before, after), family in families.items():
        for run in _unbroken(sorted(family), gap):
            first, last = run[0][0], run[-1][0]
            label = f"{before}{first}{after}" if first == last else f"{before}{first}-{last}{after}"
            yield from ((name, label) for _, name in run)


def _unbroken(family: list[tuple[int, str]], gap: int) -> Iterator[list[tuple[int, str]]]:
    start = 0
    for place in range(1, len(family) + 1):
        if place == len(family) or family[place][0] - family[place - 1][0] > gap:
            yield family[start:place]
            start = place


def _tied(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name each group after the first of those that shared digests tie it to."""
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
