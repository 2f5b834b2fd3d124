"""The command: ``python -m benchmarks [--quick] [--list] [name ...]``."""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._fresh import call_fresh
from benchmarks._machine import Bystanders, load, machine
from benchmarks._rows import Row, show

_NAMES = (
    "stitching",
    "fast",
    "onnx",
    "memory",
    "tile_memory",
    "streaming",
    "flat",
    "objects",
    "exports",
    "stardist",
    "scaling",
    "augmentation",
    "exactness",
    "architectures",
    "training",
    "steps",
    "imports",
    "gpu",
)
_HERE = Path(__file__).parent


def main() -> int:
    """Run the requested benchmarks, print and store their results; return 1 if one of them failed."""
    options = _options()
    if options.list:
        print("\n\n".join(f"{name}: {_docstring(name)}" for name in options.names))
        return 0
    about = machine() | {"started": time.strftime("%Y-%m-%dT%H-%M-%S"), "quick": options.quick}
    about["load_before"] = load()
    about["others_cores"] = {}
    results = {}
    for name in options.names:
        with Bystanders() as others:
            results[name] = _rows(name, options)
        about["others_cores"][name] = round(others.cores, 2)
    about["load_after"] = load()
    ran = {name: rows for name, rows in results.items() if rows}
    show(ran, _headline(about), about["others_cores"])
    print(_stored(about, ran))
    return int(len(ran) < len(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, side by side.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"all, or some of {', '.join(_NAMES)}")
    parser.add_argument("--quick", action="store_true", help="less data, fewer rounds: a test that it runs")
    parser.add_argument("--only", metavar="PATTERN", help="of `onnx`: the networks of these names, as smp*")
    parser.add_argument("--resume", action="store_true", help="of `onnx`: take what an earlier run finished")
    parser.add_argument("--list", action="store_true", help="say what is measured, how, and the targets")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in _NAMES]
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(_NAMES)}")
    if (options.only or options.resume) and options.names != ["onnx"]:
        parser.error("--only and --resume are options of onnx: python -m benchmarks onnx --only 'smp*'")
    options.names = options.names or list(_NAMES)
    return options


def _docstring(name: str) -> str | None:
    """Read a benchmark's description without loading the libraries that it compares."""
    return ast.get_docstring(ast.parse((_HERE / f"{name}.py").read_text()))


def _rows(name: str, options: argparse.Namespace) -> list[Row]:
    """Run one benchmark; return no rows if it failed: its traceback is on the console."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    more = {"resume": options.resume, "only": options.only or "*"} if name == "onnx" else {}
    try:
        rows = call_fresh(f"benchmarks.{name}:run", quick=options.quick, **more)
        return [Row.from_dict(row) for row in rows]
    except subprocess.CalledProcessError:
        return []


def _headline(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    return (
        f"{about['processor']}, {about['cores']} cores, {about['memory_gb']} GB, load "
        f"{about['load_before']:.2f} before and {about['load_after']:.2f} after"
        f"{', quick' if about['quick'] else ''}\nPython {about['python']}, {versions}"
    )


def _stored(about: dict[str, Any], results: dict[str, list[Row]]) -> Path:
    """Write the results beside the benchmarks, and return the path."""
    path = _HERE / "results" / f"{about['started']}.json"
    path.parent.mkdir(exist_ok=True)
    stored = {name: [row.as_dict() for row in rows] for name, rows in results.items()}
    path.write_text(json.dumps({"about": about, "results": stored}, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
