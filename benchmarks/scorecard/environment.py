"""The environment: known vulnerabilities of what is installed, and floors that the metadata enforce."""

from __future__ import annotations

import csv
import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks.scorecard._rows import Figure, Trial, good, row

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).resolve().parents[2]
_KNOWN = Path(__file__).with_name("vulnerabilities.csv")  # looked up by hand; a scanner knows more


def requirements(*, development: bool = False) -> Iterator[Requirement]:
    """Give what the package and its extras require; with `development`, its groups too."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))
    tables = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    tables += project["dependency-groups"].values() if development else []
    yield from (Requirement(text) for texts in tables for text in texts if not text.startswith("tiledseg["))


def floor_of(requirement: Requirement) -> Version | None:
    """Return the least version that a requirement takes."""
    floors = [Version(one.version) for one in requirement.specifier if one.operator in {">=", "==", "~="}]
    return max(floors, default=None)


def _installed() -> dict[str, Version]:
    found = {canonicalize_name(one.name): one.version for one in distributions() if one.name}
    return {name: Version(text) for name, text in found.items() if re.match(r"\d", text)}


@row(21, "known vulnerabilities in the environment, and floors of versions in the metadata")
def environment(trial: Trial) -> Iterator[Figure]:  # noqa: ARG001  there is nothing to draw
    known = list(csv.DictReader(_KNOWN.read_text("utf-8").splitlines()))
    installed = _installed()
    open_ = [
        f"{one['package']} {installed[one['package']]}: {one['id']}, fixed in {one['fixed']}: {one['what']}"
        for one in known
        if one["package"] in installed and installed[one["package"]] < Version(one["fixed"])
    ]
    count = sum(one["package"] in installed for one in known)
    yield Figure(
        f"of {count} vulnerabilities of what is installed, open", len(open_), most=0, faults=tuple(open_)
    )
    needed = list(requirements(development=True))
    yield good("requirements with a floor", (None if floor_of(one) else f"{one} has none" for one in needed))
    fixed = {(canonicalize_name(one["package"]), Version(one["fixed"])) for one in known}
    low = [
        f"{need} takes versions before {version}"
        for need in requirements()
        for name, version in sorted(fixed)
        if canonicalize_name(need.name) == name and (floor_of(need) or version) < version
    ]
    yield Figure("floors below a version that fixes a vulnerability", len(low), most=0, faults=tuple(low))
