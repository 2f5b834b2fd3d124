"""Measure how large and how complex the package is for a reader: ``python -m benchmarks.shape [ROOT]``.

Files and lines; the length of function bodies without docstrings; import circles, typing imports
included; modules with at most one importer; lines of docstrings of names that are not public; and the
files and functions that the simplest prediction runs through.
"""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TypeAlias

_Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_CALL = """
import sys, numpy, tiledseg
def fn(tiles):
    return tiles[..., :1] / 255
image = numpy.zeros((700, 900, 3), numpy.uint8)
tiledseg.tiled_predict(fn, image)
codes = set()
def see(frame, event, arg):
    if event == "call" and "/tiledseg/" in frame.f_code.co_filename:
        codes.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))
import threading
threading.setprofile(see)
sys.setprofile(see)
tiledseg.tiled_predict(fn, image)
sys.setprofile(None)
print(len({name for name, _ in codes}), len(codes))
"""


def modules_of(root: Path) -> dict[str, Path]:
    """Name the modules of the package below a folder."""
    names = {}
    for path in sorted((root / "tiledseg").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(tree: ast.Module, known: set[str]) -> set[str]:
    """List the modules of the package that a module imports, for typing alone as well."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or {node.module}
    return found & known


def circles_of(graph: dict[str, set[str]]) -> list[list[str]]:
    """Find the strongly connected groups of at least two modules (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            groups.append(stack[at:])
            del stack[at:]

    sys.setrecursionlimit(10_000)
    for name in graph:
        if name not in index:
            visit(name)
    return [sorted(group) for group in groups if len(group) > 1]


def docstring_lines(node: _Definition) -> int:
    """Count the lines of a definition's docstring."""
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return (first.end_lineno or first.lineno) - first.lineno + 1


def body_lines(node: _Definition) -> int:
    """Count the lines of a definition's body without its docstring."""
    start = node.body[0].lineno
    return (node.end_lineno or start) - start + 1 - docstring_lines(node)


def public_names(root: Path) -> set[str]:
    """List the names in the reference, without their package."""
    pages = [root / "docs" / "reference.md", *(root / "docs" / "reference").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    return {name.rpartition(".")[2] for name in re.findall(r"^   ([\w.]+)$", text, re.MULTILINE)}


def internal_docstrings(tree: ast.Module, public: set[str]) -> int:
    """Count the lines of docstrings in a module whose names, or whose class' names, are not public."""
    lines = 0
    for top in tree.body:
        if isinstance(top, (*_FUNCTIONS, ast.ClassDef)):
            inside = [node for node in ast.walk(top) if isinstance(node, (*_FUNCTIONS, ast.ClassDef))]
            hidden = [node for node in inside if top.name not in public or _is_private(node.name)]
            lines += sum(map(docstring_lines, hidden))
    return lines


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def main(root: Path) -> None:
    """Print the figures of a checkout."""
    paths = modules_of(root)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    known = set(paths)
    graph = {name: imports_of(tree, known) - {name} for name, tree in trees.items()}
    importers: dict[str, set[str]] = defaultdict(set)
    for name, others in graph.items():
        for other in others:
            importers[other].add(name)
    modules = [name for name, path in paths.items() if path.name not in {"__init__.py", "__main__.py"}]
    lonely = [
        name
        for name in modules
        if len([one for one in importers[name] if one != name.rpartition(".")[0]]) < 2
    ]
    bodies = sorted(
        body_lines(node) for tree in trees.values() for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)
    )
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in paths.items()}
    public = public_names(root)
    circles = circles_of(graph)
    code = subprocess.run(
        [sys.executable, "-c", _CALL], cwd=root, capture_output=True, text=True, check=True, env=_env(root)
    )
    files, functions = code.stdout.split()
    print(f"files                              {len(paths)}")
    print(f"lines                              {sum(lines.values())}")
    print(f"longest module                     {max(lines.values())} ({max(lines, key=lines.__getitem__)})")
    print(
        f"function body, median and 90 %     {statistics.median(bodies):g}, {bodies[len(bodies) * 9 // 10]}"
    )
    print(f"functions above 45 lines           {sum(length > 45 for length in bodies)}")
    print(f"import circles                     {len(circles)}")
    for circle in circles:
        print(f"    {', '.join(circle)}")
    print(f"modules with at most one importer  {len(lonely)} of {len(modules)}")
    print(f"lines of internal docstrings       {sum(internal_docstrings(t, public) for t in trees.values())}")
    print(f"public names                       {len(public)}")
    print(f"files, functions of one prediction {files}, {functions}")


def _env(root: Path) -> dict[str, str]:

    return os.environ | {"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
