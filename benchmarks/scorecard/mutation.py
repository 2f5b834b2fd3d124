"""Whether the tests notice mistakes: changes of the code that a test must catch, and branch coverage."""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.scorecard._processes import _ROOT as ROOT
from benchmarks.scorecard._rows import Figure, Trial, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AREAS = {
    "tiling": (
        ["tiledseg/tiling/*.py"],
        ["tests/test_tiling_*.py", "tests/test_predict.py", "tests/test_engine_keras_graph.py"],
    ),
    "objects": (["tiledseg/objects/*.py"], ["tests/test_objects_*.py", "tests/test_export.py"]),
    "metrics": (["tiledseg/metrics/*.py"], ["tests/test_metrics_*.py", "tests/test_evaluate_results.py"]),
    "checkpoint": (["tiledseg/train/checkpoint.py"], ["tests/test_train_resume.py"]),
    "storage": (["tiledseg/_storage/*.py"], ["tests/test_storage.py", "tests/test_models_bundle.py"]),
}
"""Modules that are changed, and the tests that have to notice; each area's own tests, and what uses it."""

_SECONDS = 300  # of the tests of one change, which may make a loop endless
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


class Site(NamedTuple):
    """A place that can be changed, and how."""

    text: str
    change: Callable[[], None]


def sites(node: ast.AST) -> Iterator[Site]:
    """Find what can be changed in a module: operators, numbers, truth values, min and max, conditions."""
    if isinstance(node, ast.Module):
        for one in node.body:
            if isinstance(one, ast.FunctionDef | ast.ClassDef):
                yield from sites(one)
        return
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _name(node.func) in _TEXT):
        return
    yield from _here(node)
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_comment"}:
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, ast.AST):
                yield from sites(one)


def _here(node: ast.AST) -> Iterator[Site]:
    line = getattr(node, "lineno", 0)
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            other = _OTHER[type(operator)]
            text = f"line {line}: {type(operator).__name__} becomes {other.__name__}"
            yield Site(text, partial(node.ops.__setitem__, place, other()))
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in _OTHER:
        other = _OTHER[type(node.op)]
        text = f"line {line}: {type(node.op).__name__} becomes {other.__name__}"
        yield Site(text, partial(setattr, node, "op", other()))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield Site(f"line {line}: {node.value} becomes {value}", partial(setattr, node, "value", value))
    elif isinstance(node, ast.Name) and node.id in _NAMES and isinstance(node.ctx, ast.Load):
        yield Site(
            f"line {line}: {node.id} becomes {_NAMES[node.id]}", partial(setattr, node, "id", _NAMES[node.id])
        )
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(
        node.test, ast.Compare | ast.BoolOp
    ):
        negated = ast.UnaryOp(ast.Not(), node.test)
        yield Site(f"line {line}: the condition is negated", partial(setattr, node, "test", negated))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def copied(folder: Path) -> Path:
    """Copy the package and its tests."""
    for name in ("tiledseg", "tests", "docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def run_tests(
    folder: Path, tests: list[str], *more: str, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run tests of a copy; the numbers that they draw are the same each time."""
    found = [str(path.relative_to(folder)) for pattern in tests for path in sorted(folder.glob(pattern))]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *more, *found],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3", "CI": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def _survivor(folder: Path, path: Path, number: int, tests: list[str]) -> str | None:
    """Change one place; say which if no test fails."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    site = list(sites(tree))[number]
    site.change()
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    try:
        failed = run_tests(folder, tests, "-x", seconds=_SECONDS).returncode != 0
    except subprocess.TimeoutExpired:
        failed = True
    finally:
        path.write_text(source, encoding="utf-8")
    return None if failed else f"{path.relative_to(folder)} {site.text}"


@row(20, "mutations that the tests notice, and branch coverage")
def mutations(trial: Trial) -> Iterator[Figure]:
    """Change 500 places of tiling, objects, metrics, checkpoint and storage; measure branch coverage."""
    folder = copied(trial.folder / "copy")
    draw = random.Random(trial.seed)
    for area, (modules, tests) in AREAS.items():
        first = run_tests(folder, tests)
        if first.returncode:
            raise RuntimeError(f"the tests of {area} fail without a change: {first.stdout[-2000:]}")
        paths = [path for pattern in modules for path in sorted(folder.glob(pattern))]
        places = [(path, number) for path in paths for number in range(_count(path))]
        drawn = draw.sample(places, min(len(places), trial.count(100)))
        left = [_survivor(folder, path, number, tests) for path, number in drawn]
        survivors = [one for one in left if one]
        noticed = 100 * (1 - len(survivors) / len(drawn))
        yield Figure(
            f"{area}: % of {len(drawn)} mutations noticed",
            round(noticed, 1),
            least=90,
            faults=tuple(survivors),
        )
    yield _coverage(folder, trial)


def _count(path: Path) -> int:
    return sum(1 for _ in sites(ast.parse(path.read_text(encoding="utf-8"))))


def _coverage(folder: Path, trial: Trial) -> Figure:
    """Run all tests, or those of the areas in a short trial, and measure the branches that ran."""
    whole = trial.size >= 1
    tests = ["tests/test_*.py"] if whole else [one for _, some in list(AREAS.values())[:3] for one in some]
    measured = ["tiledseg"] if whole else ["tiledseg/tiling", "tiledseg/objects", "tiledseg/metrics"]
    report = folder / "coverage.json"
    options = [*(f"--cov={one}" for one in measured), "--cov-branch", f"--cov-report=json:{report}"]
    run_tests(folder, tests, *options)
    totals = json.loads(report.read_text(encoding="utf-8"))["totals"]
    what = "% of lines and branches covered" + ("" if whole else ": tiling, objects, metrics")
    return Figure(what, round(totals["percent_covered"], 1), least=95)
