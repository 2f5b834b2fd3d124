"""Whether the tests notice mistakes: changes of the code that a test must catch, and branch coverage."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import tomllib
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.scorecard._processes import _ROOT as ROOT
from benchmarks.scorecard._rows import Figure, Trial, row
from benchmarks.scorecard._tests import COVERED, CoveringTests, Runner, measure_coverage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

AREAS: dict[str, tuple[list[str], list[str]]] = {
    "tiling": (["tiledseg/tiling/*.py"], ["tiling_*", "predict", "engine_keras_graph", "models_swin_unet"]),
    "objects": (["tiledseg/objects/*.py"], ["objects_*", "export"]),
    "metrics": (["tiledseg/metrics/*.py"], ["metrics_*", "evaluate_results", "models_losses"]),
    "checkpoint": (["tiledseg/train/checkpoint.py"], ["train_checkpoint", "train_resume"]),
    "storage": (["tiledseg/_storage/*.py"], ["storage", "io_write", "models_bundle"]),
}
"""Modules that are changed, and the tests that have to notice; each area's own tests, and what uses it."""

_COUNTS = {
    "branches": ("covered_branches", "num_branches"),
    "statements": ("covered_lines", "num_statements"),
}
_SECONDS, _START = 40, 0.02  # of the tests of one change; for the setup of each
_FOLDER = Path(__file__).with_name("results") / "mutation"
_EQUAL = Path(__file__).with_name("equal.toml")
_OTHER: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_TEXT = {"invalid", "damaged", "counted", "warning", "info", "debug"}  # calls that only make a message
# Keywords that change no result: a check of what is equal anyway (zip), memory (astype, lru_cache)
_UNSEEN = {"strict", "copy", "maxsize"}


class Site(NamedTuple):
    """A place that can be changed, and how."""

    line: int
    begin: int  # first line of the statement that runs it; of a default, of the function's body
    text: str
    change: Callable[[], None]


def sites(node: ast.AST, begin: int = 0) -> Iterator[Site]:
    """Find what can be changed in a module: operators, numbers, truth values, min and max, conditions."""
    if isinstance(node, ast.Module):
        for one in node.body:
            if isinstance(one, ast.FunctionDef | ast.ClassDef):
                yield from sites(one)
        return
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _name(node.func) in _TEXT):
        return
    if isinstance(node, ast.stmt):
        begin = _body(node).lineno if isinstance(node, ast.FunctionDef) else node.lineno
    yield from _here(node, begin)
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_comment"}:
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, ast.AST) and not _is_unseen(one, node):
                yield from sites(one, begin)


def _is_unseen(node: ast.AST, parent: ast.AST) -> bool:
    """Say whether a change changes no result: keywords, and any negative number in `reshape`."""
    if isinstance(node, ast.keyword):
        return node.arg in _UNSEEN
    return isinstance(node, ast.UnaryOp) and isinstance(parent, ast.Call) and _name(parent.func) == "reshape"


def _body(function: ast.FunctionDef) -> ast.stmt:
    """Return the first statement that runs."""
    return function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]


def _here(node: ast.AST, begin: int) -> Iterator[Site]:
    line = getattr(node, "lineno", 0)
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            other = _OTHER[type(operator)]
            text = f"{type(operator).__name__} becomes {other.__name__}"
            yield Site(line, begin, text, partial(node.ops.__setitem__, place, other()))
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in _OTHER:
        other = _OTHER[type(node.op)]
        text = f"{type(node.op).__name__} becomes {other.__name__}"
        yield Site(line, begin, text, partial(setattr, node, "op", other()))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield Site(line, begin, f"{node.value} becomes {value}", partial(setattr, node, "value", value))
    elif isinstance(node, ast.Name) and node.id in _NAMES and isinstance(node.ctx, ast.Load):
        other_name = _NAMES[node.id]
        yield Site(line, begin, f"{node.id} becomes {other_name}", partial(setattr, node, "id", other_name))
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(
        node.test, ast.Compare | ast.BoolOp
    ):
        negated = ast.UnaryOp(ast.Not(), node.test)
        yield Site(line, begin, "the condition is negated", partial(setattr, node, "test", negated))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def copied(folder: Path) -> Path:
    """Copy the package, its tests, and what they read."""
    unwanted = shutil.ignore_patterns("__pycache__", "_build", "results")
    for name in ("tiledseg", "tests", "docs", "examples", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
    return folder


class _Found:
    """Which mutations were noticed: kept in a file, so that a stopped row goes on where it was."""

    def __init__(self, path: Path, tests: str) -> None:
        self._path, self._tests = path, tests
        self._known: dict[str, str | None] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def by(self, mutation: Mutation) -> str | None:
        """Return the test that notices a mutation; of one that none noticed, only if no test has changed."""
        return self._known.get(mutation.key) or self._known.get(mutation.key + self._tests, "")

    def keep(self, mutation: Mutation, test: str | None) -> None:
        """Keep the test that notices a mutation, or that none does."""
        self._known[mutation.key + ("" if test else self._tests)] = test
        self._path.write_text(json.dumps(self._known, indent=0), "utf-8")


class Mutation(NamedTuple):
    """One change of one module."""

    path: Path  # in the copy
    name: str  # from the root
    number: int  # of the site
    place: str  # function or class, and the number of the site in it: a change elsewhere leaves it

    def changed(self) -> tuple[ast.Module, Site]:
        """Return the module with the change, and the change."""
        tree = ast.parse(self.path.read_text("utf-8"))
        site = list(sites(tree))[self.number]
        site.change()
        return ast.fix_missing_locations(tree), site

    @property
    def text(self) -> str:
        """Where it is, and what it does."""
        site = self.changed()[1]
        return f"{self.name} line {site.line}: {site.text}"

    @property
    def key(self) -> str:
        """The function or class as it is with the change: other parts of the module may change."""
        tree, site = self.changed()
        around = max((one for one in tree.body if one.lineno <= site.line), key=lambda one: one.lineno)
        return f"{self.name} {hashlib.sha256(ast.unparse(around).encode()).hexdigest()[:16]} "

    @contextmanager
    def made(self) -> Iterator[None]:
        """Change the module in the block."""
        source, status = self.path.read_text("utf-8"), self.path.stat()
        self.path.write_text(ast.unparse(self.changed()[0]), "utf-8")
        try:
            yield
        finally:
            self.path.write_text(source, "utf-8")
            os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))


class Equal(NamedTuple):
    """Changes that were read and found to change no result, such as the size of a buffer."""

    module: str
    line: str  # as it stands in the module
    change: str
    why: str
    nth: int = 0  # of equal changes in the line, from 1; 0 for all

    @classmethod
    def known(cls) -> list[Equal]:
        """Read the list."""
        return [cls(**one) for one in tomllib.loads(_EQUAL.read_text("utf-8"))["equal"]]

    def places(self, text: str) -> set[int]:
        """Number the sites in the text of the module that are meant."""
        lines = text.splitlines()
        here = [
            number
            for number, one in enumerate(sites(ast.parse(text)))
            if one.text == self.change and lines[one.line - 1].strip() == self.line
        ]
        return set(here if not self.nth else here[self.nth - 1 : self.nth])


def mutations_in(folder: Path, patterns: Sequence[str]) -> list[Mutation]:
    """List the mutations of modules, without those that change no result."""
    found, known = [], Equal.known()
    for path in [path for pattern in patterns for path in sorted(folder.glob(pattern))]:
        text, name = path.read_text("utf-8"), path.relative_to(folder).as_posix()
        owners = [one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef | ast.ClassDef)]
        places = [f"{name} {one.name} {place}" for one in owners for place, _ in enumerate(sites(one))]
        equal = set().union(*(one.places(text) for one in known if one.module == name))
        found += [
            Mutation(path, name, number, place) for number, place in enumerate(places) if number not in equal
        ]
    return found


def drawn_of(places: Sequence[Mutation], count: int, seed: int) -> list[Mutation]:
    """Draw mutations; most are drawn again after a change of the code."""
    return sorted(places, key=lambda one: hashlib.sha256(f"{seed} {one.place}".encode()).digest())[:count]


class _Hunt:
    """Looks for the test that notices a mutation, among those that run its line."""

    def __init__(self, covering: CoveringTests) -> None:
        self._covering = covering
        self._broken: dict[str, bool] = {}  # tests that fail without a change, here

    def noticed(self, runner: Runner, mutation: Mutation, files: Sequence[str]) -> str | None:
        """Return the test that notices a mutation: first among those of the area's own files."""
        site = mutation.changed()[1]
        covering = self._covering.of_lines(mutation.name, range(site.begin, max(site.begin, site.line) + 1))
        own = [one for one in covering if one.partition("::")[0] in files]
        other = [one for one in covering if one not in own]
        for tests in (own, other):
            found = self._first(runner, mutation, self._affordable(tests))
            if found:
                return found
        return None

    def _affordable(self, tests: Sequence[str]) -> list[str]:
        """Take the quickest tests, as many as the time allows."""
        ends = accumulate(self._covering.seconds[one] + _START for one in tests)
        return [one for one, end in zip(tests, ends, strict=True) if end < _SECONDS]

    def _first(self, runner: Runner, mutation: Mutation, tests: list[str]) -> str | None:
        """Return the first test that fails with the change, and passes without it."""
        tests = [one for one in tests if not self._broken.get(one)]
        while tests:
            seconds = sum(self._covering.seconds[one] for one in tests)
            with mutation.made():
                failed = runner.failed(tests, seconds)
            if not failed:
                return None
            name = failed[0]
            if name not in tests:  # the process died, or nothing could be collected
                return name
            if name not in self._broken:
                self._broken[name] = bool(runner.failed([name], seconds))
            if not self._broken[name]:
                return name
            tests.remove(name)
        return None


@row(20, "mutations that the tests notice, and branch coverage")
def mutations(trial: Trial) -> Iterator[Figure]:
    """Change 100 places each of tiling, objects, metrics, storage, all of checkpoint; measure coverage."""
    folder = copied(trial.folder / "copy")
    covering = CoveringTests(_covered(folder, trial.size))
    found = _Found(_FOLDER / "found.json", _digest(folder, "tests"))
    hunt = _Hunt(covering)
    for area, (modules, patterns) in AREAS.items():
        files = [str(path.relative_to(folder)) for one in patterns for path in _named(folder, one)]
        places = mutations_in(folder, modules)
        drawn = drawn_of(places, trial.count(100), trial.seed)
        survivors = []
        with Runner(folder, files) as runner:
            for one in drawn:
                test = found.by(one)
                if test == "":
                    test = hunt.noticed(runner, one, files)
                    found.keep(one, test)
                survivors += [] if test else [one.text]
        noticed = 100 * (1 - len(survivors) / len(drawn))
        what = f"{area}: % of {len(drawn)} mutations noticed, drawn of {len(places)}"
        yield Figure(what, round(noticed, 1), least=90, faults=tuple(survivors))
    whole = trial.size >= 1
    folders = ["tiledseg"] if whole else [patterns[0].partition("*")[0] for patterns, _ in AREAS.values()]
    for what, parts in _COUNTS.items():
        share = covering.share(parts, folders)
        yield Figure(f"% of {what} covered, of {'the package' if whole else 'the areas'}", share, least=95)


def _named(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"tests/test_{name}.py"))


def _digest(folder: Path, *names: str) -> str:
    """Compute the SHA-256 of the Python files in folders."""
    digest = hashlib.sha256()
    for path in [path for name in names for path in sorted((folder / name).rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _covered(folder: Path, size: float) -> Path:
    """Run the tests once to see what they cover, unless they have run; the areas' own in a short trial."""
    own = [one for _, some in AREAS.values() for one in some]
    tests = [] if size >= 1 else [str(path) for one in own for path in _named(folder, one)]
    place = _FOLDER / f"{_digest(folder, 'tiledseg', 'tests')}-{'all' if size >= 1 else 'own'}"
    if not all((place / name).is_file() for name in COVERED):
        place.mkdir(parents=True, exist_ok=True)
        measure_coverage(folder, place, tests)
    return place
